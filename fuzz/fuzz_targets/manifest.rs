//! The manifest of a version, `version.toml`: `src/registry/fuzzing.rs` says what has to be true of it.

#![no_main]

use leeway::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| fuzzing::manifest(bytes));
