//! Where a request's time goes, and how much of it is left.
//!
//! A [`StageClock`] travels with a request. It is the one place that times a stage, bounds it by the
//! request's [`Deadline`] and traces it; a stage itself contains none of this.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::stage::{Stage, Timings};

/// The moment after which nobody waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

/// Times the stages of one request and ends it when its deadline has passed.
#[derive(Debug)]
pub struct StageClock {
    started: Instant,
    deadline: Deadline,
    spent: Timings,
}

// ===== impl Deadline =====

impl Deadline {
    /// The deadline that is `limit` after `start`.
    pub fn after(start: Instant, limit: Duration) -> Deadline {
        Deadline(start + limit)
    }

    /// Whether it has passed at `now`.
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

    /// The deadline as an instant.
    pub fn instant(self) -> Instant {
        self.0
    }
}

// ===== impl StageClock =====

impl StageClock {
    /// A clock for a request whose head was read at `started`.
    pub fn new(started: Instant, deadline: Deadline) -> StageClock {
        StageClock { started, deadline, spent: Timings::default() }
    }

    /// The request's deadline.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// How long each stage has taken.
    pub fn timings(&self) -> Timings {
        self.spent
    }

    /// Time since the request's head was read.
    pub fn total(&self) -> Duration {
        self.started.elapsed()
    }

    /// Runs a stage on this thread. A request that has no time left does not enter it.
    pub fn run<T>(&mut self, stage: Stage, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        if self.deadline.has_passed(begin) {
            return Err(self.expired(stage));
        }
        let done = work();
        let took = begin.elapsed();
        self.spent.set(stage, took);
        tracing::trace!(%stage, ?took, "stage finished");
        done
    }

    /// Waits for the model, up to the deadline. `work` reports its own split into queue and inference,
    /// because only the worker knows when it took the request; `taken` asks when that was.
    pub async fn wait<T>(
        &mut self,
        work: impl Future<Output = Result<(T, Waited)>>,
        taken: impl FnOnce() -> Option<Instant>,
    ) -> Result<T> {
        let begin = Instant::now();
        match tokio::time::timeout_at(self.deadline.instant().into(), work).await {
            Ok(Ok((value, waited))) => {
                self.spent.set(Stage::Queue, waited.queue);
                self.spent.set(Stage::Inference, waited.inference);
                tracing::trace!(?waited, "model finished");
                return Ok(value);
            }
            // Whoever noticed first: the worker, or the timer here.
            Ok(Err(Error::Expired { .. })) | Err(_) => {}
            Ok(Err(error)) => return Err(error),
        }
        let (queue, stage) = match taken() {
            Some(taken) => (taken.saturating_duration_since(begin), Stage::Inference),
            None => (begin.elapsed(), Stage::Queue),
        };
        self.spent.set(Stage::Queue, queue);
        self.spent.set(Stage::Inference, begin.elapsed().saturating_sub(queue));
        Err(self.expired(stage))
    }

    fn expired(&self, stage: Stage) -> Error {
        Error::Expired { stage, spent: self.spent }
    }
}

/// How a worker divided the time it had a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waited {
    /// From the queue's door to the moment a batch was formed.
    pub queue: Duration,
    /// The run of the batch.
    pub inference: Duration,
}
