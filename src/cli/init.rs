//! `leeway init`: makes a model of an ONNX file or of the folder of an export, with a commented `model.toml`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use super::add::write_checked;
use super::baseline::ProgressBar;
use super::clean_up::clean_up_at_signals;
use super::first_request::{curl, curl_of_image, model_url};
use super::settings::SettingsArgs;
use super::terminal;
use crate::app::trial;
use crate::authoring::{DataFile, Delimiter, Draft, LogWindow, ModelToMake, Tools, abandon_additions, draft};
use crate::config::Config;
use crate::identity::ModelName;
use crate::model::onnx::OnnxRuntime;
use crate::pipeline::Stages;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// ONNX file of the model, or the folder of an export by Hugging Face, MLflow or Ultralytics
    #[arg(value_name = "FILE|FOLDER")]
    model: PathBuf,

    /// Name of the model [default: that of the file or folder]
    #[arg(long)]
    name: Option<ModelName>,

    /// Training data: a table gives the names of the columns, and all data the baseline for drift. CSV, Parquet, Arrow,
    /// NumPy (.npy, .npz), one JSON instance per line, or a folder of images
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,

    /// Separator of the columns, as in ";" or tab, if the header does not show it, or the file is no .csv
    #[arg(long, value_name = "CHARACTER", requires = "data")]
    delimiter: Option<Delimiter>,

    /// A column of a table that is not a feature, such as the label or an id. May be given several times
    #[arg(long, value_name = "NAME", requires = "data")]
    ignore_column: Vec<String>,

    /// Print the model.toml, and add nothing
    #[arg(long)]
    print: bool,

    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(args: InitArgs, stages: &Stages) -> Result<()> {
    let InitArgs { model, name, data, delimiter, ignore_column, print, settings } = args;
    let models = settings.models.clone();
    let config = settings.load()?;
    let training_data = data.map(|path| DataFile {
        path,
        delimiter,
        ignored_columns: ignore_column,
        window: LogWindow::default(),
        times: None,
    });
    let temporary = print.then(tempfile::tempdir).transpose().context("no temporary folder could be made")?;
    let repository = match &temporary {
        Some(folder) => folder.path(),
        None => config.repository.path.folder(
            "`leeway init` writes to a folder: give --models FOLDER, and upload the model with the tools of the object store, \
             or its versions with `leeway add`",
        )?,
    };
    let folder = repository.to_owned();
    clean_up_at_signals(move || abandon_additions(&folder))?;
    let wanted = ModelToMake { given: &model, repository, name, training_data };
    let draft = make(&wanted, &config, stages)?;
    let mut out = terminal::stdout();
    if print {
        out.write_all(draft.model_toml.as_bytes())?;
        return Ok(());
    }
    publish(&mut out, draft, &config, models.as_deref())
}

/// Finds the settings of a model. Nothing is added to the repository yet.
pub(super) fn make(wanted: &ModelToMake<'_>, config: &Config, stages: &Stages) -> Result<Draft> {
    let engine = OnnxRuntime::configured(config)?;
    let trial = trial(config, &engine)?;
    let bar = ProgressBar::new();
    let progress = |progress| bar.show(progress);
    let draft = draft(wanted, Tools { engine: &engine, stages, trial: trial.as_ref(), progress: &progress })?;
    bar.finish();
    Ok(draft)
}

/// Adds the model to the repository, and writes what was done, what to check, and the next commands.
/// `models` is the folder in the flag `--models`.
fn publish(out: &mut impl Write, draft: Draft, config: &Config, models: Option<&str>) -> Result<()> {
    let Draft { name, guesses, sections_with_hints, example, instances, takes_images, .. } = &draft;
    let url = model_url(config.http.listen.iter(), !config.http.tls.is_off(), name);
    let mut requests = vec![curl(&url, name, example.as_deref(), *instances)];
    requests.extend((*takes_images && *instances == 1).then(|| curl_of_image(&url)));
    let (guesses, sections) = (guesses.clone(), sections_with_hints.join("] and ["));
    let added = draft.publish()?;
    write_checked(out, &added)?;
    let model_toml = added.folder.with_file_name("model.toml");
    writeln!(out, "\nWrote {}, with a reason above each setting.", model_toml.display())?;
    if !guesses.is_empty() {
        writeln!(out, "Compare with the training what it marks with CHECK: {}.", guesses.join(", "))?;
    }
    if !sections.is_empty() {
        writeln!(out, "A comment below [{sections}] proposes what may fit better.")?;
    }
    writeln!(
        out,
        "A server that runs on this folder finds the model by itself. Without one, start it, and send a request:\n"
    )?;
    let models = models.map_or_else(String::new, |models| format!(" --models {models}"));
    writeln!(out, "    leeway serve{models}")?;
    requests.iter().try_for_each(|request| writeln!(out, "    {request}"))?;
    writeln!(out, "\nA new version: leeway add {} --onnx FILE", added.folder.with_file_name("").display())?;
    Ok(())
}
