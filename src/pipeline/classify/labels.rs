//! Names of classes, from `model.toml` or from a file of the version.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Result, SetupError};
use crate::pipeline::version_files::VersionFiles;

/// Name of a class: a number or a text, as it is written in `model.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(untagged, expecting = "a label is a number or a string")]
pub enum Label {
    /// A number, as in `labels = [0, 1]`.
    Number(i64),
    /// A text, as in `labels = ["cat", "dog"]`.
    Text(Arc<str>),
}

/// The setting `labels` in `model.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "labels are a list, or the name of a file of the version")]
pub(crate) enum Labels {
    /// The labels themselves, in the order of the scores.
    List(Vec<Label>),
    /// Name of a file with one label per line. If it ends in `.json`, it is an array of labels, or a `config.json` of
    /// Hugging Face, from which `id2label` is read.
    File(String),
}

impl Labels {
    /// Returns the labels in the order of the scores.
    pub(crate) fn read(self, files: &dyn VersionFiles) -> Result<Vec<Label>, SetupError> {
        let labels = match self {
            Labels::List(labels) => labels,
            Labels::File(name) => {
                let content = files.read(&name)?;
                parse(&name, &content).map_err(|problem| SetupError::Config(format!("labels: {name}: {problem}")))?
            }
        };
        if labels.is_empty() {
            return Err(SetupError::Config("labels: the list is empty".to_owned()));
        }
        Ok(labels)
    }
}

fn parse(name: &str, content: &[u8]) -> std::result::Result<Vec<Label>, String> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected an array of labels, or an object with id2label")]
    enum Json {
        Array(Vec<Label>),
        Config { id2label: std::collections::BTreeMap<String, Label> },
    }
    if !name.ends_with(".json") {
        let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?;
        return Ok(text.lines().map(|line| Label::Text(line.trim_end().into())).collect());
    }
    match serde_json::from_slice(content).map_err(|error| error.to_string())? {
        Json::Array(labels) => Ok(labels),
        Json::Config { id2label } => {
            let place = |id: &usize| id2label.get(&id.to_string()).cloned();
            let labels: Vec<Label> = (0..id2label.len()).map_while(|id| place(&id)).collect();
            let count = id2label.len();
            if labels.len() < count { Err(format!("id2label lacks some of 0 to {}", count - 1)) } else { Ok(labels) }
        }
    }
}

impl Label {
    /// Returns the label if it is a number.
    pub fn number(&self) -> Option<i64> {
        match self {
            Label::Number(number) => Some(*number),
            Label::Text(_) => None,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Label::Number(number) => number.fmt(f),
            Label::Text(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn labels_are_read_from_whatever_file_there_is() {
        let files: BTreeMap<String, Vec<u8>> = [
            ("labels.txt", "cat\ndog\r\n"),
            ("labels.json", r#"["cat", "dog"]"#),
            ("config.json", r#"{"id2label": {"1": "dog", "0": "cat"}, "model_type": "bert"}"#),
            ("gap.json", r#"{"id2label": {"1": "dog", "2": "cat"}}"#),
        ]
        .map(|(name, content)| (name.to_owned(), content.as_bytes().to_vec()))
        .into();
        let read = |name: &str| Labels::File(name.to_owned()).read(&files).map_err(|error| error.to_string());
        let expected = ["cat", "dog"].map(|label| Label::Text(label.into())).to_vec();
        for name in ["labels.txt", "labels.json", "config.json"] {
            assert_eq!(read(name), Ok(expected.clone()), "{name}");
        }
        assert_eq!(read("gap.json").unwrap_err(), "labels: gap.json: id2label lacks some of 0 to 1");
        assert!(read("none.txt").unwrap_err().contains("no file \"none.txt\""));
    }
}
