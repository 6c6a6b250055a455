//! Feedback that waits for a ledger that cannot be reached. In memory only, and bounded.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::judged::Judged;

/// Maximum number of statements in the buffer: some minutes of feedback, in at most some tens of MiB.
pub(super) const MAX_BUFFERED: usize = 100_000;

/// The waiting feedback, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Buffer(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    batches: VecDeque<Judged>,
    /// Number of statements, with those that are being recorded.
    statements: usize,
}

/// State of the buffer after a batch was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// The batch is the first one: its keeper has to record the buffer later.
    First,
    /// Other feedback already waits.
    Behind,
    /// The batch does not fit, and was not kept.
    Full,
}

impl Buffer {
    /// Returns true if no feedback waits. While some waits, later feedback has to wait behind it: the order decides which
    /// statement corrects another.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().statements == 0
    }

    /// Returns the number of waiting statements.
    pub(super) fn len(&self) -> usize {
        self.0.lock().statements
    }

    /// Adds a batch.
    pub(super) fn keep(&self, batch: Judged) -> Kept {
        let mut waiting = self.0.lock();
        let after = waiting.statements + batch.statements();
        if after > MAX_BUFFERED {
            return Kept::Full;
        }
        let is_first = waiting.statements == 0;
        waiting.statements = after;
        waiting.batches.push_back(batch);
        if is_first { Kept::First } else { Kept::Behind }
    }

    /// Takes the oldest batch, to record it. It counts as waiting until [`Buffer::recorded`].
    pub(super) fn oldest(&self) -> Option<Judged> {
        self.0.lock().batches.pop_front()
    }

    /// Puts the oldest batch back, because it could not be recorded.
    pub(super) fn put_back(&self, batch: Judged) {
        self.0.lock().batches.push_front(batch);
    }

    /// Notes that this number of statements was recorded. Returns true if no more wait.
    pub(super) fn recorded(&self, statements: usize) -> bool {
        let mut waiting = self.0.lock();
        waiting.statements -= statements.min(waiting.statements);
        waiting.statements == 0
    }
}
