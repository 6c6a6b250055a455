//! The thread that writes the files. It collects the rows of each version in memory, and writes a file of them when it is
//! finished. A file that cannot be written costs its rows, and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::columns::LeftOutTexts;
use super::folder::LogFolder;
use super::parquet_writer::{write_outcomes, write_predictions};
use super::queue::{Message, Queue};
use super::record::{OutcomeRecord, PredictionRecord};
use super::rotation::{FileLimits, file_name, files_to_remove};
use crate::feedback::Signer;
use crate::identity::{ModelName, Version};
use crate::monitor::{LeftOut, LogDrop, LoggedRows, PredictionLogRecorder, ServerRecorder};

/// Time after which the folder is looked at again: other replicas may write to it.
const BETWEEN_SCANS: Duration = Duration::from_secs(600);
/// Minimum time between two lines of the log about files that cannot be written.
const BETWEEN_REPORTS: Duration = Duration::from_secs(60);

/// The thread that writes the files.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) folder: LogFolder,
    pub(super) signer: Signer,
    pub(super) recorder: Arc<ServerRecorder>,
    pub(super) limits: FileLimits,
    /// Bytes of all rows together above which the largest file is written early.
    pub(super) max_buffered: usize,
    /// Maximum size of all files together.
    pub(super) max_bytes: u64,
    /// Random number of this process, which makes the names of its files unique.
    pub(super) process: u32,
}

/// The files whose rows are collected, and the state of the disk.
struct Buffers<'a> {
    writer: &'a Writer,
    open: BTreeMap<FileKey, Buffer>,
    bytes: usize,
    /// Number of files so far.
    number: u64,
    /// Size of all files in the folder when it was last looked at, with the files since then.
    on_disk: u64,
    /// Time at which the folder was last looked at.
    scanned: Option<Instant>,
    /// Time of the last report of a file that could not be written, while files cannot be written.
    failing: Option<Instant>,
}

type FileKey = (ModelName, Version, LoggedRows);

/// The rows of a file that is not written yet.
struct Buffer {
    rows: Rows,
    count: usize,
    bytes: usize,
    since: Instant,
}

/// A file that was written.
struct WrittenFile {
    left_out: LeftOutTexts,
    bytes: u64,
}

enum Rows {
    /// Of requests to one version, with the same columns.
    Predictions(Vec<PredictionRecord>),
    Outcomes(Vec<OutcomeRecord>),
}

impl Writer {
    /// Writes files until the queue is closed.
    pub(super) fn run(&self, queue: &Queue) {
        let mut buffers = Buffers {
            writer: self,
            open: BTreeMap::new(),
            bytes: 0,
            number: 0,
            on_disk: 0,
            scanned: None,
            failing: None,
        };
        buffers.remove_oldest();
        loop {
            let (messages, is_closed) = queue.take(buffers.next_deadline());
            for message in messages {
                match message {
                    Message::Predictions(record) => buffers.add_predictions(*record),
                    Message::Outcome(record) => buffers.add_outcome(*record),
                }
                buffers.write_if_large();
            }
            if is_closed {
                break;
            }
            buffers.write_old();
        }
        let all: Vec<FileKey> = buffers.open.keys().cloned().collect();
        all.iter().for_each(|key| buffers.write(key));
    }

    fn recorder(&self) -> &PredictionLogRecorder {
        self.recorder.prediction_log()
    }
}

impl Buffers<'_> {
    /// Returns the moment at which the next file is finished by its age.
    fn next_deadline(&self) -> Option<Instant> {
        self.open.values().map(|buffer| buffer.since + self.writer.limits.time).min()
    }

    fn add_predictions(&mut self, record: PredictionRecord) {
        let key = (record.version.model.clone(), record.version.version, LoggedRows::Predictions);
        let has_other_columns = self.open.get(&key).is_some_and(|buffer| match &buffer.rows {
            Rows::Predictions(records) => records.last().is_some_and(|last| last.version != record.version),
            Rows::Outcomes(_) => false,
        });
        // The version was loaded again with other settings.
        if has_other_columns {
            self.write(&key);
        }
        let (count, bytes) = (record.rows(), record.bytes());
        let buffer = self.buffer(key, || Rows::Predictions(Vec::new()), count, bytes);
        if let Rows::Predictions(records) = &mut buffer.rows {
            records.push(record);
        }
    }

    fn add_outcome(&mut self, record: OutcomeRecord) {
        let key = (record.model.clone(), record.version, LoggedRows::Outcomes);
        let bytes = record.bytes();
        let buffer = self.buffer(key, || Rows::Outcomes(Vec::new()), 1, bytes);
        if let Rows::Outcomes(records) = &mut buffer.rows {
            records.push(record);
        }
    }

    fn buffer(&mut self, key: FileKey, rows: impl FnOnce() -> Rows, count: usize, bytes: usize) -> &mut Buffer {
        self.bytes += bytes;
        let new = || Buffer { rows: rows(), count: 0, bytes: 0, since: Instant::now() };
        let buffer = self.open.entry(key).or_insert_with(new);
        buffer.count += count;
        buffer.bytes += bytes;
        buffer
    }

    /// Writes the files that have enough rows, or are old enough.
    fn write_old(&mut self) {
        let now = Instant::now();
        let limits = self.writer.limits;
        let is_finished = |buffer: &Buffer| limits.is_finished(buffer.count, now.duration_since(buffer.since));
        let finished: Vec<FileKey> =
            self.open.iter().filter(|(_, buffer)| is_finished(buffer)).map(|(key, _)| key.clone()).collect();
        finished.iter().for_each(|key| self.write(key));
    }

    /// Writes the largest file if all rows together take too much memory, and the files that have enough rows.
    fn write_if_large(&mut self) {
        let rows = self.writer.limits.rows;
        let full = self.open.iter().find(|(_, buffer)| buffer.count >= rows).map(|(key, _)| key.clone());
        if let Some(full) = full {
            self.write(&full);
        }
        if self.bytes > self.writer.max_buffered
            && let Some(largest) = self.open.iter().max_by_key(|(_, buffer)| buffer.bytes).map(|(key, _)| key.clone())
        {
            self.write(&largest);
        }
    }

    /// Writes the file of these rows, or drops them if that fails.
    fn write(&mut self, key: &FileKey) {
        let Some(buffer) = self.open.remove(key) else { return };
        self.bytes = self.bytes.saturating_sub(buffer.bytes);
        self.number += 1;
        let (number, writer) = (self.number, self.writer);
        let write = || writer.write_file(key, &buffer.rows, number);
        let written = catch_unwind(AssertUnwindSafe(write))
            .unwrap_or_else(|_| Err(io::Error::other("the rows could not be turned into columns")));
        match written {
            Ok(WrittenFile { left_out: LeftOutTexts { too_long, not_redactable }, bytes }) => {
                self.on_disk += bytes;
                writer.recorder().written(key.2, buffer.count);
                writer.recorder().left_out(LeftOut::TooLong, too_long);
                writer.recorder().left_out(LeftOut::NotRedactable, not_redactable);
                if self.failing.take().is_some() {
                    tracing::info!(path = %writer.folder.path().display(), "the prediction log is written again");
                }
                self.remove_oldest();
            }
            Err(error) => {
                writer.recorder().dropped(LogDrop::WriteFailed, buffer.count);
                self.report(&error, buffer.count);
            }
        }
    }

    /// Reports a file that could not be written: at once, and then from time to time while that goes on.
    fn report(&mut self, error: &io::Error, rows: usize) {
        if self.failing.is_some_and(|last| last.elapsed() < BETWEEN_REPORTS) {
            return;
        }
        self.failing = Some(Instant::now());
        tracing::error!(
            path = %self.writer.folder.path().display(),
            %error,
            rows,
            "a file of the prediction log cannot be written; its rows are dropped, and predictions go on"
        );
    }

    /// Removes the oldest files if all together are too large. There may be many files, so the folder is not looked at
    /// each time, and a little more than necessary is removed.
    fn remove_oldest(&mut self) {
        let writer = self.writer;
        let is_known = self.scanned.is_some_and(|scanned| scanned.elapsed() < BETWEEN_SCANS);
        if is_known && self.on_disk <= writer.max_bytes {
            return writer.recorder().set_bytes(self.on_disk);
        }
        self.scanned = Some(Instant::now());
        let files = match writer.folder.files() {
            Ok(files) => files,
            Err(error) => return self.report(&error, 0),
        };
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        let mut removed = 0;
        let at_most = if bytes > writer.max_bytes { writer.max_bytes - writer.max_bytes / 20 } else { bytes };
        for old in files_to_remove(files, at_most) {
            // Another replica may have removed it.
            if writer.folder.remove(&old.file).is_ok() {
                removed += 1;
            }
            bytes = bytes.saturating_sub(old.bytes);
        }
        writer.recorder().removed_files(removed);
        self.on_disk = bytes;
        writer.recorder().set_bytes(bytes);
    }
}

impl Writer {
    fn write_file(&self, (model, version, kind): &FileKey, rows: &Rows, number: u64) -> io::Result<WrittenFile> {
        let first = match rows {
            Rows::Predictions(records) => records.iter().map(PredictionRecord::time).min(),
            Rows::Outcomes(records) => records.iter().map(|record| record.at).min(),
        };
        let name = file_name(*kind, first.unwrap_or_default(), self.process, number);
        self.folder.write((model, *version), &name, |file| {
            let left_out = match rows {
                Rows::Predictions(records) => match records.first() {
                    Some(first) => write_predictions(file, &first.version, records, &self.signer),
                    None => Ok(LeftOutTexts::default()),
                },
                Rows::Outcomes(records) => {
                    write_outcomes(file, records, &self.signer).map(|()| LeftOutTexts::default())
                }
            };
            Ok(WrittenFile { left_out: left_out.map_err(of_parquet)?, bytes: file.metadata()?.len() })
        })
    }
}

/// Returns the error of the disk in an error of the format.
fn of_parquet(error: parquet::errors::ParquetError) -> io::Error {
    match error {
        parquet::errors::ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        other => io::Error::other(other),
    }
}
