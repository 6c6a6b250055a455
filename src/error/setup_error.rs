//! Errors for the person who starts a server or adds a version. They name paths and settings, and are never sent over
//! the network.

use std::fmt;

use schemars::JsonSchema;

use super::request_error::Error;
use crate::identity::{ModelName, Version};

/// A problem that prevents a server from starting, or a version from being added or loaded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SetupError {
    /// Problem with a configuration file, an environment variable or a flag.
    #[error("{0}")]
    Config(String),
    /// Problem with the ONNX Runtime library.
    #[error("{0}")]
    Library(String),
    /// Problem with the state file.
    #[error("{0}")]
    State(String),
    /// The database of the state cannot be reached now.
    #[error("state.url: {0}")]
    StateUnreachable(String),
    /// Problem with the repository of models as a whole.
    #[error("{0}")]
    Repository(String),
    /// Problem with one version of one model.
    #[error("model {model} version {version}: {message}")]
    Load {
        /// The model.
        model: ModelName,
        /// The version.
        version: Version,
        /// Kind of the problem.
        fault: LoadFault,
        /// The problem, and its remedy.
        message: String,
    },
    /// An address that could not be bound.
    #[error("{0}")]
    Listen(String),
    /// A run of the model failed during the setup, or Leeway itself did.
    #[error("{}", .0.for_operators())]
    Run(#[from] Error),
}

impl SetupError {
    /// Returns an internal error with this description.
    pub fn internal(detail: impl fmt::Display) -> SetupError {
        SetupError::Run(Error::internal(detail))
    }

    /// Converts this error for the caller of a request. An error that callers may see stays as it is; any other becomes
    /// an internal error, because it may name paths.
    pub fn of_a_request(self) -> Error {
        match self {
            SetupError::Run(error) => error,
            other => Error::internal(other),
        }
    }
}

/// Kind of the problem with a version that is not served. A closed set: it is a label of the
/// `leeway_load_failures_total` metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadFault {
    /// The version's manifest is missing or cannot be read.
    Manifest,
    /// The version's files are not those listed in its manifest, or are links.
    Files,
    /// The bytes of a file are not the same as when the version was added.
    Digest,
    /// The version is not signed by a trusted key, although it has to be.
    Signature,
    /// The model refers to weights in a file that does not belong to the version.
    ExternalData,
    /// ONNX Runtime cannot load the model.
    Model,
    /// `model.toml` is wrong, or does not fit the model.
    Config,
    /// The trial crashed its process, or took too long or too much memory.
    Trial,
    /// The model does not run.
    WarmUp,
    /// The model's predictions differ from those of the golden examples.
    Golden,
    /// The version's baseline cannot be read.
    Baseline,
    /// The machine had too little memory, threads or time left for the load. The load is tried again after a backoff.
    Resources,
    /// A defect in Leeway.
    Internal,
}

impl LoadFault {
    /// All kinds of load faults.
    pub const ALL: [LoadFault; 13] = [
        LoadFault::Manifest,
        LoadFault::Files,
        LoadFault::Digest,
        LoadFault::Signature,
        LoadFault::ExternalData,
        LoadFault::Model,
        LoadFault::Config,
        LoadFault::Trial,
        LoadFault::WarmUp,
        LoadFault::Golden,
        LoadFault::Baseline,
        LoadFault::Resources,
        LoadFault::Internal,
    ];

    /// Returns the name of the kind in metrics and in the API.
    pub fn name(self) -> &'static str {
        match self {
            LoadFault::Manifest => "manifest",
            LoadFault::Files => "files",
            LoadFault::Digest => "digest",
            LoadFault::Signature => "signature",
            LoadFault::ExternalData => "external_data",
            LoadFault::Model => "model",
            LoadFault::Config => "config",
            LoadFault::Trial => "trial",
            LoadFault::WarmUp => "warm_up",
            LoadFault::Golden => "golden",
            LoadFault::Baseline => "baseline",
            LoadFault::Resources => "resources",
            LoadFault::Internal => "internal",
        }
    }

    /// Returns true if the same load may succeed later, although neither the version nor `model.toml` has changed.
    pub fn is_transient(self) -> bool {
        self == LoadFault::Resources
    }
}
