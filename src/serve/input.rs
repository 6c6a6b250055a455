//! Inputs and outputs of a prediction, common to all protocols.

use serde_json::value::RawValue;

use crate::error::Result;
use crate::pipeline::Prediction;
use crate::tensor::{Tensor, Tensors};

/// Input of a prediction.
#[derive(Debug)]
pub enum Input<'a> {
    /// Instances: a JSON array that is not parsed yet. The preprocessor turns them into tensors.
    Instances(&'a RawValue),
    /// One instance of a media type that the preprocessor reads, such as an image.
    Media {
        /// The media type, as in [`Preprocessor::media_types`](crate::pipeline::Preprocessor::media_types).
        media_type: &'static str,
        /// The bytes of the instance.
        bytes: &'a [u8],
    },
    /// The inputs of the model itself, by name. They bypass the preprocessor.
    Tensors(Vec<(String, Tensor)>),
}

/// Output of a prediction.
#[derive(Debug)]
pub enum Output<'a> {
    /// A prediction for each instance: the answer to [`Input::Instances`] and [`Input::Media`].
    Predictions(&'a [Prediction]),
    /// The outputs of the model that its answers are made of: the answer to [`Input::Tensors`]. They bypass the
    /// postprocessor.
    Tensors(&'a Tensors),
}

/// The body of a request, in the encoding of its protocol.
pub trait EncodedRequest: Send + 'static {
    /// Returns the size of the body in bytes. The cost of decoding grows with the size.
    fn size(&self) -> usize;

    /// Decodes the body and passes the input to `with`. Called as part of preprocessing.
    fn decode<T>(self, with: impl FnOnce(Input<'_>) -> Result<T>) -> Result<T>;
}
