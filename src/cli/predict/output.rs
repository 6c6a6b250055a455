//! The predictions as JSON lines, or as CSV with a column for each part of a prediction.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
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
    Lines(BufWriter<Target>),
    Csv(Box<CsvOutput>),
}

/// Standard output, or a file that is created when something is written, so that a command that fails before keeps an
/// earlier file as it is.
struct Target {
    path: Option<PathBuf>,
    to: Option<Box<dyn Write>>,
}

struct CsvOutput {
    writer: csv::Writer<Target>,
    /// Names of the columns: those that were wanted, or else those of the first prediction.
    columns: Vec<String>,
    has_header: bool,
    /// True after the first prediction, which must have the wanted columns.
    is_checked: bool,
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
    /// Chooses a file, or standard output. Without a format, the name of the file decides.
    pub(super) fn new(
        file: Option<&Path>,
        format: Option<OutputFormat>,
        columns: &[String],
        has_errors: bool,
    ) -> Output {
        let is_csv = |path: &Path| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
        let format = format.unwrap_or(match file {
            Some(path) if is_csv(path) => OutputFormat::Csv,
            None if !columns.is_empty() => OutputFormat::Csv,
            _ => OutputFormat::Jsonl,
        });
        let target = match file {
            Some(path) => Target { path: Some(path.to_owned()), to: None },
            None => Target { path: None, to: Some(Box::new(io::stdout())) },
        };
        Output::to(target, format, columns, has_errors)
    }

    fn to(to: Target, format: OutputFormat, columns: &[String], has_errors: bool) -> Output {
        let format = match format {
            OutputFormat::Jsonl => Format::Lines(BufWriter::with_capacity(1 << 16, to)),
            OutputFormat::Csv => Format::Csv(Box::new(CsvOutput {
                writer: csv::WriterBuilder::new().buffer_capacity(1 << 16).from_writer(to),
                columns: columns.to_vec(),
                has_header: false,
                is_checked: false,
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
            Format::Lines(mut to) => {
                to.flush()?;
                Ok(to.get_ref().finish()?)
            }
            Format::Csv(mut csv) => {
                csv.header(Vec::new())?;
                csv.writer.flush()?;
                Ok(csv.writer.get_ref().finish()?)
            }
        }
    }
}

impl Target {
    /// Creates the file if nothing was written.
    fn finish(&self) -> io::Result<()> {
        match (&self.path, &self.to) {
            (Some(path), None) => create(path).map(drop),
            _ => Ok(()),
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match (&mut self.to, &self.path) {
            (Some(to), _) => to.write(bytes),
            (to, Some(path)) => to.insert(Box::new(create(path)?)).write(bytes),
            (None, None) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.as_mut().map_or(Ok(()), |to| to.flush())
    }
}

fn create(path: &Path) -> io::Result<File> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{} cannot be written: {error}", path.display()));
    File::create(path).map_err(named)
}

fn described(Refused { place, problem }: &Refused) -> String {
    format!("{place}: {problem}")
}

impl CsvOutput {
    fn prediction(&mut self, json: &RawValue) -> Result<()> {
        let mut cells = Vec::new();
        flatten(Cow::Borrowed(""), json, &mut cells)?;
        if !std::mem::replace(&mut self.is_checked, true)
            && let Some(unknown) = self.columns.iter().find(|name| !cells.iter().any(|cell| cell.name == **name))
        {
            let there: Vec<&str> = cells.iter().map(|cell| &*cell.name).collect();
            bail!("the predictions have no part {unknown:?} for --columns; they have: {}", there.join(", "));
        }
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
struct Cell<'a> {
    name: Cow<'a, str>,
    text: Cow<'a, str>,
    is_list: bool,
}

/// Returns the columns of a prediction: all but its lists, or all if it has only lists.
fn columns_of(cells: &[Cell<'_>]) -> Vec<String> {
    let all_are_lists = cells.iter().all(|cell| cell.is_list);
    cells.iter().filter(|cell| all_are_lists || !cell.is_list).map(|cell| cell.name.clone().into_owned()).collect()
}

/// Divides a prediction into its parts, as in `label` or `targets.colour.label`. Lists stay JSON.
fn flatten<'a>(name: Cow<'a, str>, json: &'a RawValue, cells: &mut Vec<Cell<'a>>) -> Result<()> {
    let text = json.get();
    let first = text.as_bytes().first();
    if first == Some(&b'{') {
        let Members(members) = serde_json::from_str(text)?;
        for (member, value) in members {
            let name = if name.is_empty() { member } else { Cow::Owned(format!("{name}.{member}")) };
            flatten(name, value, cells)?;
        }
        return Ok(());
    }
    let text = match first {
        // Borrowed, if it has no escapes.
        Some(b'"') => match serde_json::from_str::<&str>(text) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(serde_json::from_str(text)?),
        },
        Some(b'n') => Cow::Borrowed(""),
        _ => Cow::Borrowed(text),
    };
    let name = if name.is_empty() { Cow::Borrowed("prediction") } else { name };
    cells.push(Cell { name, text, is_list: first == Some(&b'[') });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::authoring::Place;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: OutputFormat, columns: &[&str], has_errors: bool, rows: &[Result<&str, &str>]) -> String {
        let kept = Kept::default();
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        let target = Target { path: None, to: Some(Box::new(kept.clone())) };
        let mut output = Output::to(target, format, &columns, has_errors);
        for (row, line) in rows.iter().zip(2..) {
            let outcome = match row {
                Ok(json) => Outcome::Prediction(RawValue::from_string((*json).to_owned()).unwrap()),
                Err(problem) => Outcome::Refused(Refused { place: Place::Line(line), problem: (*problem).to_owned() }),
            };
            output.write(&outcome).unwrap();
        }
        output.finish().unwrap();
        let text = kept.0.lock().clone();
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
    fn wanted_columns_are_parts_of_the_predictions() {
        let columns = ["lable".to_owned()];
        let mut output = Output::new(None, None, &columns, false);
        let json = RawValue::from_string("{\"label\":1,\"top\":[]}".to_owned()).unwrap();
        let problem = output.write(&Outcome::Prediction(json)).unwrap_err().to_string();
        assert_eq!(problem, "the predictions have no part \"lable\" for --columns; they have: label, top");
    }

    #[test]
    fn a_file_is_created_by_its_first_prediction() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.csv");
        std::fs::write(&path, "earlier").unwrap();
        drop(Output::new(Some(&path), None, &[], false));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "earlier");
        Output::new(Some(&path), None, &[], false).finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        let nowhere = Output::new(Some(&folder.path().join("a/b.jsonl")), None, &[], false).finish();
        assert!(nowhere.unwrap_err().to_string().contains("a/b.jsonl cannot be written: No such file"));
    }

    #[test]
    fn refused_rows_keep_their_place() {
        let rows = [Err("no"), Ok("{\"value\":1}"), Err("no")];
        assert_eq!(written(OutputFormat::Csv, &[], true, &rows), "value,error\n,line 2: no\n1,\n,line 4: no\n");
        assert_eq!(written(OutputFormat::Csv, &[], true, &[Err("no")]), "error\nline 2: no\n");
    }
}
