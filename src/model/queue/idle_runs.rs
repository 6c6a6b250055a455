//! Runs that are made only while nothing waits, for work that nobody waits for. A request that needs the session ends such a
//! run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Queue;
use super::state::{Door, Running, SessionStatus, State};
use crate::budget::{Deadline, TimeLimits};
use crate::error::{Error, Result};
use crate::model::batch::{BatchPolicy, plan};
use crate::model::request::{Batch, Reply, Request};
use crate::model::waiting_line::WaitingLine;
use crate::tensor::Tensors;

/// Rows that are run while nothing waits. They are not in the queue.
pub(in crate::model) struct IdleRequest {
    rows: WaitingLine,
    reply: oneshot::Receiver<Reply>,
    deadline: Deadline,
}

/// Next step of an [`IdleRequest`].
pub(in crate::model) enum IdleStep {
    /// Run this batch on this session.
    Run { session: usize, batch: Arc<Batch> },
    /// Give up: a request waits, no session is free, or the deadline has passed.
    GiveWay,
    /// All rows were run.
    Done,
}

impl IdleRequest {
    /// Returns the outputs of all rows.
    pub(in crate::model) fn outputs(mut self) -> Result<Tensors> {
        let reply = self.reply.try_recv().unwrap_or_else(|lost| Err(Error::internal(lost)));
        reply.map(|(outputs, _)| outputs)
    }
}

impl Queue {
    /// Returns rows that are to be run until the deadline.
    pub(in crate::model) fn idle_request(&self, inputs: Tensors, deadline: Deadline) -> IdleRequest {
        let now = Instant::now();
        let row_size = self.sharing.policy().row_size(&inputs);
        let limits = TimeLimits { deadline, finish_by: deadline.instant() };
        let (request, reply) = Request::new((inputs, row_size), limits, (now, now), None, None);
        let mut rows = WaitingLine::default();
        rows.insert(Arc::new(request));
        IdleRequest { rows, reply, deadline }
    }

    /// Begins the next run of such rows.
    pub(in crate::model) fn begin_idle(&self, idle: &mut IdleRequest) -> Result<IdleStep> {
        if idle.rows.len() == 0 {
            return Ok(IdleStep::Done);
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.door == Door::Closed {
            return Err(Error::ShuttingDown);
        }
        let is_idle = state.line.len() == 0 && state.moved.is_empty() && state.idle_run.is_none();
        let free = state.sessions.iter().position(|slot| slot.is_free());
        let (true, Some(session)) = (is_idle, free) else { return Ok(IdleStep::GiveWay) };
        let policy = BatchPolicy { max_wait: Duration::ZERO, ..self.sharing.policy() };
        let planned = plan(now, idle.rows.candidates(), policy, state.full_batch, None);
        let (_, Some(batch)) = idle.rows.carry_out(&planned) else { return Ok(IdleStep::GiveWay) };
        batch.take(now);
        let batch = Arc::new(batch.for_nobody());
        let (batch_too, until) = (Arc::clone(&batch), idle.deadline.instant());
        let expected = state.service.tail(batch.size()).unwrap_or_default();
        state.sessions[session].run = Some(Running { batch: batch_too, since: now, expected, until, ended: None });
        state.idle_run = Some(session);
        Ok(IdleStep::Run { session, batch })
    }

    /// Records the end of such a run. Nothing is learned from it: it may have waited for a core.
    pub(in crate::model) fn end_idle(&self, session: usize) {
        let mut state = self.state.lock();
        state.idle_run = None;
        let slot = &mut state.sessions[session];
        if slot.run.take().is_some_and(|run| run.ended.is_some()) {
            slot.session.allow_runs();
        }
        slot.status = if slot.session.is_open() { SessionStatus::Open } else { SessionStatus::Lost };
        // Requests that have arrived meanwhile have found no free session.
        let are_workers_needed = state.parked > 0
            && (state.line.len() > 0
                || !state.moved.is_empty()
                || state.door == Door::Closed
                || state.session_with(SessionStatus::Lost).is_some());
        drop(state);
        if are_workers_needed {
            self.arrived.notify_all();
        }
    }

    /// Ends the idle run, if there is one, because it takes too long.
    pub(in crate::model) fn interrupt_idle(&self) {
        self.end_idle_run(&mut self.state.lock(), Instant::now());
    }

    /// Ends the idle run, if there is one and a request needs its session.
    pub(super) fn claim_idle(&self, state: &mut State, now: Instant) {
        if state.idle_run.is_some() && !state.sessions.iter().any(|slot| slot.is_free()) {
            self.end_idle_run(state, now);
        }
    }

    fn end_idle_run(&self, state: &mut State, now: Instant) {
        let Some(slot) = state.idle_run.and_then(|session| state.sessions.get_mut(session)) else { return };
        if let Some(run) = slot.run.as_mut().filter(|run| run.ended.is_none()) {
            run.ended = Some(now);
            run.batch.terminate();
            slot.session.end_run();
        }
    }
}
