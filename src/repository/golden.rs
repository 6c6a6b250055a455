//! `golden.json`: instances with the predictions that are expected of a version, checked at every load of the version.
//!
//! A digest proves that the files are those that were added. Only examples show that the model is the intended one: an
//! export can load, run, and be wrong.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Default tolerance between predicted and expected numbers.
pub const DEFAULT_TOLERANCE: f64 = 1e-4;

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
    DEFAULT_TOLERANCE
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

    /// Compares the prediction of one instance with the expected one. The error names the first value that differs.
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
        let mut differences = Differences::default();
        self.compare(index, found, &mut differences);
        differences.first.map_or(Ok(()), Err)
    }

    /// Compares the prediction of one instance with the expected one, and adds it to the differences so far.
    pub fn compare(&self, index: usize, found: &Value, differences: &mut Differences) {
        let expected = self.predictions.get(index).unwrap_or(&Value::Null);
        let mut comparison = Comparison { tolerance: self.tolerance, differences, differs: false };
        comparison.compare(&format!("predictions[{index}]"), expected, found);
        let differs = comparison.differs;
        differences.examples += 1;
        differences.differing += usize::from(differs);
    }
}

/// The differences between the predictions of a version and its examples.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Differences {
    /// Number of examples that were compared.
    pub examples: usize,
    /// Number of examples that differ.
    pub differing: usize,
    /// The first value that differs, for a message.
    pub first: Option<String>,
    /// Largest difference of a number beyond the tolerance, divided by max(1, |expected|).
    pub largest: f64,
    /// True if values differ that no tolerance applies to, such as labels.
    pub beyond_tolerance: bool,
}

impl Differences {
    /// Returns what differs, the likely cause, and what to do; `None` if nothing differs.
    pub fn describe(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        let Differences { examples, differing, .. } = self;
        let far = if self.largest > 0.0 { format!(", by up to {}", rounded_up(self.largest)) } else { String::new() };
        let advice = match (self.is_rare(), self.beyond_tolerance) {
            (true, false) => format!(
                "So few are typical of trees: the model compares float32 numbers where the training framework compared \
                 float64. Train on float32 numbers, export with float64 inputs, or accept the differences: --tolerance {}",
                rounded_up(self.largest)
            ),
            (true, true) => "So few are typical of trees, and of scores that are nearly equal: the model computes with float32 \
                             numbers where the training framework used float64. Train on float32 numbers, or export with \
                             float64 inputs"
                .to_owned(),
            (false, _) => "So many are typical of an export that is not the model which made the examples, of rows that were \
                           prepared differently, or of a wrong key in model.toml (output, labels, order of columns)"
                .to_owned(),
        };
        Some(format!("{differing} of {examples} examples differ{far}; the first: {first}. {advice}"))
    }

    /// Returns true if at most one example in 20 differs.
    fn is_rare(&self) -> bool {
        20 * self.differing <= self.examples
    }
}

/// Rounds up to two digits, so that the result is accepted as a tolerance.
fn rounded_up(number: f64) -> f64 {
    let unit = 10f64.powf(number.log10().floor() - 1.0);
    let rounded = (number / unit).ceil() * unit;
    // Without the digits of the unit's own rounding, as in 0.0066000000000000001.
    format!("{rounded:.2e}").parse().unwrap_or(rounded)
}

/// Compares the values of one prediction.
struct Comparison<'a> {
    tolerance: f64,
    differences: &'a mut Differences,
    differs: bool,
}

impl Comparison<'_> {
    fn compare(&mut self, place: &str, expected: &Value, found: &Value) {
        match (expected, found) {
            (Value::Object(expected), Value::Object(found)) => {
                for (key, expected) in expected {
                    self.compare(&format!("{place}.{key}"), expected, found.get(key).unwrap_or(&Value::Null));
                }
            }
            (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
                for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                    self.compare(&format!("{place}[{index}]"), expected, found);
                }
            }
            (Value::Array(expected), Value::Array(found)) => {
                self.differ(None, || format!("{place} has {} elements, expected {}", found.len(), expected.len()));
            }
            (Value::Number(expected), Value::Number(found)) => {
                let (e, f) = (expected.as_f64().unwrap_or(f64::NAN), found.as_f64().unwrap_or(f64::NAN));
                let scale = e.abs().max(1.0);
                let allowed = self.tolerance * scale;
                let is_within = (e - f).abs() <= allowed;
                // Nothing is within a distance of NaN.
                if !is_within {
                    let message = || format!("{place} is {found}, expected {expected} ± {allowed}");
                    // Labels that are numbers are whole numbers in both.
                    let is_label = expected.is_i64() && found.is_i64();
                    self.differ((!is_label).then(|| (e - f).abs() / scale), message);
                }
            }
            (expected, found) if expected == found => {}
            (expected, found) => {
                self.differ(None, || format!("{place} is {}, expected {}", shown(found), shown(expected)));
            }
        }
    }

    /// Records a difference: of a number by this much, or of something that no tolerance applies to.
    fn differ(&mut self, amount: Option<f64>, message: impl FnOnce() -> String) {
        self.differs = true;
        self.differences.first.get_or_insert_with(message);
        match amount.filter(|amount| amount.is_finite()) {
            Some(amount) => self.differences.largest = self.differences.largest.max(amount),
            None => self.differences.beyond_tolerance = true,
        }
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

    /// Returns the description of the differences of `examples` examples, of which these are found for 1.0 each.
    fn described(examples: usize, found: &[Value]) -> String {
        let golden =
            Golden { instances: Vec::new(), predictions: vec![json!({ "value": 1.0 }); examples], tolerance: 0.0001 };
        let mut differences = Differences::default();
        for index in 0..examples {
            golden.compare(index, found.get(index).unwrap_or(&json!({ "value": 1.0 })), &mut differences);
        }
        differences.describe().unwrap_or_default()
    }

    #[test]
    fn a_mismatch_has_its_number_its_size_and_its_likely_cause() {
        assert_eq!(described(400, &[]), "");
        let few = described(400, &[json!({ "value": 1.0016 }), json!({ "value": 0.99349 })]);
        assert!(
            few.starts_with(
                "2 of 400 examples differ, by up to 0.0066; the first: predictions[0].value is 1.0016, expected 1.0"
            ),
            "{few}"
        );
        assert!(few.contains("typical of trees") && few.ends_with("--tolerance 0.0066"), "{few}");
        let many = described(3, &[json!({ "value": 2.0 }), json!({ "value": null })]);
        assert!(many.starts_with("2 of 3 examples differ, by up to 1; the first: "), "{many}");
        assert!(many.contains("not the model which made the examples"), "{many}");
        let texts = described(100, &[json!({ "value": "1" })]);
        assert!(texts.starts_with("1 of 100 examples differ; the first: predictions[0].value is \"1\""), "{texts}");
        assert!(!texts.contains("--tolerance"), "{texts}");
    }

    #[test]
    fn the_advised_tolerance_is_accepted() {
        for (number, rounded) in
            [(0.006512, 0.0066), (0.0066, 0.0066), (1.0, 1.0), (99.1, 100.0), (0.00010001, 0.00011)]
        {
            assert!((rounded_up(number) - rounded).abs() < 1e-12, "{number}: {}", rounded_up(number));
            assert!(rounded_up(number) >= number);
        }
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
