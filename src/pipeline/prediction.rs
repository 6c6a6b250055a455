//! Type of a prediction, and its form as JSON.

use half::{bf16, f16};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::classify::labels::Label;
use crate::feature::{Certainty, Observation};
use crate::tensor::{Data, Tensor, Tensors, for_each_element_type};

/// Prediction for one row of the model's outputs.
#[derive(Debug, Clone, PartialEq)]
pub enum Prediction {
    /// A class: `{"label": 3, "confidence": 0.98, "top": [{"label": 3, "score": 0.98}, …]}`.
    Class {
        /// Index of the chosen class, from 0.
        class: usize,
        /// Name of the chosen class.
        label: Label,
        /// Certainty of the model.
        certainty: Certainty,
        /// The most probable classes, the best first.
        top: Vec<Score>,
    },
    /// Any number of classes: `{"labels": [{"label": "sport", "score": 0.9}, …]}`.
    Classes {
        /// Index of the most probable class, from 0.
        class: usize,
        /// Certainty of the model.
        certainty: Certainty,
        /// The classes that reach the threshold, the best first.
        labels: Vec<Score>,
    },
    /// A number: `{"value": 12.3}`.
    Value(f64),
    /// A vector: `{"embedding": [0.1, …]}`.
    Embedding(Vec<f32>),
    /// Parts of a text: `{"entities": [{"label": "city", "score": 0.9, "start": 3, "end": 9, "text": "Leiden"}, …]}`.
    Entities(Vec<Entity>),
    /// Parts of an image: `{"detections": [{"label": "cat", "score": 0.9, "box": [10, 20, 110, 220]}, …]}`.
    Detections(Vec<Detection>),
    /// The class of each pixel of an image: `{"size": [480, 640], "png": "iVBO…", "classes": [{"class": 1, …}, …]}`.
    Mask(Box<Mask>),
    /// One row of each output: written as the value itself, or as an object by output name if there are several
    /// outputs.
    Outputs(Tensors),
    /// The answer of a custom stage.
    Json(serde_json::Value),
}

/// A class and its probability.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Score {
    /// The class.
    pub label: Label,
    /// Probability of the class.
    pub score: f32,
}

/// Entity that was recognised in a text.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Entity {
    /// Label of the entity.
    pub label: Label,
    /// Mean probability of the tokens of the entity.
    pub score: f32,
    /// Position of the first character of the entity, counted from 0 in Unicode code points, as in Python.
    pub start: usize,
    /// Position after the last character of the entity.
    pub end: usize,
    /// Text of the entity.
    pub text: String,
}

/// Object that was recognised in an image.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Detection {
    /// Label of the object.
    pub label: Label,
    /// Probability of the object.
    pub score: f32,
    /// Left, top, right and bottom of the object, in pixels of the image that was sent.
    #[serde(rename = "box")]
    pub corners: [f32; 4],
}

/// The class of each pixel of an image.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Mask {
    /// Height and width of the mask, in pixels.
    pub size: [u32; 2],
    /// The mask as a grayscale PNG in base64, whose values are the classes, if it is answered in this format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub png: Option<String>,
    /// The classes that occur in the mask, by number.
    pub classes: Vec<MaskClass>,
    /// Monitored value of the mask.
    #[serde(skip)]
    pub observation: Observation,
}

/// A class that occurs in a mask.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct MaskClass {
    /// Number of the class, which is its value in the PNG.
    pub class: usize,
    /// Label of the class.
    pub label: Label,
    /// Share of the pixels of the mask that have this class, 0 to 1.
    pub share: f32,
    /// Mean probability of the class at its pixels. `None` if the model returns classes without scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
    /// The pixels of the class, if the mask is answered in this format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rle: Option<RunLengths>,
}

/// The pixels of a class, in the form of COCO's uncompressed run lengths.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RunLengths {
    /// Height and width of the mask, in pixels.
    pub size: [u32; 2],
    /// Lengths of runs, column by column and from top to bottom: in turn pixels of other classes and pixels of the class.
    pub counts: Vec<u32>,
}

impl Prediction {
    /// Returns the monitored value of the prediction: a class and its certainty, or the predicted number if it is finite.
    /// With others, a mean would be NaN for ever.
    pub fn observation(&self) -> Observation {
        match self {
            Prediction::Class { class, certainty, .. } | Prediction::Classes { class, certainty, .. } => {
                Observation::Class { class: *class, certainty: *certainty }
            }
            Prediction::Value(value) => observed_number(Some(*value)),
            Prediction::Mask(mask) => mask.observation,
            Prediction::Outputs(outputs) => match outputs.at(0) {
                Some(only) if outputs.len() == 1 => observed_number(only.only_number()),
                _ => Observation::Nothing,
            },
            Prediction::Embedding(_) | Prediction::Entities(_) | Prediction::Detections(_) | Prediction::Json(_) => {
                Observation::Nothing
            }
        }
    }
}

impl Serialize for Prediction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Prediction::Class { label, certainty, top, .. } => {
                let mut map = serializer.serialize_map(Some(3))?;
                map.serialize_entry("label", label)?;
                map.serialize_entry("confidence", &certainty.confidence)?;
                map.serialize_entry("top", top)?;
                map.end()
            }
            Prediction::Classes { labels, .. } => only(serializer, "labels", labels),
            Prediction::Value(value) => only(serializer, "value", value),
            Prediction::Embedding(vector) => only(serializer, "embedding", vector),
            Prediction::Entities(entities) => only(serializer, "entities", entities),
            Prediction::Detections(detections) => only(serializer, "detections", detections),
            Prediction::Mask(mask) => mask.serialize(serializer),
            Prediction::Outputs(outputs) => match outputs.at(0) {
                Some(only) if outputs.len() == 1 => Values::of_row(only).serialize(serializer),
                _ => serializer.collect_map(outputs.iter().map(|(name, tensor)| (&**name, Values::of_row(tensor)))),
            },
            Prediction::Json(value) => value.serialize(serializer),
        }
    }
}

fn observed_number(value: Option<f64>) -> Observation {
    value.filter(|value| value.is_finite()).map_or(Observation::Nothing, Observation::Value)
}

/// Serializes an object with one key.
fn only<S: Serializer>(serializer: S, key: &'static str, value: &(impl Serialize + ?Sized)) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(key, value)?;
    map.end()
}

/// Part of a tensor that is serialized as nested JSON arrays.
struct Values<'a> {
    shape: &'a [usize],
    data: &'a Data,
    start: usize,
}

impl<'a> Values<'a> {
    /// Selects the first row of a tensor.
    fn of_row(tensor: &'a Tensor) -> Values<'a> {
        Values { shape: tensor.row_shape(), data: tensor.data(), start: 0 }
    }
}

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.shape {
            [] => for_each_element_type!(self.data, values => values[self.start].written().serialize(serializer)),
            [length] => {
                let elements = self.start..self.start + length;
                for_each_element_type!(self.data, values => {
                    serializer.collect_seq(values[elements].iter().map(Written::written))
                })
            }
            [length, inner @ ..] => {
                let step: usize = inner.iter().product();
                let mut rows = serializer.serialize_seq(Some(*length))?;
                for row in 0..*length {
                    let start = self.start + row * step;
                    rows.serialize_element(&Values { shape: inner, data: self.data, start })?;
                }
                rows.end()
            }
        }
    }
}

/// JSON form of an element of a tensor: the element itself, which is `null` for NaN and infinity, except for types that
/// serde_json does not write as numbers.
trait Written {
    fn written(&self) -> impl Serialize;
}

macro_rules! written {
    ($($type:ty: $written:expr),* $(,)?) => {$(
        impl Written for $type {
            fn written(&self) -> impl Serialize {
                let written: fn(&$type) -> _ = $written;
                written(self)
            }
        }
    )*};
}

written! {
    f32: |value| *value, f64: |value| *value, f16: |value| value.to_f32(), bf16: |value| value.to_f32(),
    i8: |value| *value, i16: |value| *value, i32: |value| *value, i64: |value| *value,
    u8: |value| *value, u16: |value| *value, u32: |value| *value, u64: |value| *value,
    bool: |value| *value,
}

/// The items of a sequence, each as its only row.
impl Written for Vec<Tensor> {
    fn written(&self) -> impl Serialize {
        self.iter().map(Values::of_row).collect::<Vec<_>>()
    }
}

impl Written for String {
    fn written(&self) -> impl Serialize {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prediction: &Prediction, expected: &str) {
        assert_eq!(serde_json::to_string(prediction).unwrap(), expected);
    }

    fn row(shape: &[usize], data: Data) -> Tensor {
        Tensor::new([&[1], shape].concat(), data).unwrap()
    }

    #[test]
    fn one_output_is_its_value_and_several_are_an_object() {
        let image = row(&[2, 3], Data::I32(vec![1, 2, 3, 4, 5, 6]));
        let scalar = row(&[], Data::F32(vec![0.1]));
        check(&Prediction::Outputs([("y".into(), image.clone())].into_iter().collect()), "[[1,2,3],[4,5,6]]");
        check(&Prediction::Outputs([("y".into(), scalar.clone())].into_iter().collect()), "0.1");
        check(
            &Prediction::Outputs([("a".into(), image), ("b".into(), scalar)].into_iter().collect()),
            r#"{"a":[[1,2,3],[4,5,6]],"b":0.1}"#,
        );
    }

    #[test]
    fn a_class_is_its_best_score_and_the_runners_up() {
        let top = vec![
            Score { label: Label::Text("cat".into()), score: 0.75 },
            Score { label: Label::Text("dog".into()), score: 0.25 },
        ];
        check(
            &Prediction::Class {
                class: 7,
                label: Label::Text("cat".into()),
                certainty: Certainty { confidence: 0.75, margin: 0.5, entropy: 0.8 },
                top,
            },
            r#"{"label":"cat","confidence":0.75,"top":[{"label":"cat","score":0.75},{"label":"dog","score":0.25}]}"#,
        );
    }
}
