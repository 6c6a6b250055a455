//! The bounded queue between requests and the thread that exports spans.

use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;

use crate::monitor::{ServerRecorder, SpanDrop};

/// Maximum number of requests and runs that wait for the collector: a few MiB.
const MAX_WAITING: usize = 4_096;

/// Work that has ended, and becomes spans on the thread that exports them.
pub(super) trait Finished: fmt::Debug + Send {
    /// Returns the number of spans.
    fn count(&self) -> usize;

    /// Returns the spans, parents before their children.
    fn into_spans(self: Box<Self>, clock: WallClock, scope: &InstrumentationScope) -> Vec<SpanData>;
}

/// The time of a clock that can be set, for times of a clock that cannot.
#[derive(Debug, Clone, Copy)]
pub(super) struct WallClock {
    pub(super) now: Instant,
    pub(super) time: SystemTime,
}

/// The queue.
#[derive(Debug)]
pub(super) struct SpanQueue {
    waiting: mpsc::Sender<Box<dyn Finished>>,
    recorder: Arc<ServerRecorder>,
}

impl SpanQueue {
    /// Returns a queue, and its end.
    pub(super) fn new(recorder: Arc<ServerRecorder>) -> (Arc<SpanQueue>, mpsc::Receiver<Box<dyn Finished>>) {
        let (waiting, receiver) = mpsc::channel(MAX_WAITING);
        (Arc::new(SpanQueue { waiting, recorder }), receiver)
    }

    /// Adds work to the queue. Drops it if the queue is full.
    pub(super) fn push(&self, finished: Box<dyn Finished>) {
        if let Err(refused) = self.waiting.try_send(finished) {
            let (reason, finished) = match refused {
                mpsc::error::TrySendError::Full(finished) => (SpanDrop::QueueFull, finished),
                mpsc::error::TrySendError::Closed(finished) => (SpanDrop::Stopping, finished),
            };
            self.recorder.tracing().dropped(reason, finished.count());
        }
    }
}

impl WallClock {
    pub(super) fn at(self, instant: Instant) -> SystemTime {
        let ago = self.now.saturating_duration_since(instant);
        let ahead = instant.saturating_duration_since(self.now);
        self.time.checked_sub(ago).and_then(|time| time.checked_add(ahead)).unwrap_or(self.time)
    }
}
