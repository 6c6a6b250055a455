//! `[repository]` and `[loading]`: location of the models, and loading of their versions.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::StateConfig;
use super::location::RepositoryLocation;
use super::trusted_key::TrustedKey;
use crate::identity::ModelName;

/// `[repository]`: location of the models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositoryConfig {
    /// Location of the models: a folder with one folder per model, or the same layout in an object store.
    pub path: RepositoryLocation,
    /// Folder of the copies of files from an object store. Default: `repository-cache` beside the file of the state; a temporary
    /// folder if the state is not in a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Maximum size of the copies in this folder, in MiB. Copies that are in use are never removed.
    pub cache_mb: NonZeroU64,
    /// Name of the only model, if `path` is that model's own folder, as for `leeway serve FOLDER`. Not a key of the file.
    #[serde(skip)]
    pub only_model: Option<ModelName>,
    /// The model that answers `POST /predict`. Default: the only model of the repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_model: Option<ModelName>,
    /// Public keys, one of which each version has to be signed with. Without keys, versions need no signature.
    pub trusted_keys: Vec<TrustedKey>,
    /// Number of newest versions of each model that are kept loaded, even if the deployment does not need them.
    pub newest_versions: usize,
    /// Interval of syncs with the repository, which find new versions and changed files. 0 turns these syncs off.
    pub poll_interval_ms: u64,
    /// Time for which `leeway reload` waits for the loads that it starts.
    pub reload_timeout_ms: NonZeroU64,
    /// Handling of models that cannot be served, and of folders that are not models, at the start.
    pub start: StartMode,
    /// Time for which a lenient start waits for models that are slow to load.
    pub start_timeout_ms: NonZeroU64,
}

/// Handling of models that cannot be served, and of folders that are not models, at the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartMode {
    /// The server starts, and serves the other models.
    #[default]
    Lenient,
    /// The server does not start.
    Strict,
}

/// `[loading]`: loading of versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadingConfig {
    /// True if a version is tried out in a separate process before the server loads it.
    pub trial: bool,
    /// Maximum memory of the trial, in MiB. Default: 1024 + (3 + `workers`) · the model's size; no limit with CUDA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial_memory_mb: Option<NonZeroU64>,
    /// Timeout of the trial, and of each of the first runs of a version in the server itself.
    pub trial_timeout_ms: NonZeroU64,
    /// Timeout of the whole load of a version. After it, other loads continue.
    pub timeout_ms: NonZeroU64,
    /// Folder of the load cache, which makes restarts quick. Default: `cache` beside the file of the state; none if the state
    /// is in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Maximum size of the optimised graphs in this folder, in MiB. 0 turns the folder off.
    pub cache_mb: u64,
}

impl Default for RepositoryConfig {
    fn default() -> Self {
        RepositoryConfig {
            path: RepositoryLocation::Folder(PathBuf::from("models")),
            cache: None,
            cache_mb: NonZeroU64::MIN.saturating_add(20_479),
            only_model: None,
            default_model: None,
            trusted_keys: Vec::new(),
            newest_versions: 2,
            poll_interval_ms: 5_000,
            // Enough for a small model, and shorter than the usual timeout of a client.
            reload_timeout_ms: NonZeroU64::MIN.saturating_add(9_999),
            start: StartMode::Lenient,
            // Longer than a trial may take, and shorter than an operator would wait.
            start_timeout_ms: NonZeroU64::MIN.saturating_add(299_999),
        }
    }
}

impl Default for LoadingConfig {
    fn default() -> Self {
        LoadingConfig {
            trial: true,
            trial_memory_mb: None,
            trial_timeout_ms: NonZeroU64::MIN.saturating_add(119_999),
            // Enough to read weights of some hundred GiB from a slow disk.
            timeout_ms: NonZeroU64::MIN.saturating_add(1_199_999),
            cache: None,
            cache_mb: 8192,
        }
    }
}

impl RepositoryConfig {
    /// [`RepositoryConfig::poll_interval_ms`] as a duration; `None` for 0.
    pub fn poll_interval(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.poll_interval_ms)).filter(|interval| !interval.is_zero())
    }

    /// [`RepositoryConfig::reload_timeout_ms`] as a duration.
    pub fn reload_timeout(&self) -> Duration {
        Duration::from_millis(self.reload_timeout_ms.get())
    }

    /// [`RepositoryConfig::start_timeout_ms`] as a duration; `None` for a strict start, which waits for all models.
    pub fn start_timeout(&self) -> Option<Duration> {
        let timeout = Duration::from_millis(self.start_timeout_ms.get());
        (self.start == StartMode::Lenient).then_some(timeout)
    }
}

impl RepositoryConfig {
    /// Returns the folder of the copies of files from an object store; `None` for a temporary folder.
    pub fn cache(&self, state: &StateConfig) -> Option<PathBuf> {
        let beside_the_state = state.folder().map(|folder| folder.join("repository-cache"));
        self.cache.clone().or(beside_the_state)
    }

    /// [`RepositoryConfig::cache_mb`] in bytes.
    pub fn cache_bytes(&self) -> u64 {
        self.cache_mb.get().saturating_mul(1 << 20)
    }
}

impl LoadingConfig {
    /// [`LoadingConfig::trial_timeout_ms`] as a duration.
    pub fn trial_timeout(&self) -> Duration {
        Duration::from_millis(self.trial_timeout_ms.get())
    }

    /// [`LoadingConfig::timeout_ms`] as a duration.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.get())
    }

    /// Returns the folder of the load cache, and the maximum size of the graphs in it, in bytes.
    pub fn cache(&self, state: &StateConfig) -> Option<(PathBuf, u64)> {
        let beside_the_state = || state.folder().map(|folder| folder.join("cache"));
        let folder = self.cache.clone().or_else(beside_the_state)?;
        (self.cache_mb > 0).then(|| (folder, self.cache_mb.saturating_mul(1 << 20)))
    }

    /// [`LoadingConfig::trial_memory_mb`] in bytes.
    pub fn trial_memory(&self) -> Option<u64> {
        self.trial_memory_mb.map(|mib| mib.get().saturating_mul(1 << 20))
    }
}
