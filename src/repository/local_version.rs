//! The files of a version on this machine: in the version's folder of the repository, or as copies in the cache of an
//! object store.

use std::collections::BTreeMap;
use std::fs::File;
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
    /// A locked file, which keeps the files in the cache until it is dropped.
    #[serde(skip)]
    _hold: Option<Arc<File>>,
}

impl LocalVersion {
    /// Returns the version in a folder that has all of its files.
    pub fn in_folder(folder: impl Into<PathBuf>) -> LocalVersion {
        LocalVersion { folder: folder.into(), cache: None, fingerprint: None, _hold: None }
    }

    /// Returns the version whose manifest is in `folder`, and whose other files are in `cache` under their digests.
    pub(super) fn in_cache(folder: PathBuf, cache: PathBuf, fingerprint: Fingerprint, hold: File) -> LocalVersion {
        LocalVersion { folder, cache: Some(cache), fingerprint: Some(fingerprint), _hold: Some(Arc::new(hold)) }
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
