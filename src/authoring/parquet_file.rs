//! Parquet files, read by row group and page.

use std::fs::File;
use std::path::Path;

use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::columns::{ColumnToRead, HeaderColumn};
use super::record_batches::{self, guarded, projection};
use super::row::CellRows;
use super::staging::at;
use crate::error::{Result, SetupError};

/// Number of rows that are decoded at one time.
const ROWS_AT_ONE_TIME: usize = 1024;

/// Reads the names and types of the columns.
pub(super) fn header(file: &Path) -> Result<Vec<HeaderColumn>, SetupError> {
    Ok(record_batches::header(open(file)?.schema()))
}

/// Reads the number of rows, for a progress bar.
pub(super) fn row_count(file: &Path) -> Result<u64, SetupError> {
    Ok(open(file)?.metadata().file_metadata().num_rows().try_into().unwrap_or_default())
}

/// Reads the cells of these columns, row by row.
pub(super) fn rows(file: &Path, columns: &[ColumnToRead]) -> Result<CellRows, SetupError> {
    let builder = open(file)?;
    let wanted = ProjectionMask::roots(builder.parquet_schema(), projection(columns));
    let build = || builder.with_projection(wanted).with_batch_size(ROWS_AT_ONE_TIME).build();
    let mut reader = guarded(|| build().map_err(|error| error.to_string())).map_err(|problem| wrong(file, &problem))?;
    let next_batch = move || reader.next().transpose().map_err(|error| problem_of(&error.to_string()));
    Ok(record_batches::rows(file, columns, next_batch))
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, SetupError> {
    let file = File::open(path).map_err(|error| at(path, &error))?;
    // Parquet's own types are enough: Arrow's, which some writers store beside them, differ only in their encoding.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let open = || ParquetRecordBatchReaderBuilder::try_new_with_options(file, options);
    guarded(|| open().map_err(|error| error.to_string())).map_err(|problem| wrong(path, &problem))
}

/// Returns the problem with the pages of a file, and its remedy if it is not damaged.
fn problem_of(error: &str) -> String {
    match error.contains("brotli") {
        true => "it is compressed with Brotli, which is not supported; write it with Zstandard or Snappy".to_owned(),
        false => error.to_owned(),
    }
}

fn wrong(file: &Path, problem: &str) -> SetupError {
    SetupError::Repository(format!("{}: the Parquet file cannot be read: {problem}", file.display()))
}
