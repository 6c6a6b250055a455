//! Serves one connection until the client closes it, or the listener ends it.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tower_service::Service;

use super::activity::{AboveLimit, Activity, Ending, InFlight};
use super::context;
use super::http2::{self, Protocol};
use super::poll_again::PollAgain;
use super::request_layer::has_a_date;
use super::stream::{SocketStream, WatchedStream};

/// Time for a connection to start a request that its client has already sent, while the listener closes.
const LAST_HEAD: Duration = Duration::from_millis(250);

/// Interval of checks on a connection that is ending, and the maximum number of checks in a row without progress.
const LOOK: Duration = Duration::from_secs(1);
const MAX_LOOKS_WITHOUT_PROGRESS: u32 = 5;

/// Serves a connection until the client closes it, or the listener ends it. `above_limit` is attached to each of its
/// requests.
pub(super) async fn serve(
    mut http: http1::Builder,
    stream: SocketStream,
    write_timeout: Duration,
    router: Router,
    above_limit: Option<AboveLimit>,
    activity: Arc<Activity>,
) -> hyper::Result<()> {
    match http2::protocol(&stream, &activity).await {
        Some(Protocol::Http1) => {}
        Some(Protocol::Http2) => return http2::serve(stream, write_timeout, router, above_limit, activity).await,
        None => return Ok(()),
    }
    // hyper panics on a date that it cannot format. A response without a date is valid, too.
    http.auto_date_header(has_a_date());
    let stream = WatchedStream::new(stream, write_timeout, Arc::clone(&activity));
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        if let Some(above_limit) = above_limit {
            context::mark_above_limit(&mut request, above_limit);
        }
        let (mut router, in_flight) = (router.clone(), InFlight::new(Arc::clone(&activity)));
        let request = request.map(|body| Body::new(WatchedBody { body, activity: Arc::clone(&activity) }));
        async move {
            let mut response: Response = router.call(request).await?;
            // The response is complete, but not written yet. `WatchedStream` records the write.
            in_flight.answered(context::take_delivery(&mut response));
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = PollAgain::new(http.serve_connection(TokioIo::new(stream), service));
    let ending = tokio::select! {
        biased;
        ended = &mut connection => return ended,
        ending = activity.told_to_end() => ending,
    };
    if ending == Ending::Overdue && !activity.is_answering() {
        return Ok(());
    }
    if ending == Ending::Drained
        && let Ok(ended) = tokio::time::timeout(LAST_HEAD, &mut connection).await
    {
        return ended;
    }
    connection.future().graceful_shutdown();
    // Gives up after some checks without progress: a client that has sent only part of a head, or does not read its
    // response, must not delay the shutdown.
    let (mut written, mut looks) = (activity.written(), 0);
    while activity.is_busy() && looks < MAX_LOOKS_WITHOUT_PROGRESS {
        if let Ok(ended) = tokio::time::timeout(LOOK, &mut connection).await {
            return ended;
        }
        let before = std::mem::replace(&mut written, activity.written());
        looks = if activity.is_answering() || written != before { 0 } else { looks + 1 };
    }
    Ok(())
}

/// The body of a request. Reading an incomplete body fails if the client closes its sending side, or if the connection
/// is evicted.
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
            // hyper reads the end of the input only after it has passed on all earlier bytes.
            Poll::Pending if self.activity.has_ended_input() => {
                Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
            }
            // An eviction wakes the connection, which then polls this body.
            Poll::Pending if self.activity.is_evicted() => {
                Poll::Ready(Some(Err(io::Error::other(self.activity.evicted()))))
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
