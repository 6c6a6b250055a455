//! Private readers for the fuzz targets of `fuzz/`. Built with the feature `fuzzing` only.

use crate::feedback;
use crate::repository;

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
