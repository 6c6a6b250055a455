//! What loads have found out and made, kept on disk beside the state, so that a restart is quick: the findings of trials, and
//! the graphs of large models after ONNX Runtime has optimised them, with weights that it has packed for this processor.
//!
//! Everything is found by a key: a digest of all that the entry depends on. So an entry is never out of date. A graph is
//! verified by its digest whenever it is opened; one that does not match is thrown away, and made again by the next trial.
//! ONNX Runtime maps the weights of a graph into memory, so that all sessions on one graph share them, also those of
//! different versions with the same weights.
//!
//! Every operation may fail without harm: the load then does what it would do without a cache. So problems are logged, and
//! not returned.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::findings::Findings;
use super::load_order::LoadOrder;
use crate::config::available_cores;
use crate::identity::Sha256;
use crate::machine;
use crate::model::{OptimisedGraph, RuntimeLibraries};
use crate::repository::{FoundVersion, digest_of_file};

/// Minimum size of a model whose graph is kept, in bytes. Smaller models are optimised in less time than their graph is
/// verified.
pub(super) const MIN_MODEL: u64 = 16 << 20;

/// Folder of the findings of trials.
const TRIALS: &str = "trials";

/// Folder of the graphs.
const GRAPHS: &str = "graphs";

/// Prefix of the folders of graphs that are being made.
const MAKING: &str = ".making-";

/// Age after which a folder of a graph that is being made is abandoned: its server has ended meanwhile.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// File with the digests of a graph's files.
const DIGESTS: &str = "digests.json";

/// Maximum number of kept findings.
const MAX_TRIALS: usize = 1000;

/// A folder with the findings of trials and the graphs of models.
#[derive(Debug)]
pub struct LoadCache {
    folder: PathBuf,
    /// Maximum size of all graphs together, in bytes.
    max_bytes: u64,
    /// Description of everything that all entries depend on: this program, the libraries and the processor.
    maker: String,
}

/// Key of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(Sha256);

/// A kept graph.
#[derive(Debug)]
pub(super) struct KeptGraph {
    pub(super) graph: OptimisedGraph,
    /// The digests of its files; `None` if this process has just made them.
    digests: Option<Digests>,
    key: Key,
}

/// A folder for a graph that is being made; removed when it is dropped.
#[derive(Debug)]
pub(super) struct GraphStaging(tempfile::TempDir);

impl GraphStaging {
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The digests of a graph's files, by their names.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Digests {
    files: std::collections::BTreeMap<String, Sha256>,
}

impl LoadCache {
    /// Opens the cache in this folder. `None` if the folder cannot be used, or if this machine cannot be described.
    pub fn open(folder: &Path, max_bytes: u64, libraries: &RuntimeLibraries, program: &Path) -> Option<LoadCache> {
        let opened = Self::try_open(folder, max_bytes, libraries, program);
        let problem = |error: &io::Error| {
            tracing::warn!(
                folder = %folder.display(), problem = %error,
                "loads are not remembered, so that each start tries all versions out again (loading.cache)"
            );
        };
        opened.inspect_err(problem).ok().flatten()
    }

    fn try_open(
        folder: &Path,
        max_bytes: u64,
        libraries: &RuntimeLibraries,
        program: &Path,
    ) -> io::Result<Option<LoadCache>> {
        let Some(processor) = machine::processor() else { return Ok(None) };
        for part in [TRIALS, GRAPHS] {
            make_private_folder(&folder.join(part))?;
        }
        remove_abandoned(&folder.join(GRAPHS))?;
        let operators: Vec<Sha256> = libraries.operator_digests();
        let maker = format!(
            "{} {} {operators:?} {} {processor}",
            stamp(program)?,
            stamp(&libraries.onnxruntime)?,
            available_cores()
        );
        // ONNX Runtime needs absolute paths.
        Ok(Some(LoadCache { folder: folder.canonicalize()?, max_bytes, maker }))
    }

    // ===== findings =====

    /// Returns the key of the trial of a version, which depends on the settings and on all files of the version.
    pub(super) fn key_of_trial(&self, order: &LoadOrder, found: &FoundVersion, limits: &str) -> Option<Key> {
        let config = serde_json::to_string(&*order.config).ok()?;
        let memory = machine::memory_limit().unwrap_or_default();
        let parts =
            ["trial", &self.maker, &found.manifest().identity().to_string(), &config, limits, &memory.to_string()];
        Some(Key::of(&parts))
    }

    /// Returns the findings of an earlier trial.
    pub(super) fn findings(&self, key: Key) -> Option<Findings> {
        let path = self.trial_path(key);
        let text = fs::read(&path).ok()?;
        touch(&path);
        serde_json::from_slice(&text).ok()
    }

    /// Keeps the findings of a trial.
    pub(super) fn keep_findings(&self, key: Key, findings: &Findings) {
        let kept = serde_json::to_vec(findings).map_err(io::Error::from).and_then(|text| {
            let file = tempfile::NamedTempFile::new_in(self.folder.join(TRIALS))?;
            fs::write(file.path(), text)?;
            file.persist(self.trial_path(key)).map_err(|error| error.error)?;
            let oldest_first = entries(&self.folder.join(TRIALS))?;
            let surplus = oldest_first.len().saturating_sub(MAX_TRIALS);
            oldest_first.iter().take(surplus).try_for_each(|entry| fs::remove_file(&entry.path))
        });
        warn_of(kept, "the findings of a trial could not be kept");
    }

    /// Forgets the findings of a trial.
    pub(super) fn forget_findings(&self, key: Key) {
        // What is not there is forgotten.
        let _ = fs::remove_file(self.trial_path(key));
    }

    fn trial_path(&self, key: Key) -> PathBuf {
        self.folder.join(TRIALS).join(format!("{}.json", key.0))
    }

    // ===== graphs =====

    /// Returns the key of the graph of a version's model, which depends on the model and its weights only. `None` if the
    /// model is too small.
    pub(super) fn key_of_graph(&self, found: &FoundVersion) -> Option<Key> {
        let (size, digest) = found.model_files();
        (size >= MIN_MODEL).then(|| Key::of(&["graph", &self.maker, &digest.to_string()]))
    }

    /// Returns a kept graph, which is not verified yet.
    pub(super) fn graph(&self, key: Key) -> Option<KeptGraph> {
        let folder = self.graph_path(key);
        let digests = fs::read(folder.join(DIGESTS)).ok()?;
        touch(&folder.join(DIGESTS));
        let digests: Digests = serde_json::from_slice(&digests).unwrap_or_default();
        Some(KeptGraph { graph: OptimisedGraph::in_folder(&folder), digests: Some(digests), key })
    }

    /// Returns a folder for a graph that is being made.
    pub(super) fn stage_graph(&self) -> Option<GraphStaging> {
        let staging = tempfile::TempDir::with_prefix_in(MAKING, self.folder.join(GRAPHS));
        staging.inspect_err(|error| tracing::warn!(problem = %error, "no graph can be kept")).ok().map(GraphStaging)
    }

    /// Keeps a graph that was made. Graphs that were not used for the longest time make room for it. Returns it if it is
    /// kept.
    pub(super) fn keep_graph(&self, key: Key, staging: GraphStaging) -> Option<KeptGraph> {
        let kept = self.try_to_keep(key, staging);
        let kept = warn_of(kept, "the graph of a model could not be kept")?;
        kept.then(|| KeptGraph { graph: OptimisedGraph::in_folder(&self.graph_path(key)), digests: None, key })
    }

    fn try_to_keep(&self, key: Key, staging: GraphStaging) -> io::Result<bool> {
        let mut digests = Digests { files: std::collections::BTreeMap::new() };
        for entry in fs::read_dir(staging.path())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            fs::File::open(&path)?.sync_all()?;
            digests.files.insert(name, digest_of_file(&path)?);
        }
        fs::write(staging.path().join(DIGESTS), serde_json::to_vec(&digests)?)?;
        let size = size_of(staging.path());
        if size > self.max_bytes {
            tracing::info!(
                bytes = size,
                "the graph of a model is larger than all graphs that may be kept (loading.cache_mb)"
            );
            return Ok(false);
        }
        let kept = entries(&self.folder.join(GRAPHS))?;
        let is_own = |entry: &&Entry| !entry.path.starts_with(staging.path());
        let mut total: u64 = kept.iter().filter(is_own).map(|entry| entry.size).sum();
        for entry in kept.iter().filter(is_own) {
            if total + size <= self.max_bytes {
                break;
            }
            // A session that uses it keeps its files until it ends.
            fs::remove_dir_all(&entry.path)?;
            total -= entry.size;
        }
        let target = self.graph_path(key);
        // Another server with this folder may have made it meanwhile.
        if !target.exists() {
            fs::rename(staging.0.keep(), &target)?;
        }
        Ok(true)
    }

    /// Forgets a graph.
    pub(super) fn forget_graph(&self, key: Key) {
        // What is not there is forgotten.
        let _ = fs::remove_dir_all(self.graph_path(key));
    }

    fn graph_path(&self, key: Key) -> PathBuf {
        self.folder.join(GRAPHS).join(key.0.to_string())
    }
}

impl KeptGraph {
    pub(super) fn key(&self) -> Key {
        self.key
    }

    /// Returns true if its files match their digests.
    pub(super) fn is_intact(&self) -> bool {
        let Some(Digests { files }) = &self.digests else { return true };
        let is_same = |(name, digest): (&String, &Sha256)| {
            digest_of_file(&self.graph.folder().join(name)).is_ok_and(|found| found == *digest)
        };
        !files.is_empty() && files.iter().all(is_same)
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.graph.folder().to_owned()
    }
}

impl Key {
    fn of(parts: &[&str]) -> Key {
        Key(Sha256::of(serde_json::json!(parts).to_string().as_bytes()))
    }
}

/// An entry of a folder.
struct Entry {
    path: PathBuf,
    size: u64,
    last_used: SystemTime,
}

/// Returns the entries of a folder, those that were not used for the longest time first.
fn entries(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let used = if path.is_dir() { path.join(DIGESTS) } else { path.clone() };
        // What was removed meanwhile, or is being made, counts as new.
        let last_used =
            fs::metadata(&used).and_then(|metadata| metadata.modified()).unwrap_or_else(|_| SystemTime::now());
        entries.push(Entry { size: size_of(&path), path, last_used });
    }
    entries.sort_by_key(|entry| entry.last_used);
    Ok(entries)
}

fn size_of(path: &Path) -> u64 {
    let Ok(files) = fs::read_dir(path) else { return fs::metadata(path).map_or(0, |metadata| metadata.len()) };
    files.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Notes that an entry was used.
fn touch(path: &Path) {
    // Only the order in which entries are thrown away depends on it.
    let _ = fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// Makes a folder that only this user can write to and read.
fn make_private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    machine::may_be_written(path)
}

/// Removes the folders of graphs that a server began to make before it ended.
fn remove_abandoned(graphs: &Path) -> io::Result<()> {
    for entry in fs::read_dir(graphs)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if entry.file_name().to_string_lossy().starts_with(MAKING) && age > ABANDONED_AFTER {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Describes a program or library: another build has another size or time.
fn stamp(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{} {} {}", path.display(), metadata.len(), modified.as_nanos()))
}

/// Logs an error, and returns the value otherwise.
fn warn_of<T>(done: io::Result<T>, message: &str) -> Option<T> {
    done.inspect_err(|error| tracing::warn!(problem = %error, "{message}")).ok()
}
