//! The envelope of a prediction request, beside a reader of its own that keeps every key.

#![no_main]

use std::fmt;

use leeway::error::Error;
use leeway::pipeline::instances;
use libfuzzer_sys::fuzz_target;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The keys that a request with instances may have.
const KEYS: [&str; 4] = ["instances", "signature_name", "parameters", "params"];

/// The longest message to a caller, in bytes.
const MAX_MESSAGE: usize = 2_000;

/// The keys of an object, in the order and as often as they are there.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Keys, D::Error> {
        struct KeysVisitor;

        impl<'de> Visitor<'de> for KeysVisitor {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = entries.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_map(KeysVisitor)
    }
}

fuzz_target!(|body: &[u8]| {
    let keys = serde_json::from_slice::<Keys>(body).map(|Keys(keys)| keys);
    // What is skipped is not looked at by that reader: JSON is UTF-8.
    let is_utf8 = std::str::from_utf8(body).is_ok();
    let has_only = keys.as_ref().is_ok_and(|keys| *keys == ["instances"]) && is_utf8;
    // Beside the instances, there may be members that say nothing.
    let is_known = |key: &String| KEYS.contains(&key.as_str());
    let once = |keys: &Vec<String>| keys.iter().filter(|key| *key == "instances").count() == 1;
    let is_envelope = keys.is_ok_and(|keys| keys.iter().all(is_known) && once(&keys)) && is_utf8;
    match instances(body) {
        Ok(raw) => {
            assert!(is_envelope, "taken, and not one object with the key `instances`");
            // A number of 1e999 is JSON, and no value.
            if let Ok(whole) = serde_json::from_slice::<Value>(body) {
                let part: Value = serde_json::from_str(raw.get()).expect("a part of a value");
                assert_eq!(whole["instances"], part);
            }
        }
        Err(Error::InvalidInput(message)) => {
            assert!(!has_only, "refused: {message}");
            assert!(message.len() <= MAX_MESSAGE, "a message of {} bytes", message.len());
        }
        Err(other) => panic!("not the caller's fault: {other:?}"),
    }
});
