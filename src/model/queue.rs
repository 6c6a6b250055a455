//! The bounded queue between requests and workers. It admits requests, passes them to workers in the order of their
//! turns, and ends runs that no request waits for any more.
//!
//! The decisions are made elsewhere: admission in `admission.rs`, batches in `batch.rs`, both based on the times that
//! `service_time.rs` has learned. Waiting requests are kept in `waiting_line.rs`. The state that the lock guards is in
//! `queue/state.rs`.

mod forecast;
mod idle_runs;
mod inline_runs;
mod state;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

pub(super) use self::idle_runs::IdleStep;
use self::state::{Door, Running, SessionSlot, SessionStatus, State};
use super::admission::{Priority, full_batch, turn};
use super::batch::{BatchPolicy, Lengths, Next, plan};
use super::current_session::CurrentSession;
use super::inline::{InlineRun, InlineRuns, inline_batch};
use super::inline_mode::InlineMode;
use super::load_estimate::LoadEstimate;
use super::request::{Batch, Reply, Request};
use super::service_time::{CLASSES, Line, ServiceTime, class_of};
use super::sharing::Sharing;
use super::waiting_line::WaitingLine;
use crate::budget::{LatencyBudget, TimeLimits};
use crate::config::SessionConfig;
use crate::error::Result;
use crate::monitor::{RunTime, Runs, ServiceTimes, VersionRecorder};
use crate::telemetry::RequestTrace;
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
    inline: InlineRuns,
    state: Mutex<State>,
    arrived: Condvar,
    /// Length of `State::line`, readable without the lock.
    length: AtomicUsize,
    /// Estimate of the load, readable without the lock.
    load_estimate: LoadEstimate,
    recorder: Arc<VersionRecorder>,
    /// The current run of each session, readable without the lock.
    runs: Arc<Runs>,
}

/// Work for a worker.
#[derive(Debug)]
pub(super) enum Work {
    /// Run a batch on this session.
    Run { session: usize, batch: Arc<Batch> },
    /// Open this session again.
    OpenSession { session: usize },
}

/// Duration and outcome of a run.
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
    /// The run was ended, and a worker runs the batch again.
    Moved,
    /// The run ended with an error or a panic.
    Failed,
}

/// A request that was put into the queue, and the channel for its answer.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) request: Arc<Request>,
    pub(super) reply: oneshot::Receiver<Reply>,
    /// The inline run that the thread of this request has to make.
    pub(super) inline: Inline,
}

/// Part of the thread of a request in its run.
#[derive(Debug)]
pub(super) enum Inline {
    /// None: the thread that uses the session runs the request next, or a worker that was woken.
    None,
    /// It makes this run at once.
    AtOnce(InlineRun),
    /// It begins a run by [`Queue::start_gathered`] after the other requests that have arrived on the thread.
    AfterOthers,
}

// ===== impl Queue =====

impl RunEnd {
    /// Returns the name of the outcome in the span of the run.
    pub(super) fn name(self) -> &'static str {
        match self {
            RunEnd::Completed => "completed",
            RunEnd::Terminated => "terminated",
            RunEnd::Moved => "moved",
            RunEnd::Failed => "failed",
        }
    }
}

impl Queue {
    pub(super) fn new(
        sharing: Arc<Sharing>,
        config: &SessionConfig,
        budget: &LatencyBudget,
        service: ServiceTime,
        sessions: Vec<Arc<CurrentSession>>,
        inline: InlineRuns,
        recorder: Arc<VersionRecorder>,
    ) -> Queue {
        let runs = Arc::new(Runs::of(sessions.len(), Instant::now()));
        recorder.watch_runs(&runs);
        let state = State {
            line: WaitingLine::default(),
            residuals: Vec::with_capacity(sessions.len()),
            sessions: sessions
                .into_iter()
                .map(|session| SessionSlot { session, run: None, status: SessionStatus::Open })
                .collect(),
            moved: VecDeque::new(),
            inline_batch: inline_batch(&service, inline.max_run),
            inline_paused_until: None,
            inline_mode: InlineMode::default(),
            full_batch: full_batch(sharing.policy().most_size(), &service, budget.queue_and_run()),
            service,
            usual_size: 0.0,
            are_unattended: false,
            learned: [Instant::now(); CLASSES],
            parked: 0,
            door: Door::Open,
            idle_run: None,
        };
        let queue = Queue {
            sharing,
            capacity: config.queue_capacity,
            queue_and_run: budget.queue_and_run(),
            overtaking: budget.inference / 2,
            inline,
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
        self.claim_idle(&mut state, now);
        self.check_door(&state)?;
        let fewest = self.sharing.policy().fewest_rows();
        let run_size = self.full_run(&state, fewest, state.full_batch.max(fewest));
        self.forecast(&mut state, (fewest, run_size), demand, priority, now).map(|_| ())
    }

    /// Puts a request into the queue. If the runs of this version are short and a session is free, the thread of the
    /// request has to run the waiting requests itself. Fails with the reason if the request is refused.
    pub(super) fn push(
        self: &Arc<Self>,
        inputs: Tensors,
        demand: TimeLimits,
        priority: Priority,
        trace: Option<Arc<RequestTrace>>,
    ) -> Result<Entered> {
        let (now, policy) = (Instant::now(), self.sharing.policy());
        let row_size = policy.row_size(&inputs);
        let mut state = self.state.lock();
        self.claim_idle(&mut state, now);
        self.check_door(&state)?;
        let size = inputs.rows() * row_size;
        let run_size = self.full_run(&state, size, policy.limit(&inputs, state.full_batch) * row_size);
        let predicted = self.forecast(&mut state, (size, run_size), demand, priority, now)?;
        let turn = turn(priority, now, self.overtaking);
        let (request, reply) = Request::new((inputs, row_size), demand, (turn, now), predicted, trace);
        let request = Arc::new(request);
        state.line.insert(Arc::clone(&request));
        self.note_length(&state);
        if state.inline_mode.lets_others_go_first() && self.is_inline(&state, now) {
            return Ok(Entered { request, reply, inline: Inline::AfterOthers });
        }
        let inline = self.start_inline(state, now).map_or(Inline::None, Inline::AtOnce);
        Ok(Entered { request, reply, inline })
    }

    /// Waits for work for a worker; `None` once the queue is closed and empty. `last` is the worker's last run, with its
    /// session.
    pub(super) fn take(&self, last: Option<(usize, FinishedRun)>) -> Option<Work> {
        let mut state = self.state.lock();
        if let Some((session, last)) = last {
            self.finish(&mut state, session, last);
        }
        loop {
            if state.is_done() {
                self.arrived.notify_all();
                return None;
            }
            if let Some(session) = state.session_with(SessionStatus::Lost) {
                state.sessions[session].status = SessionStatus::Opening;
                return Some(Work::OpenSession { session });
            }
            let now = Instant::now();
            let policy = match state.door {
                Door::Open => self.sharing.policy(),
                // No more requests will come.
                Door::Closed => BatchPolicy { max_wait: Duration::ZERO, ..self.sharing.policy() },
            };
            let until = match state.free_session() {
                Some(session) => {
                    let full_batch = state.full_batch;
                    let next = match state.moved.pop_front() {
                        Some(batch) => Ok(batch),
                        None => self.next_batch(&mut state, policy, full_batch, now),
                    };
                    match next {
                        Ok(batch) => {
                            let batch = self.begin(&mut state, session, batch, now);
                            // More rows are waiting than this batch takes, so a parked worker is woken for them.
                            let are_left = state.line.len() > 0 || !state.moved.is_empty();
                            if state.parked > 0 && are_left && state.free_session().is_some() {
                                self.arrived.notify_one();
                            }
                            return Some(Work::Run { session, batch });
                        }
                        Err(until) => until,
                    }
                }
                None => None,
            };
            if state.is_done() {
                continue;
            }
            state.parked += 1;
            match until {
                Some(until) => {
                    self.arrived.wait_until(&mut state, until);
                }
                None => self.arrived.wait(&mut state),
            }
            state.parked -= 1;
        }
    }

    /// Forms the next batch, and refuses requests that cannot be in time any more. Without a batch, returns the time
    /// until which to wait for more rows, if there are any.
    fn next_batch(
        &self,
        state: &mut State,
        policy: BatchPolicy,
        full_batch: usize,
        now: Instant,
    ) -> Result<Batch, Option<Instant>> {
        loop {
            let plan = plan(now, state.line.candidates(), policy, full_batch, state.service.typical_line());
            if plan.next == Next::Idle
                && let Some(&first) = plan.hopeless.first()
                && state.try_all_the_same(first, policy, now)
            {
                continue;
            }
            let (hopeless, batch) = state.line.carry_out(&plan);
            // The thread that runs the batch has looked for all of them.
            state.are_unattended = state.line.len() > 0;
            for waiting in hopeless {
                waiting.request.fail(state.too_late(&waiting, policy, now));
                state.end_unwanted_runs(&waiting.request);
            }
            self.note_length(state);
            return batch.ok_or(match plan.next {
                Next::WaitUntil(until) => Some(until),
                _ => None,
            });
        }
    }

    /// Records that a run of this batch begins.
    fn begin(&self, state: &mut State, session: usize, batch: Batch, now: Instant) -> Arc<Batch> {
        batch.take(now);
        let batch = Arc::new(batch);
        let expected = state.service.tail(batch.size()).unwrap_or_default();
        let (batch_too, until) = (Arc::clone(&batch), batch.last_deadline().unwrap_or(now));
        let running = Running { batch: batch_too, since: now, expected, until, ended: None };
        state.sessions[session].run = Some(running);
        self.runs.begin(session, now);
        self.load_estimate.note_free_at(state.first_free());
        batch
    }

    /// Records that a worker has tried to open a session again.
    pub(super) fn has_opened(&self, session: usize) {
        let mut state = self.state.lock();
        let slot = &mut state.sessions[session];
        slot.status = if slot.session.is_open() { SessionStatus::Open } else { SessionStatus::NotOpened };
    }

    /// Learns from a run that has ended. From this point on, the run cannot be ended any more.
    fn finish(&self, state: &mut State, session: usize, last: FinishedRun) {
        let slot = &mut state.sessions[session];
        let Some(run) = slot.run.take() else { return };
        self.runs.end(session);
        if run.ended.is_some() {
            slot.session.allow_runs();
        }
        slot.status = if slot.session.is_open() { SessionStatus::Open } else { SessionStatus::Lost };
        if last.end == RunEnd::Moved {
            state.moved.extend(run.batch.rest());
        }
        let (rows, size, policy) = (run.batch.rows(), run.batch.size(), self.sharing.policy());
        self.load_estimate.note_free_at(state.first_free());
        let has_taught = match (last, run.ended) {
            (FinishedRun { took, end: RunEnd::Completed }, _) => {
                state.usual_size += (size as f64 - state.usual_size) / 8.0;
                state.service.observe(size, took);
                true
            }
            // The run was too slow for every request in it. This is learned only if a smaller run is possible;
            // otherwise, this one request may just be harder than others.
            (FinishedRun { end: RunEnd::Terminated, .. }, Some(ended)) if rows > policy.fewest_rows() => {
                state.service.observe_ended(size, ended.saturating_duration_since(run.since))
            }
            _ => false,
        };
        if has_taught {
            state.learned[class_of(size)] = Instant::now();
            state.full_batch = full_batch(policy.most_size(), &state.service, self.queue_and_run);
            state.inline_batch = inline_batch(&state.service, self.inline.max_run);
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
        if let Some(session) = state.session_of(request) {
            self.runs.abandon(session);
        }
    }

    /// Returns the time for which all workers have been in their current runs; `None` if a worker is free.
    pub(super) fn all_busy_for(&self) -> Option<Duration> {
        self.runs.all_busy_for()
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

    /// Returns the typical duration of a run of this many rows, if it is known; for rows that differ in length, that of a
    /// run of the usual size.
    pub(super) fn typical_run(&self, rows: usize) -> Option<Duration> {
        let state = self.state.lock();
        let size = match self.sharing.policy().lengths {
            Lengths::Alike => rows,
            Lengths::Varied | Lengths::Padded if state.usual_size == 0.0 => state.service.smallest_run()?,
            Lengths::Varied | Lengths::Padded => state.usual_size as usize,
        };
        state.service.typical(size)
    }

    /// Returns the line of the typical duration of a run, if it is known.
    pub(super) fn typical_line(&self) -> Option<Line> {
        self.state.lock().service.typical_line()
    }

    /// Returns true if another session is open and the queue is open.
    pub(super) fn others_can_run(&self, session: usize) -> bool {
        let state = self.state.lock();
        let mut others = state.sessions.iter().enumerate().filter(|(index, _)| *index != session);
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
