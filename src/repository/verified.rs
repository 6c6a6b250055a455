//! The files of a version, verified against its manifest, with the bytes of those that are loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::class_names;
use super::external_data;
use super::file_kind::FileKind;
use super::files;
use super::fingerprint::Fingerprint;
use super::golden::Golden;
use super::local_version::LocalVersion;
use super::manifest::{BASELINE_FILE, FilePath, GOLDEN_FILE, MODEL_FILE, Manifest};
use super::narrow_types;
use super::onnx_file;
use super::refusal::Refusal;
use super::regular_file;
use super::signature::{Trust, TrustedKeys};
use super::tensor_lists;
use super::zip_map;
use crate::config::KeyId;
use crate::error::{LoadFault, Result, SetupError};
use crate::identity::{Sha256, shown};
use crate::machine;
use crate::model::{ModelBytes, ModelSource, OptimisedGraph};
use crate::monitor::Baseline;
use crate::pipeline::{ModelClasses, VersionFiles};

/// Maximum size of a file that is read into memory, except the model and its weights.
const MAX_SIDE_FILE: u64 = 1 << 28;

/// A version whose files have the names that its manifest lists. Only the manifest has been read.
#[derive(Debug, Clone)]
pub struct FoundVersion {
    place: LocalVersion,
    manifest: Manifest,
    fingerprint: Fingerprint,
    /// Keys that its signature was checked with.
    trusted: TrustedKeys,
    /// Key that it is signed with, if that was checked.
    signed_by: Option<KeyId>,
    /// Location of each file on disk, by its path within the version.
    found: BTreeMap<FilePath, PathBuf>,
}

/// A version whose files match its manifest.
#[derive(Debug)]
pub struct VerifiedVersion {
    pub manifest: Arc<Manifest>,
    /// The digest of all its files.
    pub identity: Sha256,
    /// Fingerprint of its folder before anything was read.
    pub fingerprint: Fingerprint,
    /// Key that it is signed with, if keys are trusted.
    pub signed_by: Option<KeyId>,
    /// Distribution of its training data, if it has a baseline.
    pub baseline: Option<Arc<Baseline>>,
    /// Its examples, if it has any.
    pub golden: Option<Golden>,
    /// The model: exactly the bytes that were hashed, including the weights that ONNX Runtime would otherwise look for
    /// in the file system, and with outputs of maps replaced by tensors.
    pub bytes: Arc<ModelBytes>,
    /// The class names in the model's file.
    pub classes: ModelClasses,
    /// The model after ONNX Runtime has optimised it, if it is at hand. Sessions are opened on it instead of the bytes.
    pub optimised: Option<OptimisedGraph>,
    /// The model's inputs whose number of dimensions its file does not give.
    pub inputs_of_unknown_rank: Vec<String>,
    /// Location of the files.
    place: LocalVersion,
    /// Location of each file on disk, by its path within the version.
    found: BTreeMap<FilePath, PathBuf>,
}

impl FoundVersion {
    /// Finds the files of the version at this location, which needs no signature: it is being made, or was checked before.
    pub fn find(place: impl Into<LocalVersion>) -> Result<FoundVersion, Refusal> {
        let place = place.into();
        let (fingerprint, manifest) = (place.fingerprint(), Manifest::read_bytes(place.folder())?);
        FoundVersion::of_manifest(place, fingerprint, &manifest)
    }

    /// Finds the files of the version at this location, after checking its signature, if keys are trusted. The bytes of the
    /// manifest that are checked are those that the files are verified by.
    pub fn find_trusted(place: impl Into<LocalVersion>, trust: Trust<'_>) -> Result<FoundVersion, Refusal> {
        let place = place.into();
        let (fingerprint, manifest) = (place.fingerprint(), Manifest::read_bytes(place.folder())?);
        let signed_by = trust.check(place.folder(), &manifest)?;
        let found = FoundVersion::of_manifest(place, fingerprint, &manifest)?;
        Ok(FoundVersion { trusted: trust.keys.clone(), signed_by, ..found })
    }

    fn of_manifest(place: LocalVersion, fingerprint: Fingerprint, manifest: &[u8]) -> Result<FoundVersion, Refusal> {
        let manifest = Manifest::of_bytes(manifest)?;
        let found = place.files(&manifest)?;
        files::compare(&found, &manifest)?;
        let trusted = TrustedKeys::default();
        Ok(FoundVersion { place, manifest, fingerprint, trusted, signed_by: None, found })
    }

    /// Returns the keys that its signature was checked with.
    pub fn trusted_keys(&self) -> &TrustedKeys {
        &self.trusted
    }

    /// Compares the digest of every file with the manifest. Reads in pieces and keeps nothing.
    pub fn check_digests(&self) -> Result<(), Refusal> {
        self.check_digests_of(|_| true)
    }

    /// The same for all files but the model, which [`FoundVersion::read`] verifies.
    pub fn check_other_digests(&self) -> Result<(), Refusal> {
        self.check_digests_of(|name| name.as_str() != MODEL_FILE)
    }

    fn check_digests_of(&self, is_checked: impl Fn(&FilePath) -> bool) -> Result<(), Refusal> {
        self.found.iter().filter(|(name, _)| is_checked(name)).try_for_each(|(name, path)| {
            let digest = files::digest(path).map_err(|error| unreadable(name.as_str(), &error))?;
            compare_digest(name.as_str(), digest, &self.manifest)
                .map_err(|refusal| named_by_kind(name.as_str(), FileKind::of_file(path).ok().flatten(), refusal))
        })
    }

    /// Returns the manifest. The files may differ from it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the location of the files.
    pub fn place(&self) -> &LocalVersion {
        &self.place
    }

    /// Returns the size of all files together, in bytes.
    pub fn size(&self) -> u64 {
        self.found.values().filter_map(|path| std::fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
    }

    /// Returns the size and the digest of the files that determine what the model computes: all but the examples and the
    /// baseline.
    pub fn model_files(&self) -> (u64, Sha256) {
        let is_model = |name: &FilePath| !matches!(name.as_str(), GOLDEN_FILE | BASELINE_FILE);
        let sizes = self.found.iter().filter(|(name, _)| is_model(name));
        let size = sizes.filter_map(|(_, path)| std::fs::metadata(path).ok()).map(|metadata| metadata.len()).sum();
        let files = self.manifest.files.iter().filter(|(name, _)| is_model(name));
        let files = files.map(|(name, digest)| (name.clone(), *digest)).collect();
        (size, Manifest::of(files).identity())
    }

    /// Reads the files that are loaded, and verifies the bytes that were read.
    pub fn read(self) -> Result<VerifiedVersion, Refusal> {
        self.read_within(WeightsLimit::of_this_machine())
    }

    fn read_within(self, mut weights: WeightsLimit) -> Result<VerifiedVersion, Refusal> {
        let FoundVersion { place, manifest, fingerprint, signed_by, found, .. } = self;
        let model = weights.read(&found, &manifest, MODEL_FILE)?;
        let mut parsed = onnx_file::parse(&model).map_err(|problem| not_a_model(&problem))?;
        let mut external = BTreeMap::new();
        for location in external_data::locations(&model).map_err(|problem| not_a_model(&problem))? {
            inside(&location, &manifest)?;
            let content = weights.read(&found, &manifest, &location)?;
            if let Some(problem) = FileKind::of(&content).and_then(FileKind::problem_as_weights) {
                return Err(stands_in(&location, &problem));
            }
            external.insert(location, content);
        }
        let contained = external_data::contain(&model, &external)
            .map_err(|problem| Refusal::new(LoadFault::ExternalData, format!("{MODEL_FILE}: {problem}")))?;
        let model = zip_map::replace(&contained.model, &parsed)
            .and_then(|model| tensor_lists::replace(model, &mut parsed))
            .map_err(|problem| not_a_model(&problem))?;
        let model = narrow_types::widen(&model, &parsed).map_err(|problem| not_a_model(&problem))?;
        external.retain(|location, _| contained.left.contains(location));
        let optional = |name: &str| match manifest.files.contains_key(name) {
            true => verified(&found, &manifest, name, MAX_SIDE_FILE).map(Some),
            false => Ok(None),
        };
        let golden = optional(GOLDEN_FILE)?.map(|text| parse_golden(&text)).transpose()?;
        let baseline = optional(BASELINE_FILE)?.map(|text| parse_baseline(&text)).transpose()?;
        Ok(VerifiedVersion {
            identity: manifest.identity(),
            manifest: Arc::new(manifest),
            fingerprint,
            signed_by,
            baseline: baseline.map(Arc::new),
            golden,
            classes: class_names::read(&parsed),
            optimised: None,
            inputs_of_unknown_rank: onnx_file::inputs_of_unknown_rank(&parsed),
            bytes: Arc::new(ModelBytes { model, external: external.into_iter().collect() }),
            place,
            found,
        })
    }
}

impl VerifiedVersion {
    /// Verifies all files of the version at this location, which needs no signature, and reads those that are loaded.
    pub fn read(place: impl Into<LocalVersion>) -> Result<VerifiedVersion, Refusal> {
        let found = FoundVersion::find(place)?;
        found.check_digests()?;
        found.read()
    }

    /// The same, after checking its signature, if keys are trusted.
    pub fn read_trusted(place: impl Into<LocalVersion>, trust: Trust<'_>) -> Result<VerifiedVersion, Refusal> {
        let found = FoundVersion::find_trusted(place, trust)?;
        found.check_digests()?;
        found.read()
    }

    /// Returns a source of the model's bytes. Once they are dropped, the source reads and verifies the files again.
    pub fn source(&self) -> Arc<dyn ModelSource> {
        Arc::new(VersionFolder {
            place: self.place.clone(),
            identity: self.identity,
            optimised: self.optimised.clone(),
            bytes: Mutex::new(Arc::downgrade(&self.bytes)),
        })
    }
}

/// Limit of the memory for a model and its weights together.
#[derive(Debug)]
struct WeightsLimit {
    /// Bytes that are left; `None` if the memory of this machine is not known.
    available: Option<u64>,
}

impl WeightsLimit {
    fn of_this_machine() -> WeightsLimit {
        fail::fail_point!("weights::available", |bytes| WeightsLimit {
            available: bytes.and_then(|bytes| bytes.parse().ok())
        });
        WeightsLimit { available: machine::available_memory() }
    }

    /// Reads and verifies a file, if it fits into memory together with those that were read before.
    fn read(
        &mut self,
        found: &BTreeMap<FilePath, PathBuf>,
        manifest: &Manifest,
        name: &str,
    ) -> Result<Arc<[u8]>, Refusal> {
        let size = found.get(name).and_then(|path| std::fs::metadata(path).ok()).map_or(0, |metadata| metadata.len());
        let limit = self.check(name, size)?;
        let bytes = verified(found, manifest, name, limit)?;
        self.available = self.available.map(|available| available.saturating_sub(bytes.len() as u64));
        Ok(bytes)
    }

    /// Returns the maximum size of a file, if a file of this size fits into memory.
    fn check(&self, name: &str, size: u64) -> Result<u64, Refusal> {
        let limit = self.available.unwrap_or(u64::MAX - 1);
        if size > limit {
            let problem = format!(
                "{name} is {} MiB large, and {} MiB of memory are available to this process",
                size >> 20,
                limit >> 20
            );
            return Err(Refusal::new(LoadFault::Resources, problem));
        }
        Ok(limit)
    }
}

/// Files are read and verified again, so that stages also get exactly the bytes that were added.
impl VersionFiles for VerifiedVersion {
    fn read(&self, name: &str) -> Result<Arc<[u8]>, SetupError> {
        if !self.manifest.files.contains_key(name) {
            return Err(SetupError::Config(format!(
                "the version has no file {name:?}; add it with `leeway add --file`"
            )));
        }
        verified(&self.found, &self.manifest, name, MAX_SIDE_FILE)
            .map_err(|refusal| SetupError::Config(refusal.to_string()))
    }
}

/// Returns the locations of the weights that a model keeps in other files, as it names them. They may lead anywhere. The
/// model need not be a valid one.
pub fn locations_of_weights(model: &Path) -> Result<BTreeSet<String>, Refusal> {
    let unreadable = |error| unreadable(MODEL_FILE, &error);
    let size = std::fs::metadata(model).map_err(unreadable)?.len();
    let limit = WeightsLimit::of_this_machine().check(MODEL_FILE, size)?;
    let bytes: Arc<[u8]> = regular_file::read(model, limit).map_err(unreadable)?.into();
    external_data::locations(&bytes).map_err(|problem| Refusal::new(LoadFault::Model, problem))
}

/// Reads a `golden.json`.
pub fn parse_golden(text: &[u8]) -> Result<Golden, Refusal> {
    Golden::parse(text).map_err(|problem| Refusal::new(LoadFault::Golden, format!("{GOLDEN_FILE}: {problem}")))
}

/// Reads a `baseline.json`.
fn parse_baseline(text: &[u8]) -> Result<Baseline, Refusal> {
    Baseline::parse(text).map_err(|problem| Refusal::new(LoadFault::Baseline, format!("{BASELINE_FILE}: {problem}")))
}

pub(super) fn not_a_model(problem: &str) -> Refusal {
    Refusal::new(LoadFault::Model, format!("{MODEL_FILE}: {problem}"))
}

/// Location by which ONNX Runtime marks data that it keeps in memory. The offset of such data is an address.
const MARKER_OF_MEMORY: &str = "_ORT_MEM_ADDR_";

/// Checks that a location of external data is a file of the version.
fn inside(location: &str, manifest: &Manifest) -> Result<(), Refusal> {
    let refuse = |why: String| {
        let location = shown(location);
        Refusal::new(LoadFault::ExternalData, format!("{MODEL_FILE} keeps weights in \"{location}\", {why}"))
    };
    if location.parse::<FilePath>().is_err() || location.contains(MARKER_OF_MEMORY) {
        return Err(refuse("which is not a path within the version; export it with a plain file name".to_owned()));
    }
    if !manifest.files.contains_key(location) {
        return Err(refuse("which is not a file of this version (`leeway add --data-file` adds it)".to_owned()));
    }
    Ok(())
}

/// Returns the bytes of a file, after verifying their digest.
fn verified(
    found: &BTreeMap<FilePath, PathBuf>,
    manifest: &Manifest,
    name: &str,
    limit: u64,
) -> Result<Arc<[u8]>, Refusal> {
    let path = found.get(name).ok_or_else(|| Refusal::new(LoadFault::Files, format!("{name} is missing")))?;
    let bytes: Arc<[u8]> = regular_file::read(path, limit).map_err(|error| unreadable(name, &error))?.into();
    let kind = FileKind::of(&bytes);
    compare_digest(name, Sha256::of(&bytes), manifest).map_err(|refusal| named_by_kind(name, kind, refusal))?;
    let as_expected = if name.ends_with(".json") { FileKind::problem_as_json } else { FileKind::problem_as_any_file };
    match kind.and_then(as_expected) {
        Some(problem) => Err(stands_in(name, &problem)),
        None => Ok(bytes),
    }
}

/// Returns the refusal of a file with another digest. A pointer to the file explains it better.
fn named_by_kind(name: &str, kind: Option<FileKind>, refusal: Refusal) -> Refusal {
    let problem = kind.and_then(FileKind::problem_as_any_file);
    problem.map_or(refusal, |problem| stands_in(name, &problem))
}

fn compare_digest(name: &str, found: Sha256, manifest: &Manifest) -> Result<(), Refusal> {
    match manifest.files.get(name) {
        Some(expected) if *expected == found => Ok(()),
        Some(expected) => Err(Refusal::new(
            LoadFault::Digest,
            format!(
                "{name} is not the file that was added: its SHA-256 is {found}, and the manifest has {expected}; restore \
                 it, or add a new version"
            ),
        )),
        None => Err(Refusal::new(LoadFault::Files, format!("{name} is not in the manifest"))),
    }
}

/// A refusal of a version because a file is not the one that its name says.
fn stands_in(name: &str, problem: &str) -> Refusal {
    Refusal::new(LoadFault::Files, format!("{name}: {problem}"))
}

fn unreadable(name: &str, error: &std::io::Error) -> Refusal {
    Refusal::of_io(LoadFault::Files, name, error)
}

/// Source of a version's model bytes, from which a worker's session is opened again.
#[derive(Debug)]
struct VersionFolder {
    /// Location of the files, which the cache of an object store keeps for as long as this value lives.
    place: LocalVersion,
    identity: Sha256,
    optimised: Option<OptimisedGraph>,
    bytes: Mutex<Weak<ModelBytes>>,
}

impl ModelSource for VersionFolder {
    fn read(&self) -> Result<Arc<ModelBytes>, SetupError> {
        let mut kept = self.bytes.lock();
        if let Some(bytes) = kept.upgrade() {
            return Ok(bytes);
        }
        let again =
            FoundVersion::find(self.place.clone()).and_then(FoundVersion::read).map_err(SetupError::internal)?;
        if again.identity != self.identity {
            return Err(SetupError::internal("the version was replaced by another one since it was loaded"));
        }
        *kept = Arc::downgrade(&again.bytes);
        Ok(again.bytes)
    }

    fn optimised(&self) -> Option<&OptimisedGraph> {
        self.optimised.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_and_its_weights_fit_into_memory_together() {
        let folder = tempfile::tempdir().unwrap();
        let names: [FilePath; 2] = ["model.onnx", "weights.bin"].map(|name| name.parse().unwrap());
        let path = |name: &FilePath| folder.path().join(name.as_str());
        names.iter().for_each(|name| std::fs::write(path(name), [7; 60]).unwrap());
        let found = names.iter().map(|name| (name.clone(), path(name))).collect();
        let manifest = Manifest::of(names.iter().map(|name| (name.clone(), Sha256::of(&[7; 60]))).collect());
        let read = |available| {
            let mut limit = WeightsLimit { available };
            let sizes =
                names.each_ref().map(|name| limit.read(&found, &manifest, name.as_str()).map(|read| read.len()));
            sizes.map(|size| size.map_err(|refusal| refusal.fault))
        };
        assert_eq!(read(None), [Ok(60), Ok(60)]);
        assert_eq!(read(Some(120)), [Ok(60), Ok(60)]);
        assert_eq!(read(Some(119)), [Ok(60), Err(LoadFault::Resources)]);
        assert_eq!(read(Some(59)), [Err(LoadFault::Resources); 2]);
    }
}
