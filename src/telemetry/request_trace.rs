//! The part of a trace that travels with a sampled request: the ids of its span, and the runs that have had its rows.

use std::fmt;
use std::sync::Arc;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use parking_lot::Mutex;

use super::span_queue::SpanQueue;

/// Maximum number of runs that a request is linked to: those of its rows, if they are run in parts.
const MAX_RUNS: usize = 32;

/// The ids of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanIds {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

/// The trace of a sampled request, or of a step of a chain, while it is served.
#[derive(Debug)]
pub struct RequestTrace {
    pub(super) queue: Arc<SpanQueue>,
    pub(super) ids: SpanIds,
    pub(super) parent: Option<Parent>,
    /// The header `tracestate` of the caller.
    pub(super) state: TraceState,
    runs: Mutex<Vec<RunLink>>,
}

/// The parent of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) span: SpanId,
    /// True if the parent is a span of the caller.
    pub(super) is_remote: bool,
}

/// A run that has had rows of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLink {
    /// Ids of the run's span.
    pub ids: SpanIds,
    /// Number of rows of the run.
    pub rows: usize,
    /// Number of requests that shared it.
    pub requests: usize,
}

/// Size of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOfBatch {
    /// Number of rows.
    pub rows: usize,
    /// Number of requests that share the run.
    pub requests: usize,
}

// ===== impl SpanIds =====

impl SpanIds {
    /// Reads the ids of a span as 32 and 16 hexadecimal digits.
    ///
    /// ```
    /// use leeway::telemetry::SpanIds;
    /// let ids = SpanIds::from_hex("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7").unwrap();
    /// assert_eq!(ids.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    /// ```
    pub fn from_hex(trace: &str, span: &str) -> Option<SpanIds> {
        Some(SpanIds { trace: TraceId::from_hex(trace).ok()?, span: SpanId::from_hex(span).ok()? })
    }

    /// Returns ids of a new trace whose random part is this.
    pub(super) fn of_trace(random: u64) -> SpanIds {
        let trace = u128::from(fastrand::u64(..)) << 64 | u128::from(random);
        SpanIds { trace: TraceId::from_bytes(trace.max(1).to_be_bytes()), span: new_span() }
    }

    /// Returns the ids of another span of the same trace.
    pub(super) fn sibling(self) -> SpanIds {
        SpanIds { span: new_span(), ..self }
    }

    /// Returns the context of the span, as links and exporters have it.
    pub(super) fn context(self, state: TraceState) -> SpanContext {
        SpanContext::new(self.trace, self.span, TraceFlags::SAMPLED, false, state)
    }
}

/// Writes the ids as a value of `traceparent`.
impl fmt::Display for SpanIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-01", self.trace, self.span)
    }
}

fn new_span() -> SpanId {
    SpanId::from_bytes(fastrand::u64(1..).to_be_bytes())
}

// ===== impl RequestTrace =====

impl RequestTrace {
    pub(super) fn new(
        queue: &Arc<SpanQueue>,
        ids: SpanIds,
        parent: Option<Parent>,
        state: TraceState,
    ) -> Arc<RequestTrace> {
        Arc::new(RequestTrace { queue: Arc::clone(queue), ids, parent, state, runs: Mutex::default() })
    }

    /// Returns the trace of a part of the request, such as a step of a chain.
    pub fn child(&self) -> Arc<RequestTrace> {
        let parent = Parent { span: self.ids.span, is_remote: false };
        RequestTrace::new(&self.queue, self.ids.sibling(), Some(parent), self.state.clone())
    }

    /// Returns the ids of the request's span.
    pub fn ids(&self) -> SpanIds {
        self.ids
    }

    /// Notes a run that has rows of the request.
    pub(super) fn joins(&self, run: RunLink) {
        let mut runs = self.runs.lock();
        if runs.len() < MAX_RUNS {
            runs.push(run);
        }
    }

    /// Returns the runs that have had rows of the request.
    pub(super) fn runs(&self) -> Vec<RunLink> {
        self.runs.lock().clone()
    }
}
