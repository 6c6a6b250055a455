//! Inputs and outputs of a prediction, as all protocols have them.

use serde_json::value::RawValue;

use crate::error::Result;
use crate::pipeline::Prediction;
use crate::tensor::{Tensor, Tensors};

/// Input of a prediction.
#[derive(Debug)]
pub enum Input<'a> {
    /// Instances: a JSON array, as yet unread. The preprocessor makes tensors of them.
    Instances(&'a RawValue),
    /// One instance of a media type that the preprocessor reads, such as an image.
    Media {
        /// The media type, as in [`Preprocessor::media_types`](crate::pipeline::Preprocessor::media_types).
        media_type: &'static str,
        /// The bytes of the instance.
        bytes: &'a [u8],
    },
    /// The inputs of the model itself, by name. They pass the preprocessor by.
    Tensors(Vec<(String, Tensor)>),
}

/// Output of a prediction.
#[derive(Debug)]
pub enum Output<'a> {
    /// A prediction for each instance: the answer to [`Input::Instances`] and [`Input::Media`].
    Predictions(&'a [Prediction]),
    /// The outputs of the model that its answers are made of: the answer to [`Input::Tensors`]. They pass the postprocessor
    /// by.
    Tensors(&'a Tensors),
}

/// The body of a request, as its protocol carries it.
pub trait EncodedRequest: Send + 'static {
    /// Returns its size in bytes, with which the cost of decoding it grows.
    fn size(&self) -> usize;

    /// Decodes it and hands the input on. Called within the preprocessing.
    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<T>;
}
