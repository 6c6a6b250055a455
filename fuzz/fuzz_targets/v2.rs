//! The body of a v2 inference: JSON, and raw bytes behind it. The first two bytes are the length of the JSON text.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| leeway::fuzzing::v2_inference(input));
