//! The counts of a version by guardrail, for the judgement of a rollout.
//!
//! Only requests that named no version count, because those that a test sends to a new version would be taken for a
//! difference from the stable version.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use super::event_counts::{EventCounts, GuardrailCounts};
use super::labels::Outcome;
use super::shadow_counters::ShadowCounts;
use super::version_metrics::HANDLES;
use super::version_recorder::VersionRecorder;
use crate::feature::Observation;

/// Number of failures of a version one after the other that count as a streak.
const STREAK: u32 = 5;

// ===== impl VersionRecorder =====

impl VersionRecorder {
    /// Returns the counts of this version since its recorder was created.
    pub fn guardrail_counts(&self) -> GuardrailCounts {
        GuardrailCounts {
            guardrails: self.events_by_guardrail(),
            dispersions: self.dispersion.lock().dispersions().clone(),
            crashes: self.metrics.cells.sum(HANDLES.workers.restarts),
            streaks: self.metrics.cells.sum(HANDLES.guardrails.streaks),
        }
    }

    /// Adds a window to the estimate of the variance. Call it about once a second.
    pub(super) fn look_at_dispersion(&self) {
        let counts = self.events_by_guardrail();
        self.dispersion.lock().look(counts);
    }

    fn events_by_guardrail(&self) -> BTreeMap<String, EventCounts> {
        let cells = &self.metrics.cells;
        let handles = HANDLES.guardrails;
        let outcome = |outcome: Outcome| cells.sum(handles.outcomes.of(outcome));
        let (ok, invalid) = (outcome(Outcome::Ok), outcome(Outcome::Invalid));
        let failed = outcome(Outcome::ModelError) + outcome(Outcome::ServerError);
        let late = outcome(Outcome::Expired) + outcome(Outcome::Shed);
        let non_finite = cells.sum(handles.non_finite);
        let counts = |trials: u64, events: u64| EventCounts { trials: trials.max(events), events };
        let mut guardrails = BTreeMap::from([
            ("errors".to_owned(), counts(ok + failed, failed)),
            ("invalid".to_owned(), counts(ok + failed + invalid, invalid)),
            ("latency".to_owned(), counts(ok + late, late + cells.sum(handles.slow))),
            ("non_finite".to_owned(), counts(ok + non_finite, non_finite)),
            ("low_confidence".to_owned(), counts(cells.sum(handles.confidences), cells.sum(handles.low_confidences))),
        ]);
        guardrails.extend(self.shadow_counts().of_shadow());
        self.outcomes(|outcomes| {
            guardrails.insert("wrong".to_owned(), outcomes.bad.wrong());
            guardrails.extend(outcomes.bad.of_business().map(|(name, counts)| (format!("business_{name}"), counts)));
        });
        guardrails
    }

    /// Counts streaks of failures.
    pub(super) fn note_streak(&self, outcome: Outcome) {
        match outcome {
            // Written only where it changes, because all threads share it.
            Outcome::Ok if self.failing.load(Relaxed) == 0 => {}
            Outcome::Ok => self.failing.store(0, Relaxed),
            Outcome::ModelError | Outcome::ServerError => {
                let failed = self.failing.fetch_add(1, Relaxed).wrapping_add(1);
                if failed.is_multiple_of(STREAK) {
                    self.metrics.cells.local().add(HANDLES.guardrails.streaks, 1);
                }
            }
            Outcome::Invalid | Outcome::Shed | Outcome::Expired | Outcome::Abandoned => {}
        }
    }

    /// Counts the confidence of predictions for requests that named no version.
    pub fn count_confidence(&self, predictions: impl Iterator<Item = Observation>) {
        let low = self.spec().settings.low_confidence;
        let confidences = predictions.filter_map(|prediction| match prediction {
            Observation::Class { certainty, .. } => Some(certainty.confidence),
            Observation::Value(_) | Observation::Nothing => None,
        });
        let (mut all, mut below) = (0, 0);
        for confidence in confidences {
            all += 1;
            below += u64::from(confidence < low);
        }
        if all > 0 {
            let shard = self.metrics.cells.local();
            shard.add(HANDLES.guardrails.confidences, all);
            shard.add(HANDLES.guardrails.low_confidences, below);
        }
    }
}

// ===== impl ShadowCounts =====

impl ShadowCounts {
    /// Returns the counts of the version that gets the copies, by guardrail.
    pub fn of_shadow(&self) -> [(String, EventCounts); 2] {
        let disagreement = EventCounts { trials: self.compared, events: self.disagreed };
        [("disagreement".to_owned(), disagreement), self.failures(self.only_shadow_failed)]
    }

    /// Returns the counts of the stable version in the same requests.
    pub fn of_stable(&self) -> [(String, EventCounts); 1] {
        [self.failures(self.only_stable_failed)]
    }

    fn failures(&self, events: u64) -> (String, EventCounts) {
        let trials = self.requests + self.only_stable_failed + self.only_shadow_failed;
        ("shadow_errors".to_owned(), EventCounts { trials, events })
    }
}
