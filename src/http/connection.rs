//! One connection: serves it, and ends it when its listener says so.

use std::convert::Infallible;
use std::io;
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tower_service::Service;

use super::connections::AboveLimit;
use super::request_context::has_a_date;
use super::stream::WatchedStream;
use crate::monitor::Delivery;

/// Time for a connection to start a request that its client has already sent, while the listener closes.
const LAST_HEAD: Duration = Duration::from_millis(250);

/// Time for which a connection counts as new, in milliseconds.
const NEW_MS: u64 = 1_000;

/// Interval of checks on a connection that is ending, and the maximum number of checks in a row without progress.
const LOOK: Duration = Duration::from_secs(1);
const MAX_LOOKS_WITHOUT_PROGRESS: u32 = 5;

/// The state of a connection that its listener sees: its work, and the time since which it has been idle.
#[derive(Debug)]
pub(super) struct Activity {
    /// Start of the listener. Times are counted from it.
    epoch: Instant,
    /// Maximum number of connections, for the error of an evicted request.
    limit: NonZeroUsize,
    /// Requests without an answer yet.
    requests: AtomicUsize,
    /// True while bytes of an answer wait for the client to read.
    is_writing: AtomicBool,
    /// Number of completed writes.
    written: AtomicU64,
    /// True once there was a request.
    has_asked: AtomicBool,
    /// True while a request waits for its client to send more of the body.
    is_waiting: AtomicBool,
    /// Time of acceptance, of the last answer, or of the last piece of a body, in milliseconds from the epoch.
    since: AtomicU64,
    /// True once the client has ended its side while it waits for an answer.
    has_ended_input: AtomicBool,
    /// The answer whose first bytes are written next.
    delivery: Mutex<Option<Arc<Delivery>>>,
    /// The way to end, once the listener has decided.
    ending: Mutex<Option<Ending>>,
    told: Notify,
}

/// State of a connection that can be evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It has no request.
    Idle,
    /// Its request waits for the client to send more of the body.
    Waiting,
    /// It has just been accepted. Its first head is probably on its way.
    New,
}

/// The error of a body that is read no further, because others need the place of its connection.
#[derive(Debug, thiserror::Error)]
#[error("others need the place of this connection")]
pub(super) struct Evicted {
    /// Maximum number of connections.
    pub(super) limit: NonZeroUsize,
}

/// Reason for ending a connection, which decides how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Others need its place. It ends at once, or after the answer to a request that has arrived. A request that waits
    /// for its body is refused.
    Evicted,
    /// Its client was silent, or read its answer too slowly. It ends at once, unless a new request has arrived.
    Overdue,
    /// The listener closes. It ends after the answers to the requests that have been sent.
    Drained,
}

/// Serves a connection until it ends, or is told to end. `above_limit` is attached to each of its requests.
pub(super) async fn serve(
    mut http: http1::Builder,
    stream: TcpStream,
    write_timeout: Duration,
    router: Router,
    above_limit: Option<AboveLimit>,
    activity: Arc<Activity>,
) -> hyper::Result<()> {
    // hyper panics on a date that it cannot write. A response without a date is valid, too.
    http.auto_date_header(has_a_date());
    let stream = WatchedStream::new(stream, write_timeout, Arc::clone(&activity));
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        if let Some(above_limit) = above_limit {
            request.extensions_mut().insert(above_limit);
        }
        let (mut router, in_flight) = (router.clone(), InFlight::new(Arc::clone(&activity)));
        let request = request.map(|body| Body::new(WatchedBody { body, activity: Arc::clone(&activity) }));
        async move {
            let mut response: Response = router.call(request).await?;
            *in_flight.0.delivery.lock() = response.extensions_mut().remove();
            // Answers are whole: from here on all there is to do is to write, which the stream sees.
            drop(in_flight);
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ending = tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        ending = activity.told_to_end() => ending,
    };
    if ending == Ending::Overdue && !activity.is_answering() {
        return Ok(());
    }
    if ending == Ending::Drained
        && let Ok(ended) = tokio::time::timeout(LAST_HEAD, connection.as_mut()).await
    {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    // A client that has sent only part of a head, or reads nothing of its answer, would otherwise delay the shutdown.
    let (mut written, mut looks) = (activity.written.load(Relaxed), 0);
    while activity.is_busy() && looks < MAX_LOOKS_WITHOUT_PROGRESS {
        if let Ok(ended) = tokio::time::timeout(LOOK, connection.as_mut()).await {
            return ended;
        }
        let before = std::mem::replace(&mut written, activity.written.load(Relaxed));
        looks = if activity.is_answering() || written != before { 0 } else { looks + 1 };
    }
    Ok(())
}

// ===== impl Activity =====

impl Activity {
    /// The state of a connection that has just been accepted.
    pub(super) fn new(epoch: Instant, limit: NonZeroUsize) -> Activity {
        Activity {
            epoch,
            limit,
            requests: AtomicUsize::new(0),
            is_writing: AtomicBool::new(false),
            written: AtomicU64::new(0),
            has_asked: AtomicBool::new(false),
            is_waiting: AtomicBool::new(false),
            since: AtomicU64::new(millis(epoch.elapsed())),
            has_ended_input: AtomicBool::new(false),
            delivery: Mutex::new(None),
            ending: Mutex::new(None),
            told: Notify::new(),
        }
    }

    /// Returns true if a request has no answer yet.
    pub(super) fn is_answering(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// Whether bytes of an answer wait for the client to read.
    pub(super) fn is_writing(&self) -> bool {
        self.is_writing.load(Relaxed)
    }

    /// Returns true if the connection has work to do.
    pub(super) fn is_busy(&self) -> bool {
        self.is_answering() || self.is_writing()
    }

    /// Returns the state in which the connection can be evicted; `None` while the server works for it.
    pub(super) fn rest(&self) -> Option<Rest> {
        match (self.is_waiting.load(Relaxed), self.is_busy()) {
            (true, _) => Some(Rest::Waiting),
            (false, true) => None,
            (false, false) if self.is_new() => Some(Rest::New),
            (false, false) => Some(Rest::Idle),
        }
    }

    fn is_new(&self) -> bool {
        !self.has_asked() && millis(self.epoch.elapsed()) < self.since().saturating_add(NEW_MS)
    }

    /// Reports that a request waits for its client, or no longer does.
    pub(super) fn set_waiting(&self, is_waiting: bool) {
        if is_waiting == self.is_waiting.load(Relaxed) {
            return;
        }
        if is_waiting {
            self.since.store(millis(self.epoch.elapsed()), Relaxed);
        }
        self.is_waiting.store(is_waiting, Relaxed);
    }

    fn is_evicted(&self) -> bool {
        *self.ending.lock() == Some(Ending::Evicted)
    }

    /// Returns true once there was a request.
    pub(super) fn has_asked(&self) -> bool {
        self.has_asked.load(Relaxed)
    }

    /// Returns the time of acceptance, of the last answer, or of the last piece of a body, in milliseconds from the
    /// listener's epoch.
    pub(super) fn since(&self) -> u64 {
        self.since.load(Relaxed)
    }

    /// Tells the connection to end. The first call decides how.
    pub(super) fn end(&self, ending: Ending) {
        self.ending.lock().get_or_insert(ending);
        self.told.notify_one();
    }

    async fn told_to_end(&self) -> Ending {
        loop {
            // An earlier notification is stored, so none is missed.
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

    pub(super) fn input_ended(&self) {
        self.has_ended_input.store(true, Relaxed);
    }

    /// Reports that the answer is being written to the socket.
    pub(super) fn deliver(&self) {
        drop(self.delivery.lock().take());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Counts a request as in flight until dropped.
struct InFlight(Arc<Activity>);

impl InFlight {
    fn new(activity: Arc<Activity>) -> InFlight {
        activity.requests.fetch_add(1, Relaxed);
        activity.has_asked.store(true, Relaxed);
        InFlight(activity)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.since.store(millis(self.0.epoch.elapsed()), Relaxed);
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// The body of a request. Fails if the client has ended its side before the body was complete, and if it does not arrive
/// while others need the place of the connection.
struct WatchedBody {
    body: Incoming,
    activity: Arc<Activity>,
}

impl HttpBody for WatchedBody {
    type Data = bytes::Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                self.activity.set_waiting(false);
                Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
            }
            // Hyper reads the end of the input only after it has handed on all earlier bytes.
            Poll::Pending if self.activity.has_ended_input.load(Relaxed) => {
                Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
            }
            // The connection is polled when it is told to end, and polls this.
            Poll::Pending if self.activity.is_evicted() => {
                Poll::Ready(Some(Err(io::Error::other(Evicted { limit: self.activity.limit }))))
            }
            Poll::Pending => {
                self.activity.set_waiting(true);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        self.activity.set_waiting(false);
    }
}
