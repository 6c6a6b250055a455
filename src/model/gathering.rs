//! Decision whether a request makes its inline run at once, or first lets the other tasks of its thread go on. Pure: no
//! clock, no lock, no I/O.
//!
//! A run costs nearly the same for one request as for several. Under load, the next requests have arrived at their sockets
//! already, but no thread has read them yet. So a request that waits until the other tasks of its thread have had their
//! turn finds more requests to run. A lone request would only lose time. So the outcome decides: now and then, a request
//! gathers in order to learn, and while gathering finds others, all requests gather.

use std::time::Instant;

use super::inline::MAX_HELD;

/// Number of inline runs between two attempts to find other requests.
const ATTEMPT_EVERY: u32 = 32;

/// Number of attempts in a row that find no other request, after which gathering is turned off.
const MAX_ALONE: u32 = 4;

/// State of gathering.
#[derive(Debug, Default)]
pub(super) struct GatheringMode {
    is_on: bool,
    /// Number of runs without gathering since the last attempt.
    runs: u32,
    /// Number of attempts in a row that found no other request.
    alone: u32,
    /// Start of the gathering that is under way.
    since: Option<Instant>,
}

impl GatheringMode {
    /// Returns true if a request is gathering, so that it runs a request that arrives now. One that takes longer than
    /// expected is not waited for.
    pub(super) fn is_under_way(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) < MAX_HELD)
    }

    /// Returns true if a request that could make a run at once should gather.
    pub(super) fn begins(&mut self, now: Instant) -> bool {
        self.runs += 1;
        let begins = self.is_on || self.runs >= ATTEMPT_EVERY;
        if begins {
            self.runs = 0;
            self.since = Some(now);
        }
        begins
    }

    /// Learns from a gathering that found this number of requests.
    pub(super) fn found(&mut self, requests: usize) {
        self.alone = if requests > 1 { 0 } else { self.alone + 1 };
        self.is_on = requests > 1 || (self.is_on && self.alone < MAX_ALONE);
    }

    /// Records that the gathering has ended.
    pub(super) fn ends(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of requests, of this many, that gather when each finds this many requests.
    fn gather(mode: &mut GatheringMode, requests: usize, found: usize) -> usize {
        let now = Instant::now();
        let gathers = |mode: &mut GatheringMode| {
            let begins = mode.begins(now);
            if begins {
                mode.found(found);
                mode.ends();
            }
            begins
        };
        (0..requests).filter(|_| gathers(mode)).count()
    }

    #[test]
    fn lone_requests_rarely_gather_and_under_load_all_do() {
        let mut mode = GatheringMode::default();
        assert_eq!(gather(&mut mode, 320, 1), 10);
        assert_eq!(gather(&mut mode, 320, 2), 320 - 31);
        // The load is gone: after four attempts, requests go at once again.
        assert_eq!(gather(&mut mode, 4 + 320, 1), 4 + 10);
    }

    #[test]
    fn a_gathering_that_takes_long_is_not_waited_for() {
        let (mut mode, now) = (GatheringMode::default(), Instant::now());
        while !mode.begins(now) {}
        assert!(mode.is_under_way(now) && !mode.is_under_way(now + MAX_HELD));
        mode.ends();
        assert!(!mode.is_under_way(now));
    }
}
