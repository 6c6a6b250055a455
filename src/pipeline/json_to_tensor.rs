//! JSON → tensor: reads `instances` straight into the model's input buffers.
//!
//! No value tree is built: each number goes from its text into the buffer of its element type. The text has been
//! checked to be JSON when the request's envelope was read, so that this reader only has to find its way; what does
//! not fit the model is an error that names the place, as in
//! `instances[2].pixels[5]: found null, expected a number`.

use std::fmt::Write as _;
use std::sync::Arc;

use half::{bf16, f16};
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::tensor::{DType, Data, Dim, Element, Tensor, TensorSpec, Tensors, for_each_element_type, with_element_type};

/// Reads `instances`: one row per instance for every input.
///
/// With one input an instance is its value (a number, an array, or nested arrays, as the shape has it); with
/// several it is an object of such values by input name, which is accepted for one input too.
pub(super) fn read_instances(instances: &RawValue, inputs: &[TensorSpec]) -> Result<Tensors> {
    let mut json = Reader { text: instances.get(), at: 0 };
    let mut columns: Vec<Column<'_>> = inputs.iter().map(Column::new).collect();
    let rows = json
        .array("an array of instances", |json| json.instance(&mut columns))
        .map_err(|misfit| Error::InvalidInput(misfit.message(inputs)))?;
    if rows == 0 {
        return Err(Error::InvalidInput("instances: the array is empty; send at least one instance".to_owned()));
    }
    columns.into_iter().map(|column| column.into_tensor(rows)).collect()
}

/// A column of the batch: one input's values for all instances, as they are read.
struct Column<'a> {
    spec: &'a TensorSpec,
    data: Data,
    /// The shape of a row.
    row: Vec<Length>,
    /// How many elements a row has, as far as that is known before it is read.
    expected: usize,
}

/// The length of a dimension.
#[derive(Clone, Copy)]
enum Length {
    /// As the model declares it.
    Declared(usize),
    /// The model leaves it open, and nothing has been read yet.
    Open,
    /// The model leaves it open, and the first array of this dimension had this length.
    AsBefore(usize),
}

impl Length {
    fn known(self) -> Option<usize> {
        match self {
            Length::Declared(length) | Length::AsBefore(length) => Some(length),
            Length::Open => None,
        }
    }
}

impl<'a> Column<'a> {
    fn new(spec: &'a TensorSpec) -> Column<'a> {
        let length = |dim: &Dim| match dim {
            Dim::Fixed(length) => Length::Declared(*length),
            Dim::Dynamic(_) => Length::Open,
        };
        let row: Vec<Length> = spec.dims.iter().skip(1).map(length).collect();
        // The model names these lengths; whatever it names, no more than this is set aside before it is read.
        let known = row.iter().filter_map(|length| length.known());
        let expected = known.fold(1usize, usize::saturating_mul).min(1 << 20);
        Column { spec, data: with_element_type!(spec.dtype, T => T::into_data(Vec::new())), row, expected }
    }

    fn into_tensor(self, rows: usize) -> Result<(Arc<str>, Tensor)> {
        let shape = [rows].into_iter().chain(self.row.into_iter().map(|length| length.known().unwrap_or(0))).collect();
        Ok((Arc::clone(&self.spec.name), Tensor::new(shape, self.data)?))
    }
}

// ===== what does not fit =====

/// What is wrong, and the way to it from the inside to the outside, written down as the error comes up.
struct Misfit {
    problem: String,
    steps: Vec<Step>,
}

enum Step {
    Index(usize),
    Input(usize),
}

type Fits<T> = std::result::Result<T, Box<Misfit>>;

fn misfit(problem: String) -> Box<Misfit> {
    Box::new(Misfit { problem, steps: Vec::new() })
}

impl Misfit {
    fn message(&self, inputs: &[TensorSpec]) -> String {
        let mut message = "instances".to_owned();
        let mut input = inputs.first().filter(|_| inputs.len() == 1);
        for step in self.steps.iter().rev() {
            // Writing to a String cannot fail.
            let _ = match step {
                Step::Index(index) => write!(message, "[{index}]"),
                Step::Input(index) => {
                    input = inputs.get(*index);
                    write!(message, ".{}", inputs[*index].name)
                }
            };
        }
        let _ = write!(message, ": {}", self.problem);
        if let Some(input) = input {
            let _ = write!(message, " (the model's input {:?} is {})", input.name, input.describe());
        }
        message
    }
}

// ===== the reader =====

/// A place in a text that is known to be JSON.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next byte that is not white space, without taking it; 0 at the end.
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Takes the next byte that is not white space, if it is this one.
    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == byte;
        self.at += usize::from(is_next);
        is_next
    }

    /// An array: calls `element` at the beginning of each element, and says how many there were.
    fn array(&mut self, expected: &str, mut element: impl FnMut(&mut Self) -> Fits<()>) -> Fits<usize> {
        if !self.take(b'[') {
            return Err(self.found_instead_of(expected));
        }
        let mut count = 0;
        if self.take(b']') {
            return Ok(count);
        }
        loop {
            if let Err(mut misfit) = element(self) {
                misfit.steps.push(Step::Index(count));
                return Err(misfit);
            }
            count += 1;
            if !self.take(b',') {
                // In JSON nothing else can follow an element.
                self.take(b']');
                return Ok(count);
            }
        }
    }

    /// A string, unescaped.
    fn string(&mut self) -> Fits<String> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
        match strings.next() {
            Some(Ok(string)) => {
                self.at += strings.byte_offset();
                Ok(string)
            }
            _ => Err(misfit("found a string with an escape that is no character".to_owned())),
        }
    }

    /// A number, `true`, `false` or `null`, as it is written.
    fn word(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let ends = |byte: u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
        let word = &rest[..rest.bytes().position(ends).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    /// A whole number of at most seven digits, which every element type wider than 16 bits holds exactly: what most
    /// tensors are made of. Takes nothing if the next value is something else.
    fn small_integer(&mut self) -> Option<u32> {
        let bytes = self.text.as_bytes();
        let (mut value, mut at) = (0, self.at);
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            value = value * 10 + u32::from(digit - b'0');
            at += 1;
            if at - self.at > 7 {
                return None;
            }
        }
        let ends_here = matches!(bytes.get(at), Some(b',' | b']' | b' ' | b'}' | b'\n' | b'\r' | b'\t'));
        (ends_here && at > self.at).then(|| {
            self.at = at;
            value
        })
    }

    fn found_instead_of(&mut self, expected: &str) -> Box<Misfit> {
        let found = match self.peek() {
            b'[' => "an array".to_owned(),
            b'{' => "an object".to_owned(),
            b'"' => {
                let text = self.string().unwrap_or_default();
                let shown: String = text.chars().take(64).collect();
                format!("the string {shown:?}{}", if shown.len() < text.len() { "…" } else { "" })
            }
            b'-' | b'0'..=b'9' => format!("the number {}", shortened(self.word())),
            _ => shortened(self.word()).to_owned(),
        };
        misfit(format!("found {found}, expected {expected}"))
    }
}

fn shortened(word: &str) -> &str {
    word.get(..64).unwrap_or(word)
}

// ===== instances, rows, elements =====

impl Reader<'_> {
    fn instance(&mut self, columns: &mut [Column<'_>]) -> Fits<()> {
        match columns {
            _ if self.peek() == b'{' => self.object(columns),
            [only] => self.column(only),
            several => Err(self.found_instead_of(&format!("an object with {}", keys(several)))),
        }
    }

    /// An instance as an object of values by input name.
    fn object(&mut self, columns: &mut [Column<'_>]) -> Fits<()> {
        let mut is_read = vec![false; columns.len()];
        self.take(b'{');
        if !self.take(b'}') {
            loop {
                self.peek();
                let key = self.string()?;
                self.take(b':');
                let Some(index) = columns.iter().position(|column| *column.spec.name == *key) else {
                    let shown: String = key.chars().take(64).collect();
                    return Err(misfit(format!("unknown key {shown:?}, expected {}", keys(columns))));
                };
                if std::mem::replace(&mut is_read[index], true) {
                    return Err(misfit(format!("the key {key:?} is there twice")));
                }
                if let Err(mut misfit) = self.column(&mut columns[index]) {
                    misfit.steps.push(Step::Input(index));
                    return Err(misfit);
                }
                if !self.take(b',') {
                    self.take(b'}');
                    break;
                }
            }
        }
        match is_read.iter().position(|is_read| !is_read) {
            Some(missing) => Err(misfit(format!("the key {:?} is missing", columns[missing].spec.name))),
            None => Ok(()),
        }
    }

    /// One input's value in one instance.
    fn column(&mut self, column: &mut Column<'_>) -> Fits<()> {
        let Column { spec, data, row, expected } = column;
        for_each_element_type!(data, values => {
            values.reserve(*expected);
            self.row(spec, row, values)
        })
    }

    /// Nested arrays of the lengths that `row` has, or one element if it has none.
    fn row<T: FromJson>(&mut self, spec: &TensorSpec, row: &mut [Length], values: &mut Vec<T>) -> Fits<()> {
        let Some((length, inner)) = row.split_first_mut() else {
            values.push(self.element()?);
            return Ok(());
        };
        if self.peek() != b'[' {
            return Err(self.found_instead_of(&describe(length.known(), inner.len(), spec.dtype)));
        }
        let count = self.array("an array", |json| {
            if inner.is_empty() {
                values.push(json.element()?);
                Ok(())
            } else {
                json.row(spec, inner, values)
            }
        })?;
        let what = if inner.is_empty() { "values" } else { "arrays" };
        match *length {
            Length::Declared(expected) if expected != count => {
                Err(misfit(format!("found {count} {what}, expected {expected}")))
            }
            Length::AsBefore(before) if before != count => {
                Err(misfit(format!("found {count} {what}, expected {before} as in the array before it")))
            }
            Length::Open => {
                *length = Length::AsBefore(count);
                Ok(())
            }
            Length::Declared(_) | Length::AsBefore(_) => Ok(()),
        }
    }

    fn element<T: FromJson>(&mut self) -> Fits<T> {
        let (next, start) = (self.peek(), self.at);
        if let Some(value) = self.small_integer().and_then(T::from_small_integer) {
            return Ok(value);
        }
        self.at = start;
        T::from_json(self, next)
    }
}

fn keys(columns: &[Column<'_>]) -> String {
    let names: Vec<String> = columns.iter().map(|column| format!("{:?}", column.spec.name)).collect();
    format!("the key{} {}", if names.len() == 1 { "" } else { "s" }, names.join(", "))
}

/// What is expected at a level of nesting, as in `an array of 64 numbers`.
fn describe(length: Option<usize>, levels_below: usize, dtype: DType) -> String {
    let what = match (levels_below, dtype) {
        (0, DType::Bool) => "booleans",
        (0, DType::Text) => "strings",
        (0, _) => "numbers",
        _ => "arrays",
    };
    length.map_or_else(|| format!("an array of {what}"), |length| format!("an array of {length} {what}"))
}

/// An element type that is read from one JSON value.
trait FromJson: Element {
    /// The value of a whole number below 10,000,000, if it can be told from that alone.
    fn from_small_integer(value: u32) -> Option<Self>;

    /// The value that begins with the byte `next`.
    fn from_json(json: &mut Reader<'_>, next: u8) -> Fits<Self>;
}

/// A number's text, handed to `parse`, which gives `None` for what the type cannot hold.
fn number<T: Element>(json: &mut Reader<'_>, next: u8, parse: impl Fn(&str) -> Option<T>) -> Fits<T> {
    if !matches!(next, b'-' | b'0'..=b'9') {
        return Err(json.found_instead_of("a number"));
    }
    let text = json.word();
    parse(text).ok_or_else(|| misfit(format!("{} is not a value of type {}", shortened(text), T::DTYPE)))
}

/// Floating-point types: the nearest value to what is written. One that would be infinite is refused: 1e39 is no
/// float32.
macro_rules! floats {
    ($($type:ty: $small:expr, $parse:expr);* $(;)?) => {$(
        impl FromJson for $type {
            fn from_small_integer(value: u32) -> Option<Self> {
                let small: fn(u32) -> Option<$type> = $small;
                small(value)
            }

            fn from_json(json: &mut Reader<'_>, next: u8) -> Fits<Self> {
                let parse: fn(&str) -> Option<$type> = $parse;
                number(json, next, |text| parse(text).filter(|value| value.is_finite()))
            }
        }
    )*};
}

/// Integer types: an integer is written as one. 1.5 has no place here, and 1.0 is a float's spelling.
macro_rules! integers {
    ($($type:ty),* $(,)?) => {$(
        impl FromJson for $type {
            fn from_small_integer(value: u32) -> Option<Self> {
                value.try_into().ok()
            }

            fn from_json(json: &mut Reader<'_>, next: u8) -> Fits<Self> {
                number(json, next, |text| text.parse().ok())
            }
        }
    )*};
}

floats! {
    f32: |value| Some(value as f32), |text| text.parse().ok();
    f64: |value| Some(value.into()), |text| text.parse().ok();
    f16: |_| None, |text| text.parse().ok().map(f16::from_f64);
    bf16: |_| None, |text| text.parse().ok().map(bf16::from_f64);
}
integers!(i8, i16, i32, i64, u8, u16, u32, u64);

impl FromJson for bool {
    fn from_small_integer(_: u32) -> Option<Self> {
        None
    }

    fn from_json(json: &mut Reader<'_>, next: u8) -> Fits<Self> {
        match next {
            b't' | b'f' => Ok(json.word() == "true"),
            _ => Err(json.found_instead_of("true or false")),
        }
    }
}

impl FromJson for String {
    fn from_small_integer(_: u32) -> Option<Self> {
        None
    }

    fn from_json(json: &mut Reader<'_>, next: u8) -> Fits<Self> {
        match next {
            b'"' => json.string(),
            _ => Err(json.found_instead_of("a string")),
        }
    }
}
