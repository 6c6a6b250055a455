//! The store of models and their versions: a folder (`local_folder.rs`), or an object store (`remote/`).

use std::fmt;

use super::fingerprint::Fingerprint;
use super::layout::Found;
use super::local_version::LocalVersion;
use super::manifest::Manifest;
use super::refusal::Refusal;
use crate::config::{DeploymentFile, ModelConfig};
use crate::error::{Result, SetupError};
use crate::identity::{ModelName, Version};
use crate::monitor::LearnedProfile;

/// A store of models. Its calls may be slow: they are made without locks, on threads that do not serve requests.
pub trait Store: fmt::Debug + Send + Sync {
    /// Lists the models and their versions. Fails if the store as a whole cannot be read; a problem with one model is
    /// part of the list.
    fn list(&self) -> Result<Found, SetupError>;

    /// Reads the `model.toml` of a model.
    fn read_config(&self, model: &ModelName) -> Result<ModelConfig, SetupError>;

    /// Returns the location of the `model.toml` of a model, for messages.
    fn config_place(&self, model: &ModelName) -> String;

    /// Returns the fingerprint of the `model.toml` of a model.
    fn config_fingerprint(&self, model: &ModelName) -> Fingerprint;

    /// Reads the `deployment.toml` of a model; `None` if it has none.
    fn read_deployment(&self, model: &ModelName) -> Result<Option<DeploymentFile>, SetupError>;

    /// Returns the fingerprint of the `deployment.toml` of a model.
    fn deployment_fingerprint(&self, model: &ModelName) -> Fingerprint;

    /// Reads the learned profile of a version; `None` if there is none.
    fn read_profile(&self, _model: &ModelName, _version: Version) -> Result<Option<LearnedProfile>, String> {
        Ok(None)
    }

    /// Returns the fingerprint of the learned profile of a version.
    fn profile_fingerprint(&self, _model: &ModelName, _version: Version) -> Fingerprint {
        Fingerprint::default()
    }

    /// Reads the manifest of a version.
    fn read_manifest(&self, model: &ModelName, version: Version) -> Result<Manifest, Refusal>;

    /// Returns the fingerprint of all files of a version.
    fn version_fingerprint(&self, model: &ModelName, version: Version) -> Fingerprint;

    /// Returns the location of a version's files on this machine, and copies the files there if necessary. The files are
    /// not verified.
    fn materialise(&self, model: &ModelName, version: Version) -> Result<LocalVersion, Refusal>;

    /// Compares the files of a version in the store itself, not their copies, with its manifest. Returns the manifest.
    /// Reads in pieces and keeps nothing.
    fn verify_files(&self, model: &ModelName, version: Version) -> Result<Manifest, Refusal>;
}
