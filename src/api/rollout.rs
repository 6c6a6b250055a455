//! The requests and responses of rollouts in the admin API.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::Time;
use crate::config::OnTimeout;
use crate::identity::{ModelName, Version};
use crate::monitor::EventCounts;
use crate::traffic::Share;

// ===== requests =====

/// Request body that starts a rollout. Members that are left out are those of `[rollout]` in the model's `model.toml`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RolloutRequest {
    /// The version to roll out; the newest one if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Shares of the version in percent, in rising order. The last one is 100, at which the version becomes stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<Share>>,
    /// Minimum time of each step, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_ms: Option<u64>,
    /// Maximum time of each step, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Action at the end of the maximum time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    /// Share of the stable version's requests that are also sent to the version as shadow traffic, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Share>,
    /// Author of the rollout, for the history.
    #[serde(default)]
    pub by: String,
    /// Reason for the rollout, for the history.
    #[serde(default)]
    pub reason: String,
    /// The generation of the deployment that the rollout is based on. It is refused if another one is current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_generation: Option<u64>,
}

/// Request body that pauses, resumes or aborts a rollout, or promotes its version at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutIntervention {
    /// Author, for the history.
    pub by: String,
    /// Reason, for the history.
    pub reason: String,
}

/// Query parameters of a request for the rollouts of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutsQuery {
    /// Maximum number of rollouts in the response.
    #[schemars(range(min = 1, max = 100))]
    pub limit: u32,
}

// ===== responses =====

/// The rollouts of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rollouts {
    /// The rollouts, the newest first.
    pub rollouts: Vec<Rollout>,
}

/// A rollout of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rollout {
    /// The model.
    pub model: ModelName,
    /// Number of the rollout: 1 for the first one of a model.
    pub number: u64,
    /// The version that is rolled out.
    pub version: Version,
    /// The stable version when the rollout started, with which the version is compared.
    pub stable: Version,
    /// State of the rollout.
    pub state: RolloutState,
    /// The state in words: what was decided, or what the rollout waits for, with the numbers.
    pub explanation: String,
    /// Number of the current step, from 0.
    pub step: usize,
    /// Start of the current step.
    #[schemars(with = "Time")]
    pub step_since: Timestamp,
    /// Steps and times of the rollout.
    pub plan: RolloutPlan,
    /// Evidence for each guardrail.
    pub guardrails: Vec<GuardrailEvidence>,
    /// Generation of the last deployment that the rollout made, or was based on.
    pub generation: u64,
    /// Start of the rollout.
    #[schemars(with = "Time")]
    pub started_at: Timestamp,
    /// End of the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Time>")]
    pub ended_at: Option<Timestamp>,
    /// The decisions, the oldest first. Of a long rollout, the first and the latest ones.
    pub events: Vec<RolloutEvent>,
}

/// State of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// The evidence is weighed, and the version advances or is rolled back.
    Running,
    /// The share stays as it is: a step has reached its maximum time, or an operator has paused the rollout. The version
    /// is rolled back if it is worse.
    Paused,
    /// The version has become the stable one.
    Promoted,
    /// The version was found to be worse, and all requests go to the stable version again.
    RolledBack,
    /// An operator has ended the rollout, or it could not be carried out. All requests go to the stable version again.
    Aborted,
    /// The deployment was changed by someone else, and stays as it was changed.
    Superseded,
}

/// Steps and times of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutPlan {
    /// Shares of the version in percent, in rising order. The last one is 100, at which the version becomes stable.
    pub steps: Vec<Share>,
    /// Minimum time of each step, in milliseconds.
    pub step_ms: u64,
    /// Maximum time of each step, in milliseconds.
    pub timeout_ms: u64,
    /// Action at the end of the maximum time.
    pub on_timeout: OnTimeout,
    /// Share of the stable version's requests that are also sent to the version as shadow traffic, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Share>,
}

/// Evidence for one guardrail: a kind of bad event that a request can be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuardrailEvidence {
    /// Name of the guardrail.
    pub name: String,
    /// Verdict on the version.
    pub verdict: GuardrailVerdict,
    /// Counts of the stable version since the start of the rollout.
    pub stable: EventCounts,
    /// Counts of the version since the start of the rollout.
    pub candidate: EventCounts,
    /// Evidence that the version is worse: the factor by which a bet against "not worse" has grown.
    pub worse: f64,
    /// Evidence at which the version is rolled back.
    pub worse_at: f64,
    /// Evidence that the version is not worse than the margin.
    pub not_worse: f64,
    /// Evidence at which the guardrail lets the version advance.
    pub not_worse_at: f64,
    /// Variance of the events divided by that of independent ones; at least 1. The evidence is discounted by it.
    pub overdispersion: f64,
    /// The numbers in words.
    pub explanation: String,
}

/// Verdict on a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardrailVerdict {
    /// The version has not been seen yet in this respect.
    NoData,
    /// The evidence does not suffice.
    Undecided,
    /// The version is not worse than the margin.
    NotWorse,
    /// The version is worse.
    Worse,
}

/// A decision in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RolloutEvent {
    /// Time of the decision.
    #[schemars(with = "Time")]
    pub at: Timestamp,
    /// The decision.
    pub action: RolloutAction,
    /// Share of the version from then on, in percent.
    pub share: Share,
    /// Author: a person, or `leeway`.
    pub by: String,
    /// The reason, with the numbers.
    pub reason: String,
}

/// Decision in a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutAction {
    /// The rollout was started.
    Start,
    /// The version got the share of the next step.
    Advance,
    /// The rollout was paused.
    Pause,
    /// The rollout was resumed.
    Resume,
    /// The version became stable.
    Promote,
    /// All requests were given to the stable version, because the version is worse.
    RollBack,
    /// The rollout was ended.
    Abort,
    /// The deployment was changed by someone else.
    Supersede,
}

impl Default for RolloutsQuery {
    fn default() -> RolloutsQuery {
        RolloutsQuery { limit: 20 }
    }
}

impl GuardrailVerdict {
    /// Returns the name of the verdict in the API.
    pub fn name(self) -> &'static str {
        match self {
            GuardrailVerdict::NoData => "no_data",
            GuardrailVerdict::Undecided => "undecided",
            GuardrailVerdict::NotWorse => "not_worse",
            GuardrailVerdict::Worse => "worse",
        }
    }
}

impl RolloutAction {
    /// Returns the name of the action in the API.
    pub fn name(self) -> &'static str {
        match self {
            RolloutAction::Start => "start",
            RolloutAction::Advance => "advance",
            RolloutAction::Pause => "pause",
            RolloutAction::Resume => "resume",
            RolloutAction::Promote => "promote",
            RolloutAction::RollBack => "roll_back",
            RolloutAction::Abort => "abort",
            RolloutAction::Supersede => "supersede",
        }
    }
}

impl RolloutState {
    /// Returns the name of the state in metrics and in the API.
    pub fn name(self) -> &'static str {
        match self {
            RolloutState::Running => "running",
            RolloutState::Paused => "paused",
            RolloutState::Promoted => "promoted",
            RolloutState::RolledBack => "rolled_back",
            RolloutState::Aborted => "aborted",
            RolloutState::Superseded => "superseded",
        }
    }

    /// Returns true if the rollout goes on.
    pub fn is_active(self) -> bool {
        matches!(self, RolloutState::Running | RolloutState::Paused)
    }
}
