//! A worker: one thread that runs batches until its queue is closed. All workers of a version share its sessions.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::queue::{Queue, Work};
use super::runner::Runner;

/// Runs batches until the queue is closed and empty, then closes the session with the worker's own index.
pub(super) fn work(index: usize, queue: &Queue, runners: &Arc<[Mutex<Runner>]>) {
    let mut last = None;
    while let Some(work) = queue.take(last.take()) {
        match work {
            Work::Run { session, batch } => last = Some((session, runners[session].lock().run(&batch))),
            Work::OpenSession { session } => {
                open_session(&mut runners[session].lock(), session, queue);
                queue.has_opened(session);
            }
        }
    }
    runners[index].lock().close();
}

/// Opens a session again after it was lost. If that fails, batches are left to the other sessions, until this one is open:
/// otherwise it would always be free, so it would take most batches and fail them.
fn open_session(runner: &mut Runner, session: usize, queue: &Queue) {
    const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);
    runner.rebuild();
    while !runner.has_session() && queue.others_can_run(session) {
        std::thread::sleep(BETWEEN_ATTEMPTS);
        runner.rebuild();
    }
}
