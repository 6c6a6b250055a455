//! Columns of a request: the values of all rows under one name.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::pipeline::json::items::Items;
use crate::pipeline::json::reader::quoted;
use crate::tensor::{Data, Tensor};

/// A column of a request.
#[derive(Debug, Clone)]
pub struct NamedColumn<'a> {
    /// Name of the column.
    pub name: Cow<'a, str>,
    /// The values of all rows.
    pub cells: Cells<'a>,
}

/// The values of a column.
#[derive(Debug, Clone, Copy)]
pub enum Cells<'a> {
    /// A JSON array with a value for each row.
    Json(&'a RawValue),
    /// A tensor with a row for each row.
    Tensor(&'a Tensor),
    /// The bytes of a file for each row.
    Files(&'a [&'a [u8]]),
}

/// The values of a column as JSON texts, one after the other.
pub(super) enum CellTexts<'a> {
    Json(Items<'a>),
    Tensor(&'a Tensor, usize),
    Files(std::slice::Iter<'a, &'a [u8]>),
}

impl<'a> NamedColumn<'a> {
    /// Returns the values as JSON texts.
    pub(super) fn texts(&self) -> Result<CellTexts<'a>> {
        match self.cells {
            Cells::Json(values) => Items::of(values.get()).map(CellTexts::Json).ok_or_else(|| {
                Error::InvalidInput(format!(
                    "the column {}: expected an array with a value for each row",
                    quoted(&self.name)
                ))
            }),
            Cells::Tensor(tensor) => Ok(CellTexts::Tensor(tensor, 0)),
            Cells::Files(files) => Ok(CellTexts::Files(files.iter())),
        }
    }

    /// Returns the number of values.
    pub(super) fn rows(&self) -> Result<usize> {
        match (self.cells, self.texts()?) {
            (_, CellTexts::Json(items)) => Ok(items.count()),
            (Cells::Tensor(tensor), _) => Ok(tensor.rows()),
            (Cells::Files(files), _) => Ok(files.len()),
            (Cells::Json(_), _) => Err(Error::internal("JSON was read as something else")),
        }
    }

    /// Returns the length of the JSON texts of all values in bytes, at most; texts with many escapes are longer.
    pub(super) fn text_length(&self) -> usize {
        /// Maximum length of a number and a comma.
        const NUMBER: usize = 26;
        match self.cells {
            Cells::Json(values) => values.get().len(),
            Cells::Tensor(tensor) => {
                let elements = match tensor.data() {
                    Data::Text(texts) => texts.iter().map(|text| text.len() + 3).sum(),
                    data => data.len().saturating_mul(NUMBER),
                };
                // The text of a row is there twice while it is copied.
                elements.saturating_add(elements / tensor.rows().max(1)).saturating_add(brackets(tensor.shape()))
            }
            Cells::Files(files) => files.iter().map(|file| file.len() / 3 * 4 + 7).sum(),
        }
    }
}

impl<'a> Iterator for CellTexts<'a> {
    type Item = Cow<'a, str>;

    fn next(&mut self) -> Option<Cow<'a, str>> {
        match self {
            CellTexts::Json(items) => items.next().map(Cow::Borrowed),
            CellTexts::Tensor(tensor, row) => {
                let from = *row * tensor.row_len();
                if *row == tensor.rows() {
                    return None;
                }
                *row += 1;
                let mut text = String::new();
                write_elements(tensor.data(), from, tensor.row_shape(), &mut text);
                Some(Cow::Owned(text))
            }
            CellTexts::Files(files) => files.next().map(|file| Cow::Owned(format!("\"{}\"", STANDARD.encode(file)))),
        }
    }
}

/// Returns the number of bytes of the brackets, with commas, of nested arrays of this shape.
fn brackets(shape: &[usize]) -> usize {
    let (mut arrays, mut all) = (1usize, 0usize);
    for length in shape.iter().take(shape.len().saturating_sub(1)) {
        arrays = arrays.saturating_mul(*length);
        all = all.saturating_add(arrays.saturating_mul(3));
    }
    all
}

/// Writes the elements from `from` on as nested arrays of this shape. Returns the position after the last element.
fn write_elements(data: &Data, from: usize, shape: &[usize], text: &mut String) -> usize {
    let Some((length, inner)) = shape.split_first() else {
        text.push_str(&element(data, from));
        return from + 1;
    };
    let mut at = from;
    text.push('[');
    for index in 0..*length {
        if index > 0 {
            text.push(',');
        }
        at = write_elements(data, at, inner, text);
    }
    text.push(']');
    at
}

/// Returns an element as JSON. NaN is null.
fn element(data: &Data, index: usize) -> String {
    fn json(value: Option<impl Into<Value>>) -> String {
        value.map_or(Value::Null, Into::into).to_string()
    }
    /// Writes a number with as few digits as its own type needs, and an exponent if it is very large or small.
    fn float<T: Serialize>(value: Option<&T>) -> String {
        serde_json::to_string(&value).unwrap_or_default()
    }
    match data {
        Data::F32(values) => float(values.get(index)),
        Data::F64(values) => float(values.get(index)),
        Data::F16(values) => float(values.get(index).map(|value| value.to_f32()).as_ref()),
        Data::BF16(values) => float(values.get(index).map(|value| value.to_f32()).as_ref()),
        Data::I8(values) => json(values.get(index).copied()),
        Data::I16(values) => json(values.get(index).copied()),
        Data::I32(values) => json(values.get(index).copied()),
        Data::I64(values) => json(values.get(index).copied()),
        Data::U8(values) => json(values.get(index).copied()),
        Data::U16(values) => json(values.get(index).copied()),
        Data::U32(values) => json(values.get(index).copied()),
        Data::U64(values) => json(values.get(index).copied()),
        Data::Bool(values) => json(values.get(index).copied()),
        Data::Text(values) => json(values.get(index).map(String::as_str)),
        Data::Sequence(_) => "null".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_tensor_are_nested_arrays() {
        let check = |shape: &[usize], data: Data, expected: &[&str]| {
            let tensor = Tensor::new(shape.to_vec(), data).unwrap();
            let column = NamedColumn { name: "x".into(), cells: Cells::Tensor(&tensor) };
            assert_eq!(column.texts().unwrap().collect::<Vec<_>>(), expected);
            assert_eq!(column.rows().unwrap(), expected.len());
        };
        check(&[3], Data::F32(vec![0.1, f32::NAN, 1e30]), &["0.1", "null", "1e+30"]);
        check(&[1], Data::F64(vec![5e-324]), &["5e-324"]);
        check(&[2, 1], Data::I64(vec![i64::MIN, 7]), &["[-9223372036854775808]", "[7]"]);
        check(&[1, 2, 2], Data::U8(vec![1, 2, 3, 4]), &["[[1,2],[3,4]]"]);
        check(&[2, 0], Data::F64(vec![]), &["[]", "[]"]);
        check(&[2], Data::Text(vec!["a\"b".into(), "ü".into()]), &["\"a\\\"b\"", "\"ü\""]);
        check(&[2], Data::Bool(vec![true, false]), &["true", "false"]);
    }
}
