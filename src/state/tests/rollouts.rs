//! Tests that every store of rollouts must pass.

use std::collections::BTreeMap;

use super::*;
use crate::api::rollout::{RolloutAction, RolloutPlan, RolloutState};
use crate::config::{OnTimeout, RolloutConfig};
use crate::monitor::{EventCounts, GuardrailCounts};
use crate::rollout::{
    Evidence, Failures, JudgedGuardrail, Pending, ProcessCounts, RolloutRecord, RolloutStore, Window, judgement,
};
use crate::traffic::Share;

/// A rollout with evidence, of this number and revision.
fn record(model: &str, number: u64, revision: u64) -> RolloutRecord {
    let mut guardrails: Vec<JudgedGuardrail> = RolloutConfig::default()
        .guardrails()
        .into_iter()
        .map(|guardrail| JudgedGuardrail { guardrail, evidence: Evidence::default() })
        .collect();
    let counts = |trials, events| EventCounts { trials, events };
    for JudgedGuardrail { guardrail, evidence } in &mut guardrails {
        evidence.add(&Window { stable: counts(900, 3), candidate: counts(101, 2) }, judgement(guardrail));
    }
    let pending = Pending { action: RolloutAction::Start, step: 0, by: "ada".into(), reason: "a \"new\" one".into() };
    RolloutRecord {
        model: model.parse().unwrap(),
        number,
        revision,
        version: "2".parse().unwrap(),
        stable: "1".parse().unwrap(),
        state: RolloutState::Running,
        explanation: String::new(),
        plan: RolloutPlan {
            steps: vec![Share::from_percent(12.5).unwrap(), Share::ALL],
            step_ms: 1_000,
            timeout_ms: 2_000,
            on_timeout: OnTimeout::RollBack,
            shadow: Some(Share::ALL),
        },
        step: 0,
        step_since: Timestamp::UNIX_EPOCH,
        started_at: Timestamp::UNIX_EPOCH,
        ended_at: None,
        generation: 7,
        pending: Some(pending),
        guardrails,
        failures: Failures { crashes: (0, 1), streaks: (2, 3) },
        seen: BTreeMap::from([("a".to_owned(), process(5))]),
        events: Vec::new(),
    }
}

fn process(crashes: u64) -> ProcessCounts {
    let counts = |crashes| GuardrailCounts {
        guardrails: BTreeMap::from([("errors".to_owned(), EventCounts { trials: 10, events: 1 })]),
        crashes,
        ..GuardrailCounts::default()
    };
    ProcessCounts { started_at: Timestamp::UNIX_EPOCH, stable: counts(0), candidate: counts(crashes) }
}

/// Checks a store, which `other` shares.
pub(super) async fn check_rollouts(one: &dyn RolloutStore, other: &dyn RolloutStore) {
    let first = record("digits", 1, 1);
    assert!(one.write(&first).await.unwrap());
    // Of two that start at one time, one is written.
    assert!(!other.write(&first).await.unwrap());
    assert_eq!(other.latest().await.unwrap(), std::slice::from_ref(&first));
    let second = RolloutRecord { revision: 2, explanation: "one".into(), ..first.clone() };
    assert!(other.write(&second).await.unwrap());
    assert!(!one.write(&RolloutRecord { explanation: "other".into(), ..second.clone() }).await.unwrap());
    assert!(!one.write(&RolloutRecord { revision: 5, ..first.clone() }).await.unwrap());

    for (process, crashes) in [("a", 1), ("b", 2), ("a", 3)] {
        one.report(&first, process, &self::process(crashes)).await.unwrap();
    }
    let reported = BTreeMap::from([("a".to_owned(), process(3)), ("b".to_owned(), process(2))]);
    assert_eq!(other.reports(&first).await.unwrap(), reported);
    assert_eq!(other.reports(&record("penguins", 1, 1)).await.unwrap(), BTreeMap::new());

    let ended = RolloutRecord { revision: 3, state: RolloutState::Promoted, pending: None, ..second };
    assert!(one.write(&ended).await.unwrap());
    assert!(!one.write(&record("digits", 3, 1)).await.unwrap());
    let next = record("digits", 2, 1);
    assert!(one.write(&next).await.unwrap());
    assert!(other.write(&record("penguins", 1, 1)).await.unwrap());
    let models: Vec<(String, u64)> =
        one.latest().await.unwrap().into_iter().map(|latest| (latest.model.to_string(), latest.number)).collect();
    assert_eq!(models, [("digits".to_owned(), 2), ("penguins".to_owned(), 1)]);
    assert_eq!(other.history(&first.model, 10).await.unwrap(), [next.clone(), ended]);
    assert_eq!(other.history(&first.model, 1).await.unwrap(), std::slice::from_ref(&next));
    // The counts of the ended rollout are not those of the next one.
    assert_eq!(other.reports(&next).await.unwrap(), BTreeMap::new());
}

#[tokio::test]
async fn rollouts_are_written_in_turn() {
    let memory = MemoryRollouts::default();
    check_rollouts(&memory, &memory).await;
    let folder = tempfile::tempdir().unwrap();
    let config = StateConfig::at(StateUrl::Sqlite(folder.path().join("leeway.db")));
    let [one, other] = [open(&config, three()).await.unwrap(), open(&config, three()).await.unwrap()];
    check_rollouts(&*one.rollouts, &*other.rollouts).await;
    assert!(one.rollouts.leads().await.unwrap() && one.rollouts.leads().await.unwrap());
    assert!(!other.rollouts.leads().await.unwrap());
}
