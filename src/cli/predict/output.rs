//! The predictions as JSON lines, or as CSV with a column for each part of a prediction.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::value::RawValue;

use super::scoring::{Outcome, Refused};
use crate::pipeline::Members;

/// Format of the predictions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    /// The JSON of a prediction on each line
    Jsonl,
    /// A header, and a line for each prediction
    Csv,
}

/// Name of the column with the reason why there is no prediction.
const ERROR: &str = "error";

/// Writer of predictions.
pub(super) struct Output {
    format: Format,
}

enum Format {
    Lines(BufWriter<Box<dyn Write>>),
    Csv(Box<CsvOutput>),
}

struct CsvOutput {
    writer: csv::Writer<Box<dyn Write>>,
    /// Names of the columns: those that were wanted, or else those of the first prediction.
    columns: Vec<String>,
    has_header: bool,
    /// True if a column has the reason why there is no prediction.
    has_errors: bool,
    /// Refused rows before the first prediction, which has the names of the columns.
    waiting: Vec<String>,
}

/// The line of a row without a prediction.
#[derive(Serialize)]
struct ErrorLine<'a> {
    error: &'a str,
}

impl Output {
    /// Opens a file, or standard output. Without a format, the name of the file decides.
    pub(super) fn open(
        file: Option<&Path>,
        format: Option<OutputFormat>,
        columns: &[String],
        has_errors: bool,
    ) -> Result<Output> {
        let is_csv = |path: &Path| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
        let format = format.unwrap_or(match file {
            Some(path) if is_csv(path) => OutputFormat::Csv,
            None if !columns.is_empty() => OutputFormat::Csv,
            _ => OutputFormat::Jsonl,
        });
        let to: Box<dyn Write> = match file {
            Some(path) => {
                Box::new(File::create(path).with_context(|| format!("{} cannot be written", path.display()))?)
            }
            None => Box::new(io::stdout()),
        };
        Ok(Output::to(to, format, columns, has_errors))
    }

    fn to(to: Box<dyn Write>, format: OutputFormat, columns: &[String], has_errors: bool) -> Output {
        let format = match format {
            OutputFormat::Jsonl => Format::Lines(BufWriter::with_capacity(1 << 16, to)),
            OutputFormat::Csv => Format::Csv(Box::new(CsvOutput {
                writer: csv::Writer::from_writer(to),
                columns: columns.to_vec(),
                has_header: false,
                has_errors,
                waiting: Vec::new(),
            })),
        };
        Output { format }
    }

    /// Writes the prediction for a row.
    pub(super) fn write(&mut self, outcome: &Outcome) -> Result<()> {
        match (&mut self.format, outcome) {
            (Format::Lines(to), Outcome::Prediction(json)) => {
                to.write_all(json.get().as_bytes())?;
                to.write_all(b"\n")?;
            }
            (Format::Lines(to), Outcome::Refused(refused)) => {
                let error = described(refused);
                serde_json::to_writer(&mut *to, &ErrorLine { error: &error }).map_err(io::Error::from)?;
                to.write_all(b"\n")?;
            }
            (Format::Csv(csv), Outcome::Prediction(json)) => csv.prediction(json)?,
            (Format::Csv(csv), Outcome::Refused(refused)) => csv.refused(described(refused))?,
        }
        Ok(())
    }

    /// Writes what is still in memory.
    pub(super) fn finish(self) -> Result<()> {
        match self.format {
            Format::Lines(mut to) => Ok(to.flush()?),
            Format::Csv(mut csv) => {
                csv.header(Vec::new())?;
                Ok(csv.writer.flush()?)
            }
        }
    }
}

fn described(Refused { place, problem }: &Refused) -> String {
    format!("{place}: {problem}")
}

impl CsvOutput {
    fn prediction(&mut self, json: &RawValue) -> Result<()> {
        let mut cells = Vec::new();
        flatten("", json, &mut cells)?;
        if !self.has_header {
            self.header(columns_of(&cells))?;
        }
        let cell = |name: &String| cells.iter().find(|cell| cell.name == *name).map_or("", |cell| &*cell.text);
        let row = self.columns.iter().map(cell).chain(self.has_errors.then_some(""));
        Ok(self.writer.write_record(row).map_err(broken)?)
    }

    fn refused(&mut self, problem: String) -> Result<()> {
        if !self.has_header && self.columns.is_empty() {
            self.waiting.push(problem);
            return Ok(());
        }
        self.header(Vec::new())?;
        self.error(&problem)
    }

    fn error(&mut self, problem: &str) -> Result<()> {
        let empty = self.columns.iter().map(|_| "");
        Ok(self.writer.write_record(empty.chain(self.has_errors.then_some(problem))).map_err(broken)?)
    }

    /// Writes the header, and the refused rows that had to wait for it.
    fn header(&mut self, found: Vec<String>) -> Result<()> {
        if std::mem::replace(&mut self.has_header, true) {
            return Ok(());
        }
        if self.columns.is_empty() {
            self.columns = found;
        }
        let names = self.columns.iter().map(String::as_str).chain(self.has_errors.then_some(ERROR));
        let names: Vec<&str> = names.collect();
        if !names.is_empty() {
            self.writer.write_record(names).map_err(broken)?;
        }
        let waiting = std::mem::take(&mut self.waiting);
        waiting.iter().try_for_each(|problem| self.error(problem))
    }
}

/// Returns the error of the writer below, so that a reader that has closed the pipe is recognised.
fn broken(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

/// A part of a prediction.
struct Cell {
    name: String,
    text: String,
    is_list: bool,
}

/// Returns the columns of a prediction: all but its lists, or all if it has only lists.
fn columns_of(cells: &[Cell]) -> Vec<String> {
    let all_are_lists = cells.iter().all(|cell| cell.is_list);
    cells.iter().filter(|cell| all_are_lists || !cell.is_list).map(|cell| cell.name.clone()).collect()
}

/// Divides a prediction into its parts, as in `label` or `targets.colour.label`. Lists stay JSON.
fn flatten(name: &str, json: &RawValue, cells: &mut Vec<Cell>) -> Result<()> {
    let text = json.get();
    let named = || if name.is_empty() { "prediction".to_owned() } else { name.to_owned() };
    match text.as_bytes().first() {
        Some(b'{') => {
            let Members(members) = serde_json::from_str(text)?;
            for (member, value) in members {
                let name = if name.is_empty() { member.into_owned() } else { format!("{name}.{member}") };
                flatten(&name, value, cells)?;
            }
        }
        Some(b'"') => cells.push(Cell { name: named(), text: serde_json::from_str(text)?, is_list: false }),
        Some(b'n') => cells.push(Cell { name: named(), text: String::new(), is_list: false }),
        first => cells.push(Cell { name: named(), text: text.to_owned(), is_list: first == Some(&b'[') }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::authoring::Place;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: OutputFormat, columns: &[&str], has_errors: bool, rows: &[Result<&str, &str>]) -> String {
        let kept = Kept::default();
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        let mut output = Output::to(Box::new(kept.clone()), format, &columns, has_errors);
        for (row, line) in rows.iter().zip(2..) {
            let outcome = match row {
                Ok(json) => Outcome::Prediction(RawValue::from_string((*json).to_owned()).unwrap()),
                Err(problem) => Outcome::Refused(Refused { place: Place::Line(line), problem: (*problem).to_owned() }),
            };
            output.write(&outcome).unwrap();
        }
        output.finish().unwrap();
        let text = kept.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn predictions_become_lines_or_columns() {
        let class = r#"{"label":"a,b","confidence":0.75,"top":[{"label":"a","score":1.0}]}"#;
        let csv = |columns: &[&str], rows: &[Result<&str, &str>]| written(OutputFormat::Csv, columns, false, rows);
        assert_eq!(csv(&[], &[Ok(class), Ok(r#"{"label":"c"}"#)]), "label,confidence\n\"a,b\",0.75\nc,\n");
        assert_eq!(csv(&["confidence"], &[Ok(class)]), "confidence\n0.75\n");
        assert_eq!(csv(&[], &[Ok(r#"{"targets":{"x":{"label":1}}}"#)]), "targets.x.label\n1\n");
        assert_eq!(csv(&[], &[Ok(r#"{"embedding":[1,2]}"#)]), "embedding\n\"[1,2]\"\n");
        assert_eq!(csv(&[], &[Ok("[1,2]"), Ok("[3]")]), "prediction\n\"[1,2]\"\n[3]\n");
        assert_eq!(csv(&[], &[]), "");
        let lines = written(OutputFormat::Jsonl, &[], true, &[Ok("{\"value\":1.5}"), Err("wrong \"x\"")]);
        assert_eq!(lines, "{\"value\":1.5}\n{\"error\":\"line 3: wrong \\\"x\\\"\"}\n");
    }

    #[test]
    fn refused_rows_keep_their_place() {
        let rows = [Err("no"), Ok("{\"value\":1}"), Err("no")];
        assert_eq!(written(OutputFormat::Csv, &[], true, &rows), "value,error\n,line 2: no\n1,\n,line 4: no\n");
        assert_eq!(written(OutputFormat::Csv, &[], true, &[Err("no")]), "error\nline 2: no\n");
    }
}
