//! The bounded queue between requests and workers.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::batch::BatchPolicy;
use crate::budget::{Deadline, Stage, Timings, Waited};
use crate::error::{Error, Result};
use crate::monitor::VersionRecorder;
use crate::tensor::Tensors;

/// What a caller is told to wait before it tries a full queue again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A request that waits for the model.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) inputs: Tensors,
    pub(super) deadline: Deadline,
    pub(super) entered: Instant,
    pub(super) taken: Arc<Taken>,
    pub(super) reply: oneshot::Sender<Result<(Tensors, Waited)>>,
}

/// When a worker took a request, for the request to see.
#[derive(Debug, Default)]
pub(super) struct Taken(OnceLock<Instant>);

/// Requests in the order of their arrival.
#[derive(Debug)]
pub(super) struct Queue {
    capacity: NonZeroUsize,
    state: Mutex<State>,
    arrived: Condvar,
    recorder: Arc<VersionRecorder>,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Job>,
    idle_workers: usize,
    door: Door,
}

#[derive(Debug, PartialEq, Eq)]
enum Door {
    Open,
    Closed,
}

// ===== impl Queue =====

impl Queue {
    pub(super) fn new(capacity: NonZeroUsize, recorder: Arc<VersionRecorder>) -> Queue {
        let state = State { waiting: VecDeque::new(), idle_workers: 0, door: Door::Open };
        Queue { capacity, state: Mutex::new(state), arrived: Condvar::new(), recorder }
    }

    /// Puts a request at the end, or says why not.
    pub(super) fn push(&self, job: Job) -> Result<()> {
        let mut state = self.state.lock();
        if state.door == Door::Closed {
            return Err(Error::ShuttingDown);
        }
        if state.waiting.len() >= self.capacity.get() {
            return Err(Error::QueueFull { capacity: self.capacity.get(), retry_after: RETRY_AFTER });
        }
        state.waiting.push_back(job);
        self.recorder.set_queue_depth(state.waiting.len());
        let worker_waits = state.idle_workers > 0;
        drop(state);
        if worker_waits {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits for requests and takes the next batch; `None` once the queue is closed and empty.
    pub(super) fn take(&self, policy: BatchPolicy) -> Option<Vec<Job>> {
        let mut state = self.state.lock();
        loop {
            state.drop_unwanted(Instant::now());
            let count = policy.plan(state.waiting.iter().map(|job| &job.inputs));
            if count > 0 {
                let batch: Vec<Job> = state.waiting.drain(..count).collect();
                self.recorder.set_queue_depth(state.waiting.len());
                return Some(batch);
            }
            if state.door == Door::Closed {
                return None;
            }
            state.idle_workers += 1;
            self.arrived.wait(&mut state);
            state.idle_workers -= 1;
        }
    }

    /// Lets nobody in any more; what is waiting can still be taken.
    pub(super) fn close(&self) {
        self.state.lock().door = Door::Closed;
        self.arrived.notify_all();
    }
}

impl State {
    /// Drops requests that nobody waits for any more: their client has gone, or their time has run out.
    fn drop_unwanted(&mut self, now: Instant) {
        let unwanted = |job: &Job| job.reply.is_closed() || job.deadline.has_passed(now);
        if !self.waiting.iter().any(unwanted) {
            return;
        }
        let (dropped, kept) = std::mem::take(&mut self.waiting).into_iter().partition::<VecDeque<Job>, _>(unwanted);
        self.waiting = kept;
        for job in dropped {
            let mut spent = Timings::default();
            spent.set(Stage::Queue, now.saturating_duration_since(job.entered));
            job.answer(Err(Error::Expired { stage: Stage::Queue, spent }));
        }
    }
}

// ===== impl Job =====

impl Job {
    /// Notes that a worker has taken the request at `now`.
    pub(super) fn take(&self, now: Instant) {
        // Only the first note counts, and a job is taken once.
        let _ = self.taken.0.set(now);
    }

    /// How long the request waited before it was taken at `now`.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.entered)
    }

    /// Answers the request. If it has gone away meanwhile, nobody needs the answer.
    pub(super) fn answer(self, reply: Result<(Tensors, Waited)>) {
        let _ = self.reply.send(reply);
    }
}

impl Taken {
    /// When a worker took the request, if one did.
    pub(super) fn at(&self) -> Option<Instant> {
        self.0.get().copied()
    }
}
