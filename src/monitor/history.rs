//! A ring of counts taken at regular intervals. It provides the counts at the start of any window up to its length.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

/// History of cumulative counts, taken at intervals of `interval`. Times are relative to the creation of the monitor.
#[derive(Debug)]
pub(super) struct History<T> {
    interval: Duration,
    capacity: usize,
    born: Duration,
    taken: Mutex<VecDeque<Moment<T>>>,
}

/// Cumulative counts at one moment.
#[derive(Debug)]
pub(super) struct Moment<T> {
    pub(super) at: Duration,
    /// `None` if nothing had been counted yet.
    pub(super) counts: Option<Arc<[T]>>,
}

impl<T> History<T> {
    /// Creates a history with enough moments for windows of up to `length`.
    pub(super) fn new(born: Duration, interval: Duration, length: Duration) -> History<T> {
        let capacity = length.as_nanos().div_ceil(interval.as_nanos().max(1)) as usize + 1;
        History { interval, capacity, born, taken: Mutex::new(VecDeque::new()) }
    }

    /// Maximum number of stored moments.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Stores the counts if an interval has passed since the last stored moment. Returns true if they were stored.
    pub(super) fn tick(&self, now: Duration, counts: impl FnOnce() -> Arc<[T]>) -> bool {
        let mut taken = self.taken.lock();
        let last = taken.back().map_or(self.born, |moment| moment.at);
        if now < last + self.interval {
            return false;
        }
        if taken.len() == self.capacity {
            taken.pop_front();
        }
        taken.push_back(Moment { at: now, counts: Some(counts()) });
        true
    }

    /// Returns the start of a window of this length that ends now: the latest stored moment that is at least this long
    /// ago. The window may thus be up to an interval longer. Without such a moment, the window begins at the first
    /// stored moment if the history is full, or else at its creation.
    pub(super) fn begin(&self, now: Duration, window: Duration) -> Moment<T> {
        let taken = self.taken.lock();
        self.begin_among(&taken, now.saturating_sub(window)).0
    }

    /// Returns the start of a window that ends now, as [`History::begin`], and the stored moments within the window.
    pub(super) fn since(&self, now: Duration, window: Duration) -> Vec<Moment<T>> {
        let taken = self.taken.lock();
        let (begin, next) = self.begin_among(&taken, now.saturating_sub(window));
        let within = taken.range(next..).take_while(|moment| moment.at < now);
        [begin].into_iter().chain(within.map(Moment::copy)).collect()
    }

    /// Length of the time for which there are moments.
    pub(super) fn length(&self, now: Duration) -> Duration {
        let taken = self.taken.lock();
        let first = taken.front().filter(|_| taken.len() == self.capacity).map_or(self.born, |moment| moment.at);
        now.saturating_sub(first)
    }

    /// Returns the start of a window, and the index of the next stored moment.
    fn begin_among(&self, taken: &VecDeque<Moment<T>>, wanted: Duration) -> (Moment<T>, usize) {
        let after = taken.partition_point(|moment| moment.at <= wanted);
        match after.checked_sub(1).or(Some(0).filter(|_| taken.len() == self.capacity)) {
            Some(index) => (taken[index].copy(), index + 1),
            None => (Moment { at: self.born, counts: None }, 0),
        }
    }
}

impl<T> Moment<T> {
    fn copy(&self) -> Moment<T> {
        Moment { at: self.at, counts: self.counts.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_window_begins_at_the_last_moment_that_is_as_long_ago() {
        let history = History::new(s(100), s(10), s(40));
        let begin = |now, window| {
            let moment = history.begin(s(now), s(window));
            (moment.at.as_secs(), moment.counts.map(|counts| counts[0]))
        };
        assert_eq!(begin(105, 20), (100, None));
        for now in 101..=155 {
            history.tick(s(now), || [now].into());
        }
        // Taken at 110, 120, 130, 140 and 150.
        assert_eq!(begin(155, 20), (130, Some(130)));
        assert_eq!(begin(155, 15), (140, Some(140)));
        assert_eq!(begin(155, 0), (150, Some(150)));
        assert_eq!(begin(155, 40), (110, Some(110)));
        let since = |now, window| history.since(s(now), s(window)).iter().map(|m| m.at.as_secs()).collect::<Vec<_>>();
        assert_eq!(since(155, 20), [130, 140, 150]);
        // A window may end in the past.
        assert_eq!(since(130, 15), [110, 120]);
        assert_eq!(history.length(s(155)), s(45));
        // Longer than the history: as long as the stored counts.
        assert_eq!(begin(155, 1000), (110, Some(110)));
    }
}
