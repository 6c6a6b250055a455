//! The state of a queue that its lock guards: waiting requests, runs of the workers, and the learned times.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Shed};
use crate::model::admission::residual;
use crate::model::batch::BatchPolicy;
use crate::model::current_session::CurrentSession;
use crate::model::inline_mode::InlineMode;
use crate::model::request::{Batch, Request};
use crate::model::service_time::{CLASSES, ServiceTime, class_of};
use crate::model::waiting_line::{Waiting, WaitingLine};
use crate::stage::{Stage, Timings};

/// Age at which the learned time of runs of a size is stale. A free worker then runs a request even if it is expected
/// to be late: the model may have become faster, and only a run can show this.
pub(super) const STALE: Duration = Duration::from_secs(1);

/// Everything that the lock of a queue guards.
#[derive(Debug)]
pub(super) struct State {
    pub(super) line: WaitingLine,
    /// The state of each session.
    pub(super) sessions: Vec<SessionSlot>,
    /// Batches whose inline runs took too long. Workers take them before all others.
    pub(super) moved: VecDeque<Batch>,
    pub(super) service: ServiceTime,
    /// Size of a full batch, in the unit of `service`: its number of rows, or, where rows differ in length, their total
    /// length.
    pub(super) full_batch: usize,
    /// Moving average of the size of the last batches.
    pub(super) usual_size: f64,
    /// For each class of sizes, the time of the last run that was learned from, or that was attempted in order to
    /// learn.
    pub(super) learned: [Instant; CLASSES],
    /// Maximum size of an inline run; 0 if every run takes too long.
    pub(super) inline_batch: usize,
    /// Time until which no run is inline, because the last one took too long.
    pub(super) inline_paused_until: Option<Instant>,
    /// Choice of the time of inline runs.
    pub(super) inline_mode: InlineMode,
    /// True if requests may be waiting that no thread of a request looks for any more: the thread that uses a session runs
    /// them next, or a worker. While it is false, each waiting request has a ticket that will call `start_gathered`.
    pub(super) are_unattended: bool,
    /// Number of workers that sleep until they are notified.
    pub(super) parked: usize,
    pub(super) door: Door,
    /// The session that makes a run which gives way to requests.
    pub(super) idle_run: Option<usize>,
    /// Buffer for the remaining time of each worker's run, kept to avoid an allocation.
    pub(super) residuals: Vec<Duration>,
}

/// State of a session, as the queue sees it.
#[derive(Debug)]
pub(super) struct SessionSlot {
    pub(super) session: Arc<CurrentSession>,
    pub(super) run: Option<Running>,
    pub(super) status: SessionStatus,
}

/// Status of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionStatus {
    /// It can run batches.
    Open,
    /// It was lost in its last run.
    Lost,
    /// A worker opens it again.
    Opening,
    /// It could not be opened, and there is no other one. Its next run tries again.
    NotOpened,
}

/// A run that has not ended.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) batch: Arc<Batch>,
    pub(super) since: Instant,
    pub(super) expected: Duration,
    /// Time at which the run is ended if it still goes on, because no request waits for it after that.
    pub(super) until: Instant,
    /// Time at which the run was ended early; `None` if it was not.
    pub(super) ended: Option<Instant>,
}

/// State of admission to the queue. Once it is closed, waiting requests can still be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    Closed,
}

impl SessionSlot {
    /// Returns true if the session is open and has no run.
    pub(super) fn is_free(&self) -> bool {
        self.run.is_none() && self.status == SessionStatus::Open
    }
}

impl State {
    pub(super) fn runs(&self) -> impl Iterator<Item = &Running> {
        self.sessions.iter().filter_map(|slot| slot.run.as_ref())
    }

    /// Ends every run that has rows of this request, if nobody waits for any request of that run any more.
    pub(super) fn end_unwanted_runs(&mut self, request: &Arc<Request>) {
        if request.taken().is_none() {
            return;
        }
        for slot in &mut self.sessions {
            if let Some(run) = &mut slot.run
                && run.ended.is_none()
                && run.batch.has(request)
                && run.batch.is_over()
            {
                run.ended = Some(Instant::now());
                run.batch.terminate();
                slot.session.end_run();
            }
        }
    }

    /// Returns the session that runs rows of this request.
    pub(super) fn session_of(&self, request: &Arc<Request>) -> Option<usize> {
        request.taken()?;
        self.sessions.iter().position(|slot| slot.run.as_ref().is_some_and(|run| run.batch.has(request)))
    }

    /// Returns true if the learned time of runs of this size is stale.
    pub(super) fn is_stale(&self, size: usize, now: Instant) -> bool {
        now.saturating_duration_since(self.learned[class_of(size)]) > STALE
    }

    /// Marks a request to be run although it is expected to be late, if the learned time is stale and the request's
    /// deadline has not passed. Called for a free worker when no request can be in time. Returns true if the request is
    /// marked.
    pub(super) fn try_all_the_same(&mut self, place: usize, policy: BatchPolicy, now: Instant) -> bool {
        let Some(waiting) = self.line.at(place).filter(|waiting| !waiting.request.deadline.has_passed(now)) else {
            return false;
        };
        let size = waiting.run_size(policy, self.full_batch);
        let is_stale = self.is_stale(size, now);
        if is_stale {
            self.learned[class_of(size)] = now;
            self.line.run_however_late(place);
        }
        is_stale
    }

    /// Returns the error for a request that cannot be in time any more.
    pub(super) fn too_late(&self, waiting: &Waiting, policy: BatchPolicy, now: Instant) -> Error {
        let request = &waiting.request;
        if request.deadline.has_passed(now) {
            // The clock of the request fills in the duration of each stage.
            return Error::Expired { stage: Stage::Queue, spent: Timings::default() };
        }
        let needed = self.service.typical(waiting.run_size(policy, self.full_batch)).unwrap_or_default();
        let left = request.finish_by.saturating_duration_since(now);
        Error::Overloaded { shed: Shed::InTheQueue, needed, left, retry_after: needed.saturating_sub(left) }
    }

    /// Returns a session without a run in which a worker can run a batch.
    pub(super) fn free_session(&self) -> Option<usize> {
        let is_usable = |slot: &SessionSlot| matches!(slot.status, SessionStatus::Open | SessionStatus::NotOpened);
        self.sessions.iter().position(|slot| slot.run.is_none() && is_usable(slot))
    }

    /// Returns true if the queue is closed, and nothing is left for a worker.
    pub(super) fn is_done(&self) -> bool {
        self.door == Door::Closed && self.line.len() == 0 && self.moved.is_empty() && self.runs().next().is_none()
    }

    /// Returns a session with this status.
    pub(super) fn session_with(&self, status: SessionStatus) -> Option<usize> {
        self.sessions.iter().position(|slot| slot.status == status)
    }

    /// Returns the time at which the first session is expected to end its run; `None` if one is free.
    pub(super) fn first_free(&self) -> Option<Instant> {
        // `None` is less than any time.
        self.sessions
            .iter()
            .map(|slot| slot.run.as_ref().map(|run| run.until.min(run.since + run.expected)))
            .min()
            .flatten()
    }

    /// Estimated time until all waiting requests have been run.
    pub(super) fn drained_in(&self, policy: BatchPolicy) -> Duration {
        let run_size = match policy.keeps_requests_whole() {
            true => self.line.size().div_ceil(self.line.len().max(1)).max(1),
            false => self.full_batch,
        };
        let batches = self.line.size().div_ceil(run_size * self.sessions.len().max(1));
        let run = self.service.typical(run_size).unwrap_or_default();
        run.saturating_mul(u32::try_from(batches).unwrap_or(u32::MAX))
    }
}

impl Running {
    /// Expected remaining time of the run. A run that was ended is expected to stop at once.
    pub(super) fn left(&self, now: Instant) -> Duration {
        match self.ended {
            Some(ended) => residual(Duration::ZERO, now.saturating_duration_since(ended)),
            None => {
                let until = self.until.saturating_duration_since(now);
                residual(self.expected, now.saturating_duration_since(self.since)).min(until)
            }
        }
    }
}
