//! Findings of the first runs of a version, before it serves: the result of the first run, the independence of its
//! rows, and unconfirmed assumptions.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Batching;
use crate::model::{ElementBounds, Independence, RunSharing, run_sharing};

/// Maximum time for comparing rows that run alone and together. A trial may have less.
pub const MAX_COMPARING: Duration = Duration::from_secs(10);

/// Findings of the first runs of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Result of the first run.
    pub warm_up: WarmUp,
    /// Finding about the rows: independent of the other rows of a run, dependent on them, or unknown.
    pub independence: Independence,
    /// The same finding for texts that are padded to share a run; `None` for a model whose rows are not padded.
    pub padding: Option<Independence>,
    /// Outputs that have one row per row of the inputs; `None` if the model did not run.
    pub row_outputs: Option<Vec<Arc<str>>>,
    /// Maximum numbers of elements in a row and in a run; `None` if they were not determined.
    pub bounds: Option<ElementBounds>,
    /// Assumptions and signs of mistakes, as sentences for the person who adds the version.
    pub remarks: Vec<String>,
}

/// Result of the first run of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmUp {
    /// The model ran, and its outputs could be decoded.
    Ran,
    /// The model did not run on generated inputs; a real request may still work.
    Failed {
        /// Message of ONNX Runtime.
        reason: String,
    },
}

impl Findings {
    /// Returns true if requests share runs under this setting of `model.toml`.
    pub fn is_batched(&self, setting: Batching) -> bool {
        run_sharing(setting, &self.independence) == RunSharing::Shared
    }

    /// Returns true if short rows may be padded to share a run with longer ones.
    pub fn may_be_padded(&self) -> bool {
        matches!(self.padding, Some(Independence::Independent { .. }))
    }
}
