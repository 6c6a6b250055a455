//! Private readers for the fuzz targets of `fuzz/`. Built with the feature `fuzzing` only.

use std::num::NonZeroUsize;

use crate::budget::MemoryBudget;
use crate::feedback;
use crate::grpc;
use crate::http;
use crate::pipeline;
use crate::repository;
use crate::serve;

/// Reads bytes as the body of feedback, and panics if what has to be true of the result is not.
pub fn feedback(body: &[u8]) {
    feedback::fuzzing::feedback(body);
}

/// Reads bytes as a `version.toml`, and panics if what has to be true of the result is not.
pub fn manifest(bytes: &[u8]) {
    repository::fuzzing::manifest(bytes);
}

/// Puts external data into an ONNX file, and panics if what has to be true of the result is not.
pub fn external_data(model: &[u8]) {
    repository::fuzzing::external_data(model);
}

/// Reads the body of a v2 inference, whose JSON text has this length if raw bytes follow, and panics if what has to be true
/// of its tensors is not.
pub fn v2_inference(body: &[u8], json_length: Option<usize>) {
    let memory = MemoryBudget::new(1 << 24, NonZeroUsize::MIN);
    if let Err(error) = http::fuzzing::v2_inference(body, json_length, &memory, serve::fuzzing::named) {
        serve::fuzzing::refused(&error);
    }
}

/// Reads an encoded `ModelInferRequest`, and panics if what has to be true of its tensors is not.
pub fn grpc_inference(message: &[u8]) {
    let memory = MemoryBudget::new(1 << 24, NonZeroUsize::MIN);
    if let Err(error) = grpc::read_tensors(message, serve::Content::ByNames, &memory, serve::fuzzing::named) {
        serve::fuzzing::refused(&error);
    }
}

/// Decodes base64, and panics if what has to be true of the bytes is not.
pub fn base64(text: &str) {
    pipeline::fuzzing::base64(text);
}
