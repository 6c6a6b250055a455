//! Choice between threads of requests and workers, for a version whose runs are short. Pure: no clock, no lock, no I/O.
//!
//! A run costs nearly the same for one request as for several. The hand-over to a worker costs more than a run, but while
//! the worker wakes up, further requests arrive and share its run. So workers are better as soon as requests share their
//! runs, and only workers show whether they do. A trial of some runs is left to workers now and then.

/// Number of inline runs between two trials.
const TRIAL_EVERY: u32 = 2048;

/// Number of runs of a trial, and of each later look at the runs of workers.
const WINDOW: u32 = 64;

/// Mean number of requests in a run from which workers are better.
const SHARED: f64 = 1.4;

/// Threads that make the short runs of a version.
#[derive(Debug, Default)]
pub(super) struct InlineMode {
    by: By,
    /// Number of runs since the last decision.
    runs: u32,
    /// Number of requests in these runs.
    requests: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum By {
    /// Threads of requests.
    #[default]
    Threads,
    Workers,
}

impl InlineMode {
    /// Returns true if threads of requests make the next run.
    pub(super) fn is_on(&self) -> bool {
        self.by == By::Threads
    }

    /// Records a run of a request's thread.
    pub(super) fn ran_inline(&mut self) {
        self.runs += 1;
        if self.by == By::Threads && self.runs >= TRIAL_EVERY {
            self.decide(By::Workers);
        }
    }

    /// Records a worker's run of this number of requests.
    pub(super) fn ran_on_worker(&mut self, requests: usize) {
        if self.by == By::Threads {
            return;
        }
        self.runs += 1;
        self.requests += requests;
        if self.runs >= WINDOW {
            let are_shared = self.requests as f64 >= SHARED * f64::from(self.runs);
            self.decide(if are_shared { By::Workers } else { By::Threads });
        }
    }

    fn decide(&mut self, by: By) {
        *self = InlineMode { by, runs: 0, requests: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of this many runs that is inline, if each run of a worker has this many requests.
    fn inline_share(mode: &mut InlineMode, runs: usize, requests: impl Fn(usize) -> usize) -> f64 {
        let mut is_inline = |run: usize| {
            let is_on = mode.is_on();
            if is_on {
                mode.ran_inline()
            } else {
                mode.ran_on_worker(requests(run))
            }
            is_on
        };
        (0..runs).map(&mut is_inline).filter(|is_on| *is_on).count() as f64 / runs as f64
    }

    #[test]
    fn lone_requests_are_run_inline_but_for_the_trials() {
        let mut mode = InlineMode::default();
        assert_eq!(inline_share(&mut mode, 10 * (2048 + 64), |_| 1), 2048.0 / (2048.0 + 64.0));
    }

    #[test]
    fn requests_that_share_the_runs_of_workers_are_left_to_them_while_they_do() {
        let mut mode = InlineMode::default();
        assert_eq!(inline_share(&mut mode, 2048 + 6400, |run| 1 + run % 2), 2048.0 / (2048.0 + 6400.0));
        // The load is gone.
        assert_eq!(inline_share(&mut mode, 64 + 2048, |_| 1), 2048.0 / (64.0 + 2048.0));
    }

    /// A worker may make a run while inline runs are on: of a request with many rows, for example.
    #[test]
    fn other_runs_of_workers_say_nothing() {
        let mut mode = InlineMode::default();
        (0..1000).for_each(|_| mode.ran_on_worker(1));
        assert!(mode.is_on());
    }
}
