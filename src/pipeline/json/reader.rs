//! Reader of text that is known to be valid JSON. It does not build a tree of values.
//!
//! The text was checked when the request's envelope was read, so this reader does not validate it again. A value that
//! does not fit becomes a [`Misfit`], which collects the path to the value while it is returned from level to level.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::num::NonZeroUsize;

use half::{bf16, f16};
use serde::Deserialize;

use crate::budget::Deadline;
use crate::error::{Error, Result};
use crate::pipeline::json::whole_numbers::whole_number;
use crate::tensor::{Element, Tensor, bf16_of, f16_of};

// ===== values that do not fit =====

/// A value that does not fit, and the path to it. The path is collected while the error is returned, the innermost step
/// first.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub(crate) problem: String,
    steps: Vec<Step>,
    /// An error that is not about a JSON value, returned unchanged.
    other: Option<Error>,
}

/// A step of the path from the instances to a value.
#[derive(Debug)]
pub(crate) enum Step {
    /// Into the element of an array with this index.
    Index(usize),
    /// Into the member of an object with this key.
    Key(Box<str>),
}

pub(crate) type Fits<T> = std::result::Result<T, Box<Misfit>>;

pub(crate) fn misfit(problem: String) -> Box<Misfit> {
    Box::new(Misfit { problem, steps: Vec::new(), other: None })
}

impl Misfit {
    /// Adds the next outer step of the path.
    pub(crate) fn at(mut self: Box<Self>, step: Step) -> Box<Misfit> {
        self.steps.push(step);
        self
    }

    /// Adds a key as the next outer step of the path.
    pub(crate) fn at_key(self: Box<Self>, key: &str) -> Box<Misfit> {
        self.at(Step::Key(key.into()))
    }

    /// Returns the outermost key of the path.
    pub(crate) fn first_key(&self) -> Option<&str> {
        self.steps.iter().rev().find_map(|step| match step {
            Step::Key(key) => Some(&**key),
            Step::Index(_) => None,
        })
    }

    /// Returns the path and the problem, as in `[2].age: found null`.
    pub(crate) fn described(&self) -> String {
        let mut message = String::new();
        for step in self.steps.iter().rev() {
            // Writing to a String cannot fail.
            let _ = match step {
                Step::Index(index) => write!(message, "[{index}]"),
                Step::Key(key) => write!(message, ".{key}"),
            };
        }
        let _ = write!(message, ": {}", self.problem);
        message
    }
}

/// Wraps an error that is not about a JSON value, such as an expired deadline.
impl From<Error> for Box<Misfit> {
    fn from(error: Error) -> Box<Misfit> {
        Box::new(Misfit { problem: String::new(), steps: Vec::new(), other: Some(error) })
    }
}

impl From<Box<Misfit>> for Error {
    fn from(misfit: Box<Misfit>) -> Error {
        match misfit.other {
            Some(error) => error,
            None => Error::InvalidInput(format!("instances{}", misfit.described())),
        }
    }
}

// ===== the reader =====

/// Number of rows between two checks of the deadline.
const ROWS_BETWEEN_CHECKS: usize = 16;

/// Treatment of the strings "NaN", "Infinity" and "-Infinity" in the place of a floating-point number (`non_finite`).
/// JSON has no such numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NonFinite {
    /// They are refused like all other strings.
    #[default]
    Error,
    /// They are read as these numbers.
    Text,
}

/// Maximum number of tensors in the sequences of a request. Each takes some hundred bytes, however short its text is.
pub(crate) const MAX_SEQUENCE_ITEMS: usize = 1 << 16;

/// Reader at a position in a text that is known to be JSON.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    pub(crate) non_finite: NonFinite,
    /// Number of tensors in sequences that are still accepted.
    pub(crate) sequence_items_left: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Reader<'a> {
        Reader { text, at: 0, non_finite: NonFinite::Error, sequence_items_left: MAX_SEQUENCE_ITEMS }
    }

    /// Reads an array of one to `most` instances, and returns their number. `explain` turns a misfit into an error.
    pub(crate) fn instances(
        text: &'a str,
        (most, deadline): (NonZeroUsize, Deadline),
        mut read: impl FnMut(&mut Self) -> Fits<()>,
        explain: impl FnOnce(Box<Misfit>) -> Error,
    ) -> Result<usize> {
        let mut left = most.get();
        let mut is_too_many = false;
        let read = |json: &mut Self| {
            is_too_many = left == 0;
            left = left.saturating_sub(1);
            // Checks the deadline once for several rows, because reading the time takes almost as long as reading a
            // short row.
            if left.is_multiple_of(ROWS_BETWEEN_CHECKS) {
                deadline.check()?;
            }
            if is_too_many { Err(misfit(String::new())) } else { read(json) }
        };
        let rows = Reader::new(text).array("an array of instances", read);
        if is_too_many {
            return Err(Error::InvalidInput(format!(
                "instances: there are more than {most}, which is the limit for one request to this model; send them in several"
            )));
        }
        match rows.map_err(explain)? {
            0 => Err(Error::InvalidInput("instances: the array is empty; send at least one instance".to_owned())),
            rows => Ok(rows),
        }
    }

    /// Returns the next byte that is not white space, without consuming it; 0 at the end.
    pub(crate) fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Consumes the next byte that is not white space, if it is `byte`.
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == byte;
        self.at += usize::from(is_next);
        is_next
    }

    /// Reads an array: calls `element` at the beginning of each element, and returns their number.
    pub(crate) fn array(&mut self, expected: &str, mut element: impl FnMut(&mut Self) -> Fits<()>) -> Fits<usize> {
        if !self.take(b'[') {
            return Err(self.found_instead_of(expected));
        }
        let mut count = 0;
        if self.take(b']') {
            return Ok(count);
        }
        loop {
            if let Err(misfit) = element(self) {
                return Err(misfit.at(Step::Index(count)));
            }
            count += 1;
            if !self.take(b',') {
                // Without a comma, only the closing bracket can follow an element in valid JSON.
                self.take(b']');
                return Ok(count);
            }
        }
    }

    /// Reads an object: calls `entry` at the beginning of each value, with its key.
    pub(crate) fn object(&mut self, mut entry: impl FnMut(&mut Self, Cow<'a, str>) -> Fits<()>) -> Fits<()> {
        self.take(b'{');
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.peek();
            let key = self.string()?;
            self.take(b':');
            entry(self, key)?;
            if !self.take(b',') {
                self.take(b'}');
                return Ok(());
            }
        }
    }

    /// Returns the number of brackets that open before the next value, without consuming them.
    pub(crate) fn nesting(&self) -> usize {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let space = |byte: &&u8| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
        rest.iter().filter(space).take_while(|byte| **byte == b'[').count()
    }

    /// Skips a value of any kind.
    pub(crate) fn skip(&mut self) {
        let (mut depth, bytes) = (0usize, self.text.as_bytes());
        self.peek();
        while let Some(byte) = bytes.get(self.at) {
            match byte {
                b'"' => self.at = end_of_string(bytes, self.at),
                b'[' | b'{' => depth += 1,
                b']' | b'}' if depth == 0 => return,
                b']' | b'}' => depth -= 1,
                b',' if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    /// Reads a string, unescaped.
    pub(crate) fn string(&mut self) -> Fits<Cow<'a, str>> {
        let (text, start) = (self.text, self.at);
        let end = end_of_string(text.as_bytes(), start);
        self.at = end + 1;
        let inner = text.get(start + 1..end).unwrap_or_default();
        if memchr::memchr(b'\\', inner.as_bytes()).is_none() {
            return Ok(Cow::Borrowed(inner));
        }
        let quoted = text.get(start..=end).unwrap_or_default();
        serde_json::from_str(quoted)
            .map(Cow::Owned)
            .map_err(|_| misfit("found a string with an escape that is not a character".to_owned()))
    }

    /// Reads a number, `true`, `false` or `null`, as text.
    pub(crate) fn word(&mut self) -> &'a str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let ends = |byte: u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
        let word = &rest[..rest.bytes().position(ends).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }

    /// Reads a whole number of at most seven digits. Every element type wider than 16 bits holds such a number exactly,
    /// and most elements of tensors are such numbers. Consumes nothing if the next value is something else.
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

    /// Reads one element of a tensor.
    pub(crate) fn element<T: FromJson>(&mut self) -> Fits<T> {
        let (next, start) = (self.peek(), self.at);
        if let Some(value) = self.small_integer().and_then(T::from_small_integer) {
            return Ok(value);
        }
        self.at = start;
        T::from_json(self, next)
    }

    /// Returns the value that `read` returns, and the JSON text that it consumed.
    pub(crate) fn written<T>(&mut self, read: impl FnOnce(&mut Self) -> Fits<T>) -> Fits<(T, &'a str)> {
        self.peek();
        let (text, start) = (self.text, self.at);
        let value = read(self)?;
        Ok((value, text.get(start..self.at).unwrap_or_default()))
    }

    pub(crate) fn found_instead_of(&mut self, expected: &str) -> Box<Misfit> {
        let found = match self.peek() {
            b'[' => "an array".to_owned(),
            b'{' => "an object".to_owned(),
            b'"' => {
                let text = self.string().unwrap_or_default();
                format!("the string {}", quoted(&text))
            }
            b'-' | b'0'..=b'9' => format!("the number {}", shortened(self.word())),
            _ => shortened(self.word()).to_owned(),
        };
        misfit(format!("found {found}, expected {expected}"))
    }
}

/// Returns the beginning of a JSON word, as much as an error shows.
pub(crate) fn shortened(word: &str) -> &str {
    word.get(..64).unwrap_or(word)
}

/// Returns the beginning of a text in quotes, as much as an error shows.
pub(crate) fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(64).collect();
    format!("{shown:?}{}", if shown.len() < text.len() { "…" } else { "" })
}

/// Returns the position of the closing quote of the string that begins with the quote at `start`.
pub(super) fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        if bytes[at + found] == b'"' {
            return at + found;
        }
        at += found + 2;
    }
    bytes.len()
}

// ===== elements =====

/// A type of tensor elements that can be read from a JSON value.
pub(crate) trait FromJson: Element {
    /// Converts a whole number below 10,000,000; `None` if the type needs the text of the number.
    fn from_small_integer(value: u32) -> Option<Self>;

    /// Reads the value that begins with the byte `next`.
    fn from_json(json: &mut Reader<'_>, next: u8) -> Fits<Self>;
}

/// Reads a number with `parse`, which returns `None` for values that the type cannot hold.
fn number<T: Element>(json: &mut Reader<'_>, next: u8, parse: impl Fn(&str) -> Option<T>) -> Fits<T> {
    if !matches!(next, b'-' | b'0'..=b'9') {
        return Err(json.found_instead_of("a number"));
    }
    let text = json.word();
    parse(text).ok_or_else(|| misfit(format!("{} is not a value of type {}", shortened(text), T::DTYPE)))
}

impl Reader<'_> {
    /// Reads one of the strings that stand for NaN, infinity and negative infinity, and returns that of the values.
    fn non_finite<T>(&mut self, [nan, infinity, negative_infinity]: [T; 3]) -> Fits<T> {
        match &*self.string()? {
            "NaN" => Ok(nan),
            "Infinity" => Ok(infinity),
            "-Infinity" => Ok(negative_infinity),
            other => Err(misfit(format!(
                "found the string {}, expected a number, or \"NaN\", \"Infinity\" or \"-Infinity\"",
                quoted(other)
            ))),
        }
    }
}

/// Implements the reading of floating-point types, which take the value nearest to the written number. A number that
/// would become infinite is refused, such as 1e39 for float32.
macro_rules! floats {
    ($($type:ty: $small:expr, $parse:expr);* $(;)?) => {$(
        impl FromJson for $type {
            fn from_small_integer(value: u32) -> Option<Self> {
                let small: fn(u32) -> Option<$type> = $small;
                small(value)
            }

            fn from_json(json: &mut Reader<'_>, next: u8) -> Fits<Self> {
                let parse: fn(&str) -> Option<$type> = $parse;
                if next == b'"' && json.non_finite == NonFinite::Text {
                    return json.non_finite([<$type>::NAN, <$type>::INFINITY, <$type>::NEG_INFINITY]);
                }
                number(json, next, |text| parse(text).filter(|value| value.is_finite()))
            }
        }
    )*};
}

/// Implements the reading of integer types, which accept whole numbers in any notation: 3, 3.0 and 3e0. JavaScript and
/// pandas write 3.0.
macro_rules! integers {
    ($($type:ty),* $(,)?) => {$(
        impl FromJson for $type {
            fn from_small_integer(value: u32) -> Option<Self> {
                value.try_into().ok()
            }

            fn from_json(json: &mut Reader<'_>, next: u8) -> Fits<Self> {
                number(json, next, |text| text.parse().ok().or_else(|| whole_number(text)?.try_into().ok()))
            }
        }
    )*};
}

floats! {
    f32: |value| Some(value as f32), |text| text.parse().ok();
    f64: |value| Some(value.into()), |text| text.parse().ok();
    f16: |_| None, |text| text.parse().ok().map(f16_of);
    bf16: |_| None, |text| text.parse().ok().map(bf16_of);
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

/// A sequence is read item by item (`to_tensor.rs`), with the type of its items.
impl FromJson for Vec<Tensor> {
    fn from_small_integer(_: u32) -> Option<Self> {
        None
    }

    fn from_json(json: &mut Reader<'_>, _: u8) -> Fits<Self> {
        Err(json.found_instead_of("a sequence of tensors"))
    }
}

impl FromJson for String {
    fn from_small_integer(_: u32) -> Option<Self> {
        None
    }

    fn from_json(json: &mut Reader<'_>, next: u8) -> Fits<Self> {
        match next {
            b'"' => match json.string()? {
                // ONNX Runtime takes C strings, which end at the first NUL. In JSON, a NUL is always escaped, so a text
                // with a NUL is owned.
                Cow::Owned(text) if text.contains('\0') => {
                    Err(misfit("found a string with a NUL character, which the model cannot take".to_owned()))
                }
                text => Ok(text.into_owned()),
            },
            _ => Err(json.found_instead_of("a string")),
        }
    }
}
