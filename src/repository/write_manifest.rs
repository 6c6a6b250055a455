//! Writes the manifest of a new version: the digests of the files in its folder, and its origin.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;

use super::files;
use super::manifest::{FilePath, MANIFEST_FILE, Manifest};
use crate::error::{Result, SetupError};
use crate::identity::Sha256;

impl Manifest {
    /// Writes a manifest with these facts for the files in a folder. The version is not tried out.
    pub fn write(facts: Manifest, folder: &Path) -> Result<Manifest, SetupError> {
        let wrong = |path: &Path, error: std::io::Error| SetupError::Repository(format!("{}: {error}", path.display()));
        let mut digests = BTreeMap::<FilePath, Sha256>::new();
        for (name, path) in files::list(folder).map_err(|refusal| SetupError::Repository(refusal.to_string()))? {
            digests.insert(name, files::digest(&path).map_err(|error| wrong(&path, error))?);
        }
        let added_at = Some(facts.added_at.unwrap_or_else(Timestamp::now));
        let manifest = Manifest { added_at, files: digests, ..facts };
        let path = folder.join(MANIFEST_FILE);
        std::fs::write(&path, manifest.to_toml().map_err(SetupError::Repository)?)
            .map_err(|error| wrong(&path, error))?;
        Ok(manifest)
    }

    /// Writes a manifest without facts: for tests, which lay out repositories by hand.
    pub fn write_for(folder: &Path) -> Result<Manifest, SetupError> {
        Manifest::write(Manifest::of(BTreeMap::new()), folder)
    }
}
