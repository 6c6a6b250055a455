//! `[log]`: content and format of the log.

use serde::{Deserialize, Serialize};

/// `[log]`: level and format of the log, which is written to standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Level of the least severe lines that are written.
    pub level: LogLevel,
    /// Format of a line.
    pub format: LogFormat,
    /// True if the lines of a request have the ids of its trace, from the header `traceparent`.
    pub traceparent: bool,
    /// Requests that have a line of their own.
    pub access: AccessLogging,
    /// Share of the answered requests that have a line with `access = "all"`: above 0, up to 1. All others have one.
    pub access_sample: f64,
}

/// Requests that have a line of their own in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogging {
    /// None.
    Off,
    /// Requests that were answered with an error, and those whose client has left.
    Errors,
    /// All, or a sample.
    All,
}

/// The severity of a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Format of a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// `Human` on a terminal, `Json` otherwise.
    Auto,
    /// Text for people.
    Human,
    /// One JSON object per line.
    Json,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig {
            level: LogLevel::Info,
            format: LogFormat::Auto,
            traceparent: false,
            access: AccessLogging::Off,
            access_sample: 1.0,
        }
    }
}

impl LogConfig {
    /// Returns the problem with these settings, if there is one.
    pub(super) fn problem(&self) -> Option<String> {
        let share = self.access_sample;
        (!(share > 0.0 && share <= 1.0))
            .then(|| format!("log.access_sample: {share} is no share of the requests; it is above 0, and at most 1"))
    }
}
