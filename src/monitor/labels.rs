//! The closed sets of values that labels take: how a request ended, why it was refused, what came of feedback.

use crate::error::{Error, Fault, Shed};

/// Outcome of a request that had reached a version. A closed set: it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered with predictions.
    Ok,
    /// The caller has to change it.
    Invalid,
    /// There was no room for it.
    Shed,
    /// Its time ran out.
    Expired,
    /// The model failed on it.
    ModelError,
    /// Leeway failed on it.
    ServerError,
    /// The client went away before the answer.
    Abandoned,
}

/// Result of an item of feedback. A closed set: it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FeedbackResult {
    /// It was joined with its prediction.
    Joined,
    /// It replaced earlier feedback on the prediction.
    Corrected,
    /// The prediction is too long ago.
    Late,
    /// The version that made the prediction is not loaded here.
    Unknown,
    /// It was there before.
    Duplicate,
    /// The prediction's id was not issued by this fleet.
    Forged,
    /// It does not fit its prediction.
    Invalid,
}

/// The reason why a request was refused for want of room or time. A closed set: it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShedReason {
    /// It was predicted to be too late, behind those that wait.
    Predicted,
    /// It was predicted to be too late, even if nobody else waited.
    TooSlow,
    /// Its turn had come too late.
    Overtaken,
    /// The queue was full.
    QueueFull,
    /// Its connection is above the limit.
    Connections,
    /// Its body or its answer did not fit into memory beside those of other requests.
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

// ===== impl VersionLabels =====

impl VersionLabels {
    /// Returns true if both are about the same version, however it was loaded.
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

    pub(super) fn name(self) -> &'static str {
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
        match error.fault() {
            Fault::Caller => Outcome::Invalid,
            Fault::Overload => Outcome::Shed,
            Fault::Budget => Outcome::Expired,
            Fault::Model => Outcome::ModelError,
            Fault::Server => Outcome::ServerError,
        }
    }
}

// ===== impl FeedbackResult =====

impl FeedbackResult {
    /// Every result.
    pub const ALL: [FeedbackResult; 7] = [
        FeedbackResult::Joined,
        FeedbackResult::Corrected,
        FeedbackResult::Late,
        FeedbackResult::Unknown,
        FeedbackResult::Duplicate,
        FeedbackResult::Forged,
        FeedbackResult::Invalid,
    ];

    /// Returns true if the item counts.
    pub fn is_taken(self) -> bool {
        matches!(self, FeedbackResult::Joined | FeedbackResult::Corrected)
    }

    /// Its name in metrics and answers.
    pub fn name(self) -> &'static str {
        match self {
            FeedbackResult::Joined => "joined",
            FeedbackResult::Corrected => "corrected",
            FeedbackResult::Late => "late",
            FeedbackResult::Unknown => "unknown",
            FeedbackResult::Duplicate => "duplicate",
            FeedbackResult::Forged => "forged",
            FeedbackResult::Invalid => "invalid",
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
        match error {
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
