//! A model that `leeway serve FILE` serves from a temporary folder.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::first_request::{curl, curl_of_image, model_url};
use super::init::make;
use crate::app::StopSignal;
use crate::authoring::ModelToMake;
use crate::config::{Config, ListenAddress, StartMode, StateUrl};
use crate::pipeline::Stages;
use crate::registry::Snapshot;

/// A temporary folder for one model, removed on drop.
#[derive(Debug)]
pub(super) struct OneModel {
    /// The file or folder that was given.
    given: PathBuf,
    folder: TempDir,
}

impl OneModel {
    /// Creates the folder.
    pub(super) fn new(given: PathBuf) -> Result<OneModel> {
        let folder = tempfile::Builder::new().prefix("leeway-").tempdir();
        Ok(OneModel { given, folder: folder.context("no temporary folder could be made")? })
    }

    /// Returns the configuration of a server that serves only this model, and writes nothing.
    pub(super) fn configured(&self, mut config: Config) -> Config {
        config.repository.path = self.folder.path().into();
        // The only model is the default model.
        config.repository.default_model = None;
        config.repository.start = StartMode::Strict;
        // The folder does not change.
        config.repository.poll_interval_ms = 0;
        config.state.url = StateUrl::Memory;
        config
    }

    /// Makes the model in the folder. A signal ends the process.
    pub(super) async fn make(&self, config: &Config, stages: &Stages, signals: &mut impl StopSignal) -> Result<()> {
        tracing::info!(model = %self.given.display(), "looking into the model");
        let (given, repository) = (self.given.clone(), self.folder.path().to_owned());
        let (config, stages) = (config.clone(), stages.clone());
        let making = tokio::task::spawn_blocking(move || {
            let wanted = ModelToMake { given: &given, repository: &repository, name: None, training_data: None };
            make(&wanted, &config, &stages)?.publish()?;
            anyhow::Ok(())
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

    /// Logs the stages that were chosen, and a request that works.
    pub(super) fn announce(&self, snapshot: &Snapshot, addresses: &[ListenAddress], is_encrypted: bool) {
        let Some(served) = snapshot.versions().next() else { return };
        let (preprocess, postprocess) = (&served.config.preprocess.kind, &served.config.postprocess.kind);
        tracing::info!(
            preprocess,
            postprocess,
            "settings were chosen by what the files show; leeway init {} writes them to a model.toml, with the reasons",
            self.given.display()
        );
        let url = model_url(addresses.iter(), is_encrypted, &served.model);
        let example = served.example.as_deref().map(|example| example.get());
        let Some(pipeline) = served.pipeline() else { return };
        let instances = pipeline.model.policy().fewest_rows();
        tracing::info!("send a request: {}", curl(&url, &served.model, example, instances));
        if pipeline.preprocessor.media_types().contains(&"image/*") && instances == 1 {
            tracing::info!("send an image: {}", curl_of_image(&url));
        }
    }

    /// Removes the folder of a process that is about to end.
    pub(super) fn remove(&self) {
        // Tried repeatedly, because another thread may still be writing.
        for _ in 0..100 {
            if std::fs::remove_dir_all(self.folder.path()).is_ok() || !self.folder.path().exists() {
                break;
            }
        }
    }
}
