//! Writing a new version: its files are put into a hidden folder beside the others, tried, and made a version by one
//! rename. Whatever breaks off leaves no half version.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::value::RawValue;

use super::files;
use super::findings::{Findings, MAX_COMPARING};
use super::golden::Golden;
use super::layout;
use super::load_order::{LoadOrder, Pace};
use super::manifest::{BASELINE_FILE, FilePath, GOLDEN_FILE, MANIFEST_FILE, MODEL_FILE, Manifest};
use super::opened::OpenedVersion;
use super::refusal::Refusal;
use super::training_data::{Progress, TrainingData, make_baseline};
use super::trial::Trial;
use super::verified::{self, FoundVersion, VerifiedVersion};
use crate::config::{Batching, ModelConfig, SessionPlace};
use crate::error::{Error, Result};
use crate::identity::{Sha256, Version};
use crate::model::Engine;
use crate::monitor::Baseline;
use crate::pipeline::Stages;

/// Files of a new version.
#[derive(Debug, Clone, Default)]
pub struct NewFiles {
    /// The model. Stored as `model.onnx`.
    pub onnx: PathBuf,
    /// Other files, stored under their own names: weights that the model keeps outside itself, a tokenizer, labels.
    pub others: Vec<PathBuf>,
    /// Examples, stored as `golden.json`.
    pub golden: Option<PathBuf>,
    /// Instances whose predictions are recorded as examples.
    pub record: Option<RecordedFrom>,
    /// Training data of the model, of which a baseline is made.
    pub training_data: Option<TrainingData>,
}

/// Source of recorded examples.
#[derive(Debug, Clone)]
pub struct RecordedFrom {
    /// One instance per line, as JSON.
    pub instances: PathBuf,
    /// Tolerance of numbers when they are checked.
    pub tolerance: f64,
}

/// A version to add.
#[derive(Debug, Clone)]
pub struct Addition<'a> {
    /// The model's folder.
    pub model: &'a Path,
    /// The files.
    pub files: &'a NewFiles,
    /// Facts about the version. The files are filled in.
    pub facts: Manifest,
}

/// The version that was added.
#[derive(Debug)]
pub struct Added {
    /// The new version.
    pub version: Version,
    /// Its folder.
    pub folder: PathBuf,
    /// Its manifest, with its files.
    pub manifest: Manifest,
    /// Number of its examples.
    pub examples: usize,
    /// Its baseline, if one was made.
    pub baseline: Option<Baseline>,
    /// Findings of its first runs.
    pub findings: Findings,
    /// The setting in `model.toml`.
    pub batching: Batching,
}

/// Checks that a version loads and fits its `model.toml`, and adds it as the next one.
pub fn add(
    addition: Addition<'_>,
    engine: &dyn Engine,
    stages: &Stages,
    trial: Option<&Trial>,
    progress: &dyn Fn(Progress),
) -> Result<Added> {
    let Addition { model: folder, files: new, facts } = addition;
    let model = folder.canonicalize().map_err(|error| wrong(folder, &error))?;
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    let name = name.parse().map_err(|error| Error::Repository(format!("{}: {error}", model.display())))?;
    let config_file = model.join("model.toml");
    let config = Arc::new(ModelConfig::read(&config_file).map_err(|error| Error::Repository(error.to_string()))?);

    let (staging, _lock) = staging(&model).map_err(|error| wrong(&model, &error))?;
    let mut order = LoadOrder {
        model: name,
        version: layout::next_version(&model)?,
        config_file,
        config,
        folder: staging.path().to_owned(),
        place: SessionPlace::Server,
        pace: Pace::Full,
    };
    let refused = |refusal: Refusal| Error::Repository(refusal.to_string());
    stage_files(new, staging.path())?;
    let mut manifest = write_manifest(facts, staging.path())?;
    fail::fail_point!("add::staged");

    let found = FoundVersion::find(staging.path()).map_err(refused)?;
    let findings = trial.map(|trial| trial.run(&order, &found)).transpose().map_err(refused)?;
    let verified = found.read().map_err(refused)?;
    let mut examples = verified.golden.as_ref().map_or(0, |golden| golden.instances.len());
    let mut baseline = None;
    let is_asked_for_more = new.record.is_some() || new.training_data.is_some();
    let (mut findings, opened) = match findings {
        Some(findings) if !is_asked_for_more => (findings, None),
        findings => {
            let opened = OpenedVersion::open(engine, stages, &order, verified).map_err(refused)?;
            let findings =
                findings.map_or_else(|| opened.examine(&mut *opened.session()?, MAX_COMPARING), Ok).map_err(refused)?;
            (findings, Some(opened))
        }
    };
    if let Some(opened) = opened.filter(|_| is_asked_for_more) {
        if let Some(from) = &new.record {
            let golden = record(from, &opened)?;
            examples = golden.instances.len();
            write_json(&golden, &staging.path().join(GOLDEN_FILE))?;
        }
        if let Some(data) = &new.training_data {
            let (made, assumptions) = make_baseline(data, &opened, &findings, progress)?;
            findings.remarks.extend(assumptions);
            write_json(&made, &staging.path().join(BASELINE_FILE))?;
            baseline = Some(made);
        }
        manifest = write_manifest(manifest, staging.path())?;
    }
    sync(staging.path()).map_err(|error| wrong(staging.path(), &error))?;
    fail::fail_point!("add::checked");

    // From here on the folder is not deleted any more, whatever happens.
    let staging = staging.keep();
    loop {
        let to = model.join(order.version.to_string());
        match rename_to_nothing(&staging, &to) {
            Ok(()) => {
                fail::fail_point!("add::renamed");
                File::open(&model).and_then(|folder| folder.sync_all()).map_err(|error| wrong(&model, &error))?;
                let (version, batching) = (order.version, order.config.model.batching);
                return Ok(Added { version, folder: to, manifest, examples, baseline, findings, batching });
            }
            // Someone else added one meanwhile.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => order.version = layout::next_version(&model)?,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&staging);
                return Err(wrong(&to, &error));
            }
        }
    }
}

/// Makes a baseline for a version that is there already, in place of the one that it has, if it has one. The version is
/// exchanged as a whole. Nobody may rely on it yet: its digest changes. Also says what was taken for granted of the data.
pub fn add_baseline(
    model: &Path,
    version: Version,
    data: &TrainingData,
    engine: &dyn Engine,
    stages: &Stages,
    progress: &dyn Fn(Progress),
) -> Result<(Manifest, Baseline, Vec<String>)> {
    let model = model.canonicalize().map_err(|error| wrong(model, &error))?;
    let found = layout::model(model.clone())?;
    let folder = found.versions.get(&version).ok_or_else(|| {
        let known: Vec<String> = found.versions.keys().map(Version::to_string).collect();
        Error::Repository(format!("{}: there is no version {version}; there is: {}", model.display(), known.join(", ")))
    })?;
    let refused = |refusal: Refusal| Error::Repository(format!("{}: {refusal}", folder.display()));
    let verified = VerifiedVersion::read(folder).map_err(refused)?;
    let facts = Manifest::clone(&verified.manifest);
    let order = LoadOrder {
        model: found.name,
        version,
        config: Arc::new(ModelConfig::read(&found.config).map_err(|error| Error::Repository(error.to_string()))?),
        config_file: found.config,
        folder: folder.clone(),
        place: SessionPlace::Server,
        pace: Pace::Full,
    };
    let opened = OpenedVersion::open(engine, stages, &order, verified).map_err(refused)?;
    let findings =
        opened.session().and_then(|mut session| opened.examine(&mut *session, MAX_COMPARING)).map_err(refused)?;
    let (baseline, assumptions) = make_baseline(data, &opened, &findings, progress)?;

    let (staging, _lock) = staging(&model).map_err(|error| wrong(&model, &error))?;
    for (name, path) in files::list(folder).map_err(refused)? {
        let to = staging.path().join(name.as_str());
        to.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(|error| wrong(&to, &error))?;
        std::fs::copy(&path, &to).map_err(|error| wrong(&path, &error))?;
    }
    write_json(&baseline, &staging.path().join(BASELINE_FILE))?;
    let manifest = write_manifest(facts, staging.path())?;
    VerifiedVersion::read(staging.path()).map_err(refused)?;
    sync(staging.path()).map_err(|error| wrong(staging.path(), &error))?;
    exchange(staging.path(), folder).map_err(|error| wrong(folder, &error))?;
    File::open(&model).and_then(|folder| folder.sync_all()).map_err(|error| wrong(&model, &error))?;
    Ok((manifest, baseline, assumptions))
}

fn write_json(value: &impl serde::Serialize, path: &Path) -> Result<()> {
    let mut text = serde_json::to_vec(value).map_err(Error::internal)?;
    text.push(b'\n');
    std::fs::write(path, text).map_err(|error| wrong(path, &error))
}

/// Prefix of the temporary folders in which versions are put together.
const STAGING: &str = ".adding-";

/// Creates a temporary folder for a version, locked for the lifetime of the file. Removes abandoned folders: the lock
/// of a process ends with it, however it ends.
fn staging(model: &Path) -> io::Result<(tempfile::TempDir, File)> {
    remove_staging(model);
    loop {
        let prefix = format!("{STAGING}{}-", std::process::id());
        let staging = tempfile::Builder::new().prefix(&prefix).tempdir_in(model)?;
        let lock = match File::open(staging.path()) {
            Ok(lock) => lock,
            // Another `leeway add` has just removed the folder as abandoned.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) if staging.path().exists() => return Ok((staging, lock)),
            Ok(()) | Err(TryLockError::WouldBlock) => continue,
            // A file system without locks. Abandoned folders stay there.
            Err(TryLockError::Error(_)) => return Ok((staging, lock)),
        }
    }
}

/// Removes the temporary folders of this process in a model's folder, even while they are being written. For a process
/// that is about to end.
pub fn abandon_additions(model: &Path) {
    let prefix = format!("{STAGING}{}-", std::process::id());
    for folder in staging_folders(model, &prefix) {
        // Another thread may still be writing.
        for _ in 0..100 {
            if std::fs::remove_dir_all(&folder).is_ok() || !folder.exists() {
                break;
            }
        }
    }
}

/// Removes the abandoned temporary folders: those that are not locked.
fn remove_staging(model: &Path) {
    for folder in staging_folders(model, STAGING) {
        let Ok(lock) = File::open(&folder) else { continue };
        if lock.try_lock().is_ok() {
            let removed = std::fs::remove_dir_all(&folder);
            tracing::info!(folder = %folder.display(), ok = removed.is_ok(), "removed what an interrupted `leeway add` had left");
        }
    }
}

fn staging_folders(model: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(model).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect()
}

/// Copies the files to where they will be a version.
fn stage_files(new: &NewFiles, staging: &Path) -> Result<()> {
    let copy = |from: &Path, name: &str| {
        let to = staging.join(name);
        if to.exists() {
            return Err(Error::Repository(format!("{}: there are two files of the name {name}", from.display())));
        }
        let mut source = open_regular(from).map_err(|error| wrong(from, &error))?;
        let mut target = File::create_new(&to).map_err(|error| wrong(&to, &error))?;
        io::copy(&mut source, &mut target).map_err(|error| wrong(from, &error)).map(drop)
    };
    copy(&new.onnx, MODEL_FILE)?;
    for other in &new.others {
        let name = other.file_name().unwrap_or_default().to_string_lossy();
        if name == MANIFEST_FILE {
            return Err(Error::Repository(format!("{}: the manifest is written by `leeway add`", other.display())));
        }
        if name == BASELINE_FILE && new.training_data.is_some() {
            let problem = "a baseline is made of --baseline-data; give one of both";
            return Err(Error::Repository(format!("{}: {problem}", other.display())));
        }
        copy(other, &name)?;
    }
    if let Some(golden) = &new.golden {
        copy(golden, GOLDEN_FILE)?;
    }
    Ok(())
}

/// Opens a file for copying. Follows links, but refuses files without an end and those that block.
fn open_regular(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let file = File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("is not a regular file")),
    }
}

/// Writes the manifest for the files that are there.
fn write_manifest(facts: Manifest, folder: &Path) -> Result<Manifest> {
    let mut digests = BTreeMap::<FilePath, Sha256>::new();
    for (name, path) in files::list(folder).map_err(|refusal| Error::Repository(refusal.to_string()))? {
        let digest = files::digest(&path).map_err(|error| wrong(&path, &error))?;
        digests.insert(name, digest);
    }
    let added_at = Some(facts.added_at.unwrap_or_else(Timestamp::now));
    let manifest = Manifest { added_at, files: digests, ..facts };
    let text = manifest.to_toml().map_err(Error::Repository)?;
    let path = folder.join(MANIFEST_FILE);
    std::fs::write(&path, text).map_err(|error| wrong(&path, &error))?;
    Ok(manifest)
}

/// Asks the model itself for its predictions.
fn record(from: &RecordedFrom, opened: &OpenedVersion) -> Result<Golden> {
    let refused = |problem: String| Error::Repository(format!("{}: {problem}", from.instances.display()));
    let text = std::fs::read_to_string(&from.instances).map_err(|error| wrong(&from.instances, &error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str::<Box<RawValue>>(line).map_err(|error| {
            let (line, column) = (index + 1, error.column());
            refused(format!("line {line}, column {column}: this is not an instance as JSON: {error}"))
        })
    };
    let instances: Vec<Box<RawValue>> = lines.map(parse).collect::<Result<_>>()?;
    let mut golden = Golden { instances, predictions: Vec::new(), tolerance: from.tolerance };
    let mut session = opened.session().map_err(|refusal| refused(refusal.to_string()))?;
    let predictions = opened
        .predict(&mut *session, &golden)
        .enumerate()
        .map(|(index, prediction)| prediction.map_err(|problem| refused(format!("instance {}: {problem}", index + 1))));
    golden.predictions = predictions.collect::<Result<_>>()?;
    let text = serde_json::to_vec(&golden).map_err(Error::internal)?;
    // As it will be read.
    verified::parse_golden(&text).map_err(|refusal: Refusal| refused(refusal.to_string()))
}

/// So that the rename does not come to the disk before what it renames.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    // Readable by whoever serves it: temporary folders are their owner's only.
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    File::open(folder)?.sync_all()
}

/// A rename that replaces nothing, not even an empty folder.
fn rename_to_nothing(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
}

/// Each becomes the other, at one moment.
fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

fn wrong(path: &Path, error: &io::Error) -> Error {
    Error::Repository(format!("{}: {error}", path.display()))
}

/// A version's folder made of files that are already there: for tests, which lay out repositories by hand.
impl Manifest {
    /// Writes a manifest for whatever files are in a folder, without trying them.
    pub fn write_for(folder: &Path) -> Result<Manifest> {
        write_manifest(Manifest::of(BTreeMap::new()), folder)
    }
}
