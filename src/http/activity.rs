//! The state of a connection, shared by its listener, its stream and the bodies of its requests.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::connection_threads;
use crate::monitor::Delivery;

/// Time after its acceptance for which a connection counts as new, in milliseconds.
const NEW_MS: u64 = 1_000;

/// The state of a connection, as its listener sees it: its work, and the start of its idle time.
#[derive(Debug)]
pub(super) struct Activity {
    /// Start of the listener. All times in this struct are counted from it.
    epoch: Instant,
    /// Maximum number of connections, quoted in the error response to a request on an evicted connection.
    limit: NonZeroUsize,
    /// Number of requests without a response yet.
    requests: AtomicUsize,
    /// True while bytes of a response wait for the client to read them.
    is_writing: AtomicBool,
    /// Number of completed writes to the socket.
    written: AtomicU64,
    /// True once the connection has received a request.
    has_asked: AtomicBool,
    /// Number of requests that wait for their client to send more of the body.
    waiting: AtomicUsize,
    /// Time of the connection's acceptance, last response or last piece of a body: the latest of them, in milliseconds
    /// from the epoch.
    since: AtomicU64,
    /// True once the client has closed its sending side while waiting for a response.
    has_ended_input: AtomicBool,
    /// Guard that records the duration of a request when the first byte of its response is written.
    delivery: Mutex<Option<Arc<Delivery>>>,
    /// Reason for ending the connection, once the listener has decided to end it.
    ending: Mutex<Option<Ending>>,
    told: Notify,
}

/// State in which a connection can be evicted, because it only waits for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// No request is in flight.
    Idle,
    /// A request waits for the client to send more of its body.
    Waiting,
    /// The connection has just been accepted. Its first head is probably on its way.
    New,
}

/// Error for a request body that is not read to its end, because its connection is evicted.
#[derive(Debug, thiserror::Error)]
#[error("another connection needs the place of this one")]
pub(super) struct Evicted {
    /// Maximum number of connections.
    pub(super) limit: NonZeroUsize,
}

/// Reason for ending a connection, which decides how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Another connection needs the place of this one. This connection ends at once or, if a request has arrived, after
    /// the response. A request whose body is incomplete is refused.
    Evicted,
    /// The client was silent, or read the response too slowly. The connection ends at once, unless a new request has
    /// arrived.
    Overdue,
    /// The listener closes. The connection ends after the responses to the requests that were sent.
    Drained,
}

/// Marker of requests on a connection above the limit, which serves only health and metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct AboveLimit {
    pub(super) limit: NonZeroUsize,
}

impl Activity {
    /// Returns the state of a connection that has just been accepted.
    pub(super) fn new(epoch: Instant, limit: NonZeroUsize) -> Activity {
        Activity {
            epoch,
            limit,
            requests: AtomicUsize::new(0),
            is_writing: AtomicBool::new(false),
            written: AtomicU64::new(0),
            has_asked: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            since: AtomicU64::new(millis(epoch.elapsed())),
            has_ended_input: AtomicBool::new(false),
            delivery: Mutex::new(None),
            ending: Mutex::new(None),
            told: Notify::new(),
        }
    }

    /// Returns true if a request on the connection has no response yet.
    pub(super) fn is_answering(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// Returns true if bytes of a response wait for the client to read them.
    pub(super) fn is_writing(&self) -> bool {
        self.is_writing.load(Relaxed)
    }

    /// Returns true while a request has no response yet, or a response is not written completely.
    pub(super) fn is_busy(&self) -> bool {
        self.is_answering() || self.is_writing()
    }

    /// Returns the state in which the connection can be evicted; `None` while the server works on its request or
    /// response.
    pub(super) fn rest(&self) -> Option<Rest> {
        let waiting = self.waiting.load(Relaxed);
        match (waiting > 0 && waiting >= self.requests.load(Relaxed), self.is_busy()) {
            (true, _) => Some(Rest::Waiting),
            (false, true) => None,
            (false, false) if self.is_new() => Some(Rest::New),
            (false, false) => Some(Rest::Idle),
        }
    }

    fn is_new(&self) -> bool {
        !self.has_asked() && millis(self.epoch.elapsed()) < self.since().saturating_add(NEW_MS)
    }

    /// Sets the mark that a request waits for its client to send more of the body.
    pub(super) fn set_waiting(&self, is_waiting: bool) {
        if is_waiting == (self.waiting.load(Relaxed) > 0) {
            return;
        }
        if is_waiting {
            self.since.store(millis(self.epoch.elapsed()), Relaxed);
        }
        self.waiting.store(is_waiting.into(), Relaxed);
    }

    /// Notes that one more of several requests waits for its client to send more of the body.
    pub(super) fn add_waiting(&self) {
        self.since.store(millis(self.epoch.elapsed()), Relaxed);
        self.waiting.fetch_add(1, Relaxed);
    }

    /// Notes that one of several requests no longer waits for its client.
    pub(super) fn remove_waiting(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Returns true if the server works on a request, of which `responding` are being answered.
    pub(super) fn is_working(&self, responding: usize) -> bool {
        self.requests.load(Relaxed) > self.waiting.load(Relaxed) + responding
    }

    pub(super) fn is_evicted(&self) -> bool {
        *self.ending.lock() == Some(Ending::Evicted)
    }

    /// Returns true once the connection has received a request.
    pub(super) fn has_asked(&self) -> bool {
        self.has_asked.load(Relaxed)
    }

    /// Returns the time of the connection's acceptance, last response or last piece of a body: the latest of them, in
    /// milliseconds from the start of the listener.
    pub(super) fn since(&self) -> u64 {
        self.since.load(Relaxed)
    }

    /// Tells the connection to end. Only the first call sets the reason.
    pub(super) fn end(&self, ending: Ending) {
        self.ending.lock().get_or_insert(ending);
        self.told.notify_one();
    }

    pub(super) async fn told_to_end(&self) -> Ending {
        loop {
            // `Notify` stores an earlier notification, so none is missed.
            self.told.notified().await;
            if let Some(ending) = *self.ending.lock() {
                return ending;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn ending(&self) -> Option<Ending> {
        *self.ending.lock()
    }

    #[cfg(test)]
    pub(super) fn set_since(&self, since: u64) {
        self.since.store(since, Relaxed);
    }

    #[cfg(test)]
    pub(super) fn set_asked(&self) {
        self.has_asked.store(true, Relaxed);
    }

    #[cfg(test)]
    pub(super) fn set_answering(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn set_writing(&self, is_writing: bool) {
        self.is_writing.store(is_writing, Relaxed);
        if !is_writing {
            // No other task writes this counter.
            self.written.store(self.written.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Returns the number of completed writes to the socket.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Returns true once the client has closed its sending side.
    pub(super) fn has_ended_input(&self) -> bool {
        self.has_ended_input.load(Relaxed)
    }

    /// Returns the error for a request body that is not read to its end, because this connection is evicted.
    pub(super) fn evicted(&self) -> Evicted {
        Evicted { limit: self.limit }
    }

    pub(super) fn input_ended(&self) {
        self.has_ended_input.store(true, Relaxed);
    }

    /// Drops the guard of the response that is written now, which records the duration of its request.
    pub(super) fn deliver(&self) {
        drop(self.delivery.lock().take());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Guard that counts a request of a connection as in flight until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Activity>);

impl InFlight {
    pub(super) fn new(activity: Arc<Activity>) -> InFlight {
        activity.requests.fetch_add(1, Relaxed);
        activity.has_asked.store(true, Relaxed);
        connection_threads::has_been_asked();
        InFlight(activity)
    }
}

impl InFlight {
    /// Ends the request, and keeps the guard that records its duration at the first byte of the response.
    pub(super) fn answered(self, delivery: Option<Arc<Delivery>>) {
        *self.0.delivery.lock() = delivery;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.since.store(millis(self.0.epoch.elapsed()), Relaxed);
        self.0.requests.fetch_sub(1, Relaxed);
    }
}
