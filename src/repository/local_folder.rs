//! A store in a local or mounted folder: `<model>/model.toml` and `<model>/<version>/`; or the folder of one model, under a
//! name that need not be the folder's.

use std::path::PathBuf;

use super::fingerprint::Fingerprint;
use super::layout::{self, CONFIG_FILE, Found};
use super::local_version::LocalVersion;
use super::manifest::Manifest;
use super::profile_file::{profile_file, read_profile};
use super::refusal::Refusal;
use super::store::Store;
use super::verified::FoundVersion;
use crate::config::{DEPLOYMENT_FILE, DeploymentFile, ModelConfig};
use crate::error::{Result, SetupError};
use crate::identity::{ModelName, Version};
use crate::monitor::LearnedProfile;

/// A store of models in a folder.
#[derive(Debug, Clone)]
pub struct LocalFolder {
    path: PathBuf,
    /// Name of the only model, if `path` is that model's own folder.
    only_model: Option<ModelName>,
}

impl LocalFolder {
    /// Returns the store in this folder (`repository.path`).
    pub fn new(path: impl Into<PathBuf>) -> LocalFolder {
        LocalFolder { path: path.into(), only_model: None }
    }

    /// Returns the store of one model in its own folder.
    pub fn of_one_model(path: impl Into<PathBuf>, name: ModelName) -> LocalFolder {
        LocalFolder { path: path.into(), only_model: Some(name) }
    }

    /// Returns the folder of a model. It may not exist.
    fn model(&self, model: &ModelName) -> PathBuf {
        match &self.only_model {
            Some(only) if only == model => self.path.clone(),
            _ => self.path.join(model.as_str()),
        }
    }

    fn config(&self, model: &ModelName) -> PathBuf {
        self.model(model).join(CONFIG_FILE)
    }

    fn deployment(&self, model: &ModelName) -> PathBuf {
        self.model(model).join(DEPLOYMENT_FILE)
    }

    /// Returns the folder of a version. It may not exist.
    pub fn version(&self, model: &ModelName, version: Version) -> PathBuf {
        self.model(model).join(version.to_string())
    }
}

impl Store for LocalFolder {
    fn list(&self) -> Result<Found, SetupError> {
        match &self.only_model {
            Some(only) => layout::scan_model(&self.path, only),
            None => layout::scan(&self.path),
        }
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

    fn read_deployment(&self, model: &ModelName) -> Result<Option<DeploymentFile>, SetupError> {
        DeploymentFile::read(&self.deployment(model))
    }

    fn deployment_fingerprint(&self, model: &ModelName) -> Fingerprint {
        Fingerprint::of_file(&self.deployment(model))
    }

    fn read_profile(&self, model: &ModelName, version: Version) -> Result<Option<LearnedProfile>, String> {
        read_profile(&self.model(model), version)
    }

    fn profile_fingerprint(&self, model: &ModelName, version: Version) -> Fingerprint {
        Fingerprint::of_file(&profile_file(&self.model(model), version))
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
