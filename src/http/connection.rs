//! One connection, from its first byte to its last: served, and closed in order when the listener closes.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;

use super::listener::AboveLimit;
use super::request_context::has_a_date;
use crate::monitor::Delivery;

/// While a listener closes: how long a connection that has neither a request nor an answer may take to end. Hyper
/// closes idle ones at once; one that has sent part of a head would otherwise hold up the end for nothing.
const NO_REQUEST: Duration = Duration::from_secs(1);

/// Serves a connection until it ends. Once `closing` is true, it ends when the answer to the request that is in
/// flight has been written. `above_limit` is said of each of its requests.
pub(super) async fn serve(
    mut http: http1::Builder,
    stream: TcpStream,
    write_timeout: Duration,
    router: Router,
    above_limit: Option<AboveLimit>,
    mut closing: watch::Receiver<bool>,
) -> hyper::Result<()> {
    // hyper panics on a date that it cannot write; without one, a response is as good.
    http.auto_date_header(has_a_date());
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(write_timeout));
    let work = Arc::new(Work::default());
    let stream = WatchedStream { stream: Box::pin(stream), work: Arc::clone(&work) };
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        if let Some(above_limit) = above_limit {
            request.extensions_mut().insert(above_limit);
        }
        let (mut router, in_flight) = (router.clone(), InFlight::new(Arc::clone(&work)));
        async move {
            let mut response: Response = router.call(request).await?;
            *in_flight.0.delivery.lock() = response.extensions_mut().remove();
            // Answers are whole: from here on all there is to do is to write, which the stream sees.
            drop(in_flight);
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        _ = closing.wait_for(|closing| *closing) => connection.as_mut().graceful_shutdown(),
    }
    loop {
        match tokio::time::timeout(NO_REQUEST, connection.as_mut()).await {
            Ok(ended) => return ended,
            Err(_) if work.is_done() => return Ok(()),
            Err(_) => {}
        }
    }
}

/// What a connection still has to do.
#[derive(Debug, Default)]
struct Work {
    /// Requests that have no answer yet.
    requests: AtomicUsize,
    /// Whether bytes of an answer wait for the client to read.
    is_writing: AtomicBool,
    /// The answer whose first bytes are to be written next.
    delivery: Mutex<Option<Arc<Delivery>>>,
}

impl Work {
    fn is_done(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0 && !self.is_writing.load(Ordering::Relaxed)
    }
}

/// Counts a request as in flight until it is dropped.
struct InFlight(Arc<Work>);

impl InFlight {
    fn new(work: Arc<Work>) -> InFlight {
        work.requests.fetch_add(1, Ordering::Relaxed);
        InFlight(work)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that notes whether a write is pending. Hyper writes until nothing is left or the stream is not ready, so
/// that whenever a connection waits, this says whether bytes are left.
struct WatchedStream {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    work: Arc<Work>,
}

impl WatchedStream {
    /// The answer goes to the socket.
    fn deliver(&self) {
        drop(self.work.delivery.lock().take());
    }

    fn note<T>(&self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.work.is_writing.store(poll.is_pending(), Ordering::Relaxed);
        poll
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(context, buf)
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.deliver();
        let poll = self.stream.as_mut().poll_write(context, buf);
        self.note(poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.deliver();
        let poll = self.stream.as_mut().poll_write_vectored(context, bufs);
        self.note(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = self.stream.as_mut().poll_flush(context);
        self.note(poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = self.stream.as_mut().poll_shutdown(context);
        self.note(poll)
    }
}
