//! Open work of an HTTP/2 connection: the requests without a response, and the responses that the client has
//! not received completely.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Relaxed},
};

use crate::http::activity::{Activity, Ending, InFlight};

/// Maximum number of requests that a client may cancel, beyond as many as it lets be answered.
const MAX_CANCELLED: usize = 256;

/// The responses of a connection that its client has not received completely, and the requests that were cancelled.
#[derive(Debug, Default)]
pub(super) struct Responses {
    /// Number of the current generation.
    generation: AtomicUsize,
    /// Numbers of the unfinished responses that made their last progress in the current generation and in the two before.
    unfinished: [AtomicUsize; 3],
    /// Number of all responses, also of those that wait for more to send, except watches.
    open: AtomicUsize,
    /// Number of pieces of bodies that have arrived, or that hyper has taken or written.
    progress: AtomicUsize,
    /// Number of requests that were answered.
    answered: AtomicUsize,
    /// Number of requests whose client left before they were answered.
    left: AtomicUsize,
    /// Number of requests whose bodies ended early. They were answered with an error that nobody reads.
    broken_off: AtomicUsize,
}

impl Responses {
    /// Notes that the body of a request has ended early.
    pub(super) fn add_broken_off(&self) {
        self.broken_off.fetch_add(1, Relaxed);
    }

    /// Begins a generation. Returns true if a response has made no progress in the last two.
    pub(super) fn next_generation_is_overdue(&self) -> bool {
        let next = self.generation.load(Relaxed).wrapping_add(1);
        let is_overdue = self.unfinished[next % 3].load(Relaxed) > 0;
        self.generation.store(next, Relaxed);
        is_overdue
    }

    pub(super) fn unfinished(&self) -> usize {
        self.open.load(Relaxed)
    }

    pub(super) fn progress(&self) -> usize {
        self.progress.load(Relaxed)
    }

    pub(super) fn add_progress(&self) {
        self.progress.fetch_add(1, Relaxed);
    }

    /// Returns true if the client has cancelled many more requests than it has let be answered.
    pub(super) fn are_flooded(&self) -> bool {
        let (answered, broken_off) = (self.answered.load(Relaxed), self.broken_off.load(Relaxed));
        self.left.load(Relaxed) + broken_off > answered.saturating_sub(broken_off) + MAX_CANCELLED
    }
}

/// A request without a response yet. If it is dropped, its client has cancelled it.
pub(super) struct Started {
    in_flight: Option<InFlight>,
    activity: Arc<Activity>,
    responses: Arc<Responses>,
}

impl Started {
    pub(super) fn new(activity: &Arc<Activity>, responses: &Arc<Responses>) -> Started {
        Started {
            in_flight: Some(InFlight::new(Arc::clone(activity))),
            activity: Arc::clone(activity),
            responses: Arc::clone(responses),
        }
    }

    /// Returns the activity of the connection.
    pub(super) fn activity(&self) -> Arc<Activity> {
        Arc::clone(&self.activity)
    }

    /// Ends the connection after this request.
    pub(super) fn end_connection(&self) {
        self.activity.end(Ending::Drained);
    }

    pub(super) fn answered(mut self) -> Arc<Unfinished> {
        self.responses.answered.fetch_add(1, Relaxed);
        let (responses, in_flight) = (Arc::clone(&self.responses), self.in_flight.take());
        responses.open.fetch_add(1, Relaxed);
        let unfinished = Unfinished { responses, slot: AtomicUsize::new(NO_SLOT), _in_flight: in_flight };
        unfinished.has_progress();
        Arc::new(unfinished)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.in_flight.is_none() {
            return;
        }
        self.responses.left.fetch_add(1, Relaxed);
        end_if_flooded(&self.responses, &self.activity);
    }
}

pub(super) fn end_if_flooded(responses: &Responses, activity: &Activity) {
    if responses.are_flooded() {
        activity.end(Ending::Evicted);
    }
}

const NO_SLOT: usize = usize::MAX;

/// Guard of a response until its last byte has left: the body holds it, and every piece that hyper has taken.
#[derive(Debug)]
pub(super) struct Unfinished {
    responses: Arc<Responses>,
    /// Index of the response among [`Responses::unfinished`], unless it only waits for more to send.
    slot: AtomicUsize,
    _in_flight: Option<InFlight>,
}

impl Unfinished {
    /// Notes that the response only waits for more to send.
    pub(super) fn waits(&self) {
        self.move_to(NO_SLOT);
    }

    /// Notes that a piece of the response has left.
    pub(super) fn has_left(&self) {
        self.responses.add_progress();
    }

    pub(super) fn has_progress(&self) {
        self.responses.add_progress();
        self.move_to(self.responses.generation.load(Relaxed) % 3);
    }

    fn move_to(&self, slot: usize) {
        if let Some(count) = self.responses.unfinished.get(slot) {
            count.fetch_add(1, Relaxed);
        }
        if let Some(count) = self.responses.unfinished.get(self.slot.swap(slot, AcqRel)) {
            count.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.move_to(NO_SLOT);
        self.responses.open.fetch_sub(1, Relaxed);
    }
}

/// Guard of a response that only waits for the server to change. Its request counts as one that waits for its client, so
/// that it keeps no other connection from its place.
pub(super) struct Watch {
    activity: Arc<Activity>,
    responses: Arc<Responses>,
}

impl Watch {
    pub(super) fn new(activity: Arc<Activity>, unfinished: &Unfinished) -> Watch {
        activity.add_waiting();
        // It is counted among those that wait, and not among those that are open.
        unfinished.responses.open.fetch_sub(1, Relaxed);
        Watch { activity, responses: Arc::clone(&unfinished.responses) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.responses.open.fetch_add(1, Relaxed);
        self.activity.remove_waiting();
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Instant;

    use super::*;
    use crate::http::activity::Rest;

    #[test]
    fn a_response_without_progress_in_two_generations_is_overdue() {
        let activity = Arc::new(Activity::new(Instant::now(), NonZeroUsize::MIN));
        let responses = Arc::new(Responses::default());
        let response = Started::new(&activity, &responses).answered();
        assert!(!responses.next_generation_is_overdue());
        response.has_progress();
        assert!(!responses.next_generation_is_overdue());
        assert!(!responses.next_generation_is_overdue());
        assert!(responses.next_generation_is_overdue());
        assert!(activity.is_answering());
        drop(response);
        assert!(!responses.next_generation_is_overdue());
        assert!(!activity.is_answering());
        assert_eq!(responses.unfinished.each_ref().map(|count| count.load(Relaxed)), [0; 3]);
    }

    #[test]
    fn a_connection_with_a_watch_gives_way_unless_another_request_runs() {
        let activity = Arc::new(Activity::new(Instant::now(), NonZeroUsize::MIN));
        let responses = Arc::new(Responses::default());
        let response = Started::new(&activity, &responses).answered();
        assert_eq!(activity.rest(), None);
        let watch = Watch::new(Arc::clone(&activity), &response);
        assert_eq!(activity.rest(), Some(Rest::Waiting));
        assert!(!activity.is_working(responses.unfinished()));
        let other = Started::new(&activity, &responses);
        assert_eq!(activity.rest(), None);
        assert!(activity.is_working(responses.unfinished()));
        drop((other, watch, response));
        assert_eq!((responses.unfinished(), activity.is_answering()), (0, false));
        assert!(activity.rest().is_some_and(|rest| rest != Rest::Waiting));
    }

    #[test]
    fn a_client_that_cancels_more_than_it_lets_be_answered_is_ended() {
        let activity = Arc::new(Activity::new(Instant::now(), NonZeroUsize::MIN));
        let responses = Arc::new(Responses::default());
        let cancel = |times| (0..times).for_each(|_| drop(Started::new(&activity, &responses)));
        cancel(MAX_CANCELLED);
        drop(Started::new(&activity, &responses).answered());
        cancel(1);
        assert_eq!(activity.ending(), None);
        cancel(1);
        assert_eq!(activity.ending(), Some(Ending::Evicted));
    }
}
