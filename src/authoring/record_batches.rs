//! Tables in columns of Arrow's types: the columns of their schema, and the rows of their record batches as cells.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow_array::Array;
use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_schema::{DataType, Schema, TimeUnit};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::columns::{Cells, ColumnToRead, HeaderColumn};
use super::row::{CellRows, Place};
use crate::error::{Result, SetupError};

/// Returns the columns of a schema.
pub(super) fn header(schema: &Schema) -> Vec<HeaderColumn> {
    let column = |field: &arrow_schema::FieldRef| {
        let dtype = field.data_type();
        HeaderColumn { name: field.name().clone(), unusable: (!is_usable(dtype)).then(|| dtype.to_string()) }
    };
    schema.fields().iter().map(column).collect()
}

/// Returns the positions of these columns in ascending order: those of the columns in a record batch that has only them.
pub(super) fn projection(columns: &[ColumnToRead]) -> Vec<usize> {
    let mut places: Vec<usize> = columns.iter().map(|column| column.place).collect();
    places.sort_unstable();
    places
}

/// Returns the rows of record batches that have only these columns, in the order of [`projection`].
pub(super) fn rows(
    file: &Path,
    columns: &[ColumnToRead],
    mut next_batch: impl FnMut() -> Result<Option<RecordBatch>, String> + 'static,
) -> CellRows {
    let file = file.to_owned();
    let places = projection(columns);
    let in_batch = |column: &ColumnToRead| (places.binary_search(&column.place).unwrap_or_default(), column.cells);
    let columns: Vec<(usize, Cells)> = columns.iter().map(in_batch).collect();
    let (mut batch, mut row_in_batch, mut row_in_file): (Option<RecordBatch>, usize, u64) = (None, 0, 0);
    let rows = std::iter::from_fn(move || {
        while batch.as_ref().is_none_or(|batch| row_in_batch == batch.num_rows()) {
            row_in_batch = 0;
            batch = match guarded(&mut next_batch) {
                Ok(batch) => Some(batch?),
                Err(problem) => {
                    return Some(Err(SetupError::Repository(format!(
                        "{}: after row {row_in_file}: {problem}",
                        file.display()
                    ))));
                }
            };
        }
        let batch = batch.as_ref()?;
        let cells = columns.iter().map(|(place, cells)| as_kind(value(batch.column(*place), row_in_batch), *cells));
        let cells = cells.collect();
        (row_in_batch, row_in_file) = (row_in_batch + 1, row_in_file + 1);
        Some(Ok((Place::Row(row_in_file), cells)))
    });
    // Not asked again after its end, when the last batch is still there.
    Box::new(rows.fuse())
}

/// Runs a decoder, which may panic on damaged bytes.
pub fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err("the file is damaged".to_owned()))
}

/// Returns true if values of this type have a form in an instance.
fn is_usable(dtype: &DataType) -> bool {
    match dtype {
        DataType::Dictionary(_, values) => !matches!(**values, DataType::Dictionary(..)) && is_usable(values),
        DataType::Null | DataType::Boolean => true,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        other => other.is_integer() || other.is_floating(),
    }
}

/// Returns a cell of a column. A NaN is a missing value, as in data frames.
fn value(column: &dyn Array, row: usize) -> Value {
    /// The element of an array of this type.
    macro_rules! element {
        ($as_array:ident $(::<$t:ty>)?) => {
            column.$as_array$(::<$t>)?().map(|array| array.value(row))
        };
    }
    if column.is_null(row) {
        return Value::Null;
    }
    let found = match column.data_type() {
        DataType::Boolean => element!(as_boolean_opt).map(Value::from),
        DataType::Int8 => element!(as_primitive_opt::<Int8Type>).map(Value::from),
        DataType::Int16 => element!(as_primitive_opt::<Int16Type>).map(Value::from),
        DataType::Int32 => element!(as_primitive_opt::<Int32Type>).map(Value::from),
        DataType::Int64 => element!(as_primitive_opt::<Int64Type>).map(Value::from),
        DataType::UInt8 => element!(as_primitive_opt::<UInt8Type>).map(Value::from),
        DataType::UInt16 => element!(as_primitive_opt::<UInt16Type>).map(Value::from),
        DataType::UInt32 => element!(as_primitive_opt::<UInt32Type>).map(Value::from),
        DataType::UInt64 => element!(as_primitive_opt::<UInt64Type>).map(Value::from),
        DataType::Float16 => element!(as_primitive_opt::<Float16Type>).map(|value| float(value.to_f64())),
        DataType::Float32 => element!(as_primitive_opt::<Float32Type>).map(|value| float(value.into())),
        DataType::Float64 => element!(as_primitive_opt::<Float64Type>).map(float),
        DataType::Timestamp(unit, zone) => time(column, row, *unit, zone.is_some()),
        DataType::Utf8 => element!(as_string_opt::<i32>).map(Value::from),
        DataType::LargeUtf8 => element!(as_string_opt::<i64>).map(Value::from),
        DataType::Utf8View => element!(as_string_view_opt).map(Value::from),
        DataType::Dictionary(..) => column.as_any_dictionary_opt().and_then(|dictionary| {
            let key = usize::try_from(value(dictionary.keys(), row).as_u64()?).ok()?;
            let values = dictionary.values();
            (key < values.len()).then(|| value(values, key))
        }),
        _ => None,
    };
    found.unwrap_or(Value::Null)
}

/// Returns a time as text: with a time zone, if the column has one.
fn time(column: &dyn Array, row: usize, unit: TimeUnit, has_zone: bool) -> Option<Value> {
    let found = match unit {
        TimeUnit::Second => Timestamp::from_second(column.as_primitive_opt::<TimestampSecondType>()?.value(row)),
        TimeUnit::Millisecond => {
            Timestamp::from_millisecond(column.as_primitive_opt::<TimestampMillisecondType>()?.value(row))
        }
        TimeUnit::Microsecond => {
            Timestamp::from_microsecond(column.as_primitive_opt::<TimestampMicrosecondType>()?.value(row))
        }
        TimeUnit::Nanosecond => {
            Timestamp::from_nanosecond(column.as_primitive_opt::<TimestampNanosecondType>()?.value(row).into())
        }
    };
    let moment = found.ok()?;
    Some(Value::from(match has_zone {
        true => moment.to_string(),
        false => TimeZone::UTC.to_datetime(moment).to_string(),
    }))
}

/// Converts a number to JSON. Infinity becomes a text, which a pipeline refuses by name.
fn float(value: f64) -> Value {
    match value {
        _ if value.is_nan() => Value::Null,
        _ if value.is_infinite() => Value::from(value.to_string()),
        _ => Value::from(value),
    }
}

/// Converts a cell to the kind of its column.
fn as_kind(value: Value, cells: Cells) -> Value {
    match (value, cells) {
        (Value::Bool(value), Cells::Numbers) => u8::from(value).into(),
        // Codes of categories are often stored as numbers.
        (Value::Number(number), Cells::Texts | Cells::TextsOrNothing) if !number.is_f64() => number.to_string().into(),
        (value, _) => value,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, BooleanArray, DictionaryArray, Float32Array, Int64Array, UInt64Array};
    use serde_json::json;

    use super::*;

    fn cells(array: impl Array + 'static, cells: Cells) -> Vec<Value> {
        (0..array.len()).map(|row| as_kind(value(&array, row), cells)).collect()
    }

    #[test]
    fn cells_keep_their_types() {
        let numbers = Float32Array::from(vec![Some(0.5), None, Some(f32::NAN), Some(f32::INFINITY)]);
        assert_eq!(cells(numbers, Cells::AsTheyRead), [json!(0.5), json!(null), json!(null), json!("inf")]);
        let whole = UInt64Array::from(vec![u64::MAX]);
        assert_eq!(cells(whole, Cells::AsTheyRead), [json!(u64::MAX)]);
        let booleans = || BooleanArray::from(vec![Some(true), None]);
        assert_eq!(cells(booleans(), Cells::AsTheyRead), [json!(true), json!(null)]);
        assert_eq!(cells(booleans(), Cells::Numbers), [json!(1), json!(null)]);
        let categories: DictionaryArray<Int8Type> = vec![Some("b"), None, Some("a")].into_iter().collect();
        assert_eq!(cells(categories, Cells::AsTheyRead), [json!("b"), json!(null), json!("a")]);
        let codes: ArrayRef = Arc::new(Int64Array::from(vec![12]));
        assert_eq!(cells(codes, Cells::Texts), [json!("12")]);
    }

    #[test]
    fn types_without_a_form_in_json_are_named() {
        let schema = Schema::new(vec![
            arrow_schema::Field::new("a", DataType::Dictionary(DataType::Int8.into(), DataType::Utf8.into()), true),
            arrow_schema::Field::new("b", DataType::Date32, true),
            arrow_schema::Field::new_list("c", arrow_schema::Field::new_list_field(DataType::Int8, true), true),
        ]);
        let unusable: Vec<Option<String>> = header(&schema).into_iter().map(|column| column.unusable).collect();
        assert_eq!((&unusable[0], unusable[1].as_deref()), (&None, Some("Date32")));
        assert!(unusable[2].as_ref().is_some_and(|dtype| dtype.starts_with("List")), "{unusable:?}");
    }
}
