//! The file `MLmodel` of a model that MLflow saved: the file of its flavor `onnx`, and the columns of its signature.
//!
//! The file is YAML, of which only the form that MLflow writes is read: keys, indented by two spaces, with texts that
//! may be quoted and continue on the next lines.

use serde::Deserialize;

/// The parts of `MLmodel` that are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MlflowModel {
    /// The flavors, as in `onnx` and `python_function`.
    pub(super) flavors: Vec<String>,
    /// Path of the ONNX file within the folder, if the model has the flavor `onnx`.
    pub(super) onnx: Option<String>,
    /// Names of the columns of the inputs, if the signature has columns with names.
    pub(super) columns: Option<Vec<String>>,
}

/// A column in the signature.
#[derive(Deserialize)]
struct Column {
    name: Option<String>,
    r#type: Option<String>,
}

impl MlflowModel {
    /// Reads an `MLmodel`.
    pub(super) fn read(text: &str) -> MlflowModel {
        let entries = entries(text);
        let value = |path: &[&str]| entries.iter().find(|entry| entry.path == path).map(|entry| entry.value.clone());
        let flavors = entries.iter().filter_map(|entry| match &*entry.path {
            [flavors, flavor] if flavors == "flavors" => Some(flavor.clone()),
            _ => None,
        });
        let inputs = value(&["signature", "inputs"]).unwrap_or_default();
        let columns: Option<Vec<Column>> = serde_json::from_str(&inputs).ok();
        let is_column = |column: &Column| column.r#type.as_deref().is_some_and(|kind| kind != "tensor");
        let columns = columns.filter(|columns| columns.iter().all(is_column));
        MlflowModel {
            flavors: flavors.collect(),
            onnx: value(&["flavors", "onnx", "data"]),
            columns: columns
                .and_then(|columns| columns.into_iter().map(|column| column.name).collect::<Option<Vec<_>>>())
                .filter(|names| !names.is_empty()),
        }
    }
}

/// A key with its parents, and its value.
struct Entry {
    path: Vec<String>,
    value: String,
}

/// Returns the keys with their values, which are empty if a key has keys below it.
fn entries(text: &str) -> Vec<Entry> {
    let mut found: Vec<Entry> = Vec::new();
    // The keys above the current line, with their indentation.
    let mut parents: Vec<(usize, String)> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let Some((name, value)) = line.trim().split_once(':') else { continue };
        if name.starts_with(['-', '#', '\'', '"']) || !(value.is_empty() || value.starts_with(' ')) {
            continue;
        }
        let mut value = value.trim().to_owned();
        let quote = value.chars().next().filter(|first| matches!(first, '\'' | '"'));
        // A quoted text ends with its quote; one without quotes continues on the lines that are indented further.
        while let Some(next) = lines.peek() {
            let next_indent = next.len() - next.trim_start().len();
            let continues = match quote {
                Some(quote) => !is_closed(&value, quote),
                None => !value.is_empty() && next_indent > indent && !next.trim().is_empty(),
            };
            if !continues {
                break;
            }
            value.push(' ');
            value.push_str(next.trim());
            lines.next();
        }
        parents.retain(|(above, _)| *above < indent);
        parents.push((indent, name.to_owned()));
        let path = parents.iter().map(|(_, name)| name.clone()).collect();
        found.push(Entry { path, value: unquoted(&value, quote) });
    }
    found
}

/// Returns true if a quoted text ends with its quote. A quote within single quotes is doubled; one within double
/// quotes has a backslash before it.
fn is_closed(value: &str, quote: char) -> bool {
    let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) else { return false };
    match quote {
        '\'' => inner.chars().rev().take_while(|c| *c == '\'').count() % 2 == 0,
        _ => inner.chars().rev().take_while(|c| *c == '\\').count() % 2 == 0,
    }
}

fn unquoted(value: &str, quote: Option<char>) -> String {
    match quote {
        Some('\'') => {
            let inner = value.strip_prefix('\'').unwrap_or(value);
            inner.strip_suffix('\'').unwrap_or(inner).replace("''", "'")
        }
        // Line breaks are escaped in double quotes by MLflow's writer of YAML, as in JSON.
        Some(_) => serde_json::from_str(value).unwrap_or_default(),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As MLflow 3.6 writes it, shortened.
    const SAVED: &str = r#"artifact_path: model
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: 1.20.0
    providers:
    - CUDAExecutionProvider
    - CPUExecutionProvider
  python_function:
    data: model.onnx
    env:
      conda: conda.yaml
    loader_module: mlflow.onnx
mlflow_version: 3.6.0
signature:
  inputs: '[{"type": "double", "name": "sepal length (cm)", "required": true}, {"type":
    "double", "name": "the owner''s", "required": true}]'
  outputs: '[{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]'
  params: null
"#;

    #[test]
    fn the_flavor_and_the_columns_are_read() {
        let model = MlflowModel::read(SAVED);
        assert_eq!(model.flavors, ["onnx", "python_function"]);
        assert_eq!(model.onnx.as_deref(), Some("model.onnx"));
        assert_eq!(model.columns, Some(vec!["sepal length (cm)".to_owned(), "the owner's".to_owned()]));
    }

    #[test]
    fn a_signature_of_tensors_names_no_columns() {
        for inputs in
            ["'[{\"type\": \"tensor\", \"tensor-spec\": {}}]'", "null", "'[{\"type\": \"double\"}]'", "'[]'", "'"]
        {
            let text = format!("signature:\n  inputs: {inputs}\n");
            assert_eq!(MlflowModel::read(&text).columns, None, "{inputs}");
        }
        let model = MlflowModel::read("flavors:\n  sklearn:\n    pickled_model: model.pkl\n");
        assert_eq!((model.flavors, model.onnx), (vec!["sklearn".to_owned()], None));
        assert_eq!(MlflowModel::read("\u{0}: [: '"), MlflowModel::default());
    }
}
