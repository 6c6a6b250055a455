//! Choice of the time of inline runs: at once, or after the other requests that have arrived on the same thread. Pure: no
//! clock, no lock, no I/O.
//!
//! A run costs nearly the same for one request as for several. So a request lets the others go first that have arrived on
//! its thread meanwhile, and all of them share one run. That takes a look at the connections, which is in vain for a lone
//! request. Only a trial shows what is the case: now and then, some requests let the others go first.

/// Number of runs between two trials.
const TRIAL_EVERY: u32 = 2048;

/// Number of runs of a trial, and of each later look at the requests that share runs.
const WINDOW: u32 = 64;

/// Mean number of requests in a run from which waiting for them is better.
const SHARED: f64 = 1.4;

/// Time of the inline runs of a version.
#[derive(Debug, Default)]
pub(super) struct InlineMode {
    begins: Begins,
    /// Number of runs since the last decision.
    runs: u32,
    /// Number of requests in these runs.
    requests: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Begins {
    #[default]
    AtOnce,
    AfterOthers,
}

impl InlineMode {
    /// Returns true if the next run begins after the other requests of its thread.
    pub(super) fn lets_others_go_first(&self) -> bool {
        self.begins == Begins::AfterOthers
    }

    /// Records an inline run of this number of requests.
    pub(super) fn ran(&mut self, requests: usize) {
        self.runs += 1;
        self.requests += requests;
        match self.begins {
            Begins::AtOnce if self.runs >= TRIAL_EVERY => self.decide(Begins::AfterOthers),
            Begins::AfterOthers if self.runs >= WINDOW => {
                let are_shared = self.requests as f64 >= SHARED * f64::from(self.runs);
                self.decide(if are_shared { Begins::AfterOthers } else { Begins::AtOnce });
            }
            _ => {}
        }
    }

    fn decide(&mut self, begins: Begins) {
        *self = InlineMode { begins, runs: 0, requests: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of this many runs that begin at once, if those that let others go first have so many requests.
    fn at_once(mode: &mut InlineMode, runs: usize, requests: impl Fn(usize) -> usize) -> f64 {
        let mut begins_at_once = |run: usize| {
            let waits = mode.lets_others_go_first();
            mode.ran(if waits { requests(run) } else { 1 });
            !waits
        };
        (0..runs).map(&mut begins_at_once).filter(|at_once| *at_once).count() as f64 / runs as f64
    }

    #[test]
    fn lone_requests_are_run_at_once_but_for_the_trials() {
        let mut mode = InlineMode::default();
        assert_eq!(at_once(&mut mode, 10 * (2048 + 64), |_| 1), 2048.0 / (2048.0 + 64.0));
    }

    #[test]
    fn requests_that_share_runs_wait_for_each_other_while_they_do() {
        let mut mode = InlineMode::default();
        assert_eq!(at_once(&mut mode, 2048 + 6400, |run| 1 + run % 2), 2048.0 / (2048.0 + 6400.0));
        // The load is gone.
        assert_eq!(at_once(&mut mode, 64 + 2048, |_| 1), 2048.0 / (64.0 + 2048.0));
    }
}
