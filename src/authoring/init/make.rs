//! Makes a model: stages the files, tries the proposals out, and publishes the first that runs as version 1.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::decide::proposals;
use super::evidence::Evidence;
use super::model_files::ModelFiles;
use super::proposal::{Proposal, Setting};
use crate::authoring::add::{Added, Checked, NewFiles, check, order, stage_files};
use crate::authoring::data_file::DataFile;
use crate::authoring::staging::{Staging, at};
use crate::authoring::table_columns::{TableColumn, table_columns};
use crate::authoring::training_data::{BaselineData, Progress};
use crate::authoring::weights_beside::stage_weights_beside;
use crate::config::SessionConfig;
use crate::error::{Result, SetupError};
use crate::identity::{ModelName, Version, cut_off};
use crate::model::Engine;
use crate::pipeline::Stages;
use crate::registry::{Findings, LoadOrder, OpenedVersion, Trial, WarmUp, sufficient_total_ms};
use crate::repository::{CONFIG_FILE, FoundVersion, Manifest, ModelFacts, Refusal, VerifiedVersion};
use crate::tensor::{RowDimension, Signature, TensorSpec};

/// Budget for a model whose runs could not be measured, because the lengths of its rows are open.
const BUDGET_OF_OPEN_LENGTHS_MS: u64 = 2_000;

/// Maximum number of inputs or outputs in the header of a `model.toml`.
const MAX_LISTED: usize = 30;

/// Maximum length of a reason for a refused proposal, in characters.
const MAX_REASON: usize = 600;

/// An order to make a model.
#[derive(Debug, Clone)]
pub struct ModelToMake<'a> {
    /// The ONNX file, or the folder of an export.
    pub given: &'a Path,
    /// The folder that gets the model's folder.
    pub repository: &'a Path,
    /// Name of the model; by default, that of the file or folder.
    pub name: Option<ModelName>,
    /// Training data, for the names of columns, missing values and the baseline.
    pub training_data: Option<DataFile>,
}

/// A model that has been tried out, in a hidden folder of the repository. Removed on drop unless it is published.
#[derive(Debug)]
pub struct Draft {
    /// The content of the `model.toml`.
    pub model_toml: String,
    /// The settings that the user has to compare with the training, as in `preprocess.columns`.
    pub guesses: Vec<String>,
    /// The sections whose comments propose other settings.
    pub sections_with_hints: Vec<&'static str>,
    /// An instance that a caller can send, as JSON; `None` if none is known.
    pub example: Option<String>,
    /// Number of instances of a request.
    pub instances: usize,
    /// True if an instance can be an image.
    pub takes_images: bool,
    pub name: ModelName,
    checked: Checked,
    manifest: Manifest,
    weights_beside: Vec<String>,
    order: LoadOrder,
    staging: Staging,
    place: Staging,
}

/// The parts that try out proposals.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    pub engine: &'a dyn Engine,
    pub stages: &'a Stages,
    pub trial: Option<&'a Trial>,
    pub progress: &'a dyn Fn(Progress),
}

impl fmt::Debug for Tools<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// Finds the settings of a model by trying them out. Nothing is left in the repository unless the draft is published.
pub fn draft(wanted: &ModelToMake<'_>, tools: Tools<'_>) -> Result<Draft, SetupError> {
    let files = ModelFiles::find(wanted.given)?;
    let name = wanted.name.clone().map_or_else(|| files.name(), Ok)?;
    let (place, model) = new_folder(wanted.repository, &name)?;
    let staging = Staging::create(&model)?;
    let new = NewFiles { onnx: files.onnx.clone(), ..NewFiles::default() };
    stage_files(&new, &staging)?;
    let weights_beside = stage_weights_beside(&files.onnx, &staging)?;
    let columns = wanted.training_data.as_ref().map(table_columns).transpose()?.flatten();

    let mut manifest = Manifest::write_for(staging.path())?;
    let verified = verified(&staging)?;
    let facts = ModelFacts::read(&verified.bytes.model).map_err(refused)?;
    manifest.framework = facts.producer.clone();
    let signature = declared_signature(&verified, tools.engine)?;
    let evidence = Evidence {
        signature: &signature,
        classes: &verified.classes,
        facts: &facts,
        files: &files,
        columns: columns.as_deref(),
    };
    check_columns(&signature, wanted.training_data.as_ref(), columns.as_deref())?;
    let proposals = proposals(&evidence);
    stage_side_files(&proposals, &staging)?;
    manifest = Manifest::write(manifest, staging.path())?;
    let about = about(&files.onnx, &facts, &signature);
    drop(verified);

    let trying = Trying { model: &model, staging: &staging, new, about, tools };
    let (mut proposal, findings) = trying.first_that_runs(proposals)?;
    proposal.budget.extend(budget(&findings, &trying.order()?));
    let model_toml = trying.write(&proposal)?;
    let mut checked = Checked { findings, examples: 0, baseline: None };
    if let Some(data) = &wanted.training_data {
        let data = BaselineData { training: data.clone(), labelled: None };
        let new = NewFiles { baseline_data: Some(data), ..trying.new.clone() };
        checked = trying.check(&new)?;
        manifest = Manifest::write(manifest, staging.path())?;
    }
    let order = trying.order()?;
    checked.findings.check_budget(&order.config.budget);
    let opened = OpenedVersion::open(tools.engine, tools.stages, &order, self::verified(&staging)?).map_err(refused)?;
    Ok(Draft {
        model_toml,
        guesses: proposal.guesses(),
        sections_with_hints: proposal.sections_with_hints(),
        example: checked.findings.example.as_ref().map(|example| example.instance.clone()),
        instances: opened.fewest_rows(),
        takes_images: opened.takes_images(),
        name,
        checked,
        manifest,
        weights_beside,
        order,
        staging,
        place,
    })
}

impl Draft {
    /// Makes the draft a model of the repository, with version 1.
    pub fn publish(self) -> Result<Added, SetupError> {
        let Draft { name, checked, manifest, weights_beside, order, staging, place, .. } = self;
        staging.sync()?;
        let (version, folder) = staging.become_version(order.version, |_, _| Ok(()))?;
        let batching = order.config.model.batching;
        let model = place.publish_model(name.as_str())?;
        let folder = model.join(folder.file_name().unwrap_or_default());
        let Checked { findings, examples, baseline } = checked;
        Ok(Added { version, folder, manifest, weights_beside, examples, baseline, findings, batching })
    }
}

/// Makes the folder of a new model, which is not seen in the repository until it is complete.
fn new_folder(repository: &Path, name: &ModelName) -> Result<(Staging, PathBuf), SetupError> {
    refuse_existing(&repository.join(name.as_str()))?;
    std::fs::create_dir_all(repository).map_err(|error| at(repository, &error))?;
    let place = Staging::create(&repository.canonicalize().map_err(|error| at(repository, &error))?)?;
    let model = place.path().join(name.as_str());
    std::fs::create_dir(&model).map_err(|error| at(&model, &error))?;
    Ok((place, model))
}

fn refuse_existing(model: &Path) -> Result<(), SetupError> {
    let shown = model.display();
    match model.symlink_metadata().is_ok() {
        false => Ok(()),
        true => Err(SetupError::Repository(format!(
            "{shown}: this model exists already, and leeway init changes nothing of it. Add a version to it with \
             leeway add {shown} --onnx FILE, choose another name with --name, or see the proposed model.toml with --print"
        ))),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that `map_err` needs")]
fn refused(refusal: Refusal) -> SetupError {
    SetupError::Repository(refusal.to_string())
}

fn verified(staging: &Staging) -> Result<VerifiedVersion, SetupError> {
    FoundVersion::find(staging.path()).and_then(FoundVersion::read).map_err(refused)
}

/// Returns the inputs and outputs as the file declares them: each as a whole.
fn declared_signature(verified: &VerifiedVersion, engine: &dyn Engine) -> Result<Signature, SetupError> {
    let config = SessionConfig { rows: Some(RowDimension::None), ..SessionConfig::default() };
    let loaded = engine.load(verified.source(), &config).map_err(|error| {
        let message = error.to_string();
        crate::registry::load_problem(&message, engine.version()).map_or(error, SetupError::Repository)
    })?;
    let signature = loaded.signature();
    let in_the_file = |specs: &[TensorSpec]| specs.iter().map(|spec| signature.in_the_file(spec)).collect();
    Ok(Signature {
        inputs: in_the_file(&signature.inputs),
        outputs: in_the_file(&signature.outputs),
        row_dimensions: Default::default(),
        ..signature.clone()
    })
}

/// Checks that training data have as many columns as the model's only input, if that is a row of numbers.
fn check_columns(
    signature: &Signature,
    data: Option<&DataFile>,
    columns: Option<&[TableColumn]>,
) -> Result<(), SetupError> {
    let (Some(data), Some(columns), [input]) = (data, columns, &*signature.inputs) else { return Ok(()) };
    match super::evidence::width(input).flatten() {
        Some(width) if width > 1 && width != columns.len() => Err(SetupError::Repository(format!(
            "{}: there are {} columns, but the model's input {:?} takes {width}: leave out those that are not features, such \
             as the label or an id, with --ignore-column NAME",
            data.path.display(),
            columns.len(),
            input.name
        ))),
        _ => Ok(()),
    }
}

/// Copies the files that the stages read.
fn stage_side_files(proposals: &[Proposal], staging: &Staging) -> Result<(), SetupError> {
    let mut files: Vec<&PathBuf> = proposals.iter().flat_map(|proposal| &proposal.files).collect();
    files.sort();
    files.dedup();
    files.into_iter().try_for_each(|file| staging.copy(file, &file.file_name().unwrap_or_default().to_string_lossy()))
}

/// Returns the header of the `model.toml`.
fn about(onnx: &Path, facts: &ModelFacts, signature: &Signature) -> Vec<String> {
    let file = onnx.file_name().unwrap_or_default().to_string_lossy();
    let producer = facts.producer.as_ref().map_or_else(String::new, |producer| format!(" (by {producer})"));
    let listed = |kind: &str, specs: &[TensorSpec]| {
        let more = specs.len().saturating_sub(MAX_LISTED);
        let more = (more > 0).then(|| format!("{kind} … and {more} more"));
        let tensor = |spec: &TensorSpec| format!("{kind} {}: {}", spec.name, spec.describe());
        specs.iter().take(MAX_LISTED).map(tensor).chain(more).collect::<Vec<_>>()
    };
    let first = format!(
        "Written by leeway init from {file}{producer}. Each setting has its reason above it. Compare the settings marked CHECK \
         with the training. docs/stages.md and docs/configuration.md have all keys."
    );
    let tensors = [listed("Input", &signature.inputs), listed("Output", &signature.outputs)].concat();
    [first, String::new()].into_iter().chain(tensors).collect()
}

/// Returns the budget, if a request takes longer than the default allows, or if its duration is not known.
fn budget(findings: &Findings, order: &LoadOrder) -> Option<Setting> {
    let budget = &order.config.budget;
    let is_guessed = match &findings.warm_up {
        WarmUp::Ran(rows) => !rows.is_typical(),
        WarmUp::Failed { .. } => true,
    };
    let stages = findings.example.as_ref().map_or(Duration::ZERO, |example| example.stages);
    let sufficient = |run| sufficient_total_ms(budget, run, stages);
    let (total_ms, reason) = match findings.slow_run {
        Some(run) => {
            let slow_stages = match stages > budget.preprocess + budget.postprocess {
                true => format!(", and the stages around it {} ms", stages.as_millis()),
                false => String::new(),
            };
            let reason = format!(
                "A run takes {:.0} ms{slow_stages} on the machine that ran leeway init, which the default of 200 ms does not \
                 allow.",
                run.as_secs_f64() * 1e3
            );
            (sufficient(run)?, reason)
        }
        None if is_guessed => (
            sufficient(Duration::ZERO).unwrap_or_default().max(BUDGET_OF_OPEN_LENGTHS_MS),
            "The duration of a run depends on the lengths of the rows, which the model leaves open.".to_owned(),
        ),
        None => return None,
    };
    Some(Setting { is_guess: true, ..Setting::known("total_ms", total_ms, reason) })
}

/// The model's hidden folder, in which proposals are tried out.
struct Trying<'a> {
    model: &'a Path,
    staging: &'a Staging,
    new: NewFiles,
    about: Vec<String>,
    tools: Tools<'a>,
}

impl Trying<'_> {
    /// Returns the first proposal with which the model runs; if it runs with none, the first that is accepted.
    fn first_that_runs(&self, proposals: Vec<Proposal>) -> Result<(Proposal, Findings), SetupError> {
        let mut accepted: Option<(Proposal, Findings)> = None;
        let mut problems: Vec<String> = Vec::new();
        for mut proposal in proposals {
            proposal.remarks.extend(problems.iter().map(|problem| format!("CHECK: Not used: {problem}")));
            self.write(&proposal)?;
            let kinds = (proposal.preprocess.kind, proposal.postprocess.kind);
            let whole = if proposal.model.is_empty() { "" } else { " with rows = \"none\"" };
            match self.check(&self.new) {
                Ok(Checked { findings, .. }) if matches!(findings.warm_up, WarmUp::Ran(_)) => {
                    return Ok((proposal, findings));
                }
                Ok(Checked { findings, .. }) => accepted = accepted.or(Some((proposal, findings))),
                Err(error) => {
                    let reason = cut_off(error.to_string(), MAX_REASON);
                    problems.push(format!("{:?} and {:?}{whole}: {reason}", kinds.0, kinds.1));
                }
            }
        }
        let unservable = || {
            SetupError::Repository(format!(
                "no settings were found with which this model can be served:\n  {}",
                problems.join("\n  ")
            ))
        };
        accepted.ok_or_else(unservable)
    }

    /// Writes the proposal as the `model.toml`, and returns its text.
    fn write(&self, proposal: &Proposal) -> Result<String, SetupError> {
        let (path, text) = (self.model.join(CONFIG_FILE), proposal.to_toml(&self.about));
        std::fs::write(&path, &text).map_err(|error| at(&path, &error))?;
        Ok(text)
    }

    fn order(&self) -> Result<LoadOrder, SetupError> {
        let order = order(self.model, Version::FIRST)?;
        Ok(LoadOrder { config_place: format!("the proposed {CONFIG_FILE}"), ..order })
    }

    fn check(&self, new: &NewFiles) -> Result<Checked, SetupError> {
        let Tools { engine, stages, trial, progress } = self.tools;
        check(&self.order()?, new, self.staging, engine, stages, trial, progress)
    }
}
