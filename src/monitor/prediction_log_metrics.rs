//! The recorder and metrics of the prediction log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::metric_family::{Family, counter, gauge};

/// The recorder of the prediction log.
#[derive(Debug, Default)]
pub struct PredictionLogRecorder {
    written: [AtomicU64; LoggedRows::ALL.len()],
    dropped: [AtomicU64; LogDrop::ALL.len()],
    left_out: [AtomicU64; LeftOut::ALL.len()],
    bytes: AtomicU64,
    removed_files: AtomicU64,
}

/// Kind of the rows of a file. A closed set, because it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoggedRows {
    /// Predictions.
    Predictions,
    /// Accepted feedback.
    Outcomes,
}

/// Reason for which rows were dropped. A closed set, because it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogDrop {
    /// Too many rows waited to be written.
    QueueFull,
    /// Their file could not be written.
    WriteFailed,
    /// The server was stopping.
    Stopping,
}

/// Reason for which a row has no instance or no answer. A closed set, because it is a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// The text was too long.
    TooLong,
    /// Names had to be redacted, but the instance has no names.
    NotRedactable,
}

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: &[Family<PredictionLogRecorder>] = &[
    counter(
        "leeway_prediction_log_rows_total",
        &["kind"],
        "Rows that are in files of the prediction log, by kind.",
        |log, series| {
            for (kind, rows) in LoggedRows::ALL.into_iter().zip(&log.written) {
                series.value(&[kind.name()], rows.load(Relaxed));
            }
        },
    ),
    counter(
        "leeway_prediction_log_dropped_total",
        &["reason"],
        "Rows that are missing in the prediction log, by reason.",
        |log, series| {
            for (reason, rows) in LogDrop::ALL.into_iter().zip(&log.dropped) {
                series.value(&[reason.name()], rows.load(Relaxed));
            }
        },
    ),
    counter(
        "leeway_prediction_log_left_out_total",
        &["reason"],
        "Instances and answers that are null in the prediction log, by reason.",
        |log, series| {
            for (reason, texts) in LeftOut::ALL.into_iter().zip(&log.left_out) {
                series.value(&[reason.name()], texts.load(Relaxed));
            }
        },
    ),
    gauge("leeway_prediction_log_bytes", &[], "Size of the files of the prediction log.", |log, series| {
        series.value(&[], log.bytes.load(Relaxed));
    }),
    counter(
        "leeway_prediction_log_removed_files_total",
        &[],
        "Files of the prediction log that were removed, because all together were too large.",
        |log, series| series.value(&[], log.removed_files.load(Relaxed)),
    ),
];

// ===== impl PredictionLogRecorder =====

impl PredictionLogRecorder {
    /// Counts rows that are in a file.
    pub fn written(&self, kind: LoggedRows, rows: usize) {
        self.written[kind as usize].fetch_add(rows as u64, Relaxed);
    }

    /// Counts rows that were dropped.
    pub fn dropped(&self, reason: LogDrop, rows: usize) {
        self.dropped[reason as usize].fetch_add(rows as u64, Relaxed);
    }

    /// Counts instances or answers that were left out.
    pub fn left_out(&self, reason: LeftOut, texts: usize) {
        self.left_out[reason as usize].fetch_add(texts as u64, Relaxed);
    }

    /// Sets the size of all files.
    pub fn set_bytes(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }

    /// Counts removed files.
    pub fn removed_files(&self, files: usize) {
        self.removed_files.fetch_add(files as u64, Relaxed);
    }
}

// ===== labels =====

impl LoggedRows {
    const ALL: [LoggedRows; 2] = [LoggedRows::Predictions, LoggedRows::Outcomes];

    /// Returns the name of the kind, as in the names of its files.
    pub fn name(self) -> &'static str {
        match self {
            LoggedRows::Predictions => "predictions",
            LoggedRows::Outcomes => "outcomes",
        }
    }
}

impl LogDrop {
    const ALL: [LogDrop; 3] = [LogDrop::QueueFull, LogDrop::WriteFailed, LogDrop::Stopping];

    fn name(self) -> &'static str {
        match self {
            LogDrop::QueueFull => "queue_full",
            LogDrop::WriteFailed => "write_failed",
            LogDrop::Stopping => "stopping",
        }
    }
}

impl LeftOut {
    const ALL: [LeftOut; 2] = [LeftOut::TooLong, LeftOut::NotRedactable];

    fn name(self) -> &'static str {
        match self {
            LeftOut::TooLong => "too_long",
            LeftOut::NotRedactable => "not_redactable",
        }
    }
}
