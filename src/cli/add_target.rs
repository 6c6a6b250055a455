//! The model that `leeway add` adds a version to: in a folder, or in an object store.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::clean_up::clean_up_at_signals;
use crate::authoring::abandon_additions;
use crate::config::{Config, RepositoryConfig, RepositoryLocation, StateConfig, StateUrl};
use crate::identity::ModelName;
use crate::repository::RemoteStore;

/// The model that a version is added to.
#[derive(Debug)]
pub(super) enum AddTarget {
    /// A folder with a model.toml.
    Folder(PathBuf),
    /// A model of a repository in an object store.
    Remote(Box<RemoteTarget>),
}

/// A model of a repository in an object store.
#[derive(Debug)]
pub(super) struct RemoteTarget {
    pub(super) store: RemoteStore,
    pub(super) model: ModelName,
    /// Folder in which the version is made.
    pub(super) work: TempDir,
}

impl AddTarget {
    /// Returns the model that `named` names: a folder, a URL, or a name if `repository.path` is not a folder.
    pub(super) fn of(named: &Path, config: &Config) -> Result<AddTarget> {
        let location: Option<RepositoryLocation> = match named.to_str().map(str::parse) {
            Some(Ok(location)) => Some(location),
            Some(Err(problem)) => bail!("{problem}"),
            None => None,
        };
        let remote = match location {
            Some(RepositoryLocation::Folder(_)) | None => {
                let is_folder = matches!(config.repository.path, RepositoryLocation::Folder(_));
                if is_folder || named.exists() {
                    return Ok(AddTarget::Folder(named.to_owned()));
                }
                named.to_str().map(|name| (config.repository.path.clone(), name.to_owned()))
            }
            Some(remote) => remote.split_remote(),
        };
        let Some((repository, model)) = remote else {
            bail!("{}: name the model, too, as in s3://bucket/models/digits", named.display());
        };
        let model: ModelName = model.parse()?;
        let settings = RepositoryConfig { path: repository, cache: None, ..config.repository.clone() };
        // Nothing is downloaded, so the copies of a server are not needed.
        let store = RemoteStore::open(&settings, &StateConfig::at(StateUrl::Memory))?
            .context("a folder has no object store")?;
        let work =
            tempfile::Builder::new().prefix("leeway-add-").tempdir().context("no temporary folder could be made")?;
        Ok(AddTarget::Remote(Box::new(RemoteTarget { store, model, work })))
    }

    /// Removes the unfinished version and ends this process when a signal arrives. Objects that were uploaded already stay;
    /// without a manifest, they are no version.
    pub(super) fn clean_up_at_signals(&self) -> Result<()> {
        match self {
            AddTarget::Folder(folder) => {
                let folder = folder.clone();
                clean_up_at_signals(move || abandon_additions(&folder))
            }
            AddTarget::Remote(remote) => {
                let work = remote.work.path().to_owned();
                clean_up_at_signals(move || {
                    let _ = std::fs::remove_dir_all(work);
                })
            }
        }
    }
}
