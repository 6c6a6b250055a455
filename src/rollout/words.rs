//! Evidence and decisions in words and numbers.

use jiff::Timestamp;

use super::record::{JudgedGuardrail, RolloutRecord, judgement};
use super::verdict::{NOT_WORSE_AT, verdict, worse_at};
use crate::api::admin::Deployment;
use crate::api::rollout::{GuardrailEvidence, GuardrailVerdict, Rollout};
use crate::monitor::EventCounts;

/// Returns the rollout as callers see it.
pub(super) fn shown(record: &RolloutRecord) -> Rollout {
    let RolloutRecord { model, number, version, stable, state, explanation, plan, step, .. } = record.clone();
    Rollout {
        model,
        number,
        version,
        stable,
        state,
        explanation,
        plan,
        step,
        step_since: record.step_since,
        guardrails: record.guardrails.iter().map(|judged| shown_evidence(record, judged)).collect(),
        generation: record.generation,
        started_at: record.started_at,
        ended_at: record.ended_at,
        events: record.events.clone(),
    }
}

fn shown_evidence(record: &RolloutRecord, judged: &JudgedGuardrail) -> GuardrailEvidence {
    let by = judgement(&judged.guardrail);
    GuardrailEvidence {
        name: judged.guardrail.name.clone(),
        verdict: verdict(record, judged),
        stable: judged.evidence.stable(),
        candidate: judged.evidence.candidate(),
        worse: judged.evidence.worse(by),
        worse_at: worse_at(record, judged),
        not_worse: judged.evidence.not_worse(by),
        not_worse_at: NOT_WORSE_AT,
        overdispersion: judged.evidence.overdispersion(by),
        explanation: evidence(record, judged),
    }
}

/// Returns the evidence of a guardrail, as in `errors: 12 of 10000 (0.12%), with version 1: 3 of 90000 (0.0033%); evidence
/// that it is worse: 2.1e5 of 800`.
pub(super) fn evidence(record: &RolloutRecord, judged: &JudgedGuardrail) -> String {
    let (name, by) = (&judged.guardrail.name, judgement(&judged.guardrail));
    let (own, stable) = (judged.evidence.candidate(), judged.evidence.stable());
    let other = match judged.guardrail.is_compared() {
        true => format!(", with version {}: {}", record.stable, counts(stable)),
        false => format!(", tolerated: {}", percent(judged.guardrail.tolerated)),
    };
    let weighed = match verdict(record, judged) {
        GuardrailVerdict::NoData => return format!("{name}: nothing to judge by yet"),
        GuardrailVerdict::Worse => {
            let (found, at) = (number(judged.evidence.worse(by)), number(worse_at(record, judged)));
            format!("evidence that it is worse: {found}, and {at} suffices")
        }
        GuardrailVerdict::NotWorse | GuardrailVerdict::Undecided => {
            let found = number(judged.evidence.not_worse(by));
            format!("evidence that it is not worse: {found} of {}", number(NOT_WORSE_AT))
        }
    };
    format!("{name}: {}{other}; {weighed}", counts(own))
}

/// Returns the reason to advance.
pub(super) fn not_worse(record: &RolloutRecord) -> String {
    let (mut found, mut without) = (Vec::new(), Vec::new());
    for judged in &record.guardrails {
        let name = judged.guardrail.name.as_str();
        match verdict(record, judged) {
            GuardrailVerdict::NoData => without.push(name),
            _ => found.push(format!(
                "{name} {} ({})",
                counts(judged.evidence.candidate()),
                number(judged.evidence.not_worse(judgement(&judged.guardrail)))
            )),
        }
    }
    let without = match without.as_slice() {
        [] => String::new(),
        names => format!("; nothing to judge by: {}", names.join(", ")),
    };
    format!("not worse, with evidence of at least {}: {}{without}", number(NOT_WORSE_AT), found.join(", "))
}

/// Returns the reason to wait for the minimum time of a step.
pub(super) fn until_minimum(record: &RolloutRecord, in_step_ms: u64) -> String {
    let left = record.plan.step_ms.saturating_sub(in_step_ms).div_ceil(1_000);
    format!("not worse so far; the step lasts for {left} s more")
}

/// Returns the reason why a rollout has ended because of a deployment that someone else has made.
pub(super) fn superseded(by: &Deployment) -> String {
    let Deployment { change, traffic, .. } = by;
    format!("{} has changed the deployment ({}, now {traffic}): {}", change.by, change.action.name(), change.reason)
}

/// Returns the milliseconds between two times.
pub(super) fn milliseconds(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.as_millisecond().saturating_sub(from.as_millisecond())).unwrap_or(0)
}

/// Returns counts, as in `3 of 90000 (0.0033%)`.
fn counts(counts: EventCounts) -> String {
    match counts.rate() {
        Some(rate) => format!("{} of {} ({})", counts.events, counts.trials, percent(rate)),
        None => "none yet".to_owned(),
    }
}

/// Returns a share in percent with two significant digits.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 {
        return "0%".to_owned();
    }
    let digits = (1.0 - percent.log10().floor()).clamp(0.0, 9.0) as usize;
    let text = format!("{percent:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}%")
}

/// Returns evidence with two or three significant digits.
fn number(evidence: f64) -> String {
    match evidence {
        evidence if evidence >= 1e6 => format!("{evidence:.1e}"),
        evidence if evidence >= 10.0 => format!("{evidence:.0}"),
        evidence if evidence >= 0.01 => format!("{evidence:.2}"),
        _ => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let cases = [(0.0, "0%"), (0.000_033_3, "0.0033%"), (0.005, "0.5%"), (0.123_4, "12%"), (1.0, "100%")];
        for (share, expected) in cases {
            assert_eq!(percent(share), expected);
        }
        for (evidence, expected) in [(1e300, "1.0e300"), (812.4, "812"), (3.456, "3.46"), (0.001, "0")] {
            assert_eq!(number(evidence), expected);
        }
        assert_eq!(counts(EventCounts { trials: 90_000, events: 3 }), "3 of 90000 (0.0033%)");
    }
}
