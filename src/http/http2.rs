//! Serves one HTTP/2 connection. Clients of gRPC speak HTTP/2 from the first byte ("prior knowledge").
//!
//! A connection counts as in use while any of its streams is: from the head of the request until the whole response has
//! been written or given up. The limits bound the work and memory that one client can cause by sending heads, resets or
//! settings without end.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Relaxed},
};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tower_service::Service;

use super::activity::{AboveLimit, Activity, Ending, InFlight};
use super::context;
use super::request_layer::has_a_date;
use super::stream::{SocketStream, WatchedStream};
use crate::monitor::Delivery;

/// First bytes of a connection that speaks HTTP/2. No method of HTTP/1 begins like this (RFC 9113, section 3.4).
const PREFACE: &[u8; 3] = b"PRI";
/// Name of HTTP/2 in the handshake of TLS (RFC 9113, section 3.2).
pub(super) const ALPN: &[u8] = b"h2";
/// First and longest interval of looks at a connection that has sent only one or two bytes.
const BETWEEN_PEEKS: Duration = Duration::from_millis(5);
const MAX_BETWEEN_PEEKS: Duration = Duration::from_millis(100);

/// Maximum number of requests in flight on a connection. Clients let further requests wait.
const MAX_STREAMS: u32 = 128;
/// Maximum size of the head of a request, as HTTP/2 counts it.
const MAX_HEAD_BYTES: u32 = 16 << 10;
/// Maximum size of a frame: large, so that large messages come in few frames.
const MAX_FRAME_BYTES: u32 = 64 << 10;
/// Maximum size of the pieces in which the body of a response leaves.
const MAX_PIECE_BYTES: usize = 64 << 10;
/// Maximum number of bytes that a client may send before they are read, on one stream and on the connection. A tensor of
/// 600 kB arrives without a pause.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Maximum number of resets by the client that hyper has not looked at yet, and of streams that were reset because of
/// the client's errors.
const MAX_RESETS: usize = 32;
/// Maximum number of requests that a client may cancel, beyond as many as it lets be answered.
const MAX_CANCELLED: usize = 256;
/// Interval of pings to the client, and time for it to reply.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Time for a client to take note of the end of its connection, if no request is in flight.
const FAREWELL: Duration = Duration::from_millis(100);
/// Time for a connection to start a request that its client has already sent, while the listener closes.
const LAST_HEAD: Duration = Duration::from_millis(250);
/// Interval of checks on a connection that is ending, and the maximum number of checks in a row without progress.
const LOOK: Duration = Duration::from_secs(1);
const MAX_LOOKS_WITHOUT_PROGRESS: u32 = 5;
/// Interval between two generations of responses, in write timeouts. A response that is unfinished after two generations
/// is overdue.
const WRITE_TIMEOUTS_PER_GENERATION: u32 = 2;

/// Protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Returns the protocol of a connection: the one of the handshake with TLS, or else that of the first bytes, which are not
/// read. `None` if the connection ends before.
pub(super) async fn protocol(stream: &SocketStream, activity: &Activity) -> Option<Protocol> {
    if let SocketStream::Tls(stream) = stream {
        let (_, session) = stream.get_ref();
        let is_http2 = session.alpn_protocol() == Some(ALPN);
        return Some(if is_http2 { Protocol::Http2 } else { Protocol::Http1 });
    }
    let ending = tokio::select! {
        biased;
        protocol = peek(stream) => return protocol.ok().flatten(),
        ending = activity.told_to_end() => ending,
    };
    if ending != Ending::Drained {
        return None;
    }
    let protocol = tokio::time::timeout(LAST_HEAD, peek(stream)).await.ok()?.ok()?;
    // The connection still has to be told.
    activity.end(ending);
    protocol
}

async fn peek(stream: &SocketStream) -> io::Result<Option<Protocol>> {
    let (mut first, mut pause) = ([0; PREFACE.len()], BETWEEN_PEEKS);
    loop {
        let length = stream.peek(&mut first).await?;
        match first.get(..length) {
            None | Some([]) => return Ok(None),
            Some(bytes) if !PREFACE.starts_with(bytes) => return Ok(Some(Protocol::Http1)),
            Some(_) if length == PREFACE.len() => return Ok(Some(Protocol::Http2)),
            // The kernel does not tell when more bytes arrive than were seen already.
            Some(_) => tokio::time::sleep(pause).await,
        }
        pause = pause.saturating_mul(2).min(MAX_BETWEEN_PEEKS);
    }
}

/// Serves a connection until the client closes it, or the listener ends it. `above_limit` is attached to each of its
/// requests.
pub(super) async fn serve(
    stream: SocketStream,
    write_timeout: Duration,
    router: Router,
    above_limit: Option<AboveLimit>,
    activity: Arc<Activity>,
) -> hyper::Result<()> {
    let responses = Arc::new(Responses::default());
    let stream = WatchedStream::without_half_close(stream, write_timeout, Arc::clone(&activity));
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        if let Some(above_limit) = above_limit {
            context::mark_above_limit(&mut request, above_limit);
        }
        let started = Started::new(&activity, &responses);
        let mut router = router.clone();
        let request = request.map(|body| Body::new(RequestBody::new(body, &activity, &responses)));
        async move {
            let mut response: Response = router.call(request).await?;
            // HTTP/2 has a frame for this.
            if response.headers_mut().remove(CONNECTION).is_some() {
                started.activity.end(Ending::Drained);
            }
            let delivery = context::take_delivery(&mut response);
            let is_watch = context::take_watch(&mut response);
            let (watcher, unfinished) = (Arc::clone(&started.activity), started.answered());
            let watch = is_watch.then(|| Watch::new(watcher, &unfinished.responses));
            Ok::<_, Infallible>(response.map(|body| ResponseBody {
                body,
                rest: Bytes::new(),
                delivery,
                _watch: watch,
                unfinished,
            }))
        }
    });
    let mut connection = pin!(builder().serve_connection(TokioIo::new(stream), service));
    let generation = write_timeout.saturating_mul(WRITE_TIMEOUTS_PER_GENERATION);
    let mut next_generation = tokio::time::interval(generation);
    let ending = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => return ended,
            ending = activity.told_to_end() => break ending,
            _ = next_generation.tick() => if responses.next_generation_is_overdue() { return Ok(()) },
        }
    };
    // A client that cancels without end is not told.
    if responses.are_flooded() {
        return Ok(());
    }
    // Tells the client not to start further requests here (GOAWAY).
    connection.as_mut().graceful_shutdown();
    // Replies to pings are no progress, so not every write to the socket counts.
    let (mut progress, mut looks) = (responses.progress(), 0);
    while looks < MAX_LOOKS_WITHOUT_PROGRESS {
        // A connection that is evicted or overdue waits for no client.
        let is_needed = ending == Ending::Drained && activity.is_busy() || activity.is_working(responses.unfinished());
        let pause = match (is_needed, ending) {
            (true, _) => LOOK,
            (false, Ending::Drained) if !activity.has_asked() => LAST_HEAD,
            (false, _) => FAREWELL,
        };
        if let Ok(ended) = tokio::time::timeout(pause, connection.as_mut()).await {
            return ended;
        }
        let is_working = activity.is_working(responses.unfinished());
        if !is_working && (ending != Ending::Drained || !activity.is_busy()) {
            return Ok(());
        }
        let before = std::mem::replace(&mut progress, responses.progress());
        looks = if is_working || progress != before { 0 } else { looks + 1 };
    }
    Ok(())
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        // hyper panics on a date that it cannot format. A response without a date is valid, too.
        .auto_date_header(has_a_date());
    http
}

/// The responses of a connection that its client has not received completely, and the requests that were cancelled.
#[derive(Debug, Default)]
struct Responses {
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
    /// Begins a generation. Returns true if a response has made no progress in the last two.
    fn next_generation_is_overdue(&self) -> bool {
        let next = self.generation.load(Relaxed).wrapping_add(1);
        let is_overdue = self.unfinished[next % 3].load(Relaxed) > 0;
        self.generation.store(next, Relaxed);
        is_overdue
    }

    fn unfinished(&self) -> usize {
        self.open.load(Relaxed)
    }

    fn progress(&self) -> usize {
        self.progress.load(Relaxed)
    }

    fn add_progress(&self) {
        self.progress.fetch_add(1, Relaxed);
    }

    /// Returns true if the client has cancelled many more requests than it has let be answered.
    fn are_flooded(&self) -> bool {
        let (answered, broken_off) = (self.answered.load(Relaxed), self.broken_off.load(Relaxed));
        self.left.load(Relaxed) + broken_off > answered.saturating_sub(broken_off) + MAX_CANCELLED
    }
}

/// A request without a response yet. If it is dropped, its client has cancelled it.
struct Started {
    in_flight: Option<InFlight>,
    activity: Arc<Activity>,
    responses: Arc<Responses>,
}

impl Started {
    fn new(activity: &Arc<Activity>, responses: &Arc<Responses>) -> Started {
        Started {
            in_flight: Some(InFlight::new(Arc::clone(activity))),
            activity: Arc::clone(activity),
            responses: Arc::clone(responses),
        }
    }

    fn answered(mut self) -> Arc<Unfinished> {
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

fn end_if_flooded(responses: &Responses, activity: &Activity) {
    if responses.are_flooded() {
        activity.end(Ending::Evicted);
    }
}

const NO_SLOT: usize = usize::MAX;

/// Guard of a response until its last byte has left: the body holds it, and every piece that hyper has taken.
#[derive(Debug)]
struct Unfinished {
    responses: Arc<Responses>,
    /// Index of the response among [`Responses::unfinished`], unless it only waits for more to send.
    slot: AtomicUsize,
    _in_flight: Option<InFlight>,
}

impl Unfinished {
    fn has_progress(&self) {
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
struct Watch {
    activity: Arc<Activity>,
    responses: Arc<Responses>,
}

impl Watch {
    fn new(activity: Arc<Activity>, responses: &Arc<Responses>) -> Watch {
        activity.add_waiting();
        // It is counted among those that wait, and not among those that are open.
        responses.open.fetch_sub(1, Relaxed);
        Watch { activity, responses: Arc::clone(responses) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.responses.open.fetch_add(1, Relaxed);
        self.activity.remove_waiting();
    }
}

/// The body of a response.
struct ResponseBody {
    body: Body,
    /// Part of the last frame of the body that hyper has not taken yet.
    rest: Bytes,
    /// Guard that records the duration of the request when the first piece of the response is taken.
    delivery: Option<Arc<Delivery>>,
    _watch: Option<Watch>,
    unfinished: Arc<Unfinished>,
}

/// A piece of a response.
struct Piece {
    bytes: Bytes,
    unfinished: Arc<Unfinished>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.unfinished.responses.add_progress();
    }
}

impl ResponseBody {
    /// Returns the first part of a frame, and keeps the rest. Large frames are cut, so that their progress is seen.
    fn piece(&mut self, mut bytes: Bytes) -> Bytes {
        self.rest = bytes.split_off(bytes.len().min(MAX_PIECE_BYTES));
        Bytes::from_owner(Piece { bytes, unfinished: Arc::clone(&self.unfinished) })
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.delivery = None;
        let frame = match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => Pin::new(&mut self.body).poll_frame(context),
            rest => Poll::Ready(Some(Ok(Frame::data(rest)))),
        };
        if frame.is_pending() && Arc::strong_count(&self.unfinished) == 1 {
            self.unfinished.move_to(NO_SLOT);
        }
        let frame = ready!(frame);
        self.unfinished.has_progress();
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|bytes| self.piece(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // hyper asks before it takes the first piece.
        if self.rest.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// The body of a request. It notes when it waits for its client.
struct RequestBody {
    body: Incoming,
    activity: Arc<Activity>,
    responses: Arc<Responses>,
    is_waiting: bool,
}

impl RequestBody {
    fn new(body: Incoming, activity: &Arc<Activity>, responses: &Arc<Responses>) -> RequestBody {
        RequestBody { body, activity: Arc::clone(activity), responses: Arc::clone(responses), is_waiting: false }
    }

    fn set_waiting(&mut self, is_waiting: bool) {
        match (std::mem::replace(&mut self.is_waiting, is_waiting), is_waiting) {
            (false, true) => self.activity.add_waiting(),
            (true, false) => self.activity.remove_waiting(),
            _ => {}
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        self.set_waiting(frame.is_pending());
        if frame.is_ready() {
            self.responses.add_progress();
        }
        if let Poll::Ready(Some(Err(_))) = &frame {
            self.responses.broken_off.fetch_add(1, Relaxed);
            end_if_flooded(&self.responses, &self.activity);
        }
        frame.map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.set_waiting(false);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
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
        let watch = Watch::new(Arc::clone(&activity), &responses);
        assert_eq!(activity.rest(), Some(Rest::Waiting));
        assert!(!activity.is_working(responses.unfinished()));
        let other = Started::new(&activity, &responses);
        assert_eq!(activity.rest(), None);
        assert!(activity.is_working(responses.unfinished()));
        drop((other, watch, response));
        assert_eq!((responses.unfinished(), activity.is_answering()), (0, false));
        assert!(activity.rest().is_some_and(|rest| rest != Rest::Waiting));
    }

    /// The body of one frame leaves in pieces, so that its progress is seen.
    #[tokio::test]
    async fn a_large_frame_leaves_in_pieces() {
        let activity = Arc::new(Activity::new(Instant::now(), NonZeroUsize::MIN));
        let responses = Arc::new(Responses::default());
        let unfinished = Started::new(&activity, &responses).answered();
        let bytes: Bytes = (0..=255).cycle().take(2 * MAX_PIECE_BYTES + 7).collect();
        let (body, rest) = (Body::from(bytes.clone()), Bytes::new());
        let mut body = pin!(ResponseBody { body, rest, delivery: None, _watch: None, unfinished });
        let (mut lengths, mut taken, mut progress) = (Vec::new(), Vec::new(), responses.progress());
        while !body.is_end_stream() {
            let frame = poll_fn(|context| body.as_mut().poll_frame(context)).await.unwrap().unwrap();
            let piece = frame.into_data().unwrap();
            lengths.push(piece.len());
            taken.extend_from_slice(&piece);
            assert!(responses.progress() > std::mem::replace(&mut progress, responses.progress()));
        }
        assert_eq!(lengths, [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 7]);
        assert_eq!(taken, bytes);
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
