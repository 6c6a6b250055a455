//! The body of a v2 inference: JSON, and raw bytes behind it. The first two bytes are the length of the JSON text.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((length, body)) = input.split_first_chunk() else { return };
    let length = u16::from_le_bytes(*length);
    let json_length = (length != u16::MAX).then_some(length.into());
    leeway::fuzzing::v2_inference(body, json_length);
});
