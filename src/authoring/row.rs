//! A row of data as an instance, and its place in the data.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Result, SetupError};

/// A row of data as an instance.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) place: Place,
    pub(super) instance: Box<RawValue>,
    /// Cell of the column with the expected predictions, if there is such a column.
    pub(super) label: Option<Value>,
    /// Cell of the column with the times, if there is such a column.
    pub(super) time: Option<Value>,
}

/// A row of data as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowText {
    /// Place of the row in the data, for messages.
    pub place: Place,
    /// The row, or the reason why it cannot be read. The rows behind it can.
    pub json: Result<String, String>,
}

/// Place of a row in the data, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Number of a line, counted from 1.
    Line(u64),
    /// Number of a row, counted from 1.
    Row(u64),
    /// A file of its own.
    File(PathBuf),
}

/// The rows of data as instances, in order.
pub(super) type Rows<'a> = Box<dyn Iterator<Item = Result<Row, SetupError>> + 'a>;

/// The rows of a table: the cells of the columns that are read, in order.
pub(super) type CellRows = Box<dyn Iterator<Item = Result<(Place, Vec<Value>), SetupError>>>;

impl Row {
    /// Creates a row without an expected prediction.
    pub(super) fn new(place: Place, instance: Box<RawValue>) -> Row {
        Row { place, instance, label: None, time: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::Row(row) => write!(f, "row {row}"),
            Place::File(path) => write!(f, "{}", path.display()),
        }
    }
}
