//! One Parquet file with one row group. Its rows are turned into columns piece by piece, so that the arrays are small.

use std::fs::File;

use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::Result;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::columns::{LeftOutTexts, outcome_batch, outcome_schema, prediction_batch, prediction_schema};
use super::record::{LoggedVersion, OutcomeRecord, PredictionRecord};
use crate::feedback::Signer;

/// Number of requests, and of outcomes, that are turned into columns at one time.
const REQUESTS_AT_ONE_TIME: usize = 256;
const OUTCOMES_AT_ONE_TIME: usize = 4096;

/// Writes predictions of a version as a whole file. Returns the numbers of texts that were left out.
pub(super) fn write_predictions(
    file: &File,
    version: &LoggedVersion,
    records: &[PredictionRecord],
    signer: &Signer,
) -> Result<LeftOutTexts> {
    let mut writer = ArrowWriter::try_new(file, prediction_schema(version), Some(properties()?))?;
    let mut all = LeftOutTexts::default();
    for records in records.chunks(REQUESTS_AT_ONE_TIME) {
        let (batch, LeftOutTexts { too_long, not_redactable }) = prediction_batch(version, records, signer)?;
        all.too_long += too_long;
        all.not_redactable += not_redactable;
        writer.write(&batch)?;
    }
    writer.close()?;
    Ok(all)
}

/// Writes outcomes as a whole file.
pub(super) fn write_outcomes(file: &File, records: &[OutcomeRecord], signer: &Signer) -> Result<()> {
    let mut writer = ArrowWriter::try_new(file, outcome_schema(), Some(properties()?))?;
    for records in records.chunks(OUTCOMES_AT_ONE_TIME) {
        writer.write(&outcome_batch(records, signer)?)?;
    }
    writer.close().map(drop)
}

/// Columns whose values are seldom the same, for which a dictionary is only work.
const WITHOUT_DICTIONARY: [&str; 5] = ["time", "prediction_id", "request_id", "answer", "instance"];

fn properties() -> Result<WriterProperties> {
    let mut properties = WriterProperties::builder();
    for column in WITHOUT_DICTIONARY {
        properties = properties.set_column_dictionary_enabled(column.into(), false);
    }
    let properties = properties
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by(format!("leeway {}", env!("CARGO_PKG_VERSION")))
        .set_max_row_group_row_count(None);
    Ok(properties.build())
}
