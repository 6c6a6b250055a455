//! Makes a version ready to serve: verify → try out in another process → open → warm up → check the examples → start.
//!
//! Everything up to the start is done on a thread of its own; nothing here knows whether the version will get traffic.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;

use super::catalog::{ServedVersion, WarmUp};
use super::golden::Golden;
use super::refusal::Refusal;
use super::trial::Trial;
use super::verified::VerifiedVersion;
use crate::budget::StageCosts;
use crate::config::{ModelConfig, Provider};
use crate::error::{Error, LoadFault, Result};
use crate::feature::{FeatureSchema, Features};
use crate::identity::{ModelName, Sha256, Version, VersionKey};
use crate::model::{
    BatchPolicy, Engine, Lengths, LoadedModel, ModelSettings, OnnxModel, RunRows, ServiceTime, Session, Stopwatch,
    Watchers, can_be_padded, measure, zeros,
};
use crate::monitor::{Monitor, VersionLabels, Watched};
use crate::pipeline::{
    Label, Origin, Pipeline, Postprocessor, Prediction, Preprocessor, StageContext, Stages, TableColumn,
};
use crate::tensor::{Padding, Signature, Tensors};

/// Loads versions with an engine, stages and a monitor that they all share.
#[derive(Debug)]
pub struct Loader {
    /// What loads and runs models.
    pub engine: Arc<dyn Engine>,
    /// The kinds of stages that a `model.toml` can name.
    pub stages: Stages,
    /// Where requests will be counted.
    pub monitor: Arc<Monitor>,
    /// How many requests may wait awake.
    pub watchers: Arc<Watchers>,
    /// How a version is tried out in another process first, if it is.
    pub trial: Option<Trial>,
}

/// Which version to load, from where.
#[derive(Debug, Clone)]
pub struct LoadOrder {
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// The model's `model.toml`.
    pub config_file: PathBuf,
    /// What it says.
    pub config: Arc<ModelConfig>,
    /// The version's folder.
    pub folder: PathBuf,
    /// Whether others are served meanwhile.
    pub pace: Pace,
}

/// How much of the machine a load may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// All of it: nothing is served yet.
    Full,
    /// What is left over: requests are served beside it.
    Background,
}

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadStep {
    /// It waits for other loads.
    Waiting,
    /// Its files are read and hashed.
    Verifying,
    /// It is tried out in another process.
    Trying,
    /// Its sessions are opened and run once; its examples are checked.
    Opening,
}

/// A version that is ready to be started.
pub struct PreparedVersion {
    opened: OpenedVersion,
    sessions: Vec<Box<dyn Session>>,
    service: ServiceTime,
    warm_up: WarmUp,
    took: Duration,
}

/// A version whose model is open and has its stages around it.
pub(super) struct OpenedVersion {
    verified: VerifiedVersion,
    loaded: Arc<dyn LoadedModel>,
    preprocessor: Box<dyn Preprocessor>,
    postprocessor: Box<dyn Postprocessor>,
    policy: BatchPolicy,
    padding: Option<Padding>,
}

impl Loader {
    /// Does everything that takes time, and says how far it is.
    pub fn prepare(&self, order: &LoadOrder, progress: &dyn Fn(LoadStep)) -> Result<PreparedVersion> {
        fail::fail_point!("load::begun");
        let begin = Instant::now();
        let (model, version) = (&order.model, order.version);
        tracing::info!(%model, %version, "loading");
        let prepared = self.prepare_version(order, progress).map_err(|refusal| refusal.about(model, version))?;
        Ok(PreparedVersion { took: begin.elapsed(), ..prepared })
    }

    fn prepare_version(&self, order: &LoadOrder, progress: &dyn Fn(LoadStep)) -> Result<PreparedVersion, Refusal> {
        progress(LoadStep::Verifying);
        let verified = VerifiedVersion::read(&order.folder)?;
        if let Some(trial) = &self.trial {
            progress(LoadStep::Trying);
            trial.run(order, &verified)?;
        }
        progress(LoadStep::Opening);
        let opened = OpenedVersion::open(&*self.engine, &self.stages, order, verified)?;
        let mut prepared = PreparedVersion {
            opened,
            sessions: Vec::new(),
            service: ServiceTime::default(),
            warm_up: WarmUp::Ran,
            took: Duration::ZERO,
        };
        for index in 0..order.config.model.threads().workers.get() {
            let opened = &prepared.opened;
            let mut session = opened.loaded.open().map_err(Refusal::of(LoadFault::Model))?;
            prepared.warm_up = opened.warm_up(&mut *session)?;
            if index == 0 {
                opened.check_golden(&mut *session)?;
                let signature = opened.loaded.signature();
                // Zeros of a guessed shape would teach nothing true.
                if prepared.warm_up == WarmUp::Ran && signature.has_fixed_rows() {
                    prepared.service = measure(&mut *session, signature, opened.policy, opened.stopwatch(order.pace));
                }
            }
            prepared.sessions.push(session);
        }
        Ok(prepared)
    }

    /// Starts the workers. Not on a thread of low priority, which they would inherit.
    pub fn start(&self, order: &LoadOrder, prepared: PreparedVersion) -> Result<ServedVersion> {
        let PreparedVersion { opened, sessions, service, warm_up, took } = prepared;
        let (name, version, config) = (&order.model, order.version, &order.config);
        let sha256 = opened.verified.identity;
        let labels = VersionLabels {
            model: name.to_string(),
            version: version.to_string(),
            sha256: sha256.to_string(),
            provider: opened.loaded.provider().name(),
        };
        let watched = Watched {
            schema: opened.preprocessor.features(),
            classes: opened.class_names(),
            baseline: opened.verified.baseline.clone(),
            settings: config.monitoring.clone(),
        };
        let recorder = self.monitor.version(labels, config.budget, watched);
        recorder.set_load_duration(took);
        let settings = ModelSettings { session: &config.model, budget: &config.budget, padding: opened.padding };
        let thread_name = format!("{name}-{version}");
        let model =
            OnnxModel::start(&thread_name, &opened.loaded, sessions, settings, service, &recorder, &self.watchers)?;
        let served = ServedVersion {
            model: name.clone(),
            version,
            key: VersionKey::of(name, version),
            sha256,
            manifest: opened.verified.manifest,
            fingerprint: opened.verified.fingerprint,
            folder: order.folder.clone(),
            config: Arc::clone(config),
            loaded_at: Timestamp::now(),
            load_took: took,
            identity: identity(name, version, sha256)?,
            intra_op_threads: config.model.threads().intra_op.get(),
            warm_up,
            budget: config.budget,
            costs: StageCosts::of(opened.preprocessor.is_heavy()),
            pipeline: Pipeline { preprocessor: opened.preprocessor, model, postprocessor: opened.postprocessor },
            recorder,
        };
        warn_if_too_slow(&served);
        tracing::info!(
            model = %name, %version, sha256 = sha256.short(), provider = served.pipeline.model.provider().name(),
            workers = served.pipeline.model.workers(), threads = served.intra_op_threads,
            took_ms = took.as_millis() as u64,
            "loaded"
        );
        Ok(served)
    }
}

/// Loads a version as a server would, for a process that is there to try it.
pub(super) fn try_out(engine: &dyn Engine, stages: &Stages, order: &LoadOrder) -> Result<(), Refusal> {
    let opened = OpenedVersion::open(engine, stages, order, VerifiedVersion::read(&order.folder)?)?;
    let mut session = opened.loaded.open().map_err(Refusal::of(LoadFault::Model))?;
    opened.warm_up(&mut *session)?;
    opened.check_golden(&mut *session)
}

// ===== impl OpenedVersion =====

impl OpenedVersion {
    pub(super) fn open(
        engine: &dyn Engine,
        stages: &Stages,
        order: &LoadOrder,
        verified: VerifiedVersion,
    ) -> Result<OpenedVersion, Refusal> {
        let config = &order.config;
        let source = verified.source(&order.folder);
        let loaded =
            engine.load(source, &config.model).map_err(|error| in_model_toml(order, LoadFault::Model, error))?;
        // What the stages have to say is about how they fit the model.
        let misfit = |error| in_model_toml(order, LoadFault::Config, error);
        let context = |stage| StageContext {
            config: stage,
            signature: loaded.signature(),
            files: &verified,
            max_instances: config.model.max_instances,
        };
        let preprocessor = stages.preprocessor(context(&config.preprocess)).map_err(&misfit)?;
        let postprocessor = stages.postprocessor(context(&config.postprocess)).map_err(&misfit)?;
        let padding = preprocessor.padding();
        if padding.is_some() && !can_be_padded(loaded.signature()) {
            tracing::info!(
                model = %order.model, version = %order.version,
                "only texts of one length share a run: the model does not name the tokens' dimension alike in its inputs and \
                 outputs, and nowhere else"
            );
        }
        let padding = padding.filter(|_| can_be_padded(loaded.signature()));
        let lengths = if padding.is_some() { Lengths::Padded } else { Lengths::Alike };
        let policy = BatchPolicy::new(loaded.signature(), &config.model, lengths);
        Ok(OpenedVersion { verified, loaded, preprocessor, postprocessor, policy, padding })
    }

    /// The names of its classes, if it is a classifier that knows them.
    pub(super) fn class_names(&self) -> Option<Vec<String>> {
        Some(self.postprocessor.classes()?.iter().map(Label::to_string).collect())
    }

    /// Runs a session once on zeros, two rows where the batch is open, and reads the outputs as a request's would be:
    /// what fits together only by chance shows here and not in the first request.
    fn warm_up(&self, session: &mut dyn Session) -> Result<WarmUp, Refusal> {
        let rows = match self.policy.run_rows {
            RunRows::UpTo(limit) => limit.get().min(2),
            RunRows::Exactly(rows) => rows.get(),
        };
        let signature = self.loaded.signature();
        let outputs = match session.run(&zeros(signature, rows)) {
            Ok(outputs) => outputs,
            // Zeros of a guessed shape need not make sense to the model.
            Err(error) if !signature.has_fixed_rows() => {
                tracing::warn!(
                    detail = error.detail(),
                    "the warm-up run failed on a guessed input shape; going on without it"
                );
                return Ok(WarmUp::Failed);
            }
            Err(error) => return Err(Refusal::of(LoadFault::WarmUp)(error)),
        };
        let per_row = per_row(&outputs, rows);
        match self.postprocessor.decode(&per_row, &Origin::Unknown) {
            // log(0) is the model's right; zeros are no real input.
            Ok(_) | Err(Error::NonFiniteOutput { .. }) => {}
            Err(error) => return Err(Refusal::of(LoadFault::WarmUp)(error)),
        }
        if let Some(doubt) = self.postprocessor.doubt(&per_row) {
            tracing::warn!("{doubt}");
        }
        Ok(WarmUp::Ran)
    }

    fn check_golden(&self, session: &mut dyn Session) -> Result<(), Refusal> {
        let Some(golden) = &self.verified.golden else { return Ok(()) };
        let wrong = |problem: String| Refusal::new(LoadFault::Golden, format!("golden.json: {problem}"));
        for (index, found) in self.predict(session, golden).enumerate() {
            let found = found.map_err(|error| wrong(format!("instances[{index}]: {error}")))?;
            golden.check(index, &found).map_err(|difference| {
                wrong(format!("{difference}: the model does not predict what it did when the examples were made"))
            })?;
        }
        Ok(())
    }

    /// The predictions of a session for the instances of examples, in order, run as one request after another with as
    /// few instances each as the model takes.
    pub(super) fn predict<'a>(
        &'a self,
        session: &'a mut dyn Session,
        golden: &'a Golden,
    ) -> impl Iterator<Item = Result<Value, String>> + 'a {
        let step = self.policy.fewest_rows();
        let starts = (0..golden.instances.len()).step_by(step);
        starts.flat_map(move |start| match self.predict_rows(session, golden, start..start + step) {
            Ok(predictions) => predictions.into_iter().map(Ok).collect(),
            Err(problem) => vec![Err(problem)],
        })
    }

    fn predict_rows(
        &self,
        session: &mut dyn Session,
        golden: &Golden,
        rows: std::ops::Range<usize>,
    ) -> Result<Vec<Value>, String> {
        if rows.end > golden.instances.len() {
            return Err(format!("the model takes {} instances at one time, and these are fewer", rows.len()));
        }
        let request = golden.request(rows.clone()).map_err(|error| error.to_string())?;
        let (_, predictions) = self.predict_request(session, &request)?;
        // By way of the text, as a client reads it: 0.9, and not 0.8999999761581421.
        let as_written = |prediction| serde_json::from_str(&serde_json::to_string(prediction)?);
        predictions.iter().map(as_written).collect::<serde_json::Result<_>>().map_err(|error| error.to_string())
    }

    /// What a session makes of a request: the features that were read, and the predictions.
    pub(super) fn predict_request(
        &self,
        session: &mut dyn Session,
        request: &RawValue,
    ) -> Result<(Features, Vec<Prediction>), String> {
        let told = |error: Error| error.detail().map_or_else(|| error.to_string(), str::to_owned);
        let prepared = self.preprocessor.transform(request).map_err(told)?;
        let rows = prepared.inputs.rows();
        let outputs = session.run(&prepared.inputs).map_err(told)?;
        let predictions = self.postprocessor.decode(&per_row(&outputs, rows), &prepared.origin).map_err(told)?;
        Ok((prepared.features, predictions))
    }

    /// What the model takes and gives.
    pub(super) fn signature(&self) -> &Signature {
        self.loaded.signature()
    }

    /// The columns of a table that its preprocessor reads, if it reads one.
    pub(super) fn columns(&self) -> Option<Vec<TableColumn>> {
        self.preprocessor.columns()
    }

    /// The features of its preprocessor.
    pub(super) fn features(&self) -> FeatureSchema {
        self.preprocessor.features()
    }

    /// The fewest rows that the model takes in one run.
    pub(super) fn fewest_rows(&self) -> usize {
        self.policy.fewest_rows()
    }

    /// As many rows as the model takes in one run, and this many at most, if it leaves a choice.
    pub(super) fn rows_at_one_time(&self, most: usize) -> usize {
        self.policy.most_rows().min(most).max(self.policy.fewest_rows())
    }

    /// A session on this version, to record examples with.
    pub(super) fn session(&self) -> Result<Box<dyn Session>, Refusal> {
        self.loaded.open().map_err(Refusal::of(LoadFault::Model))
    }

    fn stopwatch(&self, pace: Pace) -> Stopwatch {
        match (pace, self.loaded.provider()) {
            (Pace::Background, Provider::Cpu) => Stopwatch::ProcessorTime,
            (Pace::Background, Provider::Cuda) | (Pace::Full, _) => Stopwatch::WallTime,
        }
    }
}

/// The outputs that have one row per instance.
fn per_row(outputs: &Tensors, rows: usize) -> Tensors {
    let per_row = outputs.iter().filter(|(_, tensor)| tensor.rows() == rows);
    per_row.map(|(name, tensor)| (Arc::clone(name), tensor.clone())).collect()
}

/// Settings stand in `model.toml`, and the message has to say so.
fn in_model_toml(order: &LoadOrder, fault: LoadFault, error: Error) -> Refusal {
    match error {
        Error::Config(message) => {
            Refusal::new(LoadFault::Config, format!("{}: {message}", order.config_file.display()))
        }
        other => Refusal::of(fault)(other),
    }
}

fn warn_if_too_slow(served: &ServedVersion) {
    let (budget, model) = (served.budget, &served.pipeline.model);
    let smallest = model.typical_run(model.policy().fewest_rows());
    if let Some(takes) = smallest.filter(|takes| *takes > budget.queue_and_run()) {
        tracing::warn!(
            model = %served.model, version = %served.version,
            "the smallest run takes {takes:.1?}, longer than the {:.1?} that the budget has for queue and run, so that \
             requests will be refused; raise budget.total_ms in model.toml, or give the model more threads or another \
             provider",
            budget.queue_and_run()
        );
    }
}

/// `{"name", "version", "sha256"}`, written once for all answers.
fn identity(name: &ModelName, version: Version, sha256: Sha256) -> Result<Box<RawValue>> {
    #[derive(serde::Serialize)]
    struct Identity<'a> {
        name: &'a str,
        version: Version,
        sha256: Sha256,
    }
    serde_json::value::to_raw_value(&Identity { name: name.as_str(), version, sha256 }).map_err(Error::internal)
}

impl std::fmt::Debug for PreparedVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedVersion").field("sessions", &self.sessions.len()).finish_non_exhaustive()
    }
}
