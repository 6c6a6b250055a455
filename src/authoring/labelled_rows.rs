//! Measures the predictions for rows of data whose truth is in a column.

use serde_json::Value;

use super::data_file::DataFile;
use super::row::Row;
use crate::feature::Observation;
use crate::identity::printable;
use crate::monitor::LabelledCounter;
use crate::pipeline::{class_named, class_numbered, unknown_class};

/// Rows of data with their truth, which the model was not trained on.
#[derive(Debug, Clone)]
pub struct LabelledData {
    /// The rows.
    pub data: DataFile,
    /// The column with the true classes or numbers. It is not a feature.
    pub column: String,
}

/// Maximum length of a label that an error message quotes, in bytes.
const QUOTED: usize = 64;

/// Counts a prediction with the truth of its row. A row without a label is not counted. `classes` are the names of the
/// classes; empty if they are not known.
pub(super) fn count(
    counter: &mut LabelledCounter,
    row: &Row,
    prediction: Observation,
    classes: &[String],
) -> Result<(), String> {
    let Some(label) = row.label.as_ref().and_then(text_of) else { return Ok(()) };
    match prediction {
        Observation::Class { .. } => {
            let class = class_of(&label, classes)?;
            counter.class(prediction, classes.get(class).map_or(&*class.to_string(), String::as_str));
        }
        Observation::Value(_) => match label.trim().parse::<f64>() {
            Ok(value) if value.is_finite() => counter.value(prediction, value),
            _ => return Err(format!("expected the true number, found {}", quoted(&label))),
        },
        Observation::Nothing => {
            return Err(
                "the prediction is neither a class nor a finite number, so it has no label to compare with".to_owned()
            );
        }
    }
    Ok(())
}

/// Returns the text of a label; `None` if it is missing.
fn text_of(label: &Value) -> Option<String> {
    match label {
        Value::Null => None,
        Value::String(text) => Some(text.clone()).filter(|text| !text.trim().is_empty()),
        label => Some(label.to_string()),
    }
}

/// Returns the class that a cell of a table means: by its name, as a number in any notation, or as true or false in the
/// spelling of JSON or of Python.
fn class_of(label: &str, classes: &[String]) -> Result<usize, String> {
    let number = || label.trim().parse::<f64>().ok().and_then(|number| class_numbered(number, classes));
    let whole = || {
        let number: f64 = label.trim().parse().ok().filter(|_| classes.is_empty())?;
        class_named(&(number + 0.0).to_string(), classes)
    };
    let spellings: &[&str] = match label {
        "true" | "True" => &["true", "True"],
        "false" | "False" => &["false", "False"],
        _ => &[],
    };
    let spelled = || spellings.iter().find_map(|name| class_named(name, classes));
    let found = class_named(label, classes).or_else(number).or_else(whole).or_else(spelled);
    found.ok_or_else(|| unknown_class(&quoted(label), classes))
}

fn quoted(label: &str) -> String {
    format!("\"{}\"", printable(label, QUOTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_means_a_class_in_any_usual_notation() {
        let classes = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        for (label, names, expected) in [
            ("yes", &["no", "yes"][..], Some(1)),
            ("1.0", &["0", "1"], Some(1)),
            ("1", &["0.0", "1.0"], Some(1)),
            ("True", &["false", "true"], Some(1)),
            ("false", &["False", "True"], Some(0)),
            ("2.0", &[], Some(2)),
            ("7", &[], Some(7)),
            ("1", &["no", "yes"], None),
            ("Yes", &["no", "yes"], None),
            ("0.5", &[], None),
            ("-1", &[], None),
        ] {
            assert_eq!(class_of(label, &classes(names)).ok(), expected, "{label} of {names:?}");
        }
        let problem = class_of("maybe", &classes(&["no", "yes"])).unwrap_err();
        assert_eq!(problem, "\"maybe\" is not one of the model's classes: \"no\", \"yes\"");
    }

    #[test]
    fn a_label_that_fits_no_prediction_is_an_error() {
        let row = |label: Value| Row {
            label: Some(label),
            ..Row::new(super::super::row::Place::Row(1), serde_json::value::to_raw_value(&0).unwrap())
        };
        let mut counter = LabelledCounter::new(None);
        let mut count = |label: Value, prediction| count(&mut counter, &row(label), prediction, &[]);
        assert_eq!(count(Value::Null, Observation::Value(1.0)), Ok(()));
        assert_eq!(count(" ".into(), Observation::Value(1.0)), Ok(()));
        assert_eq!(count("2.5".into(), Observation::Value(1.0)), Ok(()));
        assert_eq!(
            count("many".into(), Observation::Value(1.0)),
            Err("expected the true number, found \"many\"".to_owned())
        );
        assert!(count("1".into(), Observation::Nothing).unwrap_err().contains("no label to compare with"));
    }
}
