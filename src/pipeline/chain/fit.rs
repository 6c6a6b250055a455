//! Comparison of the JSON Schema of a value with the schema that a step accepts.
//!
//! Only certain misfits are found: a text where a number is expected, a vector of another length, a missing member. A schema
//! that allows anything fits everything.

use serde_json::Value;

use crate::pipeline::some_of;

/// Returns the schema of a member of predictions with this schema. The error is that there is no such member.
pub fn member_of<'a>(prediction: &'a Value, member: &str) -> Result<Option<&'a Value>, String> {
    let Some(members) = prediction.get("properties").and_then(Value::as_object) else {
        return match types_of(prediction) {
            // Nothing is known.
            None => Ok(None),
            Some(_) => Err(format!("its prediction is {}, which has no members", described(prediction))),
        };
    };
    let names: Vec<&String> = members.keys().collect();
    let unknown = || format!("its prediction has no member {member:?}; it has: {}", some_of(&names));
    members.get(member).map(Some).ok_or_else(unknown)
}

/// Returns true if a step accepts images in base64, as crops are.
pub fn takes_images(instance: &Value) -> bool {
    match (instance.get("properties"), instance.get("anyOf").and_then(Value::as_array)) {
        (Some(members), _) => members.get("b64").is_some(),
        (None, Some(choices)) => choices.iter().any(takes_images),
        (None, None) => types_of(instance).is_none(),
    }
}

/// Compares the schema of a value with the schema that is accepted. Returns the misfit, if there is one.
///
/// ```
/// use leeway::pipeline::chain::misfit_of;
/// use serde_json::json;
/// let vector = |length| json!({ "type": "array", "minItems": length, "maxItems": length, "items": { "type": "number" } });
/// assert_eq!(misfit_of(&vector(3), &vector(3)), None);
/// assert_eq!(misfit_of(&vector(3), &vector(4)).unwrap(), "it has 3 values, and 4 are expected");
/// let text = json!({ "type": "string" });
/// assert_eq!(misfit_of(&vector(3), &text).unwrap(), "it is an array, and a string is expected");
/// assert_eq!(misfit_of(&json!({}), &text), None);
/// ```
pub fn misfit_of(value: &Value, accepted: &Value) -> Option<String> {
    if let Some(found) = alternatives(value) {
        // A value of which one alternative fits may be the usual one.
        let misfits: Option<Vec<String>> = found.iter().map(|value| misfit_of(value, accepted)).collect();
        return misfits?.into_iter().next();
    }
    if let Some(accepted) = alternatives(accepted) {
        let misfits: Option<Vec<String>> = accepted.iter().map(|accepted| misfit_of(value, accepted)).collect();
        return misfits?.into_iter().next();
    }
    let (found, expected) = (types_of(value)?, types_of(accepted)?);
    if !found.iter().any(|found| expected.iter().any(|expected| is_one(found, expected))) {
        return Some(format!("it is {}, and {} is expected", described(value), described(accepted)));
    }
    let limit = |schema: &Value, keyword: &str| schema.get(keyword).and_then(Value::as_u64);
    if let (Some(least), Some(most)) = (limit(value, "minItems"), limit(accepted, "maxItems"))
        && least > most
    {
        return Some(format!("it has {least} values, and {most} are expected"));
    }
    if let (Some(most), Some(least)) = (limit(value, "maxItems"), limit(accepted, "minItems"))
        && most < least
    {
        return Some(format!("it has {most} values, and {least} are expected"));
    }
    if let (Some(value), Some(accepted)) = (value.get("items"), accepted.get("items")) {
        return misfit_of(value, accepted).map(|misfit| format!("of its values, {misfit}"));
    }
    misfit_of_members(value, accepted)
}

fn misfit_of_members(value: &Value, accepted: &Value) -> Option<String> {
    let members = value.get("properties")?.as_object()?;
    let required = accepted.get("required").and_then(Value::as_array).into_iter().flatten();
    for name in required.filter_map(Value::as_str) {
        if !members.contains_key(name) {
            return Some(format!("its member {name:?} is missing"));
        }
    }
    let accepted_members = accepted.get("properties")?.as_object()?;
    for (name, value) in members {
        match accepted_members.get(name) {
            None if accepted.get("additionalProperties") == Some(&Value::Bool(false)) => {
                let names: Vec<&String> = accepted_members.keys().collect();
                return Some(format!("its member {name:?} is unknown; expected: {}", some_of(&names)));
            }
            None => {}
            Some(accepted) => {
                if let Some(misfit) = misfit_of(value, accepted) {
                    return Some(format!("of its member {name:?}, {misfit}"));
                }
            }
        }
    }
    None
}

/// Returns the schemas of which one has to fit, if there are alternatives.
fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf"))?.as_array()
}

/// Returns the types that a schema allows; `None` if it allows any.
fn types_of(schema: &Value) -> Option<Vec<&str>> {
    match (schema.get("type"), schema.get("enum")) {
        (Some(Value::String(one)), _) => Some(vec![one]),
        (Some(Value::Array(several)), _) => Some(several.iter().filter_map(Value::as_str).collect()),
        (_, Some(Value::Array(values))) => Some(values.iter().map(type_of).collect()),
        _ => None,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Returns true if some values of one type are values of the other.
fn is_one(one: &str, other: &str) -> bool {
    let is_number = |name: &str| matches!(name, "number" | "integer");
    one == other || (is_number(one) && is_number(other))
}

fn described(schema: &Value) -> String {
    let with_article = |name: &&str| match *name {
        "null" => "null".to_owned(),
        name if name.starts_with(['a', 'i', 'o']) => format!("an {name}"),
        name => format!("a {name}"),
    };
    let mut names: Vec<String> = types_of(schema).unwrap_or_default().iter().map(with_article).collect();
    names.dedup();
    names.join(" or ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_compared_one_by_one() {
        let row = json!({
            "type": "object", "required": ["age"], "properties": { "age": { "type": "integer" } },
            "additionalProperties": false,
        });
        for (value, misfit) in [
            (json!({ "type": "object", "properties": { "age": { "type": "number" } } }), None),
            (
                json!({ "type": "object", "properties": { "age": { "enum": ["a", "b"] } } }),
                Some("of its member \"age\", it is a string, and an integer is expected"),
            ),
            (json!({ "type": "object", "properties": { "name": {} } }), Some("its member \"age\" is missing")),
            (
                json!({ "type": "object", "properties": { "age": {}, "name": {} } }),
                Some("its member \"name\" is unknown; expected: age"),
            ),
            (json!({ "type": ["string", "null"] }), Some("it is a string or null, and an object is expected")),
            (json!({ "anyOf": [{ "type": "string" }, { "type": "object" }] }), None),
        ] {
            assert_eq!(misfit_of(&value, &row).as_deref(), misfit, "{value}");
        }
    }

    #[test]
    fn members_of_predictions_are_found() {
        let class = json!({ "type": "object", "properties": { "label": { "type": "string" }, "top": {} } });
        assert_eq!(member_of(&class, "label"), Ok(Some(&json!({ "type": "string" }))));
        assert_eq!(
            member_of(&class, "embedding").unwrap_err(),
            "its prediction has no member \"embedding\"; it has: label, top"
        );
        assert_eq!(member_of(&json!({}), "any"), Ok(None));
        assert!(member_of(&json!({ "type": "number" }), "any").is_err());
        assert!(takes_images(&json!({ "type": "object", "properties": { "b64": {} } })) && takes_images(&json!({})));
        assert!(!takes_images(&json!({ "type": "string" })));
    }
}
