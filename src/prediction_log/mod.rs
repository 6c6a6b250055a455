//! The prediction log (`[prediction_log]`): a sample of the requests with their predictions, features and ids, and the
//! true outcomes that feedback reports later, as Parquet files.
//!
//! - `mod.rs` is the log as the request path sees it: it samples, copies, and passes records on. It never waits.
//! - `sampling.rs` chooses the requests. `record.rs` is what is logged of one; `redaction.rs` removes names from it.
//! - `queue.rs` passes records to a thread. `writer.rs` is the thread, which collects records and writes files. `rotation.rs` decides when a file is finished, and
//!   which files are removed; `folder.rs` is the disk.
//! - `columns.rs` turns records into columns, and `parquet_writer.rs` columns into a file.
//! - `reader.rs` reads the log, and joins truths to predictions; `logged_row.rs` is a row of it. `rows_by_hour.rs` counts the rows by hour.
//!
//! The rows that wait to be written are bounded. Beyond the bound, and if the disk fails, rows are dropped and counted: a
//! prediction never depends on its log.

#![warn(missing_docs)]

mod columns;
mod folder;
mod logged_row;
mod parquet_writer;
mod queue;
mod reader;
mod record;
mod redaction;
mod rotation;
mod rows_by_hour;
mod sampling;
mod writer;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use uuid::Uuid;

pub use self::columns::FEATURE_PREFIX;
use self::columns::MAX_TEXT;
use self::folder::LogFolder;
pub use self::logged_row::{LoggedRow, TRUTH_COLUMNS};
use self::queue::{Message, Queue};
pub use self::reader::{LogFile, LogReader, LogSummary, Truths};
pub use self::record::LoggedInstances;
use self::record::{LoggedPrediction, LoggedVersion, OutcomeRecord, PredictionRecord, size_without_instances};
use self::rotation::FileLimits;
pub use self::sampling::is_sampled;
use self::writer::Writer;
use crate::budget::MemoryBudget;
use crate::config::{ModelConfig, PredictionLogConfig};
use crate::error::SetupError;
use crate::feature::Features;
use crate::feedback::{AcceptedOutcome, OutcomeLog, Signer};
use crate::identity::VersionKey;
use crate::monitor::{LogDrop, Predicted, ServerRecorder};
use crate::pipeline::Prediction;
use crate::registry::ServedVersion;

/// Number of records among which the reserved part of the memory is divided.
const HOLDERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
/// Maximum number of versions whose columns are remembered.
const MAX_VERSIONS: usize = 4096;
/// Time for writing the last files when the server stops.
const LAST_FILES: Duration = Duration::from_secs(5);

/// The prediction log of a server.
#[derive(Debug)]
pub struct PredictionLog {
    config: PredictionLogConfig,
    queue: Arc<Queue>,
    /// Memory of the rows that are not in a file yet.
    memory: MemoryBudget,
    recorder: Arc<ServerRecorder>,
    versions: ArcSwap<HashMap<VersionKey, KnownVersion>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Logged columns of a version, as long as its `model.toml` is the same.
#[derive(Debug, Clone)]
struct KnownVersion {
    config: Arc<ModelConfig>,
    logged: Arc<LoggedVersion>,
}

/// A request that may be logged.
#[derive(Debug, Clone, Copy)]
pub struct RequestToLog<'a> {
    /// The log.
    pub log: &'a Arc<PredictionLog>,
    /// Id of the request, from which the ids of its predictions are derived.
    pub unique: Uuid,
    /// Id of the request in the response.
    pub request_id: &'a str,
}

/// A request that will be logged if it is answered.
#[derive(Debug)]
pub struct SampledRequest {
    log: Arc<PredictionLog>,
    version: Arc<LoggedVersion>,
    request: Uuid,
    request_id: Box<str>,
}

// ===== impl PredictionLog =====

impl PredictionLog {
    /// Starts the log; `None` if it is off. Prediction ids are signed with `signer`, as in answers.
    pub fn start(
        config: &PredictionLogConfig,
        signer: Signer,
        recorder: &Arc<ServerRecorder>,
    ) -> Result<Option<Arc<PredictionLog>>, SetupError> {
        let Some(path) = &config.path else { return Ok(None) };
        let writer = Writer {
            folder: LogFolder::open(path)?,
            signer,
            recorder: Arc::clone(recorder),
            limits: FileLimits { rows: config.file_rows, time: config.file_time() },
            max_buffered: (config.queue_mb << 20) / 2,
            max_bytes: config.max_mb << 20,
            process: fastrand::u32(..),
        };
        let queue = Arc::new(Queue::default());
        let messages = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("prediction-log".to_owned());
        let thread = thread.spawn(move || writer.run(&messages)).map_err(SetupError::internal)?;
        Ok(Some(Arc::new(PredictionLog {
            config: config.clone(),
            queue,
            memory: MemoryBudget::new(config.queue_mb << 20, HOLDERS),
            recorder: Arc::clone(recorder),
            versions: ArcSwap::default(),
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Writes everything that waits, for a limited time, and ends the log. Later rows are dropped.
    pub async fn close(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        self.queue.close();
        let ended = tokio::task::spawn_blocking(move || thread.join());
        if tokio::time::timeout(LAST_FILES, ended).await.is_err() {
            tracing::warn!("the last rows of the prediction log could not be written in time");
        }
    }

    /// Returns the share of the requests to a model that are logged.
    fn share(&self, config: &ModelConfig) -> f64 {
        config.prediction_log.sample.unwrap_or(self.config.sample)
    }

    /// Returns what is logged of a version.
    fn version(&self, version: &ServedVersion) -> Arc<LoggedVersion> {
        if let Some(known) = self.versions.load().get(&version.key)
            && Arc::ptr_eq(&known.config, &version.config)
        {
            return Arc::clone(&known.logged);
        }
        let (spec, settings) = (version.recorder.spec(), &version.config.prediction_log);
        let logged = Arc::new(LoggedVersion::new(
            (version.model.clone(), version.version),
            &spec.schema,
            spec.settings.max_features,
            settings.instances.unwrap_or(self.config.instances),
            &[&self.config.redact, &settings.redact],
        ));
        let known = KnownVersion { config: Arc::clone(&version.config), logged: Arc::clone(&logged) };
        self.versions.rcu(|versions| {
            let mut versions = if versions.len() < MAX_VERSIONS { HashMap::clone(versions) } else { HashMap::new() };
            versions.insert(version.key, known.clone());
            versions
        });
        logged
    }

    /// Passes rows to the thread, unless too many wait.
    fn pass(&self, message: Message, rows: usize) {
        if let Err(reason) = self.queue.push(message) {
            self.recorder.prediction_log().dropped(reason, rows);
        }
    }
}

/// Logs feedback on predictions of requests that are logged.
impl OutcomeLog for PredictionLog {
    fn accepted(&self, version: &ServedVersion, outcome: AcceptedOutcome) {
        let AcceptedOutcome { prediction, at, kind, label, value } = outcome;
        if !is_sampled(prediction.request, self.share(&version.config)) {
            return;
        }
        let Ok(held) = self.memory.hold(OutcomeRecord::size(&kind, label.as_deref())) else {
            return self.recorder.prediction_log().dropped(LogDrop::QueueFull, 1);
        };
        let (model, version) = (version.model.clone(), version.version);
        let record = OutcomeRecord { model, version, prediction, at, kind, label, value, _held: held };
        self.pass(Message::Outcome(Box::new(record)), 1);
    }
}

// ===== impl RequestToLog, SampledRequest =====

impl RequestToLog<'_> {
    /// Returns the request if it is logged.
    pub fn sampled(self, version: &ServedVersion) -> Option<Arc<SampledRequest>> {
        let RequestToLog { log, unique, request_id } = self;
        is_sampled(unique, log.share(&version.config)).then(|| {
            let version = log.version(version);
            Arc::new(SampledRequest { log: Arc::clone(log), version, request: unique, request_id: request_id.into() })
        })
    }
}

impl SampledRequest {
    /// Copies the instances of the request, which are a JSON array with this number of rows.
    pub fn instances(&self, array: &str, rows: usize) -> LoggedInstances {
        match self.version.has_instances {
            false => LoggedInstances::Off,
            true if array.len() > rows.saturating_mul(MAX_TEXT) => LoggedInstances::TooLong,
            true => self.held(array.len(), || array.into()),
        }
    }

    /// Copies the bytes of the only instance of the request, as JSON.
    pub fn media(&self, bytes: &[u8]) -> LoggedInstances {
        let length = bytes.len().div_ceil(3) * 4 + r#"[{"b64":""}]"#.len();
        match self.version.has_instances {
            false => LoggedInstances::Off,
            true if length > MAX_TEXT => LoggedInstances::TooLong,
            true => self.held(length, || format!(r#"[{{"b64":"{}"}}]"#, STANDARD.encode(bytes)).into()),
        }
    }

    fn held(&self, bytes: usize, copy: impl FnOnce() -> Box<str>) -> LoggedInstances {
        self.log.memory.hold(bytes).map_or(LoggedInstances::NoMemory, |held| LoggedInstances::Json(held.of(copy())))
    }

    /// Logs the answered request. `made_by` is the version in the ids of the predictions.
    pub fn answered(
        &self,
        instances: LoggedInstances,
        features: &Features,
        predictions: &[Prediction],
        made_by: &ServedVersion,
    ) {
        let rows = predictions.len();
        let no_memory = || self.log.recorder.prediction_log().dropped(LogDrop::QueueFull, rows);
        if matches!(instances, LoggedInstances::NoMemory) {
            return no_memory();
        }
        let logged = |prediction: &Prediction| {
            let observation = prediction.observation();
            LoggedPrediction {
                observation,
                class: match made_by.recorder.predicted(observation) {
                    Some(Predicted::Class(name, _)) => Some(name),
                    Some(Predicted::Value(_)) | None => None,
                },
                answer: serde_json::to_string(prediction)
                    .ok()
                    .filter(|text| text.len() <= MAX_TEXT)
                    .map(String::into_boxed_str),
            }
        };
        let predictions: Vec<LoggedPrediction> = predictions.iter().map(logged).collect();
        let Ok(held) = self.log.memory.hold(size_without_instances(&self.request_id, &predictions, features)) else {
            return no_memory();
        };
        let record = PredictionRecord {
            version: Arc::clone(&self.version),
            request: self.request,
            request_id: self.request_id.clone(),
            made_by: made_by.key,
            predictions,
            features: features.clone(),
            instances,
            _held: held,
        };
        self.log.pass(Message::Predictions(Box::new(record)), rows);
    }
}
