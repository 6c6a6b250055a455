//! The recorder and metrics of everything that does not belong to a version: connections, errors, readiness, feedback.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::labels::FeedbackResult;
use super::metric_family::{Family, counter, gauge};
use super::prediction_log_metrics::PredictionLogRecorder;
use super::tracing_metrics::TracingRecorder;
use crate::budget::MemoryBudget;
use crate::error::{Error, OperatorError};

/// The recorder of everything that does not belong to a version.
#[derive(Debug, Default)]
pub struct ServerRecorder {
    /// Version of ONNX Runtime.
    onnxruntime: String,
    connections: AtomicU64,
    connections_total: AtomicU64,
    accept_errors: AtomicU64,
    access_lines_dropped: AtomicU64,
    error_responses: ErrorCounts,
    feedback: [AtomicU64; FeedbackResult::ALL.len()],
    buffered_feedback: AtomicU64,
    ready: AtomicU64,
    serves_models: AtomicU64,
    body_memory: OnceLock<MemoryBudget>,
    prediction_log: PredictionLogRecorder,
    tracing: TracingRecorder,
    /// Numbers of requests by the name of their API key. Only a change of the keys takes the lock.
    api_keys: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    /// Recorders of the listeners with TLS, by the name of their section in the configuration.
    tls: Mutex<BTreeMap<&'static str, Arc<TlsRecorder>>>,
}

/// The recorder of a listener with TLS.
#[derive(Debug, Default)]
pub struct TlsRecorder {
    expiry: AtomicI64,
    reload_failures: AtomicU64,
    handshake_failures: AtomicU64,
}

/// Counters of error responses, one for each error code.
#[derive(Debug)]
struct ErrorCounts(Vec<(&'static str, AtomicU64)>);

impl Default for ErrorCounts {
    fn default() -> ErrorCounts {
        let codes = Error::CODES.iter().chain(OperatorError::CODES);
        ErrorCounts(codes.map(|code| (*code, AtomicU64::new(0))).collect())
    }
}

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: &[Family<ServerRecorder>] = &[
    gauge(
        "leeway_build_info",
        &["version", "onnxruntime"],
        "Always 1; its labels are the versions of Leeway and of ONNX Runtime.",
        |server, series| series.value(&[env!("CARGO_PKG_VERSION"), &server.onnxruntime], 1u64),
    ),
    gauge(
        "leeway_ready",
        &[],
        "1 while the server takes new work, 0 while it is shutting down or serves no model.",
        |server, series| series.value(&[], server.ready.load(Relaxed) & server.serves_models.load(Relaxed)),
    ),
    gauge("leeway_connections", &[], "Open connections on the data listener.", |server, series| {
        series.value(&[], server.connections.load(Relaxed));
    }),
    counter("leeway_connections_total", &[], "Connections accepted on the data listener.", |server, series| {
        series.value(&[], server.connections_total.load(Relaxed));
    }),
    counter(
        "leeway_accept_errors_total",
        &[],
        "Connections that could not be accepted, for example for lack of file descriptors.",
        |server, series| series.value(&[], server.accept_errors.load(Relaxed)),
    ),
    counter(
        "leeway_access_log_dropped_total",
        &[],
        "Lines of the access log that were dropped, because standard error was not read fast enough.",
        |server, series| series.value(&[], server.access_lines_dropped()),
    ),
    gauge(
        "leeway_body_memory_bytes",
        &[],
        "Bytes held for request bodies and for responses that have not been read.",
        |server, series| series.value(&[], server.body_memory(MemoryBudget::held)),
    ),
    gauge("leeway_body_memory_limit_bytes", &[], "The limit of leeway_body_memory_bytes.", |server, series| {
        series.value(&[], server.body_memory(MemoryBudget::limit))
    }),
    counter(
        "leeway_error_responses_total",
        &["code"],
        "Requests answered with an error, by the last part of the problem's type.",
        |server, series| {
            for (code, count) in &server.error_responses.0 {
                series.value(&[code], count.load(Relaxed));
            }
        },
    ),
    counter("leeway_api_key_requests_total", &["key"], "Requests by the name of their API key.", |server, series| {
        for (name, count) in &*server.api_keys.lock() {
            series.value(&[name], count.load(Relaxed));
        }
    }),
    gauge(
        "leeway_tls_certificate_expiry_timestamp_seconds",
        &["listener"],
        "Time at which the certificate of a listener expires, in seconds since 1970.",
        |server, series| {
            for (listener, tls) in &*server.tls.lock() {
                series.value(&[listener], tls.expiry.load(Relaxed) as f64);
            }
        },
    ),
    counter(
        "leeway_tls_reload_failures_total",
        &["listener"],
        "Changes of a certificate that are not used, because the new one is wrong.",
        |server, series| {
            for (listener, tls) in &*server.tls.lock() {
                series.value(&[listener], tls.reload_failures.load(Relaxed));
            }
        },
    ),
    counter("leeway_tls_handshake_failures_total", &["listener"], "TLS handshakes that failed.", |server, series| {
        for (listener, tls) in &*server.tls.lock() {
            series.value(&[listener], tls.handshake_failures.load(Relaxed));
        }
    }),
    counter("leeway_outcome_feedback_total", &["result"], "Items of feedback, by result.", |server, series| {
        for (result, count) in FeedbackResult::ALL.into_iter().zip(&server.feedback) {
            series.value(&[result.name()], count.load(Relaxed));
        }
    }),
    gauge(
        "leeway_outcome_feedback_buffered",
        &[],
        "Statements of feedback that wait until the state can be reached.",
        |server, series| series.value(&[], server.buffered_feedback.load(Relaxed)),
    ),
];

// ===== impl ServerRecorder =====

impl ServerRecorder {
    /// Creates a recorder with all counters at 0, for this version of ONNX Runtime.
    pub(super) fn new(onnxruntime: &str) -> ServerRecorder {
        ServerRecorder { onnxruntime: onnxruntime.to_owned(), ..ServerRecorder::default() }
    }

    /// Counts an accepted connection.
    pub fn connection_opened(&self) {
        self.connections.fetch_add(1, Relaxed);
        self.connections_total.fetch_add(1, Relaxed);
    }

    /// Counts a closed connection.
    pub fn connection_closed(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Counts a connection that could not be accepted.
    pub fn accept_failed(&self) {
        self.accept_errors.fetch_add(1, Relaxed);
    }

    /// Sets the number of statements of feedback that wait for the state.
    pub fn set_buffered_feedback(&self, statements: usize) {
        self.buffered_feedback.store(statements as u64, Relaxed);
    }

    /// Counts a line of the access log that was dropped.
    pub fn access_line_dropped(&self) {
        self.access_lines_dropped.fetch_add(1, Relaxed);
    }

    /// Returns the number of lines of the access log that were dropped.
    pub fn access_lines_dropped(&self) -> u64 {
        self.access_lines_dropped.load(Relaxed)
    }

    /// Counts a response with an error of this code.
    pub fn error_response(&self, code: &str) {
        if let Some((_, count)) = self.error_responses.0.iter().find(|(known, _)| *known == code) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Counts items of feedback with this result.
    pub fn feedback(&self, result: FeedbackResult, items: u64) {
        self.feedback[result as usize].fetch_add(items, Relaxed);
    }

    /// Returns the counters of requests with the API keys of these names, in their order. Names that are no longer there
    /// are forgotten; the others go on counting.
    pub fn count_api_keys<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<Arc<AtomicU64>> {
        let mut known = self.api_keys.lock();
        let names: Vec<&str> = names.collect();
        known.retain(|name, _| names.contains(&&**name));
        names.into_iter().map(|name| Arc::clone(known.entry(name.to_owned()).or_default())).collect()
    }

    /// Returns the recorder of a listener with TLS.
    pub fn record_tls(&self, listener: &'static str) -> Arc<TlsRecorder> {
        Arc::clone(self.tls.lock().entry(listener).or_default())
    }

    /// Returns the recorder of the prediction log.
    pub fn prediction_log(&self) -> &PredictionLogRecorder {
        &self.prediction_log
    }

    /// Returns the recorder of the export of spans.
    pub fn tracing(&self) -> &TracingRecorder {
        &self.tracing
    }

    /// Sets the gauge of the server's readiness for new requests.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready.into(), Relaxed);
    }

    /// Returns the times at which the certificates of listeners expire, in seconds since 1970, by the section of the listener
    /// in the configuration.
    pub fn certificate_expiries(&self) -> Vec<(&'static str, i64)> {
        let tls = self.tls.lock();
        let expiry = |(listener, tls): (&&'static str, &Arc<TlsRecorder>)| (*listener, tls.expiry.load(Relaxed));
        tls.iter().map(expiry).filter(|(_, expiry)| *expiry > 0).collect()
    }

    /// Sets the gauge of at least one model being served.
    pub fn set_serves_models(&self, serves: bool) {
        self.serves_models.store(serves.into(), Relaxed);
    }

    /// Sets the memory budget of request bodies and responses, whose use is shown.
    pub fn watch_body_memory(&self, budget: MemoryBudget) {
        // A server has only one such budget.
        let _ = self.body_memory.set(budget);
    }

    /// Reads a number of bytes from the memory budget of bodies; 0 without a budget.
    fn body_memory(&self, bytes: fn(&MemoryBudget) -> usize) -> u64 {
        self.body_memory.get().map_or(0, |budget| u64::try_from(bytes(budget)).unwrap_or(u64::MAX))
    }
}

// ===== impl TlsRecorder =====

impl TlsRecorder {
    /// Sets the time at which the certificate expires, in seconds since 1970.
    pub fn set_expiry(&self, seconds: i64) {
        self.expiry.store(seconds, Relaxed);
    }

    /// Counts a new certificate that is not used.
    pub fn reload_failed(&self) {
        self.reload_failures.fetch_add(1, Relaxed);
    }

    /// Counts a handshake that failed.
    pub fn handshake_failed(&self) {
        self.handshake_failures.fetch_add(1, Relaxed);
    }
}
