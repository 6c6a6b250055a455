//! The instances in a prediction log, as rows of data.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, RecordBatch};
use jiff::Timestamp;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::value::RawValue;

use super::record_batches::guarded;
use super::row::{Place, Row, Rows};
use super::staging::at;
use crate::error::{Result, SetupError};

/// Number of rows that are decoded at one time. Instances can be large.
const ROWS_AT_ONE_TIME: usize = 256;
/// Depth of the files below the folder of the log: `<model>/<version>/predictions-….parquet`.
const DEPTH: usize = 2;

/// A span of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogWindow {
    /// Its first moment; without it, there is none.
    pub since: Option<Timestamp>,
    /// The moment after its last one; without it, there is none.
    pub until: Option<Timestamp>,
}

impl LogWindow {
    /// Returns true if a moment is in the window.
    ///
    /// ```
    /// use leeway::authoring::LogWindow;
    /// let noon = "2026-11-27T12:00:00Z".parse().unwrap();
    /// assert!(LogWindow::default().has(noon));
    /// assert!(LogWindow { since: Some(noon), until: None }.has(noon));
    /// assert!(!LogWindow { since: None, until: Some(noon) }.has(noon));
    /// ```
    pub fn has(&self, moment: Timestamp) -> bool {
        self.since.is_none_or(|since| moment >= since) && self.until.is_none_or(|until| moment < until)
    }
}

/// The files of a prediction log, whose rows have instances.
#[derive(Debug)]
pub(super) struct LoggedInstances {
    /// In the order of time.
    files: Vec<PathBuf>,
    window: LogWindow,
}

impl LoggedInstances {
    /// Finds the files with predictions in a folder: that of a log, of a model in it, or of a version. `None` if there
    /// are none.
    pub(super) fn find(folder: &Path, window: LogWindow) -> Result<Option<LoggedInstances>, SetupError> {
        let mut files = Vec::new();
        find_below(folder, DEPTH, &mut files)?;
        // The time is in the name.
        files.sort_by(|one, other| one.file_name().cmp(&other.file_name()));
        Ok((!files.is_empty()).then_some(LoggedInstances { files, window }))
    }

    /// Returns the instances, as they were sent. Rows without an instance are left out.
    pub(super) fn rows(&self) -> Rows<'_> {
        let window = self.window;
        let rows = self.files.iter().flat_map(move |path| match instances_in(path, window) {
            Ok(rows) => rows,
            Err(error) => Box::new(std::iter::once(Err(error))) as Rows<'_>,
        });
        Box::new(rows)
    }
}

fn find_below(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), SetupError> {
    for entry in fs::read_dir(folder).map_err(|error| at(folder, &error))? {
        let entry = entry.map_err(|error| at(folder, &error))?;
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 0 && !name.starts_with('.') {
                find_below(&path, depth - 1, files)?;
            }
        } else if name.starts_with("predictions-") && name.ends_with(".parquet") {
            files.push(path);
        }
    }
    Ok(())
}

fn instances_in(path: &Path, window: LogWindow) -> Result<Rows<'_>, SetupError> {
    let wrong = move |problem: String| {
        SetupError::Repository(format!("{}: the file of the prediction log cannot be read: {problem}", path.display()))
    };
    let file = File::open(path).map_err(|error| at(path, &error))?;
    let open = || {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let wanted = ProjectionMask::columns(builder.parquet_schema(), ["time", "instance"]);
        builder.with_projection(wanted).with_batch_size(ROWS_AT_ONE_TIME).build()
    };
    let mut batches = guarded(|| open().map_err(|error| error.to_string())).map_err(wrong)?;
    let next = move || guarded(|| batches.next().transpose().map_err(|error| error.to_string())).map_err(wrong);
    let batches = std::iter::from_fn({
        let mut next = next;
        let mut has_failed = false;
        move || {
            if has_failed {
                return None;
            }
            let batch = next().transpose();
            has_failed = matches!(batch, Some(Err(_)));
            batch
        }
    });
    Ok(Box::new(batches.flat_map(move |batch| match batch {
        Ok(batch) => instances_of(&batch, path, window),
        Err(error) => vec![Err(error)],
    })))
}

fn instances_of(batch: &RecordBatch, path: &Path, window: LogWindow) -> Vec<Result<Row, SetupError>> {
    let times = batch.column_by_name("time").and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let texts = batch.column_by_name("instance").and_then(|column| column.as_string_opt::<i32>());
    let (Some(times), Some(texts)) = (times, texts) else {
        let problem = "there are no columns time and instance of a prediction log";
        return vec![Err(SetupError::Repository(format!("{}: {problem}", path.display())))];
    };
    let in_window = |row: &usize| Timestamp::from_microsecond(times.value(*row)).is_ok_and(|time| window.has(time));
    let instance = |row: usize| {
        let instance = RawValue::from_string(texts.value(row).to_owned())
            .map_err(|error| SetupError::Repository(format!("{}: an instance is not JSON: {error}", path.display())))?;
        let time = Timestamp::from_microsecond(times.value(row)).ok().map(|time| time.to_string().into());
        Ok(Row { time, ..Row::new(Place::File(path.to_owned()), instance) })
    };
    (0..batch.num_rows()).filter(|row| !texts.is_null(*row)).filter(in_window).map(instance).collect()
}
