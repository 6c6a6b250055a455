//! Inference: `POST /v2/models/{model}/infer`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::JsonSchema;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::pipeline::Object;

/// Maximum number of inputs, and of outputs, in a request. Each takes some hundred bytes, however short its text is.
const MAX_TENSORS: usize = 1_024;

/// Maximum number of dimensions of a tensor.
const MAX_DIMENSIONS: usize = 32;

/// Request for an inference. Its elements are not parsed yet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InferRequest<'a> {
    /// Id of the request, which the answer repeats.
    #[serde(borrow, default)]
    pub id: Option<Cow<'a, str>>,
    /// The inputs.
    #[serde(borrow, deserialize_with = "objects")]
    #[schemars(length(max = 1024))]
    pub inputs: Vec<InputTensor<'a>>,
    /// The outputs to answer; by default, all.
    #[serde(borrow, default, deserialize_with = "objects_or_null")]
    #[schemars(length(max = 1024))]
    pub outputs: Vec<RequestedOutput<'a>>,
    /// Parameters of the request.
    #[serde(borrow, default, deserialize_with = "or_null")]
    pub parameters: RequestParameters<'a>,
    /// Name of the model, which some clients repeat. The path decides.
    #[serde(borrow, default)]
    pub model_name: Option<Cow<'a, str>>,
    /// Version of the model, which some clients repeat. The path decides.
    #[serde(borrow, default)]
    pub model_version: Option<Cow<'a, str>>,
}

/// Input tensor of a request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InputTensor<'a> {
    /// Name of the input.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// Lengths of the dimensions.
    #[serde(deserialize_with = "at_most::<MAX_DIMENSIONS, _, _>")]
    #[schemars(length(max = 32))]
    pub shape: Vec<usize>,
    /// Name of the type of the elements, as in `FP32`.
    #[serde(borrow)]
    pub datatype: Cow<'a, str>,
    /// The elements, row-major: as a flat array, or nested arrays of the shape. Absent if they follow as raw bytes.
    #[serde(borrow, default)]
    #[schemars(with = "Option<Vec<Value>>")]
    pub data: Option<&'a RawValue>,
    /// Parameters of the input.
    #[serde(default, deserialize_with = "or_null")]
    pub parameters: InputParameters,
}

/// Output that a request asks for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestedOutput<'a> {
    /// Name of the output.
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// Parameters of the output.
    #[serde(default, deserialize_with = "or_null")]
    pub parameters: OutputParameters,
}

/// Parameters of a request. Those that are not listed here are ignored.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RequestParameters<'a> {
    /// Time limit in microseconds, counted from the head of the request; 0 for none.
    pub timeout: Option<u64>,
    /// 0 for the priority of the head, 1 for high, 2 for normal, 3 for low.
    pub priority: Option<u64>,
    /// True if outputs are answered as raw bytes unless they say otherwise.
    pub binary_data_output: Option<bool>,
    /// Meaning of the inputs' names: `model` for the inputs of the model itself, `pipeline` for columns of the pipeline. By
    /// default, the names decide.
    #[serde(borrow)]
    pub content: Option<Cow<'a, str>>,
    /// Id of a sequence of requests, which is not supported.
    #[serde(borrow)]
    #[schemars(with = "Option<Value>")]
    pub sequence_id: Option<&'a RawValue>,
}

/// Parameters of an input. Those that are not listed here are ignored.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct InputParameters {
    /// Number of raw bytes of the input, which follow the JSON text in the order of the inputs.
    pub binary_data_size: Option<usize>,
    /// Name of a region of shared memory, which is not supported.
    #[schemars(with = "Option<Value>")]
    pub shared_memory_region: Option<serde::de::IgnoredAny>,
}

/// Parameters of an output. Those that are not listed here are ignored.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OutputParameters {
    /// True if the output is answered as raw bytes.
    pub binary_data: Option<bool>,
    /// Number of classes to answer instead of the output, which is not supported.
    pub classification: Option<u64>,
    /// Name of a region of shared memory, which is not supported.
    #[schemars(with = "Option<Value>")]
    pub shared_memory_region: Option<serde::de::IgnoredAny>,
}

/// Answer to a request for an inference.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "InferAnswer")]
pub struct InferAnswer<'a, T> {
    /// Name of the model.
    pub model_name: &'a str,
    /// Version that answered.
    pub model_version: &'a str,
    /// Id of the request, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// The outputs.
    pub outputs: Vec<AnsweredTensor<'a, T>>,
}

/// Output tensor of an answer.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AnsweredTensor")]
pub struct AnsweredTensor<'a, T> {
    /// Name of the output.
    pub name: &'a str,
    /// Name of the type of the elements, as in `FP32`.
    pub datatype: &'static str,
    /// Lengths of the dimensions.
    pub shape: &'a [usize],
    /// Parameters of the output, if its elements follow as raw bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<AnswerParameters>,
    /// The elements, row-major in a flat array. Absent if they follow as raw bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<Value>>")]
    pub data: Option<T>,
}

/// Parameters of an output in an answer.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct AnswerParameters {
    /// Number of raw bytes of the output, which follow the JSON text in the order of the outputs.
    pub binary_data_size: usize,
}

/// Deserializes an array of at most `MAX` items. A longer one is refused before it takes memory.
fn at_most<'de, const MAX: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct Items<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an array of at most {MAX} items")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = sequence.next_element()? {
                if items.len() == MAX {
                    return Err(serde::de::Error::invalid_length(MAX + 1, &self));
                }
                items.push(item);
            }
            Ok(items)
        }
    }

    deserializer.deserialize_seq(Items::<T, MAX>(PhantomData))
}

/// Deserializes an array of objects, at most [`MAX_TENSORS`].
fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let objects = at_most::<MAX_TENSORS, Object<T>, D>(deserializer)?;
    Ok(objects.into_iter().map(|Object(item)| item).collect())
}

/// Deserializes an array of objects, at most [`MAX_TENSORS`]. `null` is an empty array: some clients write all members.
fn objects_or_null<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Objects<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Objects<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an array of at most {MAX_TENSORS} objects, or null")
        }

        fn visit_none<E>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
            objects(deserializer)
        }
    }

    deserializer.deserialize_option(Objects(PhantomData))
}

/// Deserializes an object. `null` is its default: some clients write all members.
fn or_null<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<Object<T>>::deserialize(deserializer)?.map(|Object(value)| value).unwrap_or_default())
}
