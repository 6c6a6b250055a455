//! A prediction in the log with its truth, as JSON and as the cells of a line of CSV.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use jiff::Timestamp;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// Columns with JSON, which is a part of the line as JSON.
const JSON: [&str; 2] = ["answer", "instance"];
/// Members of a row with the truth, beside its columns.
pub const TRUTH_COLUMNS: [&str; 4] = ["true_label", "true_value", "true_at", "metrics"];

/// A prediction in the log.
#[derive(Debug, Clone, Copy)]
pub struct LoggedRow<'a> {
    pub(super) batch: &'a RecordBatch,
    pub(super) row: usize,
    /// Time of the request.
    pub(super) time: Timestamp,
    pub(super) truth: Option<&'a Truth>,
}

/// Truth and business metrics that feedback has reported about a prediction.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Truth {
    /// Time of the feedback with the true outcome.
    pub(super) at: Option<Timestamp>,
    pub(super) label: Option<String>,
    pub(super) value: Option<f64>,
    /// Amounts of business metrics, by the kind of the outcome.
    pub(super) metrics: BTreeMap<String, f64>,
}

/// A value in a column.
enum Cell<'a> {
    Text(&'a str),
    /// JSON that is a part of the row.
    Json(&'a RawValue),
    Integer(i32),
    Single(f32),
    Double(f64),
    Time(Timestamp),
}

impl LoggedRow<'_> {
    /// Returns the cells of these columns, and then those of [`TRUTH_COLUMNS`], as text. A column that the row does not
    /// have is empty.
    pub fn cells(&self, columns: &[String]) -> Vec<String> {
        let cell = |name: &String| cell_at(self.batch, name, self.row).map(|cell| cell.text()).unwrap_or_default();
        let mut cells: Vec<String> = columns.iter().map(cell).collect();
        let truth = self.truth.cloned().unwrap_or_default();
        cells.extend([
            truth.label.unwrap_or_default(),
            truth.value.map(|value| value.to_string()).unwrap_or_default(),
            truth.at.map(|at| at.to_string()).unwrap_or_default(),
            match truth.metrics.is_empty() {
                true => String::new(),
                false => serde_json::to_string(&named(&truth.metrics)).unwrap_or_default(),
            },
        ]);
        cells
    }
}

/// An object with the columns, and with the truth if there is one. `null` stands for a missing value.
impl Serialize for LoggedRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for field in self.batch.schema_ref().fields() {
            map.serialize_entry(field.name(), &cell_at(self.batch, field.name(), self.row))?;
        }
        if let Some(truth) = self.truth {
            if truth.at.is_some() {
                map.serialize_entry("true_label", &truth.label)?;
                map.serialize_entry("true_value", &truth.value)?;
                map.serialize_entry("true_at", &truth.at)?;
            }
            if !truth.metrics.is_empty() {
                map.serialize_entry("metrics", &named(&truth.metrics))?;
            }
        }
        map.end()
    }
}

/// Returns the amounts by the names of the metrics.
fn named(metrics: &BTreeMap<String, f64>) -> BTreeMap<&str, f64> {
    metrics.iter().map(|(kind, amount)| (kind.strip_prefix("metrics.").unwrap_or(kind), *amount)).collect()
}

impl Cell<'_> {
    fn text(&self) -> String {
        match self {
            Cell::Text(text) => (*text).to_owned(),
            Cell::Json(json) => json.get().to_owned(),
            Cell::Integer(number) => number.to_string(),
            Cell::Single(number) => number.to_string(),
            Cell::Double(number) => number.to_string(),
            Cell::Time(time) => time.to_string(),
        }
    }
}

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cell::Text(text) => serializer.serialize_str(text),
            Cell::Json(json) => json.serialize(serializer),
            Cell::Integer(number) => serializer.serialize_i32(*number),
            Cell::Single(number) => serializer.serialize_f32(*number),
            Cell::Double(number) => serializer.serialize_f64(*number),
            Cell::Time(time) => time.serialize(serializer),
        }
    }
}

/// Returns the value of a column; `None` if it is missing, or of a type that the log does not have.
fn cell_at<'a>(batch: &'a RecordBatch, name: &str, row: usize) -> Option<Cell<'a>> {
    let column = batch.column_by_name(name).filter(|column| !column.is_null(row))?;
    match column.data_type() {
        DataType::Utf8 => {
            let text = column.as_string_opt::<i32>()?.value(row);
            let json = JSON.contains(&name).then(|| serde_json::from_str(text).ok()).flatten();
            Some(json.map_or(Cell::Text(text), Cell::Json))
        }
        DataType::Int32 => Some(Cell::Integer(column.as_primitive_opt::<Int32Type>()?.value(row))),
        DataType::Float32 => Some(Cell::Single(column.as_primitive_opt::<Float32Type>()?.value(row))),
        DataType::Float64 => Some(Cell::Double(column.as_primitive_opt::<Float64Type>()?.value(row))),
        DataType::Timestamp(TimeUnit::Microsecond, _) => time_at(batch, name, row).map(Cell::Time),
        _ => None,
    }
}

pub(super) fn time_at(batch: &RecordBatch, name: &str, row: usize) -> Option<Timestamp> {
    let column = batch.column_by_name(name)?.as_primitive_opt::<TimestampMicrosecondType>()?;
    Timestamp::from_microsecond(column.value(row)).ok()
}

pub(super) fn text_at<'a>(batch: &'a RecordBatch, name: &str, row: usize) -> Option<&'a str> {
    let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
    (!column.is_null(row)).then(|| column.value(row))
}

pub(super) fn number_at(batch: &RecordBatch, name: &str, row: usize) -> Option<f64> {
    let column = batch.column_by_name(name)?.as_primitive_opt::<Float64Type>()?;
    (!column.is_null(row)).then(|| column.value(row))
}
