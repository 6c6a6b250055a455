//! Decisions about files: their names, the moment at which one is finished, and the files that are removed.

use std::time::Duration;

use jiff::Timestamp;

use crate::monitor::LoggedRows;

/// Ending of the names of files.
const ENDING: &str = ".parquet";

/// Limits of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileLimits {
    /// Number of rows after which a file is written.
    pub(super) rows: usize,
    /// Maximum time from the first row of a file until it is written.
    pub(super) time: Duration,
}

impl FileLimits {
    /// Returns true if a file with this number of rows, whose first row came so long ago, is written now.
    ///
    /// The memory of all rows together is bounded elsewhere.
    pub(super) fn is_finished(&self, rows: usize, age: Duration) -> bool {
        rows >= self.rows || (rows > 0 && age >= self.time)
    }
}

/// Returns the name of a file. `first` is the time of its first row since 1970; `process` and `number` make the name
/// unique. Names sort by time.
pub(super) fn file_name(kind: LoggedRows, first: Duration, process: u32, number: u64) -> String {
    let ms = i64::try_from(first.as_millis()).unwrap_or(i64::MAX);
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{}-{}-{process:08x}-{number}{ENDING}", kind.name(), time.strftime("%Y%m%dT%H%M%S%.3fZ"))
}

/// Returns the time in the name of a file of this kind; `None` for other files.
pub(super) fn time_in_name(kind: LoggedRows, name: &str) -> Option<&str> {
    name.strip_prefix(kind.name())?.strip_prefix('-')?.strip_suffix(ENDING)?.split('-').next()
}

/// A file, as far as its removal is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SizedFile<T> {
    pub(super) file: T,
    /// The time in its name.
    pub(super) time: String,
    pub(super) bytes: u64,
}

/// Returns the oldest files, whose removal leaves at most `max_bytes`. The newest file always stays.
pub(super) fn files_to_remove<T>(mut files: Vec<SizedFile<T>>, max_bytes: u64) -> Vec<SizedFile<T>> {
    let mut all: u64 = files.iter().map(|file| file.bytes).sum();
    files.sort_by(|one, other| one.time.cmp(&other.time));
    files.pop();
    let oldest = files.into_iter().take_while(|file| {
        let is_too_much = all > max_bytes;
        all = all.saturating_sub(file.bytes);
        is_too_much
    });
    oldest.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_kind_and_the_time() {
        let first = Duration::from_millis(1_795_813_439_123);
        let name = file_name(LoggedRows::Predictions, first, 0xab, 3);
        assert_eq!(name, "predictions-20261127T210359.123Z-000000ab-3.parquet");
        assert_eq!(time_in_name(LoggedRows::Predictions, &name), Some("20261127T210359.123Z"));
        assert_eq!(time_in_name(LoggedRows::Outcomes, &name), None);
        assert_eq!(time_in_name(LoggedRows::Predictions, ".predictions-x.parquet.tmp"), None);
    }

    #[test]
    fn a_file_is_finished_by_its_rows_or_its_age() {
        let limits = FileLimits { rows: 10, time: Duration::from_secs(60) };
        for (rows, seconds, expected) in [(0, 100, false), (9, 59, false), (10, 0, true), (12, 0, true), (1, 60, true)]
        {
            assert_eq!(limits.is_finished(rows, Duration::from_secs(seconds)), expected, "{rows}, {seconds}");
        }
    }

    #[test]
    fn the_oldest_files_are_removed_and_the_newest_stays() {
        let check = |sizes: &[(&str, u64)], max_bytes, expected: &[&str]| {
            let file = |(time, bytes): &(&str, u64)| SizedFile { file: (), time: (*time).to_owned(), bytes: *bytes };
            let removed = files_to_remove(sizes.iter().map(file).collect(), max_bytes);
            assert_eq!(removed.iter().map(|file| &*file.time).collect::<Vec<_>>(), expected);
        };
        check(&[], 0, &[]);
        check(&[("2", 5), ("1", 5), ("3", 5)], 15, &[]);
        check(&[("2", 5), ("1", 5), ("3", 5)], 14, &["1"]);
        check(&[("2", 5), ("1", 5), ("3", 5)], 4, &["1", "2"]);
        check(&[("1", 5)], 0, &[]);
    }
}
