//! `[health]` and `[shutdown]`: detection of runs that do not end, and the shutdown of a server.

use std::num::NonZeroU64;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[health]`: detection of runs that do not end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Time after which a version counts as stuck: all its workers have been in their current runs for that long. Its
    /// model is then not ready. Default: ten times the budget, and at least 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck_after_ms: Option<NonZeroU64>,
    /// Time after which `/livez` fails because all workers of a version have been in their current runs for that long.
    /// The orchestrator then restarts the process. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub live_fails_after_ms: Option<NonZeroU64>,
}

/// `[shutdown]`: durations of a server's shutdown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// Time after SIGTERM in which the server reports not ready but still serves, so that load balancers notice.
    pub deregistration_delay_ms: u64,
    /// Time after the deregistration delay in which requests in flight may finish.
    pub grace_period_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        ShutdownConfig { deregistration_delay_ms: 5_000, grace_period_ms: 30_000 }
    }
}

impl HealthConfig {
    /// Returns [`HealthConfig::stuck_after_ms`], or its default for a version with this total budget.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leeway::config::HealthConfig;
    /// let limit = |budget_ms| HealthConfig::default().stuck_after(Duration::from_millis(budget_ms)).as_secs();
    /// assert_eq!((limit(200), limit(10_000)), (30, 100));
    /// ```
    pub fn stuck_after(&self, budget: Duration) -> Duration {
        const MIN: Duration = Duration::from_secs(30);
        self.stuck_after_ms.map_or_else(|| MIN.max(10 * budget), |limit| Duration::from_millis(limit.get()))
    }

    /// [`HealthConfig::live_fails_after_ms`] as a duration.
    pub fn live_fails_after(&self) -> Option<Duration> {
        self.live_fails_after_ms.map(|limit| Duration::from_millis(limit.get()))
    }
}

impl ShutdownConfig {
    /// [`ShutdownConfig::deregistration_delay_ms`] as a duration.
    pub fn deregistration_delay(&self) -> Duration {
        Duration::from_millis(self.deregistration_delay_ms)
    }

    /// [`ShutdownConfig::grace_period_ms`] as a duration.
    pub fn grace_period(&self) -> Duration {
        Duration::from_millis(self.grace_period_ms)
    }
}
