//! A store in a local or mounted folder: `<model>/model.toml` and `<model>/<version>/`.

use std::path::PathBuf;

use super::fingerprint::Fingerprint;
use super::layout::{self, CONFIG_FILE, Found};
use super::local_version::LocalVersion;
use super::manifest::Manifest;
use super::refusal::Refusal;
use super::store::Store;
use super::verified::FoundVersion;
use crate::config::ModelConfig;
use crate::error::{Result, SetupError};
use crate::identity::{ModelName, Version};

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

    fn read_manifest(&self, model: &ModelName, version: Version) -> Result<Manifest, Refusal> {
        Manifest::read(&self.version(model, version))
    }

    fn version_fingerprint(&self, model: &ModelName, version: Version) -> Fingerprint {
        Fingerprint::of(&self.version(model, version))
    }

    fn materialise(&self, model: &ModelName, version: Version) -> Result<LocalVersion, Refusal> {
        Ok(LocalVersion::in_folder(self.version(model, version)))
    }

    fn verify_files(&self, model: &ModelName, version: Version) -> Result<Manifest, Refusal> {
        let found = FoundVersion::find(LocalVersion::in_folder(self.version(model, version)))?;
        found.check_digests()?;
        Ok(found.manifest().clone())
    }
}
