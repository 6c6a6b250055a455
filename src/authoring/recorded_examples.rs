//! Golden examples that are made from rows of data: with the predictions of the new version itself, or with expected
//! predictions from a column of the data.

use std::num::NonZeroUsize;

use serde_json::{Value, json};

use super::columns::LabelColumn;
use super::data_file::DataFile;
use super::data_rows::Source;
use super::delimited_table::number;
use super::row::Row;
use crate::error::{Result, SetupError};
use crate::registry::OpenedVersion;
use crate::repository::{Differences, Golden, Refusal, parse_golden};

/// Rows to make examples from.
#[derive(Debug, Clone)]
pub struct RecordedFrom {
    pub data: DataFile,
    /// Maximum number of examples: the first rows.
    pub max_rows: NonZeroUsize,
    /// Column with the predictions of the training framework. Otherwise those of the new version are recorded.
    pub label_column: Option<String>,
    /// Tolerance of numbers when the examples are checked.
    pub tolerance: f64,
}

/// Runs a version on rows, and makes golden examples of them. Also returns remarks on the data.
pub(super) fn record(from: &RecordedFrom, opened: &OpenedVersion) -> Result<(Golden, Vec<String>), SetupError> {
    let path = from.data.path.display();
    let refused = |problem: String| SetupError::Repository(format!("{path}: {problem}"));
    let mut session = opened.session().map_err(|refusal| refused(refusal.to_string()))?;
    let label = from.label_column.as_deref().map(LabelColumn::Read);
    let source = Source::open(&from.data, label, opened, &mut *session)?;
    // Examples fill whole runs of a model with a fixed batch.
    let of_a_run = opened.fewest_rows();
    let max_rows = (from.max_rows.get() / of_a_run).max(1) * of_a_run;
    let mut all = source.rows()?;
    let rows: Vec<Row> = all.by_ref().take(max_rows).collect::<Result<_, SetupError>>()?;
    let mut remarks = source.remarks();
    if all.next().is_some() {
        remarks.push(format!("the first {max_rows} rows of {path} became golden examples; --golden-rows takes more"));
    }
    let instances = rows.iter().map(|row| row.instance.clone()).collect();
    let mut golden = Golden { instances, predictions: Vec::new(), tolerance: from.tolerance };
    let wrong = |row: &Row, problem: &str| source.wrong(&row.place, problem);
    let found: Vec<Value> = opened
        .predict(&mut *session, &golden)
        .zip(&rows)
        .map(|(prediction, row)| prediction.map_err(|problem| wrong(row, &problem)))
        .collect::<Result<_, SetupError>>()?;
    let expected = found.iter().zip(&rows).map(|(found, row)| match &row.label {
        Some(label) => expected(found, label).map_err(|problem| wrong(row, &problem)),
        None => Ok(found.clone()),
    });
    golden.predictions = expected.collect::<Result<_, SetupError>>()?;
    let text = serde_json::to_vec(&golden).map_err(SetupError::internal)?;
    // Parses the text as a load of the version will.
    let golden = parse_golden(&text).map_err(|refusal: Refusal| refused(refusal.to_string()))?;
    let mut differences = Differences::default();
    let mut first = None;
    for (index, (found, row)) in found.iter().zip(&rows).enumerate() {
        golden.compare(index, found, &mut differences);
        if differences.differing == 1 {
            first.get_or_insert(row);
        }
    }
    match (differences.describe(), first) {
        (Some(problem), Some(row)) => Err(wrong(row, &problem)),
        _ => Ok((golden, remarks)),
    }
}

/// Returns the part of a prediction that is compared with a cell of the label's column, with the value of the cell.
fn expected(found: &Value, cell: &Value) -> Result<Value, String> {
    let key = ["label", "value"].into_iter().find(|key| found.get(key).is_some());
    let key = key.ok_or(
        "a column has the expected \"label\" of a classifier or \"value\" of a regressor, but the predictions of this \
         version have neither; write a golden.json",
    )?;
    let value = match (&found[key], cell) {
        (_, Value::Null) => None,
        (_, Value::String(text)) if text.is_empty() => None,
        // Text files have no types, and whole numbers in a column of floats are labels as well.
        (Value::Number(_), Value::String(text)) => Some(number(text.trim()).unwrap_or_else(|| cell.clone())),
        (Value::String(_), Value::Number(number)) => Some(number.to_string().into()),
        (_, cell) => Some(cell.clone()),
    };
    value.map(|value| json!({ key: value })).ok_or_else(|| "the expected prediction is missing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_compared_with_the_label_or_the_value() {
        let label = |label: Value| json!({ "label": label, "confidence": 0.9 });
        for (found, cell, result) in [
            (label(json!("setosa")), json!("setosa"), json!({ "label": "setosa" })),
            (label(json!("007")), json!("007"), json!({ "label": "007" })),
            (label(json!("2")), json!(2), json!({ "label": "2" })),
            (label(json!(2)), json!("2"), json!({ "label": 2 })),
            (label(json!(2)), json!("two"), json!({ "label": "two" })),
            (json!({ "value": 1.5 }), json!(" 2.5"), json!({ "value": 2.5 })),
        ] {
            assert_eq!(expected(&found, &cell), Ok(result), "{found} {cell}");
        }
        for (found, cell, problem) in [
            (json!({ "value": 1.5 }), json!(""), "is missing"),
            (json!({ "value": 1.5 }), json!(null), "is missing"),
            (json!([1.5]), json!(1.5), "have neither"),
        ] {
            assert!(expected(&found, &cell).unwrap_err().contains(problem), "{found} {cell}");
        }
    }
}
