//! One connection, from its first byte to its last: served, and closed in order when the listener closes.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;

/// While a listener closes: how long a connection without a request may take to end. Hyper closes idle ones at once;
/// one that has sent part of a head would otherwise hold up the end for nothing.
const NO_REQUEST: Duration = Duration::from_secs(1);

/// Serves a connection until it ends. Once `closing` is true, it ends after the request that is in flight.
pub(super) async fn serve(
    http: http1::Builder,
    stream: TcpStream,
    write_timeout: Duration,
    router: Router,
    mut closing: watch::Receiver<bool>,
) -> hyper::Result<()> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(write_timeout));
    let requests = Arc::new(AtomicUsize::new(0));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (mut router, in_flight) = (router.clone(), InFlight::new(Arc::clone(&requests)));
        async move {
            let response: Response = router.call(request).await?;
            Ok::<_, Infallible>(response.map(|body| CountedBody { body, _in_flight: in_flight }))
        }
    });
    let mut connection = pin!(http.serve_connection(TokioIo::new(Box::pin(stream)), service));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        _ = closing.wait_for(|closing| *closing) => connection.as_mut().graceful_shutdown(),
    }
    loop {
        match tokio::time::timeout(NO_REQUEST, connection.as_mut()).await {
            Ok(ended) => return ended,
            Err(_) if requests.load(Ordering::Relaxed) == 0 => return Ok(()),
            Err(_) => {}
        }
    }
}

/// Counts a request as in flight, until its answer has been written.
struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    fn new(requests: Arc<AtomicUsize>) -> InFlight {
        requests.fetch_add(1, Ordering::Relaxed);
        InFlight(requests)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response's body, which is dropped once it has been written.
struct CountedBody {
    body: Body,
    _in_flight: InFlight,
}

impl hyper::body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
