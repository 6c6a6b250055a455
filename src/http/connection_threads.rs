//! The threads that serve connections. A connection stays on its thread from its acceptance to its end.
//!
//! Each thread has a runtime of its own, so no thread wakes another one to share its work. With one runtime for all threads,
//! two threads were woken for most requests, and a request of a small model took longer to be handed over than to be
//! answered.

use std::cell::RefCell;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::spinning::Spinner;
use crate::error::SetupError;

/// Lifetime of an idle thread for heavy stages.
const IDLE_THREAD: Duration = Duration::from_millis(500);

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
}

#[derive(Debug)]
struct ConnectionThread {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropped to end the thread.
    _stop: oneshot::Sender<()>,
}

/// Counts a connection of a thread until it is dropped.
struct Counted(Arc<AtomicUsize>);

/// Notes that this thread has answered a request, if it serves connections.
pub(super) fn has_answered() {
    SPINNER.with_borrow(|spinner| {
        if let Some(spinner) = spinner {
            spinner.has_answered();
        }
    });
}

// ===== impl ConnectionThreads =====

impl ConnectionThreads {
    /// Starts the threads.
    pub fn start(count: NonZeroUsize) -> Result<ConnectionThreads, SetupError> {
        let failed =
            |error| SetupError::internal(format_args!("a thread for connections could not be started: {error}"));
        let spinners = Spinner::for_threads(count);
        let threads = spinners.into_iter().map(|spinner| ConnectionThread::start(spinner).map_err(failed));
        Ok(ConnectionThreads { threads: threads.collect::<Result<_, _>>()?, next: AtomicUsize::new(0) })
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
    fn start(spinner: Arc<Spinner>) -> std::io::Result<ConnectionThread> {
        let runtime = Builder::new_current_thread().enable_all().thread_keep_alive(IDLE_THREAD).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            SPINNER.set(Some(Arc::clone(&spinner)));
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Ends when the sender is dropped.
                    _ = stopped => {}
                    () = spinner.spin() => {}
                }
            });
            // Drops the connections that are still open, and waits for no heavy stage.
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("http".to_owned()).spawn(serve)?;
        Ok(ConnectionThread { runtime: handle, connections: Arc::default(), _stop: stop })
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
