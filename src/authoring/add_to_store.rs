//! Adds a version to a repository in an object store: makes it in a temporary folder of this machine, as in a repository
//! there, and uploads it when it was tried out.

use std::path::{Path, PathBuf};

use super::add::{Added, Addition, NewFiles, add};
use super::sign::SigningKey;
use super::staging::at;
use super::training_data::Progress;
use crate::error::{Result, SetupError};
use crate::identity::ModelName;
use crate::model::Engine;
use crate::pipeline::Stages;
use crate::registry::Trial;
use crate::repository::{CONFIG_FILE, Manifest, RemoteStore};

/// A version to add to a repository in an object store.
#[derive(Debug)]
pub struct RemoteAddition<'a> {
    pub store: &'a RemoteStore,
    pub model: &'a ModelName,
    /// Temporary folder for the version. The caller removes it.
    pub work: &'a Path,
    /// The `model.toml` of a model that is not in the repository yet.
    pub config: Option<&'a Path>,
    pub files: &'a NewFiles,
    /// Facts about the version. The list of files is filled in later.
    pub facts: Manifest,
    /// Key that the version is signed with, if it is signed.
    pub key: Option<&'a SigningKey>,
}

/// Checks that a version loads and fits its `model.toml`, and uploads it as the next version of the model.
pub fn add_to_store(
    addition: RemoteAddition<'_>,
    engine: &dyn Engine,
    stages: &Stages,
    trial: Option<&Trial>,
    progress: &dyn Fn(Progress),
) -> Result<Added, SetupError> {
    let RemoteAddition { store, model, work, config, files, facts, key } = addition;
    store.check_writable()?;
    let folder = work.join(model.as_str());
    std::fs::create_dir(&folder).map_err(|error| at(&folder, &error))?;
    let given = config.map(|path| std::fs::read_to_string(path).map_err(|error| at(path, &error))).transpose()?;
    let (text, new_config) = match (store.config_text(model)?, given) {
        (Some(there), Some(given)) if there != given => {
            return Err(SetupError::Repository(format!(
                "model {model} has a {CONFIG_FILE} already, which differs from the given one; leave --model-toml out, or \
                 change the one in the repository with the tools of the object store"
            )));
        }
        (Some(there), _) => (there, None),
        (None, Some(given)) => (given.clone(), Some(given)),
        (None, None) => {
            return Err(SetupError::Repository(format!(
                "model {model} has no {CONFIG_FILE} in the repository yet; give it with --model-toml FILE"
            )));
        }
    };
    let config_file = folder.join(CONFIG_FILE);
    std::fs::write(&config_file, text).map_err(|error| at(&config_file, &error))?;
    let version = Some(store.next_version(model)?);
    let added = add(Addition { model: &folder, files, facts, key: None, version }, engine, stages, trial, progress)?;
    // Its number may be another one than here.
    let sign = |folder: &Path, version| key.map_or(Ok(()), |key| key.sign(folder, model, version));
    let published = store.publish(model, &added.folder, new_config.as_deref(), added.version, sign)?;
    Ok(Added { version: published.version, folder: PathBuf::from(published.place), ..added })
}
