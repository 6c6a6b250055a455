//! The recorder and metrics of the export of spans.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::metric_family::{Family, counter};

/// The recorder of the export of spans.
#[derive(Debug, Default)]
pub struct TracingRecorder {
    exported: AtomicU64,
    dropped: [AtomicU64; SpanDrop::ALL.len()],
}

/// Reason for which spans were dropped. A closed set, because it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanDrop {
    /// Too many spans waited for the collector.
    QueueFull,
    /// The collector did not take them.
    ExportFailed,
    /// The server was stopping.
    Stopping,
}

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: &[Family<TracingRecorder>] = &[
    counter("leeway_tracing_spans_total", &[], "Spans that the collector has taken.", |tracing, series| {
        series.value(&[], tracing.exported.load(Relaxed));
    }),
    counter(
        "leeway_tracing_dropped_total",
        &["reason"],
        "Spans that the collector has not got, by reason.",
        |tracing, series| {
            for (reason, spans) in SpanDrop::ALL.into_iter().zip(&tracing.dropped) {
                series.value(&[reason.name()], spans.load(Relaxed));
            }
        },
    ),
];

// ===== impl TracingRecorder =====

impl TracingRecorder {
    /// Counts spans that the collector has taken.
    pub fn exported(&self, spans: usize) {
        self.exported.fetch_add(spans as u64, Relaxed);
    }

    /// Counts spans that were dropped.
    pub fn dropped(&self, reason: SpanDrop, spans: usize) {
        self.dropped[reason as usize].fetch_add(spans as u64, Relaxed);
    }
}

// ===== labels =====

impl SpanDrop {
    const ALL: [SpanDrop; 3] = [SpanDrop::QueueFull, SpanDrop::ExportFailed, SpanDrop::Stopping];

    fn name(self) -> &'static str {
        match self {
            SpanDrop::QueueFull => "queue_full",
            SpanDrop::ExportFailed => "export_failed",
            SpanDrop::Stopping => "stopping",
        }
    }
}
