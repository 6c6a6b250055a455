//! Arrays in NumPy's format (`.npy`): the header, and the rows as JSON. An array is read block by block.
//!
//! The format is described in NumPy's documentation, *numpy.lib.format*.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use half::f16;

/// Beginning of the format.
const MAGIC: &[u8] = b"\x93NUMPY";
/// Maximum length of a header. NumPy itself reads up to 10,000 bytes.
const MAX_HEADER_BYTES: u32 = 1 << 16;
/// Maximum number of dimensions. NumPy has at most 64.
const MAX_DIMENSIONS: usize = 64;
/// Number of bytes that are read at one time, if a row does not have more.
const BLOCK_BYTES: usize = 16 << 20;

/// Type of the elements of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Element {
    kind: Kind,
    /// Number of bytes of an element.
    size: usize,
    is_big_endian: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Boolean,
    Integer,
    Unsigned,
    Float,
    /// Characters of four bytes each, filled up with zeros.
    Text,
}

/// Header of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    element: Element,
    /// Number of rows: the first dimension.
    pub(super) rows: usize,
    /// Shape of a row: the other dimensions.
    row: Vec<usize>,
    /// True if the first index of an element changes fastest in the file.
    is_fortran: bool,
    /// Number of bytes of the header itself.
    length: u64,
}

/// An array in a file.
#[derive(Debug, Clone)]
pub(super) struct NumpyArray {
    pub(super) header: Header,
    file: Arc<File>,
    /// Position of the first element in the file.
    start: u64,
}

/// Reads the rows of an array in order.
#[derive(Debug)]
pub(super) struct RowReader<'a> {
    array: &'a NumpyArray,
    block: Vec<u8>,
    /// The rows of the block.
    rows: std::ops::Range<usize>,
}

impl Header {
    /// Reads a header.
    pub(super) fn read(mut from: impl Read) -> Result<Header, String> {
        let mut bytes = |count: u32| {
            let mut bytes = Vec::new();
            let read = (&mut from).take(count.into()).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
            if read == count as usize { Ok(bytes) } else { Err("the header is cut off".to_owned()) }
        };
        if bytes(MAGIC.len() as u32)? != MAGIC {
            return Err("it is not an array in NumPy's format".to_owned());
        }
        let version = bytes(2)?;
        let bytes_of_length = match &*version {
            [1, _] => 2,
            [2 | 3, _] => 4,
            _ => return Err(format!("the version {version:?} of the format is not known")),
        };
        let length = bytes(bytes_of_length)?.iter().rev().fold(0, |length, byte| (length << 8) | u32::from(*byte));
        let before = 8 + u64::from(bytes_of_length);
        if length > MAX_HEADER_BYTES {
            return Err(format!("the header has {length} bytes, but at most {MAX_HEADER_BYTES} are read"));
        }
        let text = String::from_utf8(bytes(length)?).map_err(|_| "the header is not a text")?;
        Header::parse(&text, before + u64::from(length))
    }

    /// Parses the text of a header, a Python dictionary: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(text: &str, length: u64) -> Result<Header, String> {
        let value_of = |key: &str| {
            let quoted = [format!("'{key}'"), format!("\"{key}\"")];
            let after = quoted.iter().find_map(|quoted| text.split_once(quoted.as_str())).map(|(_, after)| after);
            let value = after.and_then(|after| after.trim_start().strip_prefix(':'));
            value.map(str::trim_start).ok_or_else(|| format!("the header has no {key:?}"))
        };
        let is_fortran = value_of("fortran_order")?.starts_with("True");
        let shape = value_of("shape")?.strip_prefix('(').and_then(|shape| shape.split_once(')'));
        let (shape, _) = shape.ok_or("the header has no shape")?;
        let lengths = shape.split(',').map(str::trim).filter(|length| !length.is_empty());
        let lengths: Result<Vec<usize>, _> = lengths.map(|length| length.trim_end_matches('L').parse()).collect();
        let lengths = lengths.map_err(|_| format!("the shape ({shape}) is not one"))?;
        let Some((&rows, row)) = lengths.split_first().filter(|_| lengths.len() <= MAX_DIMENSIONS) else {
            return Err(format!("the array has the shape ({shape}), so it has no rows"));
        };
        if row.contains(&0) {
            return Err(format!("the array has the shape ({shape}), so its rows are empty"));
        }
        let element = Element::parse(value_of("descr")?)?;
        let header = Header { element, rows, row: row.to_vec(), is_fortran, length };
        header.bytes().map(|_| header).ok_or_else(|| format!("the shape ({shape}) is too large"))
    }

    /// Number of bytes of the header and all elements. `None` if it is too large.
    pub(super) fn bytes(&self) -> Option<u64> {
        let elements = self.row.iter().try_fold(self.rows, |product, length| product.checked_mul(*length))?;
        self.length.checked_add(u64::try_from(elements.checked_mul(self.element.size)?).ok()?)
    }

    fn elements_of_row(&self) -> usize {
        self.row.iter().product()
    }
}

impl NumpyArray {
    /// Opens an array that begins at a position of a file and has at most `length` bytes.
    pub(super) fn open(file: Arc<File>, at: u64, length: u64) -> Result<NumpyArray, String> {
        let mut start = vec![0; length.min(u64::from(MAX_HEADER_BYTES) + 12) as usize];
        file.read_exact_at(&mut start, at).map_err(|error| error.to_string())?;
        let header = Header::read(&*start)?;
        match header.bytes() {
            Some(bytes) if bytes <= length => Ok(NumpyArray { start: at + header.length, header, file }),
            bytes => {
                let bytes = bytes.unwrap_or(u64::MAX);
                Err(format!("it is cut off: its header declares {bytes} bytes, but there are {length}"))
            }
        }
    }

    pub(super) fn reader(&self) -> RowReader<'_> {
        RowReader { array: self, block: Vec::new(), rows: 0..0 }
    }

    /// Reads the elements of some rows. In a block of Fortran's order, the values of each element of a row are together.
    fn read(&self, rows: std::ops::Range<usize>, block: &mut Vec<u8>) -> io::Result<()> {
        let Header { element, row, .. } = &self.header;
        let (elements, size) = (self.header.elements_of_row(), element.size);
        block.resize(rows.len() * elements * size, 0);
        if !self.header.is_fortran {
            return self.file.read_exact_at(block, self.start + (rows.start * elements * size) as u64);
        }
        for (index, values) in block.chunks_exact_mut(rows.len() * size).enumerate() {
            // The index of an element in a row of C's order, whose last dimension changes fastest, as an index in
            // Fortran's order.
            let (mut rest, mut in_file, mut stride) = (index, 0, elements);
            for length in row.iter().rev() {
                stride /= length;
                in_file += rest % length * stride;
                rest /= length;
            }
            let element = in_file * self.header.rows + rows.start;
            self.file.read_exact_at(values, self.start + (element * size) as u64)?;
        }
        Ok(())
    }
}

impl RowReader<'_> {
    /// Writes a row as JSON: a number or text, or nested arrays of them.
    pub(super) fn write_row(&mut self, row: usize, json: &mut String) -> io::Result<()> {
        let Header { element, rows, row: dims, .. } = &self.array.header;
        if !self.rows.contains(&row) {
            let bytes_of_row = self.array.header.elements_of_row() * element.size;
            let count = (BLOCK_BYTES / bytes_of_row.max(1)).clamp(1, rows - row);
            self.rows = row..row + count;
            self.array.read(self.rows.clone(), &mut self.block)?;
        }
        let mut next = 0;
        self.write(row - self.rows.start, dims, &mut next, json)
    }

    fn write(&self, row: usize, dims: &[usize], next: &mut usize, json: &mut String) -> io::Result<()> {
        let header = &self.array.header;
        let Some((length, dims)) = dims.split_first() else {
            let index = match header.is_fortran {
                true => *next * self.rows.len() + row,
                false => row * header.elements_of_row() + *next,
            };
            *next += 1;
            let bytes = self.block.chunks_exact(header.element.size).nth(index).unwrap_or_default();
            return header.element.write(bytes, json).map_err(io::Error::other);
        };
        json.push('[');
        for index in 0..*length {
            if index > 0 {
                json.push(',');
            }
            self.write(row, dims, next, json)?;
        }
        json.push(']');
        Ok(())
    }
}

impl Element {
    /// Parses a type as it is in a header: `'<f4'`.
    fn parse(text: &str) -> Result<Element, String> {
        const REMEDY: &str = "save numbers, booleans or texts, as in np.save(file, x.astype(np.float32))";
        if text.starts_with('[') {
            return Err(format!("it is a structured array; {REMEDY}, or write the table as Parquet or CSV"));
        }
        let quoted = text.strip_prefix(['\'', '"']).and_then(|text| text.split_once(['\'', '"']));
        let (dtype, _) = quoted.ok_or("the header has no type of the elements")?;
        let unknown = || format!("its elements have the type {dtype:?}; {REMEDY}");
        let (order, rest) = dtype.split_at_checked(1).ok_or_else(unknown)?;
        let (kind, size) = rest.split_at_checked(1).ok_or_else(unknown)?;
        let size = size.parse().unwrap_or(0_usize);
        let (kind, size) = match (kind, size) {
            ("O", _) => {
                return Err(format!(
                    "its elements are Python objects in a pickle, which can run code when it is read; {REMEDY}"
                ));
            }
            ("b", 1) => (Kind::Boolean, 1),
            ("i", 1 | 2 | 4 | 8) => (Kind::Integer, size),
            ("u", 1 | 2 | 4 | 8) => (Kind::Unsigned, size),
            ("f", 2 | 4 | 8) => (Kind::Float, size),
            ("U", 1..) => (Kind::Text, size.checked_mul(4).ok_or_else(unknown)?),
            _ => return Err(unknown()),
        };
        Ok(Element { kind, size, is_big_endian: order == ">" })
    }

    /// Writes an element as JSON. A NaN becomes null: a missing value, as in data frames.
    fn write(&self, bytes: &[u8], json: &mut String) -> Result<(), std::fmt::Error> {
        let number = |bytes: &[u8]| {
            let fold = |number: u64, byte: &u8| (number << 8) | u64::from(*byte);
            if self.is_big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) }
        };
        let value = number(bytes.get(..self.size.min(8)).unwrap_or_default());
        match self.kind {
            Kind::Boolean => write!(json, "{}", value != 0),
            Kind::Unsigned => write!(json, "{value}"),
            Kind::Integer => {
                let unused = 64 - 8 * self.size as u32;
                write!(json, "{}", (value << unused).cast_signed() >> unused)
            }
            Kind::Float => {
                let value = match self.size {
                    2 => f16::from_bits(value as u16).to_f64(),
                    4 => f32::from_bits(value as u32).into(),
                    _ => f64::from_bits(value),
                };
                match value {
                    _ if value.is_nan() => write!(json, "null"),
                    // A text, which a pipeline refuses by name: JSON has no infinity.
                    _ if value.is_infinite() => write!(json, "\"{value}\""),
                    _ => write!(json, "{value:?}"),
                }
            }
            Kind::Text => {
                let characters = bytes.chunks_exact(4).map(|bytes| number(bytes) as u32);
                let characters: Vec<u32> = characters.collect();
                let length = characters.iter().rposition(|code| *code != 0).map_or(0, |last| last + 1);
                let text = characters[..length].iter().map(|code| char::from_u32(*code).unwrap_or('\u{fffd}'));
                write!(json, "{}", serde_json::Value::from(text.collect::<String>()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), data].concat()
    }

    fn open(bytes: &[u8]) -> Result<NumpyArray, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        NumpyArray::open(Arc::new(file), 0, bytes.len() as u64)
    }

    fn rows(header: &str, data: &[u8]) -> Vec<String> {
        let array = open(&file(header, data)).unwrap();
        let mut reader = array.reader();
        let row = |row| {
            let mut json = String::new();
            reader.write_row(row, &mut json).unwrap();
            json
        };
        (0..array.header.rows).map(row).collect()
    }

    /// The bytes are those of `numpy.ndarray.tobytes`.
    #[test]
    fn elements_of_each_type_and_order_are_read() {
        let header =
            |descr: &str, shape: &str| format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        assert_eq!(rows(&header("|b1", "(2,)"), &[1, 0]), ["true", "false"]);
        assert_eq!(rows(&header("|i1", "(2,)"), &[0xff, 3]), ["-1", "3"]);
        assert_eq!(rows(&header(">i2", "(1, 2)"), &[1, 0, 0xff, 0xfe]), ["[256,-2]"]);
        assert_eq!(rows(&header("<u8", "(1,)"), &[0xff; 8]), ["18446744073709551615"]);
        assert_eq!(rows(&header("<f2", "(2,)"), &[0, 0x38, 0, 0x7e]), ["0.5", "null"]);
        assert_eq!(rows(&header(">f4", "(2,)"), &[0x3f, 0, 0, 0, 0x7f, 0x80, 0, 0]), ["0.5", "\"inf\""]);
        assert_eq!(rows(&header("<f8", "(1,)"), &1e300_f64.to_le_bytes()), ["1e300"]);
        let text: Vec<u8> = ['é' as u32, '"' as u32, 0].iter().flat_map(|code| code.to_le_bytes()).collect();
        assert_eq!(rows(&header("<U3", "(1, 1)"), &text), ["[\"é\\\"\"]"]);
        let numbers: Vec<u8> = (0..12).collect();
        assert_eq!(rows(&header("|u1", "(2, 3, 2)"), &numbers), ["[[0,1],[2,3],[4,5]]", "[[6,7],[8,9],[10,11]]"]);
    }

    /// The data are those of `np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(2, 3, 2)).tobytes(order="A")`.
    #[test]
    fn an_array_in_the_order_of_fortran_has_the_same_rows() {
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 2), }";
        let data = [0, 6, 2, 8, 4, 10, 1, 7, 3, 9, 5, 11];
        assert_eq!(rows(header, &data), ["[[0,1],[2,3],[4,5]]", "[[6,7],[8,9],[10,11]]"]);
    }

    #[test]
    fn what_is_not_an_array_of_rows_is_refused_before_it_is_read() {
        let header = |descr: &str, shape: &str| {
            file(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"), &[0; 8])
        };
        for (bytes, problem) in [
            (b"\x93NUMPY\x01".to_vec(), "the header is cut off"),
            (b"\x93NUMPY\x09\0\0\0\0\0".to_vec(), "the version [9, 0]"),
            (b"\x93NUMPY\x02\0\xff\xff\xff\xff{".to_vec(), "at most 65536 are read"),
            (file("{}", b""), "no \"fortran_order\""),
            (header("'<f4'", "()"), "has no rows"),
            (header("'<f4'", "(3, 0)"), "its rows are empty"),
            (header("'<f4'", "(3, x)"), "the shape (3, x) is not one"),
            (header("'<f4'", "(4, 2)"), "it is cut off: its header declares "),
            (header("'<f4'", "(1152921504606846976, 16)"), "is too large"),
            (header("'<f4'", "(4611686018427387904, )"), "is too large"),
            (header("'<U9223372036854775807'", "(1, )"), "the type \"<U9223372036854775807\""),
            (header("'|O'", "(1, )"), "a pickle, which can run code"),
            (header("'<M8[ns]'", "(1, )"), "the type \"<M8[ns]\""),
            (header("'<c8'", "(1, )"), "the type \"<c8\""),
            (header("[('a', '<f4')]", "(1, )"), "a structured array"),
        ] {
            let refused = open(&bytes).unwrap_err();
            assert!(refused.contains(problem), "{refused}");
        }
    }
}
