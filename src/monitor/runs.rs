//! What the workers of a version are running at the moment: since when, and for how many requests that nobody waits for any
//! more. One store when a run begins, and one when it ends; whoever asks reads without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The runs of the workers of one version.
#[derive(Debug)]
pub struct Runs {
    epoch: Instant,
    workers: Box<[WorkerRun]>,
}

/// The run of one worker.
#[derive(Debug, Default)]
struct WorkerRun {
    /// When it began, in nanoseconds since the epoch and one more; 0 without a run.
    since: AtomicU64,
    /// Requests in it that nobody waits for.
    abandoned: AtomicU64,
}

impl Runs {
    /// So many workers without a run. The epoch is before all of theirs.
    pub fn of(workers: usize, epoch: Instant) -> Runs {
        Runs { epoch, workers: (0..workers).map(|_| WorkerRun::default()).collect() }
    }

    /// A worker begins a run.
    pub fn begin(&self, worker: usize, now: Instant) {
        let Some(run) = self.workers.get(worker) else { return };
        let since = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX - 1) + 1;
        run.abandoned.store(0, Relaxed);
        run.since.store(since, Relaxed);
    }

    /// A worker has ended its run.
    pub fn end(&self, worker: usize) {
        let Some(run) = self.workers.get(worker) else { return };
        run.since.store(0, Relaxed);
        run.abandoned.store(0, Relaxed);
    }

    /// Nobody waits any more for a request that a worker runs.
    pub fn abandon(&self, worker: usize) {
        if let Some(run) = self.workers.get(worker) {
            run.abandoned.fetch_add(1, Relaxed);
        }
    }

    /// How long the oldest run has been going on; `None` without a run.
    pub fn oldest(&self) -> Option<Duration> {
        self.ages().flatten().max()
    }

    /// How long all workers have been in the runs that they are in; `None` if one is free.
    pub fn all_busy_for(&self) -> Option<Duration> {
        // `None` is less than any age.
        self.ages().min().flatten()
    }

    /// How many requests are run though nobody waits for them.
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
