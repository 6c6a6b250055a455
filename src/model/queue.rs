//! The bounded queue between requests and workers. It admits requests, passes them to workers in the order of their
//! turns, and ends runs that no request waits for any more.
//!
//! The decisions are made elsewhere: admission in `admission.rs`, batches in `batch.rs`, both based on the times that
//! `service_time.rs` has learned. Waiting requests are kept in `waiting_line.rs`. The state that the lock guards is in
//! `queue/state.rs`.

mod forecast;
mod state;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use self::state::{Door, Running, State, WorkerSlot};
use super::admission::{Priority, full_batch, turn};
use super::batch::{BatchPolicy, Next, plan};
use super::current_session::CurrentSession;
use super::load_estimate::LoadEstimate;
use super::request::{Batch, Reply, Request};
use super::service_time::{CLASSES, Line, ServiceTime, class_of};
use super::sharing::Sharing;
use super::wait_strategy::{WaitStrategy, spin_until, wait_strategy};
use super::waiting_line::WaitingLine;
use crate::budget::{LatencyBudget, TimeLimits};
use crate::config::SessionConfig;
use crate::error::Result;
use crate::monitor::{RunTime, Runs, ServiceTimes, VersionRecorder};
use crate::tensor::Tensors;

/// The queue between requests and workers.
#[derive(Debug)]
pub(super) struct Queue {
    sharing: Arc<Sharing>,
    capacity: NonZeroUsize,
    /// Time for queue and run in a request's budget.
    queue_and_run: Duration,
    /// Age difference above which a request goes before a newer one of the next higher priority.
    overtaking: Duration,
    /// Maximum time for which a worker spins for a request, or a request for its answer.
    spin: Duration,
    state: Mutex<State>,
    arrived: Condvar,
    /// Length of `State::line`, readable without the lock.
    length: AtomicUsize,
    /// Estimate of the load, readable without the lock.
    load_estimate: LoadEstimate,
    recorder: Arc<VersionRecorder>,
    /// The current run of each worker, readable without the lock.
    runs: Arc<Runs>,
}

/// Duration and outcome of a worker's last run.
#[derive(Debug, Clone, Copy)]
pub(super) struct FinishedRun {
    pub(super) took: Duration,
    pub(super) end: RunEnd,
}

/// Outcome of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunEnd {
    /// The run completed.
    Completed,
    /// The run was ended because no request waited for it any more.
    Terminated,
    /// The run ended with an error or a panic.
    Failed,
}

/// A request that was put into the queue, and the channel and strategy for waiting for its answer.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) request: Arc<Request>,
    pub(super) reply: oneshot::Receiver<Reply>,
    pub(super) wait_strategy: WaitStrategy,
}

// ===== impl Queue =====

impl Queue {
    pub(super) fn new(
        sharing: Arc<Sharing>,
        config: &SessionConfig,
        budget: &LatencyBudget,
        service: ServiceTime,
        workers: Vec<Arc<CurrentSession>>,
        recorder: Arc<VersionRecorder>,
    ) -> Queue {
        let runs = Arc::new(Runs::of(workers.len(), Instant::now()));
        recorder.watch_runs(&runs);
        let state = State {
            line: WaitingLine::default(),
            residuals: Vec::with_capacity(workers.len()),
            workers: workers.into_iter().map(|session| WorkerSlot { session, run: None }).collect(),
            full_batch: full_batch(sharing.policy().most_size(), &service, budget.queue_and_run()),
            service,
            usual_size: 0.0,
            learned: [Instant::now(); CLASSES],
            parked: 0,
            quiet_streak: 0,
            last_run: Duration::MAX,
            door: Door::Open,
        };
        let queue = Queue {
            sharing,
            capacity: config.queue_capacity,
            queue_and_run: budget.queue_and_run(),
            overtaking: budget.inference / 2,
            spin: config.spin(),
            state: Mutex::new(state),
            arrived: Condvar::new(),
            length: AtomicUsize::new(0),
            load_estimate: LoadEstimate::new(),
            recorder,
            runs,
        };
        queue.note_service_time(&queue.state.lock());
        queue
    }

    /// Admits a request of which only the head has been read, if it can be in time. Makes a forecast only if the load
    /// estimate does not show ample time; [`Queue::push`] always makes one.
    pub(super) fn admit(&self, demand: TimeLimits, priority: Priority) -> Result<()> {
        let now = Instant::now();
        if self.load_estimate.is_ample(demand.finish_by.saturating_duration_since(now), now) {
            return Ok(());
        }
        let mut state = self.state.lock();
        self.check_door(&state)?;
        let fewest = self.sharing.policy().fewest_rows();
        let run_size = self.full_run(&state, fewest, state.full_batch.max(fewest));
        self.forecast(&mut state, (fewest, run_size), demand, priority, now).map(|_| ())
    }

    /// Puts a request into the queue and chooses the strategy for waiting for its answer. Fails with the reason if the
    /// request is refused.
    pub(super) fn push(&self, inputs: Tensors, demand: TimeLimits, priority: Priority) -> Result<Entered> {
        let (now, policy) = (Instant::now(), self.sharing.policy());
        let row_size = policy.row_size(&inputs);
        let mut state = self.state.lock();
        self.check_door(&state)?;
        let size = inputs.rows() * row_size;
        let run_size = self.full_run(&state, size, policy.limit(&inputs, state.full_batch) * row_size);
        let predicted = self.forecast(&mut state, (size, run_size), demand, priority, now)?;
        let turn = turn(priority, now, self.overtaking);
        let (request, reply) = Request::new((inputs, row_size), demand, (turn, now), predicted);
        let request = Arc::new(request);

        let running: usize = state.runs().map(|run| run.batch.parts.len()).sum();
        let quiet = state.line.len() + running <= 1;
        state.quiet_streak = if quiet { state.quiet_streak.saturating_add(1) } else { 0 };
        state.line.insert(Arc::clone(&request));
        self.note_length(&state);
        let wait_strategy = wait_strategy(state.quiet_streak, state.last_run, self.spin);
        let worker_sleeps = state.parked > 0;
        drop(state);
        if worker_sleeps {
            self.arrived.notify_one();
        }
        Ok(Entered { request, reply, wait_strategy })
    }

    /// Waits for requests and takes the next batch; `None` once the queue is closed and empty. `last` is the
    /// worker's last batch, if it has run one.
    pub(super) fn take(&self, worker: usize, last: Option<FinishedRun>) -> Option<Arc<Batch>> {
        let mut state = self.state.lock();
        self.finish(&mut state, worker, last);
        let mut wait_strategy = wait_strategy(state.quiet_streak, state.last_run, self.spin);
        loop {
            let now = Instant::now();
            let policy = match state.door {
                Door::Open => self.sharing.policy(),
                // No more requests will come.
                Door::Closed => BatchPolicy { max_wait: Duration::ZERO, ..self.sharing.policy() },
            };
            let plan = plan(now, state.line.candidates(), policy, state.full_batch, state.service.typical_line());
            if plan.next == Next::Idle
                && let Some(&first) = plan.hopeless.first()
                && state.try_all_the_same(first, policy, now)
            {
                continue;
            }
            let (hopeless, batch) = state.line.carry_out(&plan);
            for waiting in hopeless {
                waiting.request.fail(state.too_late(&waiting, policy, now));
                state.end_unwanted_runs(&waiting.request);
            }
            self.note_length(&state);
            if let Some(batch) = batch.map(Arc::new) {
                // More rows are waiting than this batch takes, so a parked worker is woken for them.
                if state.parked > 0 && state.line.len() > 0 {
                    self.arrived.notify_one();
                }
                batch.take(now);
                let expected = state.service.tail(batch.size()).unwrap_or_default();
                let (batch_too, until) = (Arc::clone(&batch), batch.last_deadline().unwrap_or(now));
                let running = Running { batch: batch_too, since: now, expected, until, ended: None };
                state.workers[worker].run = Some(running);
                self.runs.begin(worker, now);
                self.load_estimate.note_free_at(state.first_free());
                return Some(batch);
            }
            match plan.next {
                Next::WaitUntil(until) => {
                    state.parked += 1;
                    self.arrived.wait_until(&mut state, until);
                    state.parked -= 1;
                }
                _ if state.door == Door::Closed => return None,
                _ => match std::mem::replace(&mut wait_strategy, WaitStrategy::Park) {
                    WaitStrategy::Spin(limit) => {
                        MutexGuard::unlocked(&mut state, || self.watch(limit));
                    }
                    WaitStrategy::Park => {
                        state.parked += 1;
                        self.arrived.wait(&mut state);
                        state.parked -= 1;
                    }
                },
            }
        }
    }

    /// Learns from a worker's last batch. From this point on, the run of that batch cannot be ended any more.
    fn finish(&self, state: &mut State, worker: usize, last: Option<FinishedRun>) {
        let slot = &mut state.workers[worker];
        let Some(run) = slot.run.take() else { return };
        self.runs.end(worker);
        if run.ended.is_some() {
            slot.session.allow_runs();
        }
        let (rows, size, policy) = (run.batch.rows(), run.batch.size(), self.sharing.policy());
        self.load_estimate.note_free_at(state.first_free());
        let has_taught = match (last, run.ended) {
            (Some(FinishedRun { took, end: RunEnd::Completed }), _) => {
                state.last_run = took;
                state.usual_size += (size as f64 - state.usual_size) / 8.0;
                state.service.observe(size, took);
                true
            }
            // The run was too slow for every request in it. This is learned only if a smaller run is possible;
            // otherwise, this one request may just be harder than others.
            (Some(FinishedRun { end: RunEnd::Terminated, .. }), Some(ended)) if rows > policy.fewest_rows() => {
                state.service.observe_ended(size, ended.saturating_duration_since(run.since))
            }
            _ => false,
        };
        if has_taught {
            state.learned[class_of(size)] = Instant::now();
            state.full_batch = full_batch(policy.most_size(), &state.service, self.queue_and_run);
            self.note_service_time(state);
        }
    }

    /// Removes a request that nobody waits for any more, and ends the request's run if no other request waits for that
    /// run.
    pub(super) fn give_up(&self, request: &Arc<Request>) {
        let mut state = self.state.lock();
        request.give_up();
        state.line.remove(request);
        self.note_length(&state);
        state.end_unwanted_runs(request);
        // The run may go on for a while, because not every run can be ended at once.
        if let Some(worker) = state.worker_of(request) {
            self.runs.abandon(worker);
        }
    }

    /// Returns the time for which all workers have been in their current runs; `None` if a worker is free.
    pub(super) fn all_busy_for(&self) -> Option<Duration> {
        self.runs.all_busy_for()
    }

    /// Spins until a request arrives, for `limit` at most.
    fn watch(&self, limit: Duration) {
        spin_until(limit, || (self.length.load(Ordering::Acquire) > 0).then_some(()));
    }

    /// Returns true if no request waits for a run.
    pub(super) fn is_empty(&self) -> bool {
        self.length.load(Ordering::Acquire) == 0
    }

    fn note_length(&self, state: &State) {
        self.length.store(state.line.len(), Ordering::Release);
        self.recorder.set_queue_depth(state.line.len());
    }

    fn note_service_time(&self, state: &State) {
        if let (Some(typical), Some(tail)) = (state.service.typical_line(), state.service.tail_line()) {
            let time = |line: Line| RunTime { per_row_s: line.a, per_run_s: line.b };
            self.recorder.set_service_times(ServiceTimes { typical: time(typical), tail: time(tail) });
        }
    }

    /// Returns the maximum size of a run that is in time.
    pub(super) fn full_batch(&self) -> usize {
        self.state.lock().full_batch
    }

    /// Returns the typical duration of a run of this many rows, if it is known.
    pub(super) fn typical_run(&self, rows: usize) -> Option<Duration> {
        self.state.lock().service.typical(rows)
    }

    /// Returns true if another worker has a session and the queue is open.
    pub(super) fn others_can_run(&self, worker: usize) -> bool {
        let state = self.state.lock();
        let mut others = state.workers.iter().enumerate().filter(|(index, _)| *index != worker);
        state.door == Door::Open && others.any(|(_, other)| other.session.is_open())
    }

    /// Stops admitting requests. Waiting requests can still be taken.
    pub(super) fn close(&self) {
        self.state.lock().door = Door::Closed;
        self.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests;
