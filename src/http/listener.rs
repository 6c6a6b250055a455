//! Accepts the connections of a listener, and drains them at the end.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection;
use super::connection_threads::ConnectionThreads;
use super::connections::{ConnectionTimeouts, Connections, MAX_LEAVING, OpenConnection, Places};
use super::sockets::{AcceptedStream, Acceptors, BoundAddresses, ListeningSockets};
use super::stream::SocketStream;
use super::tls::Tls;
use crate::config::ListenAddress;
use crate::error::{Result, SetupError};
use crate::monitor::ServerRecorder;

/// Pause after a failed attempt to accept a connection, in which other connections may close and free their file
/// descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Minimum interval of warnings about connections that cannot be accepted.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Maximum size of a request's head, and of the part of a body that is read ahead.
const BUFFER_BYTES: usize = 64 << 10;

/// Number of connections above the limit. They keep health and metrics available, even if all other connections are
/// busy. Predictions on them are refused.
const SPARE_CONNECTIONS: usize = 64;

/// Maximum number of connections on the admin listener, enough for a few operators and a scraper.
const ADMIN_CONNECTIONS: usize = 64;

/// Number of file descriptors for files other than connections, such as model files, the state and the pipes of a
/// trial.
const OTHER_FILES: usize = 128;

/// Number of file descriptors of the runtime of a thread that serves connections.
const FILES_PER_THREAD: usize = 4;

/// A listener. The kernel queues its connections until they are served.
#[derive(Debug)]
pub struct Listener {
    sockets: ListeningSockets,
    /// TLS of the TCP connections, if it is configured.
    tls: Option<Tls>,
    /// The threads that serve the connections; `None` for those of the runtime that accepts them.
    threads: Option<Arc<ConnectionThreads>>,
}

/// Limits of the connections of a listener.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// Maximum numbers of connections.
    pub places: Places,
    pub timeouts: ConnectionTimeouts,
}

/// Returns the maximum numbers of connections of the data listener and of the admin listener. `limit` is the configured
/// limit, and `files` the maximum number of file descriptors of this process, some of which are left for other files, and
/// for the `threads` that serve connections.
///
/// ```
/// use std::num::NonZeroUsize;
/// use leeway::http::places;
/// let (wanted, threads) = (NonZeroUsize::new(1024).unwrap(), NonZeroUsize::new(8).unwrap());
/// let (data, admin) = places(wanted, Some(20_000), threads);
/// assert_eq!((data.regular.get(), data.spare, admin.regular.get()), (1024, 64, 64));
/// let (data, admin) = places(wanted, Some(1024), threads);
/// assert_eq!((data.regular.get(), data.spare, admin.regular.get()), (720, 64, 64));
/// ```
pub fn places(limit: NonZeroUsize, files: Option<u64>, threads: NonZeroUsize) -> (Places, Places) {
    let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    // All numbers shrink if the process may have very few file descriptors.
    let spare = SPARE_CONNECTIONS.min(files / 16);
    let admin = ADMIN_CONNECTIONS.min(files / 16);
    let of_threads = (FILES_PER_THREAD * threads.get()).min(files / 4);
    let kept = OTHER_FILES.min(files / 2) + of_threads + spare + admin + MAX_LEAVING;
    let at_least_one = |count: usize| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    let regular = limit.min(at_least_one(files.saturating_sub(kept)));
    (Places { regular, spare }, Places { regular: at_least_one(admin), spare: 1 })
}

// ===== impl Listener =====

impl Listener {
    /// Starts to listen on bound addresses: the kernel queues connections from now on. Must be called within a runtime.
    pub fn listen(addresses: BoundAddresses, tls: Option<Tls>) -> Result<Listener, SetupError> {
        Ok(Listener { sockets: addresses.listen()?, tls, threads: None })
    }

    /// Serves the connections on these threads.
    pub fn on_threads(self, threads: Arc<ConnectionThreads>) -> Listener {
        Listener { threads: Some(threads), ..self }
    }

    /// Returns the addresses, with the actual ports where port 0 was configured.
    pub fn addresses(&self) -> &[ListenAddress] {
        self.sockets.addresses()
    }

    /// Serves connections until `closing` turns true, and then drains them: connections that the kernel has already
    /// queued are accepted, idle connections are closed at once, and busy connections are closed after their response.
    /// Returns true if all connections have ended within `grace`.
    pub async fn serve(
        self,
        router: Router,
        limits: ListenerLimits,
        recorder: Arc<ServerRecorder>,
        mut closing: watch::Receiver<bool>,
        grace: Duration,
    ) -> bool {
        // Registered here and not earlier, so that the sockets belong to the runtime that accepts their connections.
        let mut acceptors = match self.sockets.register() {
            Ok(acceptors) => acceptors,
            Err(error) => {
                tracing::error!(%error, "connections cannot be accepted");
                return false;
            }
        };
        let ListenerLimits { places, timeouts } = limits;
        let connections = Arc::new(Connections::new(places, timeouts, Arc::clone(&recorder)));
        let (write_timeout, tls, threads) = (timeouts.write, self.tls, self.threads);
        let serving = Serving { connections: Arc::clone(&connections), router, write_timeout, tls, threads };
        let mut look = tokio::time::interval(timeouts.precision());
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut errors = AcceptErrors { recorder, warned: None };
        // An accepted connection without a place is kept across iterations: the place that it was accepted for may be
        // busy again.
        let mut accepted: Option<AcceptedStream> = None;
        loop {
            // Accepts only if a place is free or can be freed. Otherwise connections wait in the backlog.
            let next = async {
                if accepted.is_none() {
                    connections.has_room().await;
                    accepted = Some(acceptors.accept().await?);
                }
                Ok::<_, io::Error>(connections.place().await)
            };
            let place = tokio::select! {
                _ = closing.wait_for(|closing| *closing) => break,
                _ = look.tick() => {
                    connections.end_overdue();
                    continue;
                }
                place = next => place,
            };
            match place {
                Ok(open) => {
                    if let Some(stream) = accepted.take() {
                        serving.serve(stream, open);
                    }
                }
                Err(error) if errors.note(&error) => {
                    // Usually the file descriptors are used up. Evicting a connection frees one.
                    connections.evict_one();
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
                Err(_) => {}
            }
        }
        serving.drain(acceptors, accepted, grace).await
    }
}

/// Counter of failed attempts to accept a connection, which also logs a warning now and then.
struct AcceptErrors {
    recorder: Arc<ServerRecorder>,
    warned: Option<Instant>,
}

impl AcceptErrors {
    /// Counts an error and returns true, unless a client has caused the error by aborting its connection.
    fn note(&mut self, error: &io::Error) -> bool {
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return false;
        }
        self.recorder.accept_failed();
        if self.warned.is_none_or(|warned| warned.elapsed() > WARN_EVERY) {
            tracing::warn!(%error, "connections cannot be accepted; leeway_accept_errors_total counts them");
            self.warned = Some(Instant::now());
        }
        true
    }
}

/// State for serving connections, shared by all connections of a listener.
struct Serving {
    connections: Arc<Connections>,
    router: Router,
    write_timeout: Duration,
    tls: Option<Tls>,
    threads: Option<Arc<ConnectionThreads>>,
}

impl Serving {
    fn serve(&self, stream: AcceptedStream, open: OpenConnection) {
        stream.set_nodelay();
        let mut http = http1::Builder::new();
        // The listener ends connections that do not send a head, so hyper needs no timer for each request.
        http.header_read_timeout(None).max_buf_size(BUFFER_BYTES);
        let (router, activity) = (self.router.clone(), Arc::clone(&open.activity));
        let (write_timeout, above_limit) = (self.write_timeout, open.above_limit);
        let tls = self.tls.clone();
        let serving = async move {
            // Registered here, with the runtime of the thread that serves the connection.
            let stream = match (stream.register(), tls) {
                (Ok(SocketStream::Tcp(stream)), Some(tls)) => {
                    tls.accept(stream, &open.activity).await.map(SocketStream::Tls)
                }
                (Ok(stream), _) => Some(stream),
                (Err(error), _) => {
                    tracing::warn!(%error, "a connection cannot be served");
                    None
                }
            };
            if let Some(stream) = stream {
                note(connection::serve(http, stream, write_timeout, router, above_limit, activity).await);
            }
            drop(open);
        };
        match &self.threads {
            Some(threads) => threads.spawn(serving),
            None => drop(tokio::spawn(serving)),
        }
    }

    /// Serves the queued and the open connections to their end. Returns true if all have ended within `grace`.
    async fn drain(&self, acceptors: Acceptors, accepted: Option<AcceptedStream>, grace: Duration) -> bool {
        self.serve_backlog(acceptors);
        self.connections.drain();
        let ended = async {
            if let Some(stream) = accepted {
                self.serve(stream, self.connections.place().await);
                self.connections.drain();
            }
            self.connections.all_ended().await;
        };
        tokio::time::timeout(grace, ended).await.is_ok()
    }

    /// Serves the connections that the kernel has already queued, and closes the sockets.
    fn serve_backlog(&self, acceptors: Acceptors) {
        acceptors.close(|stream| {
            // If all places have a request in flight, the connection is closed.
            if let Some(open) = self.connections.open() {
                self.serve(stream, open);
            }
        });
    }
}

/// Logs the end of a connection, if it was early.
fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::config::SocketMode;

    const TICK: Duration = Duration::from_millis(100);

    async fn ask(stream: &mut TcpStream, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { return false };
            head.push(byte);
        }
        head.starts_with(b"HTTP/1.1 200")
    }

    /// Tests a connection that is accepted because another connection can be evicted, which is busy again before the
    /// eviction.
    #[tokio::test]
    async fn an_accepted_connection_waits_for_its_place_across_checks_of_the_others() {
        let (came, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let slow = {
            let (came, go) = (Arc::clone(&came), Arc::clone(&go));
            move || async move {
                came.add_permits(1);
                go.acquire().await.unwrap().forget();
            }
        };
        let router = Router::new().route("/quick", get(|| async {})).route("/slow", get(slow));
        let bound = BoundAddresses::bind(&([127, 0, 0, 1], 0).into(), SocketMode::OWNER, "http.listen").unwrap();
        let listener = Listener::listen(bound, None).unwrap();
        let [ListenAddress::Tcp(address)] = *listener.addresses() else { panic!() };
        let limits = ListenerLimits {
            places: Places { regular: NonZeroUsize::MIN, spare: 0 },
            timeouts: ConnectionTimeouts { first_request: 8 * TICK, idle: 600 * TICK, write: 600 * TICK },
        };
        let (close, closing) = watch::channel(false);
        let serving = tokio::spawn(listener.serve(router, limits, Arc::default(), closing, 600 * TICK));

        let mut first = TcpStream::connect(address).await.unwrap();
        ask(&mut first, "/quick").await;
        assert!(is_answered(&mut first).await);
        ask(&mut first, "/slow").await;
        came.acquire().await.unwrap().forget();
        let mut second = TcpStream::connect(address).await.unwrap();
        ask(&mut second, "/quick").await;
        // After some checks, the second connection still waits.
        assert!(tokio::time::timeout(3 * TICK, second.read_u8()).await.is_err());
        go.add_permits(1);
        drop(first);
        assert!(is_answered(&mut second).await);

        ask(&mut second, "/slow").await;
        came.acquire().await.unwrap().forget();
        close.send_replace(true);
        go.add_permits(1);
        assert!(is_answered(&mut second).await);
        drop(second);
        assert!(serving.await.unwrap());
    }
}
