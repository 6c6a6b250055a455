//! Envelope of a prediction request: `{"instances": […]}`.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, Result};

/// An object with the single key `instances`. Parsed by hand, because a derived struct would also accept a bare array.
struct Envelope<'a>(&'a RawValue);

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Envelope<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Envelope<'de>, A::Error> {
                let mut instances = None;
                while let Some(key) = entries.next_key::<String>()? {
                    if key != "instances" {
                        let shown: String = key.chars().take(64).collect();
                        return Err(de::Error::custom(format_args!("unknown key {shown:?}")));
                    }
                    if instances.replace(entries.next_value()?).is_some() {
                        return Err(de::Error::custom("the key \"instances\" occurs twice"));
                    }
                }
                instances.map(Envelope).ok_or_else(|| de::Error::custom("the key \"instances\" is missing"))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Returns the `instances` of a request's body, unparsed. Fails if the body is not one JSON object with this key.
///
/// ```
/// let raw = leeway::pipeline::instances(br#"{"instances": [[1, 2]]}"#).unwrap();
/// assert_eq!(raw.get(), "[[1, 2]]");
/// ```
pub fn instances(body: &[u8]) -> Result<&RawValue> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::InvalidInput(r#"the body is empty; send {"instances": [...]}"#.to_owned()));
    }
    serde_json::from_slice(body)
        .map(|Envelope(instances)| instances)
        .map_err(|error| unreadable(body, &error, "a prediction request", r#"{"instances": [...]}"#))
}

/// Returns the error for a body that is not JSON, or not `what`, such as `form`.
pub fn unreadable(body: &[u8], error: &serde_json::Error, what: &str, form: &str) -> Error {
    let hint = if error.is_data() {
        format!("; the body has to be {form}")
    } else if body.starts_with(b"\xef\xbb\xbf") || body.iter().take(4).any(|byte| *byte == 0) {
        "; send UTF-8 without a byte order mark".to_owned()
    } else if names_non_finite(body, error) {
        "; JSON has no NaN and no Infinity, and a model takes finite numbers only".to_owned()
    } else {
        String::new()
    };
    let text: String = error.to_string().chars().take(300).collect();
    let problem = if error.is_data() { format!("not {what}") } else { "not valid JSON".to_owned() };
    Error::InvalidInput(format!("the body is {problem}: {text}{hint}"))
}

/// Returns true if the parser stopped at `NaN` or `Infinity`, which Python's `json.dumps` writes by default.
fn names_non_finite(body: &[u8], error: &serde_json::Error) -> bool {
    let line_start = body
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(index, _)| index + 1)
        .nth(error.line().wrapping_sub(2))
        .unwrap_or(0);
    let stopped = line_start + error.column();
    let around = body.get(stopped.saturating_sub(2)..body.len().min(stopped + 8)).unwrap_or_default();
    [&b"NaN"[..], b"Infinity"].iter().any(|word| memchr::memmem::find(around, word).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: &str) {
        assert_eq!(instances(body.as_bytes()).unwrap_err().to_string(), expected);
    }

    #[test]
    fn the_message_says_what_the_body_lacks() {
        check(" \n", r#"the body is empty; send {"instances": [...]}"#);
        check(
            "{}",
            "the body is not a prediction request: the key \"instances\" is missing at line 1 column 2; the body has to be \
             {\"instances\": [...]}",
        );
        for (body, problem) in [
            (r#"{"instances": [1], "instances": [2]}"#, "the key \"instances\" occurs twice"),
            (r#"{"instances": [1], "\u0069nstances": [2]}"#, "the key \"instances\" occurs twice"),
            ("[[1]]", "invalid type: sequence, expected an object"),
        ] {
            let message = instances(body.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(problem), "{body}: {message}");
        }
        check("{\"instances\": [1}", "the body is not valid JSON: expected `,` or `]` at line 1 column 17");
    }

    #[test]
    fn non_finite_words_are_recognised_where_the_parser_stops() {
        for body in
            ["{\"instances\": [NaN]}", "{\"instances\":\n[[\n1, -Infinity]]}", "{\"instances\": [[1, Infinity]]}"]
        {
            let message = instances(body.as_bytes()).unwrap_err().to_string();
            assert!(message.contains("JSON has no NaN"), "{body}: {message}");
        }
    }
}
