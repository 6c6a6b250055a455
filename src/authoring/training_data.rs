//! Makes a version's baseline, by running its own pipeline over the training data.
//!
//! The data are read three times, row by row, and never held as a whole: to count the rows, to run the sample that
//! decides the bins, and to count all rows into the bins.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Result, SetupError};
use crate::feature::{Features, Observation};
use crate::model::Session;
use crate::monitor::{Baseline, Sample};
use crate::pipeline::{Prediction, Table, TableColumn, TableRows, some_of};
use crate::registry::{Findings, OpenedVersion};
use crate::tensor::{DType, Signature};

/// Seed of the random sample of rows that decides the bins of a baseline. The same rows are drawn every time.
const SEED: u64 = 0x1ee_3a9;
/// Maximum number of sampled rows, and of their values in total, which bounds the memory to 160 MB.
const MAX_SAMPLED_ROWS: u64 = 20_000;
const MAX_SAMPLED_VALUES: u64 = 20_000_000;
/// Maximum number of rows of training data in one run.
const ROWS_AT_ONE_TIME: usize = 256;

/// Training data in a file.
#[derive(Debug, Clone)]
pub struct TrainingData {
    /// `.csv` with a header, or one instance per line as JSON.
    pub file: PathBuf,
    /// Columns of a CSV file that are not features, such as the label or an id.
    pub ignored_columns: Vec<String>,
}

/// Progress of making a baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The step: `sampling` or `counting`.
    pub step: &'static str,
    /// Number of finished rows.
    pub done: u64,
    /// Total number of rows.
    pub rows: u64,
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
enum Rows<'a> {
    Json { file: &'a Path, lines: std::iter::Enumerate<std::io::Lines<BufReader<File>>> },
    Csv { file: &'a Path, records: csv::StringRecordsIntoIter<File>, columns: &'a Columns, form: RowForm },
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

/// Makes a baseline by running the pipeline over training data. Also returns the assumptions about the data.
pub(super) fn make_baseline(
    data: &TrainingData,
    opened: &OpenedVersion,
    findings: &Findings,
    progress: &dyn Fn(Progress),
) -> Result<(Baseline, Vec<String>), SetupError> {
    let at_one_time = opened.rows_at_one_time(ROWS_AT_ONE_TIME, findings);
    let mut runner = Runner { opened, at_one_time, session: opened.session().map_err(repository)? };
    let source = Source::open(data, &mut runner)?;
    let rows = source.rows()?.try_fold(0, |count: u64, row| row.map(|_| count + 1))?;
    if rows == 0 {
        return Err(SetupError::Repository(format!("{}: there are no rows", data.file.display())));
    }

    let assumption = source.csv.as_ref().filter(|(columns, form)| *form == RowForm::Array && columns.rows.is_none());
    let assumption = assumption.map(|(columns, _)| {
        format!(
            "the columns of {} are used as the elements of a row in the order of the file, which must be the order of \
             training ({}); set columns in [preprocess] to find them by name",
            data.file.display(),
            some_of(&columns.names)
        )
    });
    let schema = opened.features();
    let width = schema.len() as u64 + 4;
    let wanted = rows.min(MAX_SAMPLED_ROWS).min((MAX_SAMPLED_VALUES / width).max(1_000));
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut still_wanted = wanted;
    let mut sample = Sample::new(schema, opened.class_names());
    // Draws each row with probability (rows still wanted) / (rows left) (Knuth, TAOCP 2, 3.4.2, S).
    let mut is_drawn = |row: u64| {
        let is_drawn = random.u64(0..rows - row) < still_wanted;
        still_wanted -= u64::from(is_drawn);
        is_drawn
    };
    let step = |step| move |done| progress(Progress { step, done, rows });
    runner.run(&source, &mut is_drawn, &step("sampling"), &mut |features, made| sample.add(features, made))?;
    let mut builder = sample.freeze();
    runner.run(&source, &mut |_| true, &step("counting"), &mut |features, made| builder.count(features, made))?;
    Ok((builder.finish(), assumption.into_iter().collect()))
}

fn repository(problem: impl std::fmt::Display) -> SetupError {
    SetupError::Repository(problem.to_string())
}

// ===== running =====

struct Runner<'a> {
    opened: &'a OpenedVersion,
    /// Number of rows in one run.
    at_one_time: usize,
    session: Box<dyn Session>,
}

impl Runner<'_> {
    /// Runs the pipeline on the wanted rows, with up to `at_one_time` rows in one run.
    fn run(
        &mut self,
        source: &Source,
        is_wanted: &mut dyn FnMut(u64) -> bool,
        progress: &dyn Fn(u64),
        take: &mut dyn FnMut(&Features, &[Observation]),
    ) -> Result<(), SetupError> {
        let at_one_time = self.at_one_time;
        let mut waiting: Vec<(usize, Box<RawValue>)> = Vec::with_capacity(at_one_time);
        let mut done = 0;
        for row in source.rows()? {
            let row = row?;
            if is_wanted(done) {
                waiting.push(row);
            }
            done += 1;
            if waiting.len() == at_one_time {
                self.run_some(source, &waiting, take)?;
                waiting.clear();
                progress(done);
            }
        }
        if !waiting.is_empty() {
            self.run_some(source, &waiting, take)?;
        }
        progress(done);
        Ok(())
    }

    fn run_some(
        &mut self,
        source: &Source,
        rows: &[(usize, Box<RawValue>)],
        take: &mut dyn FnMut(&Features, &[Observation]),
    ) -> Result<(), SetupError> {
        match self.predict(rows) {
            Ok((features, made)) => {
                take(&features, &made);
                Ok(())
            }
            // Runs the rows one by one: rows of different lengths then succeed, and the error names a faulty row.
            Err(_) => rows.iter().try_for_each(|row| {
                let (features, made) =
                    self.predict(std::slice::from_ref(row)).map_err(|problem| source.wrong(row.0, &problem))?;
                take(&features, &made);
                Ok(())
            }),
        }
    }

    /// Runs the pipeline on these rows, as on a request.
    fn predict(
        &mut self,
        rows: &[(usize, Box<RawValue>)],
    ) -> std::result::Result<(Features, Vec<Observation>), String> {
        let mut instances: Vec<&RawValue> = rows.iter().map(|(_, row)| &**row).collect();
        // Fills up a fixed batch with copies of the last row, which are not counted.
        let least = self.opened.fewest_rows();
        if let (Some(last), true) = (instances.last().copied(), !instances.len().is_multiple_of(least)) {
            instances.resize(instances.len().next_multiple_of(least), last);
        }
        let request = serde_json::value::to_raw_value(&instances).map_err(|error| error.to_string())?;
        let (mut features, mut predictions) = self.opened.predict_request(&mut *self.session, &request)?;
        features.truncate(rows.len());
        predictions.truncate(rows.len());
        Ok((features, predictions.iter().map(Prediction::observation).collect()))
    }
}

// ===== reading =====

/// A file of training data, with the form of its rows.
struct Source<'a> {
    file: &'a Path,
    csv: Option<(Columns, RowForm)>,
}

impl<'a> Source<'a> {
    /// Opens the file, and finds the form of instance in which the pipeline accepts the first row.
    fn open(data: &'a TrainingData, runner: &mut Runner<'_>) -> Result<Source<'a>, SetupError> {
        let file = &*data.file;
        let is_csv = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        if !is_csv {
            if !data.ignored_columns.is_empty() {
                return Err(SetupError::Repository(format!(
                    "{}: only a .csv file has columns to ignore",
                    file.display()
                )));
            }
            return Ok(Source { file, csv: None });
        }
        let columns = Columns::read(data, runner.opened.signature(), runner.opened.table().as_ref())?;
        let one_column = columns.names.len() == 1;
        let forms: &[RowForm] = match columns.rows {
            Some(TableRows::Objects) => &[RowForm::Object],
            Some(TableRows::Arrays) => &[RowForm::Array],
            None => &[RowForm::Object, RowForm::ObjectOfArrays, RowForm::Array, RowForm::Text, RowForm::Value],
        };
        let mut source = Source { file, csv: Some((columns, RowForm::Object)) };
        let mut problems = Vec::new();
        for form in forms.iter().copied().filter(|form| one_column || !matches!(form, RowForm::Text | RowForm::Value)) {
            if let Some((_, chosen)) = &mut source.csv {
                *chosen = form;
            }
            let Some(first) = source.rows()?.next() else { return Ok(source) };
            match runner.predict(&[first?]) {
                Ok(_) => return Ok(source),
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

    fn rows(&self) -> Result<Rows<'_>, SetupError> {
        let file = File::open(self.file).map_err(|error| self.unreadable(&error))?;
        Ok(match &self.csv {
            None => Rows::Json { file: self.file, lines: BufReader::new(file).lines().enumerate() },
            Some((columns, form)) => {
                let records = csv::Reader::from_reader(file).into_records();
                Rows::Csv { file: self.file, records, columns, form: *form }
            }
        })
    }

    fn unreadable(&self, error: &dyn std::fmt::Display) -> SetupError {
        SetupError::Repository(format!("{}: {error}", self.file.display()))
    }

    fn wrong(&self, line: usize, problem: &str) -> SetupError {
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

impl Columns {
    fn read(data: &TrainingData, signature: &Signature, table: Option<&Table>) -> Result<Columns, SetupError> {
        let wrong = |problem: String| SetupError::Repository(format!("{}: {problem}", data.file.display()));
        let mut reader = csv::Reader::from_path(&data.file).map_err(|error| wrong(error.to_string()))?;
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
            Rows::Csv { file, records, columns, form } => {
                let record = match records.next()? {
                    Ok(record) => record,
                    Err(error) => return Some(Err(repository(format!("{}: {error}", file.display())))),
                };
                let line = record.position().map_or(0, |position| position.line() as usize);
                let instance = serde_json::value::to_raw_value(&columns.instance(&record, *form));
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
