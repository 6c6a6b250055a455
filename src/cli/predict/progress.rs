//! The progress of a command on a terminal.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::authoring::{DataPlace, ReadProgress};

/// Shows the progress on a terminal: as a bar, if the size of the data is known.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    size: Size,
    read: Arc<ReadProgress>,
}

/// Size of the data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Bytes(u64),
    Rows(u64),
    Unknown,
}

impl Progress {
    pub(super) fn new(place: &DataPlace, read: &Arc<ReadProgress>) -> Progress {
        let read = Arc::clone(read);
        if !std::io::stderr().is_terminal() {
            return Progress { bar: None, size: Size::Unknown, read };
        }
        let is_text = |path: &Path| {
            let name = path.to_string_lossy().to_lowercase();
            path.is_file() && ![".parquet", ".pq", ".parq", ".arrow", ".feather"].iter().any(|end| name.ends_with(end))
        };
        let size = match place {
            DataPlace::Path(path) if is_text(path) => {
                path.metadata().map_or(Size::Unknown, |metadata| Size::Bytes(metadata.len().max(1)))
            }
            _ => Size::Unknown,
        };
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_message("0 rows");
        bar.enable_steady_tick(Duration::from_millis(200));
        let mut progress = Progress { bar: Some(bar), size, read };
        progress.set_size(size);
        progress
    }

    /// Makes it a bar of this size.
    fn set_size(&mut self, size: Size) {
        self.size = size;
        let Some(bar) = &self.bar else { return };
        let (template, length) = match size {
            Size::Bytes(length) | Size::Rows(length) => ("[{bar:30}] {percent:>3}% {msg}, {eta} left", Some(length)),
            Size::Unknown => ("{spinner} {msg}, {elapsed}", None),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if let Some(length) = length {
            bar.set_length(length);
        }
    }

    /// Shows the number of finished rows, and their part of the data.
    pub(super) fn show(&mut self, done: u64) {
        const STEP: u64 = 1_000;
        if self.bar.is_none() || !done.is_multiple_of(STEP) {
            return;
        }
        let rows = self.read.rows_in_all.load(Relaxed);
        if self.size == Size::Unknown && rows > 0 {
            self.set_size(Size::Rows(rows));
        }
        let Some(bar) = &self.bar else { return };
        bar.set_message(format!("{done} rows"));
        match self.size {
            Size::Bytes(length) => bar.set_position(self.read.bytes.load(Relaxed).min(length)),
            Size::Rows(length) => bar.set_position(done.min(length)),
            Size::Unknown => {}
        }
    }

    /// Writes something above the bar.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
