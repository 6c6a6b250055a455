//! Counts of a version's requests over the last minutes.

use std::time::Duration;

use super::history::History;
use super::labels::{Outcome, ShedReason};
use super::version_metrics::{HANDLES, VersionMetrics};

/// Interval at which the counts are stored.
const INTERVAL: Duration = Duration::from_secs(10);
/// Maximum length of a window.
pub(super) const MAX_RECENT: Duration = Duration::from_secs(300);

/// Requests of a version within a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecentRequests {
    /// All requests but those that their callers have to change or did not wait for.
    pub counted: u64,
    /// Requests that were refused for want of time or capacity.
    pub refused: u64,
    /// Requests whose time ran out.
    pub expired: u64,
    /// Requests that the model or the server failed to answer.
    pub failed: u64,
}

/// Counts of requests over the last minutes.
#[derive(Debug)]
pub(super) struct RequestHistory(History<u64>);

impl RequestHistory {
    pub(super) fn new(born: Duration) -> RequestHistory {
        RequestHistory(History::new(born, INTERVAL, MAX_RECENT))
    }

    pub(super) fn tick(&self, now: Duration, metrics: &VersionMetrics) {
        self.0.tick(now, || sums(metrics).into());
    }

    /// Returns the requests of a window that ends now.
    pub(super) fn within(&self, now: Duration, window: Duration, metrics: &VersionMetrics) -> RecentRequests {
        let before = self.0.begin(now, window).counts;
        let before = |index: usize| before.as_ref().and_then(|counts| counts.get(index)).copied().unwrap_or_default();
        let sums = sums(metrics);
        let since = |index: usize| sums[index].saturating_sub(before(index));
        RecentRequests { counted: since(0), refused: since(1), expired: since(2), failed: since(3) }
    }
}

/// Returns the cumulative counts of [`RecentRequests`], in its order.
fn sums(metrics: &VersionMetrics) -> [u64; 4] {
    let of = |outcome: Outcome| metrics.requests(outcome);
    // Requests that are refused because the version is being retired go to another one.
    let retired = metrics.cells.sum(HANDLES.budget.shed.of(ShedReason::ShuttingDown));
    let refused = of(Outcome::Shed).saturating_sub(retired);
    let (expired, failed) = (of(Outcome::Expired), of(Outcome::ModelError) + of(Outcome::ServerError));
    [of(Outcome::Ok) + refused + expired + failed, refused, expired, failed]
}
