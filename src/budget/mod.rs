//! The time budget of each request, and the memory budget of all requests.
//!
//! A [`LatencyBudget`] divides the time of a request among the parts of the request path. `clock.rs` has the
//! [`StageClock`] that travels with a request: the only code that times, limits and traces a stage. `heavy_work.rs`
//! moves stages that take too long off the threads that serve connections. `memory.rs` limits the bytes that are held
//! for all callers together, and `arrived_bytes.rs` collects the bytes of an arriving body.
//!
//! This module does not depend on HTTP or on models. The limits of stages are decided here; the stages themselves have
//! no clock.

#![warn(missing_docs)]

mod arrived_bytes;
mod clock;
mod heavy_work;
mod memory;

use std::time::{Duration, Instant};

pub use self::arrived_bytes::ArrivedBytes;
pub use self::clock::{QueueTimings, StageClock, StageTime, TimeLimits, timed};
pub use self::heavy_work::{BlockingThreads, StageCost, StageCosts};
pub use self::memory::{Held, HeldBytes, MemoryBudget};
use crate::stage::Stage;

/// Division of the time of a request. The rest of the total is the buffer for tail latency.
///
/// `total` is the time from the client's point of view. `network` is the part for the wire; the server itself has
/// `total − network` from the moment the head of the request has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencyBudget {
    /// From the first byte that the client sends to the last byte that it receives.
    pub total: Duration,
    /// On the wire, in both directions. The server can measure only the arrival of the body.
    pub network: Duration,
    /// From the body to the model's inputs.
    pub preprocess: Duration,
    /// In the queue and in the run.
    pub inference: Duration,
    /// From the model's outputs to the response's text.
    pub postprocess: Duration,
    /// Treatment of a stage that takes longer than its part.
    pub enforce: Enforce,
}

/// Granularity at which a latency budget is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforce {
    /// The total. A stage that takes longer than its part uses the buffer, and is counted as an overrun.
    Total,
    /// Each part. A stage that takes longer than its part ends the request.
    Stages,
}

/// The moment after which nobody waits for the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

// ===== impl LatencyBudget =====

impl Default for LatencyBudget {
    fn default() -> Self {
        LatencyBudget::DEFAULT
    }
}

impl LatencyBudget {
    /// The budget that is used if none is configured: 200 ms = 15 + 20 + 100 + 20, and 45 for the tail.
    pub const DEFAULT: LatencyBudget = LatencyBudget {
        total: Duration::from_millis(200),
        network: Duration::from_millis(15),
        preprocess: Duration::from_millis(20),
        inference: Duration::from_millis(100),
        postprocess: Duration::from_millis(20),
        enforce: Enforce::Total,
    };

    /// Returns the buffer for the tail: the total minus the parts.
    ///
    /// ```
    /// use leeway::budget::LatencyBudget;
    /// assert_eq!(LatencyBudget::DEFAULT.tail().as_millis(), 45);
    /// ```
    pub fn tail(&self) -> Duration {
        self.total.saturating_sub(self.network + self.preprocess + self.inference + self.postprocess)
    }

    /// Returns the part of the budget for a stage. The queue and the run share one part.
    pub fn part(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Network => self.network,
            Stage::Preprocess => self.preprocess,
            Stage::Queue | Stage::Inference => self.inference,
            Stage::Postprocess => self.postprocess,
        }
    }

    /// Returns the time for the queue and the run if every other stage uses its whole part.
    pub fn queue_and_run(&self) -> Duration {
        match self.enforce {
            Enforce::Total => self.inference + self.tail(),
            Enforce::Stages => self.inference,
        }
    }

    /// Returns the budget for a caller that waits for `client_timeout`. Parts shrink in proportion, and never grow.
    ///
    /// ```
    /// use std::time::Duration;
    /// use leeway::budget::LatencyBudget;
    /// let half = LatencyBudget::DEFAULT.within(Some(Duration::from_millis(100)));
    /// assert_eq!((half.total.as_millis(), half.inference.as_millis()), (100, 50));
    /// let more = LatencyBudget::DEFAULT.within(Some(Duration::from_secs(9)));
    /// assert_eq!(more, LatencyBudget::DEFAULT);
    /// ```
    pub fn within(self, client_timeout: Option<Duration>) -> LatencyBudget {
        match client_timeout {
            Some(client_timeout) if client_timeout < self.total => {
                let share = |part: Duration| part.mul_f64(client_timeout.as_secs_f64() / self.total.as_secs_f64());
                LatencyBudget {
                    total: client_timeout,
                    network: share(self.network),
                    preprocess: share(self.preprocess),
                    inference: share(self.inference),
                    postprocess: share(self.postprocess),
                    enforce: self.enforce,
                }
            }
            _ => self,
        }
    }

    /// Returns the time that the server itself has: the total without the part for the network.
    pub fn on_the_server(&self) -> Duration {
        self.total.saturating_sub(self.network)
    }
}

// ===== impl Deadline =====

impl Deadline {
    /// Returns the deadline that is `limit` after `start`.
    pub fn after(start: Instant, limit: Duration) -> Deadline {
        Deadline(start + limit)
    }

    /// Returns true if the deadline has passed at `now`.
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use leeway::budget::Deadline;
    /// let start = Instant::now();
    /// let deadline = Deadline::after(start, Duration::from_millis(5));
    /// assert!(!deadline.has_passed(start + Duration::from_millis(4)));
    /// assert!(deadline.has_passed(start + Duration::from_millis(5)));
    /// ```
    pub fn has_passed(self, now: Instant) -> bool {
        now >= self.0
    }

    /// Returns the time that is left at `now`; zero once the deadline has passed.
    pub fn left(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Returns the deadline as an instant.
    pub fn instant(self) -> Instant {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budgets() -> impl Strategy<Value = LatencyBudget> {
        (1u64..10_000, prop::array::uniform4(0u64..2_000)).prop_map(|(spare, parts)| {
            let [network, preprocess, inference, postprocess] = parts.map(Duration::from_millis);
            let total = network + preprocess + inference + postprocess + Duration::from_millis(spare);
            LatencyBudget { total, network, preprocess, inference, postprocess, enforce: Enforce::Total }
        })
    }

    proptest! {
        #[test]
        fn the_parts_and_the_tail_are_the_total(budget in budgets()) {
            let parts: Duration = [Stage::Network, Stage::Preprocess, Stage::Inference, Stage::Postprocess]
                .map(|stage| budget.part(stage)).into_iter().sum();
            prop_assert_eq!(parts + budget.tail(), budget.total);
        }

        #[test]
        fn nobody_gets_more_than_the_budget_or_than_they_asked_for(budget in budgets(), timeout_us in 1u64..20_000_000) {
            let client_timeout = Duration::from_micros(timeout_us);
            let asked = budget.within(Some(client_timeout));
            prop_assert_eq!(asked.total, budget.total.min(client_timeout));
            for stage in Stage::ALL {
                prop_assert!(asked.part(stage) <= budget.part(stage));
            }
            // Rounding makes the sum of the parts larger than the total by at most a nanosecond for each part.
            let parts = asked.network + asked.preprocess + asked.inference + asked.postprocess;
            prop_assert!(parts <= asked.total + Duration::from_nanos(4));
            prop_assert_eq!(asked.within(Some(client_timeout)), asked);
        }

        #[test]
        fn time_left_and_time_spent_are_the_limit(limit_us in 0u64..1_000_000, spent_us in 0u64..2_000_000) {
            let start = Instant::now();
            let (limit, spent) = (Duration::from_micros(limit_us), Duration::from_micros(spent_us));
            let deadline = Deadline::after(start, limit);
            prop_assert_eq!(deadline.left(start + spent), limit.saturating_sub(spent));
            prop_assert_eq!(deadline.has_passed(start + spent), spent >= limit);
        }
    }
}
