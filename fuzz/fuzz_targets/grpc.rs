//! An encoded `ModelInferRequest`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| leeway::fuzzing::grpc_inference(message));
