//! Traces: spans of sampled requests, exported over OTLP.
//!
//! Spans are made after the fact. While a sampled request is served, only its ids travel with it ([`RequestTrace`]); the
//! times of its stages are those of its clock. Once it has ended, they become spans, on the thread that exports them. A
//! request that is not sampled carries nothing.
//!
//! - `tracer.rs` decides which requests are sampled, and `request_trace.rs` has what travels with one. `run_trace.rs` is the
//!   span of a run that several requests share.
//! - `spans.rs` turns finished requests and runs into spans.
//! - `span_queue.rs` is the bounded queue of the thread that exports them (`export.rs`), and `otlp.rs` sends them to a collector. Whatever the
//!   collector does, no request waits for it.
//!
//! This module does not depend on HTTP, models or pipelines: they describe what they have done.

#![warn(missing_docs)]

mod export;
mod otlp;
mod request_trace;
mod run_trace;
mod span_queue;
mod spans;
mod tracer;

pub use opentelemetry::KeyValue;

pub use self::request_trace::{RequestTrace, RunLink, RunOfBatch, SpanIds};
pub use self::run_trace::RunTrace;
pub use self::spans::{FinishedSpan, SpanFailure};
pub use self::tracer::Tracer;
