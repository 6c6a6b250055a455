//! Base64 in any form.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| leeway::fuzzing::base64(text));
