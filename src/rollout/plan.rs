//! The next decision of a rollout. Pure: it follows from the record and from what is known besides.

use jiff::Timestamp;

use super::record::{JudgedGuardrail, RolloutRecord};
use super::verdict::verdict;
use super::words;
use crate::api::rollout::{GuardrailVerdict, RolloutState};
use crate::config::OnTimeout;

/// Facts besides the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circumstances {
    /// The current time.
    pub now: Timestamp,
    /// The verdict on drift in words, if it calls for a person.
    pub drift: Option<String>,
}

/// The next decision of a rollout, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Leave everything as it is.
    Wait(String),
    /// Give the version the share of the next step.
    Advance(String),
    /// Make the version stable.
    Promote(String),
    /// Give all requests to the stable version.
    RollBack(String),
    /// Pause the rollout.
    Pause(String),
}

/// Returns the next decision.
///
/// A version that is worse is rolled back in any state and at any time. Otherwise a step lasts for at least its minimum
/// time, and until every guardrail with data says "not worse". At the end of its maximum time, the rollout is paused or
/// rolled back, and never promoted.
pub fn decide(record: &RolloutRecord, around: &Circumstances) -> Decision {
    if let Some(reason) = failed_at_once(record).or_else(|| worse(record)) {
        return Decision::RollBack(reason);
    }
    if record.state == RolloutState::Paused {
        return Decision::Wait(record.explanation.clone());
    }
    let in_step = words::milliseconds(record.step_since, around.now);
    let obstacle = obstacle(record, around);
    if in_step >= record.plan.step_ms && obstacle.is_none() {
        let reason = words::not_worse(record);
        let is_last = record.step + 2 >= record.plan.steps.len();
        return if is_last { Decision::Promote(reason) } else { Decision::Advance(reason) };
    }
    let obstacle = obstacle.unwrap_or_else(|| words::until_minimum(record, in_step));
    if in_step >= record.plan.timeout_ms {
        let reason = format!("the maximum time of a step is over: {obstacle}");
        return match record.plan.on_timeout {
            OnTimeout::Hold => Decision::Pause(reason),
            OnTimeout::RollBack => Decision::RollBack(reason),
        };
    }
    Decision::Wait(obstacle)
}

/// Returns the reason for a rollback without statistics: failures that the stable version does not have at all.
fn failed_at_once(record: &RolloutRecord) -> Option<String> {
    let (crashes, streaks) = (record.failures.crashes, record.failures.streaks);
    let non_finite = record.guardrails.iter().find(|judged| judged.guardrail.name == "non_finite");
    let non_finite = non_finite.map(|judged| (judged.evidence.stable().events, judged.evidence.candidate().events));
    let only_candidate = |(stable, candidate): (u64, u64)| stable == 0 && candidate > 0;
    let stable = record.stable;
    match () {
        () if only_candidate(crashes) => {
            Some(format!("version {} has crashed, and version {stable} has not", record.version))
        }
        () if non_finite.is_some_and(only_candidate) => Some(format!(
            "version {} has answered with a number that is not finite, and version {stable} has not",
            record.version
        )),
        () if only_candidate(streaks) => Some(format!(
            "five requests to version {} have failed one after the other, and none such to version {stable}",
            record.version
        )),
        () => None,
    }
}

/// Returns the reason for a rollback by evidence.
fn worse(record: &RolloutRecord) -> Option<String> {
    let worse = |judged: &&JudgedGuardrail| verdict(record, judged) == GuardrailVerdict::Worse;
    let found = record.guardrails.iter().find(worse)?;
    Some(format!("worse: {}", words::evidence(record, found)))
}

/// Returns the reason why the version cannot advance yet.
fn obstacle(record: &RolloutRecord, around: &Circumstances) -> Option<String> {
    let undecided: Vec<&JudgedGuardrail> =
        record.guardrails.iter().filter(|judged| verdict(record, judged) == GuardrailVerdict::Undecided).collect();
    let has_requests = record.guardrails.iter().any(|judged| judged.evidence.candidate().trials > 0);
    match (&around.drift, undecided.first()) {
        _ if !has_requests => Some(format!("version {} has had no request that can be judged yet", record.version)),
        (Some(drift), _) => Some(format!("the drift of version {} calls for a person: {drift}", record.version)),
        (None, Some(first)) => {
            let more = match undecided.len() {
                1 => String::new(),
                all => format!("; and {} more", all - 1),
            };
            Some(format!("not decided yet: {}{more}", words::evidence(record, first)))
        }
        (None, None) => None,
    }
}
