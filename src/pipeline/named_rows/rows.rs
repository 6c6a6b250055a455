//! Rows of named values, in the forms that clients send, as instances.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use serde_json::value::RawValue;

use super::columns::{CellTexts, Cells, NamedColumn};
use super::csv_rows::{self, CsvHeader};
use super::instance_form::InstanceForm;
use super::row_layout::{RowLayout, known};
use crate::budget::{HeldBytes, MemoryBudget};
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
}

/// Instances as a JSON array.
#[derive(Debug)]
pub struct Instances<'a> {
    text: Cow<'a, RawValue>,
    /// Memory for a text that was made.
    _held: Option<HeldBytes>,
}

/// Bounds of the instances of a request.
pub(super) struct Bounds<'a> {
    pub(super) max_rows: NonZeroUsize,
    pub(super) memory: &'a MemoryBudget,
}

impl Instances<'_> {
    /// Returns the array, as [`Preprocessor::transform`](crate::pipeline::Preprocessor::transform) reads it.
    pub fn json(&self) -> &RawValue {
        &self.text
    }
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
    let form = form.ok_or_else(|| {
        Error::InvalidInput("the instances of this model have no columns; send {\"instances\": [...]}".to_owned())
    })?;
    let bounds = Bounds { max_rows, memory };
    match rows {
        NamedRows::Columns(columns) => of_columns(columns, form, &bounds),
        NamedRows::Values(values) => of_values(values, form, &bounds),
        NamedRows::Rows { columns, rows } => of_rows(columns, rows, form, &bounds),
        NamedRows::Csv { text, header } => csv_rows::instances(text, *header, form, &bounds),
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
    let mut made = InstancesText::new(rows, length, &layout, bounds)?;
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
            Err(Error::InvalidInput(format!("values without names; name the columns: {}", known(form))))
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
    let mut made = InstancesText::new(count, rows.get().len(), &layout, bounds)?;
    let mut row = Vec::new();
    for (index, text) in items()?.enumerate() {
        let cells = Items::of(text).ok_or_else(|| wrong(&format!("row {index} is not an array of values")))?;
        row.clear();
        // One more than there should be, so that a long row is noticed, and not kept.
        row.extend(cells.take(columns.len() + 1));
        if row.len() != columns.len() {
            let (found, more) = (row.len(), if row.len() > columns.len() { " or more" } else { "" });
            return Err(wrong(&format!(
                "row {index} has {found}{more} values, but there are {} columns",
                columns.len()
            )));
        }
        made.add(|text| layout.write(&row, text))?;
    }
    made.finish()
}

// ===== impl Instances =====

impl<'a> Instances<'a> {
    /// Returns instances that were sent in their form.
    fn sent(instances: &'a RawValue) -> Instances<'a> {
        Instances { text: Cow::Borrowed(instances), _held: None }
    }
}

/// The text of instances while it is made.
pub(super) struct InstancesText {
    text: String,
    held: HeldBytes,
}

impl InstancesText {
    /// Reserves memory for the instances of `rows` rows, whose values are texts of this length together.
    pub(super) fn new(rows: usize, length: usize, layout: &RowLayout, bounds: &Bounds<'_>) -> Result<InstancesText> {
        check_rows(rows, bounds.max_rows)?;
        let bytes = rows.saturating_mul(layout.overhead()).saturating_add(length).saturating_add(2);
        let held = bounds.memory.hold(bytes)?;
        let mut text = String::with_capacity(bytes);
        text.push('[');
        Ok(InstancesText { text, held })
    }

    /// Adds the instance that `write` writes. `write` fails if the row has too few values.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut String) -> Option<()>) -> Result<()> {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        write(&mut self.text).ok_or_else(|| Error::internal("a row has fewer values than columns"))?;
        // Only long texts of numbers are longer than expected.
        self.held.grow_to(self.text.capacity())
    }

    pub(super) fn finish<'a>(self) -> Result<Instances<'a>> {
        let InstancesText { mut text, held } = self;
        text.push(']');
        let text = RawValue::from_string(text).map_err(Error::internal)?;
        Ok(Instances { text: Cow::Owned(text), _held: Some(held) })
    }
}

/// Checks the number of rows before instances are made of them.
pub(super) fn check_rows(rows: usize, max_rows: NonZeroUsize) -> Result<()> {
    match rows {
        0 => Err(Error::InvalidInput("there are no rows; send at least one".to_owned())),
        rows if rows > max_rows.get() => Err(Error::InvalidInput(format!(
            "there are more than {max_rows} rows, which is the limit for one request to this model; send them in several"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
