//! The files of a version: lists them, compares their names with the manifest, and hashes them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::Digest;

use super::manifest::{FilePath, MANIFEST_FILE, Manifest};
use super::refusal::Refusal;
use super::regular_file::{check_regular, open};
use super::signature::SIGNATURE_FILE;
use crate::error::LoadFault;
use crate::identity::{Sha256, shown};

/// Maximum number of files of a version.
pub(super) const MAX_FILES: usize = 10_000;

/// Returns the files of a folder except the manifest and its signature, by their path within the folder.
pub fn list(folder: &Path) -> Result<BTreeMap<FilePath, PathBuf>, Refusal> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((at, prefix)) = folders.pop() {
        let unreadable = |error: io::Error| Refusal::of_io(LoadFault::Files, &at.display().to_string(), &error);
        for entry in std::fs::read_dir(&at).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
            let metadata = std::fs::symlink_metadata(&path).map_err(unreadable)?;
            if metadata.is_dir() {
                folders.push((path, format!("{name}/")));
                continue;
            }
            check_regular(&name, &metadata).map_err(|problem| Refusal::new(LoadFault::Files, problem))?;
            if name == MANIFEST_FILE || name == SIGNATURE_FILE {
                continue;
            }
            let name: FilePath = name.parse().map_err(|error| Refusal::new(LoadFault::Files, format!("{error}")))?;
            found.insert(name, path);
            if found.len() > MAX_FILES {
                return Err(Refusal::new(LoadFault::Files, format!("there are more than {MAX_FILES} files")));
            }
        }
    }
    Ok(found)
}

/// Compares the names of the files with those in the manifest.
pub(super) fn compare<T>(found: &BTreeMap<FilePath, T>, manifest: &Manifest) -> Result<(), Refusal> {
    if let Some(missing) = manifest.files.keys().find(|path| !found.contains_key(*path)) {
        let missing = shown(missing.as_str());
        return Err(Refusal::new(LoadFault::Files, format!("{missing} is missing; the manifest has it")));
    }
    if let Some(extra) = found.keys().find(|path| !manifest.files.contains_key(*path)) {
        let extra = shown(extra.as_str());
        let problem = format!("{extra} is not in the manifest; a version never changes: add a new one");
        return Err(Refusal::new(LoadFault::Files, problem));
    }
    Ok(())
}

/// Returns the digest of a file, read in pieces.
pub(super) fn digest(path: &Path) -> io::Result<Sha256> {
    let mut file = open(path)?;
    let mut digest = sha2::Sha256::new();
    let mut chunk = vec![0; 1 << 18];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Sha256::from(<[u8; 32]>::from(digest.finalize()))),
            length => digest.update(&chunk[..length]),
        }
    }
}
