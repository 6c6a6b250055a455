//! A model that `leeway serve FILE` serves from a temporary folder, or `leeway serve FOLDER` from its own folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::first_request::{curl, curl_of_image, model_url};
use super::init::make;
use crate::app::StopSignal;
use crate::authoring::ModelToMake;
use crate::config::{Config, ListenAddress, StartMode, StateUrl};
use crate::identity::ModelName;
use crate::pipeline::Stages;
use crate::registry::Snapshot;
use crate::repository::CONFIG_FILE;

/// The only model of a server.
#[derive(Debug)]
pub(super) struct OneModel {
    /// The file or folder that was given.
    given: PathBuf,
    name: Option<ModelName>,
    /// Temporary folder of the model that is made of what was given, removed on drop; `None` if that is a model's own folder,
    /// with its settings.
    made_in: Option<TempDir>,
}

impl OneModel {
    /// Creates the temporary folder, if one is needed.
    pub(super) fn new(given: PathBuf, name: Option<ModelName>) -> Result<OneModel> {
        let made_in = if given.join(CONFIG_FILE).is_file() {
            None
        } else {
            let folder = tempfile::Builder::new().prefix("leeway-").tempdir();
            Some(folder.context("no temporary folder could be made")?)
        };
        Ok(OneModel { given, name, made_in })
    }

    /// Returns the configuration of a server that serves only this model, and writes nothing.
    pub(super) fn configured(&self, mut config: Config) -> Result<Config> {
        match &self.made_in {
            Some(folder) => {
                config.repository.path = folder.path().into();
                // The folder does not change.
                config.repository.poll_interval_ms = 0;
            }
            None => {
                config.repository.only_model = Some(self.name.clone().map_or_else(|| named_as(&self.given), Ok)?);
                config.repository.path = self.given.as_path().into();
            }
        }
        // The model was named on the command line.
        config.repository.trusted_keys.clear();
        // The only model is the default model.
        config.repository.default_model = None;
        config.repository.start = StartMode::Strict;
        config.state.url = StateUrl::Memory;
        Ok(config)
    }

    /// Makes the model in the temporary folder. Returns false if there is nothing to make, because the model has settings
    /// of its own. A signal ends the process.
    pub(super) async fn make(&self, config: &Config, stages: &Stages, signals: &mut impl StopSignal) -> Result<bool> {
        let Some(folder) = &self.made_in else { return Ok(false) };
        tracing::info!(model = %self.given.display(), "looking into the model");
        let (given, name, repository) = (self.given.clone(), self.name.clone(), folder.path().to_owned());
        let (config, stages) = (config.clone(), stages.clone());
        let making = tokio::task::spawn_blocking(move || {
            let wanted = ModelToMake { given: &given, repository: &repository, name, training_data: None };
            make(&wanted, &config, &stages)?.publish()?;
            anyhow::Ok(true)
        });
        tokio::select! {
            biased;
            _ = signals.next() => {
                tracing::info!("stopped while looking into the model");
                self.remove();
                // Exits at once, without waiting for the thread that runs the model.
                signal_hook::low_level::exit(0)
            }
            made = making => made.context("the thread that made the model ended")?,
        }
    }

    /// Logs the stages, if they were chosen, and a request that works.
    pub(super) fn announce(&self, snapshot: &Snapshot, addresses: &[ListenAddress], is_encrypted: bool) {
        let Some(served) = snapshot.versions().next() else { return };
        if self.made_in.is_some() {
            let (preprocess, postprocess) = (&served.config.preprocess.kind, &served.config.postprocess.kind);
            tracing::info!(
                preprocess,
                postprocess,
                "settings were chosen by what the files show; leeway init {} writes them to a model.toml, with the reasons",
                self.given.display()
            );
        }
        let url = model_url(addresses.iter(), is_encrypted, &served.model);
        let example = served.example.as_deref().map(|example| example.get());
        let Some(pipeline) = served.pipeline() else { return };
        let instances = pipeline.model.policy().fewest_rows();
        tracing::info!("send a request: {}", curl(&url, &served.model, example, instances));
        if pipeline.preprocessor.media_types().contains(&"image/*") && instances == 1 {
            tracing::info!("send an image: {}", curl_of_image(&url));
        }
    }

    /// Removes the temporary folder of a process that is about to end.
    pub(super) fn remove(&self) {
        let Some(folder) = &self.made_in else { return };
        // Tried repeatedly, because another thread may still be writing.
        for _ in 0..100 {
            if std::fs::remove_dir_all(folder.path()).is_ok() || !folder.path().exists() {
                break;
            }
        }
    }
}

/// Returns the name of a model's own folder.
fn named_as(folder: &Path) -> Result<ModelName> {
    let named = || format!("{}: the folder of a model", folder.display());
    let whole = folder.canonicalize().with_context(named)?;
    let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.parse().with_context(|| format!("{}: give the model a name with --name", folder.display()))
}
