//! The thread that exports spans.
//!
//! The thread is not woken for each request, because that costs a busy server more than the rest of a sampled request: after
//! the first one it waits a little, and takes all that have come by then.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::trace::SpanData;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::otlp::{Collector, Connection};
use super::span_queue::{Finished, SpanQueue, WallClock};
use crate::error::{Result, SetupError};
use crate::monitor::{ServerRecorder, SpanDrop};

/// Number of requests and runs in an export.
const BATCH: usize = 512;
/// Time for which requests are gathered.
const GATHERING: Duration = Duration::from_millis(100);
/// Time for exporting what waits when the server stops.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// The handle of the thread that exports spans.
#[derive(Debug)]
pub(super) struct Exporter {
    pub(super) queue: Arc<SpanQueue>,
    /// Tells the thread to end.
    end: watch::Sender<bool>,
    /// Ends with the thread.
    ended: Mutex<Option<mpsc::Receiver<()>>>,
}

/// The thread that exports spans.
struct Exports {
    waiting: mpsc::Receiver<Box<dyn Finished>>,
    end: watch::Receiver<bool>,
    collector: Collector,
    timeout: Duration,
    scope: InstrumentationScope,
    recorder: Arc<ServerRecorder>,
    is_failing: bool,
}

// ===== impl Exporter =====

impl Exporter {
    /// Starts the thread.
    pub(super) fn start(
        collector: Collector,
        timeout: Duration,
        recorder: Arc<ServerRecorder>,
    ) -> Result<Exporter, SetupError> {
        let (queue, receiver) = SpanQueue::new(Arc::clone(&recorder));
        let ((end, ends), (alive, ended)) = (watch::channel(false), mpsc::channel(1));
        let scope = InstrumentationScope::builder("leeway").with_version(env!("CARGO_PKG_VERSION")).build();
        let exports = Exports { waiting: receiver, end: ends, collector, timeout, scope, recorder, is_failing: false };
        // A runtime of its own: an export must not wait for requests, nor they for it.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SetupError::internal)?;
        let thread = std::thread::Builder::new().name("tracing".to_owned());
        let run = move || {
            runtime.block_on(exports.run());
            // What the client of a collector still does is not waited for.
            runtime.shutdown_background();
            drop(alive);
        };
        thread.spawn(run).map_err(SetupError::internal)?;
        Ok(Exporter { queue, end, ended: Mutex::new(Some(ended)) })
    }

    /// Ends the thread, and waits for it. It ends in a limited time, whatever the collector does.
    pub(super) async fn close(&self) {
        let _ = self.end.send(true);
        let ended = self.ended.lock().take();
        if let Some(mut ended) = ended {
            let _ = tokio::time::timeout(LAST_SPANS * 3, ended.recv()).await;
        }
    }
}

// ===== the thread that exports =====

impl Exports {
    async fn run(mut self) {
        let connection = match Connection::to(&self.collector) {
            Ok(connection) => connection,
            Err(problem) => {
                tracing::error!(problem, "no spans can be exported; see tracing.endpoint");
                return;
            }
        };
        let mut end = self.end.clone();
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                taken = self.waiting.recv_many(&mut batch, BATCH) => {
                    // The tracer and all requests are gone.
                    if taken == 0 {
                        return;
                    }
                }
                _ = end.changed() => break,
            }
            if batch.len() < BATCH {
                tokio::select! {
                    () = tokio::time::sleep(GATHERING) => {}
                    _ = end.changed() => break,
                }
                self.take_more(&mut batch);
            }
            let mut export = std::pin::pin!(self.export(&connection, std::mem::take(&mut batch)));
            tokio::select! {
                () = &mut export => {}
                _ = end.changed() => {
                    // What is not exported by then counts as dropped.
                    let _ = tokio::time::timeout(LAST_SPANS, export).await;
                    break;
                }
            }
        }
        self.waiting.close();
        self.export_the_rest(&connection, batch).await;
    }

    /// Exports what waits when the server stops, in a limited time.
    async fn export_the_rest(&mut self, connection: &Connection, mut batch: Vec<Box<dyn Finished>>) {
        let deadline = tokio::time::Instant::now() + LAST_SPANS;
        loop {
            self.take_more(&mut batch);
            if batch.is_empty() {
                return;
            }
            let export = self.export(connection, std::mem::take(&mut batch));
            if tokio::time::timeout_at(deadline, export).await.is_err() {
                break;
            }
        }
        let left = std::iter::from_fn(|| self.waiting.try_recv().ok()).map(|finished| finished.count()).sum();
        self.recorder.tracing().dropped(SpanDrop::Stopping, left);
    }

    /// Takes what waits, up to the size of an export.
    fn take_more(&mut self, batch: &mut Vec<Box<dyn Finished>>) {
        while batch.len() < BATCH
            && let Ok(finished) = self.waiting.try_recv()
        {
            batch.push(finished);
        }
    }

    /// Exports a batch. If the future is dropped, its spans count as dropped.
    async fn export(&mut self, connection: &Connection, batch: Vec<Box<dyn Finished>>) {
        let clock = clock();
        let spans: Vec<SpanData> =
            batch.into_iter().flat_map(|finished| finished.into_spans(clock, &self.scope)).collect();
        let mut unsent = Unsent { spans: spans.len(), reason: SpanDrop::Stopping, recorder: &self.recorder };
        let exported = tokio::time::timeout(self.timeout, connection.export(spans)).await;
        match exported.unwrap_or_else(|_| Err("the collector does not answer".to_owned())) {
            Ok(()) => {
                self.recorder.tracing().exported(std::mem::take(&mut unsent.spans));
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!(endpoint = self.collector.url(), "the collector takes spans again");
                }
            }
            Err(problem) => {
                unsent.reason = SpanDrop::ExportFailed;
                // Once, until the collector takes spans again.
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(
                        endpoint = self.collector.url(),
                        problem,
                        "the collector does not take spans; they are dropped, and counted in /metrics"
                    );
                }
            }
        }
    }
}

/// Reads both clocks at the same time, as far as possible: the thread may lose its core between the two.
fn clock() -> WallClock {
    const AT_ONCE: Duration = Duration::from_micros(20);
    let read = || (Instant::now(), SystemTime::now());
    let (mut now, mut time) = read();
    for _ in 0..5 {
        if now.elapsed() < AT_ONCE {
            break;
        }
        (now, time) = read();
    }
    WallClock { now, time }
}

/// Spans of an export that the collector has not taken yet.
struct Unsent<'a> {
    spans: usize,
    reason: SpanDrop,
    recorder: &'a ServerRecorder,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        if self.spans > 0 {
            self.recorder.tracing().dropped(self.reason, self.spans);
        }
    }
}
