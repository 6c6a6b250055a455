//! Verdicts on drift.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// Verdict on the drift of a feature: none, a warning, or drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriftStatus {
    /// The window is too small for a verdict.
    NotEnoughData,
    /// The drift is small, or may be due to chance.
    Ok,
    /// The drift is moderate, and not explained by chance.
    Warning,
    /// The drift is large, and not explained by chance.
    Drifted,
}

// ===== impl DriftStatus =====

impl DriftStatus {
    /// Every status.
    pub const ALL: [DriftStatus; 4] =
        [DriftStatus::NotEnoughData, DriftStatus::Ok, DriftStatus::Warning, DriftStatus::Drifted];

    /// Name of the verdict in metrics and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            DriftStatus::NotEnoughData => "not_enough_data",
            DriftStatus::Ok => "ok",
            DriftStatus::Warning => "warning",
            DriftStatus::Drifted => "drifted",
        }
    }
}

/// Reads a number. Null, which JSON has instead of NaN, becomes NaN.
pub(in crate::monitor) fn number_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
