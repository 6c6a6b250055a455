//! Recorded examples: the predictions of a new version for given instances.

use std::io::Read;
use std::path::PathBuf;

use serde_json::value::RawValue;

use super::data_file::open_text;
use super::staging::at;
use crate::error::{Result, SetupError};
use crate::registry::OpenedVersion;
use crate::repository::{Golden, Refusal, parse_golden};

/// Instances to record as examples, and the tolerance of the examples.
#[derive(Debug, Clone)]
pub struct RecordedFrom {
    /// One instance per line, as JSON.
    pub instances: PathBuf,
    /// Tolerance of numbers when the examples are checked.
    pub tolerance: f64,
}

/// Runs a version on instances, and records its predictions as golden examples.
pub(super) fn record(from: &RecordedFrom, opened: &OpenedVersion) -> Result<Golden, SetupError> {
    let refused = |problem: String| SetupError::Repository(format!("{}: {problem}", from.instances.display()));
    let mut text = String::new();
    open_text(&from.instances)?.read_to_string(&mut text).map_err(|error| at(&from.instances, &error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str::<Box<RawValue>>(line).map_err(|error| {
            let (line, column) = (index + 1, error.column());
            refused(format!("line {line}, column {column}: this is not an instance as JSON: {error}"))
        })
    };
    let instances: Vec<Box<RawValue>> = lines.map(parse).collect::<Result<_, SetupError>>()?;
    let mut golden = Golden { instances, predictions: Vec::new(), tolerance: from.tolerance };
    let mut session = opened.session().map_err(|refusal| refused(refusal.to_string()))?;
    let predictions = opened
        .predict(&mut *session, &golden)
        .enumerate()
        .map(|(index, prediction)| prediction.map_err(|problem| refused(format!("instance {}: {problem}", index + 1))));
    golden.predictions = predictions.collect::<Result<_, SetupError>>()?;
    let text = serde_json::to_vec(&golden).map_err(SetupError::internal)?;
    // Parses the text as a load of the version will.
    parse_golden(&text).map_err(|refusal: Refusal| refused(refusal.to_string()))
}
