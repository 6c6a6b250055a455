//! The bounded queue between requests and workers.
//!
//! Waking a sleeping thread costs more than a small model's run, twice per request. So while requests come one or
//! two at a time and runs are short, both sides stay awake for a moment instead of sleeping ([`Attention`]): the
//! worker for the next request, the request for its answer. As soon as more requests overlap, batches form while
//! the worker runs and nobody watches any more.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::batch::BatchPolicy;
use crate::budget::{Deadline, Waited};
use crate::error::{Error, Result};
use crate::monitor::VersionRecorder;
use crate::stage::{Stage, Timings};
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
    /// The longest that either side stays awake for the other.
    spin: Duration,
    state: Mutex<State>,
    arrived: Condvar,
    /// The length of `State::waiting`, for a worker that watches without the lock.
    length: AtomicUsize,
    recorder: Arc<VersionRecorder>,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Job>,
    /// Workers that sleep until they are notified.
    asleep: usize,
    /// Requests that are part of a run.
    running: usize,
    /// How many requests in a row came while at most one other was waiting or running.
    quiet_streak: u32,
    /// How long the last run took.
    last_run: Duration,
    door: Door,
}

/// A batch that a worker has run.
#[derive(Debug, Clone, Copy)]
pub(super) struct FinishedRun {
    pub(super) requests: usize,
    pub(super) took: Duration,
}

/// Whether to wait for the other side awake or asleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    /// Watch for up to this long, then sleep.
    Awake(Duration),
    /// Sleep at once.
    Asleep,
}

#[derive(Debug, PartialEq, Eq)]
enum Door {
    Open,
    Closed,
}

// ===== impl Queue =====

impl Queue {
    pub(super) fn new(capacity: NonZeroUsize, spin: Duration, recorder: Arc<VersionRecorder>) -> Queue {
        let state = State {
            waiting: VecDeque::new(),
            asleep: 0,
            running: 0,
            quiet_streak: 0,
            last_run: Duration::MAX,
            door: Door::Open,
        };
        let length = AtomicUsize::new(0);
        Queue { capacity, spin, state: Mutex::new(state), arrived: Condvar::new(), length, recorder }
    }

    /// Puts a request at the end, or says why not. Also says how its answer is best waited for.
    pub(super) fn push(&self, job: Job) -> Result<Attention> {
        let mut state = self.state.lock();
        if state.door == Door::Closed {
            return Err(Error::ShuttingDown);
        }
        if state.waiting.len() >= self.capacity.get() {
            state.drop_unwanted(Instant::now());
            self.note_length(&state);
        }
        if state.waiting.len() >= self.capacity.get() {
            return Err(Error::QueueFull { capacity: self.capacity.get(), retry_after: RETRY_AFTER });
        }
        let quiet = state.waiting.len() + state.running <= 1;
        state.quiet_streak = if quiet { state.quiet_streak.saturating_add(1) } else { 0 };
        state.waiting.push_back(job);
        self.note_length(&state);
        let attention = attention(state.quiet_streak, state.last_run, self.spin);
        let worker_sleeps = state.asleep > 0;
        drop(state);
        if worker_sleeps {
            self.arrived.notify_one();
        }
        Ok(attention)
    }

    /// Waits for requests and takes the next batch; `None` once the queue is closed and empty. `last` is the
    /// worker's last batch, if it has run one.
    pub(super) fn take(&self, policy: BatchPolicy, last: Option<FinishedRun>) -> Option<Vec<Job>> {
        let mut state = self.state.lock();
        if let Some(FinishedRun { requests, took }) = last {
            state.running -= requests;
            state.last_run = took;
        }
        let mut attention = attention(state.quiet_streak, state.last_run, self.spin);
        loop {
            state.drop_unwanted(Instant::now());
            let count = policy.plan(state.waiting.iter().map(|job| &job.inputs));
            if count > 0 {
                let batch: Vec<Job> = state.waiting.drain(..count).collect();
                state.running += count;
                self.note_length(&state);
                return Some(batch);
            }
            self.note_length(&state);
            if state.door == Door::Closed {
                return None;
            }
            if let Attention::Awake(limit) = std::mem::replace(&mut attention, Attention::Asleep) {
                drop(state);
                self.watch(limit);
                state = self.state.lock();
            } else {
                state.asleep += 1;
                self.arrived.wait(&mut state);
                state.asleep -= 1;
            }
        }
    }

    /// Waits awake until a request arrives, for `limit` at the most.
    fn watch(&self, limit: Duration) {
        spin_until(limit, || (self.length.load(Ordering::Acquire) > 0).then_some(()));
    }

    fn note_length(&self, state: &State) {
        self.length.store(state.waiting.len(), Ordering::Release);
        self.recorder.set_queue_depth(state.waiting.len());
    }

    /// Lets nobody in any more; what is waiting can still be taken.
    pub(super) fn close(&self) {
        self.state.lock().door = Door::Closed;
        self.arrived.notify_all();
    }
}

/// Staying awake pays while it has been quiet for some time (some requests of a crowd do not overlap either) and
/// a run takes no longer than one stays awake for it.
fn attention(quiet_streak: u32, last_run: Duration, spin: Duration) -> Attention {
    const QUIET: u32 = 32;
    if quiet_streak >= QUIET && last_run <= spin { Attention::Awake(spin) } else { Attention::Asleep }
}

/// Asks again and again until there is something, or `limit` has passed.
pub(super) fn spin_until<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        let found = ask();
        if found.is_some() || begin.elapsed() >= limit {
            return found;
        }
        // Whoever has work to do on this core goes first: the client may be on this machine.
        std::thread::yield_now();
    }
}

impl State {
    /// Drops requests that nobody waits for any more: their client has gone, or their time has run out.
    fn drop_unwanted(&mut self, now: Instant) {
        let unwanted = |job: &Job| job.is_unwanted(now);
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
        // Only the first note counts: a job may be taken again, alone, after its batch has failed.
        let _ = self.taken.0.set(now);
    }

    /// Whether nobody waits for the answer any more: the client has gone, or time has run out.
    pub(super) fn is_unwanted(&self, now: Instant) -> bool {
        self.reply.is_closed() || self.deadline.has_passed(now)
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
