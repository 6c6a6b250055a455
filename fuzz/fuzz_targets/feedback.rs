//! The body of feedback: `src/feedback/fuzzing.rs` says what has to be true of what is read from it.

#![no_main]

use leeway::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| fuzzing::feedback(body));
