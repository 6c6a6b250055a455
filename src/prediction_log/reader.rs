//! Reading of the log: its files, their rows with the truths that feedback has reported, and a summary.
//!
//! Predictions are read one file after the other. Only the truths of the predictions are held in memory as a whole.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use jiff::Timestamp;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::logged_row::{LoggedRow, Truth, number_at, text_at, time_at};
use super::rotation::time_in_name;
use crate::authoring::{LogWindow, guarded};
use crate::error::SetupError;
use crate::identity::{ModelName, Version};
use crate::monitor::LoggedRows;

/// Number of rows that are decoded at one time.
const ROWS_AT_ONE_TIME: usize = 1024;

/// The files of a model in the log.
#[derive(Debug)]
pub struct LogReader {
    /// Files with predictions, in the order of time.
    predictions: Vec<LogFile>,
    /// Files with outcomes, of all models: the prediction of a chain may be that of another model.
    outcomes: Vec<LogFile>,
    window: LogWindow,
}

/// A file of the log.
#[derive(Debug, Clone)]
pub struct LogFile {
    path: PathBuf,
    /// The version in its path.
    pub version: Version,
    /// Size in bytes.
    pub bytes: u64,
    time: String,
}

/// The truths of predictions, by prediction id.
#[derive(Debug, Default)]
pub struct Truths(HashMap<Box<str>, Truth>);

/// Numbers of the rows of a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// Number of predictions.
    pub rows: u64,
    /// Number of predictions with a truth or a business metric.
    pub truths: u64,
    /// Number of files with predictions in the window.
    pub files: u64,
    /// Size of these files.
    pub bytes: u64,
    /// Time of the first prediction.
    pub first: Option<Timestamp>,
    /// Time of the last prediction.
    pub last: Option<Timestamp>,
}

impl LogReader {
    /// Finds the files of a model, or of one of its versions, in the folder of a log.
    pub fn open(
        folder: &Path,
        model: &ModelName,
        version: Option<Version>,
        window: LogWindow,
    ) -> Result<LogReader, SetupError> {
        let of_model = folder.join(model.as_str());
        if !of_model.is_dir() {
            let (of_model, model) = (of_model.display(), model.as_str());
            return Err(SetupError::Repository(format!("{of_model}: the log has no predictions of {model}")));
        }
        let mut predictions = files_of_model(&of_model, LoggedRows::Predictions)?;
        predictions.retain(|file| version.is_none_or(|version| file.version == version));
        let mut outcomes = Vec::new();
        for model in folders_in(folder)? {
            outcomes.extend(files_of_model(&model, LoggedRows::Outcomes)?);
        }
        for files in [&mut predictions, &mut outcomes] {
            files.sort_by(|one, other| one.time.cmp(&other.time));
        }
        Ok(LogReader { predictions, outcomes, window })
    }

    /// Returns the names of the columns of all files with predictions, in their order.
    pub fn columns(&self) -> Result<Vec<String>, SetupError> {
        let mut names: Vec<String> = Vec::new();
        for file in &self.predictions {
            for field in file.schema()?.fields() {
                if !names.contains(field.name()) {
                    names.push(field.name().clone());
                }
            }
        }
        Ok(names)
    }

    /// Reads all truths. If there are several of a prediction, the last one counts.
    pub fn truths(&self) -> Result<Truths, SetupError> {
        let mut truths = Truths::default();
        for file in &self.outcomes {
            file.for_each_batch::<SetupError>(&mut |batch| {
                for row in 0..batch.num_rows() {
                    truths.add(batch, row);
                }
                Ok(())
            })?;
        }
        Ok(truths)
    }

    /// Calls `take` with each prediction in the window. `take` ends the reading with an error.
    pub fn for_each<E: From<SetupError>>(
        &self,
        truths: &Truths,
        mut take: impl FnMut(&LogFile, LoggedRow<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let window = self.window;
        for file in &self.predictions {
            file.for_each_batch::<E>(&mut |batch| {
                for row in 0..batch.num_rows() {
                    let Some(time) = time_at(batch, "time", row).filter(|time| window.has(*time)) else { continue };
                    let truth = text_at(batch, "prediction_id", row).and_then(|id| truths.0.get(id));
                    take(file, LoggedRow { batch, row, time, truth })?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl LogReader {
    /// The window whose predictions are read.
    pub(super) fn window(&self) -> LogWindow {
        self.window
    }

    /// Calls `take` with each batch of predictions. Some of its rows may be outside of the window.
    pub(super) fn for_each_batch(
        &self,
        take: &mut dyn FnMut(&RecordBatch) -> Result<(), SetupError>,
    ) -> Result<(), SetupError> {
        self.predictions.iter().try_for_each(|file| file.for_each_batch(take))
    }
}

impl Truths {
    fn add(&mut self, batch: &RecordBatch, row: usize) {
        let (Some(id), Some(at)) = (text_at(batch, "prediction_id", row), time_at(batch, "time", row)) else { return };
        let truth = self.0.entry(id.into()).or_default();
        match text_at(batch, "kind", row) {
            Some("label" | "value") if truth.at.is_none_or(|before| before <= at) => {
                truth.at = Some(at);
                truth.label = text_at(batch, "label", row).map(str::to_owned);
                truth.value = number_at(batch, "value", row);
            }
            Some(kind) if kind.starts_with("metrics.") => {
                if let Some(amount) = number_at(batch, "value", row) {
                    truth.metrics.insert(kind.to_owned(), amount);
                }
            }
            _ => {}
        }
    }
}

impl LogSummary {
    /// Counts a file.
    pub fn add_file(&mut self, file: &LogFile) {
        self.files += 1;
        self.bytes += file.bytes;
    }

    /// Counts a row.
    pub fn add(&mut self, row: &LoggedRow<'_>) {
        self.rows += 1;
        self.truths += u64::from(row.truth.is_some());
        self.first = self.first.into_iter().chain([row.time]).min();
        self.last = self.last.into_iter().chain([row.time]).max();
    }
}

impl LogFile {
    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn wrong(&self, problem: &str) -> SetupError {
        SetupError::Repository(format!("{}: the file cannot be read: {problem}", self.path.display()))
    }

    fn open(&self) -> Result<ParquetRecordBatchReaderBuilder<File>, SetupError> {
        let file = File::open(&self.path).map_err(|error| self.wrong(&error.to_string()))?;
        guarded(|| ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string()))
            .map_err(|problem| self.wrong(&problem))
    }

    fn schema(&self) -> Result<SchemaRef, SetupError> {
        Ok(SchemaRef::clone(self.open()?.schema()))
    }

    fn for_each_batch<E: From<SetupError>>(
        &self,
        take: &mut dyn FnMut(&RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let builder = self.open()?.with_batch_size(ROWS_AT_ONE_TIME);
        let wrong = |problem: String| self.wrong(&problem);
        let mut batches = guarded(|| builder.build().map_err(|error| error.to_string())).map_err(wrong)?;
        let mut next = || guarded(|| batches.next().transpose().map_err(|error| error.to_string())).map_err(wrong);
        while let Some(batch) = next()? {
            take(&batch)?;
        }
        Ok(())
    }
}

/// Returns the files of this kind of all versions of a model.
fn files_of_model(model: &Path, kind: LoggedRows) -> Result<Vec<LogFile>, SetupError> {
    let mut files = Vec::new();
    for folder in folders_in(model)? {
        let Some(version) = folder.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
        for entry in entries(&folder)? {
            let name = entry.file_name();
            let Some(time) = name.to_str().and_then(|name| time_in_name(kind, name)) else { continue };
            // A file that is removed meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            files.push(LogFile { path: entry.path(), version, bytes: metadata.len(), time: time.to_owned() });
        }
    }
    Ok(files)
}

fn folders_in(folder: &Path) -> Result<Vec<PathBuf>, SetupError> {
    let folders = entries(folder)?.into_iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(folders.map(|entry| entry.path()).collect())
}

fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, SetupError> {
    let wrong = |error: std::io::Error| SetupError::Repository(format!("{}: {error}", folder.display()));
    fs::read_dir(folder).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)
}
