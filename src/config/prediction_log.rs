//! `[prediction_log]` of a server, and `[prediction_log]` of a model.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[prediction_log]` of a server: a sample of the requests, with their predictions, as Parquet files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PredictionLogConfig {
    /// Folder of the files. Without it, nothing is logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Share of the requests that are logged, 0 to 1.
    pub sample: f64,
    /// True if instances are logged as they were sent.
    pub instances: bool,
    /// Names of features, of members of instances and of columns of the log that are never written.
    pub redact: Vec<String>,
    /// Number of rows after which a file is written.
    pub file_rows: usize,
    /// Maximum time from the first row of a file until it is written.
    pub file_ms: u64,
    /// Maximum size of all files together, in mebibytes. The oldest files are removed.
    pub max_mb: u64,
    /// Maximum memory of the rows that are not in a file yet, in mebibytes. Rows beyond it are dropped and counted.
    pub queue_mb: usize,
}

/// `[prediction_log]` in a `model.toml`: settings that replace those of the server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelPredictionLogConfig {
    /// Share of the requests that are logged; by default, the server's.
    pub sample: Option<f64>,
    /// True if instances are logged as they were sent; by default, as the server says.
    pub instances: Option<bool>,
    /// Names that are never written, in addition to those of the server.
    pub redact: Vec<String>,
}

/// Maximum number of names in `redact`.
const MAX_REDACTED: usize = 1_000;

impl Default for PredictionLogConfig {
    fn default() -> Self {
        PredictionLogConfig {
            path: None,
            sample: 0.1,
            instances: true,
            redact: Vec::new(),
            file_rows: 50_000,
            file_ms: 600_000,
            max_mb: 10_240,
            queue_mb: 64,
        }
    }
}

impl PredictionLogConfig {
    /// [`PredictionLogConfig::file_ms`] as a duration.
    pub fn file_time(&self) -> Duration {
        Duration::from_millis(self.file_ms)
    }

    pub(super) fn problem(&self) -> Option<String> {
        let within = |key: &str, found: u64, least: u64, most: u64| {
            (!(least..=most).contains(&found))
                .then(|| format!("prediction_log.{key}: found {found}, expected {least} to {most}"))
        };
        sample_problem(Some(self.sample))
            .or_else(|| redact_problem(&self.redact))
            .or_else(|| within("file_rows", self.file_rows as u64, 1, 10_000_000))
            .or_else(|| within("file_ms", self.file_ms, 100, 86_400_000))
            .or_else(|| within("max_mb", self.max_mb, 1, 1 << 30))
            .or_else(|| within("queue_mb", self.queue_mb as u64, 1, 1024))
            .or_else(|| {
                let is_empty = self.path.as_ref().is_some_and(|path| path.as_os_str().is_empty());
                is_empty.then(|| "prediction_log.path: it is empty, expected a folder".to_owned())
            })
    }
}

impl ModelPredictionLogConfig {
    /// Returns true if nothing is set.
    pub fn is_default(&self) -> bool {
        *self == ModelPredictionLogConfig::default()
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        sample_problem(self.sample).or_else(|| redact_problem(&self.redact)).map_or(Ok(()), Err)
    }
}

fn sample_problem(sample: Option<f64>) -> Option<String> {
    let wrong = sample.filter(|share| !(0.0..=1.0).contains(share))?;
    Some(format!("prediction_log.sample: found {wrong}, expected a share of the requests, 0 to 1"))
}

fn redact_problem(names: &[String]) -> Option<String> {
    if names.len() > MAX_REDACTED {
        return Some(format!("prediction_log.redact: {} names are too many, at most {MAX_REDACTED}", names.len()));
    }
    let unused = names.iter().any(String::is_empty);
    unused.then(|| "prediction_log.redact: an empty name, expected the name of a feature or of a column".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_limits() {
        let default = PredictionLogConfig::default();
        let check = |config: &PredictionLogConfig, problem: &str| {
            assert_eq!(config.problem().as_deref().unwrap_or_default(), problem);
        };
        check(&default, "");
        check(
            &PredictionLogConfig { sample: f64::NAN, ..default.clone() },
            "prediction_log.sample: found NaN, expected a share of the requests, 0 to 1",
        );
        check(
            &PredictionLogConfig { file_rows: 0, ..default.clone() },
            "prediction_log.file_rows: found 0, expected 1 to 10000000",
        );
        check(
            &PredictionLogConfig { queue_mb: 4096, ..default.clone() },
            "prediction_log.queue_mb: found 4096, expected 1 to 1024",
        );
        check(
            &PredictionLogConfig { redact: vec![String::new()], ..default },
            "prediction_log.redact: an empty name, expected the name of a feature or of a column",
        );
        let model = ModelPredictionLogConfig { sample: Some(1.5), ..Default::default() };
        assert!(model.validate().unwrap_err().starts_with("prediction_log.sample: found 1.5"));
    }
}
