//! Counts the rows of a log by hour, for a profile.

use std::collections::BTreeSet;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, Float32Array, RecordBatch, StringArray};

use super::columns::FEATURE_PREFIX;
use super::logged_row::{text_at, time_at};
use super::reader::LogReader;
use crate::error::SetupError;
use crate::feature::{Certainty, Features, Observation};
use crate::monitor::HourlyCounters;

/// Columns of the features in a batch, in the order of the schema; `None` if the batch does not have it.
struct FeatureColumns<'a> {
    numbers: Vec<Option<&'a Float32Array>>,
    texts: Vec<Option<&'a StringArray>>,
}

impl LogReader {
    /// Counts the predictions in the window by hour. Returns the names of the features that a file does not have: the
    /// profile knows nothing of them.
    pub fn count_by_hour(&self, counters: &mut HourlyCounters) -> Result<BTreeSet<String>, SetupError> {
        let schema = counters.schema().clone();
        let classes = counters.classes().to_vec();
        let mut absent = BTreeSet::new();
        self.for_each_batch(&mut |batch| {
            let columns = FeatureColumns {
                numbers: schema.numbers.iter().map(|name| feature(batch, name)?.as_primitive_opt()).collect(),
                texts: schema.texts.iter().map(|name| feature(batch, name)?.as_string_opt()).collect(),
            };
            let mut has_rows = false;
            for row in 0..batch.num_rows() {
                let Some(time) = time_at(batch, "time", row).filter(|time| self.window().has(*time)) else { continue };
                has_rows = true;
                counters.count(Some(time), columns.features(row), &[prediction(batch, row, &classes)]);
            }
            if has_rows {
                let numbers = schema.numbers.iter().zip(&columns.numbers).filter(|(_, column)| column.is_none());
                let texts = schema.texts.iter().zip(&columns.texts).filter(|(_, column)| column.is_none());
                absent.extend(numbers.map(|(name, _)| name.to_string()).chain(texts.map(|(name, _)| name.to_string())));
            }
            Ok(())
        })?;
        Ok(absent)
    }
}

impl FeatureColumns<'_> {
    fn features(&self, row: usize) -> Features {
        let mut features = Features::with_rows(1);
        let number = |column: &Option<&Float32Array>| {
            column.filter(|column| !column.is_null(row)).map_or(f32::NAN, |column| column.value(row))
        };
        let text = |column: &Option<&StringArray>| {
            column.filter(|column| !column.is_null(row)).map(|column| column.value(row).to_owned())
        };
        features.numbers = self.numbers.iter().map(number).collect();
        features.texts = self.texts.iter().map(text).collect();
        features
    }
}

fn feature<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a dyn Array> {
    batch.column_by_name(&format!("{FEATURE_PREFIX}{name}")).map(AsRef::as_ref)
}

/// Returns the prediction of a row, as it was observed. A redacted class is not known.
fn prediction(batch: &RecordBatch, row: usize, classes: &[String]) -> Observation {
    let single = |name: &str| {
        let column = batch.column_by_name(name)?.as_primitive_opt::<Float32Type>()?;
        (!column.is_null(row)).then(|| column.value(row))
    };
    let value = || {
        let column = batch.column_by_name("value")?.as_primitive_opt::<Float64Type>()?;
        (!column.is_null(row)).then(|| column.value(row))
    };
    if let Some(class) = text_at(batch, "class", row) {
        let certainty = |name: &str| single(name).unwrap_or(f32::NAN);
        let certainty = Certainty {
            confidence: certainty("confidence"),
            margin: certainty("margin"),
            entropy: certainty("entropy"),
        };
        let index = classes.iter().position(|known| known == class).or_else(|| class.parse().ok());
        return Observation::Class { class: index.unwrap_or(usize::MAX), certainty };
    }
    value().map_or(Observation::Nothing, Observation::Value)
}
