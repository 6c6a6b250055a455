//! Copies of files from an object store on this machine, found by their SHA-256: a file that several versions have is kept
//! once, and a restart downloads nothing again.
//!
//! - `files/<digest>` are the files. A file gets this name only after its bytes were hashed.
//! - `partial/<digest>` are files that are being downloaded. The one who downloads has it locked.
//! - `versions/<digest of the manifest>/version.toml` are the manifests of versions. Whoever uses a version has its manifest
//!   locked, so that no process with this folder removes its files. A lock ends with its process.
//!
//! Files that no version in use needs are removed if room is needed, those first that were not used for the longest time.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::identity::Sha256;
use crate::machine;
use crate::repository::files;
use crate::repository::manifest::{MANIFEST_FILE, Manifest};
use crate::repository::private_folder::{make_private_folder, touch};
use crate::repository::signature::SIGNATURE_FILE;

const FILES: &str = "files";
const PARTIAL: &str = "partial";
const VERSIONS: &str = "versions";

/// File that is locked while the cache removes files.
const LOCK: &str = "lock";

/// Disk that is left to others, in bytes.
const FREE_DISK: u64 = 64 << 20;

/// A folder with copies of files.
#[derive(Debug)]
pub(super) struct ContentCache {
    folder: PathBuf,
    max_bytes: u64,
    /// Bytes that the downloads of this process will add.
    reserved: Mutex<u64>,
    _temporary: Option<tempfile::TempDir>,
}

/// Room for a file that is being downloaded.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    cache: &'a ContentCache,
    bytes: u64,
}

/// A file that is being downloaded, locked.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) file: File,
    path: PathBuf,
}

/// A file of the cache that no one needs now.
struct Removable {
    path: PathBuf,
    size: u64,
    used: SystemTime,
}

impl ContentCache {
    /// Opens the cache in a folder, or in a temporary folder that is removed at the end.
    pub(super) fn open(folder: Option<PathBuf>, max_bytes: u64) -> io::Result<ContentCache> {
        let (folder, temporary) = match folder {
            Some(folder) => (folder, None),
            None => {
                let temporary = tempfile::Builder::new().prefix("leeway-repository-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        fs::create_dir_all(folder.parent().unwrap_or(Path::new("")))?;
        for part in [&folder, &folder.join(FILES), &folder.join(PARTIAL), &folder.join(VERSIONS)] {
            make_private_folder(part)?;
        }
        // Trials run in other processes, which may have another current folder.
        let folder = folder.canonicalize()?;
        Ok(ContentCache { folder, max_bytes, reserved: Mutex::default(), _temporary: temporary })
    }

    /// Returns the folder of the cache.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the folder of the files.
    pub(super) fn files(&self) -> PathBuf {
        self.folder.join(FILES)
    }

    fn file(&self, digest: Sha256) -> PathBuf {
        self.folder.join(FILES).join(digest.to_string())
    }

    /// Returns the size of a file; `None` if it is not in the cache.
    pub(super) fn size_of(&self, digest: Sha256) -> Option<u64> {
        fs::metadata(self.file(digest)).ok().map(|metadata| metadata.len())
    }

    /// Returns true if the cache has a file, with the right bytes. Removes it if it has other bytes: the disk is at fault.
    pub(super) fn has(&self, digest: Sha256) -> bool {
        let path = self.file(digest);
        match files::digest(&path) {
            Ok(found) if found == digest => {
                touch(&path);
                true
            }
            Ok(_) => {
                tracing::warn!(file = %path.display(), "a file in the cache of the repository is damaged; it is downloaded again");
                // It may have been removed already.
                let _ = fs::remove_file(&path);
                false
            }
            Err(_) => false,
        }
    }

    /// Keeps the files of the version with this manifest in the cache until the returned file is dropped. Returns the folder of
    /// the manifest and its signature, too.
    pub(super) fn hold(&self, manifest: &[u8], signature: Option<&[u8]>) -> io::Result<(PathBuf, File)> {
        let _lock = self.lock()?;
        let folder = self.folder.join(VERSIONS).join(Sha256::of(manifest).to_string());
        let path = folder.join(MANIFEST_FILE);
        make_private_folder(&folder)?;
        self.write_text(&path, manifest)?;
        let signed = folder.join(SIGNATURE_FILE);
        match signature {
            Some(signature) => self.write_text(&signed, signature)?,
            None if signed.exists() => fs::remove_file(&signed)?,
            None => {}
        }
        let held = File::open(&path)?;
        held.lock_shared()?;
        Ok((folder, held))
    }

    /// Writes a small file, as a whole, if it has another content.
    fn write_text(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        if fs::read(path).ok().as_deref() == Some(text) {
            return Ok(());
        }
        let file = tempfile::NamedTempFile::new_in(&self.folder)?;
        fs::write(file.path(), text)?;
        file.persist(path).map(drop).map_err(|error| error.error)
    }

    /// Opens the file that a download is written to, and locks it. Waits for another download of the same file.
    pub(super) fn partial(&self, digest: Sha256) -> io::Result<Partial> {
        let path = self.folder.join(PARTIAL).join(digest.to_string());
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
            file.lock()?;
            // The one who had the lock may have renamed or removed the file meanwhile.
            let is_same =
                fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino()));
            if is_same {
                return Ok(Partial { file, path });
            }
        }
    }

    /// Makes a downloaded file, whose bytes were hashed, a file of the cache.
    pub(super) fn keep(&self, partial: &Partial, digest: Sha256) -> io::Result<()> {
        partial.file.sync_all()?;
        fs::rename(&partial.path, self.file(digest))
    }

    /// Makes room for a file that is about to be downloaded. The error says how much there is.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation<'_>, String> {
        self.make_room(bytes)?;
        *self.reserved.lock() += bytes;
        Ok(Reservation { cache: self, bytes })
    }

    /// Makes room for this many bytes.
    pub(super) fn make_room(&self, bytes: u64) -> Result<(), String> {
        let failed = |error: io::Error| format!("{}: {error}", self.folder.display());
        let _lock = self.lock().map_err(failed)?;
        let reserved = *self.reserved.lock();
        let (mut total, mut removable) = self.contents().map_err(failed)?;
        removable.sort_by_key(|file| file.used);
        let mut oldest = removable.into_iter();
        while total.saturating_add(reserved).saturating_add(bytes) > self.max_bytes {
            let Some(file) = oldest.next() else {
                return Err(format!(
                    "{} MiB are needed in {}, and of the {} MiB that it may have (repository.cache_mb), {} MiB are in use",
                    bytes.div_ceil(1 << 20),
                    self.folder.display(),
                    self.max_bytes >> 20,
                    (total + reserved).div_ceil(1 << 20)
                ));
            };
            fs::remove_file(&file.path).map_err(failed)?;
            total -= file.size;
            tracing::info!(file = %file.path.display(), bytes = file.size, "removed a copy that no loaded version needs");
        }
        let free = machine::free_disk(&self.folder).unwrap_or(u64::MAX);
        if free < bytes.saturating_add(FREE_DISK) {
            let (needed, folder) = (bytes.div_ceil(1 << 20), self.folder.display());
            return Err(format!(
                "{needed} MiB are needed in {folder} (repository.cache), and the disk has {} MiB",
                free >> 20
            ));
        }
        Ok(())
    }

    /// Returns the size of all files together, without those that are being downloaded, and the files that may be removed.
    /// Removes the manifests of versions that are not in use and have lost a file.
    fn contents(&self) -> io::Result<(u64, Vec<Removable>)> {
        let mut in_use = BTreeSet::new();
        for entry in fs::read_dir(self.folder.join(VERSIONS))? {
            let folder = entry?.path();
            let Ok(manifest) = File::open(folder.join(MANIFEST_FILE)) else { continue };
            // Without locks, everything counts as in use.
            let is_used = manifest.try_lock().is_err();
            let read = fs::read(folder.join(MANIFEST_FILE)).ok();
            let digests = read.and_then(|text| Manifest::parse(&text).ok()).map(|manifest| manifest.files);
            let digests: Vec<Sha256> = digests.into_iter().flat_map(|files| files.into_values()).collect();
            if is_used {
                in_use.extend(digests);
            } else if digests.iter().any(|digest| self.size_of(*digest).is_none()) {
                fs::remove_dir_all(&folder)?;
            }
        }
        let (mut total, mut removable) = (0, Vec::new());
        for entry in fs::read_dir(self.files())? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            total += metadata.len();
            let digest = entry.file_name().to_string_lossy().parse::<Sha256>();
            if !digest.is_ok_and(|digest| in_use.contains(&digest)) {
                removable.push(Removable { path: entry.path(), size: metadata.len(), used: metadata.modified()? });
            }
        }
        for entry in fs::read_dir(self.folder.join(PARTIAL))? {
            let path = entry?.path();
            let Ok(file) = File::open(&path) else { continue };
            if let Err(TryLockError::WouldBlock) = file.try_lock() {
                continue;
            }
            let size = file.metadata()?.len();
            total += size;
            removable.push(Removable { path, size, used: SystemTime::UNIX_EPOCH });
        }
        Ok((total, removable))
    }

    /// Waits until no other process or thread removes files or begins to use a version.
    fn lock(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(self.folder.join(LOCK))?;
        lock.lock()?;
        Ok(lock)
    }
}

impl Partial {
    /// Removes the file.
    pub(super) fn discard(self) {
        // It may have been removed already.
        let _ = fs::remove_file(&self.path);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        *self.cache.reserved.lock() -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use super::*;

    fn put(cache: &ContentCache, content: &[u8]) -> Sha256 {
        let digest = Sha256::of(content);
        let mut partial = cache.partial(digest).unwrap();
        partial.file.write_all(content).unwrap();
        cache.keep(&partial, digest).unwrap();
        digest
    }

    fn manifest(digest: Sha256) -> Vec<u8> {
        let files = BTreeMap::from([("model.onnx".parse().unwrap(), digest)]);
        Manifest::of(files).to_toml().unwrap().into_bytes()
    }

    #[test]
    fn what_is_in_use_is_kept_and_the_oldest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ContentCache::open(Some(folder.path().join("cache")), 300).unwrap();
        let [used, old, new] = [b'a', b'b', b'c'].map(|byte| put(&cache, &[byte; 100]));
        for (digest, seconds) in [(used, 1), (old, 2), (new, 3)] {
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            File::open(cache.file(digest)).unwrap().set_modified(at).unwrap();
        }
        let (_, hold) = cache.hold(&manifest(used), None).unwrap();
        cache.make_room(50).unwrap();
        assert_eq!([used, old, new].map(|digest| cache.size_of(digest)), [Some(100), None, Some(100)]);
        let reservation = cache.reserve(150).unwrap();
        assert_eq!([used, new].map(|digest| cache.size_of(digest)), [Some(100), None]);
        let problem = cache.make_room(100).unwrap_err();
        assert!(problem.contains("repository.cache_mb"), "{problem}");
        drop(reservation);
        assert!(cache.make_room(201).is_err());
        drop(hold);
        cache.make_room(201).unwrap();
        assert!(!cache.has(used));
    }

    #[test]
    fn a_damaged_file_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ContentCache::open(Some(folder.path().join("cache")), 300).unwrap();
        let digest = put(&cache, b"right");
        assert!(cache.has(digest));
        fs::write(cache.file(digest), b"wrong").unwrap();
        assert!(!cache.has(digest));
        assert_eq!(cache.size_of(digest), None);
    }

    #[test]
    fn one_download_of_a_file_waits_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ContentCache::open(Some(folder.path().join("cache")), 300).unwrap();
        let digest = Sha256::of(b"once");
        let first = cache.partial(digest).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let partial = cache.partial(digest).unwrap();
                let had = cache.has(digest);
                partial.discard();
                had
            });
            (&first.file).write_all(b"once").unwrap();
            cache.keep(&first, digest).unwrap();
            drop(first);
            assert!(second.join().unwrap());
        });
        assert!(cache.has(digest));
    }
}
