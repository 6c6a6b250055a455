//! The verdict of a guardrail: the evidence against its thresholds. Pure.

use super::record::{JudgedGuardrail, RolloutRecord, judgement};
use crate::api::rollout::GuardrailVerdict;

/// Accepted probability that a version that is not worse is rolled back, over the whole rollout and all guardrails.
pub const FALSE_ROLLBACKS: f64 = 0.01;

/// Evidence at which a guardrail lets the version advance: a version at the margin gets there with a probability of at most
/// 1 in 20.
pub const NOT_WORSE_AT: f64 = 20.0;

/// Evidence at which a guardrail rolls the version back. The weights divide the accepted probability.
pub(super) fn worse_at(record: &RolloutRecord, judged: &JudgedGuardrail) -> f64 {
    let all: f64 = record.guardrails.iter().map(|other| other.guardrail.weight).sum();
    all / (judged.guardrail.weight * FALSE_ROLLBACKS)
}

/// Returns the verdict of a guardrail.
pub(super) fn verdict(record: &RolloutRecord, judged: &JudgedGuardrail) -> GuardrailVerdict {
    let by = judgement(&judged.guardrail);
    match () {
        () if judged.evidence.worse(by) >= worse_at(record, judged) => GuardrailVerdict::Worse,
        () if judged.evidence.candidate().trials == 0 => GuardrailVerdict::NoData,
        () if judged.evidence.not_worse(by) >= NOT_WORSE_AT => GuardrailVerdict::NotWorse,
        () => GuardrailVerdict::Undecided,
    }
}
