//! Configuration: a TOML file, the environment and flags, merged into one validated [`Config`].
//!
//! Later sources win: defaults, then the file, then `LEEWAY_*` variables, then flags. An unknown key, a wrong type or
//! an impossible value is an error that names the source, the key and the accepted values. Such errors are reported
//! before anything is loaded or bound. Only this module reads the environment.

#![warn(missing_docs)]

mod api_keys;
mod budget;
mod chain;
mod cloud_variables;
mod cors;
mod count;
mod deployment_file;
mod environment;
mod lifecycle;
mod listen;
mod listeners;
mod location;
mod log;
mod model;
mod monitoring;
mod onnxruntime_library;
mod path_prefix;
mod prediction_log;
mod repository;
mod rollout;
mod route;
mod settings_file;
mod sources;
mod state;
mod tls;
mod tracing;
mod trusted_key;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::identity::Sha256;

pub use self::api_keys::{ApiKey, ApiKeyName, api_keys_problem, read_api_keys};
pub use self::chain::{
    Chain, ChainAnswer, ChainStep, REQUEST, Reference, ReferenceOrigin, StepConfig, StepInput, StepInstances,
    has_steps, text_has_steps,
};
pub use self::cloud_variables::CloudVariables;
pub use self::cors::CorsConfig;
pub use self::count::{Count, available_cores};
pub use self::deployment_file::{DEPLOYMENT_FILE, DeploymentFile};
pub use self::environment::{
    columns_of_environment, is_colour_unwanted, server_of_environment, signing_password_of_environment, this_host,
    this_program, this_user,
};
pub use self::lifecycle::{HealthConfig, ShutdownConfig};
pub use self::listen::{ListenAddress, ListenAddresses, SocketMode};
pub use self::listeners::{AdminConfig, HttpConfig, Token};
pub use self::location::{BucketApi, BucketLocation, RepositoryLocation};
pub use self::log::{AccessLogging, LogConfig, LogFormat, LogLevel};
pub use self::model::{
    Batching, InputConfig, Isolation, MAX_BATCH_SIZE, ModelConfig, OutputConfig, Provider, ProviderFallback,
    SessionConfig, SessionPlace, StageConfig, Threads,
};
pub use self::monitoring::{
    BusinessKind, DriftSeries, FeedbackConfig, MonitoringConfig, MonitoringWindows, ServerMonitoringConfig,
};
pub use self::onnxruntime_library::LibraryCandidate;
pub use self::path_prefix::PathPrefix;
pub use self::prediction_log::{ModelPredictionLogConfig, PredictionLogConfig};
pub use self::repository::{LoadingConfig, RepositoryConfig, StartMode};
pub use self::rollout::{
    EventLimits, Guardrail, GuardrailComparison, GuardrailConfig, OnTimeout, RolloutConfig, check_steps, check_times,
};
pub use self::route::Route;
pub(crate) use self::sources::toml_problem;
pub use self::sources::{DEFAULT_FILE, Overrides, own_variables};
pub use self::state::{PostgresUrl, StateConfig, StateUrl};
pub use self::tls::TlsConfig;
pub use self::tracing::{OtlpProtocol, TracingConfig};
pub use self::trusted_key::{KeyId, KeyVerdict, TrustedKey};

/// The whole configuration of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The listener for clients.
    pub http: HttpConfig,
    /// The listener for operators.
    pub admin: AdminConfig,
    /// The repository of the models.
    pub repository: RepositoryConfig,
    /// Loading of versions.
    pub loading: LoadingConfig,
    /// Detection of runs that do not end.
    pub health: HealthConfig,
    /// Storage of the deployments.
    pub state: StateConfig,
    /// Monitoring of features, predictions and latencies, and its windows.
    pub monitoring: ServerMonitoringConfig,
    /// Limits of the feedback that is accepted.
    pub feedback: FeedbackConfig,
    /// Log of a sample of the predictions.
    pub prediction_log: PredictionLogConfig,
    /// Location of the ONNX Runtime library.
    pub onnxruntime: OnnxRuntimeConfig,
    /// Content and format of the log.
    pub log: LogConfig,
    /// Spans of a sample of the requests.
    pub tracing: TracingConfig,
    /// Shutdown of a server.
    pub shutdown: ShutdownConfig,
}

/// `[onnxruntime]`: location of the ONNX Runtime library, and of libraries with custom operators.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnnxRuntimeConfig {
    /// File of the ONNX Runtime library. If it is not set, the usual locations are searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<PathBuf>,
    /// Libraries with custom operators that models may use.
    pub custom_operators: Vec<AllowedOperators>,
}

/// A library with custom operators that models may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowedOperators {
    /// File of the library.
    pub path: PathBuf,
    /// SHA-256 of the file.
    pub sha256: Sha256,
}
