//! Items of feedback that were judged, and the join of their statements with the outcomes of the version.

use std::sync::Arc;
use std::time::Duration;

use super::accepted::{AcceptedOutcome, OutcomeLog};
use super::ledger::{Entry, Recorded};
use super::prediction_id::PredictionId;
use crate::config::BusinessKind;
use crate::monitor::{FeedbackResult, Predicted, Truth};
use crate::registry::ServedVersion;

/// Items of a batch of feedback, each either accepted for joining or refused.
#[derive(Debug)]
pub struct Judged(pub(super) Vec<Result<Joinable, Refused>>);

/// The result of an item that is not joined, and the reason.
#[derive(Debug)]
pub(super) struct Refused(pub(super) FeedbackResult, pub(super) String);

impl Judged {
    /// Returns the entries of all statements, in order.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.0.iter().flatten().flat_map(|joinable| joinable.parts.iter().map(|part| part.entry)).collect()
    }

    /// Returns the number of statements.
    pub(super) fn statements(&self) -> usize {
        self.0.iter().flatten().map(|joinable| joinable.parts.len()).sum()
    }
}

/// Item of feedback that can be joined with a prediction of `version`.
#[derive(Debug)]
pub(super) struct Joinable {
    pub(super) version: Arc<ServedVersion>,
    pub(super) prediction: PredictionId,
    /// Time of the feedback, since 1970.
    pub(super) at: Duration,
    pub(super) parts: Vec<Part>,
}

/// One statement of an item of feedback, and its entry in the ledger.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) entry: Entry,
    pub(super) said: Said,
}

/// The truth, or the amount of a business metric.
#[derive(Debug)]
pub(super) enum Said {
    Truth(Predicted, Truth, Option<Duration>),
    Business(String, BusinessKind, f64),
}

impl Joinable {
    /// Adds new statements to the outcomes of the version, and corrects replaced ones. `recorded` has the result of
    /// each part, in order.
    pub(super) fn join(
        self,
        recorded: &mut impl Iterator<Item = Recorded>,
        log: Option<&dyn OutcomeLog>,
    ) -> (FeedbackResult, String) {
        let Joinable { version, prediction, at, parts } = self;
        let mut accepted = Vec::new();
        let (mut is_new, mut is_corrected, mut differs) = (false, false, false);
        version.recorder.outcomes(|outcomes| {
            for Part { said, .. } in parts {
                let recorded = recorded.next().unwrap_or(Recorded::Same);
                if log.is_some() && matches!(recorded, Recorded::First | Recorded::Replaced { .. }) {
                    accepted.push(match &said {
                        Said::Truth(_, truth, _) => AcceptedOutcome::truth(prediction, at, truth),
                        Said::Business(name, _, amount) => AcceptedOutcome::business(prediction, at, name, *amount),
                    });
                }
                match (recorded, said) {
                    (Recorded::Same, _) => {}
                    (Recorded::Differs, _) => differs = true,
                    (Recorded::First, said) => {
                        is_new = true;
                        match said {
                            Said::Truth(predicted, truth, delay) => outcomes.label(&predicted, &truth, delay),
                            Said::Business(name, kind, amount) => outcomes.business(&name, kind, amount),
                        }
                    }
                    (Recorded::Replaced { before }, said) => {
                        is_corrected = true;
                        match said {
                            Said::Truth(predicted, truth, _) => {
                                let before = match truth {
                                    Truth::Label { .. } => version.recorder.class(before),
                                    Truth::Value(_) => Truth::Value(f64::from_bits(before)),
                                };
                                outcomes.correct(&predicted, &before, &truth);
                            }
                            Said::Business(name, kind, amount) => {
                                outcomes.correct_business(&name, kind, f64::from_bits(before), amount);
                            }
                        }
                    }
                }
            }
        });
        // Passed on without the lock of the outcomes.
        if let Some(log) = log {
            accepted.into_iter().for_each(|outcome| log.accepted(&version, outcome));
        }
        match (is_new, is_corrected, differs) {
            (true, _, _) => (FeedbackResult::Joined, String::new()),
            (false, true, _) => (FeedbackResult::Corrected, String::new()),
            (false, false, true) => (
                FeedbackResult::Duplicate,
                "earlier feedback differs, and stays: the prediction is older than feedback.correction_window_ms"
                    .to_owned(),
            ),
            (false, false, false) => (FeedbackResult::Duplicate, "it was reported before".to_owned()),
        }
    }
}
