//! An order to load a version, and the progress of the load.

use std::sync::Arc;

use schemars::JsonSchema;

use crate::config::{ModelConfig, SessionPlace};
use crate::identity::{ModelName, Version};

/// An order to load a version.
#[derive(Debug, Clone)]
pub struct LoadOrder {
    pub model: ModelName,
    pub version: Version,
    /// Location of the model's `model.toml`, for messages.
    pub config_place: String,
    /// The content of `model.toml`.
    pub config: Arc<ModelConfig>,
    pub place: SessionPlace,
    /// The share of the machine that the load may take.
    pub pace: Pace,
}

/// Share of the machine that a load may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The whole machine, because nothing is served yet.
    Full,
    /// Only what requests leave idle, because requests are served meanwhile.
    Background,
}

/// Progress of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadStep {
    /// The load waits for other loads.
    Waiting,
    /// The files of the version are read and hashed.
    Verifying,
    /// The version is tried out in another process.
    Trying,
    /// The sessions are opened and run once; the golden examples are checked.
    Opening,
}

impl LoadStep {
    /// Returns the name of the step in the API.
    pub fn name(self) -> &'static str {
        match self {
            LoadStep::Waiting => "waiting",
            LoadStep::Verifying => "verifying",
            LoadStep::Trying => "trying",
            LoadStep::Opening => "opening",
        }
    }
}
