//! External data that are put into an ONNX file: `src/registry/fuzzing.rs` says what has to be true of the result.

#![no_main]

use leeway::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::external_data(bytes));
