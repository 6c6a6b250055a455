//! The access log (`log.access`): a line for each request. A thread of its own writes the lines, so that no request waits
//! for the reader of the log. If the reader is too slow, lines are dropped, counted and reported.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::header::HeaderValue;
use axum::http::{Method, Uri};
use tokio::sync::{mpsc, oneshot};

use super::trace_context::TraceContext;
use crate::config::{AccessLogging, LogConfig};
use crate::error::{OperatorError, SetupError};
use crate::identity::printable;
use crate::monitor::{Outcome, ServerRecorder};
use crate::serve::{NotedFacts, RequestNotes};
use crate::stage::{Stage, Timings};

/// Maximum number of lines that wait to be written: some 5 MiB.
const MAX_WAITING: usize = 8_192;
/// Maximum length of a path in a line, in bytes.
const MAX_PATH: usize = 256;
/// Minimum time between two reports of dropped lines.
const BETWEEN_REPORTS: Duration = Duration::from_secs(10);
/// Time for writing the lines that wait when the server stops.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The access log of a server.
#[derive(Debug)]
pub struct AccessLog {
    logged: AccessLogging,
    /// Share of the answered requests that have a line, 0 to 1. All others have one.
    sample: f64,
    lines: mpsc::Sender<Message>,
    recorder: Arc<ServerRecorder>,
}

/// A request that will have a line. A request that is dropped before its end was abandoned by its client.
#[derive(Debug)]
pub(super) struct AccessEntry {
    log: Arc<AccessLog>,
    method: Method,
    uri: Uri,
    request_id: HeaderValue,
    trace: Option<TraceContext>,
    started: Instant,
    notes: Arc<RequestNotes>,
    status: Option<u16>,
    failure: Option<Refusal>,
}

/// Outcome and code of an error.
#[derive(Debug, Clone, Copy)]
struct Refusal {
    outcome: Outcome,
    code: &'static str,
}

/// A message to the thread that writes the lines.
#[derive(Debug)]
enum Message {
    Line(Box<AccessLine>),
    /// Asks for a message back once all lines before it are written.
    Flush(oneshot::Sender<()>),
}

/// A line of the log.
#[derive(Debug)]
struct AccessLine {
    method: Method,
    path: String,
    request_id: String,
    trace: Option<TraceContext>,
    status: Option<u16>,
    outcome: Outcome,
    error: Option<&'static str>,
    took: Duration,
    model: Option<String>,
    version: Option<u32>,
    instances: Option<usize>,
    timings: Option<Timings>,
}

// ===== impl AccessLog =====

impl AccessLog {
    /// Starts the access log; `None` if it is off.
    pub fn start(config: &LogConfig, recorder: &Arc<ServerRecorder>) -> Result<Option<Arc<AccessLog>>, SetupError> {
        if config.access == AccessLogging::Off {
            return Ok(None);
        }
        let (lines, waiting) = mpsc::channel(MAX_WAITING);
        let counted = Arc::clone(recorder);
        let writer = std::thread::Builder::new().name("access-log".to_owned());
        writer.spawn(move || write_all(waiting, &counted)).map_err(SetupError::internal)?;
        let (logged, sample, recorder) = (config.access, config.access_sample, Arc::clone(recorder));
        Ok(Some(Arc::new(AccessLog { logged, sample, lines, recorder })))
    }

    /// Begins the line of a request. It has the ids of the request's own span, if there is one, or else of the caller's.
    pub(super) fn begin(
        self: &Arc<Self>,
        request: &Request,
        request_id: &HeaderValue,
        started: Instant,
        notes: Arc<RequestNotes>,
        own: Option<&TraceContext>,
    ) -> Box<AccessEntry> {
        Box::new(AccessEntry {
            log: Arc::clone(self),
            method: request.method().clone(),
            uri: request.uri().clone(),
            request_id: request_id.clone(),
            trace: own.cloned().or_else(|| TraceContext::of(request.headers())),
            started,
            notes,
            status: None,
            failure: None,
        })
    }

    /// Waits until the lines so far are written, for a limited time.
    pub async fn flush(&self) {
        let written = async {
            let (done, is_done) = oneshot::channel();
            if self.lines.send(Message::Flush(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        // Lines that a reader does not take in this time are lost.
        let _ = tokio::time::timeout(LAST_LINES, written).await;
    }

    fn has_line(&self, outcome: Outcome) -> bool {
        match (self.logged, outcome) {
            (AccessLogging::Off, _) => false,
            (AccessLogging::Errors, outcome) => outcome != Outcome::Ok,
            (AccessLogging::All, Outcome::Ok) => self.sample >= 1.0 || fastrand::f64() < self.sample,
            (AccessLogging::All, _) => true,
        }
    }

    /// Passes a line to the thread that writes it, unless too many lines wait.
    fn pass(&self, line: AccessLine) {
        if self.lines.try_send(Message::Line(Box::new(line))).is_err() {
            self.recorder.access_line_dropped();
        }
    }
}

// ===== impl AccessEntry =====

impl AccessEntry {
    /// Notes the error that the request is answered with.
    pub(super) fn failed(&mut self, error: &OperatorError) {
        self.failure = Some(Refusal { outcome: error.kind().fault().into(), code: error.code() });
    }

    /// Ends the request with the status of its response.
    pub(super) fn answered(mut self: Box<Self>, status: u16) {
        self.status = Some(status);
    }
}

impl Drop for AccessEntry {
    fn drop(&mut self) {
        let outcome = match (self.failure, self.status) {
            (Some(Refusal { outcome, .. }), _) => outcome,
            (None, Some(_)) => Outcome::Ok,
            (None, None) => Outcome::Abandoned,
        };
        if !self.log.has_line(outcome) {
            return;
        }
        let NotedFacts { version, instances, timings } = self.notes.facts();
        // Copied, because the parts of a head share its buffer, which may be large.
        self.log.pass(AccessLine {
            method: self.method.clone(),
            path: printable(self.uri.path(), MAX_PATH).into_owned(),
            request_id: self.request_id.to_str().unwrap_or_default().to_owned(),
            trace: self.trace.as_ref().map(TraceContext::copied),
            status: self.status,
            outcome,
            error: self.failure.map(|failure| failure.code),
            took: self.started.elapsed(),
            model: version.as_ref().map(|version| version.model.to_string()),
            version: version.as_ref().map(|version| version.version.get()),
            instances,
            timings,
        });
    }
}

// ===== the thread that writes =====

/// Writes lines until the server ends.
fn write_all(mut waiting: mpsc::Receiver<Message>, recorder: &ServerRecorder) {
    let (mut reported, mut last) = (0, None::<Instant>);
    while let Some(message) = waiting.blocking_recv() {
        match message {
            Message::Line(line) => write(&line),
            Message::Flush(done) => {
                let _ = done.send(());
            }
        }
        let dropped = recorder.access_lines_dropped();
        if dropped > reported && last.is_none_or(|last| last.elapsed() >= BETWEEN_REPORTS) {
            tracing::warn!(
                lines = dropped - reported,
                "lines of the access log were dropped, because standard error is not read fast enough; with \
                 log.access_sample, or log.access = \"errors\", there are fewer"
            );
            (reported, last) = (dropped, Some(Instant::now()));
        }
    }
}

fn write(line: &AccessLine) {
    let AccessLine { method, path, request_id, trace, status, outcome, error, took, .. } = line;
    let (trace_id, span_id) = TraceContext::ids(trace.as_ref());
    // The stages of a prediction; those of other requests are not measured.
    let stage = |stage| line.timings.as_ref().map(|timings| milliseconds(timings.of(stage)));
    tracing::info!(
        target: "leeway::access",
        %method,
        path,
        status,
        outcome = outcome.name(),
        error,
        took_ms = milliseconds(*took),
        model = line.model,
        version = line.version,
        instances = line.instances.map(|instances| instances as u64),
        network_ms = stage(Stage::Network),
        preprocess_ms = stage(Stage::Preprocess),
        queue_ms = stage(Stage::Queue),
        inference_ms = stage(Stage::Inference),
        postprocess_ms = stage(Stage::Postprocess),
        request_id,
        trace_id,
        span_id,
        "request"
    );
}

/// Returns a duration in milliseconds, in whole microseconds.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(logged: AccessLogging, sample: f64) -> (AccessLog, mpsc::Receiver<Message>) {
        let (lines, waiting) = mpsc::channel(2);
        (AccessLog { logged, sample, lines, recorder: Arc::default() }, waiting)
    }

    #[test]
    fn answered_requests_are_sampled_and_others_always_have_a_line() {
        let count = |logged, sample, outcome| {
            let (log, _waiting) = log(logged, sample);
            (0..1_000).filter(|_| log.has_line(outcome)).count()
        };
        assert_eq!(count(AccessLogging::All, 1.0, Outcome::Ok), 1_000);
        assert!((50..=170).contains(&count(AccessLogging::All, 0.1, Outcome::Ok)));
        for outcome in [Outcome::Invalid, Outcome::Shed, Outcome::ServerError, Outcome::Abandoned] {
            assert_eq!(count(AccessLogging::All, 0.1, outcome), 1_000);
            assert_eq!(count(AccessLogging::Errors, 0.1, outcome), 1_000);
        }
        assert_eq!(count(AccessLogging::Errors, 1.0, Outcome::Ok), 0);
    }

    #[test]
    fn lines_beyond_those_that_may_wait_are_dropped_and_counted() {
        let (log, mut waiting) = log(AccessLogging::All, 1.0);
        let log = Arc::new(log);
        let ask = || {
            let path = format!("/{}", "x".repeat(9_000));
            let request = Request::builder().uri(&path).body(axum::body::Body::empty()).unwrap();
            let id = HeaderValue::from_static("one");
            log.begin(&request, &id, Instant::now(), Arc::default(), None).answered(200);
        };
        (0..5).for_each(|_| ask());
        assert_eq!(log.recorder.access_lines_dropped(), 3);
        let Ok(Message::Line(line)) = waiting.try_recv() else { panic!("no line") };
        assert_eq!((line.status, line.outcome, line.request_id.as_str()), (Some(200), Outcome::Ok, "one"));
        assert!(line.path.len() <= MAX_PATH + 3, "{}", line.path.len());
        // There is room again.
        ask();
        assert_eq!(log.recorder.access_lines_dropped(), 3);
    }

    #[test]
    fn a_request_that_is_dropped_before_its_end_was_abandoned() {
        let (log, mut waiting) = log(AccessLogging::Errors, 1.0);
        let request = Request::builder().uri("/predict").body(axum::body::Body::empty()).unwrap();
        let id = HeaderValue::from_static("one");
        drop(Arc::new(log).begin(&request, &id, Instant::now(), Arc::default(), None));
        let Ok(Message::Line(line)) = waiting.try_recv() else { panic!("no line") };
        assert_eq!((line.status, line.outcome), (None, Outcome::Abandoned));
    }
}
