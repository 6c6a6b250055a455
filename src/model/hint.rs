//! How things are in the queue, for those who look without its lock: just enough to tell that there is time in plenty.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// In nanoseconds.
#[derive(Debug)]
pub(super) struct Hint {
    epoch: Instant,
    /// What the last request that was let in was predicted to take.
    predicted: AtomicU64,
    /// When the first worker is expected to be free, after the epoch; never, if one is free.
    free_at: AtomicU64,
}

impl Hint {
    pub(super) fn new() -> Hint {
        Hint { epoch: Instant::now(), predicted: AtomicU64::new(0), free_at: AtomicU64::new(u64::MAX) }
    }

    /// Whether so much more time is left than requests were predicted to take, and than workers are overdue, that nobody
    /// needs to look closer.
    pub(super) fn is_ample(&self, left: Duration, now: Instant) -> bool {
        const AMPLE: u64 = 4;
        let overdue = nanos(now.saturating_duration_since(self.epoch)).saturating_sub(self.free_at.load(Relaxed));
        nanos(left) > AMPLE.saturating_mul(self.predicted.load(Relaxed).max(overdue))
    }

    /// A request was let in that is predicted to take so long.
    pub(super) fn note_predicted(&self, predicted: Duration) {
        self.predicted.store(nanos(predicted), Relaxed);
    }

    /// The first worker is expected to be free then; `None` if one is.
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
        let (hint, ms) = (Hint::new(), Duration::from_millis);
        let now = hint.epoch + ms(1_000);
        assert!(hint.is_ample(ms(1), now));
        assert!(!hint.is_ample(ms(0), now));
        hint.note_predicted(ms(10));
        assert!(hint.is_ample(ms(41), now) && !hint.is_ample(ms(40), now));
        hint.note_free_at(Some(now - ms(20)));
        assert!(hint.is_ample(ms(81), now) && !hint.is_ample(ms(80), now));
        hint.note_free_at(None);
        assert!(hint.is_ample(ms(41), now));
    }
}
