//! The handles of what belongs to no version: connections, errors, readiness, feedback.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::labels::FeedbackResult;
use crate::budget::MemoryBudget;
use crate::error::{Error, OperatorError};

/// The handles of what belongs to no version.
#[derive(Debug, Default)]
pub struct ServerRecorder {
    connections: AtomicU64,
    connections_total: AtomicU64,
    accept_errors: AtomicU64,
    error_responses: ErrorCounts,
    feedback: [AtomicU64; FeedbackResult::ALL.len()],
    ready: AtomicU64,
    serves_models: AtomicU64,
    body_memory: OnceLock<MemoryBudget>,
}

/// A counter for each code of an error that can be answered.
#[derive(Debug)]
struct ErrorCounts(Vec<(&'static str, AtomicU64)>);

impl Default for ErrorCounts {
    fn default() -> ErrorCounts {
        let codes = Error::CODES.iter().chain(OperatorError::CODES);
        ErrorCounts(codes.map(|code| (*code, AtomicU64::new(0))).collect())
    }
}

/// Held bytes and limit of a memory budget.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct HeldMemory {
    pub(super) held: u64,
    pub(super) limit: u64,
}

// ===== impl ServerRecorder =====

impl ServerRecorder {
    /// A connection was accepted.
    pub fn connection_opened(&self) {
        self.connections.fetch_add(1, Relaxed);
        self.connections_total.fetch_add(1, Relaxed);
    }

    /// A connection was closed.
    pub fn connection_closed(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// The kernel refused to hand over a connection.
    pub fn accept_failed(&self) {
        self.accept_errors.fetch_add(1, Relaxed);
    }

    /// A request was answered with an error of this code.
    pub fn error_response(&self, code: &str) {
        if let Some((_, count)) = self.error_responses.0.iter().find(|(known, _)| *known == code) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// So many items of feedback came to this.
    pub fn feedback(&self, result: FeedbackResult, items: u64) {
        self.feedback[result as usize].fetch_add(items, Relaxed);
    }

    /// Sets if the server takes new work.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready.into(), Relaxed);
    }

    /// Sets if at least one model is served.
    pub fn set_serves_models(&self, serves: bool) {
        self.serves_models.store(serves.into(), Relaxed);
    }

    /// Sets the budget that bodies and answers are held in.
    pub fn watch_body_memory(&self, budget: MemoryBudget) {
        // A server has only one.
        let _ = self.body_memory.set(budget);
    }

    pub(super) fn body_memory(&self) -> HeldMemory {
        let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let seen = |budget: &MemoryBudget| HeldMemory { held: bytes(budget.held()), limit: bytes(budget.limit()) };
        self.body_memory.get().map(seen).unwrap_or_default()
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    pub(super) fn connections_total(&self) -> u64 {
        self.connections_total.load(Relaxed)
    }

    pub(super) fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Relaxed)
    }

    pub(super) fn error_responses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.error_responses.0.iter().map(|(code, count)| (*code, count.load(Relaxed)))
    }

    pub(super) fn feedback_results(&self) -> [(FeedbackResult, u64); FeedbackResult::ALL.len()] {
        FeedbackResult::ALL.map(|result| (result, self.feedback[result as usize].load(Relaxed)))
    }

    pub(super) fn ready(&self) -> u64 {
        self.ready.load(Relaxed) & self.serves_models.load(Relaxed)
    }
}
