//! An estimate of the load that can be read without the lock of the queue. It is used only to detect requests that have
//! ample time.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Estimate of the load of a queue, in nanoseconds.
#[derive(Debug)]
pub(super) struct LoadEstimate {
    epoch: Instant,
    /// Predicted time in the queue and the run of the last request with a prediction.
    predicted: AtomicU64,
    /// Time after the epoch at which the first worker is expected to become free; `u64::MAX` if one is free.
    free_at: AtomicU64,
}

impl LoadEstimate {
    pub(super) fn new() -> LoadEstimate {
        LoadEstimate { epoch: Instant::now(), predicted: AtomicU64::new(0), free_at: AtomicU64::new(u64::MAX) }
    }

    /// Returns true if no exact forecast is needed, because `left` is several times as long as the last prediction and
    /// as the time by which workers are overdue.
    pub(super) fn is_ample(&self, left: Duration, now: Instant) -> bool {
        const AMPLE: u64 = 4;
        let overdue = nanos(now.saturating_duration_since(self.epoch)).saturating_sub(self.free_at.load(Relaxed));
        nanos(left) > AMPLE.saturating_mul(self.predicted.load(Relaxed).max(overdue))
    }

    /// Records a request's predicted time in the queue and the run.
    pub(super) fn note_predicted(&self, predicted: Duration) {
        self.predicted.store(nanos(predicted), Relaxed);
    }

    /// Records the time at which the first worker is expected to become free; `None` if one is free.
    pub(super) fn note_free_at(&self, free_at: Option<Instant>) {
        let free_at = free_at.map_or(u64::MAX, |free_at| nanos(free_at.saturating_duration_since(self.epoch)));
        self.free_at.store(free_at, Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_ample_unless_others_took_long_or_a_run_is_overdue() {
        let (load_estimate, ms) = (LoadEstimate::new(), Duration::from_millis);
        let now = load_estimate.epoch + ms(1_000);
        assert!(load_estimate.is_ample(ms(1), now));
        assert!(!load_estimate.is_ample(ms(0), now));
        load_estimate.note_predicted(ms(10));
        assert!(load_estimate.is_ample(ms(41), now) && !load_estimate.is_ample(ms(40), now));
        load_estimate.note_free_at(Some(now - ms(20)));
        assert!(load_estimate.is_ample(ms(81), now) && !load_estimate.is_ample(ms(80), now));
        load_estimate.note_free_at(None);
        assert!(load_estimate.is_ample(ms(41), now));
    }
}
