//! Delimited text, such as CSV: the header, and the rows of cells. Cells have no types: they are read as what they look
//! like.

use std::io::BufRead;
use std::path::Path;

use serde_json::Value;

use super::columns::{Cells, ColumnToRead, HeaderColumn};
use super::data_file::{Delimiter, open_text};
use super::row::{CellRows, Place, RowText};
use crate::error::{Result, SetupError};

/// Reads the header.
pub(super) fn header(file: &Path, delimiter: Delimiter) -> Result<Vec<HeaderColumn>, SetupError> {
    let mut reader = reader(file, delimiter)?;
    header_of(&mut reader).map_err(|error| SetupError::Repository(format!("{}: {error}", file.display())))
}

/// Reads the header of a text.
pub(super) fn header_of(reader: &mut csv::Reader<Box<dyn BufRead>>) -> csv::Result<Vec<HeaderColumn>> {
    let header = reader.headers()?;
    Ok(header.iter().map(|name| HeaderColumn { name: name.to_owned(), unusable: None }).collect())
}

/// Reads rows as JSON arrays of the cells of these columns, without a tree of values. A line with another number of cells
/// does not end them.
pub(super) fn row_texts(
    mut reader: csv::Reader<Box<dyn BufRead>>,
    columns: Vec<ColumnToRead>,
) -> impl Iterator<Item = Result<RowText, SetupError>> + 'static {
    let mut record = csv::StringRecord::new();
    std::iter::from_fn(move || {
        let read = reader.read_record(&mut record);
        let place = Place::Line(record.position().map_or(0, csv::Position::line));
        match read {
            Ok(false) => None,
            Ok(true) => {
                let mut json = String::with_capacity(8 * columns.len() + 2);
                for (index, column) in columns.iter().enumerate() {
                    json.push(if index == 0 { '[' } else { ',' });
                    write_value(record.get(column.place).unwrap_or_default(), column.cells, &mut json);
                }
                json.push_str(if columns.is_empty() { "[]" } else { "]" });
                Some(Ok(RowText { place, json: Ok(json) }))
            }
            Err(error) => Some(match error.into_kind() {
                csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
                    let place = Place::Line(pos.map_or(0, |position| position.line()));
                    Ok(RowText { place, json: Err(format!("it has {len} fields, but the header has {expected_len}")) })
                }
                csv::ErrorKind::Utf8 { pos, err } => {
                    let place = Place::Line(pos.map_or(0, |position| position.line()));
                    Ok(RowText { place, json: Err(format!("it is not UTF-8: {err}")) })
                }
                csv::ErrorKind::Io(error) => Err(SetupError::Repository(format!("after {place}: {error}"))),
                other => Err(SetupError::Repository(format!("after {place}: {other:?}"))),
            }),
        }
    })
}

/// Writes a cell as JSON, by the kind of its column.
fn write_value(cell: &str, cells: Cells, to: &mut String) {
    match cells {
        Cells::Numbers | Cells::AsTheyRead if is_plain_number(cell) => to.push_str(cell),
        Cells::Texts | Cells::TextsOrNothing if is_plain_text(cell) => {
            to.push('"');
            to.push_str(cell);
            to.push('"');
        }
        _ => to.push_str(&value(cell, cells).to_string()),
    }
}

/// Returns true for texts that are not empty, and that JSON writes as they are.
fn is_plain_text(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
}

/// Returns true for the most common numbers of JSON: those without an exponent.
fn is_plain_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    digits(whole) && (whole.len() == 1 || !whole.starts_with('0')) && fraction.is_none_or(digits)
}

/// Reads the cells of these columns, row by row.
pub(super) fn rows(file: &Path, delimiter: Delimiter, columns: Vec<ColumnToRead>) -> Result<CellRows, SetupError> {
    let records = reader(file, delimiter)?.into_records();
    let file = file.to_owned();
    Ok(Box::new(records.map(move |record| {
        let record = record.map_err(|error| SetupError::Repository(format!("{}: {error}", file.display())))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cells = columns.iter().map(|column| value(record.get(column.place).unwrap_or_default(), column.cells));
        Ok((Place::Line(line), cells.collect()))
    })))
}

fn reader(file: &Path, delimiter: Delimiter) -> Result<csv::Reader<Box<dyn BufRead>>, SetupError> {
    Ok(reader_of(open_text(file)?, delimiter))
}

/// Returns a reader of a text.
pub(super) fn reader_of(text: Box<dyn BufRead>, delimiter: Delimiter) -> csv::Reader<Box<dyn BufRead>> {
    csv::ReaderBuilder::new().delimiter(delimiter.byte()).from_reader(text)
}

/// Converts a cell to JSON, by the kind of its column.
fn value(cell: &str, cells: Cells) -> Value {
    match cells {
        Cells::Texts => return Value::from(cell),
        Cells::TextsOrNothing if !cell.is_empty() => return Value::from(cell),
        Cells::TextsOrNothing | Cells::AsTheyRead | Cells::Numbers => {}
    }
    let boolean = |value: bool| if cells == Cells::Numbers { u8::from(value).into() } else { Value::Bool(value) };
    match cell.trim() {
        "" => Value::Null,
        "true" | "True" | "TRUE" => boolean(true),
        "false" | "False" | "FALSE" => boolean(false),
        text => number(text).unwrap_or_else(|| Value::from(text)),
    }
}

/// Returns the number that a text is, if it is a finite number.
pub(super) fn number(text: &str) -> Option<Value> {
    let whole = text.parse::<i64>().ok().map(serde_json::Number::from);
    whole.or_else(|| serde_json::Number::from_f64(text.parse().ok()?)).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cell_is_what_it_reads_as() {
        let read = |cell| value(cell, Cells::AsTheyRead);
        assert_eq!(
            [read("3"), read("-.5"), read("1e3"), read(" 7 ")],
            [json!(3), json!(-0.5), json!(1000.0), json!(7)]
        );
        assert_eq!(
            [read(""), read("True"), read("NL"), read("inf")],
            [json!(null), json!(true), json!("NL"), json!("inf")]
        );
        assert_eq!([value("True", Cells::Numbers), value("false", Cells::Numbers)], [json!(1), json!(0)]);
        assert_eq!(value("3", Cells::Texts), json!("3"));
        assert_eq!([value("", Cells::Texts), value("", Cells::TextsOrNothing)], [json!(""), json!(null)]);
    }

    #[test]
    fn a_cell_is_written_as_it_is_read() {
        let texts = [
            "0",
            "-0",
            "7",
            "-3.25",
            "1.10",
            "00",
            "01",
            "1.",
            ".5",
            "-",
            "",
            " 3",
            "1e3",
            "+1",
            "x",
            "True",
            "1.2.3",
            "NaN",
            "é \u{1f427}",
            "a\"b",
            "a\\b",
            "a\nb",
            "\u{1}",
        ];
        for cells in [Cells::AsTheyRead, Cells::Numbers, Cells::Texts, Cells::TextsOrNothing] {
            for text in texts {
                let mut written = String::new();
                write_value(text, cells, &mut written);
                let written: Value = serde_json::from_str(&written).unwrap();
                let read = value(text, cells);
                let is_same = written == read || (written.as_f64().is_some() && written.as_f64() == read.as_f64());
                assert!(is_same, "{text:?} {cells:?}: {written} {read}");
            }
        }
    }
}
