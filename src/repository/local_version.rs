//! The files of a version on this machine: in the version's folder of the repository, or as copies in the cache of an
//! object store.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::files;
use super::fingerprint::Fingerprint;
use super::manifest::{FilePath, Manifest};
use super::refusal::Refusal;

/// Location of a version's files on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LocalVersion {
    /// Folder of the manifest, and of the other files if they are not in the cache.
    folder: PathBuf,
    /// Folder of the cache that has the other files, each under its digest.
    cache: Option<PathBuf>,
    /// Fingerprint of the version in the store, from before its files were read; `None` for that of the folder.
    #[serde(skip)]
    fingerprint: Option<Fingerprint>,
    /// Keeps the files in the cache.
    #[serde(skip)]
    hold: Option<Hold>,
}

/// A value that keeps the files of a version in the cache until it is dropped.
#[derive(Clone)]
pub(super) struct Hold(#[expect(dead_code, reason = "it is only dropped")] Arc<dyn Send + Sync>);

impl LocalVersion {
    /// Returns the version in a folder that has all of its files.
    pub fn in_folder(folder: impl Into<PathBuf>) -> LocalVersion {
        LocalVersion { folder: folder.into(), cache: None, fingerprint: None, hold: None }
    }

    /// Returns the version whose manifest is in `folder`, and whose other files are in `cache` under their digests.
    pub(super) fn in_cache(folder: PathBuf, cache: PathBuf, fingerprint: Fingerprint, hold: Hold) -> LocalVersion {
        LocalVersion { folder, cache: Some(cache), fingerprint: Some(fingerprint), hold: Some(hold) }
    }

    /// Returns the folder of the manifest.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the fingerprint of the version.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone().unwrap_or_else(|| Fingerprint::of(&self.folder))
    }

    /// Finds the files, by their path within the version.
    pub(super) fn files(&self, manifest: &Manifest) -> Result<BTreeMap<FilePath, PathBuf>, Refusal> {
        let Some(cache) = &self.cache else { return files::list(&self.folder) };
        let files = manifest.files.iter().map(|(name, digest)| (name.clone(), cache.join(digest.to_string())));
        Ok(files.filter(|(_, path)| path.is_file()).collect())
    }
}

impl Hold {
    pub(super) fn new(guard: impl Send + Sync + 'static) -> Hold {
        Hold(Arc::new(guard))
    }
}

impl From<&Path> for LocalVersion {
    fn from(folder: &Path) -> LocalVersion {
        LocalVersion::in_folder(folder)
    }
}

impl From<&PathBuf> for LocalVersion {
    fn from(folder: &PathBuf) -> LocalVersion {
        LocalVersion::in_folder(folder)
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}
