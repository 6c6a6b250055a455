//! Features of tensors, for monitoring drift: each element of a short row, and a summary of a long one.

use std::sync::Arc;

use half::{bf16, f16};
use serde::Deserialize;

use crate::error::{Result, SetupError};
use crate::feature::{FeatureSchema, Features};
use crate::tensor::{DType, Data, Dim, Signature, Tensor, TensorSpec, Tensors, for_each_element_type};

/// By default, rows of up to this many elements are monitored element by element.
const SHORT_ROW: usize = 128;
/// Rows of more elements than this cannot be monitored element by element.
const MAX_ROW: usize = 4096;
/// Features of a row that is summarised: its mean and standard deviation (brightness and contrast, if it is an image),
/// minimum and maximum.
const SUMMARY: [&str; 4] = ["mean", "deviation", "min", "max"];

/// Selection of the features that are read from the model's inputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FeatureSelection {
    /// Every element of rows of up to 128 elements, and a summary of longer rows.
    #[default]
    Auto,
    /// Every element of every row.
    Elements,
    /// A summary of every row.
    Summary,
    /// No features.
    None,
}

/// Reader of the features of all inputs of a model.
#[derive(Debug)]
pub(crate) struct TensorFeatures {
    schema: FeatureSchema,
    parts: Vec<Part>,
}

/// Reader of the features of one input, which also has their position in the schema.
#[derive(Debug)]
struct Part {
    input: usize,
    kind: Kind,
    at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Elements,
    Summary,
    Texts,
}

impl TensorFeatures {
    /// Creates the reader for a model. `columns` names the elements of a row, for a model with only one input.
    pub(crate) fn new(
        watch: FeatureSelection,
        columns: Option<&[String]>,
        signature: &Signature,
    ) -> Result<TensorFeatures, SetupError> {
        let mut features = TensorFeatures { schema: FeatureSchema::default(), parts: Vec::new() };
        if watch == FeatureSelection::None {
            return Ok(features);
        }
        for (input, spec) in signature.inputs.iter().enumerate() {
            let elements = row_elements(spec);
            let is_short = elements.is_some_and(|elements| elements <= SHORT_ROW);
            let kind = match (watch, spec.dtype) {
                (_, DType::Text) if is_short => Kind::Texts,
                (_, DType::Text | DType::Sequence) => continue,
                (FeatureSelection::Auto, _) if is_short => Kind::Elements,
                (FeatureSelection::Elements, _) if elements.is_some_and(|elements| elements <= MAX_ROW) => {
                    Kind::Elements
                }
                (FeatureSelection::Elements, _) => {
                    return Err(SetupError::Config(format!(
                        "features: the rows of {:?} have {} elements, and at most {MAX_ROW} can be watched one by \
                         one; set features = \"summary\"",
                        spec.name,
                        elements.map_or("any number of".to_owned(), |elements| elements.to_string())
                    )));
                }
                (FeatureSelection::Auto | FeatureSelection::Summary | FeatureSelection::None, _) => Kind::Summary,
            };
            let names = match kind {
                Kind::Elements | Kind::Texts => match columns {
                    Some(columns) => columns.iter().map(|name| name.as_str().into()).collect(),
                    None => element_names(spec),
                },
                Kind::Summary => SUMMARY.iter().map(|what| format!("{}.{what}", spec.name).into()).collect(),
            };
            let known = if kind == Kind::Texts { &mut features.schema.texts } else { &mut features.schema.numbers };
            features.parts.push(Part { input, kind, at: known.len() });
            known.extend(names);
        }
        Ok(features)
    }

    pub(crate) fn schema(&self) -> &FeatureSchema {
        &self.schema
    }

    pub(crate) fn read(&self, inputs: &Tensors) -> Features {
        let rows = inputs.rows();
        let mut features = Features::with_rows(rows);
        let width = self.schema.numbers.len();
        features.numbers = vec![f32::NAN; rows * width];
        features.texts = vec![None; rows * self.schema.texts.len()];
        for part in &self.parts {
            let Some(tensor) = inputs.at(part.input) else { continue };
            match part.kind {
                Kind::Elements => elements(tensor, &mut features.numbers, width, part.at),
                Kind::Summary => summaries(tensor, &mut features.numbers, width, part.at),
                Kind::Texts => texts(tensor, &mut features.texts, self.schema.texts.len(), part.at),
            }
        }
        features
    }
}

/// Number of elements of a row, if the model fixes it.
fn row_elements(spec: &TensorSpec) -> Option<usize> {
    spec.dims.iter().skip(1).map(fixed).try_fold(1usize, |product, length| product.checked_mul(length?))
}

fn fixed(dim: &Dim) -> Option<usize> {
    match dim {
        Dim::Fixed(length) => Some(*length),
        Dim::Dynamic(_) => None,
    }
}

/// Returns the names of the elements of a row, as in `pixels[3][4]`; the name of the input if a row is one element.
fn element_names(spec: &TensorSpec) -> Vec<Arc<str>> {
    let elements = row_elements(spec).unwrap_or_default();
    if elements == 1 {
        return vec![Arc::clone(&spec.name)];
    }
    let lengths: Vec<usize> = spec.dims.iter().skip(1).filter_map(fixed).collect();
    let name = |element: usize| {
        let mut below = elements;
        let mut left = element;
        let mut name = spec.name.to_string();
        for length in &lengths {
            below /= length;
            name.push_str(&format!("[{}]", left / below));
            left %= below;
        }
        name.into()
    };
    (0..elements).map(name).collect()
}

fn elements(tensor: &Tensor, to: &mut [f32], width: usize, at: usize) {
    let length = tensor.row_len();
    for_each_element_type!(tensor.data(), values => {
        for (to, row) in to.chunks_exact_mut(width.max(1)).zip(values.chunks_exact(length.max(1))) {
            for (to, value) in to[at..at + length].iter_mut().zip(row) {
                *to = value.number() as f32;
            }
        }
    });
}

fn summaries(tensor: &Tensor, to: &mut [f32], width: usize, at: usize) {
    let length = tensor.row_len();
    for_each_element_type!(tensor.data(), values => {
        for (to, row) in to.chunks_exact_mut(width.max(1)).zip(values.chunks_exact(length.max(1))) {
            to[at..at + SUMMARY.len()].copy_from_slice(&summary(row).map(|value| value as f32));
        }
    });
}

/// Number of sums that grow side by side. One sum alone would wait for each addition to end.
const LANES: usize = 16;

/// Sums of every sixteenth value.
#[derive(Clone, Copy)]
struct Lanes {
    sums: [f64; LANES],
    squares: [f64; LANES],
    min: [f64; LANES],
    max: [f64; LANES],
}

impl Lanes {
    /// Adds a value to a lane. NaN is neither the minimum nor the maximum.
    fn add(&mut self, lane: usize, value: f64, first: f64) {
        let difference = value - first;
        self.sums[lane] += difference;
        self.squares[lane] += difference * difference;
        self.min[lane] = if value < self.min[lane] { value } else { self.min[lane] };
        self.max[lane] = if value > self.max[lane] { value } else { self.max[lane] };
    }
}

/// Returns mean, standard deviation (of the population), minimum and maximum, in one pass. Sums the differences from
/// the first value, which keeps the sums small.
fn summary<T: Number>(values: &[T]) -> [f64; SUMMARY.len()] {
    let Some(first) = values.first().map(Number::number) else { return [f64::NAN; SUMMARY.len()] };
    let mut lanes = Lanes {
        sums: [0.0; LANES],
        squares: [0.0; LANES],
        min: [f64::INFINITY; LANES],
        max: [f64::NEG_INFINITY; LANES],
    };
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in chunk.iter().enumerate() {
            lanes.add(lane, value.number(), first);
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        lanes.add(lane, value.number(), first);
    }
    let count = values.len() as f64;
    let mean = lanes.sums.iter().sum::<f64>() / count;
    let squares = lanes.squares.iter().sum::<f64>() / count;
    let (min, max) = (lanes.min.into_iter().fold(f64::NAN, f64::min), lanes.max.into_iter().fold(f64::NAN, f64::max));
    let (min, max) = if min > max { (f64::NAN, f64::NAN) } else { (min, max) };
    [first + mean, (squares - mean * mean).max(0.0).sqrt(), min, max]
}

fn texts(tensor: &Tensor, to: &mut [Option<String>], width: usize, at: usize) {
    let length = tensor.row_len();
    let Data::Text(values) = tensor.data() else { return };
    for (to, row) in to.chunks_exact_mut(width.max(1)).zip(values.chunks_exact(length.max(1))) {
        for (to, value) in to[at..at + length].iter_mut().zip(row) {
            *to = Some(value.clone());
        }
    }
}

/// Conversion of an element of a tensor to a number.
trait Number {
    fn number(&self) -> f64;
}

macro_rules! number {
    ($($type:ty: $number:expr),* $(,)?) => {$(
        impl Number for $type {
            #[inline]
            fn number(&self) -> f64 {
                let number: fn(&$type) -> f64 = $number;
                number(self)
            }
        }
    )*};
}

number! {
    f32: |value| f64::from(*value), f64: |value| *value, f16: |value| value.to_f64(), bf16: |value| value.to_f64(),
    i8: |value| f64::from(*value), i16: |value| f64::from(*value), i32: |value| f64::from(*value),
    i64: |value| *value as f64,
    u8: |value| f64::from(*value), u16: |value| f64::from(*value), u32: |value| f64::from(*value),
    u64: |value| *value as f64,
    bool: |value| f64::from(u8::from(*value)),
    String: |_| f64::NAN, Vec<Tensor>: |_| f64::NAN,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(inputs: &[(&str, DType, &[Option<usize>])]) -> Signature {
        let spec = |&(name, dtype, row): &(&str, DType, &[Option<usize>])| {
            let row = row.iter().map(|length| length.map_or(Dim::Dynamic(None), Dim::Fixed));
            TensorSpec { name: name.into(), dtype, dims: [Dim::Dynamic(None)].into_iter().chain(row).collect() }
        };
        Signature { inputs: inputs.iter().map(spec).collect(), ..Signature::default() }
    }

    fn names(watch: FeatureSelection, inputs: &[(&str, DType, &[Option<usize>])]) -> (Vec<String>, Vec<String>) {
        let schema = TensorFeatures::new(watch, None, &signature(inputs)).unwrap().schema;
        let texts = |names: &[Arc<str>]| names.iter().map(|name| name.to_string()).collect();
        (texts(&schema.numbers), texts(&schema.texts))
    }

    #[test]
    fn elements_of_short_rows_and_summaries_of_long_ones() {
        let (numbers, texts) = names(
            FeatureSelection::Auto,
            &[
                ("age", DType::I64, &[Some(1)]),
                ("pair", DType::F32, &[Some(1), Some(2)]),
                ("country", DType::Text, &[]),
                ("image", DType::U8, &[Some(28), Some(28)]),
                ("words", DType::I64, &[None]),
            ],
        );
        let summaries =
            ["image", "words"].iter().flat_map(|name| SUMMARY.iter().map(move |what| format!("{name}.{what}")));
        let expected: Vec<String> =
            ["age", "pair[0][0]", "pair[0][1]"].map(str::to_owned).into_iter().chain(summaries).collect();
        assert_eq!((numbers, texts), (expected, vec!["country".to_owned()]));
        assert_eq!(names(FeatureSelection::None, &[("age", DType::I64, &[Some(1)])]), (vec![], vec![]));
        assert_eq!(names(FeatureSelection::Elements, &[("image", DType::U8, &[Some(28), Some(28)])]).0.len(), 784);
        let error = TensorFeatures::new(FeatureSelection::Elements, None, &signature(&[("x", DType::F32, &[None])]))
            .unwrap_err();
        assert!(error.to_string().contains("any number of elements"), "{error}");
    }

    #[test]
    fn values_are_those_of_the_row() {
        let features = TensorFeatures::new(
            FeatureSelection::Auto,
            None,
            &signature(&[
                ("pair", DType::I32, &[Some(2)]),
                ("t", DType::Text, &[Some(1)]),
                ("long", DType::F32, &[Some(200)]),
            ]),
        )
        .unwrap();
        let long: Vec<f32> = (0..400).map(|i| (i % 200) as f32 + if i < 200 { 0.0 } else { 1000.0 }).collect();
        let inputs: Tensors = [
            ("pair".into(), Tensor::new(vec![2, 2], Data::I32(vec![1, 2, 3, 4])).unwrap()),
            ("t".into(), Tensor::new(vec![2, 1], Data::Text(vec!["a".into(), "b".into()])).unwrap()),
            ("long".into(), Tensor::new(vec![2, 200], Data::F32(long)).unwrap()),
        ]
        .into_iter()
        .collect();
        let read = features.read(&inputs);
        // The deviation of the numbers from 0 to 199 is √((200² − 1) / 12).
        let deviation = (39_999.0f64 / 12.0).sqrt();
        let expected = [[1.0, 2.0, 99.5, deviation, 0.0, 199.0], [3.0, 4.0, 1099.5, deviation, 1000.0, 1199.0]];
        for (row, expected) in expected.iter().enumerate() {
            for (found, expected) in read.numbers_of(row).iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 1e-5 * expected.abs().max(1.0), "{read:?}");
            }
        }
        assert_eq!(read.texts_of(1), [Some("b".to_owned())]);
    }
}
