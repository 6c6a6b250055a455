//! Formats of predictions beside JSON: columns, CSV and JSON Lines.

use std::borrow::Cow;
use std::io::Write as _;

use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::pipeline::{Members, Prediction};

/// Format of the answer to a prediction request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerFormat {
    /// One JSON object.
    Json,
    /// A line for each prediction, if a prediction is a label or a few numbers; otherwise JSON.
    Csv,
    /// The JSON of a prediction on each line.
    Lines,
}

impl AnswerFormat {
    /// Returns the format with this media type, if there is one. JSON also stands for any format.
    pub(super) fn of_media_type(media_type: &str) -> Option<AnswerFormat> {
        let is = |known: &str| media_type.eq_ignore_ascii_case(known);
        if ["application/json", "*/*", "application/*"].into_iter().any(is) {
            Some(AnswerFormat::Json)
        } else if is("text/csv") {
            Some(AnswerFormat::Csv)
        } else if JSON_LINES.into_iter().any(is) {
            Some(AnswerFormat::Lines)
        } else {
            None
        }
    }
}

/// Media types of JSON Lines. The first one is SageMaker's.
pub(super) const JSON_LINES: [&str; 4] =
    ["application/jsonlines", "application/x-jsonlines", "application/jsonl", "application/x-ndjson"];

/// Returns the JSON of predictions as columns, as TensorFlow Serving does: an object with a list for each member of a
/// prediction. If a prediction has one member, its list alone, and if predictions are not objects with the same members,
/// the list of predictions.
pub(super) fn columns(predictions: &[Prediction]) -> Result<Vec<u8>> {
    let texts =
        predictions.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>().map_err(Error::internal)?;
    let rows: Option<Vec<Members<'_>>> = texts.iter().map(|text| serde_json::from_str(text).ok()).collect();
    let mut text = Vec::new();
    match rows.filter(|rows| have_the_same_names(rows)) {
        None => write_list(&mut text, texts.iter().map(String::as_str)),
        Some(rows) => {
            let names: Vec<&Cow<'_, str>> = rows.first().iter().flat_map(|row| &row.0).map(|(name, _)| name).collect();
            let values = |index: usize| rows.iter().filter_map(move |row| Some(row.0.get(index)?.1.get()));
            if let [_] = &*names {
                write_list(&mut text, values(0));
                return Ok(text);
            }
            for (index, name) in names.iter().enumerate() {
                text.extend_from_slice(if index == 0 { b"{" } else { b"," });
                serde_json::to_writer(&mut text, name).map_err(Error::internal)?;
                text.push(b':');
                write_list(&mut text, values(index));
            }
            text.push(b'}');
        }
    }
    Ok(text)
}

/// Returns true if all rows have the same names in the same order, and at least one.
fn have_the_same_names(rows: &[Members<'_>]) -> bool {
    let Some((Members(first), others)) = rows.split_first() else { return false };
    let names = |row: &[(Cow<'_, str>, &RawValue)]| row.iter().map(|(name, _)| name.clone().into_owned()).collect();
    let expected: Vec<String> = names(first);
    !first.is_empty()
        && others.iter().all(|Members(row)| {
            row.len() == expected.len() && row.iter().zip(&expected).all(|((name, _), expected)| *name == *expected)
        })
}

fn write_list<'a>(to: &mut Vec<u8>, values: impl Iterator<Item = &'a str>) {
    to.push(b'[');
    for (index, value) in values.enumerate() {
        if index > 0 {
            to.push(b',');
        }
        to.extend_from_slice(value.as_bytes());
    }
    to.push(b']');
}

/// Returns predictions as JSON Lines.
pub(super) fn lines(predictions: &[Prediction]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for prediction in predictions {
        serde_json::to_writer(&mut text, prediction).map_err(Error::internal)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// Returns predictions as CSV with a line for each: the label of a classifier or detector of anomalies, the number of a
/// regressor, or the numbers of a vector. `None` if a prediction is something else.
pub(super) fn csv(predictions: &[Prediction]) -> Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    for prediction in predictions {
        let Some(fields) = fields(prediction)? else { return Ok(None) };
        for (index, field) in fields.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            // Writing to a vector cannot fail.
            let _ = match field.contains([',', '"', '\n', '\r']) {
                true => write!(text, "{separator}\"{}\"", field.replace('"', "\"\"")),
                false => write!(text, "{separator}{field}"),
            };
        }
        text.push(b'\n');
    }
    Ok(Some(text))
}

/// Returns the fields of a prediction in CSV. A missing number is an empty field.
fn fields(prediction: &Prediction) -> Result<Option<Vec<String>>> {
    let inner = match prediction {
        Prediction::NonFiniteAsText(inner) => inner,
        other => other,
    };
    let member = match inner {
        Prediction::Outputs(_) => None,
        Prediction::Class { .. } | Prediction::Anomaly { .. } => Some("label"),
        Prediction::Value(_) => Some("value"),
        Prediction::Embedding(_) => Some("embedding"),
        _ => return Ok(None),
    };
    let text = serde_json::to_string(prediction).map_err(Error::internal)?;
    let value = match member {
        None => text.as_str(),
        Some(name) => {
            let Members(members) = serde_json::from_str(&text).map_err(Error::internal)?;
            match members.iter().find(|(known, _)| known == name) {
                Some((_, value)) => return Ok(values(value.get())),
                None => return Ok(None),
            }
        }
    };
    Ok(values(value))
}

/// Returns a number, a text or a boolean, or the elements of a list of them. `None` for other values.
fn values(json: &str) -> Option<Vec<String>> {
    let scalar = |json: &str| match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok(),
        b'n' => Some(String::new()),
        b'[' | b'{' => None,
        _ => Some(json.to_owned()),
    };
    if json.starts_with('[') {
        let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
        return elements.iter().map(|element| scalar(element.get())).collect();
    }
    scalar(json).map(|only| vec![only])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn predictions(values: &[Value]) -> Vec<Prediction> {
        values.iter().map(|value| Prediction::Json(value.clone())).collect()
    }

    #[test]
    fn members_become_columns() {
        let check = |rows: &[Value], expected: &str| {
            assert_eq!(String::from_utf8(columns(&predictions(rows)).unwrap()).unwrap(), expected);
        };
        check(&[json!({ "a": 1, "b": [2] }), json!({ "a": 3, "b": [] })], r#"{"a":[1,3],"b":[[2],[]]}"#);
        check(&[json!({ "value": 1.5 })], "[1.5]");
        check(&[json!([1, 2]), json!([3])], "[[1,2],[3]]");
        check(&[json!({ "a": 1 }), json!({ "b": 1 })], r#"[{"a":1},{"b":1}]"#);
        check(&[json!({})], "[{}]");
    }

    #[test]
    fn labels_and_numbers_become_csv() {
        let check = |predictions: &[Prediction], expected: Option<&str>| {
            let found = csv(predictions).unwrap().map(|text| String::from_utf8(text).unwrap());
            assert_eq!(found.as_deref(), expected);
        };
        check(&[Prediction::Value(1.5), Prediction::Value(-2.0)], Some("1.5\n-2.0\n"));
        check(&[Prediction::Value(f64::NAN)], Some("\n"));
        check(&[Prediction::NonFiniteAsText(Box::new(Prediction::Value(f64::NAN)))], Some("NaN\n"));
        check(&[Prediction::Embedding(vec![0.1, 2.0])], Some("0.1,2.0\n"));
        check(&[Prediction::Anomaly { label: -1, score: 0.5 }], Some("-1\n"));
        check(&predictions(&[json!({ "value": 1 })]), None);
        assert_eq!(values(r#""a, \"b\"""#).unwrap(), ["a, \"b\""]);
        assert_eq!(values("[[1]]"), None);
        assert_eq!(values("[null, true]").unwrap(), ["", "true"]);
    }

    #[test]
    fn each_prediction_has_a_line() {
        assert_eq!(lines(&predictions(&[json!({ "a": "x\ny" }), json!(2)])).unwrap(), b"{\"a\":\"x\\ny\"}\n2\n");
    }
}
