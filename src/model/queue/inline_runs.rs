//! Runs on the threads of requests: which batches they get, and the end of a run that takes too long.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::state::{Door, SessionStatus, State};
use super::{FinishedRun, Queue};
use crate::model::batch::Lengths;
use crate::model::inline::{InlineOwner, InlineRun};
use crate::model::request::Batch;

/// Time for which no run of a version is inline after one took too long.
const INLINE_PAUSE: Duration = Duration::from_secs(10);

/// The same after a run that was not ended by then: one of the operators takes so long, and nothing ends a run within an
/// operator.
const LONG_PAUSE: Duration = Duration::from_secs(600);

/// Duration of a run after which the pause is long.
const LONG_RUN: Duration = Duration::from_millis(100);

impl Queue {
    /// Ends an inline run. Returns the next batch for the same thread and session, unless `may_go_on` is false or a
    /// worker has to run the waiting requests.
    pub(in crate::model) fn next_inline(
        &self,
        session: usize,
        last: FinishedRun,
        may_go_on: bool,
    ) -> Option<(Arc<Batch>, Instant)> {
        let mut state = self.state.lock();
        let requests = state.sessions[session].run.as_ref().map_or(0, |run| run.batch.parts.len());
        state.inline_mode.ran(requests);
        self.finish(&mut state, session, last);
        let now = Instant::now();
        if last.took > LONG_RUN {
            state.inline_paused_until = Some(now + LONG_PAUSE);
        }
        let is_gathering = self.is_gathering(&state, now);
        if may_go_on
            && !is_gathering
            && state.sessions[session].is_free()
            && self.is_inline(&state, now)
            && let Some(batch) = self.next_inline_batch(&mut state, now)
        {
            return Some((self.begin(&mut state, session, batch, now), now));
        }
        let are_workers_needed = state.parked > 0
            && (state.line.len() > 0 && !is_gathering
                || !state.moved.is_empty()
                || state.door == Door::Closed
                || state.session_with(SessionStatus::Lost).is_some());
        drop(state);
        if are_workers_needed {
            self.arrived.notify_all();
        }
        None
    }

    /// Begins a run of the requests that have gathered, unless another thread has taken them.
    pub(in crate::model) fn start_gathered(self: &Arc<Self>) -> Option<InlineRun> {
        if self.is_empty() {
            return None;
        }
        self.start_inline(self.state.lock(), Instant::now())
    }

    /// Forms a batch of the waiting requests for the thread of a request, if a session and a slot are free. Otherwise, wakes
    /// a worker for them if there is a session for it.
    pub(super) fn start_inline(self: &Arc<Self>, mut state: MutexGuard<'_, State>, now: Instant) -> Option<InlineRun> {
        let begun = self.begin_inline(&mut state, now);
        if begun.is_none() {
            state.are_unattended = state.line.len() > 0;
        }
        // Whoever uses the last session looks at the queue again after the run.
        let is_worker_needed = begun.is_none() && state.parked > 0 && state.free_session().is_some();
        drop(state);
        if is_worker_needed {
            self.arrived.notify_one();
        }
        begun
    }

    fn begin_inline(self: &Arc<Self>, state: &mut State, now: Instant) -> Option<InlineRun> {
        if !self.is_inline(state, now) {
            return None;
        }
        let session = state.sessions.iter().position(|slot| slot.is_free())?;
        let slot = self.inline.slots.take(Arc::<Queue>::clone(self), session, now)?;
        let batch = self.next_inline_batch(state, now)?;
        Some(InlineRun { session, batch: self.begin(state, session, batch, now), began: now, slot })
    }

    /// Returns true if the waiting requests still gather, so the threads that they have arrived on will run them.
    fn is_gathering(&self, state: &State, now: Instant) -> bool {
        state.inline_mode.lets_others_go_first() && !state.are_unattended && self.is_inline(state, now)
    }

    /// Returns true if requests are waiting that are, on average, short enough for an inline run.
    pub(super) fn is_inline(&self, state: &State, now: Instant) -> bool {
        let (size, most) = (state.line.size(), state.inline_batch.saturating_mul(state.line.len()));
        (1..=most).contains(&size)
            && state.moved.is_empty()
            && state.door == Door::Open
            && state.inline_paused_until.is_none_or(|until| now >= until)
            && !self.sharing.is_open()
            && self.are_rows_short(state)
    }

    /// Returns true if a run of any single waiting row is short enough for an inline run.
    fn are_rows_short(&self, state: &State) -> bool {
        let policy = self.sharing.policy();
        let is_short = |inputs| policy.row_size(inputs) <= state.inline_batch;
        policy.lengths == Lengths::Alike || state.line.candidates().all(|candidate| is_short(candidate.inputs))
    }

    fn next_inline_batch(&self, state: &mut State, now: Instant) -> Option<Batch> {
        let full_batch = state.full_batch.min(state.inline_batch);
        self.next_batch(state, self.sharing.policy(), full_batch, now).ok()
    }
}

impl InlineOwner for Queue {
    fn move_to_worker(&self, session: usize, began: Instant) {
        let mut state = self.state.lock();
        let Some(run) = state.sessions[session].run.as_mut().filter(|run| run.since == began && run.ended.is_none())
        else {
            return;
        };
        let now = Instant::now();
        run.ended = Some(now);
        run.batch.move_to_worker();
        let (requests, ran_for) = (run.batch.parts.len(), now.saturating_duration_since(began));
        state.sessions[session].session.end_run();
        state.inline_paused_until = Some(now + INLINE_PAUSE);
        drop(state);
        self.recorder.run_moved();
        let (model, version) = self.recorder.names();
        tracing::warn!(
            model,
            version,
            requests,
            ran_for_ms = ran_for.as_millis(),
            "a run took much longer than those before it; it is moved from the thread of a request to a worker"
        );
    }
}
