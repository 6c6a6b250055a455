//! The receiver of accepted feedback, which the prediction log implements.

use std::borrow::Cow;
use std::fmt::Debug;
use std::time::Duration;

use super::prediction_id::PredictionId;
use crate::monitor::Truth;
use crate::registry::ServedVersion;

/// An accepted statement about a prediction: its true outcome, or the amount of a business metric.
#[derive(Debug, Clone, PartialEq)]
pub struct AcceptedOutcome {
    /// The prediction.
    pub prediction: PredictionId,
    /// Time of the feedback, since 1970.
    pub at: Duration,
    /// `label`, `value`, or `metrics.` and the name of a business metric, as in the feedback.
    pub kind: Cow<'static, str>,
    /// The true class.
    pub label: Option<String>,
    /// The true number, or the amount.
    pub value: Option<f64>,
}

/// Receiver of accepted feedback. It must return at once.
pub trait OutcomeLog: Debug + Send + Sync {
    /// Takes a statement that is new, or replaces an earlier one, about a prediction of `version`.
    fn accepted(&self, version: &ServedVersion, outcome: AcceptedOutcome);
}

impl AcceptedOutcome {
    /// Creates the statement that this is the true outcome of a prediction.
    pub(super) fn truth(prediction: PredictionId, at: Duration, truth: &Truth) -> AcceptedOutcome {
        let (kind, label, value) = match truth {
            Truth::Label { name, .. } => ("label", Some(name.clone()), None),
            Truth::Value(value) => ("value", None, Some(*value)),
        };
        AcceptedOutcome { prediction, at, kind: kind.into(), label, value }
    }

    /// Creates the statement that a prediction has this amount of a business metric.
    pub(super) fn business(prediction: PredictionId, at: Duration, name: &str, amount: f64) -> AcceptedOutcome {
        AcceptedOutcome { prediction, at, kind: format!("metrics.{name}").into(), label: None, value: Some(amount) }
    }
}
