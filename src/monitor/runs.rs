//! The current runs of a version's workers: their starts, and the number of abandoned requests in them. Recording is a
//! few stores when a run begins and when it ends; readers take no lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The current runs of the workers of one version.
#[derive(Debug)]
pub struct Runs {
    epoch: Instant,
    workers: Box<[WorkerRun]>,
}

/// The current run of one worker.
#[derive(Debug, Default)]
struct WorkerRun {
    /// Start of the run, as nanoseconds since the epoch plus one; 0 without a run.
    since: AtomicU64,
    /// Number of requests in the run that no caller waits for.
    abandoned: AtomicU64,
}

impl Runs {
    /// Creates the record of `workers` workers, which are not in a run yet. All runs must start after `epoch`.
    pub fn of(workers: usize, epoch: Instant) -> Runs {
        Runs { epoch, workers: (0..workers).map(|_| WorkerRun::default()).collect() }
    }

    /// Records that a worker starts a run.
    pub fn begin(&self, worker: usize, now: Instant) {
        let Some(run) = self.workers.get(worker) else { return };
        let since = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX - 1) + 1;
        run.abandoned.store(0, Relaxed);
        run.since.store(since, Relaxed);
    }

    /// Records that a worker has ended its run.
    pub fn end(&self, worker: usize) {
        let Some(run) = self.workers.get(worker) else { return };
        run.since.store(0, Relaxed);
        run.abandoned.store(0, Relaxed);
    }

    /// Records that the caller of a request in a run no longer waits.
    pub fn abandon(&self, worker: usize) {
        if let Some(run) = self.workers.get(worker) {
            run.abandoned.fetch_add(1, Relaxed);
        }
    }

    /// Returns the age of the oldest run; `None` without a run.
    pub fn oldest(&self) -> Option<Duration> {
        self.ages().flatten().max()
    }

    /// Returns the time for which all workers have been in their current runs; `None` if a worker is free.
    pub fn all_busy_for(&self) -> Option<Duration> {
        // `None` is less than any age.
        self.ages().min().flatten()
    }

    /// Returns the number of requests in runs that no caller waits for.
    pub fn abandoned(&self) -> u64 {
        self.workers.iter().map(|run| run.abandoned.load(Relaxed)).sum()
    }

    fn ages(&self) -> impl Iterator<Item = Option<Duration>> {
        let now = self.epoch.elapsed();
        self.workers.iter().map(move |run| {
            let since = run.since.load(Relaxed).checked_sub(1)?;
            Some(now.saturating_sub(Duration::from_nanos(since)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_run_counts_and_all_are_busy_only_if_none_is_free() {
        let second = Duration::from_secs(1);
        let epoch = Instant::now().checked_sub(100 * second).unwrap();
        let runs = Runs::of(2, epoch);
        assert_eq!((runs.oldest(), runs.all_busy_for()), (None, None));
        runs.begin(0, epoch + 10 * second);
        runs.abandon(0);
        assert!(runs.oldest().unwrap() >= 90 * second);
        assert_eq!((runs.all_busy_for(), runs.abandoned()), (None, 1));
        runs.begin(1, epoch + 60 * second);
        assert!(runs.all_busy_for().is_some_and(|age| (40 * second..90 * second).contains(&age)));
        runs.end(0);
        assert_eq!((runs.all_busy_for(), runs.abandoned()), (None, 0));
        assert!(runs.oldest().is_some_and(|age| (40 * second..90 * second).contains(&age)));
    }
}
