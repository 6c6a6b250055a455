//! Objects below a location: lists, reads and writes them, for threads that may wait. All waits are limited.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io::Read;
use std::path::Path as FilePath;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::own_runtime::OwnRuntime;
use super::store_problem::{ProblemKind, StoreProblem};
use super::web_index;
use crate::error::{Result, SetupError};

/// Timeout of a listing, and of reading or writing a small object.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
const SMALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout of writing one part of an object.
const PART_TIMEOUT: Duration = Duration::from_secs(120);

/// Maximum number of listed objects. More are a sign of a wrong prefix.
const MAX_OBJECTS: usize = 200_000;

/// Number of small objects that are read at one time.
const READS_AT_ONE_TIME: usize = 32;

/// Size of the parts of a large object that is written, in bytes. A store takes at most 10,000 parts.
const PART_BYTES: usize = 32 << 20;

/// Maximum size of an index of a web server, in bytes.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Objects below a location.
#[derive(Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    /// The path above all objects, without slashes at its ends; may be empty.
    prefix: String,
    directory: Directory,
    runtime: OwnRuntime,
}

/// Source of the list of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Directory {
    /// A request of the store's API.
    Api,
    /// A file beside the objects.
    IndexFile,
}

/// An object, as a listing shows it. An object that has changed has another mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectMark {
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) e_tag: Option<String>,
    /// Time of the last change, in milliseconds since 1970.
    #[serde(default)]
    pub(super) modified_ms: i64,
}

/// The bytes of an object, from an offset on.
pub(super) struct Body<'a> {
    runtime: &'a OwnRuntime,
    stream: Pin<Box<dyn Stream<Item = object_store::Result<Bytes>> + Send>>,
}

impl Objects {
    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: &str, directory: Directory) -> Result<Objects, SetupError> {
        Ok(Objects { store, prefix: prefix.to_owned(), directory, runtime: OwnRuntime::start()? })
    }

    /// Returns true if objects can only be read.
    pub(super) fn is_read_only(&self) -> bool {
        self.directory == Directory::IndexFile
    }

    /// Lists all objects, by their paths below the location.
    pub(super) fn list(&self) -> Result<BTreeMap<String, ObjectMark>, StoreProblem> {
        match self.directory {
            Directory::Api => self.list_below(""),
            Directory::IndexFile => {
                let text = self.read(web_index::INDEX_FILE, MAX_INDEX_BYTES)?;
                let listed = web_index::parse(&text).map_err(|problem| {
                    StoreProblem::new(format!("{}: {problem}; `leeway index` writes it", web_index::INDEX_FILE))
                })?;
                let mark = |size, sha256: String| ObjectMark { size, e_tag: Some(sha256), modified_ms: 0 };
                Ok(listed.map(|(path, size, sha256)| (path, mark(size, sha256))).collect())
            }
        }
    }

    /// Lists the objects below a path of the location, by the API of the store.
    pub(super) fn list_below(&self, below: &str) -> Result<BTreeMap<String, ObjectMark>, StoreProblem> {
        let whole = self.path(below)?;
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let listing = async {
            let mut stream = self.store.list(Some(&whole).filter(|path| !path.as_ref().is_empty()));
            let mut found = BTreeMap::new();
            while let Some(object) = next(&mut stream).await.transpose()? {
                let Some(path) = object.location.as_ref().strip_prefix(&prefix) else { continue };
                let mark = ObjectMark {
                    size: object.size,
                    e_tag: object.e_tag,
                    modified_ms: object.last_modified.timestamp_millis(),
                };
                found.insert(path.to_owned(), mark);
                if found.len() > MAX_OBJECTS {
                    break;
                }
            }
            Ok(found)
        };
        let found = self.run(LIST_TIMEOUT, listing)?;
        match found.len() > MAX_OBJECTS {
            true => Err(StoreProblem::new(format!("there are more than {MAX_OBJECTS} objects; name a longer prefix"))),
            false => Ok(found),
        }
    }

    /// Reads a small object.
    pub(super) fn read(&self, path: &str, limit: u64) -> Result<Bytes, StoreProblem> {
        let place = self.path(path)?;
        self.runtime.block_on(read(Arc::clone(&self.store), place, limit))
    }

    /// Reads several small objects, some of them at the same time. If the store fails, the rest is not tried, and has the same
    /// problem.
    pub(super) fn read_all(&self, paths: Vec<String>, limit: u64) -> Vec<(String, Result<Bytes, StoreProblem>)> {
        let mut waiting = paths.into_iter();
        let mut finished = Vec::new();
        let failed = self.runtime.block_on(async {
            let (mut reading, mut failed) = (JoinSet::new(), None);
            loop {
                let room = if failed.is_none() { READS_AT_ONE_TIME.saturating_sub(reading.len()) } else { 0 };
                for path in waiting.by_ref().take(room) {
                    let (store, place) = (Arc::clone(&self.store), self.path(&path));
                    reading.spawn(async move {
                        let text = match place {
                            Ok(place) => read(store, place, limit).await,
                            Err(problem) => Err(problem),
                        };
                        (path, text)
                    });
                }
                match reading.join_next().await {
                    Some(Ok((path, text))) => {
                        failed = failed.or(text.as_ref().err().filter(|problem| problem.is_of_store()).cloned());
                        finished.push((path, text));
                    }
                    Some(Err(error)) => tracing::error!(%error, "an object could not be read"),
                    None => return failed,
                }
            }
        });
        if let Some(problem) = failed {
            finished.extend(waiting.map(|path| (path, Err(problem.clone()))));
        }
        finished
    }

    /// Opens an object, from this offset on.
    pub(super) fn open(&self, path: &str, from: u64) -> Result<Body<'_>, StoreProblem> {
        let place = self.path(path)?;
        let range = (from > 0).then_some(GetRange::Offset(from));
        let options = GetOptions { range, ..GetOptions::default() };
        let opened = self.run(SMALL_TIMEOUT, self.store.get_opts(&place, options))?;
        if opened.range.start != from {
            let problem = format!("the answer begins at byte {} instead of {from}", opened.range.start);
            return Err(StoreProblem::without_ranges(problem));
        }
        Ok(Body { runtime: &self.runtime, stream: opened.into_stream() })
    }

    /// Creates a small object. A problem of the kind [`ProblemKind::Exists`] means that another writer was first.
    pub(super) fn create(&self, path: &str, content: &[u8]) -> Result<(), StoreProblem> {
        let place = self.path(path)?;
        let payload = PutPayload::from(content.to_vec());
        let created = self.run(SMALL_TIMEOUT, self.store.put_opts(&place, payload, PutMode::Create.into()));
        match created {
            Err(problem) if problem.kind == ProblemKind::Exists => {
                // The answer to the first of several tries may have been lost, so that this writer was first.
                let found = self.read(path, content.len() as u64);
                if found.is_ok_and(|found| found == content) { Ok(()) } else { Err(problem) }
            }
            created => created.map(|_| ()),
        }
    }

    /// Writes a file as an object, a large one in parts.
    pub(super) fn write(&self, path: &str, file: &FilePath) -> Result<(), StoreProblem> {
        let place = self.path(path)?;
        let unreadable = |error: std::io::Error| StoreProblem::new(format!("{}: {error}", file.display()));
        let mut source = std::fs::File::open(file).map_err(unreadable)?;
        let mut part = || {
            let mut bytes = Vec::new();
            (&mut source).take(PART_BYTES as u64).read_to_end(&mut bytes).map(|_| bytes).map_err(unreadable)
        };
        let first = part()?;
        if first.len() < PART_BYTES {
            return self.run(PART_TIMEOUT, self.store.put(&place, first.into())).map(|_| ());
        }
        let mut upload = self.run(SMALL_TIMEOUT, self.store.put_multipart(&place))?;
        let mut bytes = first;
        let parts = loop {
            if bytes.is_empty() {
                break Ok(());
            }
            if let Err(problem) = self.run(PART_TIMEOUT, upload.put_part(bytes.into())) {
                break Err(problem);
            }
            bytes = match part() {
                Ok(bytes) => bytes,
                Err(problem) => break Err(problem),
            };
        };
        let written = parts.and_then(|()| self.run(PART_TIMEOUT, upload.complete()));
        if written.is_err() {
            // The parts would be stored for ever. A failure changes nothing else.
            let _ = self.run(SMALL_TIMEOUT, upload.abort());
        }
        written.map(|_| ())
    }

    /// Removes an object.
    pub(super) fn remove(&self, path: &str) -> Result<(), StoreProblem> {
        let place = self.path(path)?;
        self.run(SMALL_TIMEOUT, self.store.delete(&place))
    }

    /// Returns the path of an object in the store.
    fn path(&self, below: &str) -> Result<Path, StoreProblem> {
        let whole = match (&*self.prefix, below) {
            ("", below) => below.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, below) => format!("{prefix}/{below}"),
        };
        Path::parse(&whole).map_err(|error| StoreProblem::new(error.to_string()))
    }

    /// Waits for an operation, at most this long.
    fn run<T: Send>(
        &self,
        limit: Duration,
        operation: impl Future<Output = object_store::Result<T>> + Send,
    ) -> Result<T, StoreProblem> {
        let limited = async { timeout(limit, operation).await };
        within(limit, self.runtime.block_on(limited))
    }
}

impl Body<'_> {
    /// Returns the next bytes; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, StoreProblem> {
        let limited = async {
            timeout(SMALL_TIMEOUT, next(&mut self.stream)).await.map_or_else(Err, |bytes| Ok(bytes.transpose()))
        };
        within(SMALL_TIMEOUT, self.runtime.block_on(limited))
    }
}

impl ObjectMark {
    /// Returns the mark as numbers, for a fingerprint.
    pub(super) fn numbers(&self) -> [i64; 5] {
        use sha2::Digest;
        let tag = sha2::Sha256::digest(self.e_tag.as_deref().unwrap_or_default());
        let number = |at: usize| tag[at..at + 8].iter().fold(0, |sum: i64, byte| (sum << 8) | i64::from(*byte));
        [i64::try_from(self.size).unwrap_or(i64::MAX), self.modified_ms, number(0), number(8), number(16)]
    }
}

/// Reads a small object.
async fn read(store: Arc<dyn ObjectStore>, place: Path, limit: u64) -> Result<Bytes, StoreProblem> {
    let reading = async {
        let found = store.get(&place).await?;
        let size = found.meta.size;
        if size > limit { Ok(Err(size)) } else { found.bytes().await.map(Ok) }
    };
    let read = within(SMALL_TIMEOUT, timeout(SMALL_TIMEOUT, reading).await)?;
    read.map_err(|size| StoreProblem::too_large(format!("{place} has {size} bytes; at most {limit} are read")))
}

fn within<T>(
    limit: Duration,
    result: Result<object_store::Result<T>, tokio::time::error::Elapsed>,
) -> Result<T, StoreProblem> {
    match result {
        Ok(result) => result.map_err(|error| StoreProblem::of(&error)),
        Err(_) => Err(StoreProblem::new(format!("no answer within {} seconds", limit.as_secs()))),
    }
}

async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> Option<T> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}
