//! The store of models in an object store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use object_store::ObjectStore;
use parking_lot::Mutex;

use super::connection::{connect_bucket, connect_web};
use super::content_cache::ContentCache;
use super::download::{Fetched, RemoteFile, fetch, verify};
use super::listing::{Listing, Marks, config_path, deployment_path, file_path, manifest_path};
use super::objects::{Directory, ObjectMark, Objects};
use super::remembered::Remembered;
use super::store_problem::StoreProblem;
use crate::config::{
    CloudVariables, DeploymentFile, ModelConfig, RepositoryConfig, RepositoryLocation, StateConfig, text_has_steps,
};
use crate::error::{LoadFault, Result, SetupError};
use crate::identity::{ModelName, Version};
use crate::repository::files;
use crate::repository::fingerprint::Fingerprint;
use crate::repository::layout::{CONFIG_FILE, FolderProblem, Found};
use crate::repository::local_version::LocalVersion;
use crate::repository::manifest::{FilePath, MANIFEST_FILE, MAX_MANIFEST_BYTES, Manifest};
use crate::repository::refusal::Refusal;
use crate::repository::signature::SIGNATURE_FILE;
use crate::repository::store::Store;

/// Maximum size of a small file: a `model.toml` or a manifest.
const MAX_TEXT_BYTES: u64 = MAX_MANIFEST_BYTES;

/// A repository in an object store, or on a web server.
#[derive(Debug)]
pub struct RemoteStore {
    /// The location, as messages show it.
    pub(super) place: String,
    pub(super) objects: Objects,
    cache: ContentCache,
    remembered: Remembered,
    listed: Mutex<Listed>,
}

/// The last listing.
#[derive(Debug, Default)]
struct Listed {
    marks: Arc<Marks>,
    /// The models in it; `None` before the first listing.
    listing: Option<Arc<Listing>>,
    /// Problems with the small files that could not be read after the last listing, by path. They are read again after the next
    /// one, not each time that one of many is needed.
    unread: BTreeMap<String, StoreProblem>,
    /// Marks under which the bytes of objects were found to be those of their manifest, by path.
    verified: BTreeMap<String, ObjectMark>,
}

impl RemoteStore {
    /// Opens the repository at a location that is not a folder; `None` for a folder. Nothing is sent yet.
    pub fn open(config: &RepositoryConfig, state: &StateConfig) -> Result<Option<RemoteStore>, SetupError> {
        let wrong = |error: SetupError| SetupError::Config(format!("repository.path: {error}"));
        let objects = match &config.path {
            RepositoryLocation::Folder(_) => return Ok(None),
            RepositoryLocation::Bucket(bucket) => {
                let variables = CloudVariables::of_environment(bucket.api);
                let store = connect_bucket(bucket, &variables).map_err(wrong)?;
                Objects::new(store, &bucket.prefix, Directory::Api)?
            }
            RepositoryLocation::HttpIndex(url) => {
                Objects::new(connect_web(url).map_err(wrong)?, "", Directory::IndexFile)?
            }
        };
        let cache = ContentCache::open(config.cache(state), config.cache_bytes());
        let cache = cache.map_err(|error| SetupError::Config(format!("repository.cache: {error}")))?;
        RemoteStore::new(config.path.to_string(), objects, cache).map(Some)
    }

    /// Returns the repository in this store: for tests, and for stores of other programs.
    pub fn over(
        store: Arc<dyn ObjectStore>,
        place: &str,
        prefix: &str,
        config: &RepositoryConfig,
    ) -> Result<RemoteStore, SetupError> {
        let cache = ContentCache::open(config.cache.clone(), config.cache_bytes());
        let cache = cache.map_err(|error| SetupError::Config(format!("repository.cache: {error}")))?;
        RemoteStore::new(place.to_owned(), Objects::new(store, prefix, Directory::Api)?, cache)
    }

    fn new(place: String, objects: Objects, cache: ContentCache) -> Result<RemoteStore, SetupError> {
        let remembered = Remembered::open(cache.folder(), &place);
        let remembered = remembered.map_err(|error| SetupError::Config(format!("repository.cache: {error}")))?;
        Ok(RemoteStore { place, objects, cache, remembered, listed: Mutex::default() })
    }

    /// Lists the objects, and reads the small files that are new or have changed. If the store cannot be reached, the last
    /// listing is used, and the problem is returned with it.
    fn refresh(&self) -> Result<(Arc<Listing>, Option<StoreProblem>), SetupError> {
        let problem = match self.objects.list() {
            Ok(marks) => {
                let listing = self.take_over(marks, Origin::Store);
                self.read_texts(&listing);
                return Ok((listing, None));
            }
            Err(problem) => problem,
        };
        let last = self.listed.lock().listing.clone();
        if let Some(last) = last {
            return Ok((last, Some(problem)));
        }
        match self.remembered.listing(&self.place) {
            Some(marks) => {
                tracing::warn!(
                    repository = self.place, %problem, cache = %self.cache.folder().display(),
                    "the repository cannot be reached; the listing that was remembered on disk is used, and versions are \
                     loaded from the cache"
                );
                Ok((self.take_over(marks, Origin::Disk), Some(problem)))
            }
            None => Err(SetupError::Repository(format!("{}: {problem}", self.place))),
        }
    }

    /// Makes a list of objects the last listing.
    fn take_over(&self, marks: Marks, origin: Origin) -> Arc<Listing> {
        let marks = Arc::new(marks);
        let listing = {
            let mut listed = self.listed.lock();
            if let Some(listing) = listed.listing.as_ref().filter(|_| listed.marks == marks) {
                return Arc::clone(listing);
            }
            let listing = Arc::new(Listing::of(&marks, &self.place));
            listed.verified.retain(|path, mark| marks.get(path) == Some(mark));
            listed.listing = Some(Arc::clone(&listing));
            listed.marks = Arc::clone(&marks);
            listing
        };
        if origin == Origin::Store {
            self.remembered.remember(&self.place, &marks);
        }
        listing
    }

    /// Reads the small files that are new or have changed, many at a time. A failure shows when the file is needed.
    fn read_texts(&self, listing: &Listing) {
        let is_new = |(path, mark): &(String, &ObjectMark)| self.remembered.text(path, mark).is_none();
        let new: BTreeMap<String, &ObjectMark> = listing.texts().filter(is_new).collect();
        let mut unread = BTreeMap::new();
        for (path, text) in self.objects.read_all(new.keys().cloned().collect(), MAX_TEXT_BYTES) {
            match (text, new.get(&path)) {
                (Ok(text), Some(mark)) => self.remembered.remember_text(&path, mark, &text),
                (Ok(_), None) => {}
                (Err(problem), _) => {
                    unread.insert(path, problem);
                }
            }
        }
        self.listed.lock().unread = unread;
    }

    /// Returns the last listing. Lists the objects if this was not done yet.
    fn listing(&self) -> Result<Arc<Listing>, SetupError> {
        let last = self.listed.lock().listing.clone();
        last.map_or_else(|| self.refresh().map(|(listing, _)| listing), Ok)
    }

    /// Reads a small file of the last listing.
    fn text(&self, path: &str, mark: &ObjectMark) -> Result<Vec<u8>, StoreProblem> {
        if let Some(text) = self.remembered.text(path, mark) {
            return Ok(text);
        }
        let unread = self.listed.lock().unread.get(path).cloned();
        let text = unread.map_or_else(|| self.objects.read(path, MAX_TEXT_BYTES), Err)?;
        self.remembered.remember_text(path, mark, &text);
        Ok(text.into())
    }

    /// Returns the files of a version, which are those of its manifest.
    fn files(&self, model: &ModelName, version: Version) -> Result<RemoteFiles, Refusal> {
        let listing = self.listing().map_err(Refusal::of(LoadFault::Resources))?;
        let manifest_text = self.manifest_text(&listing, model, version)?;
        let manifest = parse_manifest(&manifest_text)?;
        let mut found = BTreeMap::new();
        for (name, mark) in listing.version(model, version).into_iter().flatten() {
            if name == MANIFEST_FILE || name == SIGNATURE_FILE {
                continue;
            }
            let name: FilePath = name.parse().map_err(|error| Refusal::new(LoadFault::Files, format!("{error}")))?;
            found.insert(name, mark.clone());
        }
        files::compare(&found, &manifest)?;
        let file = |(name, mark): (FilePath, ObjectMark)| {
            let path = format!("{model}/{version}/{name}");
            let digest = *manifest.files.get(&name)?;
            let place = format!("{}/{path}", self.place);
            Some(RemoteFile { path, place, size: mark.size, digest })
        };
        let files = found.into_iter().filter_map(file).collect();
        let signature = self.signature(&listing, model, version)?;
        Ok(RemoteFiles { manifest_text, signature, manifest, files })
    }

    /// Reads the signature of a version; `None` if it has none.
    fn signature(&self, listing: &Listing, model: &ModelName, version: Version) -> Result<Option<Vec<u8>>, Refusal> {
        let mark = listing.version(model, version).and_then(|objects| objects.get(SIGNATURE_FILE));
        let read = |mark| {
            self.text(&file_path(model, version, SIGNATURE_FILE), mark).map_err(|problem| {
                Refusal::new(LoadFault::Resources, format!("{SIGNATURE_FILE} could not be read: {problem}"))
            })
        };
        mark.map(read).transpose()
    }

    fn manifest_text(&self, listing: &Listing, model: &ModelName, version: Version) -> Result<Vec<u8>, Refusal> {
        let mark = listing.version(model, version).and_then(|objects| objects.get(MANIFEST_FILE));
        let mark = mark.ok_or_else(|| {
            let problem = format!("{}/{model}/{version}: there is no {MANIFEST_FILE} there", self.place);
            Refusal::new(LoadFault::Manifest, problem)
        })?;
        self.text(&manifest_path(model, version), mark).map_err(|problem| {
            Refusal::new(LoadFault::Resources, format!("{MANIFEST_FILE} could not be read: {problem}"))
        })
    }

    /// Notes that the bytes of an object are those of its manifest.
    fn note_verified(&self, path: &str) {
        let mut listed = self.listed.lock();
        if let Some(mark) = listed.marks.get(path).cloned() {
            listed.verified.insert(path.to_owned(), mark);
        }
    }

    fn is_verified(&self, path: &str) -> bool {
        let listed = self.listed.lock();
        listed.verified.get(path).is_some_and(|mark| listed.marks.get(path) == Some(mark))
    }
}

/// The files of a version in an object store.
#[derive(Debug)]
struct RemoteFiles {
    manifest_text: Vec<u8>,
    signature: Option<Vec<u8>>,
    manifest: Manifest,
    /// The files except the manifest and its signature.
    files: Vec<RemoteFile>,
}

/// Source of a list of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Store,
    Disk,
}

impl Store for RemoteStore {
    fn list(&self) -> Result<Found, SetupError> {
        let (listing, problem) = self.refresh()?;
        let is_chain = |name: &&ModelName| {
            let config = listing.model(name).and_then(|model| model.config.as_ref());
            let text = config.and_then(|mark| self.text(&config_path(name), mark).ok());
            text.is_some_and(|text| std::str::from_utf8(&text).is_ok_and(text_has_steps))
        };
        let chains: BTreeSet<ModelName> = listing.without_versions().filter(is_chain).cloned().collect();
        if self.listed.lock().marks.contains_key(CONFIG_FILE) {
            return Err(SetupError::Repository(format!(
                "{}: this is a model's own location; the repository is the one above it (repository.path or --models says \
                 where to look)",
                self.place
            )));
        }
        let mut found = listing.found(&self.place, &chains);
        if let Some(problem) = problem {
            let problem = format!("the repository cannot be reached, and its last listing is used: {problem}");
            found.problems.insert(0, FolderProblem { folder: self.place.clone(), problem });
        }
        Ok(found)
    }

    fn read_config(&self, model: &ModelName) -> Result<ModelConfig, SetupError> {
        let place = self.config_place(model);
        let wrong = |problem: String| SetupError::Config(format!("{place}: {problem}"));
        let listing = self.listing()?;
        let mark = listing.model(model).and_then(|model| model.config.as_ref());
        let mark = mark.ok_or_else(|| wrong("there is no such object".to_owned()))?;
        let text = self.text(&config_path(model), mark).map_err(|problem| wrong(problem.to_string()))?;
        let text = std::str::from_utf8(&text).map_err(|_| wrong("not UTF-8".to_owned()))?;
        ModelConfig::parse(text, &place)
    }

    fn config_place(&self, model: &ModelName) -> String {
        format!("{}/{}", self.place, config_path(model))
    }

    fn config_fingerprint(&self, model: &ModelName) -> Fingerprint {
        let listing = self.listed.lock().listing.clone();
        listing.map(|listing| listing.config_fingerprint(model)).unwrap_or_default()
    }

    fn read_deployment(&self, model: &ModelName) -> Result<Option<DeploymentFile>, SetupError> {
        let place = format!("{}/{}", self.place, deployment_path(model));
        let wrong = |problem: String| SetupError::Config(format!("{place}: {problem}"));
        let listing = self.listing()?;
        let Some(mark) = listing.model(model).and_then(|model| model.deployment.as_ref()) else { return Ok(None) };
        let text = self.text(&deployment_path(model), mark).map_err(|problem| wrong(problem.to_string()))?;
        let text = std::str::from_utf8(&text).map_err(|_| wrong("not UTF-8".to_owned()))?;
        DeploymentFile::parse(text, &place).map(Some)
    }

    fn deployment_fingerprint(&self, model: &ModelName) -> Fingerprint {
        let listing = self.listed.lock().listing.clone();
        listing.map(|listing| listing.deployment_fingerprint(model)).unwrap_or_default()
    }

    fn read_manifest(&self, model: &ModelName, version: Version) -> Result<Manifest, Refusal> {
        let listing = self.listing().map_err(Refusal::of(LoadFault::Resources))?;
        parse_manifest(&self.manifest_text(&listing, model, version)?)
    }

    fn version_fingerprint(&self, model: &ModelName, version: Version) -> Fingerprint {
        let listing = self.listed.lock().listing.clone();
        listing.map(|listing| listing.version_fingerprint(model, version)).unwrap_or_default()
    }

    fn materialise(&self, model: &ModelName, version: Version) -> Result<LocalVersion, Refusal> {
        let fingerprint = self.version_fingerprint(model, version);
        let RemoteFiles { manifest_text, signature, files, .. } = self.files(model, version)?;
        let unwritable = |error: std::io::Error| {
            Refusal::new(LoadFault::Resources, format!("{}: {error}", self.cache.folder().display()))
        };
        // Held first, so that making room for one file does not remove another.
        let (folder, hold) = self.cache.hold(&manifest_text, signature.as_deref()).map_err(unwritable)?;
        let missing = files.iter().filter(|file| self.cache.size_of(file.digest).is_none()).map(|file| file.size).sum();
        self.cache.make_room(missing).map_err(|problem| Refusal::new(LoadFault::Resources, problem))?;
        for file in &files {
            if fetch(&self.objects, &self.cache, file)? == Fetched::Downloaded {
                self.note_verified(&file.path);
            }
        }
        // The fingerprint of a store that was not listed before is known only now.
        let fingerprint = match fingerprint == Fingerprint::default() {
            true => self.version_fingerprint(model, version),
            false => fingerprint,
        };
        Ok(LocalVersion::in_cache(folder, self.cache.files(), fingerprint, hold))
    }

    fn verify_files(&self, model: &ModelName, version: Version) -> Result<Manifest, Refusal> {
        let RemoteFiles { manifest, files, .. } = self.files(model, version)?;
        for file in files.iter().filter(|file| !self.is_verified(&file.path)) {
            verify(&self.objects, file)?;
            self.note_verified(&file.path);
        }
        Ok(manifest)
    }
}

fn parse_manifest(text: &[u8]) -> Result<Manifest, Refusal> {
    Manifest::parse(text).map_err(|problem| Refusal::new(LoadFault::Manifest, format!("{MANIFEST_FILE}: {problem}")))
}

#[cfg(test)]
mod tests;
