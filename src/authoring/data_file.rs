//! Files with rows of data: their format, recognised by the content and the name, and the text of those that are text.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use flate2::bufread::MultiGzDecoder;

use super::logged_instances::LogWindow;
use super::row_times::RowTimes;
use crate::error::{Result, SetupError};
use crate::repository::{FileKind, START_BYTES};

/// Marks UTF-8, at the beginning of files from spreadsheets. Not a part of the text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Maximum length of the header of delimited text, in bytes.
pub(super) const MAX_HEADER_BYTES: u64 = 1 << 22;
/// The separators that are recognised in a header. Others have to be given.
const DELIMITERS: [Delimiter; 3] = [Delimiter(b','), Delimiter(b';'), Delimiter(b'\t')];
/// Endings of the names of files that are not text.
const ENDINGS: [(&str, FileKind); 9] = [
    (".parquet", FileKind::Parquet),
    (".pq", FileKind::Parquet),
    (".arrow", FileKind::Arrow),
    (".arrows", FileKind::Arrow),
    (".feather", FileKind::Arrow),
    (".ipc", FileKind::Arrow),
    (".npy", FileKind::NumPy),
    (".npz", FileKind::NumPy),
    (".parq", FileKind::Parquet),
];

/// A file or folder with rows of data: training data, or examples.
#[derive(Debug, Clone)]
pub struct DataFile {
    pub path: PathBuf,
    /// Separator of the columns of delimited text. By default that of the header.
    pub delimiter: Option<Delimiter>,
    /// Columns of a table that are not features, such as the label or an id.
    pub ignored_columns: Vec<String>,
    /// Times of the rows that are used of a prediction log.
    pub window: LogWindow,
    /// Times of the rows, if they are used.
    pub times: Option<RowTimes>,
}

/// The character between the cells of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delimiter(u8);

/// Format of a file or folder with rows of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataFormat {
    /// One instance per line.
    JsonLines,
    /// A header and rows of cells, such as CSV.
    Delimited(Delimiter),
    Parquet,
    /// A file (Feather) or a stream.
    Arrow,
    /// One array.
    NumPy,
    /// Named arrays.
    NumPyArchive,
    ImageFolder,
}

/// Finds the format of a file or folder. `given` is the delimiter, if it was given.
pub(super) fn data_format(path: &Path, given: Option<Delimiter>) -> Result<DataFormat, SetupError> {
    let wrong = |problem: String| SetupError::Repository(format!("{}: {problem}", path.display()));
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let kind = if path.is_dir() {
        None
    } else {
        FileKind::of_file(path).map_err(|error: io::Error| wrong(error.to_string()))?
    };
    let format = match kind {
        Some(FileKind::Parquet) => DataFormat::Parquet,
        Some(FileKind::Arrow) => DataFormat::Arrow,
        Some(FileKind::NumPy) => DataFormat::NumPy,
        Some(FileKind::Zip) if name.ends_with(".npz") => DataFormat::NumPyArchive,
        None if path.is_dir() => DataFormat::ImageFolder,
        _ => {
            let named = ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, named)| named);
            return match (named, kind) {
                (Some(named), None | Some(FileKind::Json)) if given.is_none() => {
                    Err(wrong(format!("it is named like {}, but its content is another", named.name())))
                }
                _ => text_format(path, given),
            };
        }
    };
    match given {
        Some(_) => Err(wrong("only text has a delimiter; leave --delimiter out".to_owned())),
        None => Ok(format),
    }
}

/// Opens a file for reading as text. Unpacks gzip, and skips a byte order mark.
pub(super) fn open_text(path: &Path) -> Result<Box<dyn BufRead>, SetupError> {
    let shown = path.display().to_string();
    let file = File::open(path).map_err(|error| SetupError::Repository(format!("{shown}: {error}")))?;
    unpacked_text(BufReader::new(file), &shown)
}

/// Reads bytes as text. Unpacks gzip, and skips a byte order mark. `shown` names the file in messages.
pub(super) fn unpacked_text(bytes: impl BufRead + 'static, shown: &str) -> Result<Box<dyn BufRead>, SetupError> {
    let wrong = |problem: &str| SetupError::Repository(format!("{shown}: {problem}"));
    let unreadable = |error: io::Error| wrong(&error.to_string());
    let (mut kind, mut text) = text_and_kind(bytes).map_err(unreadable)?;
    if kind == Some(FileKind::Gzip) {
        (kind, text) = text_and_kind(BufReader::new(MultiGzDecoder::new(text))).map_err(unreadable)?;
    }
    match kind {
        None | Some(FileKind::Empty | FileKind::Json) => Ok(text),
        Some(kind) => Err(wrong(&problem_as_rows(kind))),
    }
}

/// Finds the format of a text, by the name of the file and its header, if the delimiter is not given.
fn text_format(path: &Path, given: Option<Delimiter>) -> Result<DataFormat, SetupError> {
    if let Some(given) = given {
        return Ok(DataFormat::Delimited(given));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    if name.ends_with(".tsv") {
        return Ok(DataFormat::Delimited(Delimiter(b'\t')));
    }
    if !name.ends_with(".csv") {
        return Ok(DataFormat::JsonLines);
    }
    let shown = path.display().to_string();
    let mut header = Vec::new();
    let read = open_text(path)?.take(MAX_HEADER_BYTES).read_to_end(&mut header);
    read.map_err(|error| SetupError::Repository(format!("{shown}: {error}")))?;
    delimiter_of_header(&header, &shown).map(DataFormat::Delimited)
}

/// Finds the delimiter in the text of a header.
pub(super) fn delimiter_of_header(text: &[u8], shown: &str) -> Result<Delimiter, SetupError> {
    match *delimiters_in_header(text.iter().copied()) {
        [] => Ok(DELIMITERS[0]),
        [only] => Ok(only),
        ref several => {
            let several: Vec<String> = several.iter().copied().map(Delimiter::quoted).collect();
            Err(SetupError::Repository(format!(
                "{shown}: the header has {} between its columns; choose one with --delimiter",
                several.join(" and ")
            )))
        }
    }
}

/// Returns the text of a file from its first byte on, and its kind.
pub(super) fn text_and_kind(mut file: impl BufRead + 'static) -> io::Result<(Option<FileKind>, Box<dyn BufRead>)> {
    let mut start = Vec::with_capacity(START_BYTES);
    (&mut file).take(START_BYTES as u64).read_to_end(&mut start)?;
    let kind = FileKind::of(&start);
    if start.starts_with(BYTE_ORDER_MARK) {
        start.drain(..BYTE_ORDER_MARK.len());
    }
    Ok((kind, Box::new(Cursor::new(start).chain(file))))
}

/// Returns the problem with a file of this kind as training data.
fn problem_as_rows(kind: FileKind) -> String {
    if let Some(problem) = kind.problem_as_any_file() {
        return problem;
    }
    let remedy = match kind {
        FileKind::Utf16 => "save it as UTF-8",
        // Others of these kinds are not opened as text.
        FileKind::Parquet | FileKind::Arrow | FileKind::NumPy => "unpack it first",
        _ => "write the rows as CSV with a header, or as JSON, one instance per line (.jsonl)",
    };
    format!("{}; {remedy}", kind.name())
}

/// Returns the recognised delimiters that occur in a header, outside of quoted names.
fn delimiters_in_header(text: impl Iterator<Item = u8>) -> Vec<Delimiter> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum At {
        /// Before the first column. Empty lines before the header are skipped.
        Header,
        Column,
        /// In a name without quotes, or after one in quotes. Quotes here are a part of the name.
        Name,
        QuotedName,
        /// After a quote in a quoted name: its end, unless another quote follows.
        Quote,
    }
    let (mut at, mut found) = (At::Header, Vec::new());
    for byte in text {
        at = match (at, byte) {
            (At::QuotedName, b'"') => At::Quote,
            (At::QuotedName, _) | (At::Header | At::Column | At::Quote, b'"') => At::QuotedName,
            (At::Header, b'\r' | b'\n') => At::Header,
            (_, b'\r' | b'\n') => break,
            (_, byte) if DELIMITERS.contains(&Delimiter(byte)) => {
                if !found.contains(&Delimiter(byte)) {
                    found.push(Delimiter(byte));
                }
                At::Column
            }
            _ => At::Name,
        };
    }
    found
}

// ===== impl Delimiter =====

impl Delimiter {
    pub(super) fn byte(self) -> u8 {
        self.0
    }

    fn quoted(self) -> String {
        match self.0 {
            b'\t' => "tabs".to_owned(),
            byte => format!("\"{}\"", char::from(byte)),
        }
    }
}

impl FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match *text.as_bytes() {
            [byte] if byte == b'\t' || byte.is_ascii_punctuation() && byte != b'"' => Ok(Delimiter(byte)),
            _ if text.eq_ignore_ascii_case("tab") || text == "\\t" => Ok(Delimiter(b'\t')),
            _ => Err(format!("{text:?} is not a delimiter; write one character, as in \";\", or tab")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delimiter_is_found_in_the_header() {
        let table: [(&str, &[u8]); 14] = [
            ("", b""),
            ("age\n1;2", b""),
            ("age,country\n1;2\t3", b","),
            ("age;country\r\n1,5;2", b";"),
            ("age\tcountry", b"\t"),
            ("a,b;c\td", b",;\t"),
            ("\n\r\na;b\n", b";"),
            ("\"a,b\";c", b";"),
            ("\"a\nb,c\";d", b";"),
            ("\"a \"\"b, c\"\" d,\";e", b";"),
            ("5\" disk;3,5\" disk", b";,"),
            ("\"\";\",\"", b";"),
            ("\"a\" ,b", b","),
            ("\"never closed, ", b""),
        ];
        for (header, expected) in table {
            let found = delimiters_in_header(header.bytes());
            assert_eq!(found.iter().map(|delimiter| delimiter.0).collect::<Vec<_>>(), expected, "{header:?}");
        }
    }

    #[test]
    fn the_end_of_a_name_decides_its_format() {
        let given = Some(Delimiter(b'|'));
        for (name, given, format) in [
            ("a.jsonl", None, DataFormat::JsonLines),
            ("a.jsonl.gz", None, DataFormat::JsonLines),
            ("csv", None, DataFormat::JsonLines),
            ("a.TSV", None, DataFormat::Delimited(Delimiter(b'\t'))),
            ("a.tsv.gz", None, DataFormat::Delimited(Delimiter(b'\t'))),
            ("a.csv", given, DataFormat::Delimited(Delimiter(b'|'))),
            ("a.txt", given, DataFormat::Delimited(Delimiter(b'|'))),
        ] {
            assert_eq!(text_format(Path::new(name), given).unwrap(), format, "{name}");
        }
    }

    #[test]
    fn a_delimiter_is_one_character_or_tab() {
        for (text, byte) in [(";", b';'), ("|", b'|'), ("tab", b'\t'), ("\\t", b'\t'), ("\t", b'\t'), (",", b',')] {
            assert_eq!(text.parse(), Ok(Delimiter(byte)), "{text:?}");
        }
        for text in ["", "; ", "\"", "a", "0", "\n", "§", "tabs"] {
            assert!(text.parse::<Delimiter>().is_err(), "{text:?}");
        }
    }
}
