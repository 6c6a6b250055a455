//! `golden.json`: instances with the predictions that are expected of a version, checked at every load of the version.
//!
//! A digest proves that the files are those that were added. Only examples show that the model is the intended one: an
//! export can load, run, and be wrong.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Default tolerance between predicted and expected numbers.
const TOLERANCE: f64 = 1e-4;

/// The examples of a version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Instances, as in a request.
    pub instances: Vec<Box<RawValue>>,
    /// The expected prediction for each instance. Members of an object that are left out may have any value.
    pub predictions: Vec<Value>,
    /// Tolerance of numbers: predicted and expected values differ by at most tolerance · max(1, |expected|).
    #[serde(default = "default_tolerance")]
    pub tolerance: f64,
}

fn default_tolerance() -> f64 {
    TOLERANCE
}

impl Golden {
    /// Reads and checks the text of a `golden.json`.
    pub fn parse(text: &[u8]) -> Result<Golden, String> {
        let golden: Golden = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if golden.instances.is_empty() {
            return Err("there is no instance".to_owned());
        }
        if golden.instances.len() != golden.predictions.len() {
            let (instances, predictions) = (golden.instances.len(), golden.predictions.len());
            return Err(format!("there are {instances} instances and {predictions} predictions"));
        }
        if !(golden.tolerance.is_finite() && golden.tolerance >= 0.0) {
            return Err(format!("tolerance: found {}, expected a number, at least 0", golden.tolerance));
        }
        Ok(golden)
    }

    /// Returns the instances at the indices `rows`, in the form of the `instances` of a request.
    pub fn request(&self, rows: std::ops::Range<usize>) -> serde_json::Result<Box<RawValue>> {
        serde_json::value::to_raw_value(self.instances.get(rows).unwrap_or_default())
    }

    /// Compares the prediction of one instance with the expected one. The error names the value that differs.
    ///
    /// ```
    /// use leeway::repository::Golden;
    /// let golden = br#"{"instances": [[1]], "predictions": [{"label": 3, "confidence": 0.9}], "tolerance": 0.01}"#;
    /// let golden = Golden::parse(golden).unwrap();
    /// let found = |confidence| serde_json::json!({ "label": 3, "confidence": confidence, "top": [] });
    /// assert!(golden.check(0, &found(0.905)).is_ok());
    /// let difference = golden.check(0, &found(0.95)).unwrap_err();
    /// assert_eq!(difference, "predictions[0].confidence is 0.95, expected 0.9 ± 0.01");
    /// ```
    pub fn check(&self, index: usize, found: &Value) -> Result<(), String> {
        let expected = self.predictions.get(index).unwrap_or(&Value::Null);
        check(&format!("predictions[{index}]"), expected, found, self.tolerance)
    }
}

fn check(place: &str, expected: &Value, found: &Value, tolerance: f64) -> Result<(), String> {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected.iter().try_for_each(|(key, expected)| {
            check(&format!("{place}.{key}"), expected, found.get(key).unwrap_or(&Value::Null), tolerance)
        }),
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            let mut both = expected.iter().zip(found).enumerate();
            both.try_for_each(|(index, (expected, found))| {
                check(&format!("{place}[{index}]"), expected, found, tolerance)
            })
        }
        (Value::Array(expected), Value::Array(found)) => {
            Err(format!("{place} has {} elements, expected {}", found.len(), expected.len()))
        }
        (Value::Number(expected), Value::Number(found)) => {
            let (e, f) = (expected.as_f64().unwrap_or(f64::NAN), found.as_f64().unwrap_or(f64::NAN));
            let allowed = tolerance * e.abs().max(1.0);
            // Written so that NaN is a difference.
            if (e - f).abs() <= allowed {
                Ok(())
            } else {
                Err(format!("{place} is {found}, expected {expected} ± {allowed}"))
            }
        }
        (expected, found) if expected == found => Ok(()),
        (expected, found) => Err(format!("{place} is {}, expected {}", shown(found), shown(expected))),
    }
}

/// Returns the beginning of a value, for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 80 { text } else { text.chars().take(80).chain("…".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_named() {
        let golden = |expected: Value| Golden { instances: Vec::new(), predictions: vec![expected], tolerance: 0.01 };
        let check = |expected: Value, found: Value, message: &str| {
            assert_eq!(golden(expected).check(0, &found).err().as_deref().unwrap_or_default(), message);
        };
        check(json!([1.0, 100.0]), json!([1.009, 100.9]), "");
        check(json!([1.0, 100.0]), json!([1.0, 102.0]), "predictions[0][1] is 102.0, expected 100.0 ± 1");
        check(json!([1.0]), json!([1.0, 2.0]), "predictions[0] has 2 elements, expected 1");
        check(
            json!({ "label": "cat" }),
            json!({ "label": "dog" }),
            "predictions[0].label is \"dog\", expected \"cat\"",
        );
        check(json!({ "label": 3 }), json!({}), "predictions[0].label is null, expected 3");
        check(json!(3), json!("3"), "predictions[0] is \"3\", expected 3");
    }

    #[test]
    fn examples_that_cannot_be_checked_are_refused() {
        for (text, problem) in [
            ("{}", "missing field `instances`"),
            (r#"{"instances": [], "predictions": []}"#, "there is no instance"),
            (r#"{"instances": [1, 2], "predictions": [1]}"#, "there are 2 instances and 1 predictions"),
            (r#"{"instances": [1], "predictions": [1], "tolerance": -1}"#, "tolerance: found -1"),
            (r#"{"instances": [1], "predictions": [1], "tolerence": 1}"#, "unknown field `tolerence`"),
        ] {
            let error = Golden::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
