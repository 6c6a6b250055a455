//! The closed sets of label values: outcomes of requests, stages, reasons of refusals, results of feedback.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Fault, Shed};
use crate::stage::Stage;

/// A closed set of values of a label.
pub(super) trait Label: Copy + 'static {
    const ALL: &'static [Self];

    fn name(self) -> &'static str;

    /// Index of this value in [`Label::ALL`].
    fn index(self) -> usize;
}

/// Outcome of a request that reached a version. A closed set, because it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The request was answered with predictions.
    Ok,
    /// The request was invalid, and its caller has to change it.
    Invalid,
    /// The request was refused because of too little time or capacity.
    Shed,
    /// The deadline of the request passed before its answer.
    Expired,
    /// The model failed to run.
    ModelError,
    /// Leeway itself failed.
    ServerError,
    /// The client went away before the response.
    Abandoned,
}

/// A timed part of an answered request: one of its stages, or the whole request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestPart {
    /// [`Stage::Network`].
    Network,
    /// [`Stage::Preprocess`].
    Preprocess,
    /// [`Stage::Queue`].
    Queue,
    /// [`Stage::Inference`].
    Inference,
    /// [`Stage::Postprocess`].
    Postprocess,
    /// From the request's head to the first bytes of the response.
    Total,
}

/// Outcome of a request that was not answered with predictions, as a label of its duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unanswered {
    /// The request was refused because of too little time or capacity.
    Shed,
    /// The request failed.
    Failed,
}

/// Origin of the tensor elements in a batch: requests or padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BatchElements {
    /// Elements of requests.
    Input,
    /// Elements that extend short rows to the longest of the run.
    Padding,
}

/// Result of an item of feedback. A closed set, because it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FeedbackResult {
    /// The item was joined with its prediction.
    Joined,
    /// The item replaced earlier feedback on the prediction.
    Corrected,
    /// The prediction is too old for feedback.
    Late,
    /// The version that made the prediction is not loaded here.
    Unknown,
    /// The same feedback was accepted before.
    Duplicate,
    /// The prediction's id was not issued by this fleet.
    Forged,
    /// The item does not fit its prediction.
    Invalid,
    /// The item waits until the state can be reached, and is then counted again by its result.
    Buffered,
}

/// The kind of time or capacity that a refused request lacked. A closed set, because it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedReason {
    /// The request was predicted to be too late because of the requests waiting before it.
    Predicted,
    /// The request was predicted to be too late even without waiting requests.
    TooSlow,
    /// The request's turn came too late.
    Overtaken,
    /// The queue was full.
    QueueFull,
    /// The request's connection exceeded the limit.
    Connections,
    /// The body or the response did not fit into the memory limit together with those of other requests.
    BodyMemory,
    /// The version was being retired.
    ShuttingDown,
}

/// Labels of the series of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionLabels {
    /// The model's name.
    pub model: String,
    /// The version's number.
    pub version: String,
    /// The version's digest.
    pub sha256: String,
    /// The execution provider that runs it.
    pub provider: &'static str,
}

// ===== impl Label =====

/// Implements [`Label`] for enums that have `name`, and `ALL` in the order of their values.
macro_rules! labels {
    ($($label:ty),*) => {
        $(impl Label for $label {
            const ALL: &'static [$label] = &<$label>::ALL;

            fn name(self) -> &'static str {
                <$label>::name(self)
            }

            fn index(self) -> usize {
                self as usize
            }
        })*
    };
}

labels!(Outcome, Stage, RequestPart, Unanswered, BatchElements, FeedbackResult, ShedReason);

// ===== impl VersionLabels =====

impl VersionLabels {
    /// Returns true if both labels have the same model and version. Digest and provider may differ.
    pub(super) fn is_same_version(&self, other: &VersionLabels) -> bool {
        self.model == other.model && self.version == other.version
    }
}

// ===== impl Outcome =====

impl Outcome {
    pub(super) const ALL: [Outcome; 7] = [
        Outcome::Ok,
        Outcome::Invalid,
        Outcome::Shed,
        Outcome::Expired,
        Outcome::ModelError,
        Outcome::ServerError,
        Outcome::Abandoned,
    ];

    /// Name of the outcome in metrics and in the access log.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Invalid => "invalid",
            Outcome::Shed => "shed",
            Outcome::Expired => "expired",
            Outcome::ModelError => "model_error",
            Outcome::ServerError => "server_error",
            Outcome::Abandoned => "abandoned",
        }
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Outcome {
        error.fault().into()
    }
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Outcome {
        match fault {
            Fault::Caller => Outcome::Invalid,
            Fault::Overload => Outcome::Shed,
            Fault::Budget => Outcome::Expired,
            Fault::Model => Outcome::ModelError,
            Fault::Server => Outcome::ServerError,
        }
    }
}

// ===== impl RequestPart =====

impl RequestPart {
    pub(super) const ALL: [RequestPart; 6] = [
        RequestPart::Network,
        RequestPart::Preprocess,
        RequestPart::Queue,
        RequestPart::Inference,
        RequestPart::Postprocess,
        RequestPart::Total,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            RequestPart::Network => Stage::Network.name(),
            RequestPart::Preprocess => Stage::Preprocess.name(),
            RequestPart::Queue => Stage::Queue.name(),
            RequestPart::Inference => Stage::Inference.name(),
            RequestPart::Postprocess => Stage::Postprocess.name(),
            RequestPart::Total => "total",
        }
    }
}

impl From<Stage> for RequestPart {
    fn from(stage: Stage) -> RequestPart {
        match stage {
            Stage::Network => RequestPart::Network,
            Stage::Preprocess => RequestPart::Preprocess,
            Stage::Queue => RequestPart::Queue,
            Stage::Inference => RequestPart::Inference,
            Stage::Postprocess => RequestPart::Postprocess,
        }
    }
}

// ===== impl Unanswered =====

impl Unanswered {
    pub(super) const ALL: [Unanswered; 2] = [Unanswered::Shed, Unanswered::Failed];

    pub(super) fn name(self) -> &'static str {
        match self {
            Unanswered::Shed => "shed",
            Unanswered::Failed => "failed",
        }
    }
}

// ===== impl BatchElements =====

impl BatchElements {
    const ALL: [BatchElements; 2] = [BatchElements::Input, BatchElements::Padding];

    fn name(self) -> &'static str {
        match self {
            BatchElements::Input => "input",
            BatchElements::Padding => "padding",
        }
    }
}

// ===== impl FeedbackResult =====

impl FeedbackResult {
    /// All results of an item of feedback.
    pub const ALL: [FeedbackResult; 8] = [
        FeedbackResult::Joined,
        FeedbackResult::Corrected,
        FeedbackResult::Late,
        FeedbackResult::Unknown,
        FeedbackResult::Duplicate,
        FeedbackResult::Forged,
        FeedbackResult::Invalid,
        FeedbackResult::Buffered,
    ];

    /// Returns true if an item of feedback with this result is counted.
    pub fn is_taken(self) -> bool {
        matches!(self, FeedbackResult::Joined | FeedbackResult::Corrected | FeedbackResult::Buffered)
    }

    /// Name of the result in metrics and responses.
    pub fn name(self) -> &'static str {
        match self {
            FeedbackResult::Joined => "joined",
            FeedbackResult::Corrected => "corrected",
            FeedbackResult::Late => "late",
            FeedbackResult::Unknown => "unknown",
            FeedbackResult::Duplicate => "duplicate",
            FeedbackResult::Forged => "forged",
            FeedbackResult::Invalid => "invalid",
            FeedbackResult::Buffered => "buffered",
        }
    }
}

// ===== impl ShedReason =====

impl ShedReason {
    pub(super) const ALL: [ShedReason; 7] = [
        ShedReason::Predicted,
        ShedReason::TooSlow,
        ShedReason::Overtaken,
        ShedReason::QueueFull,
        ShedReason::Connections,
        ShedReason::BodyMemory,
        ShedReason::ShuttingDown,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            ShedReason::Predicted => "predicted",
            ShedReason::TooSlow => "too_slow",
            ShedReason::Overtaken => "overtaken",
            ShedReason::QueueFull => "queue_full",
            ShedReason::Connections => "connections",
            ShedReason::BodyMemory => "body_memory",
            ShedReason::ShuttingDown => "shutting_down",
        }
    }

    pub(super) fn of(error: &Error) -> Option<ShedReason> {
        match error.cause() {
            Error::Overloaded { shed: Shed::AtTheDoor, .. } => Some(ShedReason::Predicted),
            Error::Overloaded { shed: Shed::EvenAlone, .. } => Some(ShedReason::TooSlow),
            Error::Overloaded { shed: Shed::InTheQueue, .. } => Some(ShedReason::Overtaken),
            Error::QueueFull { .. } => Some(ShedReason::QueueFull),
            Error::TooManyConnections { .. } => Some(ShedReason::Connections),
            Error::BodyMemoryFull { .. } => Some(ShedReason::BodyMemory),
            Error::ShuttingDown => Some(ShedReason::ShuttingDown),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<L: Label>() {
        assert!(L::ALL.iter().enumerate().all(|(place, label)| label.index() == place));
    }

    #[test]
    fn the_index_of_a_label_is_its_place() {
        check::<Outcome>();
        check::<Stage>();
        check::<RequestPart>();
        check::<Unanswered>();
        check::<BatchElements>();
        check::<FeedbackResult>();
        check::<ShedReason>();
    }

    /// A value of a label has the same name in JSON and in metrics.
    #[test]
    fn the_name_in_json_is_that_in_metrics() {
        let name = |value: serde_json::Value| value.as_str().unwrap().to_owned();
        for outcome in Outcome::ALL {
            assert_eq!(name(serde_json::to_value(outcome).unwrap()), outcome.name());
        }
        for part in RequestPart::ALL {
            assert_eq!(name(serde_json::to_value(part).unwrap()), part.name());
        }
        for unanswered in Unanswered::ALL {
            assert_eq!(name(serde_json::to_value(unanswered).unwrap()), unanswered.name());
        }
    }
}
