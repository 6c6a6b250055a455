//! Rows of named values, in the forms that clients send, as instances.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use serde_json::value::RawValue;

use super::columns::{CellTexts, Cells, NamedColumn};
use super::csv_rows::{self, CsvHeader};
use super::instance_form::InstanceForm;
use super::instances_text::{Bounds, Instances, InstancesText, check_rows};
use super::row_layout::{RowLayout, known};
use crate::budget::MemoryBudget;
use crate::error::{Error, Result};
use crate::pipeline::json::items::Items;

/// Rows of named values, in one of the forms that clients send.
#[derive(Debug)]
pub enum NamedRows<'a> {
    /// The values of each column.
    Columns(Vec<NamedColumn<'a>>),
    /// The values of the only column: a JSON array with a value for each row.
    Values(&'a RawValue),
    /// The names of the columns, and a JSON array with an array of values for each row.
    Rows {
        /// Names of the columns, in the order of the values.
        columns: Vec<Cow<'a, str>>,
        /// The rows.
        rows: &'a RawValue,
    },
    /// CSV (RFC 4180): a line for each row. Empty fields are null.
    Csv {
        /// The text.
        text: &'a str,
        /// Meaning of the first line.
        header: CsvHeader,
    },
    /// JSON texts, each with an instance.
    JsonTexts {
        /// The texts.
        text: &'a str,
        /// The texts in between.
        between: JsonSeparator,
    },
}

/// Separator of JSON texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonSeparator {
    /// The end of a line, behind each text (JSON Lines).
    LineFeed,
    /// The record separator, before each text (RFC 7464).
    RecordSeparator,
}

/// Returns rows as the instances of a preprocessor. `form` is `None` if its instances have no names. Columns that are
/// unknown, missing or given twice are refused, and columns of different lengths. The text is charged to `memory`.
///
/// ```
/// use std::num::NonZeroUsize;
/// use leeway::budget::MemoryBudget;
/// use leeway::pipeline::{Cells, InstanceForm, NamedColumn, NamedRows, instances_of};
/// use leeway::tensor::{Data, Tensor};
///
/// let form = InstanceForm::file("image");
/// let files = [&b"GIF"[..], b"PNG"];
/// let columns = vec![NamedColumn { name: "image".into(), cells: Cells::Files(&files) }];
/// let memory = MemoryBudget::new(1 << 20, NonZeroUsize::MIN);
/// let instances = instances_of(&NamedRows::Columns(columns), Some(&form), NonZeroUsize::MAX, &memory).unwrap();
/// assert_eq!(instances.json().get(), r#"[{"b64":"R0lG"},{"b64":"UE5H"}]"#);
/// ```
pub fn instances_of<'a>(
    rows: &NamedRows<'a>,
    form: Option<&InstanceForm>,
    max_rows: NonZeroUsize,
    memory: &MemoryBudget,
) -> Result<Instances<'a>> {
    let form = || {
        form.ok_or_else(|| {
            Error::InvalidInput("the instances of this model have no columns; send {\"instances\": [...]}".to_owned())
        })
    };
    let bounds = Bounds { max_rows, memory };
    match rows {
        NamedRows::Columns(columns) => of_columns(columns, form()?, &bounds),
        NamedRows::Values(values) => of_values(values, form()?, &bounds),
        NamedRows::Rows { columns, rows } => of_rows(columns, rows, form()?, &bounds),
        NamedRows::Csv { text, header } => csv_rows::instances(text, *header, form()?, &bounds),
        NamedRows::JsonTexts { text, between } => of_json_texts(text, *between, &bounds),
    }
}

fn of_columns<'a>(columns: &[NamedColumn<'a>], form: &InstanceForm, bounds: &Bounds<'_>) -> Result<Instances<'a>> {
    let names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
    let layout = RowLayout::named(&names, form)?;
    let Some(first) = columns.first() else {
        return Err(Error::InvalidInput(format!("there are no columns; {}", known(form))));
    };
    if let ([NamedColumn { cells: Cells::Json(values), .. }], true) = (columns, layout.is_plain()) {
        return Ok(Instances::sent(values));
    }
    let rows = first.rows()?;
    for column in columns {
        let other = column.rows()?;
        if other != rows {
            return Err(Error::InvalidInput(format!(
                "the column {:?} has {other} values, but {:?} has {rows}; all columns have one value for each row",
                crate::identity::shown(&column.name),
                crate::identity::shown(&first.name)
            )));
        }
    }
    let mut texts = columns.iter().map(NamedColumn::texts).collect::<Result<Vec<CellTexts<'_>>>>()?;
    let length = columns.iter().map(NamedColumn::text_length).sum();
    let mut made = InstancesText::new(rows, length, layout.overhead(), bounds)?;
    let mut row = Vec::with_capacity(texts.len());
    for _ in 0..rows {
        row.clear();
        row.extend(texts.iter_mut().map_while(Iterator::next));
        made.add(|text| layout.write(&row, text))?;
    }
    made.finish()
}

/// Returns the values of the only column as instances.
fn of_values<'a>(values: &'a RawValue, form: &InstanceForm, bounds: &Bounds<'_>) -> Result<Instances<'a>> {
    match form {
        InstanceForm::Value { column, .. } if Items::of(values.get()).is_some() => {
            let column = NamedColumn { name: Cow::Owned(column.name().to_owned()), cells: Cells::Json(values) };
            of_columns(&[column], form, bounds)
        }
        // The preprocessor refuses what is not an array.
        InstanceForm::Value { .. } => Ok(Instances::sent(values)),
        InstanceForm::Object { .. } => {
            Err(Error::InvalidInput(format!("the values have no names; send an object of columns; {}", known(form))))
        }
    }
}

fn of_rows<'a, S: AsRef<str>>(
    columns: &[S],
    rows: &'a RawValue,
    form: &InstanceForm,
    bounds: &Bounds<'_>,
) -> Result<Instances<'a>> {
    let layout = RowLayout::named(columns, form)?;
    let wrong = |problem: &str| Error::InvalidInput(format!("the rows: {problem}"));
    let items = || Items::of(rows.get()).ok_or_else(|| wrong("expected an array of arrays"));
    let count = items()?.count();
    let mut made = InstancesText::new(count, rows.get().len(), layout.overhead(), bounds)?;
    let mut row = Vec::new();
    for (index, text) in items()?.enumerate() {
        let cells = Items::of(text).ok_or_else(|| wrong(&format!("row {index} is not an array of values")))?;
        row.clear();
        // One more than there should be, so that a long row is noticed, and not kept.
        row.extend(cells.take(columns.len() + 1));
        if row.len() != columns.len() {
            let (found, more) = (row.len(), if row.len() > columns.len() { " or more" } else { "" });
            return Err(wrong(&format!(
                "row {index} has {found}{more} values, expected one for each column: {}",
                columns.len()
            )));
        }
        made.add(|text| layout.write(&row, text))?;
    }
    made.finish()
}

/// Returns JSON texts as instances. Empty lines are skipped.
fn of_json_texts<'a>(text: &str, between: JsonSeparator, bounds: &Bounds<'_>) -> Result<Instances<'a>> {
    let (separator, name) = match between {
        JsonSeparator::LineFeed => ('\n', "line"),
        JsonSeparator::RecordSeparator => ('\u{1e}', "text"),
    };
    let mut made = InstancesText::of_length(text.len() + 3, bounds)?;
    let mut rows = 0;
    for (index, part) in text.split(separator).enumerate() {
        if part.trim_ascii().is_empty() {
            continue;
        }
        if between == JsonSeparator::RecordSeparator && index == 0 {
            return Err(Error::InvalidInput("the body does not begin with a record separator (0x1E)".to_owned()));
        }
        rows += 1;
        check_rows(rows, bounds.max_rows)?;
        let instance: &RawValue = serde_json::from_str(part).map_err(|error| {
            let problem: String = error.to_string().chars().take(300).collect();
            let number = match between {
                JsonSeparator::LineFeed => index + 1,
                JsonSeparator::RecordSeparator => index,
            };
            Error::InvalidInput(format!("{name} {number} is not the JSON of an instance: {problem}"))
        })?;
        made.add(|text| {
            text.push_str(instance.get());
            Some(())
        })?;
    }
    check_rows(rows, bounds.max_rows)?;
    made.finish()
}

#[cfg(test)]
mod tests;
