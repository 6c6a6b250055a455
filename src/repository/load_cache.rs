//! The load cache: findings of trials, as texts, and optimised graphs of large models, with weights that ONNX Runtime has
//! packed for this processor. They are kept on disk beside the state, so that a restart is quick.
//!
//! Everything is found by a key: a digest of all that the entry depends on. So an entry is never out of date. A graph is
//! verified by its digest when a version is loaded; one that does not match is thrown away, and made again by the next trial.
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

use super::files::digest as digest_of_file;
use super::private_folder::{make_private_folder, touch};
use crate::config::available_cores;
use crate::identity::Sha256;
use crate::machine;
use crate::model::{OptimisedGraph, RuntimeLibraries};

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

/// Size of a graph, in multiples of the size of its model: the weights as they are, and as they are packed.
const GRAPH_SIZE: u64 = 2;

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
pub struct CacheKey(Sha256);

/// A kept graph.
#[derive(Debug)]
pub struct KeptGraph {
    /// The graph.
    pub graph: OptimisedGraph,
    /// The digests of its files; `None` if this process has just made them.
    digests: Option<Digests>,
    key: CacheKey,
}

/// A folder for a graph that is being made; removed when it is dropped.
#[derive(Debug)]
pub struct GraphStaging(tempfile::TempDir);

impl GraphStaging {
    /// The folder.
    pub fn path(&self) -> &Path {
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
        fs::create_dir_all(folder.parent().unwrap_or(Path::new("")))?;
        for part in [folder, &folder.join(TRIALS), &folder.join(GRAPHS)] {
            make_private_folder(part)?;
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

    /// Returns the key of an entry that depends on these parts, and on this program, the libraries and the processor.
    pub fn key(&self, parts: &[&str]) -> CacheKey {
        CacheKey(Sha256::of(serde_json::json!([self.maker, parts]).to_string().as_bytes()))
    }

    // ===== findings =====

    /// Returns the findings of an earlier trial.
    pub fn findings(&self, key: CacheKey) -> Option<Vec<u8>> {
        let path = self.trial_path(key);
        let text = fs::read(&path).ok()?;
        touch(&path);
        Some(text)
    }

    /// Keeps the findings of a trial.
    pub fn keep_findings(&self, key: CacheKey, findings: &[u8]) {
        let keep = || -> io::Result<()> {
            let file = tempfile::NamedTempFile::new_in(self.folder.join(TRIALS))?;
            fs::write(file.path(), findings)?;
            file.persist(self.trial_path(key)).map_err(|error| error.error)?;
            let oldest_first = entries(&self.folder.join(TRIALS))?;
            let surplus = oldest_first.len().saturating_sub(MAX_TRIALS);
            oldest_first.iter().take(surplus).try_for_each(|entry| fs::remove_file(&entry.path))
        };
        warn_of(keep(), "the findings of a trial could not be kept");
    }

    /// Removes the findings of a trial.
    pub fn forget_findings(&self, key: CacheKey) {
        // It may have been removed already.
        let _ = fs::remove_file(self.trial_path(key));
    }

    fn trial_path(&self, key: CacheKey) -> PathBuf {
        self.folder.join(TRIALS).join(format!("{}.json", key.0))
    }

    // ===== graphs =====

    /// Returns a kept graph, which is not verified yet.
    pub fn graph(&self, key: CacheKey) -> Option<KeptGraph> {
        let folder = self.graph_path(key);
        let digests = fs::read(folder.join(DIGESTS)).ok()?;
        touch(&folder.join(DIGESTS));
        let digests: Digests = serde_json::from_slice(&digests).unwrap_or_default();
        Some(KeptGraph { graph: OptimisedGraph::in_folder(&folder), digests: Some(digests), key })
    }

    /// Returns a folder for the graph of a model of this size; `None` if there is no room for it.
    pub fn stage_graph(&self, model_bytes: u64) -> Option<GraphStaging> {
        if !self.has_room(model_bytes) {
            tracing::info!(
                model_bytes,
                limit_bytes = self.max_bytes,
                "the optimised graph of a model is not kept: it would take more than half of the free disk, or than \
                 loading.cache_mb"
            );
            return None;
        }
        let staging = tempfile::TempDir::with_prefix_in(MAKING, self.folder.join(GRAPHS));
        warn_of(staging, "no graph can be kept").map(GraphStaging)
    }

    /// Returns true if the graph of a model of this size may be kept: it takes at most half of the free disk, which the state
    /// needs, too.
    pub fn has_room(&self, model_bytes: u64) -> bool {
        let expected = GRAPH_SIZE.saturating_mul(model_bytes);
        let free = machine::free_disk(&self.folder).unwrap_or_default();
        expected <= self.max_bytes && expected <= free / 2
    }

    /// Keeps a graph that was made. Graphs that were not used for the longest time make room for it. Returns it if it is
    /// kept.
    pub fn keep_graph(&self, key: CacheKey, staging: GraphStaging) -> Option<KeptGraph> {
        warn_of(self.try_to_keep(key, staging), "the graph of a model could not be kept").flatten()
    }

    fn try_to_keep(&self, key: CacheKey, staging: GraphStaging) -> io::Result<Option<KeptGraph>> {
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
            return Ok(None);
        }
        let mut kept = entries(&self.folder.join(GRAPHS))?;
        kept.retain(|entry| !is_being_made(&entry.path));
        let mut total: u64 = kept.iter().map(|entry| entry.size).sum();
        for entry in kept {
            if total + size <= self.max_bytes {
                break;
            }
            // A session that uses it keeps its files until it ends. Another server may have removed it.
            let _ = fs::remove_dir_all(&entry.path);
            total -= entry.size;
        }
        let (made, target) = (staging.0.keep(), self.graph_path(key));
        if fs::rename(&made, &target).is_ok() {
            return Ok(Some(KeptGraph { graph: OptimisedGraph::in_folder(&target), digests: None, key }));
        }
        // Another server with this folder has made it meanwhile, or has left a part of it.
        if let Some(kept) = self.graph(key).filter(KeptGraph::is_intact) {
            fs::remove_dir_all(&made)?;
            return Ok(Some(kept));
        }
        self.forget_graph(key);
        let moved = fs::rename(&made, &target);
        moved.or_else(|error| fs::remove_dir_all(&made).and(Err(error)))?;
        Ok(Some(KeptGraph { graph: OptimisedGraph::in_folder(&target), digests: None, key }))
    }

    /// Removes a graph.
    pub fn forget_graph(&self, key: CacheKey) {
        // It may have been removed already.
        let _ = fs::remove_dir_all(self.graph_path(key));
    }

    fn graph_path(&self, key: CacheKey) -> PathBuf {
        self.folder.join(GRAPHS).join(key.0.to_string())
    }
}

impl KeptGraph {
    /// Its key.
    pub fn key(&self) -> CacheKey {
        self.key
    }

    /// Returns true if its files match their digests.
    pub fn is_intact(&self) -> bool {
        let Some(Digests { files }) = &self.digests else { return true };
        let is_same = |(name, digest): (&String, &Sha256)| {
            digest_of_file(&self.graph.folder().join(name)).is_ok_and(|found| found == *digest)
        };
        !files.is_empty() && files.iter().all(is_same)
    }

    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        self.graph.folder().to_owned()
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

/// Removes the folders of graphs that a server began to make before it ended. Other servers may remove them at the same time.
fn remove_abandoned(graphs: &Path) -> io::Result<()> {
    for entry in fs::read_dir(graphs)?.filter_map(io::Result::ok) {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
        if is_being_made(&entry.path()) && age > ABANDONED_AFTER {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn is_being_made(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MAKING))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The cache in this folder.
    fn cache(folder: &Path, max_bytes: u64) -> LoadCache {
        let program = std::env::current_exe().unwrap();
        let libraries = RuntimeLibraries { onnxruntime: program.clone(), operators: Vec::new() };
        LoadCache::open(folder, max_bytes, &libraries, &program).unwrap()
    }

    /// Keeps a graph of this many bytes.
    fn keep(cache: &LoadCache, key: CacheKey, bytes: usize) -> bool {
        let staging = cache.stage_graph(0).unwrap();
        fs::write(staging.path().join("weights.bin"), vec![7; bytes]).unwrap();
        cache.keep_graph(key, staging).is_some()
    }

    #[test]
    fn graphs_that_were_not_used_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path(), 10_000);
        let [one, two, three, large] = ["one", "two", "three", "large"].map(|name| cache.key(&[name]));
        let is_kept = |key| cache.graph(key).is_some_and(|graph| graph.is_intact());
        let kept = || [one, two, three].map(is_kept);
        assert!(keep(&cache, one, 4_000) && keep(&cache, two, 4_000));
        assert_eq!(kept(), [true, true, false]);
        // The first one was used last.
        std::thread::sleep(Duration::from_millis(20));
        cache.graph(one).unwrap();
        assert!(keep(&cache, three, 4_000));
        assert_eq!(kept(), [true, false, true]);
        assert!(!keep(&cache, large, 10_001));
        assert_eq!(kept(), [true, false, true]);
        assert!(cache.stage_graph(5_001).is_none());
        let left = fs::read_dir(cache.folder.join(GRAPHS)).unwrap().count();
        assert_eq!(left, 2);
    }

    #[test]
    fn what_is_damaged_or_of_another_maker_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path(), 10_000);
        let key = cache.key(&["graph"]);
        assert!(keep(&cache, key, 100));
        let weights = cache.graph_path(key).join("weights.bin");
        fs::write(&weights, vec![8; 100]).unwrap();
        assert!(!cache.graph(key).unwrap().is_intact());
        fs::remove_file(weights).unwrap();
        assert!(!cache.graph(key).unwrap().is_intact());
        fs::write(cache.graph_path(key).join(DIGESTS), "{}").unwrap();
        assert!(!cache.graph(key).unwrap().is_intact());
        cache.keep_findings(key, b"found");
        assert_eq!(cache.findings(key).unwrap(), b"found");
        let of_another = LoadCache { maker: "another processor".to_owned(), ..cache };
        assert_eq!(of_another.findings(of_another.key(&["graph"])), None);
    }

    #[test]
    fn a_graph_that_was_not_completed_is_removed_later() {
        let folder = tempfile::tempdir().unwrap();
        let staging = cache(folder.path(), 10_000).stage_graph(0).unwrap();
        let path = staging.0.keep();
        cache(folder.path(), 10_000);
        assert!(path.exists());
        let long_ago = SystemTime::now() - 2 * ABANDONED_AFTER;
        fs::File::open(&path).unwrap().set_modified(long_ago).unwrap();
        cache(folder.path(), 10_000);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let program = std::env::current_exe().unwrap();
        let libraries = RuntimeLibraries { onnxruntime: program.clone(), operators: Vec::new() };
        let is_opened = || LoadCache::open(&path, 10_000, &libraries, &program).is_some();
        assert!(is_opened());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_opened());
    }
}
