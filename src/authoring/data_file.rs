//! Files of training data: packed or not, and rows as delimited text or as JSON.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::str::FromStr;

use flate2::bufread::MultiGzDecoder;

use crate::error::{Result, SetupError};
use crate::repository::{FileKind, START_BYTES};

/// Marks UTF-8, at the beginning of files from spreadsheets. Not a part of the text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Maximum length of the header of delimited text, in bytes.
const MAX_HEADER_BYTES: u64 = 1 << 22;
/// The separators that are recognised in a header. Others have to be given.
const DELIMITERS: [Delimiter; 3] = [Delimiter(b','), Delimiter(b';'), Delimiter(b'\t')];

/// The character between the cells of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delimiter(u8);

/// Form of the rows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowFormat {
    /// One instance per line.
    JsonLines,
    /// A header and rows of cells, such as CSV.
    Delimited(Delimiter),
}

/// Opens a file for reading as text. Unpacks gzip, and skips a byte order mark.
pub(super) fn open_text(path: &Path) -> Result<Box<dyn BufRead>, SetupError> {
    let wrong = |problem: &str| SetupError::Repository(format!("{}: {problem}", path.display()));
    let unreadable = |error: io::Error| wrong(&error.to_string());
    if path.is_dir() {
        return Err(wrong("a folder; give one file, with the rows as CSV with a header or as JSON, one per line"));
    }
    let (mut kind, mut text) = peek(BufReader::new(File::open(path).map_err(unreadable)?)).map_err(unreadable)?;
    if kind == Some(FileKind::Gzip) {
        (kind, text) = peek(BufReader::new(MultiGzDecoder::new(text))).map_err(unreadable)?;
    }
    match kind {
        None | Some(FileKind::Empty | FileKind::Json) => Ok(text),
        Some(kind) => Err(wrong(&problem_as_rows(kind))),
    }
}

/// Finds the form of the rows, by the name of the file and its header, if the delimiter is not given.
pub(super) fn row_format(path: &Path, given: Option<Delimiter>) -> Result<RowFormat, SetupError> {
    if let Some(given) = given {
        return Ok(RowFormat::Delimited(given));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    if name.ends_with(".tsv") {
        return Ok(RowFormat::Delimited(Delimiter(b'\t')));
    }
    if !name.ends_with(".csv") {
        return Ok(RowFormat::JsonLines);
    }
    let wrong = |problem: String| SetupError::Repository(format!("{}: {problem}", path.display()));
    let header = open_text(path)?.take(MAX_HEADER_BYTES);
    let found = delimiters_in_header(header.bytes()).map_err(|error| wrong(error.to_string()))?;
    match *found {
        [] => Ok(RowFormat::Delimited(DELIMITERS[0])),
        [only] => Ok(RowFormat::Delimited(only)),
        ref several => {
            let several: Vec<String> = several.iter().copied().map(Delimiter::quoted).collect();
            Err(wrong(format!(
                "the header has {} between its columns; choose one with --delimiter",
                several.join(" and ")
            )))
        }
    }
}

/// Returns the text of a file from its first byte on, and its kind.
fn peek(mut file: impl BufRead + 'static) -> io::Result<(Option<FileKind>, Box<dyn BufRead>)> {
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
        _ => "write the rows as CSV with a header, or as JSON, one instance per line (.jsonl)",
    };
    format!("{}; {remedy}", kind.name())
}

/// Returns the recognised delimiters that occur in a header, outside of quoted names.
fn delimiters_in_header(text: impl Iterator<Item = io::Result<u8>>) -> io::Result<Vec<Delimiter>> {
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
        at = match (at, byte?) {
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
    Ok(found)
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
            let found = delimiters_in_header(header.bytes().map(Ok)).unwrap();
            assert_eq!(found.iter().map(|delimiter| delimiter.0).collect::<Vec<_>>(), expected, "{header:?}");
        }
    }

    #[test]
    fn the_end_of_a_name_decides_its_format() {
        let given = Some(Delimiter(b'|'));
        for (name, given, format) in [
            ("a.jsonl", None, RowFormat::JsonLines),
            ("a.jsonl.gz", None, RowFormat::JsonLines),
            ("csv", None, RowFormat::JsonLines),
            ("a.TSV", None, RowFormat::Delimited(Delimiter(b'\t'))),
            ("a.tsv.gz", None, RowFormat::Delimited(Delimiter(b'\t'))),
            ("a.csv", given, RowFormat::Delimited(Delimiter(b'|'))),
            ("a.txt", given, RowFormat::Delimited(Delimiter(b'|'))),
        ] {
            assert_eq!(row_format(Path::new(name), given).unwrap(), format, "{name}");
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
