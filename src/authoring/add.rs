//! Adds a version: stages its files in a hidden folder and tries them out. One rename makes the folder a version.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::recorded_examples::{RecordedFrom, record};
use super::sign::SigningKey;
use super::staging::{Staging, at};
use super::training_data::{BaselineData, Progress, make_baseline};
use super::weights_beside::stage_weights_beside;
use crate::config::{Batching, ModelConfig, SessionPlace};
use crate::error::{Result, SetupError};
use crate::identity::Version;
use crate::model::Engine;
use crate::monitor::Baseline;
use crate::pipeline::Stages;
use crate::registry::{Findings, LoadOrder, MAX_COMPARING, OpenedVersion, Pace, Trial};
use crate::repository::{
    BASELINE_FILE, CONFIG_FILE, FoundVersion, GOLDEN_FILE, Golden, MANIFEST_FILE, MODEL_FILE, Manifest, Refusal,
    SIGNATURE_FILE, next_version, parse_golden,
};

/// Files from which a new version is made.
#[derive(Debug, Clone, Default)]
pub struct NewFiles {
    /// The model. Stored as `model.onnx`.
    pub onnx: PathBuf,
    /// Other files, stored under their own names: external weights of the model, a tokenizer, labels.
    pub others: Vec<PathBuf>,
    /// Examples, stored as `golden.json`.
    pub golden: Option<PathBuf>,
    /// Tolerance of numbers in `golden`, instead of the tolerance in the file.
    pub golden_tolerance: Option<f64>,
    /// Rows that become examples, if there is no `golden`.
    pub record: Option<RecordedFrom>,
    /// Data from which a baseline is made.
    pub baseline_data: Option<BaselineData>,
}

/// A version to add.
#[derive(Debug, Clone)]
pub struct Addition<'a> {
    /// The model's folder.
    pub model: &'a Path,
    pub files: &'a NewFiles,
    /// Facts about the version. The list of files is filled in later.
    pub facts: Manifest,
    /// Key that the version is signed with, if it is signed.
    pub key: Option<&'a SigningKey>,
    /// The version that it becomes, unless it is taken; `None` for the one after the highest in the folder.
    pub version: Option<Version>,
}

/// The version that was added.
#[derive(Debug)]
pub struct Added {
    /// The new version.
    pub version: Version,
    /// Its folder, or its location in an object store.
    pub folder: PathBuf,
    /// Its manifest, with its files.
    pub manifest: Manifest,
    /// Files with weights that were beside the ONNX file and were added with it.
    pub weights_beside: Vec<String>,
    /// Number of its examples.
    pub examples: usize,
    /// Its baseline, if one was made.
    pub baseline: Option<Baseline>,
    /// Findings of its first runs.
    pub findings: Findings,
    /// The setting `model.batching` in `model.toml`.
    pub batching: Batching,
}

/// Result of the first runs of a new version.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) findings: Findings,
    /// Number of its examples.
    pub(super) examples: usize,
    /// Its baseline, if one was made.
    pub(super) baseline: Option<Baseline>,
}

/// Checks that a version loads and fits its `model.toml`, and adds it as the next version of the model.
pub fn add(
    addition: Addition<'_>,
    engine: &dyn Engine,
    stages: &Stages,
    trial: Option<&Trial>,
    progress: &dyn Fn(Progress),
) -> Result<Added, SetupError> {
    let Addition { model, files, facts, key, version } = addition;
    let model = model.canonicalize().map_err(|error| match model.exists() {
        true => at(model, &error),
        false => SetupError::Repository(format!(
            "{}: there is no such folder; make it, with a model.toml that says what the model takes and answers",
            model.display()
        )),
    })?;
    let staging = Staging::create(&model)?;
    let order = order(&model, version.map_or_else(|| next_version(&model), Ok)?)?;
    stage_files(files, &staging)?;
    let weights_beside = stage_weights_beside(&files.onnx, &staging)?;
    let mut manifest = Manifest::write(facts, staging.path())?;
    fail::fail_point!("add::staged");

    let Checked { findings, examples, baseline } = check(&order, files, &staging, engine, stages, trial, progress)?;
    if files.makes_files_of_its_own() {
        manifest = Manifest::write(manifest, staging.path())?;
    }
    staging.sync()?;
    fail::fail_point!("add::checked");
    let sign = |folder: &Path, version| key.map_or(Ok(()), |key| key.sign(folder, &order.model, version));
    let (version, folder) = staging.become_version(order.version, sign)?;
    let batching = order.config.model.batching;
    Ok(Added { version, folder, manifest, weights_beside, examples, baseline, findings, batching })
}

/// Tries the version out, and writes the examples and the baseline that are made by running it.
pub(super) fn check(
    order: &LoadOrder,
    new: &NewFiles,
    staging: &Staging,
    engine: &dyn Engine,
    stages: &Stages,
    trial: Option<&Trial>,
    progress: &dyn Fn(Progress),
) -> Result<Checked, SetupError> {
    let refused = |refusal: Refusal| SetupError::Repository(refusal.to_string());
    let found = FoundVersion::find(staging.path()).map_err(refused)?;
    let findings = trial.map(|trial| trial.run(order, &found)).transpose().map_err(refused)?;
    let verified = found.read().map_err(refused)?;
    let mut examples = verified.golden.as_ref().map_or(0, |golden| golden.instances.len());
    let mut baseline = None;
    let mut findings = match findings {
        Some(findings) if !new.makes_files_of_its_own() => findings,
        findings => {
            let sizing = findings.as_ref().and_then(|findings| findings.sizing.as_ref());
            let mut opened = OpenedVersion::open(engine, stages, &order.sized(sizing), verified).map_err(refused)?;
            let examine = |opened: &OpenedVersion| opened.examine(&mut *opened.session()?, MAX_COMPARING);
            let mut findings = findings.map_or_else(|| examine(&opened), Ok).map_err(refused)?;
            if let Some(from) = &new.record {
                let (golden, remarks) = record(from, &opened)?;
                findings.remarks.extend(remarks);
                examples = golden.instances.len();
                staging.write_json(&golden, GOLDEN_FILE)?;
                if !findings.has_known_shape() {
                    // The examples have shapes that the model runs on, as a load will find.
                    opened.set_examples(golden);
                    let Findings { bounds, sizing, .. } = findings;
                    findings = Findings { bounds, sizing, ..examine(&opened).map_err(refused)? };
                }
            }
            if let Some(data) = &new.baseline_data {
                let (made, remarks) = make_baseline(data, &opened, &findings, progress)?;
                findings.remarks.extend(remarks);
                staging.write_json(&made, BASELINE_FILE)?;
                baseline = Some(made);
            }
            findings
        }
    };
    findings.check_budget(&order.config.budget);
    Ok(Checked { findings, examples, baseline })
}

impl NewFiles {
    /// Returns true if examples or a baseline have to be made by running the version.
    fn makes_files_of_its_own(&self) -> bool {
        self.record.is_some() || self.baseline_data.is_some()
    }
}

/// Returns the order to load a version of the model in this folder, at full pace.
pub(super) fn order(model: &Path, version: Version) -> Result<LoadOrder, SetupError> {
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    let name = name.parse().map_err(|error| SetupError::Repository(format!("{}: {error}", model.display())))?;
    let config_file = model.join(CONFIG_FILE);
    let config = ModelConfig::read(&config_file).map_err(|error| SetupError::Repository(error.to_string()))?;
    if !config.steps.is_empty() {
        return Err(SetupError::Repository(format!(
            "{}: a chain with [[steps]] has no files of its own; add the version to the model of a step",
            config_file.display()
        )));
    }
    let config_place = config_file.display().to_string();
    let (place, pace) = (SessionPlace::Server, Pace::Full);
    Ok(LoadOrder { model: name, version, config: Arc::new(config), config_place, place, pace })
}

/// Copies the files into the staging folder.
pub(super) fn stage_files(new: &NewFiles, staging: &Staging) -> Result<(), SetupError> {
    staging.copy(&new.onnx, MODEL_FILE)?;
    for other in &new.others {
        let name = other.file_name().unwrap_or_default().to_string_lossy();
        if name == MANIFEST_FILE || name == SIGNATURE_FILE {
            return Err(SetupError::Repository(format!(
                "{}: the manifest and its signature are written by `leeway add`",
                other.display()
            )));
        }
        if name == BASELINE_FILE && new.baseline_data.is_some() {
            let problem = "a baseline is made from --baseline-data; give only one of the two";
            return Err(SetupError::Repository(format!("{}: {problem}", other.display())));
        }
        staging.copy(other, &name)?;
    }
    match (&new.golden, new.golden_tolerance) {
        (Some(golden), None) => staging.copy(golden, GOLDEN_FILE),
        (Some(golden), Some(tolerance)) => {
            let text = std::fs::read(golden).map_err(|error| at(golden, &error))?;
            let refused = |refusal: Refusal| SetupError::Repository(format!("{}: {refusal}", golden.display()));
            staging.write_json(&Golden { tolerance, ..parse_golden(&text).map_err(refused)? }, GOLDEN_FILE)
        }
        (None, _) => Ok(()),
    }
}
