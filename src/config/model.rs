//! `model.toml`: the pipeline of one model and its settings.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use figment::value::{Dict, Value};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::chain::{Chain, ChainAnswer, StepConfig};
use super::{Count, ModelPredictionLogConfig, MonitoringConfig, RolloutConfig, available_cores, budget, sources};
use crate::budget::LatencyBudget;
use crate::error::{Result, SetupError};
use crate::tensor::RowDimension;

/// Maximum of the setting `max_batch_size`.
pub const MAX_BATCH_SIZE: usize = 1 << 16;

/// Settings of a model in its `model.toml`. They are serialized only for a trial process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Description of the model, for people.
    #[serde(default)]
    pub description: Option<String>,
    /// The steps of a chain, which has no ONNX file and no stages of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepConfig>,
    /// The prediction of a chain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<ChainAnswer>,
    /// The stage that turns requests into model inputs.
    #[serde(default, skip_serializing_if = "StageConfig::is_none")]
    pub preprocess: StageConfig,
    /// Settings of the sessions, of batching and of the queue.
    #[serde(default)]
    pub model: SessionConfig,
    /// Division of a request's time over the parts of its work.
    #[serde(default, deserialize_with = "budget::deserialize", serialize_with = "budget::serialize")]
    pub budget: LatencyBudget,
    /// The stage that turns model outputs into predictions.
    #[serde(default, skip_serializing_if = "StageConfig::is_none")]
    pub postprocess: StageConfig,
    /// Monitoring of the model's requests.
    #[serde(default)]
    pub monitoring: MonitoringConfig,
    /// Log of the model's predictions.
    #[serde(default, skip_serializing_if = "ModelPredictionLogConfig::is_default")]
    pub prediction_log: ModelPredictionLogConfig,
    /// Rollouts of the model's versions.
    #[serde(default, skip_serializing_if = "RolloutConfig::is_default")]
    pub rollout: RolloutConfig,
}

/// A stage of the pipeline: its kind, and the settings of that kind. The default is no stage.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StageConfig {
    /// Name under which this kind of stage is registered.
    pub kind: String,
    settings: Dict,
}

/// `[model]`: settings of the sessions, of batching and of the queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionConfig {
    /// Execution providers of ONNX Runtime, in order of preference.
    pub providers: Vec<Provider>,
    /// Action if a provider in `providers` cannot be used.
    pub provider_fallback: ProviderFallback,
    /// Share of the cores for the workers of a version, above 0 and at most 1. `auto` for `workers` and
    /// `intra_op_threads` divides these cores.
    pub share: f64,
    /// Number of workers. Each is a thread with a session of its own that runs batches.
    pub workers: Count,
    /// Number of threads of each worker, which share the work of one run.
    pub intra_op_threads: Count,
    /// Choice of the process that runs the sessions of a version.
    pub isolation: Isolation,
    /// Dimension of all inputs and outputs that holds the rows; `None` for the dimension that the model's file names
    /// after the batch, or else the first.
    pub rows: Option<RowDimension>,
    /// Settings of single inputs, by name.
    pub inputs: BTreeMap<String, InputConfig>,
    /// Settings of single outputs, by name.
    pub outputs: BTreeMap<String, OutputConfig>,
    /// Sharing of runs between requests.
    pub batching: Batching,
    /// Maximum number of rows in one run. `auto` is measured for a run of several requests, and `max_instances` for a run
    /// of one request. Ignored if the model fixes its batch dimension.
    pub max_batch_size: Count<MAX_BATCH_SIZE>,
    /// The maximum number of rows in a run of several requests that was measured. Not a setting.
    #[serde(skip)]
    pub measured_batch_size: Option<NonZeroUsize>,
    /// Maximum number of elements of all inputs together in one run, for models whose rows differ in length.
    pub max_batch_elements: Option<NonZeroUsize>,
    /// Lengths of a row of the inputs with open dimensions, for the first runs of a version and for measuring its runs.
    pub warm_up: BTreeMap<String, Vec<usize>>,
    /// Time for which a free worker waits for more rows before it starts a run. 0 turns waiting off.
    pub max_wait_us: u64,
    /// Maximum number of instances in one request.
    pub max_instances: NonZeroUsize,
    /// Maximum number of requests that wait for a worker.
    pub queue_capacity: NonZeroUsize,
    /// Maximum learned time of a run that the thread of a request makes itself, instead of a worker. 0 leaves all runs to
    /// workers.
    pub inline_us: u64,
}

/// `[model.inputs.NAME]`: settings of an input.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InputConfig {
    /// Dimension that holds the rows.
    pub rows: Option<RowDimension>,
    /// Value of an input that is the same in all runs: a number, a string, a boolean, or nested arrays of these. Requests
    /// do not send it.
    pub value: Option<serde_json::Value>,
}

/// `[model.outputs.NAME]`: settings of an output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputConfig {
    /// Dimension that holds the rows.
    pub rows: Option<RowDimension>,
}

/// Setting that chooses the process for the sessions of a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// The server's process runs the sessions. This is the fastest setting.
    #[default]
    None,
    /// Each worker has a process of its own. If this process ends, only one batch fails.
    Process,
    /// Each worker has a process of its own until the version becomes stable, so that a canary's crash affects nothing
    /// else.
    UntilPromoted,
}

impl Isolation {
    /// Returns the process that runs a version's sessions. `is_stable` is true for the stable version.
    ///
    /// ```
    /// use leeway::config::{Isolation, SessionPlace};
    /// assert_eq!(Isolation::UntilPromoted.place(false), SessionPlace::OwnProcesses);
    /// assert_eq!(Isolation::UntilPromoted.place(true), SessionPlace::Server);
    /// assert_eq!(Isolation::Process.place(true), SessionPlace::OwnProcesses);
    /// ```
    pub fn place(self, is_stable: bool) -> SessionPlace {
        match (self, is_stable) {
            (Isolation::None, _) | (Isolation::UntilPromoted, true) => SessionPlace::Server,
            (Isolation::Process, _) | (Isolation::UntilPromoted, false) => SessionPlace::OwnProcesses,
        }
    }
}

/// Process that runs the sessions of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionPlace {
    /// The server's process.
    Server,
    /// Processes of their own, one for each worker.
    OwnProcesses,
}

/// Setting for the sharing of runs between requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// Requests share runs if a check at load finds that the model's rows are independent.
    #[default]
    Auto,
    /// Requests share runs even if the check finds that rows depend on each other.
    Always,
    /// Each run has the rows of one request.
    Never,
}

/// Number of workers of a version, and number of threads of each worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads {
    /// Number of workers. Each is a thread with a session of its own.
    pub workers: NonZeroUsize,
    /// Number of threads of each worker, which share the work of one run.
    pub intra_op: NonZeroUsize,
}

/// An ONNX Runtime execution provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// Action if a provider in the list cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderFallback {
    /// The version is not served.
    Refuse,
    /// The next provider is used, and finally the CPU, with a warning in the log.
    Warn,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig {
            providers: vec![Provider::Cpu],
            provider_fallback: ProviderFallback::Refuse,
            share: 1.0,
            workers: Count::Auto,
            intra_op_threads: Count::Auto,
            isolation: Isolation::None,
            rows: None,
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
            batching: Batching::Auto,
            max_batch_size: Count::Auto,
            measured_batch_size: None,
            max_batch_elements: None,
            warm_up: BTreeMap::new(),
            max_wait_us: 0,
            max_instances: super::count::non_zero(4096),
            queue_capacity: super::count::non_zero(1024),
            inline_us: 100,
        }
    }
}

// ===== impl ModelConfig =====

impl ModelConfig {
    /// Reads and validates a `model.toml`.
    pub fn read(path: &Path) -> Result<ModelConfig, SetupError> {
        ModelConfig::checked(sources::read_file(path)?, &path.display().to_string())
    }

    /// Parses and validates the text of a `model.toml` at this location.
    pub fn parse(text: &str, place: &str) -> Result<ModelConfig, SetupError> {
        ModelConfig::checked(sources::read_named(text, place)?, place)
    }

    fn checked(config: ModelConfig, place: &str) -> Result<ModelConfig, SetupError> {
        config
            .validate()
            .and_then(|()| config.model.validate())
            .and_then(|()| config.monitoring.validate())
            .and_then(|()| config.prediction_log.validate())
            .and_then(|()| config.rollout.validate(&config.monitoring))
            .map_err(|message| SetupError::Config(format!("{place}: {message}")))?;
        Ok(config)
    }

    /// Returns the chain, if the model runs other models. The error is a mistake in its steps.
    pub fn chain(&self) -> Result<Option<Chain>, String> {
        if self.steps.is_empty() { Ok(None) } else { Chain::of(&self.steps, self.answer).map(Some) }
    }

    /// Checks that there are stages, or the steps of a chain.
    fn validate(&self) -> Result<(), String> {
        let missing = |stage: &str| {
            Err(format!(
                "[{stage}] is missing; a model has [preprocess] and [postprocess], and a chain of models [[steps]]"
            ))
        };
        if self.chain()?.is_some() {
            return match () {
                () if !self.preprocess.is_none() || !self.postprocess.is_none() => {
                    Err("steps: a chain has no [preprocess] and no [postprocess]; its steps have their own".to_owned())
                }
                () if self.model != SessionConfig::default() => {
                    Err("steps: a chain has no [model]; set it in the model.toml of a step".to_owned())
                }
                () => Ok(()),
            };
        }
        match () {
            () if self.preprocess.is_none() => missing("preprocess"),
            () if self.postprocess.is_none() => missing("postprocess"),
            () if self.answer.is_some() => Err("answer: only a chain with [[steps]] has it".to_owned()),
            () => Ok(()),
        }
    }
}

impl SessionConfig {
    /// Returns the number of workers, and the number of threads that share the work of a run.
    pub fn threads(&self) -> Threads {
        Threads::choose(self.cores(), self.workers, self.intra_op_threads)
    }

    /// Returns the number of cores that the workers may keep busy, at least one.
    pub fn cores(&self) -> NonZeroUsize {
        let share = self.share * available_cores().get() as f64;
        NonZeroUsize::new(share.round() as usize).unwrap_or(NonZeroUsize::MIN)
    }

    /// Returns the maximum number of rows in one run of several requests.
    pub fn joined_batch_size(&self) -> NonZeroUsize {
        self.max_batch_size.or(self.measured_batch_size.unwrap_or(super::count::non_zero(32)))
    }

    /// Returns the maximum number of rows in one run of a single request.
    pub fn single_request_batch_size(&self) -> NonZeroUsize {
        self.max_batch_size.or(self.max_instances)
    }

    /// [`SessionConfig::max_wait_us`] as a duration.
    pub fn max_wait(&self) -> Duration {
        Duration::from_micros(self.max_wait_us)
    }

    /// [`SessionConfig::inline_us`] as a duration.
    pub fn inline(&self) -> Duration {
        Duration::from_micros(self.inline_us)
    }

    fn validate(&self) -> Result<(), String> {
        let most = |key: &str, value: NonZeroUsize, limit: usize| {
            if value.get() > limit { Err(format!("model.{key}: {value} is too many, at most {limit}")) } else { Ok(()) }
        };
        if self.providers.is_empty() {
            return Err("model.providers: the list is empty; name at least one of \"cpu\", \"cuda\"".to_owned());
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(format!("model.share: {} is not a share of the cores, above 0 and at most 1", self.share));
        }
        if self.share < 1.0 && self.workers != Count::Auto && self.intra_op_threads != Count::Auto {
            return Err(
                "model.share: it divides the cores between `workers` and `intra_op_threads`; remove it, or one of \
                        these"
                    .to_owned(),
            );
        }
        if self.inline_us > 1_000 {
            return Err(format!("model.inline_us: {} is too long, at most 1000", self.inline_us));
        }
        if let Count::Fixed(workers) = self.workers {
            most("workers", workers, 256)?;
        }
        if self.max_wait_us > 1_000_000 {
            return Err(format!("model.max_wait_us: {} is too long, at most 1000000", self.max_wait_us));
        }
        let is_null = |input: &InputConfig| input.value == Some(serde_json::Value::Null);
        if let Some((name, _)) = self.inputs.iter().find(|(_, input)| is_null(input)) {
            return Err(format!("model.inputs.{name}.value: NaN and infinity are not supported"));
        }
        let both = self.inputs.iter().find(|(_, input)| input.rows.is_some() && input.value.is_some());
        if let Some((name, _)) = both {
            return Err(format!("model.inputs.{name}: a constant has no rows; set `rows` or `value`, not both"));
        }
        most("max_instances", self.max_instances, 1 << 20)?;
        most("queue_capacity", self.queue_capacity, 1 << 20)
    }
}

impl Threads {
    /// Divides the cores among workers. If both numbers are `auto`, there is one worker for every four cores, because a
    /// small batch gains little from more than four threads. There are at most eight such workers.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use leeway::config::{Count, Threads};
    /// let cores = |count| NonZeroUsize::new(count).unwrap();
    /// let auto = |count| Threads::choose(cores(count), Count::Auto, Count::Auto);
    /// assert_eq!((auto(2).workers.get(), auto(2).intra_op.get()), (1, 2));
    /// assert_eq!((auto(16).workers.get(), auto(16).intra_op.get()), (4, 4));
    /// let one_each = Threads::choose(cores(6), Count::Auto, Count::Fixed(cores(1)));
    /// assert_eq!((one_each.workers.get(), one_each.intra_op.get()), (6, 1));
    /// ```
    pub fn choose(cores: NonZeroUsize, workers: Count, intra_op: Count) -> Threads {
        const SHARE_A_RUN: usize = 4;
        const AUTO_WORKERS: usize = 8;
        let share = |of: usize, by: usize| NonZeroUsize::new(of / by).unwrap_or(NonZeroUsize::MIN);
        let cores = cores.get();
        let workers = match (workers, intra_op) {
            (Count::Fixed(workers), _) => workers,
            (Count::Auto, Count::Fixed(threads)) => {
                share(cores, threads.get()).min(super::count::non_zero(AUTO_WORKERS))
            }
            (Count::Auto, Count::Auto) => share(cores, SHARE_A_RUN).min(super::count::non_zero(AUTO_WORKERS)),
        };
        Threads { workers, intra_op: intra_op.or(share(cores, workers.get())) }
    }
}

impl Batching {
    /// Returns the name of the setting in `model.toml`.
    pub fn name(self) -> &'static str {
        match self {
            Batching::Auto => "auto",
            Batching::Always => "always",
            Batching::Never => "never",
        }
    }
}

impl Provider {
    /// Returns the name of the provider in configuration, metrics and tables.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Cpu => "cpu",
            Provider::Cuda => "cuda",
        }
    }
}

// ===== impl StageConfig =====

impl StageConfig {
    /// Returns the configuration of a stage of this kind without settings.
    pub fn of_kind(kind: &str) -> StageConfig {
        StageConfig { kind: kind.to_owned(), settings: Dict::new() }
    }

    /// Returns true if there is no stage.
    pub fn is_none(&self) -> bool {
        self.kind.is_empty() && self.settings.is_empty()
    }

    /// Returns the settings as the stage's own type, which should refuse unknown fields.
    pub fn settings<T: DeserializeOwned>(&self) -> Result<T, SetupError> {
        Value::from(self.settings.clone()).deserialize().map_err(|error| {
            let problems: Vec<String> = error.into_iter().map(|error| sources::describe(&error)).collect();
            SetupError::Config(format!("settings of kind {:?}: {}", self.kind, problems.join("; ")))
        })
    }
}

impl<'de> Deserialize<'de> for StageConfig {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut settings = Dict::deserialize(deserializer)?;
        let kind = settings.remove("kind").ok_or_else(|| serde::de::Error::missing_field("kind"))?;
        let kind = kind.into_string().ok_or_else(|| serde::de::Error::custom("kind: expected a string"))?;
        Ok(StageConfig { kind, settings })
    }
}

impl Serialize for StageConfig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = ("kind".to_owned(), Value::from(self.kind.as_str()));
        serializer.collect_map(self.settings.iter().map(|(key, value)| (key.clone(), value.clone())).chain([kind]))
    }
}
