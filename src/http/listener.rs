//! Accepting connections, serving each with a limit on how long a head may take, and draining them.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::watch;

use super::connection;
use crate::error::{Error, Result};
use crate::monitor::ServerRecorder;

/// How long to wait after the kernel could not hand over a connection: file descriptors come back when
/// connections close.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Connections above the limit that are served all the same, so that health and metrics answer however many clients
/// hold theirs. Predictions on them are refused.
const SPARE_CONNECTIONS: usize = 64;

/// How long a connection above the limit may take for a head: others want its place.
const SPARE_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Said of every request on a connection above the limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct AboveLimit {
    /// The limit.
    pub(super) limit: NonZeroUsize,
}

/// A bound address that accepts connections once it is served.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

/// What bounds the connections of a listener.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// Connections open at one time. A few more are served, but no predictions; the rest waits in the kernel's
    /// backlog.
    pub connections: NonZeroUsize,
    /// How long a connection may take to send a request's head, and how long it may be idle.
    pub header_timeout: Duration,
    /// How long a client may read nothing of an answer that is being written.
    pub write_timeout: Duration,
}

impl Listener {
    /// Binds `address`. `name` is the key that configures it, for the message.
    pub async fn bind(address: SocketAddr, name: &str) -> Result<Listener> {
        let failed = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => "; another process has this port: stop it, or choose another address",
                io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges: choose another port",
                _ => "",
            };
            Error::Listen(format!("{name}: cannot listen on {address}: {error}{hint}"))
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Listener { listener, address })
    }

    /// The address, with the port that was taken where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves connections until `closing` turns true. Then no more are accepted, idle ones are closed, and
    /// those with a request in flight are closed after its answer, or dropped when `grace` is over. Says
    /// whether all of them finished.
    pub async fn serve(
        self,
        router: Router,
        limits: ListenerLimits,
        recorder: Arc<ServerRecorder>,
        mut closing: watch::Receiver<bool>,
        grace: Duration,
    ) -> bool {
        let builder = |header_timeout| {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(header_timeout);
            http
        };
        let http = builder(limits.header_timeout);
        let spare_http = builder(limits.header_timeout.min(SPARE_HEADER_TIMEOUT));
        let all_places = limits.connections.get() + SPARE_CONNECTIONS;
        let (places, regular) = (Semaphore::new(all_places), Semaphore::new(limits.connections.get()));
        let (places, regular) = (Arc::new(places), Arc::new(regular));
        loop {
            // A place is taken before a connection is: without one, connections wait in the backlog.
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, stream) = tokio::select! {
                _ = closing.wait_for(|closing| *closing) => break,
                accepted = accepted => accepted,
            };
            let stream = match stream {
                Ok((stream, _peer)) => stream,
                Err(error) => {
                    // A peer that gave up is none of our concern; anything else is ours, and passes.
                    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                        tracing::warn!(%error, "a connection could not be accepted");
                        recorder.accept_failed();
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                    }
                    continue;
                }
            };
            without_delay(&stream);
            let regular = Arc::clone(&regular).try_acquire_owned().ok();
            let (http, above_limit) = match &regular {
                Some(_) => (http.clone(), None),
                None => (spare_http.clone(), Some(AboveLimit { limit: limits.connections })),
            };
            let connection =
                connection::serve(http, stream, limits.write_timeout, router.clone(), above_limit, closing.clone());
            let open = OpenConnection::new(Arc::clone(&recorder));
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection ended early");
                }
                drop((place, regular, open));
            });
        }
        drop(self.listener);
        // Every connection holds a place until it has ended.
        let all_places = u32::try_from(all_places).unwrap_or(u32::MAX);
        tokio::time::timeout(grace, places.acquire_many(all_places)).await.is_ok()
    }
}

/// Answers are small and whole: they should leave at once.
fn without_delay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
}

/// Counts a connection as open until it is dropped.
struct OpenConnection(Arc<ServerRecorder>);

impl OpenConnection {
    fn new(recorder: Arc<ServerRecorder>) -> OpenConnection {
        recorder.connection_opened();
        OpenConnection(recorder)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}
