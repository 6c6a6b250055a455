//! Downloads a file into the cache: into a temporary file, hashed while it comes, and continued after a cut. Bytes with another
//! digest are never kept.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use sha2::Digest;

use super::content_cache::{ContentCache, Partial};
use super::objects::Objects;
use super::store_problem::{ProblemKind, StoreProblem};
use crate::error::LoadFault;
use crate::identity::Sha256;
use crate::repository::file_kind::FileKind;
use crate::repository::refusal::Refusal;

/// Number of tries in a row that may bring nothing.
const MAX_FAILURES: u32 = 5;

/// Pause before the second try; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Timeout of a download: this, and the time that the file takes at the slowest useful rate.
const MIN_TIMEOUT: Duration = Duration::from_secs(120);
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;

/// A file of a version in an object store.
#[derive(Debug, Clone)]
pub(super) struct RemoteFile {
    /// Path of the object below the location.
    pub(super) path: String,
    /// Location of the object, for messages.
    pub(super) place: String,
    /// Size according to the listing.
    pub(super) size: u64,
    /// Digest according to the manifest.
    pub(super) digest: Sha256,
}

/// Source of a file that is in the cache now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fetched {
    /// It was in the cache.
    Cached,
    /// It was downloaded.
    Downloaded,
}

/// Brings a file into the cache, if it is not there. Only one thread downloads it; the others wait.
pub(super) fn fetch(objects: &Objects, cache: &ContentCache, file: &RemoteFile) -> Result<Fetched, Refusal> {
    if cache.has(file.digest) {
        return Ok(Fetched::Cached);
    }
    let unwritable = |error: io::Error| transient(format!("{}: {error}", cache.folder().display()));
    let mut partial = cache.partial(file.digest).map_err(unwritable)?;
    if cache.size_of(file.digest).is_some() {
        // Another thread has just downloaded and hashed it.
        partial.discard();
        return Ok(Fetched::Cached);
    }
    let _reservation = cache.reserve(file.size).map_err(transient)?;
    let begin = Instant::now();
    let mut hashed = Hashed::of_start(&mut partial, file.size).map_err(unwritable)?;
    let resumed = hashed.length;
    let mut found = receive(objects, file, &mut partial, &mut hashed, begin)?;
    if found != file.digest && resumed > 0 {
        // The part from an earlier download may have been of another file.
        hashed = Hashed::nothing(&mut partial).map_err(unwritable)?;
        found = receive(objects, file, &mut partial, &mut hashed, begin)?;
    }
    if found != file.digest {
        let refusal = wrong_bytes(file, found, FileKind::of_file(partial.path()).ok().flatten());
        partial.discard();
        return Err(refusal);
    }
    cache.keep(&partial, file.digest).map_err(unwritable)?;
    tracing::info!(
        file = file.place,
        bytes = file.size,
        resumed_at = resumed,
        took_ms = begin.elapsed().as_millis() as u64,
        "downloaded"
    );
    Ok(Fetched::Downloaded)
}

/// Compares the bytes of an object with its digest, and keeps nothing.
pub(super) fn verify(objects: &Objects, file: &RemoteFile) -> Result<(), Refusal> {
    let unreadable = |problem: StoreProblem| unreachable(file, &problem);
    let mut body = objects.open(&file.path, 0).map_err(unreadable)?;
    let (mut digest, mut start) = (sha2::Sha256::new(), Vec::new());
    while let Some(bytes) = body.next().map_err(unreadable)? {
        digest.update(&bytes);
        if start.len() < crate::repository::START_BYTES {
            start.extend_from_slice(&bytes);
        }
    }
    match Sha256::from(<[u8; 32]>::from(digest.finalize())) {
        found if found == file.digest => Ok(()),
        found => Err(wrong_bytes(file, found, FileKind::of(&start))),
    }
}

/// Receives the rest of a file, with further tries after a cut. Returns the digest of the whole file.
fn receive(
    objects: &Objects,
    file: &RemoteFile,
    partial: &mut Partial,
    hashed: &mut Hashed,
    begin: Instant,
) -> Result<Sha256, Refusal> {
    let limit = MIN_TIMEOUT + Duration::from_secs(file.size / SLOWEST_BYTES_PER_SECOND);
    let mut failures = 0;
    while hashed.length < file.size {
        let before = hashed.length;
        let problem = match receive_once(objects, file, partial, hashed) {
            Ok(()) => continue,
            Err(Interruption::Disk(error)) => return Err(transient(format!("{}: {error}", partial.path().display()))),
            Err(Interruption::Store(problem)) => problem,
        };
        if problem.kind == ProblemKind::Missing {
            return Err(Refusal::new(LoadFault::Files, format!("{}: {problem}; the listing had it", file.place)));
        }
        if problem.kind == ProblemKind::NoRanges && before > 0 {
            let emptied = Hashed::nothing(partial);
            *hashed = emptied.map_err(|error| transient(format!("{}: {error}", partial.path().display())))?;
        }
        failures = if hashed.length > before { 1 } else { failures + 1 };
        if failures >= MAX_FAILURES || begin.elapsed() > limit {
            return Err(unreachable(file, &problem));
        }
        tracing::warn!(
            file = file.place, %problem, received_bytes = hashed.length, bytes = file.size,
            "a download was cut off; it is continued"
        );
        std::thread::sleep(FIRST_PAUSE * 2_u32.pow(failures - 1));
    }
    Ok(hashed.digest())
}

/// Reason for which a download did not come to its end.
enum Interruption {
    Store(StoreProblem),
    Disk(io::Error),
}

fn receive_once(
    objects: &Objects,
    file: &RemoteFile,
    partial: &mut Partial,
    hashed: &mut Hashed,
) -> Result<(), Interruption> {
    let mut body = objects.open(&file.path, hashed.length).map_err(Interruption::Store)?;
    while let Some(bytes) = body.next().map_err(Interruption::Store)? {
        if hashed.length + bytes.len() as u64 > file.size {
            let problem = format!("it is larger than the {} bytes of the listing", file.size);
            return Err(Interruption::Store(StoreProblem::new(problem)));
        }
        partial.file.write_all(&bytes).map_err(Interruption::Disk)?;
        hashed.add(&bytes);
    }
    match hashed.length < file.size {
        true => Err(Interruption::Store(StoreProblem::new("the connection ended before the file"))),
        false => Ok(()),
    }
}

/// Digest of the part of a file that was received.
struct Hashed {
    digest: sha2::Sha256,
    length: u64,
}

impl Hashed {
    /// Hashes the part of a file that an earlier download has left, and moves to its end.
    fn of_start(partial: &mut Partial, size: u64) -> io::Result<Hashed> {
        let mut hashed = Hashed { digest: sha2::Sha256::new(), length: 0 };
        if partial.file.metadata()?.len() > size {
            return Hashed::nothing(partial);
        }
        partial.file.seek(SeekFrom::Start(0))?;
        let mut chunk = vec![0; 1 << 18];
        loop {
            match partial.file.read(&mut chunk)? {
                0 => return Ok(hashed),
                length => hashed.add(&chunk[..length]),
            }
        }
    }

    /// Empties the file.
    fn nothing(partial: &mut Partial) -> io::Result<Hashed> {
        partial.file.set_len(0)?;
        partial.file.seek(SeekFrom::Start(0))?;
        Ok(Hashed { digest: sha2::Sha256::new(), length: 0 })
    }

    fn add(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
    }

    fn digest(&self) -> Sha256 {
        Sha256::from(<[u8; 32]>::from(self.digest.clone().finalize()))
    }
}

fn transient(problem: String) -> Refusal {
    Refusal::new(LoadFault::Resources, problem)
}

fn unreachable(file: &RemoteFile, problem: &StoreProblem) -> Refusal {
    transient(format!("{} could not be downloaded: {problem}", file.place))
}

/// Returns the refusal of bytes that are not those of the manifest.
fn wrong_bytes(file: &RemoteFile, found: Sha256, kind: Option<FileKind>) -> Refusal {
    let because = kind.and_then(FileKind::problem_as_any_file).map_or(String::new(), |problem| format!(" ({problem})"));
    Refusal::new(
        LoadFault::Digest,
        format!(
            "{} is not the file that was added: its SHA-256 is {found}, and the manifest has {}{because}; put the right file \
             there again, or add a new version",
            file.place, file.digest
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::repository::remote::objects::Directory;

    /// An object store with one file, and an empty cache.
    struct Stage {
        objects: Objects,
        cache: ContentCache,
        _folder: tempfile::TempDir,
    }

    fn stage(content: &[u8]) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        std::fs::write(&source, content).unwrap();
        let objects = Objects::new(Arc::new(InMemory::new()), "models", Directory::Api).unwrap();
        objects.write("a/1/model.onnx", &source).unwrap();
        let cache = ContentCache::open(Some(folder.path().join("cache")), 1 << 20).unwrap();
        Stage { objects, cache, _folder: folder }
    }

    fn file(content: &[u8], size: usize) -> RemoteFile {
        let (path, place) = ("a/1/model.onnx".to_owned(), "s3://bucket/models/a/1/model.onnx".to_owned());
        RemoteFile { path, place, size: size as u64, digest: Sha256::of(content) }
    }

    #[test]
    fn a_file_is_downloaded_once() {
        let stage = stage(b"content");
        let file = file(b"content", 7);
        assert_eq!(fetch(&stage.objects, &stage.cache, &file), Ok(Fetched::Downloaded));
        stage.objects.remove(&file.path).unwrap();
        assert_eq!(fetch(&stage.objects, &stage.cache, &file), Ok(Fetched::Cached));
    }

    #[test]
    fn several_threads_download_a_file_once() {
        let stage = stage(b"content");
        let file = file(b"content", 7);
        let fetched = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| fetch(&stage.objects, &stage.cache, &file).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(fetched.iter().filter(|fetched| **fetched == Fetched::Downloaded).count(), 1);
    }

    #[test]
    fn a_download_continues_an_earlier_one() {
        for (left, expected) in [(&b"cont"[..], 4), (b"CONT", 0), (b"too long for it", 0), (b"content", 7)] {
            let stage = stage(b"content");
            let file = file(b"content", 7);
            let mut partial = stage.cache.partial(file.digest).unwrap();
            partial.file.write_all(left).unwrap();
            drop(partial);
            let mut again = stage.cache.partial(file.digest).unwrap();
            let kept = Hashed::of_start(&mut again, 7).unwrap();
            // Other bytes are noticed by the digest of the whole.
            assert!(kept.length == expected || left == b"CONT");
            drop(again);
            assert_eq!(fetch(&stage.objects, &stage.cache, &file), Ok(Fetched::Downloaded));
        }
    }

    #[test]
    fn wrong_bytes_are_never_kept() {
        let stage = stage(b"c0ntent");
        let file = file(b"content", 7);
        let refusal = fetch(&stage.objects, &stage.cache, &file).unwrap_err();
        let (found, expected) = (Sha256::of(b"c0ntent"), file.digest);
        assert_eq!(refusal.fault, LoadFault::Digest);
        assert_eq!(
            refusal.message,
            format!(
                "s3://bucket/models/a/1/model.onnx is not the file that was added: its SHA-256 is {found}, and the manifest \
                 has {expected}; put the right file there again, or add a new version"
            )
        );
        assert_eq!(stage.cache.size_of(expected), None);
        assert_eq!(std::fs::read_dir(stage.cache.folder().join("partial")).unwrap().count(), 0);
        assert_eq!(verify(&stage.objects, &file), Err(refusal));
    }

    #[test]
    fn a_file_that_is_gone_is_not_tried_again() {
        let stage = stage(b"content");
        let file = file(b"content", 7);
        stage.objects.remove(&file.path).unwrap();
        assert_eq!(fetch(&stage.objects, &stage.cache, &file).unwrap_err().fault, LoadFault::Files);
    }
}
