//! Parts of the JSON Schemas (draft 2020-12) of instances and predictions, which are common to several stages.
//!
//! The schema of an instance allows what the stage accepts. JSON Schema cannot express every check, such as that a text in
//! base64 is an image.

use serde_json::{Map, Value, json};

use super::classify::labels::Label;
use crate::tensor::{DType, Dim};

/// The strings for NaN and infinity (`non_finite = "text"`).
const NON_FINITE: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// Returns the schema of an element of an input. Integers and floats are bounded by the range of the type.
pub(crate) fn input_element(dtype: DType) -> Value {
    // A number from this one on is rounded to infinity: the largest one of the type, and half of the last place.
    let below = |limit: f64| json!({ "type": "number", "exclusiveMinimum": -limit, "exclusiveMaximum": limit });
    match dtype {
        DType::F32 => below(340_282_356_779_733_661_637_539_395_458_142_568_448.0),
        DType::F16 => below(65_520.0),
        DType::BF16 => below(339_617_752_923_046_005_526_922_703_901_628_039_168.0),
        // ONNX Runtime takes C strings, which end at the first NUL.
        DType::Text => json!({ "type": "string", "pattern": "^[^\\u0000]*$" }),
        other => output_element(other),
    }
}

/// Returns the schema of an element of an output.
pub(crate) fn output_element(dtype: DType) -> Value {
    fn whole<T: Into<Value>>(least: T, most: T) -> Value {
        json!({ "type": "integer", "minimum": least.into(), "maximum": most.into() })
    }
    match dtype {
        DType::Bool => json!({ "type": "boolean" }),
        DType::I8 => whole(i8::MIN, i8::MAX),
        DType::I16 => whole(i16::MIN, i16::MAX),
        DType::I32 => whole(i32::MIN, i32::MAX),
        DType::I64 => whole(i64::MIN, i64::MAX),
        DType::U8 => whole(u8::MIN, u8::MAX),
        DType::U16 => whole(u16::MIN, u16::MAX),
        DType::U32 => whole(u32::MIN, u32::MAX),
        DType::U64 => whole(u64::MIN, u64::MAX),
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => json!({ "type": "number" }),
        DType::Text => json!({ "type": "string" }),
        // The items are tensors of any shapes.
        DType::Sequence => json!({ "type": "array" }),
    }
}

/// Returns true for the types that have NaN and infinity.
pub(crate) fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
}

/// Returns the schema of a number that may also be one of the strings for NaN and infinity.
pub(crate) fn or_non_finite_text(number: &Value) -> Value {
    json!({ "anyOf": [number, { "enum": NON_FINITE }] })
}

/// Returns the schema of nested arrays with these lengths.
pub(crate) fn nested(dims: &[Dim], element: Value) -> Value {
    dims.iter().rev().fold(element, |items, dim| match dim {
        Dim::Fixed(length) => json!({ "type": "array", "minItems": length, "maxItems": length, "items": items }),
        Dim::Dynamic(_) => json!({ "type": "array", "items": items }),
    })
}

/// Returns the schema of an object that has all of these members.
pub(crate) fn object<K: Into<String>>(members: impl IntoIterator<Item = (K, Value)>) -> Value {
    let properties: Map<String, Value> = members.into_iter().map(|(name, schema)| (name.into(), schema)).collect();
    let required: Vec<&String> = properties.keys().collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

/// Returns the schema of an object that has all of these members, and no others.
pub(crate) fn closed_object<K: Into<String>>(members: impl IntoIterator<Item = (K, Value)>) -> Value {
    with(object(members), "additionalProperties", Value::Bool(false))
}

/// Adds a keyword to a schema.
pub(crate) fn with(mut schema: Value, keyword: &str, value: Value) -> Value {
    if let Some(keywords) = schema.as_object_mut() {
        keywords.insert(keyword.to_owned(), value);
    }
    schema
}

/// Returns the schema of a value that may also be null.
pub(crate) fn nullable(mut schema: Value) -> Value {
    let Some(keywords) = schema.as_object_mut() else { return schema };
    match keywords.get_mut("type") {
        Some(kind @ Value::String(_)) => *kind = json!([kind.take(), "null"]),
        Some(Value::Array(kinds)) => kinds.push("null".into()),
        _ => {}
    }
    if let Some(Value::Array(values)) = keywords.get_mut("enum") {
        values.push(Value::Null);
    }
    if let Some(Value::Array(schemas)) = keywords.get_mut("anyOf") {
        schemas.push(json!({ "type": "null" }));
    }
    schema
}

/// Returns the schema of a label: one of these, or a text such as "class 0" if the classes have no names.
pub(crate) fn label(known: Option<&[Label]>) -> Value {
    match known {
        Some(labels) => json!({ "enum": labels }),
        None => json!({ "type": "string" }),
    }
}

/// Returns the schema of a label with its score.
pub(crate) fn score(label: Value) -> Value {
    object([("label", label), ("score", json!({ "type": "number" }))])
}

/// Returns the schema of a file as an instance: `{"b64": "…"}`.
pub(crate) fn encoded_file(description: &str) -> Value {
    let b64 = json!({ "type": "string", "contentEncoding": "base64", "description": description });
    closed_object([("b64", b64)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{bf16_of, f16_of};

    fn accepts(schema: &Value, instance: &str) -> bool {
        jsonschema::is_valid(schema, &serde_json::from_str(instance).unwrap())
    }

    #[test]
    fn nested_arrays_have_the_lengths_of_the_dimensions() {
        let schema = nested(&[Dim::Fixed(2), Dim::Dynamic(None)], input_element(DType::U8));
        for (instance, expected) in [
            ("[[1, 2, 3], [4]]", true),
            ("[[], []]", true),
            ("[[255], [0.0]]", true),
            ("[[1]]", false),
            ("[[1], [2], [3]]", false),
            ("[[1], [256]]", false),
            ("[[1], [0.5]]", false),
            ("[1, 2]", false),
        ] {
            assert_eq!(accepts(&schema, instance), expected, "{instance}");
        }
    }

    /// The bounds are those of the rounding of IEEE 754: half of the last place above the largest number of the type.
    #[test]
    fn a_number_is_bounded_where_it_would_become_infinite() {
        for (dtype, below, from) in
            [(DType::F32, "3.4028235677973362e38", "3.4028235677973366e38"), (DType::F16, "65519.999", "65520")]
        {
            assert!(accepts(&input_element(dtype), below), "{dtype} {below}");
            assert!(!accepts(&input_element(dtype), from), "{dtype} {from}");
            assert!(!accepts(&input_element(dtype), &format!("-{from}")), "{dtype} -{from}");
        }
        assert!("3.4028235677973362e38".parse::<f32>().unwrap().is_finite());
        assert!("3.4028235677973367e38".parse::<f32>().unwrap().is_infinite());
        assert!(f16_of(65_519.999).is_finite() && f16_of(65_520.0).is_infinite());
        let bf16 = input_element(DType::BF16)["exclusiveMaximum"].as_f64().unwrap();
        assert!(bf16_of(bf16).is_infinite() && bf16_of(bf16.next_down()).is_finite());
        assert!(accepts(&input_element(DType::I64), "-9223372036854775808"));
        assert!(!accepts(&input_element(DType::I64), "9223372036854775808"));
        assert!(accepts(&input_element(DType::U64), "18446744073709551615"));
    }

    #[test]
    fn null_is_added_to_every_form_of_a_schema() {
        for schema in [
            json!({ "type": "number" }),
            json!({ "type": ["number", "string"] }),
            json!({ "enum": ["a", 1] }),
            json!({ "anyOf": [{ "type": "boolean" }, { "type": "integer" }] }),
        ] {
            assert!(!accepts(&schema, "null"));
            assert!(accepts(&nullable(schema.clone()), "null"), "{schema}");
        }
        assert!(!accepts(&input_element(DType::Text), r#""a\u0000b""#));
        assert!(accepts(&input_element(DType::Text), r#""a\nb""#));
    }
}
