//! The body of a prediction request: one JSON object, in one of the forms that clients send.
//!
//! | form | sent by |
//! |---|---|
//! | `{"instances": […]}` | clients of TensorFlow Serving, KServe, Vertex AI |
//! | `{"inputs": …}` | clients of TensorFlow Serving, MLflow |
//! | `{"dataframe_split": {"columns": […], "data": [[…], …]}}`, `{"dataframe_records": [{…}, …]}` | MLflow |
//!
//! Only the envelope is parsed. The values stay JSON texts.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::items::Items;
use super::members::{Members, Name};
use super::reader::end_of_string;
use crate::budget::{Held, MemoryBudget};
use crate::error::{Error, Result};
use crate::pipeline::{Cells, NamedColumn, NamedRows};

/// The body of a prediction request.
#[derive(Debug)]
pub enum RequestBody<'a> {
    /// `instances`, or `dataframe_records`: an array with the form that the preprocessor reads.
    Instances(&'a RawValue),
    /// `inputs`: the values of each column, or of the only column.
    Inputs(NamedRows<'a>),
    /// `dataframe_split`: a list of rows below the names of the columns.
    Rows(NamedRows<'a>),
}

/// Name of the only signature of a model.
pub const SIGNATURE: &str = "serving_default";
/// Maximum number of columns of a `dataframe_split`.
const MAX_COLUMNS: usize = 1 << 16;

/// A member of the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    Instances,
    Inputs,
    DataframeSplit,
    DataframeRecords,
    SignatureName,
    /// `parameters` of Vertex AI, and `params` of MLflow.
    Parameters,
}

/// An object with the rows, and members that say nothing. Parsed by hand, because a derived struct would also accept a
/// bare array.
struct Envelope<'a>(Member, &'a RawValue);

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;

        impl Visitor<'_> for Key {
            type Value = Member;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<Member, E> {
                match key {
                    "instances" => Ok(Member::Instances),
                    "inputs" => Ok(Member::Inputs),
                    "dataframe_split" => Ok(Member::DataframeSplit),
                    "dataframe_records" => Ok(Member::DataframeRecords),
                    "signature_name" => Ok(Member::SignatureName),
                    "parameters" | "params" => Ok(Member::Parameters),
                    _ => {
                        let shown: String = key.chars().take(64).collect();
                        Err(E::custom(format_args!("unknown key {shown:?}")))
                    }
                }
            }
        }

        deserializer.deserialize_str(Key)
    }
}

impl Member {
    /// Returns the key of a member with rows; `None` for a member that says nothing.
    fn rows(self) -> Option<&'static str> {
        match self {
            Member::Instances => Some("instances"),
            Member::Inputs => Some("inputs"),
            Member::DataframeSplit => Some("dataframe_split"),
            Member::DataframeRecords => Some("dataframe_records"),
            Member::SignatureName | Member::Parameters => None,
        }
    }
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Envelope<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Envelope<'de>, A::Error> {
                let mut rows: Option<Envelope<'de>> = None;
                let mut has_signature = false;
                while let Some(member) = entries.next_key::<Member>()? {
                    let value = entries.next_value::<&RawValue>()?;
                    match (member.rows(), &rows) {
                        (Some(_), None) => rows = Some(Envelope(member, value)),
                        (Some(key), Some(Envelope(before, _))) if *before == member => {
                            return Err(de::Error::custom(format_args!("the key {key:?} occurs twice")));
                        }
                        (Some(key), Some(Envelope(before, _))) => {
                            let before = before.rows().unwrap_or_default();
                            let problem = format_args!("found both {before:?} and {key:?}, expected one of them");
                            return Err(de::Error::custom(problem));
                        }
                        (None, _) if member == Member::SignatureName => {
                            if std::mem::replace(&mut has_signature, true) {
                                return Err(de::Error::custom("the key \"signature_name\" occurs twice"));
                            }
                            check_signature(value.get()).map_err(de::Error::custom)?;
                        }
                        (None, _) => check_parameters(value.get()).map_err(de::Error::custom)?,
                    }
                }
                rows.ok_or_else(|| de::Error::custom("the key \"instances\" is missing"))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Checks that a signature is the only one that a model has.
fn check_signature(json: &str) -> Result<(), String> {
    match serde_json::from_str::<Option<String>>(json).ok() {
        Some(None) => Ok(()),
        Some(Some(name)) if name.is_empty() || name == SIGNATURE => Ok(()),
        Some(Some(name)) => {
            let shown: String = name.chars().take(64).collect();
            Err(format!("signature_name: {shown:?} does not exist; the only signature is {SIGNATURE:?}"))
        }
        None => Err(format!("signature_name: expected a text; the only signature is {SIGNATURE:?}")),
    }
}

/// Checks that there are no parameters: no model takes any.
fn check_parameters(json: &str) -> Result<(), String> {
    match serde_json::from_str::<Option<Members<'_>>>(json) {
        Ok(None) => Ok(()),
        Ok(Some(Members(members))) => match members.first() {
            None => Ok(()),
            Some((name, _)) => {
                let shown: String = name.chars().take(64).collect();
                Err(format!("parameters: unknown parameter {shown:?}; a model takes none, so leave them out"))
            }
        },
        Err(_) => Err("parameters: expected null or an empty object; a model takes no parameters".to_owned()),
    }
}

/// Reads the body of a prediction request. Fails if it is not one JSON object in one of the forms.
pub fn request_body(body: &[u8]) -> Result<RequestBody<'_>> {
    let Envelope(member, value) = envelope(body)?;
    match member {
        Member::Inputs => inputs(value).map(RequestBody::Inputs),
        Member::DataframeSplit => dataframe_split(value).map(RequestBody::Rows),
        _ => Ok(RequestBody::Instances(value)),
    }
}

/// Returns the `instances` of a request's body, unparsed. Fails if the body is not one JSON object with this key.
///
/// ```
/// let raw = leeway::pipeline::instances(br#"{"instances": [[1, 2]]}"#).unwrap();
/// assert_eq!(raw.get(), "[[1, 2]]");
/// ```
pub fn instances(body: &[u8]) -> Result<&RawValue> {
    match envelope(body)? {
        Envelope(Member::Instances, instances) => Ok(instances),
        _ => Err(Error::InvalidInput(r#"the body has to be {"instances": [...]}"#.to_owned())),
    }
}

fn envelope(body: &[u8]) -> Result<Envelope<'_>> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::InvalidInput(r#"the body is empty; send {"instances": [...]}"#.to_owned()));
    }
    serde_json::from_slice(body)
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

/// Returns a body with `null` in the place of each number that is `NaN`, as MLflow's client writes missing values of
/// pandas. `None` if there are none. The memory is charged to `memory`.
pub fn null_for_nan(body: &[u8], memory: &MemoryBudget) -> Result<Option<Held<Vec<u8>>>> {
    const NAN: &[u8] = b"NaN";
    let found = memchr::memmem::find_iter(body, NAN).count();
    if found == 0 {
        return Ok(None);
    }
    let length = body.len() + found;
    let held = memory.hold(length)?;
    let mut text = Vec::with_capacity(length);
    let mut rest = body;
    while let Some(&byte) = rest.first() {
        let (part, is_nan) = match byte {
            b'"' => (end_of_string(rest, 0) + 1, false),
            b'N' if rest.starts_with(NAN) => (NAN.len(), true),
            _ => (1, false),
        };
        let (part, after) = rest.split_at(part.min(rest.len()));
        text.extend_from_slice(if is_nan { b"null" } else { part });
        rest = after;
    }
    Ok(Some(held.of(text)))
}

/// Reads `inputs`: an object of columns, or the values of the only column.
fn inputs(value: &RawValue) -> Result<NamedRows<'_>> {
    if !value.get().starts_with('{') {
        return Ok(NamedRows::Values(value));
    }
    let Members(columns) = members(value, "inputs")?;
    let column = |(name, values)| NamedColumn { name, cells: Cells::Json(values) };
    Ok(NamedRows::Columns(columns.into_iter().map(column).collect()))
}

/// Reads `dataframe_split`, as pandas writes it: `columns`, `data`, and an `index` that is ignored.
fn dataframe_split(value: &RawValue) -> Result<NamedRows<'_>> {
    const IN: &str = "dataframe_split";
    let wrong = |problem: &str| Error::InvalidInput(format!("{IN}: {problem}"));
    let (mut columns, mut data) = (None, None);
    for (name, value) in members(value, IN)?.0 {
        let place = match &*name {
            "columns" => &mut columns,
            "data" => &mut data,
            "index" => continue,
            _ => {
                let shown: String = name.chars().take(64).collect();
                return Err(wrong(&format!("unknown key {shown:?}, expected \"columns\" and \"data\"")));
            }
        };
        if place.replace(value).is_some() {
            return Err(wrong(&format!("the key {name:?} occurs twice")));
        }
    }
    let columns = columns.ok_or_else(|| wrong("the key \"columns\" is missing"))?;
    let rows = data.ok_or_else(|| wrong("the key \"data\" is missing"))?;
    let names = Items::of(columns.get()).ok_or_else(|| wrong("columns: expected an array of names"))?;
    let names = names.take(MAX_COLUMNS + 1).map(column_name).collect::<Option<Vec<_>>>();
    let columns = names.ok_or_else(|| wrong("columns: expected texts or whole numbers"))?;
    match columns.len() {
        0..=MAX_COLUMNS => Ok(NamedRows::Rows { columns, rows }),
        _ => Err(wrong(&format!("columns: there are more than {MAX_COLUMNS}"))),
    }
}

/// Returns the name of a column of pandas: a text, or a whole number.
fn column_name(json: &str) -> Option<Cow<'_, str>> {
    if json.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Cow::Borrowed(json));
    }
    let mut text = serde_json::Deserializer::from_str(json);
    de::DeserializeSeed::deserialize(Name, &mut text).ok()
}

fn members<'a>(value: &'a RawValue, key: &str) -> Result<Members<'a>> {
    serde_json::from_str(value.get()).map_err(|error| {
        let text: String = error.to_string().chars().take(300).collect();
        Error::InvalidInput(format!("{key}: {text}"))
    })
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

    /// Describes the form of a body, or returns the message of the error.
    fn form(body: &str) -> String {
        match request_body(body.as_bytes()) {
            Ok(RequestBody::Instances(raw)) => format!("instances {}", raw.get()),
            Ok(RequestBody::Inputs(NamedRows::Values(raw))) => format!("inputs {}", raw.get()),
            Ok(RequestBody::Inputs(NamedRows::Columns(columns))) => {
                let names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
                format!("inputs of {}", names.join(" and "))
            }
            Ok(RequestBody::Rows(NamedRows::Rows { columns, rows })) => {
                format!("rows of {}: {}", columns.join(" and "), rows.get())
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn bodies_have_one_of_the_forms() {
        let check = |body: &str, expected: &str| {
            let found = form(body);
            assert!(found.starts_with(expected), "{body}: {found}");
        };
        check(r#"{"signature_name": "serving_default", "instances": [1]}"#, "instances [1]");
        check(r#"{"instances": [1], "signature_name": "", "parameters": {}, "params": null}"#, "instances [1]");
        check(r#"{"dataframe_records": [{"a": 1}]}"#, "instances [{\"a\": 1}]");
        check(r#"{"inputs": [[1]]}"#, "inputs [[1]]");
        check(r#"{"inputs": {"a": [1], "\u0062": [2]}}"#, "inputs of a and b");
        check(
            r#"{"dataframe_split": {"index": [0], "columns": ["a", 7], "data": [[1, 2]]}}"#,
            "rows of a and 7: [[1, 2]]",
        );

        check(
            r#"{"instances": [1], "inputs": [1]}"#,
            "the body is not a prediction request: found both \"instances\" and \"inputs\"",
        );
        check(
            r#"{"signature_name": "x", "instances": [1]}"#,
            "the body is not a prediction request: signature_name: \"x\" does not exist",
        );
        check(
            r#"{"signature_name": 1, "instances": [1]}"#,
            "the body is not a prediction request: signature_name: expected a text",
        );
        check(
            r#"{"instances": [1], "parameters": {"top_k": 1}}"#,
            "the body is not a prediction request: parameters: unknown parameter \"top_k\"",
        );
        check(
            r#"{"instances": [1], "params": [1]}"#,
            "the body is not a prediction request: parameters: expected null",
        );
        check(r#"{"parameters": {}}"#, "the body is not a prediction request: the key \"instances\" is missing");
        check(r#"{"dataframe_split": [1]}"#, "dataframe_split: invalid type: sequence, expected an object");
        check(r#"{"dataframe_split": {"columns": ["a"]}}"#, "dataframe_split: the key \"data\" is missing");
        check(
            r#"{"dataframe_split": {"columns": [null], "data": []}}"#,
            "dataframe_split: columns: expected texts or whole",
        );
        check(r#"{"dataframe_split": {"columns": [], "rows": []}}"#, "dataframe_split: unknown key \"rows\"");
        check(
            r#"{"dataframe_split": {"columns": [], "columns": []}}"#,
            "dataframe_split: the key \"columns\" occurs twice",
        );
    }

    #[test]
    fn nan_becomes_null_outside_of_strings() {
        let memory = MemoryBudget::new(1 << 10, std::num::NonZeroUsize::MIN);
        let check = |body: &str, expected: Option<&str>| {
            let found = null_for_nan(body.as_bytes(), &memory).unwrap();
            assert_eq!(found.as_deref().map(|text| std::str::from_utf8(text).unwrap()), expected);
        };
        check("[1]", None);
        check(r#"[NaN, "NaN", "\"NaN", -NaN,NaN]"#, Some(r#"[null, "NaN", "\"NaN", -null,null]"#));
        check(r#"["NaN"#, Some(r#"["NaN"#));
        assert_eq!(memory.held(), 0);
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
