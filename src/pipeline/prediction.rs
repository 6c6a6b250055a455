//! Type of a prediction, and its form as JSON.

use std::sync::Arc;

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
    /// A number for each of several targets: `{"values": {"price": 12.3, "days": 4.0}}`.
    Values {
        /// Names of the targets.
        names: Arc<[Arc<str>]>,
        /// The number of each target.
        values: Vec<f64>,
        /// Index of the target that is monitored.
        monitored: usize,
    },
    /// A prediction for each of several targets: `{"targets": {"colour": {"label": "red", …}, "size": {…}}}`.
    Targets {
        /// Names of the targets.
        names: Arc<[Arc<str>]>,
        /// The prediction of each target.
        predictions: Vec<Prediction>,
        /// Index of the target that is monitored.
        monitored: usize,
    },
    /// A detector's verdict on a row: `{"label": -1, "score": -0.12}`.
    Anomaly {
        /// −1 for an anomaly, 1 for a normal row.
        label: i64,
        /// Score of the row, in the scale of the model.
        score: f64,
    },
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
    /// A prediction whose NaN and infinite numbers are written as the strings "NaN", "Infinity" and "-Infinity", as in
    /// the JSON form of Protocol Buffers; in other predictions they are `null`.
    NonFiniteAsText(Box<Prediction>),
    /// The answer of a custom stage.
    Json(serde_json::Value),
    /// The objects of an image, each with the prediction for its crop:
    /// `{"detections": [{"label": "cat", "score": 0.9, "box": […], "prediction": {…}}, …]}`.
    Crops(Vec<Crop>),
    /// The predictions of the steps of a chain: `{"detect": {…}, "classify": {…}}`.
    Steps {
        /// Names of the steps.
        names: Arc<[Arc<str>]>,
        /// The prediction of each step.
        predictions: Vec<Prediction>,
    },
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

/// Object that was recognised in an image, and the prediction for its crop.
#[derive(Debug, Clone, PartialEq)]
pub struct Crop {
    /// The object.
    pub detection: Detection,
    /// The prediction of a later step.
    pub prediction: Prediction,
}

impl Serialize for Crop {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Crop { detection: Detection { label, score, corners }, prediction } = self;
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("label", label)?;
        map.serialize_entry("score", score)?;
        map.serialize_entry("box", corners)?;
        map.serialize_entry("prediction", prediction)?;
        map.end()
    }
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
            Prediction::Mask(mask) => mask.observation,
            Prediction::Value(value) | Prediction::Anomaly { score: value, .. } => observed_number(Some(*value)),
            Prediction::Values { values, monitored, .. } => observed_number(values.get(*monitored).copied()),
            Prediction::Targets { predictions, monitored, .. } => {
                predictions.get(*monitored).map_or(Observation::Nothing, Prediction::observation)
            }
            Prediction::NonFiniteAsText(prediction) => prediction.observation(),
            Prediction::Outputs(outputs) => match outputs.at(0) {
                Some(only) if outputs.len() == 1 => observed_number(only.only_number()),
                _ => Observation::Nothing,
            },
            Prediction::Embedding(_)
            | Prediction::Entities(_)
            | Prediction::Detections(_)
            | Prediction::Crops(_)
            | Prediction::Steps { .. }
            | Prediction::Json(_) => Observation::Nothing,
        }
    }
}

/// Returns the numbers of these embeddings, one after the other; empty if a prediction is something else.
pub fn embeddings(predictions: &[Prediction]) -> Vec<f32> {
    let of = |prediction: &Prediction| match prediction {
        Prediction::Embedding(numbers) => Some(numbers.clone()),
        _ => None,
    };
    predictions.iter().map(of).collect::<Option<Vec<_>>>().unwrap_or_default().concat()
}

impl Serialize for Prediction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.serialize_as::<false, S>(serializer)
    }
}

impl Prediction {
    /// Serializes the prediction. NaN and infinity become `null`, or texts if `NON_FINITE_AS_TEXT`.
    fn serialize_as<const NON_FINITE_AS_TEXT: bool, S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Prediction::Class { label, certainty, top, .. } => {
                let mut map = serializer.serialize_map(Some(3))?;
                map.serialize_entry("label", label)?;
                map.serialize_entry("confidence", &certainty.confidence)?;
                map.serialize_entry("top", top)?;
                map.end()
            }
            Prediction::Classes { labels, .. } => only(serializer, "labels", labels),
            Prediction::Value(value) => only(serializer, "value", &Float::<_, NON_FINITE_AS_TEXT>(*value)),
            Prediction::Values { names, values, .. } => {
                let values = values.iter().map(|value| Float::<_, NON_FINITE_AS_TEXT>(*value));
                only(serializer, "values", &ByName { names, values })
            }
            Prediction::Targets { names, predictions, .. } => {
                only(serializer, "targets", &ByName { names, values: predictions.iter() })
            }
            Prediction::Anomaly { label, score } => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("label", label)?;
                map.serialize_entry("score", score)?;
                map.end()
            }
            Prediction::Embedding(vector) => only(serializer, "embedding", vector),
            Prediction::Entities(entities) => only(serializer, "entities", entities),
            Prediction::Detections(detections) => only(serializer, "detections", detections),
            Prediction::Mask(mask) => mask.serialize(serializer),
            Prediction::Outputs(outputs) => match outputs.at(0) {
                Some(only) if outputs.len() == 1 => Values::<NON_FINITE_AS_TEXT>::of_row(only).serialize(serializer),
                _ => serializer.collect_map(
                    outputs.iter().map(|(name, tensor)| (&**name, Values::<NON_FINITE_AS_TEXT>::of_row(tensor))),
                ),
            },
            Prediction::NonFiniteAsText(prediction) => prediction.serialize_as::<true, S>(serializer),
            Prediction::Json(value) => value.serialize(serializer),
            Prediction::Crops(crops) => only(serializer, "detections", crops),
            Prediction::Steps { names, predictions } => {
                ByName { names, values: predictions.iter() }.serialize(serializer)
            }
        }
    }
}

/// Values with their names, which serialize as an object.
struct ByName<'a, I> {
    names: &'a [Arc<str>],
    values: I,
}

impl<I: Iterator<Item: Serialize> + Clone> Serialize for ByName<'_, I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.names.iter().map(|name| &**name).zip(self.values.clone()))
    }
}

/// A floating-point number. NaN and infinity serialize as `null`, or as text if `NON_FINITE_AS_TEXT`.
struct Float<T, const NON_FINITE_AS_TEXT: bool>(T);

impl<T: Copy + Into<f64> + Serialize, const NON_FINITE_AS_TEXT: bool> Serialize for Float<T, NON_FINITE_AS_TEXT> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !NON_FINITE_AS_TEXT {
            return self.0.serialize(serializer);
        }
        match self.0.into() {
            value if value.is_nan() => serializer.serialize_str("NaN"),
            f64::INFINITY => serializer.serialize_str("Infinity"),
            f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
            _ => self.0.serialize(serializer),
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
struct Values<'a, const NON_FINITE_AS_TEXT: bool> {
    shape: &'a [usize],
    data: &'a Data,
    start: usize,
}

impl<'a, const NON_FINITE_AS_TEXT: bool> Values<'a, NON_FINITE_AS_TEXT> {
    /// Selects the first row of a tensor.
    fn of_row(tensor: &'a Tensor) -> Self {
        Values { shape: tensor.row_shape(), data: tensor.data(), start: 0 }
    }
}

impl<const NON_FINITE_AS_TEXT: bool> Serialize for Values<'_, NON_FINITE_AS_TEXT> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.shape {
            [] => for_each_element_type!(self.data, values => {
                values[self.start].written::<NON_FINITE_AS_TEXT>().serialize(serializer)
            }),
            [length] => {
                let elements = self.start..self.start + length;
                for_each_element_type!(self.data, values => {
                    serializer.collect_seq(values[elements].iter().map(Written::written::<NON_FINITE_AS_TEXT>))
                })
            }
            [length, inner @ ..] => {
                let step: usize = inner.iter().product();
                let mut rows = serializer.serialize_seq(Some(*length))?;
                for row in 0..*length {
                    let start = self.start + row * step;
                    let row = Values::<NON_FINITE_AS_TEXT> { shape: inner, data: self.data, start };
                    rows.serialize_element(&row)?;
                }
                rows.end()
            }
        }
    }
}

/// Elements of a tensor, which serialize as one flat JSON array. Each floating-point number has the fewest digits that
/// read as the same number; NaN and infinity become `null`.
///
/// ```
/// use leeway::pipeline::FlatElements;
/// use leeway::tensor::Data;
/// assert_eq!(serde_json::to_string(&FlatElements(&Data::F32(vec![0.1, 2.0]))).unwrap(), "[0.1,2.0]");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct FlatElements<'a>(pub &'a Data);

impl Serialize for FlatElements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        for_each_element_type!(self.0, values => serializer.collect_seq(values.iter().map(Written::written::<false>)))
    }
}

/// JSON form of an element of a tensor: the element itself, except for types that serde_json does not write as numbers.
trait Written {
    fn written<const NON_FINITE_AS_TEXT: bool>(&self) -> impl Serialize;
}

macro_rules! written {
    ($($type:ty: $value:ident => $written:expr),* $(,)?) => {$(
        impl Written for $type {
            fn written<const NON_FINITE_AS_TEXT: bool>(&self) -> impl Serialize {
                let $value = *self;
                $written
            }
        }
    )*};
}

written! {
    f32: value => Float::<_, NON_FINITE_AS_TEXT>(value), f64: value => Float::<_, NON_FINITE_AS_TEXT>(value),
    f16: value => Float::<_, NON_FINITE_AS_TEXT>(value.to_f32()),
    bf16: value => Float::<_, NON_FINITE_AS_TEXT>(value.to_f32()),
    i8: value => value, i16: value => value, i32: value => value, i64: value => value,
    u8: value => value, u16: value => value, u32: value => value, u64: value => value,
    bool: value => value,
}

/// The items of a sequence, each as its only row.
impl Written for Vec<Tensor> {
    fn written<const NON_FINITE_AS_TEXT: bool>(&self) -> impl Serialize {
        self.iter().map(Values::<NON_FINITE_AS_TEXT>::of_row).collect::<Vec<_>>()
    }
}

impl Written for String {
    fn written<const NON_FINITE_AS_TEXT: bool>(&self) -> impl Serialize {
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

    #[test]
    fn several_targets_are_an_object_and_one_is_monitored() {
        let names: Arc<[Arc<str>]> = ["price".into(), "days".into()].into();
        let values = Prediction::Values { names: Arc::clone(&names), values: vec![0.1, 4.0], monitored: 1 };
        check(&values, r#"{"values":{"price":0.1,"days":4.0}}"#);
        assert_eq!(values.observation(), Observation::Value(4.0));
        let predictions = vec![Prediction::Value(1.5), Prediction::Value(f64::NAN)];
        let targets = Prediction::Targets { names, predictions, monitored: 0 };
        check(&targets, r#"{"targets":{"price":{"value":1.5},"days":{"value":null}}}"#);
        assert_eq!(targets.observation(), Observation::Value(1.5));
        let anomaly = Prediction::Anomaly { label: -1, score: -0.25 };
        check(&anomaly, r#"{"label":-1,"score":-0.25}"#);
        assert_eq!(anomaly.observation(), Observation::Value(-0.25));
    }

    /// The strings of the JSON form of Protocol Buffers: https://protobuf.dev/programming-guides/json/.
    #[test]
    fn numbers_that_are_not_finite_are_null_or_text() {
        let check_both = |prediction: Prediction, null: &str, text: &str| {
            check(&prediction, null);
            check(&Prediction::NonFiniteAsText(Box::new(prediction)), text);
        };
        let numbers = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.1];
        let (null, text) = ("[null,null,null,-0.0,0.1]", r#"["NaN","Infinity","-Infinity",-0.0,0.1]"#);
        let of_row = |data: Data| Prediction::Outputs([("y".into(), row(&[5], data))].into_iter().collect());
        check_both(of_row(Data::F32(numbers.to_vec())), null, text);
        check_both(of_row(Data::F64(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.1])), null, text);
        let halves = numbers.map(|number| if number == 0.1 { 0.5 } else { number });
        let of_half = |text: &str| text.replace("0.1]", "0.5]");
        check_both(of_row(Data::F16(halves.map(f16::from_f32).to_vec())), &of_half(null), &of_half(text));
        check_both(of_row(Data::BF16(halves.map(bf16::from_f32).to_vec())), &of_half(null), &of_half(text));
        check_both(Prediction::Value(f64::NAN), r#"{"value":null}"#, r#"{"value":"NaN"}"#);
    }
}
