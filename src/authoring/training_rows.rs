//! Rows of training data as instances: each row of delimited text, or each line of JSON.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_json::value::RawValue;

use super::data_file::{Delimiter, RowFormat, open_text, row_format};
use crate::error::{Result, SetupError};
use crate::pipeline::{Table, TableColumn, TableRows};
use crate::registry::OpenedVersion;
use crate::tensor::{DType, Signature};

/// Training data in a file.
#[derive(Debug, Clone)]
pub struct TrainingData {
    /// `.csv` or `.tsv` with a header, or one instance per line as JSON; also packed with gzip.
    pub file: PathBuf,
    /// Separator of the columns. By default that of the header.
    pub delimiter: Option<Delimiter>,
    /// Columns of a CSV file that are not features, such as the label or an id.
    pub ignored_columns: Vec<String>,
}

/// Form of the instance that a row of a CSV file becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowForm {
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

/// Reads the rows of training data as instances, in order.
pub(super) enum Rows<'a> {
    Json { file: &'a Path, lines: std::iter::Enumerate<std::io::Lines<Box<dyn BufRead>>> },
    Csv { file: &'a Path, records: csv::StringRecordsIntoIter<Box<dyn BufRead>>, table: &'a DelimitedTable },
}

/// A file of training data, with the form of its rows.
pub(super) struct Source<'a> {
    file: &'a Path,
    /// `None` if each line is an instance as JSON.
    table: Option<DelimitedTable>,
}

/// Delimited text that becomes instances.
#[derive(Debug)]
pub(super) struct DelimitedTable {
    delimiter: Delimiter,
    columns: Columns,
    form: RowForm,
}

/// The columns of a CSV file that are features.
#[derive(Debug)]
struct Columns {
    names: Vec<String>,
    /// Position of each column in a record.
    places: Vec<usize>,
    /// Kind of the cells of each column.
    cells: Vec<Cells>,
    /// Form of a row, if the pipeline reads rows of a table.
    rows: Option<TableRows>,
}

/// Kind of the cells of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cells {
    /// Numbers if they look like numbers, else texts.
    AsTheyRead,
    /// Texts, even if they look like numbers.
    Texts,
    /// Texts, even if they look like numbers; an empty cell is a missing value.
    TextsOrNothing,
}

impl<'a> Source<'a> {
    /// Opens the file, and finds the form of instance in which the pipeline accepts the first row.
    pub(super) fn open(
        data: &'a TrainingData,
        opened: &OpenedVersion,
        take: &mut dyn FnMut((usize, Box<RawValue>)) -> std::result::Result<(), String>,
    ) -> Result<Source<'a>, SetupError> {
        let file = &*data.file;
        // Names files of other kinds before anything else is said about them.
        open_text(file)?;
        let RowFormat::Delimited(delimiter) = row_format(file, data.delimiter)? else {
            if !data.ignored_columns.is_empty() {
                let problem = "only a .csv file has columns to ignore; --delimiter reads any file like one";
                return Err(SetupError::Repository(format!("{}: {problem}", file.display())));
            }
            return Ok(Source { file, table: None });
        };
        let columns = Columns::read(data, delimiter, opened.signature(), opened.table().as_ref())?;
        let one_column = columns.names.len() == 1;
        let forms: &[RowForm] = match columns.rows {
            Some(TableRows::Objects) => &[RowForm::Object],
            Some(TableRows::Arrays) => &[RowForm::Array],
            None => &[RowForm::Object, RowForm::ObjectOfArrays, RowForm::Array, RowForm::Text, RowForm::Value],
        };
        let mut source = Source { file, table: Some(DelimitedTable { delimiter, columns, form: RowForm::Object }) };
        let mut problems = Vec::new();
        for form in forms.iter().copied().filter(|form| one_column || !matches!(form, RowForm::Text | RowForm::Value)) {
            if let Some(table) = &mut source.table {
                table.form = form;
            }
            let Some(first) = source.rows()?.next() else { return Ok(source) };
            match take(first?) {
                Ok(()) => return Ok(source),
                Err(problem) => problems.push(format!("as {}: {problem}", form.name())),
            }
        }
        Err(SetupError::Repository(format!(
            "{}: the pipeline does not take the first row: {}. Columns that are not features can be left out with \
             --ignore-column, or send one instance per line as JSON (.jsonl)",
            file.display(),
            problems.join("; ")
        )))
    }

    /// Returns the columns if they are used in the order of the file, because nothing says which is which.
    pub(super) fn columns_in_the_order_of_the_file(&self) -> Option<&[String]> {
        let table = self.table.as_ref()?;
        (table.form == RowForm::Array && table.columns.rows.is_none()).then_some(&table.columns.names)
    }

    /// Returns the rows from the first on.
    pub(super) fn rows(&self) -> Result<Rows<'_>, SetupError> {
        let text = open_text(self.file)?;
        Ok(match &self.table {
            None => Rows::Json { file: self.file, lines: text.lines().enumerate() },
            Some(table) => {
                let records = csv_reader(text, table.delimiter).into_records();
                Rows::Csv { file: self.file, records, table }
            }
        })
    }

    /// An error about a line of the file.
    pub(super) fn wrong(&self, line: usize, problem: &str) -> SetupError {
        SetupError::Repository(format!("{}: line {line}: {problem}", self.file.display()))
    }
}

impl RowForm {
    fn name(self) -> &'static str {
        match self {
            RowForm::Object => "an object with the columns as keys",
            RowForm::ObjectOfArrays => "an object with arrays of one value",
            RowForm::Array => "an array of the columns",
            RowForm::Text => "the text of the column",
            RowForm::Value => "the value of the column",
        }
    }
}

fn csv_reader(text: Box<dyn BufRead>, delimiter: Delimiter) -> csv::Reader<Box<dyn BufRead>> {
    csv::ReaderBuilder::new().delimiter(delimiter.byte()).from_reader(text)
}

impl Columns {
    fn read(
        data: &TrainingData,
        delimiter: Delimiter,
        signature: &Signature,
        table: Option<&Table>,
    ) -> Result<Columns, SetupError> {
        let wrong = |problem: String| SetupError::Repository(format!("{}: {problem}", data.file.display()));
        let mut reader = csv_reader(open_text(&data.file)?, delimiter);
        let header: Vec<String> =
            reader.headers().map_err(|error| wrong(error.to_string()))?.iter().map(str::to_owned).collect();
        if let Some(unknown) = data.ignored_columns.iter().find(|ignored| !header.contains(ignored)) {
            return Err(wrong(format!("there is no column {unknown:?} to ignore; there are: {}", header.join(", "))));
        }
        let is_input = |name: &String| signature.inputs.iter().any(|input| *input.name == **name);
        let by_name = !signature.inputs.is_empty()
            && signature.inputs.iter().all(|input| header.iter().any(|name| **name == *input.name));
        let known: &[TableColumn] = table.map_or(&[], |table| &table.columns);
        let of_table = |name: &String| table.map(|_| known.iter().find(|column| column.name == *name));
        let is_absent = |column: &&TableColumn| !header.contains(&column.name);
        if let Some(absent) = known.iter().find(is_absent) {
            let (name, there) = (&absent.name, header.join(", "));
            return Err(wrong(format!("there is no column {name:?}, which the pipeline reads; there are: {there}")));
        }
        // If the columns that the pipeline reads are known, they are found by name, in any position.
        let is_read = |name: &String| match of_table(name) {
            Some(column) => column.is_some(),
            None => !by_name || is_input(name),
        };
        let mut columns =
            Columns { names: Vec::new(), places: Vec::new(), cells: Vec::new(), rows: table.map(|table| table.rows) };
        let is_feature = |name: &String| !data.ignored_columns.contains(name) && is_read(name);
        let mut features: Vec<(usize, &String)> =
            header.iter().enumerate().filter(|(_, name)| is_feature(name)).collect();
        // Sorts the columns in the order of the pipeline if it is known, and otherwise in the order of the file.
        features.sort_by_key(|(place, name)| known.iter().position(|column| column.name == **name).unwrap_or(*place));
        for (place, name) in features {
            let dtype = match &*signature.inputs {
                [only] => Some(only.dtype),
                several => several.iter().find(|input| *input.name == **name).map(|input| input.dtype),
            };
            columns.cells.push(match of_table(name).flatten() {
                Some(column) if column.is_text => Cells::TextsOrNothing,
                None if dtype == Some(DType::Text) => Cells::Texts,
                _ => Cells::AsTheyRead,
            });
            columns.names.push(name.clone());
            columns.places.push(place);
        }
        Ok(columns)
    }

    fn instance(&self, record: &csv::StringRecord, form: RowForm) -> Value {
        let cells = self.places.iter().map(|place| record.get(*place).unwrap_or_default());
        if form == RowForm::Text {
            return self.places.first().and_then(|place| record.get(*place)).map_or(Value::Null, Value::from);
        }
        let mut values = cells.zip(&self.cells).map(|(cell, cells)| value(cell, *cells));
        match form {
            RowForm::Object => Value::Object(self.names.iter().cloned().zip(values).collect()),
            RowForm::ObjectOfArrays => {
                let arrays = values.map(|value| Value::Array(vec![value]));
                Value::Object(self.names.iter().cloned().zip(arrays).collect())
            }
            RowForm::Array => Value::Array(values.collect()),
            RowForm::Text | RowForm::Value => values.next().unwrap_or(Value::Null),
        }
    }
}

fn repository(problem: impl std::fmt::Display) -> SetupError {
    SetupError::Repository(problem.to_string())
}

/// Converts a cell to JSON, by the kind of its column.
fn value(cell: &str, cells: Cells) -> Value {
    match cells {
        Cells::Texts => return Value::from(cell),
        Cells::TextsOrNothing if !cell.is_empty() => return Value::from(cell),
        Cells::TextsOrNothing | Cells::AsTheyRead => {}
    }
    let cell = cell.trim();
    let number = || {
        let whole = cell.parse::<i64>().ok().map(serde_json::Number::from);
        whole.or_else(|| serde_json::Number::from_f64(cell.parse().ok()?)).map(Value::Number)
    };
    match cell {
        "" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        text => number().unwrap_or_else(|| Value::from(text)),
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<(usize, Box<RawValue>), SetupError>;

    /// Returns the next row with its line number.
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Rows::Json { file, lines } => loop {
                let (index, line) = lines.next()?;
                let line = match line {
                    Ok(line) if line.trim().is_empty() => continue,
                    Ok(line) => line,
                    Err(error) => {
                        return Some(Err(repository(format!("{}: line {}: {error}", file.display(), index + 1))));
                    }
                };
                let instance = serde_json::from_str(&line).map_err(|error| {
                    let (file, line, column) = (file.display(), index + 1, error.column());
                    // Removes "at line 1", which counts within this line only.
                    let problem = error.to_string();
                    let problem = problem.split(" at line ").next().unwrap_or_default();
                    repository(format!(
                        "{file}: line {line}, column {column}: this is not an instance as JSON: {problem}"
                    ))
                });
                return Some(instance.map(|instance| (index + 1, instance)));
            },
            Rows::Csv { file, records, table } => {
                let record = match records.next()? {
                    Ok(record) => record,
                    Err(error) => return Some(Err(repository(format!("{}: {error}", file.display())))),
                };
                let line = record.position().map_or(0, |position| position.line() as usize);
                let instance = serde_json::value::to_raw_value(&table.columns.instance(&record, table.form));
                Some(instance.map(|instance| (line, instance)).map_err(repository))
            }
        }
    }
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
        assert_eq!(value("3", Cells::Texts), json!("3"));
        assert_eq!([value("", Cells::Texts), value("", Cells::TextsOrNothing)], [json!(""), json!(null)]);
    }
}
