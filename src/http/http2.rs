//! Serves one HTTP/2 connection. Clients of gRPC speak HTTP/2 from the first byte ("prior knowledge").
//!
//! A connection counts as in use while any of its streams is: from the head of the request until the whole response has
//! been written or given up. The limits bound the work and memory that one client can cause by sending heads, resets or
//! settings without end.

mod bodies;
mod responses;

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONNECTION;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tower_service::Service;

use self::bodies::{RequestBody, ResponseBody};
use self::responses::{Responses, Started, Watch};
use super::activity::{AboveLimit, Activity, Ending};
use super::context;
use super::request_layer::has_a_date;
use super::stream::{SocketStream, WatchedStream};

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
/// Maximum size of a frame: that of the window of a stream, so that a tensor of 600 kB comes in one frame. Frames of
/// 64 KiB made such a request take 1.6 times as long.
const MAX_FRAME_BYTES: u32 = STREAM_WINDOW;
/// Maximum number of bytes that a client may send before they are read, on one stream and on the connection. A tensor of
/// 600 kB arrives without a pause.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Maximum number of resets by the client that hyper has not looked at yet, and of streams that were reset because of
/// the client's errors.
const MAX_RESETS: usize = 32;
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
    let time_left = match ending {
        Ending::Overdue => return None,
        Ending::Drained => LAST_HEAD,
        Ending::Evicted => {
            // The runtime has not looked at the connection yet. Its client may have sent a request, which gets a response.
            tokio::task::yield_now().await;
            Duration::ZERO
        }
    };
    let protocol = tokio::time::timeout(time_left, peek(stream)).await.ok()?.ok()?;
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
        let request = request.map(|body| Body::new(RequestBody::new(body, &activity, &responses)));
        answer(request, router.clone(), Started::new(&activity, &responses))
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
    farewell(connection, ending, &activity, &responses).await
}

/// Answers a request.
async fn answer(
    request: axum::extract::Request,
    mut router: Router,
    started: Started,
) -> Result<Response<ResponseBody>, Infallible> {
    let mut response = router.call(request).await?;
    // HTTP/2 has a frame for this.
    if response.headers_mut().remove(CONNECTION).is_some() {
        started.end_connection();
    }
    let delivery = context::take_delivery(&mut response);
    let is_watch = context::take_watch(&mut response);
    let (watcher, unfinished) = (started.activity(), started.answered());
    let watch = is_watch.then(|| Watch::new(watcher, &unfinished));
    Ok(response.map(|body| ResponseBody::new(body, delivery, watch, unfinished)))
}

/// Drives a connection whose client was told that it ends, while it is needed and makes progress.
async fn farewell(
    mut connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
    ending: Ending,
    activity: &Activity,
    responses: &Responses,
) -> hyper::Result<()> {
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
