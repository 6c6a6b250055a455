//! Delimited text, such as CSV: the header, and the rows of cells. Cells have no types: they are read as what they look
//! like.

use std::io::BufRead;
use std::path::Path;

use serde_json::Value;

use super::columns::{Cells, ColumnToRead, HeaderColumn};
use super::data_file::{Delimiter, open_text};
use super::row::{CellRows, Place};
use crate::error::{Result, SetupError};

/// Reads the header.
pub(super) fn header(file: &Path, delimiter: Delimiter) -> Result<Vec<HeaderColumn>, SetupError> {
    let mut reader = reader(file, delimiter)?;
    let header = reader.headers().map_err(|error| SetupError::Repository(format!("{}: {error}", file.display())))?;
    Ok(header.iter().map(|name| HeaderColumn { name: name.to_owned(), unusable: None }).collect())
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
    Ok(csv::ReaderBuilder::new().delimiter(delimiter.byte()).from_reader(open_text(file)?))
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
}
