//! Makes a version ready to serve: digest → load → build the stages → warm up → start the workers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;

use super::catalog::{ServedModel, ServedVersion, Snapshot, WarmUp};
use super::digest::digest_of_folder;
use super::layout::{FoundModel, scan};
use crate::budget::StageCosts;
use crate::config::{ModelConfig, RepositoryConfig};
use crate::error::{Error, Result};
use crate::identity::{Sha256, Version};
use crate::model::{
    BatchPolicy, Engine, LoadedModel, ModelSettings, OnnxModel, RunRows, ServiceTime, Session, Watchers, measure, zeros,
};
use crate::monitor::{Monitor, VersionLabels};
use crate::pipeline::{Pipeline, Postprocessor, Stages};
use crate::tensor::Tensors;

/// The model's file within a version's folder.
const MODEL_FILE: &str = "model.onnx";

/// Loads versions with an engine, stages and a monitor that they all share.
#[derive(Debug)]
pub struct Loader {
    /// What loads and runs model files.
    pub engine: Arc<dyn Engine>,
    /// The kinds of stages that a `model.toml` can name.
    pub stages: Stages,
    /// Where requests will be counted.
    pub monitor: Arc<Monitor>,
    /// How many requests may wait awake.
    pub watchers: Arc<Watchers>,
}

impl Loader {
    /// Loads every version of every model. The first that cannot be served is an error.
    pub fn load_all(&self, repository: &RepositoryConfig) -> Result<Snapshot> {
        let mut models = BTreeMap::new();
        for found in scan(&repository.path)? {
            // What is wrong with a model is told as such, wherever it stands.
            let config = ModelConfig::read(&found.config).map_err(|error| Error::Repository(error.to_string()))?;
            let mut versions = BTreeMap::new();
            for (&version, folder) in &found.versions {
                let served = self.load(&found, &config, version, folder)?;
                versions.insert(version, Arc::new(served));
            }
            models.insert(found.name, ServedModel { description: config.description, versions });
        }
        Snapshot::new(models, repository.default_model.as_ref())
    }

    fn load(&self, found: &FoundModel, config: &ModelConfig, version: Version, folder: &Path) -> Result<ServedVersion> {
        let begin = Instant::now();
        tracing::info!(model = %found.name, %version, "loading");
        let wrong = |message: String| Error::Load { model: found.name.clone(), version, message };
        let served = self.load_version(found, config, version, folder).map_err(|error| match error.detail() {
            Some(detail) => wrong(detail.to_owned()),
            None => wrong(match error {
                // These settings stand in model.toml, and the message has to say so.
                Error::Config(message) => format!("{}: {message}", found.config.display()),
                other => other.to_string(),
            }),
        })?;
        let (budget, model) = (served.budget, &served.pipeline.model);
        let smallest = model.typical_run(model.policy().fewest_rows());
        if let Some(takes) = smallest.filter(|takes| *takes > budget.queue_and_run()) {
            tracing::warn!(
                model = %found.name, %version,
                "the smallest run takes {takes:.1?}, longer than the {:.1?} that the budget has for queue and run, so that \
                 requests will be refused; raise budget.total_ms in model.toml, or give the model more threads or \
                 another provider",
                budget.queue_and_run()
            );
        }
        tracing::info!(
            model = %found.name, %version, sha256 = served.sha256.short(),
            provider = served.pipeline.model.provider().name(),
            workers = served.pipeline.model.workers(), threads = served.intra_op_threads,
            took_ms = begin.elapsed().as_millis() as u64,
            "loaded"
        );
        Ok(served)
    }

    fn load_version(
        &self,
        found: &FoundModel,
        config: &ModelConfig,
        version: Version,
        folder: &Path,
    ) -> Result<ServedVersion> {
        let file = folder.join(MODEL_FILE);
        if !file.is_file() {
            return Err(Error::Repository(format!("{} is missing", file.display())));
        }
        let sha256 = digest_of_folder(folder)?;
        let loaded = self.engine.load(&file, &config.model)?;
        let preprocessor = self.stages.preprocessor(&config.preprocess, loaded.signature())?;
        let postprocessor = self.stages.postprocessor(&config.postprocess, loaded.signature())?;

        let policy = BatchPolicy::new(loaded.signature(), &config.model);
        let mut sessions: Vec<Box<dyn Session>> = Vec::new();
        let mut warmed_up = WarmUp::Ran;
        let mut service = ServiceTime::default();
        let threads = config.model.threads();
        for index in 0..threads.workers.get() {
            let mut session = loaded.open()?;
            warmed_up = warm_up(&*loaded, &mut *session, policy, &*postprocessor)?;
            // Zeros of a guessed shape would teach nothing true.
            if index == 0 && warmed_up == WarmUp::Ran && loaded.signature().has_fixed_rows() {
                service = measure(&mut *session, loaded.signature(), policy);
            }
            sessions.push(session);
        }

        let labels = VersionLabels {
            model: found.name.to_string(),
            version: version.to_string(),
            sha256: sha256.to_string(),
            provider: loaded.provider().name(),
        };
        let recorder = self.monitor.version(labels, config.budget);
        let thread_name = format!("{}-{version}", found.name);
        let settings = ModelSettings { session: &config.model, budget: &config.budget };
        let model = OnnxModel::start(&thread_name, &loaded, sessions, settings, service, &recorder, &self.watchers)?;
        Ok(ServedVersion {
            model: found.name.clone(),
            version,
            sha256,
            identity: identity(found, version, sha256)?,
            intra_op_threads: threads.intra_op.get(),
            warm_up: warmed_up,
            budget: config.budget,
            pipeline: Pipeline { preprocessor, model, postprocessor },
            costs: StageCosts::default(),
            recorder,
        })
    }
}

/// Runs a session once on zeros, two rows where the batch is open, and reads the outputs as a request's would
/// be: what fits together only by chance shows here and not in the first request.
fn warm_up(
    loaded: &dyn LoadedModel,
    session: &mut dyn Session,
    policy: BatchPolicy,
    postprocessor: &dyn Postprocessor,
) -> Result<WarmUp> {
    let rows = match policy.run_rows {
        RunRows::UpTo(limit) => limit.get().min(2),
        RunRows::Exactly(rows) => rows.get(),
    };
    let inputs = zeros(loaded.signature(), rows);
    let outputs = match session.run(&inputs) {
        Ok(outputs) => outputs,
        // Zeros of a guessed shape need not make sense to the model.
        Err(error) if !loaded.signature().has_fixed_rows() => {
            tracing::warn!(
                detail = error.detail(),
                "the warm-up run failed on a guessed input shape; going on without it"
            );
            return Ok(WarmUp::Failed);
        }
        Err(error) => return Err(error),
    };
    let per_row = outputs.iter().filter(|(_, tensor)| tensor.rows() == rows);
    let per_row: Tensors = per_row.map(|(name, tensor)| (Arc::clone(name), tensor.clone())).collect();
    match postprocessor.decode(&per_row) {
        // log(0) is the model's right; zeros are no real input.
        Ok(_) | Err(Error::NonFiniteOutput { .. }) => {}
        Err(error) => return Err(error),
    }
    if let Some(doubt) = postprocessor.doubt(&per_row) {
        tracing::warn!("{doubt}");
    }
    Ok(WarmUp::Ran)
}

/// `{"name", "version", "sha256"}`, written once for all answers.
fn identity(found: &FoundModel, version: Version, sha256: Sha256) -> Result<Box<RawValue>> {
    #[derive(serde::Serialize)]
    struct Identity<'a> {
        name: &'a str,
        version: Version,
        sha256: Sha256,
    }
    serde_json::value::to_raw_value(&Identity { name: found.name.as_str(), version, sha256 }).map_err(Error::internal)
}
