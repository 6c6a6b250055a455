//! `leeway add` and `leeway verify`: adds a version to the repository, and verifies the files of all versions.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use clap::{ArgGroup, Args};

use super::add_target::AddTarget;
use super::baseline::{LabelArgs, ProgressBar, TimeArgs, write_baseline};
use super::findings::write_findings;
use super::settings::RepositoryArgs;
use super::sign::PasswordArgs;
use super::terminal;
use crate::app::trial;
use crate::authoring::{
    Added, Addition, DataFile, Delimiter, LogWindow, NewFiles, RecordedFrom, RemoteAddition, SigningKey, add,
    add_to_store,
};
use crate::config::TrustedKey;
use crate::identity::Version;
use crate::model::onnx::OnnxRuntime;
use crate::pipeline::{Stages, some_of};
use crate::registry::{Trial, WarmUp};
use crate::repository::{
    self, BASELINE_FILE, DEFAULT_TOLERANCE, Manifest, TrainingDate, Trust, TrustedKeys, VerifiedVersion,
};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("examples").args(["golden", "record_golden"]).multiple(true)))]
#[command(group(ArgGroup::new("rows_as_golden").args(["record_golden", "golden_label_column"])))]
#[command(group(ArgGroup::new("rows").args(["record_golden", "golden_label_column", "baseline_data"]).multiple(true)))]
pub(super) struct AddArgs {
    /// Folder of the model, with its model.toml, as in models/digits; or its location in an object store, as in
    /// s3://bucket/models/digits, or only its name if repository.path is such a location
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// File with the model.toml of a model that is not in the object store yet
    #[arg(long, value_name = "FILE")]
    model_toml: Option<PathBuf>,

    /// ONNX file of the model
    #[arg(long, value_name = "FILE")]
    onnx: PathBuf,

    /// File with external weights of the model, such as model.onnx.data, if it is not beside the ONNX file. It keeps its
    /// name. May be given several times
    #[arg(long, value_name = "FILE")]
    data_file: Vec<PathBuf>,

    /// Further file of the version: a tokenizer, labels, a baseline.json. It keeps its name. May be given several times
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,

    /// Golden examples, checked at every load: {"instances": [...], "predictions": [...], "tolerance": 1e-4}. Or rows, as
    /// for --baseline-data, with --golden-label-column
    #[arg(long, value_name = "FILE", conflicts_with = "record_golden")]
    golden: Option<PathBuf>,

    /// Column of the table --golden with the training framework's own predictions: labels or values
    #[arg(long, value_name = "NAME", requires = "golden")]
    golden_label_column: Option<String>,

    /// Rows, as for --baseline-data, whose predictions are recorded as golden examples
    #[arg(long, value_name = "FILE")]
    record_golden: Option<PathBuf>,

    /// Maximum number of rows that become golden examples, from the first on
    #[arg(long, value_name = "COUNT", default_value = "100", requires = "rows_as_golden")]
    golden_rows: NonZeroUsize,

    /// Tolerance of numbers in the golden examples, relative to the larger of 1 and the number. Default: that of the file
    /// --golden, or 0.0001
    #[arg(long, value_parser = tolerance, requires = "examples")]
    tolerance: Option<f64>,

    /// Training data of the model, for its baseline: CSV, Parquet, Arrow, NumPy (.npy, .npz), one JSON instance per line,
    /// or a folder of images
    #[arg(long, value_name = "FILE")]
    baseline_data: Option<PathBuf>,

    #[command(flatten)]
    times: TimeArgs,

    #[command(flatten)]
    labels: LabelArgs,

    /// Separator of the columns, as in ";" or tab, if the header does not show it, or the file is no .csv
    #[arg(long, value_name = "CHARACTER", requires = "rows")]
    delimiter: Option<Delimiter>,

    /// A column of a table that is not a feature, such as the label or an id. May be given several times
    #[arg(long, value_name = "NAME", requires = "rows")]
    ignore_column: Vec<String>,

    /// Training date of the model, as in 2026-11-24, or with a time
    #[arg(long, value_name = "DATE")]
    trained_at: Option<TrainingDate>,

    /// Version of the training data, as in digits-v7
    #[arg(long)]
    dataset: Option<String>,

    /// Framework that the model was made with, as in "scikit-learn 1.8"
    #[arg(long)]
    framework: Option<String>,

    /// Description of this version, for people
    #[arg(long)]
    description: Option<String>,

    /// Metric of an evaluation, as in accuracy=0.97. May be given several times
    #[arg(long, value_name = "NAME=NUMBER", value_parser = metric)]
    metric: Vec<(String, f64)>,

    /// Further fact about the version, as in run=1234. May be given several times
    #[arg(long, value_name = "NAME=TEXT", value_parser = tag)]
    tag: Vec<(String, String)>,

    /// Secret key to sign the version with, as for `leeway sign`
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,

    #[command(flatten)]
    password: PasswordArgs,

    #[command(flatten)]
    settings: RepositoryArgs,
}

fn tag(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').ok_or_else(|| anyhow!("expected NAME=VALUE"))?;
    if name.is_empty() {
        bail!("the name is empty");
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn metric(text: &str) -> Result<(String, f64)> {
    let (name, value) = tag(text)?;
    let value: f64 = value.parse().map_err(|_| anyhow!("{value:?} is not a number"))?;
    if !value.is_finite() {
        bail!("{value} is not a finite number");
    }
    Ok((name, value))
}

fn tolerance(text: &str) -> Result<f64> {
    let tolerance: f64 = text.parse().map_err(|_| anyhow!("{text:?} is not a number"))?;
    if !(tolerance.is_finite() && tolerance >= 0.0) {
        bail!("expected a number, at least 0");
    }
    Ok(tolerance)
}

pub(super) fn run(args: AddArgs, stages: &Stages) -> Result<()> {
    let config = args.settings.load()?;
    if args.baseline_data.is_none() && args.labels.are_given() {
        bail!("--label-column measures the predictions for a baseline; give --baseline-data, too");
    }
    if args.baseline_data.is_none() && args.times.are_given() {
        bail!("--timestamp-column makes a profile of a baseline by time of day; give --baseline-data, too");
    }
    let key = match &args.sign {
        Some(file) => Some(SigningKey::read(file, args.password.password()?)?),
        None => None,
    };
    let target = AddTarget::of(&args.model, &config)?;
    check_model_toml(&target, args.model_toml.as_deref())?;
    target.clean_up_at_signals()?;
    let engine = OnnxRuntime::configured(&config)?;
    let (delimiter, ignored_columns) = (args.delimiter, args.ignore_column);
    let times = args.times.of_data();
    let data_file = |path| {
        // Examples can be rows of the training data.
        let times = times.clone().filter(|_| Some(&path) == args.baseline_data.as_ref());
        DataFile { path, delimiter, ignored_columns: ignored_columns.clone(), window: LogWindow::default(), times }
    };
    let (golden, rows) = match &args.golden_label_column {
        Some(_) => (None, args.golden),
        None => (args.golden, args.record_golden),
    };
    let files = NewFiles {
        onnx: args.onnx,
        others: args.data_file.into_iter().chain(args.file).collect(),
        golden,
        golden_tolerance: args.tolerance,
        record: rows.map(|path| RecordedFrom {
            data: data_file(path),
            max_rows: args.golden_rows,
            label_column: args.golden_label_column,
            tolerance: args.tolerance.unwrap_or(DEFAULT_TOLERANCE),
        }),
        baseline_data: args.baseline_data.clone().map(data_file).map(|training| args.labels.with(training)),
    };
    let facts = Manifest {
        description: args.description,
        framework: args.framework,
        trained_at: args.trained_at,
        dataset: args.dataset,
        metrics: args.metric.into_iter().collect(),
        tags: args.tag.into_iter().collect(),
        ..Manifest::of(Default::default())
    };
    let trial = trial(&config, &engine)?;
    let bar = ProgressBar::new();
    let tools = (&engine, stages, trial.as_ref());
    let added = add_to(&target, (&files, facts), key.as_ref(), args.model_toml.as_deref(), tools, &bar)?;
    bar.finish();
    let mut out = terminal::stdout();
    write_added(&mut out, &added)?;
    write_signature(&mut out, key.as_ref(), &config.repository.trusted_keys)
}

/// Refuses `--model-toml` for a model in a folder.
fn check_model_toml(target: &AddTarget, model_toml: Option<&Path>) -> Result<()> {
    if let (AddTarget::Folder(folder), Some(_)) = (target, model_toml) {
        bail!(
            "{}: --model-toml is for a model in an object store; in a folder, put the file beside the versions",
            folder.display()
        );
    }
    Ok(())
}

/// Adds the version to its model.
fn add_to(
    target: &AddTarget,
    (files, facts): (&NewFiles, Manifest),
    key: Option<&SigningKey>,
    model_toml: Option<&Path>,
    (engine, stages, trial): (&OnnxRuntime, &Stages, Option<&Trial>),
    bar: &ProgressBar,
) -> Result<Added> {
    let progress = &|progress| bar.show(progress);
    let added = match target {
        AddTarget::Folder(model) => {
            add(Addition { model, files, facts, version: None, key }, engine, stages, trial, progress)?
        }
        AddTarget::Remote(remote) => {
            let (store, model, work) = (&remote.store, &remote.model, remote.work.path());
            let addition = RemoteAddition { store, model, work, config: model_toml, files, facts, key };
            add_to_store(addition, engine, stages, trial, progress)?
        }
    };
    Ok(added)
}

/// Writes a line about the signature of the version.
fn write_signature(out: &mut impl Write, key: Option<&SigningKey>, keys: &[TrustedKey]) -> Result<()> {
    match key {
        Some(key) => writeln!(out, "It is signed with the key {}.", key.public()?.id())?,
        None if keys.is_empty() => {}
        None => writeln!(
            out,
            "It is not signed, and repository.trusted_keys asks for that. Next: leeway sign, or another time --sign"
        )?,
    }
    Ok(())
}

/// Writes a summary of the new version, and suggests the next commands.
fn write_added(out: &mut impl Write, added: &Added) -> std::io::Result<()> {
    write_checked(out, added)?;
    let Added { version, folder, .. } = added;
    let model = folder.parent().and_then(|model| model.file_name()).unwrap_or_default().to_string_lossy();
    match *version {
        Version::FIRST => writeln!(
            out,
            "As this is the first version of {model}, a server gives it all requests. A running server finds it by itself."
        ),
        _ => writeln!(
            out,
            "A running server finds it by itself, and gives it no traffic. Next: leeway traffic {model} ... or leeway \
             promote {model} {version}"
        ),
    }
}

/// Writes the files of the new version, and the findings about it.
pub(super) fn write_checked(out: &mut impl Write, added: &Added) -> std::io::Result<()> {
    let Added { version, folder, manifest, weights_beside, examples, baseline, findings, batching } = added;
    writeln!(out, "Added version {version}: {}", folder.display())?;
    for (path, digest) in &manifest.files {
        writeln!(out, "  {digest}  {path}")?;
    }
    writeln!(out, "  {}  the version", manifest.identity())?;
    if !weights_beside.is_empty() {
        let files = some_of(weights_beside);
        writeln!(out, "Taken along from beside the ONNX file, because the model keeps weights there: {files}.")?;
    }
    match (examples, &findings.warm_up) {
        (0, WarmUp::Ran(_)) => writeln!(
            out,
            "It loads, runs, and fits model.toml. It has no golden examples: --golden, with the training framework's \
             own predictions, would detect a wrong export."
        )?,
        (0, WarmUp::Failed { .. }) => writeln!(
            out,
            "It loads, but it did not run, and nothing shows that it fits model.toml: see below. It has no golden \
             examples: --golden, with the training framework's own predictions, would show both, and detect a wrong export."
        )?,
        (count, _) => writeln!(out, "It loads, runs, fits model.toml, and reproduces its {count} golden examples.")?,
    }
    write_findings(out, findings, *batching)?;
    match baseline {
        Some(baseline) => write_baseline(out, baseline)?,
        None if manifest.files.contains_key(BASELINE_FILE) => {}
        None => writeln!(
            out,
            "It has no baseline, so drift cannot be measured: --baseline-data makes one, and so does leeway baseline \
             until the version is deployed."
        )?,
    }
    Ok(())
}

/// Runs `leeway verify`, which compares all files with the manifests of their versions.
pub(super) fn verify(settings: &RepositoryArgs) -> Result<()> {
    let config = settings.load()?;
    let mut out = terminal::stdout();
    let (mut good, mut bad) = (0, 0);
    let keys = TrustedKeys::from(config.repository.trusted_keys.clone());
    let store = repository::store(&config.repository, &config.state)?;
    let found = store.list()?;
    for problem in &found.problems {
        bad += 1;
        writeln!(out, "{}", problem)?;
    }
    for found in found.models {
        for &version in &found.versions {
            let trust = Trust { keys: &keys, model: &found.name, version };
            let place = store.materialise(&found.name, version);
            let verified = place.and_then(|place| VerifiedVersion::read_trusted(place, trust));
            // The files in an object store may differ from their copies here.
            match verified.and_then(|verified| store.verify_files(&found.name, version).map(|_| verified)) {
                Ok(verified) => {
                    good += 1;
                    let key = verified.signed_by.map(|key| format!(", signed by {key}")).unwrap_or_default();
                    writeln!(out, "{} {version}: {}{key}", found.name, verified.identity)?;
                }
                Err(refusal) => {
                    bad += 1;
                    let problem = refusal.to_string();
                    writeln!(out, "{} {version}: BAD ({}): {problem}", found.name, refusal.fault.name())?;
                }
            }
        }
    }
    if bad > 0 {
        bail!("{bad} of {} are not as they were added", good + bad);
    }
    writeln!(out, "{good} versions are as they were added.")?;
    Ok(())
}
