//! Inputs and outputs of a prediction, common to all protocols.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::budget::MemoryBudget;
use crate::error::Result;
use crate::model::Priority;
use crate::pipeline::{NamedRows, Prediction};
use crate::registry::ServedVersion;
use crate::tensor::{DType, Data, RawBytes, Shape};

/// Input of a prediction.
#[derive(Debug)]
pub enum Input<'a> {
    /// Instances: a JSON array that is not parsed yet. The preprocessor turns them into tensors.
    Instances {
        /// The array.
        instances: &'a RawValue,
        /// Memory that copies are charged to.
        memory: &'a MemoryBudget,
    },
    /// Rows of named values, such as columns or CSV. They become instances, and the preprocessor turns these into
    /// tensors.
    Rows {
        /// The rows.
        rows: NamedRows<'a>,
        /// Memory that the instances are charged to.
        memory: &'a MemoryBudget,
    },
    /// One instance of a media type that the preprocessor reads, such as an image.
    Media {
        /// The media type, as in [`Preprocessor::media_types`](crate::pipeline::Preprocessor::media_types).
        media_type: &'static str,
        /// The bytes of the instance.
        bytes: &'a [u8],
        /// Memory that copies are charged to.
        memory: &'a MemoryBudget,
    },
    /// Named tensors: inputs of the model itself, or columns that the preprocessor reads.
    Named(NamedRequest<'a>),
}

/// A request with named tensors.
#[derive(Debug)]
pub struct NamedRequest<'a> {
    /// The inputs.
    pub inputs: Vec<NamedInput<'a>>,
    /// Names of the outputs to answer; empty for all.
    pub outputs: Vec<Cow<'a, str>>,
    /// Meaning of the names of the inputs.
    pub content: Content,
    /// Time limit in the body, which applies in addition to the one in the head.
    pub timeout: Option<Duration>,
    /// Priority in the body, which replaces the one in the head.
    pub priority: Option<Priority>,
    /// Memory that the decoded elements are charged to.
    pub memory: &'a MemoryBudget,
}

/// Meaning of the names of a request's inputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Content {
    /// The names decide: they mean columns of the pipeline if one of them is a column, and not an input of the model.
    #[default]
    ByNames,
    /// Inputs of the model itself. They bypass the preprocessor, and the answer bypasses the postprocessor.
    Model,
    /// Columns that the preprocessor reads. The answer has the predictions as columns.
    Pipeline,
}

/// A named tensor whose elements are not decoded yet. They are decoded once the model is known to take the tensor.
#[derive(Debug)]
pub struct NamedInput<'a> {
    /// Name of the input.
    pub name: Cow<'a, str>,
    /// Type of the elements.
    pub dtype: DType,
    /// Lengths of the dimensions, in the order of the model's file. A scalar has none.
    pub shape: Shape,
    /// The elements.
    pub elements: Elements<'a>,
}

impl NamedInput<'_> {
    /// Returns the number of bytes that the decoded elements take at the most. The shape may be a caller's mistake, so
    /// there are never more elements than the encoded text or bytes can hold.
    pub(super) fn decoded_bytes(&self) -> usize {
        let size = self.dtype.raw_size().unwrap_or(size_of::<String>());
        let most = match &self.elements {
            Elements::Json(json) => json.get().len() / 2 + 1,
            Elements::Raw(bytes) => bytes.len() / self.dtype.raw_size().unwrap_or(4),
            Elements::Values(data) => data.len(),
        };
        let elements = self.shape.iter().fold(1usize, |elements, length| elements.saturating_mul(*length));
        elements.min(most).saturating_mul(size)
    }
}

/// Elements of a tensor, as a protocol sends them.
#[derive(Debug)]
pub enum Elements<'a> {
    /// A JSON array, flat or nested.
    Json(&'a RawValue),
    /// Raw bytes, as [`Data::from_raw`] reads them. Those of texts and booleans are in one part.
    Raw(RawBytes<'a>),
    /// Decoded elements.
    Values(Data),
}

/// Output of a prediction.
#[derive(Debug)]
pub enum Output<'a> {
    /// A prediction for each instance.
    Predictions {
        /// The predictions.
        predictions: &'a [Prediction],
        /// The version that made them: of a chain, that of its last step if its answer is the prediction of this step.
        made_by: &'a ServedVersion,
    },
    /// The outputs that were asked for: of the model itself, or the predictions as columns.
    Named(&'a [NamedOutput]),
}

/// A named tensor of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedOutput {
    /// Name of the output.
    pub name: Arc<str>,
    /// Lengths of the dimensions, in the order of the model's file. A scalar has none.
    pub shape: Shape,
    /// The elements.
    pub data: Data,
}

/// The body of a request, in the encoding of its protocol.
pub trait EncodedRequest: Sized + Send + 'static {
    /// The form of the answer that the body asks for.
    type AnswerForm: Send + 'static;

    /// Returns the size of the body in bytes. The cost of decoding grows with the size.
    fn size(&self) -> usize;

    /// Returns a copy that shares the bytes of the body, and is charged to this memory; `None` if there is too little.
    fn copied(&mut self, memory: &MemoryBudget) -> Option<Self>;

    /// Decodes the body and passes the input to `with`. Called as part of preprocessing.
    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<(T, Self::AnswerForm)>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elements that are decoded already take memory until the answer, as all others do.
    #[test]
    fn elements_count_their_decoded_bytes() {
        let bytes = |elements: Elements<'_>, shape: &[usize]| {
            NamedInput { name: "x".into(), dtype: DType::F64, shape: shape.to_vec(), elements }.decoded_bytes()
        };
        assert_eq!(bytes(Elements::Values(Data::F64(vec![0.0; 6])), &[2, 3]), 48);
        assert_eq!(bytes(Elements::Raw(RawBytes::One(&[0; 48])), &[2, 3]), 48);
        // A shape that promises more than there is.
        assert_eq!(bytes(Elements::Raw(RawBytes::One(&[0; 48])), &[1 << 40]), 48);
    }
}
