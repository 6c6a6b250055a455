//! `leeway baseline`: adds the distribution of the training data to a version that was never deployed.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressDrawTarget, ProgressStyle};

use super::clean_up::clean_up_at_signals;
use super::learn::{self, LearnArgs};
use super::log::without_path;
use super::log_window::LogWindowArgs;
use super::settings::{RepositoryArgs, one_thread};
use super::terminal;
use crate::authoring::{
    BaselineData, DataFile, Delimiter, LabelledData, Progress, RowTimes, abandon_additions, add_baseline,
};
use crate::config::{Config, RepositoryLocation};
use crate::identity::{ModelName, Version};
use crate::model::onnx::OnnxRuntime;
use crate::monitor::{Baseline, LabelledBaseline};
use crate::pipeline::Stages;
use crate::state::{self, PastJournal};
use crate::traffic::Share;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct BaselineArgs {
    #[command(subcommand)]
    learn: Option<BaselineCommand>,

    /// Name or folder of the model, as in digits or models/digits
    #[arg(required = true)]
    model: Option<PathBuf>,

    /// The version
    #[arg(required = true)]
    version: Option<Version>,

    /// Training data: CSV, Parquet, Arrow, NumPy (.npy, .npz), one JSON instance per line, or a folder of images
    #[arg(long, value_name = "FILE", required_unless_present = "from_log")]
    data: Option<PathBuf>,

    /// Logged instances of the model instead of training data, from the folder of the prediction log [default:
    /// prediction_log.path]
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, require_equals = true, conflicts_with = "data")]
    from_log: Option<Option<PathBuf>>,

    #[command(flatten)]
    window: LogWindowArgs,

    #[command(flatten)]
    times: TimeArgs,

    #[command(flatten)]
    labels: LabelArgs,

    /// Separator of the columns, as in ";" or tab, if the header does not show it, or the file is no .csv
    #[arg(long, value_name = "CHARACTER")]
    delimiter: Option<Delimiter>,

    /// A column of a table that is not a feature, such as the label or an id. May be given several times
    #[arg(long, value_name = "NAME")]
    ignore_column: Vec<String>,

    #[command(flatten)]
    settings: RepositoryArgs,
}

#[derive(Debug, Subcommand)]
enum BaselineCommand {
    /// Learn what is usual by time of day from the prediction log. The version does not change, and may be in use
    Learn(Box<LearnArgs>),
}

/// Options for the times of rows.
#[derive(Debug, Args)]
pub(super) struct TimeArgs {
    /// Column of a table, or member of JSON lines, with the time of each row, for a profile by hour and weekday. It is no
    /// feature. Times as in 2026-11-27T12:00:00Z, Arrow's timestamps, or seconds or milliseconds since 1970
    #[arg(long, value_name = "NAME")]
    timestamp_column: Option<String>,

    /// Time zone of the hours, and of times without one: UTC, an offset as in +01:00, or a name as in Europe/Amsterdam
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,
}

impl TimeArgs {
    /// Returns true if a column is given.
    pub(super) fn are_given(&self) -> bool {
        self.timestamp_column.is_some()
    }

    /// Returns the times of training data, if their column is given.
    pub(super) fn of_data(&self) -> Option<RowTimes> {
        let column = self.timestamp_column.clone()?;
        Some(RowTimes { column: Some(column), time_zone: self.time_zone.clone() })
    }
}

/// Options for rows whose truth is known.
#[derive(Debug, Args)]
pub(super) struct LabelArgs {
    /// Column of a table, or member of JSON lines, with the true classes or numbers, for the accuracy to expect. The rows
    /// should not be those that the model was trained on
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,

    /// Rows with --label-column that the model was not trained on, if they are not the training data themselves
    #[arg(long, value_name = "FILE", requires = "label_column")]
    labelled_data: Option<PathBuf>,
}

impl LabelArgs {
    /// Returns true if a label column is given.
    pub(super) fn are_given(&self) -> bool {
        self.label_column.is_some()
    }

    /// Returns the data of a baseline. The labels are in the labelled data, or else in the training data.
    pub(super) fn with(self, training: DataFile) -> BaselineData {
        let LabelArgs { label_column, labelled_data } = self;
        let labelled = label_column.map(|column| {
            let data = match labelled_data {
                Some(path) => DataFile { path, ..training.clone() },
                None => training.clone(),
            };
            LabelledData { data, column }
        });
        BaselineData { training, labelled }
    }
}

pub(super) fn run(args: BaselineArgs, stages: &Stages) -> Result<()> {
    if let Some(BaselineCommand::Learn(args)) = args.learn {
        return learn::run(*args);
    }
    let (Some(model), Some(version)) = (args.model, args.version) else { bail!("give a model and a version") };
    let config = args.settings.load()?;
    let remedy = "a version in an object store never changes: make a new one with `leeway add --baseline-data`";
    let folder = match model.to_str().and_then(|model| model.parse().ok()) {
        Some(location @ (RepositoryLocation::Bucket(_) | RepositoryLocation::HttpIndex(_))) => {
            location.folder(remedy)?.to_owned()
        }
        _ if model.is_dir() => model,
        _ => config.repository.path.folder(remedy)?.join(model),
    };
    let model = folder.clone();
    clean_up_at_signals(move || abandon_additions(&model))?;
    let folder = match folder.canonicalize() {
        Ok(found) => found,
        Err(error) => bail!("{}: {error}", folder.display()),
    };
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let name: ModelName = name.parse()?;
    one_thread()?.block_on(refuse_if_deployed(&config, &name, version))?;

    let engine = OnnxRuntime::configured(&config)?;
    let window = args.window.window()?;
    let (path, times) = match (args.data, args.from_log) {
        (Some(_), _) if args.window.is_given() => bail!("--since and --until need --from-log"),
        (Some(data), _) => (data, args.times.of_data()),
        (None, _) if args.times.are_given() => bail!("--timestamp-column needs --data: the rows of a log have times"),
        (None, from_log) => {
            let log = from_log.flatten().or(config.prediction_log.path).ok_or_else(without_path)?;
            (log.join(name.as_str()), Some(RowTimes { column: None, time_zone: args.times.time_zone }))
        }
    };
    let data = DataFile { path, delimiter: args.delimiter, ignored_columns: args.ignore_column, window, times };
    let data = args.labels.with(data);
    let trusted = config.repository.trusted_keys.into();
    let bar = ProgressBar::new();
    let (manifest, baseline, remarks) =
        add_baseline(&folder, version, &data, &trusted, &engine, stages, &|progress| bar.show(progress))?;
    bar.finish();

    let mut out = terminal::stdout();
    writeln!(out, "{name} {}: {}", version, manifest.identity())?;
    write_baseline(&mut out, &baseline)?;
    for remark in remarks {
        writeln!(out, "Note: {remark}")?;
    }
    writeln!(
        out,
        "A server that has the version loaded does not use the baseline and reports the files as altered, until leeway \
         unload {name} {version} and leeway load {name} {version}.",
        version = version
    )?;
    Ok(())
}

/// Fails if the version was ever deployed: such a version must not change, because people rely on it.
async fn refuse_if_deployed(config: &Config, model: &ModelName, version: Version) -> Result<()> {
    /// Number of deployments that are read from the journal at a time.
    const PAGE: u32 = 1_000;
    let journal = match state::past_journal(&config.state).await? {
        PastJournal::Written(journal) => journal,
        PastJournal::Empty => return Ok(()),
        PastJournal::Unknown => {
            writeln!(
                std::io::stderr(),
                "state.url is \"memory\", so it is not known whether {model} {version} was deployed; if it was, make a \
                 new version with leeway add --baseline-data instead"
            )?;
            return Ok(());
        }
    };
    let mut before = u64::MAX;
    loop {
        let page = journal.history(model, before, PAGE).await?;
        for deployment in &page {
            if deployment.stable == version || deployment.traffic.share(version) != Share::default() {
                bail!(
                    "{model} {version} is or was deployed (generation {}), so it must not change; make a new version \
                     with leeway add --baseline-data",
                    deployment.generation
                );
            }
        }
        match page.last() {
            Some(last) => before = last.generation,
            None => return Ok(()),
        }
    }
}

/// Writes a summary of a baseline: its rows, features and predictions.
pub(super) fn write_baseline(out: &mut impl Write, baseline: &Baseline) -> std::io::Result<()> {
    let predictions: Vec<&str> = baseline.predictions.iter().map(|feature| feature.name.as_str()).collect();
    let predictions = if predictions.is_empty() { "none".to_owned() } else { predictions.join(", ") };
    writeln!(
        out,
        "Its baseline has {} rows; features: {}; predictions: {predictions}.",
        baseline.rows,
        match baseline.features.len() {
            0 => "none".to_owned(),
            count => format!("all {count}"),
        }
    )?;
    if let Some(profile) = &baseline.profile {
        let (known, hours) = (profile.known_slots(), profile.rows.len());
        let zone = &profile.time_zone;
        writeln!(out, "It has a profile by time of day ({zone}): {known} of {hours} hours have enough rows.")?;
    }
    match &baseline.labelled {
        None => Ok(()),
        Some(LabelledBaseline::Classes(classes)) => {
            writeln!(out, "Of {} labelled rows, {:.1} % are predicted right.", classes.rows, 100.0 * classes.accuracy())
        }
        Some(LabelledBaseline::Values(values)) => writeln!(
            out,
            "For {} labelled rows, the mean absolute error is {:.4}, and the bias {:+.4}.",
            values.rows, values.mean_absolute_error, values.bias
        ),
    }
}

/// Shows the progress of making a baseline: as a bar on a terminal, otherwise as a line for each tenth of the rows.
pub(super) struct ProgressBar {
    bar: indicatif::ProgressBar,
    /// Step and number of finished tenths in the last line that was written, if the output is not a terminal.
    said: RefCell<(&'static str, u64)>,
}

impl ProgressBar {
    pub(super) fn new() -> ProgressBar {
        let bar = indicatif::ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{msg:>9} [{bar:40}] {human_pos} of {human_len} rows, {eta} left")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        ProgressBar { bar, said: RefCell::default() }
    }

    pub(super) fn show(&self, progress: Progress) {
        let Progress { step, done, rows } = progress;
        if std::io::stderr().is_terminal() {
            if self.bar.message() != step {
                self.bar.reset_eta();
                self.bar.set_message(step);
            }
            self.bar.set_length(rows);
            self.bar.set_position(done);
            return;
        }
        let tenths = done * 10 / rows.max(1);
        if *self.said.borrow() != (step, tenths) {
            *self.said.borrow_mut() = (step, tenths);
            let _ = writeln!(std::io::stderr(), "{step}: {done} of {rows} rows");
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
