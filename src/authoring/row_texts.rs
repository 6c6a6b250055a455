//! Rows of data as JSON texts, for requests to a model. They are read once, from a file, a folder of images or a stream.
//!
//! Rows of a table become arrays of their cells, below the names of the columns. JSON lines, the instances of a JSON
//! request and images become instances. Whoever reads a table chooses its columns, because only the model knows them.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde_json::value::RawValue;

use super::columns::{ColumnToRead, HeaderColumn};
use super::data_file::{
    DataFormat, Delimiter, MAX_HEADER_BYTES, data_format, delimiter_of_header, text_and_kind, unpacked_text,
};
use super::image_folder::ImageFolder;
use super::row::{Place, RowText};
use super::{arrow_file, delimited_table, parquet_file};
use crate::error::{Result, SetupError};
use crate::pipeline::{NamedRows, RequestBody, request_body};
use crate::repository::FileKind;

/// Maximum length of a line of JSON in bytes, which is held in memory.
const MAX_LINE_BYTES: u64 = 256 << 20;
/// Maximum length of one JSON document with all rows in bytes, which is held in memory.
const MAX_DOCUMENT_BYTES: u64 = 1 << 30;

/// The place where data are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataPlace {
    /// Standard input.
    Stdin,
    /// A file, or a folder of images.
    Path(PathBuf),
}

/// Progress of reading data, and its size if it is known.
#[derive(Debug, Default)]
pub struct ReadProgress {
    /// Number of bytes that were read of a file with text.
    pub bytes: AtomicU64,
    /// Number of rows of a Parquet file; 0 for data whose number of rows is not known.
    pub rows_in_all: AtomicU64,
}

/// The rows of data, in order. An error ends them.
pub type RowTexts = Box<dyn Iterator<Item = Result<RowText, SetupError>>>;

/// Data whose rows have not been read yet.
pub enum RowData {
    /// Each row is an instance.
    Instances(RowTexts),
    /// Each row is an array with a value for each of these columns.
    Named(Vec<String>, RowTexts),
    /// A table whose columns have to be chosen.
    Table(DataTable),
}

/// A table of data.
pub struct DataTable {
    /// The columns.
    pub header: Vec<HeaderColumn>,
    rows: TableRows,
}

impl fmt::Debug for RowData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RowData::Instances(_) => "Instances",
            RowData::Named(..) => "Named",
            RowData::Table(_) => "Table",
        })
    }
}

impl fmt::Debug for DataTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataTable").field("header", &self.header).finish_non_exhaustive()
    }
}

/// The rows of a table.
enum TableRows {
    Delimited(csv::Reader<Box<dyn BufRead>>),
    /// A file in columns. Standard input is copied to a temporary one.
    InColumns(DataFormat, PathBuf, Option<tempfile::NamedTempFile>),
}

/// Opens data. Reading it is counted in `progress`.
pub fn open_rows(
    place: &DataPlace,
    delimiter: Option<Delimiter>,
    progress: &Arc<ReadProgress>,
) -> Result<RowData, SetupError> {
    match place {
        DataPlace::Stdin => open_stdin(delimiter, progress),
        DataPlace::Path(path) => open_path(path, delimiter, progress),
    }
}

fn open_path(path: &Path, delimiter: Option<Delimiter>, progress: &Arc<ReadProgress>) -> Result<RowData, SetupError> {
    let shown = path.display().to_string();
    if !path.exists() {
        return Err(wrong(&shown, "there is no such file"));
    }
    match data_format(path, delimiter)? {
        format @ (DataFormat::Parquet | DataFormat::Arrow) => in_columns(format, path.to_owned(), None, progress),
        DataFormat::ImageFolder => Ok(RowData::Instances(Box::new(ImageFolder::list(path)?.into_rows()))),
        DataFormat::NumPy | DataFormat::NumPyArchive => {
            Err(wrong(&shown, "NumPy arrays are not read here; save the rows as Parquet, CSV or JSON lines"))
        }
        format @ (DataFormat::JsonLines | DataFormat::Delimited(_)) => {
            let file = File::open(path).map_err(|error| wrong(&shown, &error.to_string()))?;
            let text = unpacked_text(BufReader::new(Counted { file, progress: Arc::clone(progress) }), &shown)?;
            match format {
                DataFormat::Delimited(delimiter) => delimited(text, delimiter, &shown),
                _ => json(text, shown.ends_with(".json") || shown.ends_with(".json.gz"), &shown),
            }
        }
    }
}

/// Opens standard input, whose format is that of its first bytes.
fn open_stdin(delimiter: Option<Delimiter>, progress: &ReadProgress) -> Result<RowData, SetupError> {
    let shown = "standard input";
    let unreadable = |error: io::Error| wrong(shown, &error.to_string());
    let (kind, mut bytes) = text_and_kind(io::stdin().lock()).map_err(unreadable)?;
    if let Some(kind @ (FileKind::Parquet | FileKind::Arrow)) = kind {
        // These formats are read from their end, or from several places.
        let mut copy = tempfile::NamedTempFile::new().map_err(unreadable)?;
        io::copy(&mut bytes, &mut copy).map_err(unreadable)?;
        let format = if kind == FileKind::Parquet { DataFormat::Parquet } else { DataFormat::Arrow };
        return in_columns(format, copy.path().to_owned(), Some(copy), progress);
    }
    let (kind, text) = match kind {
        Some(FileKind::Gzip) => {
            let unpacked = BufReader::new(flate2::bufread::MultiGzDecoder::new(bytes));
            text_and_kind(unpacked).map_err(unreadable)?
        }
        kind => (kind, bytes),
    };
    match (kind, delimiter) {
        (None | Some(FileKind::Empty), None) => {
            let (header, text) = with_header(text).map_err(unreadable)?;
            delimited(text, delimiter_of_header(&header, shown)?, shown)
        }
        (Some(FileKind::Json), None) => json(text, false, shown),
        (None | Some(FileKind::Empty | FileKind::Json), Some(delimiter)) => delimited(text, delimiter, shown),
        (Some(kind), _) => Err(wrong(shown, &format!("{}; send CSV, JSON lines, Parquet or Arrow", kind.name()))),
    }
}

// ===== tables =====

fn delimited(text: Box<dyn BufRead>, delimiter: Delimiter, shown: &str) -> Result<RowData, SetupError> {
    let mut reader = delimited_table::reader_of(text, delimiter);
    let header = delimited_table::header_of(&mut reader).map_err(|error| wrong(shown, &error.to_string()))?;
    Ok(RowData::Table(DataTable { header, rows: TableRows::Delimited(reader) }))
}

fn in_columns(
    format: DataFormat,
    path: PathBuf,
    copy: Option<tempfile::NamedTempFile>,
    progress: &ReadProgress,
) -> Result<RowData, SetupError> {
    let header = match format {
        DataFormat::Parquet => {
            progress.rows_in_all.store(parquet_file::row_count(&path)?, Relaxed);
            parquet_file::header(&path)?
        }
        _ => arrow_file::header(&path)?,
    };
    Ok(RowData::Table(DataTable { header, rows: TableRows::InColumns(format, path, copy) }))
}

impl DataTable {
    /// Reads the rows: arrays of the cells of these columns.
    pub fn rows(self, columns: Vec<ColumnToRead>) -> Result<RowTexts, SetupError> {
        match self.rows {
            TableRows::Delimited(reader) => Ok(Box::new(delimited_table::row_texts(reader, columns))),
            TableRows::InColumns(format, path, copy) => {
                let cells = match format {
                    DataFormat::Parquet => parquet_file::rows(&path, &columns)?,
                    _ => arrow_file::rows(&path, &columns)?,
                };
                Ok(Box::new(cells.map(move |row| {
                    // The temporary file is deleted when all rows have been read.
                    let _ = &copy;
                    let (place, cells) = row?;
                    Ok(RowText { place, json: serde_json::to_string(&cells).map_err(|error| error.to_string()) })
                })))
            }
        }
    }
}

// ===== JSON =====

/// Reads JSON: one document with all rows, or an instance on each line. An array is a document only if `is_document`, because
/// it may also be the instance on the only line.
fn json(mut text: Box<dyn BufRead>, is_document: bool, shown: &str) -> Result<RowData, SetupError> {
    let unreadable = |error: io::Error| wrong(shown, &error.to_string());
    let (mut first, mut number) = (String::new(), 0);
    while first.trim().is_empty() {
        first.clear();
        number += 1;
        if text.by_ref().take(MAX_LINE_BYTES).read_line(&mut first).map_err(unreadable)? == 0 {
            return Ok(RowData::Instances(Box::new(std::iter::empty())));
        }
    }
    let line: serde_json::Result<&RawValue> = serde_json::from_str(&first);
    let is_line = match line {
        Err(error) => !error.is_eof(),
        Ok(line) if line.get().starts_with('{') => request_body(line.get().as_bytes()).is_err(),
        Ok(_) => !is_document,
    };
    if is_line {
        let rest = Cursor::new(first.into_bytes()).chain(text);
        return Ok(RowData::Instances(Box::new(json_lines(Box::new(rest), number, shown.to_owned()))));
    }
    if text.take(MAX_DOCUMENT_BYTES).read_to_string(&mut first).map_err(unreadable)? as u64 == MAX_DOCUMENT_BYTES {
        return Err(wrong(shown, "a JSON document of more than 1 GiB; write JSON lines, which are read one by one"));
    }
    document(&first, shown)
}

/// Reads the rows of a request, or an array of instances.
fn document(text: &str, shown: &str) -> Result<RowData, SetupError> {
    let unreadable = |error: serde_json::Error| wrong(shown, &error.to_string());
    if text.trim_start().starts_with('[') {
        let rows: Vec<Box<RawValue>> = serde_json::from_str(text).map_err(unreadable)?;
        return Ok(RowData::Instances(numbered(rows)));
    }
    match request_body(text.as_bytes()).map_err(|error| wrong(shown, &error.to_string()))? {
        RequestBody::Instances(instances) => {
            Ok(RowData::Instances(numbered(serde_json::from_str(instances.get()).map_err(unreadable)?)))
        }
        RequestBody::Rows(NamedRows::Rows { columns, rows }) => {
            let columns = columns.into_iter().map(std::borrow::Cow::into_owned).collect();
            Ok(RowData::Named(columns, numbered(serde_json::from_str(rows.get()).map_err(unreadable)?)))
        }
        RequestBody::Inputs(_) | RequestBody::Rows(_) => {
            Err(wrong(shown, "a request with columns (inputs); write rows: {\"instances\": [...]}, or JSON lines"))
        }
    }
}

fn numbered(rows: Vec<Box<RawValue>>) -> RowTexts {
    let row =
        |(number, row): (u64, Box<RawValue>)| RowText { place: Place::Row(number), json: Ok(row.get().to_owned()) };
    Box::new((1..).zip(rows).map(row).map(Ok))
}

fn json_lines(
    mut text: Box<dyn BufRead>,
    first: u64,
    shown: String,
) -> impl Iterator<Item = Result<RowText, SetupError>> + 'static {
    let mut number = first - 1;
    std::iter::from_fn(move || {
        loop {
            let mut line = String::new();
            number += 1;
            match text.by_ref().take(MAX_LINE_BYTES).read_line(&mut line) {
                Ok(0) => return None,
                Ok(length) if length as u64 == MAX_LINE_BYTES => {
                    let most = MAX_LINE_BYTES >> 20;
                    return Some(Err(wrong(&shown, &format!("line {number} has more than {most} MiB"))));
                }
                Ok(_) if line.trim().is_empty() => {}
                Ok(_) => {
                    let json = match serde_json::from_str::<&RawValue>(&line) {
                        Ok(instance) => Ok(instance.get().to_owned()),
                        Err(error) => Err(format!("this is not an instance as JSON: {error}")),
                    };
                    return Some(Ok(RowText { place: Place::Line(number), json }));
                }
                Err(error) => return Some(Err(wrong(&shown, &format!("line {number}: {error}")))),
            }
        }
    })
}

// ===== text =====

/// Returns the header of delimited text, and the whole text.
fn with_header(mut text: Box<dyn BufRead>) -> io::Result<(Vec<u8>, Box<dyn BufRead>)> {
    let mut header = Vec::new();
    let is_whole = |header: &[u8]| {
        let quotes = header.iter().filter(|byte| **byte == b'"').count();
        quotes.is_multiple_of(2) && !header.trim_ascii().is_empty()
    };
    while !is_whole(&header) && (header.len() as u64) < MAX_HEADER_BYTES {
        if text.by_ref().take(MAX_HEADER_BYTES).read_until(b'\n', &mut header)? == 0 {
            break;
        }
    }
    let whole = Cursor::new(header.clone()).chain(text);
    Ok((header, Box::new(whole)))
}

/// A file that counts the bytes that are read.
struct Counted {
    file: File,
    progress: Arc<ReadProgress>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.progress.bytes.fetch_add(length as u64, Relaxed);
        Ok(length)
    }
}

fn wrong(shown: &str, problem: &str) -> SetupError {
    SetupError::Repository(format!("{shown}: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authoring::Cells;

    fn rows(rows: RowTexts) -> Vec<String> {
        rows.map(|row| row.unwrap())
            .map(|row| format!("{}: {}", row.place, row.json.unwrap_or_else(|problem| problem)))
            .collect()
    }

    fn instances(text: &str, is_document: bool) -> Result<Vec<String>, String> {
        let text = Box::new(Cursor::new(text.as_bytes().to_vec()));
        match json(text, is_document, "a.json").map_err(|error| error.to_string())? {
            RowData::Instances(found) => Ok(rows(found)),
            RowData::Named(columns, found) => Ok([vec![columns.join(",")], rows(found)].concat()),
            RowData::Table(_) => Err("a table".to_owned()),
        }
    }

    #[test]
    fn json_is_lines_or_a_document() {
        for (text, is_document, expected) in [
            ("", false, &[][..]),
            ("\n[1]\n\n[2]\n", false, &["line 2: [1]", "line 4: [2]"]),
            (
                "{\"a\": 1}\n{\"a\"\n",
                false,
                &[
                    "line 1: {\"a\": 1}",
                    "line 2: this is not an instance as JSON: EOF while parsing an object at line 2 column 0",
                ],
            ),
            ("{\"instances\": [[1], [2]]}", false, &["row 1: [1]", "row 2: [2]"]),
            ("{\n\"instances\": [\n[1]]}\n", false, &["row 1: [1]"]),
            ("[[1], [2]]", true, &["row 1: [1]", "row 2: [2]"]),
            ("[[1], [2]]", false, &["line 1: [[1], [2]]"]),
            ("{\"dataframe_split\": {\"columns\": [\"a\"], \"data\": [[1]]}}", false, &["a", "row 1: [1]"]),
        ] {
            let found = instances(text, is_document).unwrap();
            assert_eq!(found, expected, "{text}");
        }
        assert!(instances("{\n\"a\": 1}", false).unwrap_err().contains("unknown key"));
    }

    #[test]
    fn cells_of_delimited_text_become_json() {
        let text = Box::new(Cursor::new(b"a;b;c;d\n1;-.5;x \"y\";\n\n 7 ;True;;0012\n1;2\n".to_vec()));
        let RowData::Table(table) = delimited(text, ";".parse().unwrap(), "a.csv").unwrap() else { panic!() };
        let kinds = [Cells::Numbers, Cells::Numbers, Cells::Texts, Cells::TextsOrNothing];
        let columns = kinds.into_iter().enumerate().map(|(place, cells)| ColumnToRead { place, cells }).collect();
        let found = rows(table.rows(columns).unwrap());
        // Empty lines count as a part of the row after them.
        assert_eq!(found[..2], ["line 2: [1,-0.5,\"x \\\"y\\\"\",null]", "line 3: [7,1,\"\",\"0012\"]"]);
        assert!(found[2].starts_with("line 5: ") && found[2].contains("2 fields"), "{}", found[2]);
    }
}
