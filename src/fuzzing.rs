//! Private readers for the fuzz targets of `fuzz/`. Built with the feature `fuzzing`, and for the tests.

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

/// Reads the body of a v2 inference, and panics if what has to be true of its tensors is not. The first two bytes are the
/// length of the JSON text, behind which raw bytes follow; 65,535 stands for no raw bytes.
pub fn v2_inference(input: &[u8]) {
    let Some((length, body)) = input.split_first_chunk() else { return };
    let length = u16::from_le_bytes(*length);
    let json_length = (length != u16::MAX).then_some(length.into());
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// The properties hold for the seed inputs of the fuzz targets, which include inputs that once failed.
    #[test]
    fn what_has_to_be_true_is_true_of_every_seed() {
        let check = |target: &str, read: fn(&[u8])| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
            for file in std::fs::read_dir(folder).unwrap() {
                let path = file.unwrap().path();
                eprintln!("{}", path.display());
                read(&std::fs::read(path).unwrap());
            }
        };
        check("v2", super::v2_inference);
        check("grpc", super::grpc_inference);
        check("base64", |bytes| super::base64(&String::from_utf8_lossy(bytes)));
    }
}
