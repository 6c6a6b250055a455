//! `[monitoring]` and `[feedback]` of a server, and `[monitoring]` of a model.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Token;

/// `[monitoring]` of a server: content and windows of its monitoring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerMonitoringConfig {
    /// True if features and predictions are counted.
    pub enabled: bool,
    /// Length of the sliding window over which latency quantiles are computed.
    pub quantile_window_ms: u64,
    /// Minimum length of the window over which drift is computed.
    pub drift_window_ms: u64,
    /// Number of instances that the window should have. A window with fewer is extended by hours, up to a week.
    pub drift_window_rows: u64,
    /// The drift series in `/metrics`: the features that drift most, or all features with all their bins.
    pub drift_series: DriftSeries,
    /// Maximum number of features, and of parts of predictions, that `/metrics` has for each version if `drift_series`
    /// is `"top"`.
    pub top_features: usize,
    /// True if the metrics of versions are also shown under the names of the Triton Inference Server, for its dashboards.
    pub triton_metrics: bool,
}

/// Choice of the drift series in `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftSeries {
    /// The drift of the features that drift most, as computed by each replica.
    Top,
    /// The drift of all features, and the counts of all bins, which can be summed over replicas.
    All,
}

/// `[feedback]`: limits of the feedback that is accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedbackConfig {
    /// Secret key that signs prediction ids. Default: a key that is stored with the state.
    #[serde(skip_serializing)]
    pub key: Option<Token>,
    /// Maximum age of a prediction for which feedback is accepted.
    pub max_delay_ms: u64,
    /// Maximum age of a prediction whose feedback can be corrected: later feedback replaces earlier feedback. 0 allows
    /// no corrections.
    pub correction_window_ms: u64,
    /// Number of remembered feedback items, the most recent ones. A remembered item is not counted twice.
    pub remembered: NonZeroUsize,
}

/// `[monitoring]` in a `model.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitoringConfig {
    /// Maximum number of features whose drift is measured. If the baseline has more, the first ones are used.
    pub max_features: usize,
    /// Names of features whose drift is not measured.
    pub ignored_features: Vec<String>,
    /// Minimum length of the window over which drift is computed; by default, the server's.
    pub drift_window_ms: Option<u64>,
    /// Number of instances that the window should have; by default, the server's.
    pub drift_window_rows: Option<u64>,
    /// Confidence of a prediction below which it counts as low.
    pub low_confidence: f32,
    /// Business metrics that feedback may report, by name.
    pub business: BTreeMap<String, BusinessKind>,
}

/// Aggregation of the amounts of a business metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BusinessKind {
    /// Sum, as for revenue.
    Sum,
    /// Mean, as for the value of a basket.
    Mean,
    /// Share of `true`, as for conversions.
    Rate,
}

/// [`ServerMonitoringConfig`], with its windows as durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonitoringWindows {
    /// True if features and predictions are counted.
    pub enabled: bool,
    /// Length of the sliding window over which latency quantiles are computed.
    pub quantiles: Duration,
    /// Minimum length of the window over which drift is computed.
    pub drift: Duration,
    /// Number of instances that this window should have. A window with fewer is extended by hours, up to a week.
    pub drift_rows: u64,
    /// Maximum number of features of a version whose drift is in `/metrics`. `None` for all features, with their bins.
    pub top_features: Option<usize>,
    /// True if the metrics of versions are also shown under the names of the Triton Inference Server.
    pub triton_metrics: bool,
}

/// Maximum of `max_features`. Each feature takes about 2 kB per thread, and about 2 kB per hour of history.
const MAX_FEATURES: usize = 4096;
/// Maximum number of business metrics of a model. Each has three series.
const MAX_BUSINESS_METRICS: usize = 32;

impl Default for ServerMonitoringConfig {
    fn default() -> Self {
        ServerMonitoringConfig {
            enabled: true,
            quantile_window_ms: 300_000,
            drift_window_ms: 3_600_000,
            drift_window_rows: 500,
            // A feature with its bins has about 35 series. 64 features in 30 versions would be 10 MB per scrape.
            drift_series: DriftSeries::Top,
            // `leeway drift` shows the features that are left out here.
            top_features: 10,
            triton_metrics: false,
        }
    }
}

impl Default for FeedbackConfig {
    fn default() -> Self {
        // Labels are reviewed within days. The measures of a past week should not change afterwards.
        let correction_window_ms = 7 * 86_400_000;
        let max_delay_ms = 30 * 86_400_000;
        FeedbackConfig { key: None, max_delay_ms, correction_window_ms, remembered: super::count::non_zero(1_000_000) }
    }
}

impl Default for MonitoringConfig {
    fn default() -> Self {
        MonitoringConfig {
            max_features: 128,
            ignored_features: Vec::new(),
            drift_window_ms: None,
            drift_window_rows: None,
            low_confidence: 0.5,
            business: BTreeMap::new(),
        }
    }
}

impl Default for MonitoringWindows {
    fn default() -> Self {
        ServerMonitoringConfig::default().windows()
    }
}

impl ServerMonitoringConfig {
    /// Returns the settings of monitoring, with the windows as durations.
    pub fn windows(&self) -> MonitoringWindows {
        MonitoringWindows {
            enabled: self.enabled,
            quantiles: Duration::from_millis(self.quantile_window_ms),
            drift: Duration::from_millis(self.drift_window_ms),
            drift_rows: self.drift_window_rows,
            top_features: match self.drift_series {
                DriftSeries::Top => Some(self.top_features),
                DriftSeries::All => None,
            },
            triton_metrics: self.triton_metrics,
        }
    }

    pub(super) fn problem(&self) -> Option<String> {
        within("monitoring.quantile_window_ms", self.quantile_window_ms, 10_000, 3_600_000)
            .or_else(|| drift_window(Some(self.drift_window_ms), Some(self.drift_window_rows)))
            .or_else(|| within("monitoring.top_features", self.top_features as u64, 1, MAX_FEATURES as u64))
    }
}

impl FeedbackConfig {
    /// [`FeedbackConfig::max_delay_ms`] as a duration.
    pub fn max_delay(&self) -> Duration {
        Duration::from_millis(self.max_delay_ms)
    }

    /// [`FeedbackConfig::correction_window_ms`] as a duration.
    pub fn correction_window(&self) -> Duration {
        Duration::from_millis(self.correction_window_ms)
    }

    pub(super) fn problem(&self) -> Option<String> {
        const MAX_MS: u64 = 366 * 86_400_000;
        const MAX_REMEMBERED: usize = 100_000_000;
        let too_many = || {
            (self.remembered.get() > MAX_REMEMBERED)
                .then(|| format!("feedback.remembered: {} is too many, at most {MAX_REMEMBERED}", self.remembered))
        };
        within("feedback.max_delay_ms", self.max_delay_ms, 1_000, MAX_MS)
            .or_else(|| within("feedback.correction_window_ms", self.correction_window_ms, 0, MAX_MS))
            .or_else(too_many)
    }
}

impl MonitoringConfig {
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.max_features > MAX_FEATURES {
            return Err(format!("monitoring.max_features: {} is too many, at most {MAX_FEATURES}", self.max_features));
        }
        if let Some(problem) = drift_window(self.drift_window_ms, self.drift_window_rows) {
            return Err(problem);
        }
        if !(0.0..=1.0).contains(&self.low_confidence) {
            return Err(format!("monitoring.low_confidence: found {}, expected 0 to 1", self.low_confidence));
        }
        if self.business.len() > MAX_BUSINESS_METRICS {
            let count = self.business.len();
            return Err(format!("monitoring.business: {count} metrics are too many, at most {MAX_BUSINESS_METRICS}"));
        }
        let is_name =
            |name: &str| (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match self.business.keys().find(|name| !is_name(name)) {
            Some(name) => {
                Err(format!("monitoring.business: {name:?} is not a name of 1 to 64 letters, digits or underscores"))
            }
            None => Ok(()),
        }
    }
}

fn drift_window(length_ms: Option<u64>, rows: Option<u64>) -> Option<String> {
    let length = length_ms.and_then(|ms| within("monitoring.drift_window_ms", ms, 300_000, 7 * 86_400_000));
    length.or_else(|| rows.and_then(|rows| within("monitoring.drift_window_rows", rows, 1, 1_000_000_000)))
}

impl BusinessKind {
    /// Returns the name of this kind of business metric in `/metrics`.
    pub fn name(self) -> &'static str {
        match self {
            BusinessKind::Sum => "sum",
            BusinessKind::Mean => "mean",
            BusinessKind::Rate => "rate",
        }
    }
}

fn within(key: &str, found: u64, least: u64, most: u64) -> Option<String> {
    (!(least..=most).contains(&found)).then(|| format!("{key}: found {found}, expected {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &MonitoringConfig, problem: &str) {
        assert_eq!(config.validate().err().as_deref().unwrap_or_default(), problem);
    }

    #[test]
    fn what_cannot_be_watched_is_refused() {
        let metric = |name: &str| BTreeMap::from([(name.to_owned(), BusinessKind::Sum)]);
        check(&MonitoringConfig { business: metric("revenue"), ..Default::default() }, "");
        check(
            &MonitoringConfig { business: metric("re venue"), ..Default::default() },
            "monitoring.business: \"re venue\" is not a name of 1 to 64 letters, digits or underscores",
        );
        check(
            &MonitoringConfig { low_confidence: f32::NAN, ..Default::default() },
            "monitoring.low_confidence: found NaN, expected 0 to 1",
        );
        check(
            &MonitoringConfig { max_features: 5000, ..Default::default() },
            "monitoring.max_features: 5000 is too many, at most 4096",
        );
    }

    #[test]
    fn windows_have_limits() {
        let default = ServerMonitoringConfig::default();
        assert_eq!(default.problem(), None);
        let short = ServerMonitoringConfig { drift_window_ms: 1, ..default };
        assert_eq!(short.problem().unwrap(), "monitoring.drift_window_ms: found 1, expected 300000 to 604800000");
        let forever = FeedbackConfig { max_delay_ms: u64::MAX, ..Default::default() };
        assert!(forever.problem().unwrap().starts_with("feedback.max_delay_ms"));
    }
}
