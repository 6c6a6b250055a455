//! Recording of requests: outcomes, durations of stages, and use of budgets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event_counts::Routing;
use super::labels::{Outcome, RequestPart, ShedReason, Unanswered};
use super::quantiles::Timed;
use super::shards::LocalShard;
use super::version_metrics::HANDLES;
use super::version_recorder::VersionRecorder;
use crate::budget::StageClock;
use crate::error::Error;
use crate::stage::Stage;

/// Guard that counts a request as in flight until it is dropped. If no outcome was recorded by then, the request counts
/// as abandoned.
#[derive(Debug)]
pub struct RequestGuard {
    recorder: Arc<VersionRecorder>,
    outcome: Outcome,
    routing: Routing,
}

/// Guard of a response. It is dropped at the first byte of the response, and then records the duration of the request.
#[derive(Debug)]
pub struct Delivery {
    recorder: Arc<VersionRecorder>,
    started: Instant,
}

// ===== impl VersionRecorder =====

impl VersionRecorder {
    /// Begins recording a request that has reached this version.
    pub fn request(self: &Arc<Self>, routing: Routing) -> RequestGuard {
        self.metrics.cells.local().add(HANDLES.requests.in_flight, 1);
        RequestGuard { recorder: Arc::clone(self), outcome: Outcome::Abandoned, routing }
    }

    /// Records the total duration of an answered request, up to the first byte of the response.
    pub(super) fn delivered(&self, total: Duration) {
        self.took(&self.metrics.cells.local(), RequestPart::Total, total);
    }

    fn took(&self, shard: &LocalShard<'_>, part: RequestPart, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // Edges are in whole microseconds, so rounding up never moves a value across an edge.
        shard.observe_with_sum(self.metrics.durations(part), nanos.div_ceil(1000), nanos);
        self.latencies.observe(Timed::Answered(part), took);
    }
}

// ===== impl RequestGuard =====

impl RequestGuard {
    /// Records that the request is answered with predictions, and the durations of its stages on the clock. The
    /// returned guard records the total duration.
    pub fn succeeded(mut self, clock: &StageClock) -> Delivery {
        self.outcome = Outcome::Ok;
        let shard = self.recorder.metrics.cells.local();
        let timings = clock.timings();
        for stage in Stage::ALL {
            self.recorder.took(&shard, stage.into(), timings.of(stage));
        }
        spent(&shard, clock);
        if self.routing == Routing::BySplit && clock.total() > self.recorder.slow_above() {
            shard.add(HANDLES.guardrails.slow, 1);
        }
        Delivery { recorder: Arc::clone(&self.recorder), started: clock.started() }
    }

    /// Records that the request was refused or failed.
    pub fn failed(mut self, clock: &StageClock, error: &Error) {
        self.outcome = Outcome::from(error);
        let unanswered = if self.outcome == Outcome::Shed { Unanswered::Shed } else { Unanswered::Failed };
        self.recorder.latencies.observe(Timed::Unanswered(unanswered), clock.total());
        let shard = self.recorder.metrics.cells.local();
        if let Some(reason) = ShedReason::of(error) {
            shard.add(HANDLES.budget.shed.of(reason), 1);
        }
        if let Some(stage) = expired_in(error) {
            shard.add(HANDLES.budget.expired.of(stage), 1);
        }
        if self.routing == Routing::BySplit && matches!(error.cause(), Error::NonFiniteOutput { .. }) {
            shard.add(HANDLES.guardrails.non_finite, 1);
        }
        spent(&shard, clock);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        // A panic in a stage also drops the guard, although the client has not gone away.
        if std::thread::panicking() {
            self.outcome = Outcome::ServerError;
        }
        let shard = self.recorder.metrics.cells.local();
        shard.add(HANDLES.requests.in_flight, 1u64.wrapping_neg());
        shard.add(HANDLES.requests.outcomes.of(self.outcome), 1);
        if self.routing == Routing::BySplit {
            shard.add(HANDLES.guardrails.outcomes.of(self.outcome), 1);
            self.recorder.note_streak(self.outcome);
        }
    }
}

// ===== impl Delivery =====

impl Drop for Delivery {
    fn drop(&mut self) {
        self.recorder.delivered(self.started.elapsed());
    }
}

// ===== the budget of a request =====

/// Returns the stage that a request was in when its deadline passed; `None` if the error is not about its deadline.
fn expired_in(error: &Error) -> Option<Stage> {
    match error.cause() {
        Error::Expired { stage, .. } => Some(*stage),
        Error::RequestTooSlow { .. } => Some(Stage::Network),
        _ => None,
    }
}

/// Records the remaining budget of a request, its overruns and the accuracy of its predicted time, for every outcome.
fn spent(shard: &LocalShard<'_>, clock: &StageClock) {
    // Includes requests that were not answered in time, because their predicted times were the least accurate.
    if let Some(predicted) = clock.predicted().filter(|predicted| !predicted.is_zero()) {
        let (timings, ran) = (clock.timings(), clock.left_at(Stage::Inference).is_some());
        if ran {
            let ratio = thousandths(timings.of(Stage::Queue) + timings.of(Stage::Inference), predicted);
            shard.observe(HANDLES.budget.prediction_ratio, ratio);
        }
    }
    for stage in Stage::ALL {
        if let Some(left) = clock.left_at(stage) {
            shard.observe(HANDLES.budget.remaining.of(stage), thousandths(left, clock.budget().total));
        }
    }
    for stage in clock.overruns() {
        shard.add(HANDLES.budget.overruns.of(stage), 1);
    }
}

/// Returns the ratio of `part` to `whole` in thousandths, rounded up.
fn thousandths(part: Duration, whole: Duration) -> u64 {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    nanos(part).saturating_mul(1000).div_ceil(nanos(whole).max(1))
}
