//! CSV (RFC 4180) as instances.
//!
//! SageMaker sends rows without a header, in the order of the columns; MLflow sends a header. The first line is taken
//! as a header if it names all columns, in any order, and the request does not say otherwise.

use csv_core::{ReadRecordResult, Reader};

use super::instance_form::{Elements, FormColumn, InstanceForm};
use super::instances_text::{Bounds, Instances, InstancesText, check_rows};
use super::row_layout::{RowLayout, known};
use crate::error::{Error, Result};

/// Meaning of the first line of CSV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CsvHeader {
    /// The names of the columns.
    Present,
    /// The first row.
    Absent,
    /// The names of the columns if it is all of their names, and otherwise the first row.
    Recognised,
}

/// Maximum number of fields of a line if the model does not fix it.
const MAX_FIELDS: usize = 1 << 16;

/// Bytes of an ended field in the memory of the reader.
const BYTES_PER_FIELD: usize = size_of::<usize>();

/// Returns true if a line may be a row as well as the names that pandas gives to columns without names.
fn is_row_of_places(line: &Line<'_>, form: &InstanceForm) -> bool {
    let is_list = matches!(form, InstanceForm::Value { elements: Elements::Unnamed(_), .. });
    is_list && line.count > 1 && line.fields().enumerate().all(|(place, field)| field == place.to_string())
}

/// Returns CSV as instances.
pub(super) fn instances<'a>(
    text: &str,
    header: CsvHeader,
    form: &InstanceForm,
    bounds: &Bounds<'_>,
) -> Result<Instances<'a>> {
    if memchr::memchr_iter(b'"', text.as_bytes()).count() % 2 == 1 {
        return Err(wrong("a quote is not closed"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let commas = memchr::memchr_iter(b',', text.as_bytes()).count();
    let max_fields = max_fields(form).min(commas + 1);
    // The reader copies a line at a time, which is the whole text at most.
    let _held = bounds.memory.hold(text.len() + max_fields * BYTES_PER_FIELD)?;
    let rows = Lines::new(text, max_fields).count(bounds.max_rows.get() + 2, form)?;

    let mut lines = Lines::new(text, max_fields);
    let first = lines.next(form)?.ok_or_else(|| wrong("it has no lines; send at least one row"))?;
    let layout = match header {
        CsvHeader::Present => Some(RowLayout::named(&first.fields().collect::<Vec<_>>(), form)?),
        CsvHeader::Recognised if first.names_all(form) => {
            Some(RowLayout::named(&first.fields().collect::<Vec<_>>(), form)?)
        }
        CsvHeader::Recognised if is_row_of_places(&first, form) => {
            return Err(wrong(
                "its first line is 0,1,2,…, which is a row, or the header that pandas writes; send the Content-Type text/csv; \
                 header=present, or header=absent",
            ));
        }
        CsvHeader::Recognised | CsvHeader::Absent => None,
    };
    let (has_header, fields) = (layout.is_some(), first.count);
    let layout = match layout {
        Some(layout) => layout,
        None => RowLayout::positional(fields, form).ok_or_else(|| {
            let problem = format!("line {} has {fields} fields, which are not those of a row", first.number);
            wrong(&format!("{problem}; {}", known(form)))
        })?,
    };
    let rows = rows - usize::from(has_header);
    check_rows(rows, bounds.max_rows)?;
    let mut made = InstancesText::new(rows, escaped_length(text), layout.overhead(), bounds)?;
    if !has_header {
        made.add(|to| layout.write_fields(|index| first.field(index), to))?;
    }
    let first = first.number;
    while let Some(line) = lines.next(form)? {
        if line.count != fields {
            let problem = format!("line {} has {} fields, but line {first} has {fields}", line.number, line.count);
            return Err(wrong(&problem));
        }
        made.add(|to| layout.write_fields(|index| line.field(index), to))?;
    }
    made.finish()
}

fn wrong(problem: &str) -> Error {
    Error::InvalidInput(format!("the CSV: {problem}"))
}

/// Returns the maximum number of fields of a line. A line with more is refused before it is read to its end.
fn max_fields(form: &InstanceForm) -> usize {
    match form {
        // Columns that are skipped may be in a header.
        InstanceForm::Object { ignores_others: true, .. } => MAX_FIELDS,
        InstanceForm::Object { columns, .. } => columns.len(),
        InstanceForm::Value { elements, .. } => match elements {
            Elements::None => 1,
            Elements::Second(_) => 2,
            Elements::Named(names) => names.len(),
            Elements::Unnamed(length) => length.unwrap_or(MAX_FIELDS),
        },
    }
}

/// Returns the length of a text as JSON strings, at most, with three bytes for the quotes and the comma of each field.
fn escaped_length(text: &str) -> usize {
    let length = |byte: u8| match byte {
        b',' | b'\n' => 5,
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(length).sum::<usize>() + 5
}

/// The lines of CSV, one after the other. Empty lines are skipped.
struct Lines<'a> {
    reader: Reader,
    rest: &'a [u8],
    fields: Vec<u8>,
    ends: Vec<usize>,
    /// Maximum length of `fields`: somewhat more than the text, whose bytes are copied at most once.
    longest: usize,
}

/// A line of CSV.
#[derive(Clone, Copy)]
struct Line<'a> {
    /// Number of its last line in the text, from 1 on: a text in quotes may have several.
    number: u64,
    text: &'a str,
    ends: &'a [usize],
    count: usize,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str, max_fields: usize) -> Lines<'a> {
        let (ends, longest) = (vec![0; max_fields.max(1)], text.len() + 1);
        Lines { reader: Reader::new(), rest: text.as_bytes(), fields: Vec::new(), ends, longest }
    }

    /// Returns the number of lines, but not more than `most`.
    fn count(mut self, most: usize, form: &InstanceForm) -> Result<usize> {
        let mut count = 0;
        while count < most && self.next(form)?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Reads the next line that is not empty.
    fn next(&mut self, form: &InstanceForm) -> Result<Option<Line<'_>>> {
        let (mut length, mut count) = (0, 0);
        let number = loop {
            let (to, ends) = (&mut self.fields[length..], &mut self.ends[count..]);
            let (result, read, written, ended) = self.reader.read_record(self.rest, to, ends);
            let (consumed, rest) = self.rest.split_at(read);
            self.rest = rest;
            length += written;
            count += ended;
            match result {
                // The rest is empty now, which tells the reader that the text ends here.
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => {
                    let longer = (self.fields.len() * 2).max(1 << 10).min(self.longest);
                    self.fields.resize(longer, 0);
                }
                ReadRecordResult::OutputEndsFull => {
                    let most = self.ends.len();
                    return Err(wrong(&format!("a line has more than {most} fields; {}", known(form))));
                }
                // The reader counts the line feeds that it has consumed.
                ReadRecordResult::Record => break self.reader.line() - u64::from(consumed.ends_with(b"\n")),
                ReadRecordResult::End => return Ok(None),
            }
        };
        // Fields end at ASCII characters, so all of them are valid.
        let text = std::str::from_utf8(&self.fields[..length]).map_err(Error::internal)?;
        Ok(Some(Line { number, text, ends: &self.ends[..count], count }))
    }
}

impl<'a> Line<'a> {
    fn field(&self, index: usize) -> Option<&'a str> {
        let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        self.text.get(start..*self.ends.get(index)?)
    }

    fn fields(self) -> impl Iterator<Item = &'a str> {
        (0..self.count).filter_map(move |index| self.field(index))
    }

    /// Returns true if the fields are the names of all columns, each once.
    fn names_all(&self, form: &InstanceForm) -> bool {
        let mut expected: Vec<&str> = match form {
            InstanceForm::Value { elements: Elements::Named(names), .. } => names.iter().map(|name| &**name).collect(),
            InstanceForm::Value { column, elements: Elements::Second(second) } if self.count == 2 => {
                vec![column.name(), second]
            }
            _ => form.columns().iter().map(FormColumn::name).collect(),
        };
        let mut found: Vec<&str> = self.fields().collect();
        found.sort_unstable();
        expected.sort_unstable();
        found == expected
    }
}
