//! The threads that serve connections. A connection stays on its thread from its acceptance to its end.
//!
//! Each thread has a runtime of its own, so no thread wakes another one to share its work. With one runtime for all threads,
//! two threads were woken for most requests, and a request of a small model took longer to be handed over than to be
//! answered.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use super::spinning::Spinner;
use crate::error::SetupError;

/// Interval of looks at threads that are ending.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

thread_local! {
    /// The spinner of this thread, if it serves connections.
    static SPINNER: RefCell<Option<Arc<Spinner>>> = const { RefCell::new(None) };
}

/// The threads that serve the connections of a listener. They end when this is dropped.
#[derive(Debug)]
pub struct ConnectionThreads {
    threads: Box<[ConnectionThread]>,
    /// Thread that is looked at first, so that threads with the same number of connections take turns.
    next: AtomicUsize,
    /// True once the threads have to end.
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct ConnectionThread {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

/// Counts a connection of a thread until it is dropped.
struct Counted(Arc<AtomicUsize>);

/// Notes that a request has arrived on this thread.
pub(super) fn has_been_asked() {
    SPINNER.with_borrow(|spinner| spinner.iter().for_each(|spinner| spinner.has_been_asked()));
}

/// Notes that this thread has written a response, or a part of it.
pub(super) fn has_answered() {
    SPINNER.with_borrow(|spinner| spinner.iter().for_each(|spinner| spinner.has_answered()));
}

// ===== impl ConnectionThreads =====

impl ConnectionThreads {
    /// Starts the threads.
    pub fn start(count: NonZeroUsize) -> Result<ConnectionThreads, SetupError> {
        let failed =
            |error| SetupError::internal(format_args!("a thread for connections could not be started: {error}"));
        let (stop, stopped) = watch::channel(false);
        let start = |spinner| ConnectionThread::start(spinner, stopped.clone()).map_err(failed);
        let threads = Spinner::for_threads(count).into_iter().map(start).collect::<Result<_, _>>()?;
        Ok(ConnectionThreads { threads, next: AtomicUsize::new(0), stop })
    }

    /// Drops the connections that are still open, and waits for the end of the threads. Returns false if they have not ended
    /// within the time: a stage may take long.
    pub async fn end(&self, within: Duration) -> bool {
        // Without a receiver, all threads have ended.
        let _ = self.stop.send(true);
        let ended = async {
            while !self.threads.iter().all(|thread| thread.thread.is_finished()) {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        };
        tokio::time::timeout(within, ended).await.is_ok()
    }

    /// Serves a connection on the thread that has the fewest.
    pub(super) fn spawn(&self, serving: impl Future<Output = ()> + Send + 'static) {
        let connections: Vec<usize> = self.threads.iter().map(|thread| thread.connections.load(Relaxed)).collect();
        let chosen = fewest(&connections, self.next.fetch_add(1, Relaxed));
        let Some(thread) = self.threads.get(chosen) else { return };
        thread.connections.fetch_add(1, Relaxed);
        let counted = Counted(Arc::clone(&thread.connections));
        thread.runtime.spawn(async move {
            serving.await;
            drop(counted);
        });
    }
}

/// Returns the place of the smallest number; among equal ones, the first from `start` on.
fn fewest(numbers: &[usize], start: usize) -> usize {
    let places = (0..numbers.len()).map(|step| (start + step) % numbers.len());
    places.min_by_key(|&place| numbers.get(place)).unwrap_or_default()
}

impl ConnectionThread {
    fn start(spinner: Arc<Spinner>, mut stopped: watch::Receiver<bool>) -> io::Result<ConnectionThread> {
        let (started, handle) = mpsc::channel::<io::Result<Handle>>();
        let serve = move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            SPINNER.set(Some(Arc::clone(&spinner)));
            if started.send(Ok(runtime.handle().clone())).is_err() {
                return;
            }
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Without a sender, the threads have to end, too.
                    _ = stopped.wait_for(|stop| *stop) => {}
                    () = spinner.spin() => {}
                }
            });
            // The connections that are still open are dropped with the runtime.
        };
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(serve)?;
        let runtime = handle.recv().map_err(io::Error::other)??;
        Ok(ConnectionThread { runtime, connections: Arc::default(), thread })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn threads_with_the_fewest_connections_take_turns() {
        assert_eq!((0..4).map(|start| fewest(&[0, 0, 0], start)).collect::<Vec<_>>(), [0, 1, 2, 0]);
        assert_eq!((0..4).map(|start| fewest(&[2, 1, 2, 1], start)).collect::<Vec<_>>(), [1, 1, 3, 3]);
    }

    #[test]
    fn connections_are_spread_over_the_threads_and_dropped_with_them() {
        let threads = ConnectionThreads::start(2.try_into().unwrap()).unwrap();
        let (served, ids) = mpsc::channel();
        for _ in 0..4 {
            let served = served.clone();
            threads.spawn(async move {
                served.send(std::thread::current().id()).unwrap();
                // Keeps the sender until the thread ends.
                std::future::pending::<()>().await;
                drop(served);
            });
        }
        drop(served);
        let mut seen: Vec<_> = (0..4).map(|_| ids.recv().unwrap()).collect();
        seen.sort_by_key(|id| format!("{id:?}"));
        assert!(seen[0] == seen[1] && seen[1] != seen[2] && seen[2] == seen[3], "{seen:?}");
        drop(threads);
        // All senders are gone.
        assert!(ids.recv().is_err());
    }

    #[test]
    fn a_connection_that_has_ended_makes_room_for_the_next() {
        let threads = ConnectionThreads::start(1.try_into().unwrap()).unwrap();
        threads.spawn(async {});
        while threads.threads[0].connections.load(Relaxed) > 0 {
            std::thread::yield_now();
        }
    }
}
