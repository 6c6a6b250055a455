//! Fingerprints of files and folders, which show a change without reading the files.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files::MAX_FILES;

/// Fingerprint of a folder, from metadata only: shows that something was written to the folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint(BTreeMap<PathBuf, [i64; 5]>);

impl Fingerprint {
    /// Returns the fingerprint of the current contents of a folder, without entries that cannot be read.
    pub fn of(folder: &Path) -> Fingerprint {
        let mut seen = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                if seen.len() > MAX_FILES {
                    break;
                }
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
                seen.insert(entry.path(), marks(&metadata));
            }
        }
        Fingerprint(seen)
    }

    /// Returns the fingerprint of objects in an object store, by their names and what a listing shows of them.
    pub(super) fn of_objects(objects: impl Iterator<Item = (PathBuf, [i64; 5])>) -> Fingerprint {
        Fingerprint(objects.collect())
    }

    /// Returns the fingerprint of one file.
    pub fn of_file(file: &Path) -> Fingerprint {
        let metadata = std::fs::metadata(file).ok();
        Fingerprint(metadata.map(|metadata| (file.to_owned(), marks(&metadata))).into_iter().collect())
    }
}

/// Returns metadata that changes when a file is written to, replaced or linked.
fn marks(metadata: &Metadata) -> [i64; 5] {
    let inode = i64::from_ne_bytes(metadata.ino().to_ne_bytes());
    let length = i64::from_ne_bytes(metadata.len().to_ne_bytes());
    [inode, length, metadata.mtime(), metadata.mtime_nsec(), metadata.ctime_nsec() ^ (metadata.ctime() << 30)]
}
