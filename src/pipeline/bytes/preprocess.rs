//! `kind = "bytes"`: the bytes of a file become the integers that a model of file types or of malware takes.
//!
//! An instance is `{"b64": "…"}`, or the whole body is one file.

use std::num::NonZeroUsize;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::features;
use super::selection::{Elements, Selected, Selection};
use crate::budget::Deadline;
use crate::error::{Error, Result, SetupError};
use crate::feature::{FeatureSchema, Features};
use crate::pipeline::json::encoded_file::encoded_file;
use crate::pipeline::json::reader::{FromJson, Reader, misfit};
use crate::pipeline::{InstanceForm, Origin, Prepared, Preprocessor, StageContext, json_schema};
use crate::tensor::{DType, Data, Dim, Element, Tensor, TensorSpec, for_each_element_type, with_element_type};

/// Maximum number of bytes that a model takes from a file: those of the longest published models of malware.
const MAX_ROW: usize = 1 << 24;

/// Media type of bodies that are a file.
const MEDIA_TYPES: [&str; 1] = ["application/octet-stream"];

/// An instance, for messages.
const EXAMPLE: &str = r#"an object with a file, as in {"b64": "JVBERi0…"}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Number of bytes from the beginning of a file; by default, those that the model takes beside `end`.
    beginning: Option<usize>,
    /// Number of bytes from the end of a file.
    end: Option<usize>,
    /// Part of a file at each end that is looked at, in bytes; by default, the whole file.
    block_size: Option<usize>,
    /// True if white space at the start of the first block and at the end of the last block is left out.
    strip_whitespace: Option<bool>,
    /// Number that stands for a missing byte. Without it, a file with too few bytes is refused.
    padding: Option<u32>,
    /// Number that is added to every byte.
    offset: Option<u32>,
    /// Minimum number of bytes of a file, without the white space before its beginning if that is stripped.
    #[serde(default = "min_bytes")]
    min_bytes: usize,
    /// Maximum number of bytes of a file; by default, any number, and the rest is not used.
    max_bytes: Option<usize>,
}

/// Default minimum number of bytes: an empty file has no content to judge.
fn min_bytes() -> usize {
    1
}

struct BytesPreprocessor {
    input: Arc<str>,
    dtype: DType,
    selection: Selection,
    /// `None` if a file must have enough bytes.
    padding: Option<u32>,
    offset: u32,
    min_bytes: usize,
    max_bytes: usize,
    most_rows: NonZeroUsize,
    assumptions: Vec<String>,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    let settings: Settings = context.config.settings()?;
    let [spec] = &*context.signature.inputs else {
        let count = context.signature.inputs.len();
        return Err(SetupError::Config(format!("kind = \"bytes\" needs a model with one input; this one has {count}")));
    };
    let selection = settings.selection(spec)?;
    let offset = settings.offset.unwrap_or(0);
    settings.check_numbers(spec, offset)?;
    settings.check_limits(&selection)?;
    let most_rows = context.most_rows(selection.len());
    Ok(Box::new(BytesPreprocessor {
        input: Arc::clone(&spec.name),
        dtype: spec.dtype,
        selection,
        padding: settings.padding,
        offset,
        min_bytes: settings.min_bytes,
        max_bytes: settings.max_bytes.unwrap_or(usize::MAX),
        most_rows,
        assumptions: settings.assumptions(),
    }))
}

impl Settings {
    /// Returns the selection of a model's input, whose rows are single lists.
    fn selection(&self, spec: &TensorSpec) -> Result<Selection, SetupError> {
        let wrong = |problem: String| Err(SetupError::Config(problem));
        let [_, length] = &*spec.dims else {
            return wrong(format!("the model's input is {}; bytes are [rows, bytes]", spec.describe()));
        };
        let end = self.end.unwrap_or(0);
        let beginning = match (self.beginning, length) {
            (Some(beginning), _) => beginning,
            (None, Dim::Fixed(length)) => length.saturating_sub(end),
            (None, Dim::Dynamic(_)) => {
                return wrong("beginning: the model leaves the number of bytes open; say how many it takes".to_owned());
            }
        };
        let selected = beginning.saturating_add(end);
        if let Dim::Fixed(length) = length
            && selected != *length
        {
            return wrong(format!(
                "beginning, end: they are {beginning} and {end}, but the model takes {length} bytes ({})",
                spec.describe()
            ));
        }
        if selected == 0 || selected > MAX_ROW {
            return wrong(format!("beginning, end: they are {selected} bytes together, expected 1 to {MAX_ROW}"));
        }
        let is_stripped = self.strip_whitespace.unwrap_or(false);
        match self.block_size {
            Some(_) if !is_stripped => wrong("block_size: only applies to strip_whitespace = true".to_owned()),
            Some(block) if block < beginning.max(end) => {
                wrong(format!("block_size: {block} bytes are fewer than the {} that are selected", beginning.max(end)))
            }
            block => Ok(Selection { beginning, end, block: block.unwrap_or(usize::MAX), is_stripped }),
        }
    }

    /// Checks that the model's element type holds every byte and the padding.
    fn check_numbers(&self, spec: &TensorSpec, offset: u32) -> Result<(), SetupError> {
        let wrong = |problem: String| Err(SetupError::Config(problem));
        let largest = offset.saturating_add(u8::MAX.into()).max(self.padding.unwrap_or(0));
        if largest >= NUMBERS {
            return wrong(format!("padding, offset: {largest} is too large, expected numbers below {NUMBERS}"));
        }
        if !holds(spec.dtype, 0) {
            return wrong(format!(
                "the model takes {}; bytes become whole numbers, float32 or float64",
                spec.describe()
            ));
        }
        if !holds(spec.dtype, largest) {
            return wrong(format!(
                "padding, offset: the model takes {}, which does not hold the numbers up to {largest}",
                spec.describe()
            ));
        }
        Ok(())
    }

    /// Checks that the limits allow files from which all bytes can be selected.
    fn check_limits(&self, selection: &Selection) -> Result<(), SetupError> {
        let wrong = |problem: String| Err(SetupError::Config(problem));
        let (least, most) = (self.min_bytes, self.max_bytes.unwrap_or(usize::MAX));
        let needed = if self.padding.is_some() { 1 } else { selection.beginning.max(selection.end) };
        if least > MAX_ROW {
            return wrong(format!("min_bytes: {least} is too many, at most {MAX_ROW}"));
        }
        if selection.is_stripped && least > selection.block {
            return wrong(format!(
                "min_bytes: {least} bytes are more than block_size = {}, of which they are counted",
                selection.block
            ));
        }
        if most < least.max(needed) {
            return wrong(format!(
                "max_bytes: {most} bytes are fewer than the {} that a file needs",
                least.max(needed)
            ));
        }
        Ok(())
    }

    /// Describes the defaults that are used for unset settings and that change the model's input.
    fn assumptions(&self) -> Vec<String> {
        let defaults = [
            (self.offset.is_none(), "offset = 0"),
            (self.strip_whitespace.is_none(), "strip_whitespace = false"),
            (self.end.is_none(), "end = 0"),
        ];
        let taken: Vec<&str> = defaults.iter().filter(|(is_taken, _)| *is_taken).map(|(_, default)| *default).collect();
        if taken.is_empty() {
            return Vec::new();
        }
        vec![format!("files are prepared with {}, because [preprocess] does not set them", taken.join(", "))]
    }
}

/// Bound of the numbers that `from_small_integer` converts. No model has so many kinds of bytes.
const NUMBERS: u32 = 10_000_000;

/// Returns true if a number is a value of this element type.
fn holds(dtype: DType, number: u32) -> bool {
    number < NUMBERS && with_element_type!(dtype, T => T::from_small_integer(number).is_some())
}

/// Rows that were made from the files of a request so far.
struct Batch {
    data: Data,
    numbers: Vec<f32>,
    rows: usize,
}

impl Preprocessor for BytesPreprocessor {
    fn transform(&self, instances: &RawValue, deadline: Deadline) -> Result<Prepared> {
        let mut batch = self.batch();
        let read = |json: &mut Reader<'_>| {
            deadline.check()?;
            let file = encoded_file(json, EXAMPLE)?;
            self.add(&file, &mut batch).map_err(misfit)
        };
        Reader::instances(instances.get(), (self.most_rows, deadline), read, Error::from)?;
        self.finish(batch)
    }

    fn instance_form(&self) -> Option<InstanceForm> {
        Some(InstanceForm::file("bytes"))
    }

    fn media_types(&self) -> &'static [&'static str] {
        &MEDIA_TYPES
    }

    fn transform_raw(&self, _media_type: &str, body: &[u8], _deadline: Deadline) -> Result<Prepared> {
        let mut batch = self.batch();
        self.add(body, &mut batch).map_err(|problem| Error::InvalidInput(format!("the body: {problem}")))?;
        self.finish(batch)
    }

    fn instance_schema(&self) -> Value {
        json_schema::encoded_file("a file")
    }

    /// Returns three files: of any bytes, of letters, and of small numbers.
    fn samples(&self) -> Option<[String; 3]> {
        let needed = self.selection.beginning.max(self.selection.end);
        let length = if self.padding.is_some() { needed.min(4096) } else { needed };
        let length = length.max(self.min_bytes).min(self.max_bytes);
        let mut random = fastrand::Rng::with_seed(0x5eed);
        let mut sample = |range: std::ops::RangeInclusive<u8>| {
            let file: Vec<u8> = (0..length).map(|_| random.u8(range.clone())).collect();
            format!(r#"{{"b64": "{}"}}"#, STANDARD.encode(file))
        };
        // None of the bytes is white space, so none is stripped.
        Some([sample(128..=u8::MAX), sample(b'a'..=b'z'), sample(0..=8)])
    }

    fn assumptions(&self) -> Vec<String> {
        self.assumptions.clone()
    }

    fn features(&self) -> FeatureSchema {
        features::schema()
    }
}

impl BytesPreprocessor {
    fn batch(&self) -> Batch {
        let data = with_element_type!(self.dtype, T => T::into_data(Vec::new()));
        Batch { data, numbers: Vec::new(), rows: 0 }
    }

    /// Adds a file to the batch as a row.
    fn add(&self, file: &[u8], batch: &mut Batch) -> Result<(), String> {
        if file.len() > self.max_bytes {
            let (length, most) = (file.len(), self.max_bytes);
            return Err(format!("found a file of {length} bytes, at most {most} are accepted (preprocess.max_bytes)"));
        }
        let selected = self.selection.select(file);
        self.check_length(selected, file.len())?;
        batch.numbers.extend(features::features_of(file.len(), selected));
        batch.rows += 1;
        for_each_element_type!(&mut batch.data, values => {
            selected.write(&self.selection, &self.elements()?, values);
        });
        Ok(())
    }

    /// Checks that a file has as many bytes as `model.toml` and the model require.
    fn check_length(&self, selected: Selected<'_>, length: usize) -> Result<(), String> {
        let found = match selected.available {
            available if available == length => format!("found a file of {length} bytes"),
            available if self.selection.beginning > 0 => {
                format!("found a file of {length} bytes, {available} of them in its first block after white space")
            }
            available => {
                format!("found a file of {length} bytes, {available} of them in its last block before white space")
            }
        };
        if selected.available < self.min_bytes {
            return Err(format!("{found}, expected at least {} (preprocess.min_bytes)", self.min_bytes));
        }
        let Selection { beginning, end, .. } = self.selection;
        if self.padding.is_none() && (selected.beginning.len() < beginning || selected.end.len() < end) {
            return Err(format!(
                "{found}, expected at least {}, because preprocess.padding is not set",
                beginning.max(end)
            ));
        }
        Ok(())
    }

    /// Returns the elements that stand for bytes.
    fn elements<T: FromJson>(&self) -> Result<Elements<T>, String> {
        let element = |number| T::from_small_integer(number).ok_or_else(|| format!("{number} is not an element"));
        let of_byte = (0..=u8::MAX).map(|byte| element(u32::from(byte) + self.offset)).collect::<Result<_, _>>()?;
        Ok(Elements { of_byte, padding: element(self.padding.unwrap_or(0))? })
    }

    fn finish(&self, batch: Batch) -> Result<Prepared> {
        let tensor = Tensor::new(vec![batch.rows, self.selection.len()], batch.data)?;
        let mut features = Features::with_rows(batch.rows);
        features.numbers = batch.numbers;
        let inputs = [(Arc::clone(&self.input), tensor)].into_iter().collect();
        Ok(Prepared { inputs, features, origin: Origin::Unknown })
    }
}

#[cfg(test)]
mod tests;
