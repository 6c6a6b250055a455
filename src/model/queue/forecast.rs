//! The forecast for an arriving request: its expected time in the queue and the run, or an error if that is too long.

use std::time::{Duration, Instant};

use super::Queue;
use super::state::{Door, State};
use crate::budget::TimeLimits;
use crate::error::{Error, Result, Shed};
use crate::model::admission::{Admission, Backlog, Priority, admit, turn};
use crate::model::batch::Lengths;

impl Queue {
    /// Expected size of a full batch, for a request of size `size` of which one run takes at most `most`. If rows
    /// differ in length, this is the usual size of the last batches (at least `size`), because a batch full of long rows is
    /// rare. If every request is a run of its own, this is the mean size of the waiting requests and this one.
    pub(super) fn full_run(&self, state: &State, size: usize, most: usize) -> usize {
        let policy = self.sharing.policy();
        match policy.lengths {
            _ if policy.keeps_requests_whole() => (state.line.size() + size).div_ceil(state.line.len() + 1),
            Lengths::Alike => most,
            Lengths::Varied | Lengths::Padded => most.min(size.max(state.usual_size as usize)),
        }
    }

    pub(super) fn check_door(&self, state: &State) -> Result<()> {
        if state.door == Door::Closed {
            return Err(Error::ShuttingDown);
        }
        if state.line.len() >= self.capacity.get() {
            let retry_after = state.drained_in(self.sharing.policy());
            return Err(Error::QueueFull { capacity: self.capacity.get(), retry_after });
        }
        Ok(())
    }

    /// Returns the expected time in the queue and the run for a request of size `size` that arrives now, if a full
    /// batch has the size `run_size`; `None` if no time was learned yet, or if the request is admitted only to learn
    /// the time anew. Fails if the request cannot be in time.
    pub(super) fn forecast(
        &self,
        state: &mut State,
        (size, run_size): (usize, usize),
        demand: TimeLimits,
        priority: Priority,
        now: Instant,
    ) -> Result<Option<Duration>> {
        let rows_ahead = state.line.size_before(turn(priority, now, self.overtaking));
        let is_free = rows_ahead == 0 && state.sessions.iter().any(|slot| slot.run.is_none());
        let left = demand.finish_by.saturating_duration_since(now);
        // A request of low priority leaves time for other requests to overtake it.
        let for_others = match priority {
            Priority::Low if !is_free => self.overtaking.min(left / 2),
            _ => Duration::ZERO,
        };
        let is_stale = state.is_stale(size.min(run_size), now);
        let State { residuals, sessions, service, .. } = state;
        residuals.clear();
        residuals.extend(sessions.iter().map(|slot| slot.run.as_ref().map_or(Duration::ZERO, |run| run.left(now))));
        residuals.sort_unstable();
        let admission = admit(Backlog { rows_ahead, residuals }, run_size, service, size, left - for_others);
        if let Admission::Admit(Some(predicted)) | Admission::Shed(predicted) = admission {
            self.load_estimate.note_predicted(predicted);
        }
        match admission {
            Admission::Admit(predicted) => Ok(predicted),
            // Runs the request anyway, to learn: the learned time is stale, and a worker is free. A request with much
            // less time than usual would be cancelled before anything is learned.
            Admission::Shed(_) if is_free && left >= self.queue_and_run / 2 && is_stale => Ok(None),
            Admission::Shed(needed) => {
                let nobody_else = Backlog { rows_ahead: 0, residuals: &[] };
                let own_run = if self.sharing.policy().keeps_requests_whole() { size } else { run_size };
                Err(match admit(nobody_else, own_run, service, size, left) {
                    Admission::Shed(needed) => {
                        Error::Overloaded { shed: Shed::EvenAlone, needed, left, retry_after: Duration::ZERO }
                    }
                    Admission::Admit(_) => {
                        let needed = needed + for_others;
                        let retry_after = needed.saturating_sub(left);
                        Error::Overloaded { shed: Shed::AtTheDoor, needed, left, retry_after }
                    }
                })
            }
        }
    }
}
