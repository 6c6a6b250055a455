//! The responses of the admin API that only a console reads.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::identity::{ModelName, Version};
use crate::monitor::{DriftAt, LiveStats, PredictionStats};
use crate::traffic::Share;

/// The live numbers of a model's loaded versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelLive {
    /// The model.
    pub model: ModelName,
    /// Time of the reading. Rates follow from the counts of two readings.
    #[schemars(with = "Time")]
    pub at: Timestamp,
    /// Length of the window of the quantiles, in seconds.
    pub window_s: f64,
    /// Loaded versions of the model, the newest first.
    pub versions: Vec<VersionLive>,
}

/// The live numbers of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionLive {
    /// Number of the version.
    pub version: Version,
    /// True if it is the stable version.
    pub stable: bool,
    /// Share of the requests that name no version, in percent.
    pub traffic_percent: Share,
    /// Time since the version was loaded, in seconds.
    pub uptime_s: f64,
    /// Its numbers.
    #[serde(flatten)]
    pub stats: LiveStats,
}

/// The predictions of a model's loaded versions, and their outcomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelPredictions {
    /// The model.
    pub model: ModelName,
    /// Time of the reading.
    #[schemars(with = "Time")]
    pub at: Timestamp,
    /// True if monitoring is on.
    pub enabled: bool,
    /// Loaded versions of the model, the newest first.
    pub versions: Vec<VersionPredictions>,
}

/// The predictions of a version, and their outcomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionPredictions {
    /// Number of the version.
    pub version: Version,
    /// Its predictions.
    #[serde(flatten)]
    pub stats: PredictionStats,
}

/// The drift of a model's loaded versions over the last day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelDriftHistory {
    /// The model.
    pub model: ModelName,
    /// Loaded versions of the model, the newest first.
    pub versions: Vec<VersionDriftHistory>,
}

/// The drift of a version over the last day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VersionDriftHistory {
    /// Number of the version.
    pub version: Version,
    /// A point a minute in the last hour, and one every five minutes before that, the oldest first. The last one is the
    /// current drift. Empty without a baseline.
    pub points: Vec<DriftMoment>,
}

/// Drift of a version at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriftMoment {
    /// The moment.
    #[schemars(with = "Time")]
    pub at: Timestamp,
    /// The drift.
    #[serde(flatten)]
    pub drift: DriftAt,
}

/// Alerts of a server, the most severe first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Alerts {
    /// Time of the reading.
    #[schemars(with = "Time")]
    pub at: Timestamp,
    /// The alerts, the most severe first.
    pub alerts: Vec<Alert>,
}

/// A finding that needs attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Alert {
    /// Severity of the finding.
    pub severity: Severity,
    /// Name of the Prometheus alert about the same, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<String>,
    /// The model that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// The version that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The finding in a few words.
    pub title: String,
    /// The finding in a sentence, with its numbers.
    pub text: String,
    /// Place of the advice in the documentation, as in `alerts.md#requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runbook: Option<String>,
    /// The advice that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Callers are hurt, or will be soon: act now.
    Page,
    /// It has to be repaired in working hours.
    Ticket,
    /// Nothing has to be done, but it is good to know.
    Note,
}
