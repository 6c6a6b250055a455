//! A store in a local or mounted folder: `<model>/model.toml` and `<model>/<version>/`.

use std::path::PathBuf;

use super::fingerprint::Fingerprint;
use super::layout::{self, CONFIG_FILE, Found};
use super::manifest::Manifest;
use super::profile_file::{profile_file, read_profile};
use super::refusal::Refusal;
use super::store::Store;
use crate::config::ModelConfig;
use crate::error::{Result, SetupError};
use crate::identity::{ModelName, Version};
use crate::monitor::LearnedProfile;

/// A store of models in a folder.
#[derive(Debug, Clone)]
pub struct LocalFolder {
    path: PathBuf,
}

impl LocalFolder {
    /// Returns the store in this folder (`repository.path`).
    pub fn new(path: impl Into<PathBuf>) -> LocalFolder {
        LocalFolder { path: path.into() }
    }

    fn config(&self, model: &ModelName) -> PathBuf {
        self.path.join(model.as_str()).join(CONFIG_FILE)
    }

    /// Returns the folder of a version. It may not exist.
    pub fn version(&self, model: &ModelName, version: Version) -> PathBuf {
        self.path.join(model.as_str()).join(version.to_string())
    }
}

impl Store for LocalFolder {
    fn list(&self) -> Result<Found, SetupError> {
        layout::scan(&self.path)
    }

    fn read_config(&self, model: &ModelName) -> Result<ModelConfig, SetupError> {
        ModelConfig::read(&self.config(model))
    }

    fn config_place(&self, model: &ModelName) -> String {
        self.config(model).display().to_string()
    }

    fn config_fingerprint(&self, model: &ModelName) -> Fingerprint {
        Fingerprint::of_file(&self.config(model))
    }

    fn read_profile(&self, model: &ModelName, version: Version) -> Result<Option<LearnedProfile>, String> {
        read_profile(&self.path.join(model.as_str()), version)
    }

    fn profile_fingerprint(&self, model: &ModelName, version: Version) -> Fingerprint {
        Fingerprint::of_file(&profile_file(&self.path.join(model.as_str()), version))
    }

    fn read_manifest(&self, model: &ModelName, version: Version) -> Result<Manifest, Refusal> {
        Manifest::read(&self.version(model, version))
    }

    fn version_fingerprint(&self, model: &ModelName, version: Version) -> Fingerprint {
        Fingerprint::of(&self.version(model, version))
    }

    fn materialise(&self, model: &ModelName, version: Version) -> Result<PathBuf, Refusal> {
        Ok(self.version(model, version))
    }
}
