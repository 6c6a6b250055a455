//! The session that a worker owns, as other threads see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::session::{Interrupt, Session};

/// Handle with which other threads end the runs of the session that a worker currently owns.
#[derive(Default)]
pub(super) struct CurrentSession {
    interrupt: Mutex<Option<Arc<dyn Interrupt>>>,
    /// True once the runs of this worker were ended permanently.
    is_retired: AtomicBool,
}

impl CurrentSession {
    pub(super) fn set(&self, session: &dyn Session) {
        let mut current = self.interrupt.lock();
        let interrupt = current.insert(session.interrupt());
        // `retire` was called before this session was set, so its runs are ended here.
        if self.is_retired.load(Ordering::Relaxed) {
            interrupt.end_runs();
        }
    }

    /// Records that the worker has no session at the moment.
    pub(super) fn clear(&self) {
        *self.interrupt.lock() = None;
    }

    /// Returns true if runs were ended permanently.
    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// Returns true if the worker has a session.
    pub(super) fn is_open(&self) -> bool {
        self.interrupt.lock().is_some()
    }

    /// Ends the current run and every later one, permanently.
    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
        self.end_run();
    }

    /// Ends the current run and every later one, until [`CurrentSession::allow_runs`].
    pub(super) fn end_run(&self) {
        if let Some(interrupt) = &*self.interrupt.lock() {
            interrupt.end_runs();
        }
    }

    /// Allows runs again, unless they were ended permanently.
    pub(super) fn allow_runs(&self) {
        if let Some(interrupt) = &*self.interrupt.lock()
            && !self.is_retired.load(Ordering::Relaxed)
        {
            interrupt.allow_runs();
            // A thread that calls `retire` meanwhile waits for the lock, then ends runs again.
        }
    }
}

impl std::fmt::Debug for CurrentSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CurrentSession").field("is_retired", &self.is_retired).finish_non_exhaustive()
    }
}
