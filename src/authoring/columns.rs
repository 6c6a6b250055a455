//! Chooses the columns of a table that are features, and makes instances of their cells.

use serde_json::Value;

use crate::pipeline::{Table, TableColumn, TableRows};
use crate::tensor::{DType, Signature};

/// A column of a file with a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderColumn {
    pub name: String,
    /// Type of the cells, if they have no form in an instance.
    pub unusable: Option<String>,
}

/// A column to read, and the kind of its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnToRead {
    /// Position of the column in the file.
    pub place: usize,
    pub cells: Cells,
}

/// Kind of the cells of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cells {
    /// Values of the type in the file. In files without types, numbers and booleans if they look like such.
    AsTheyRead,
    /// Like `AsTheyRead`, but booleans are 1 and 0, as for a model that takes numbers.
    Numbers,
    /// Texts, even if they look like numbers.
    Texts,
    /// Texts, even if they look like numbers; an empty cell is a missing value.
    TextsOrNothing,
}

/// A column of a table, or a member of JSON lines, that is no feature: it has the truth, or expected predictions.
#[derive(Debug, Clone, Copy)]
pub(super) enum LabelColumn<'a> {
    /// The column is read.
    Read(&'a str),
    /// The column is left out, if there is one.
    LeftOut(&'a str),
}

/// Form of the instance that a row becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowForm {
    /// `{"age": 30, "country": "NL"}`
    Object,
    /// `{"age": [30], "country": ["NL"]}`
    ObjectOfArrays,
    /// `[30, "NL"]`
    Array,
    /// `"30"`, of a single column.
    Text,
    /// `30`, of a single column.
    Value,
}

/// The columns of a table that are features.
#[derive(Debug)]
pub(super) struct Columns {
    names: Vec<String>,
    to_read: Vec<ColumnToRead>,
    /// Form of a row, if the pipeline reads rows of a table.
    rows: Option<TableRows>,
}

impl Columns {
    /// Chooses the columns that the pipeline reads. The ignored columns must be a part of the header.
    pub(super) fn choose(
        header: &[HeaderColumn],
        ignored: &[String],
        signature: &Signature,
        table: Option<&Table>,
    ) -> Result<Columns, String> {
        let in_header = |name: &str| header.iter().any(|column| column.name == name);
        let is_input = |name: &str| signature.inputs.iter().any(|input| *input.name == *name);
        let by_name = !signature.inputs.is_empty() && signature.inputs.iter().all(|input| in_header(&input.name));
        let known: &[TableColumn] = table.map_or(&[], |table| &table.columns);
        let of_table = |name: &str| table.map(|_| known.iter().find(|column| column.name == *name));
        if let Some(absent) = known.iter().find(|column| !in_header(&column.name)) {
            let (name, there) = (&absent.name, names(header));
            return Err(format!("there is no column {name:?}, which the pipeline reads; there are: {there}"));
        }
        // If the columns that the pipeline reads are known, they are found by name, in any position.
        let is_read = |name: &str| match of_table(name) {
            Some(column) => column.is_some(),
            None => !by_name || is_input(name),
        };
        let is_feature = |column: &HeaderColumn| {
            !ignored.contains(&column.name) && !is_index_of_pandas(&column.name) && is_read(&column.name)
        };
        let mut features: Vec<(usize, &HeaderColumn)> =
            header.iter().enumerate().filter(|(_, column)| is_feature(column)).collect();
        if let Some((_, HeaderColumn { name, unusable: Some(dtype) })) =
            features.iter().find(|(_, column)| column.unusable.is_some())
        {
            return Err(format!(
                "the column {name:?} has values of type {dtype}, which cannot be a part of an instance; leave it out \
                 with --ignore-column, or convert it to numbers, texts or booleans"
            ));
        }
        // Sorts the columns in the order of the pipeline if it is known, and otherwise in the order of the file.
        features
            .sort_by_key(|(place, found)| known.iter().position(|column| column.name == found.name).unwrap_or(*place));
        let dtype = |name: &str| match &*signature.inputs {
            [only] => Some(only.dtype),
            several => several.iter().find(|input| *input.name == *name).map(|input| input.dtype),
        };
        let to_read = features.iter().map(|(place, column)| {
            let cells = match (of_table(&column.name).flatten(), dtype(&column.name)) {
                (Some(column), _) if column.is_text => Cells::TextsOrNothing,
                (None, Some(DType::Text)) => Cells::Texts,
                (_, None | Some(DType::Bool | DType::Text)) => Cells::AsTheyRead,
                (_, Some(_)) => Cells::Numbers,
            };
            ColumnToRead { place: *place, cells }
        });
        Ok(Columns {
            to_read: to_read.collect(),
            names: features.iter().map(|(_, column)| column.name.clone()).collect(),
            rows: table.map(|table| table.rows),
        })
    }

    /// Returns the forms of instances that the pipeline may accept.
    pub(super) fn forms(&self) -> Vec<RowForm> {
        match self.rows {
            Some(TableRows::Objects) => vec![RowForm::Object],
            Some(TableRows::Arrays) => vec![RowForm::Array],
            None if self.names.len() == 1 => {
                vec![RowForm::Object, RowForm::ObjectOfArrays, RowForm::Array, RowForm::Text, RowForm::Value]
            }
            None => vec![RowForm::Object, RowForm::ObjectOfArrays, RowForm::Array],
        }
    }

    /// Returns the columns to read for instances of a form.
    pub(super) fn to_read(&self, form: RowForm) -> Vec<ColumnToRead> {
        let with_cells = |column: &ColumnToRead| match form {
            RowForm::Text => ColumnToRead { cells: Cells::Texts, ..*column },
            _ => *column,
        };
        self.to_read.iter().map(with_cells).collect()
    }

    /// Returns the names of the columns if a row in this form is an array in the order of the file, because nothing
    /// says which element is which.
    pub(super) fn in_the_order_of_the_file(&self, form: RowForm) -> Option<&[String]> {
        (form == RowForm::Array && self.rows.is_none()).then_some(&self.names)
    }

    /// Makes an instance of the cells of the columns.
    pub(super) fn instance(&self, cells: Vec<Value>, form: RowForm) -> Value {
        let mut cells = cells.into_iter();
        match form {
            RowForm::Object => Value::Object(self.names.iter().cloned().zip(cells).collect()),
            RowForm::ObjectOfArrays => {
                let arrays = cells.map(|value| Value::Array(vec![value]));
                Value::Object(self.names.iter().cloned().zip(arrays).collect())
            }
            RowForm::Array => Value::Array(cells.collect()),
            RowForm::Text | RowForm::Value => cells.next().unwrap_or(Value::Null),
        }
    }
}

/// Returns the names in a header, for a message.
pub fn names(header: &[HeaderColumn]) -> String {
    let names: Vec<&str> = header.iter().map(|column| &*column.name).collect();
    names.join(", ")
}

/// Returns true for the column in which pandas stores the index of a frame, if the index has no name.
pub fn is_index_of_pandas(name: &str) -> bool {
    let level = name.strip_prefix("__index_level_").and_then(|rest| rest.strip_suffix("__"));
    level.is_some_and(|level| level.parse::<u8>().is_ok())
}

impl RowForm {
    pub(super) fn name(self) -> &'static str {
        match self {
            RowForm::Object => "an object with the columns as keys",
            RowForm::ObjectOfArrays => "an object with arrays of one value",
            RowForm::Array => "an array of the columns",
            RowForm::Text => "the text of the column",
            RowForm::Value => "the value of the column",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tensor::{Dim, TensorSpec};

    fn header(names: &[&str]) -> Vec<HeaderColumn> {
        names.iter().map(|name| HeaderColumn { name: (*name).to_owned(), unusable: None }).collect()
    }

    fn signature(inputs: &[(&str, DType)]) -> Signature {
        let spec = |(name, dtype): &(&str, DType)| TensorSpec {
            name: (*name).into(),
            dtype: *dtype,
            dims: vec![Dim::Dynamic(None)],
        };
        Signature { inputs: inputs.iter().map(spec).collect(), ..Signature::default() }
    }

    #[test]
    fn the_index_of_a_data_frame_is_no_feature() {
        let columns =
            Columns::choose(&header(&["a", "__index_level_0__"]), &[], &signature(&[("x", DType::F32)]), None).unwrap();
        assert_eq!(columns.names, ["a"]);
        assert_eq!(columns.to_read(RowForm::Array), [ColumnToRead { place: 0, cells: Cells::Numbers }]);
        assert!(!is_index_of_pandas("__index_level_x__") && !is_index_of_pandas("index"));
    }

    #[test]
    fn only_columns_that_are_read_must_have_values_of_an_instance() {
        let mut columns = header(&["age", "when"]);
        columns[1].unusable = Some("Date32".to_owned());
        let choose = |ignored: &[&str], inputs: &[(&str, DType)]| {
            let ignored: Vec<String> = ignored.iter().map(|name| (*name).to_owned()).collect();
            Columns::choose(&columns, &ignored, &signature(inputs), None).map(|columns| columns.names)
        };
        let refused = choose(&[], &[("x", DType::F32)]).unwrap_err();
        assert!(refused.contains("\"when\" has values of type Date32"), "{refused}");
        assert_eq!(choose(&["when"], &[("x", DType::F32)]).unwrap(), ["age"]);
        assert_eq!(choose(&[], &[("age", DType::F32)]).unwrap(), ["age"]);
    }

    #[test]
    fn cells_become_an_instance_of_each_form() {
        let columns = Columns::choose(&header(&["a", "b"]), &[], &signature(&[("x", DType::F32)]), None).unwrap();
        let instance = |form| columns.instance(vec![json!(1), json!("t")], form);
        assert_eq!(instance(RowForm::Object), json!({ "a": 1, "b": "t" }));
        assert_eq!(instance(RowForm::ObjectOfArrays), json!({ "a": [1], "b": ["t"] }));
        assert_eq!(instance(RowForm::Array), json!([1, "t"]));
        assert_eq!(instance(RowForm::Value), json!(1));
    }
}
