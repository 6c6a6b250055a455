//! Hidden folders beside the versions of a model, in which a new version is built. Such a folder becomes a version by
//! one rename, so that an interruption never leaves half a version. A new model is built in the same way, beside the
//! models of a repository.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, renameat_with};

use crate::error::{Result, SetupError};
use crate::identity::Version;
use crate::repository::{FileKind, next_version};

/// Prefix of the names of staging folders.
const PREFIX: &str = ".adding-";

/// A folder in which a version is built. Removed on drop.
#[derive(Debug)]
pub(super) struct Staging {
    folder: tempfile::TempDir,
    /// The folder of the model.
    model: PathBuf,
    /// Locked while this process lives, which tells other processes that the folder is not abandoned.
    _lock: File,
}

impl Staging {
    /// Creates a staging folder for a model, and removes abandoned ones, which no process has locked. A lock ends with
    /// its process.
    pub(super) fn create(model: &Path) -> Result<Staging, SetupError> {
        let (folder, lock) = create_locked(model).map_err(|error| at(model, &error))?;
        Ok(Staging { folder, model: model.to_owned(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes the staging folder the next version of its model: `expected`, or a later one if that is taken. Returns the
    /// version and its folder. `sign` is called before, with the folder and the version that it is about to become.
    pub(super) fn become_version(
        self,
        expected: Version,
        sign: impl Fn(&Path, Version) -> Result<(), SetupError>,
    ) -> Result<(Version, PathBuf), SetupError> {
        let mut version = expected;
        sign(self.path(), version)?;
        let Staging { folder, model, _lock } = self;
        // From here on the folder is not deleted on drop.
        let staged = folder.keep();
        loop {
            let to = model.join(version.to_string());
            // Fails if the target exists, even as an empty folder.
            match renameat_with(CWD, &staged, CWD, &to, RenameFlags::NOREPLACE).map_err(io::Error::from) {
                Ok(()) => {
                    fail::fail_point!("add::renamed");
                    sync_folder(&model)?;
                    return Ok((version, to));
                }
                // Another process added this version meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    version = next_version(&model)?;
                    sign(&staged, version)?;
                }
                Err(error) => {
                    let _ = std::fs::remove_dir_all(&staged);
                    return Err(at(&to, &error));
                }
            }
        }
    }

    /// Makes the folder with this name within the staging folder a model of the repository, and returns its new path.
    /// Here, the parent of the staging folder is the repository.
    pub(super) fn publish_model(self, name: &str) -> Result<PathBuf, SetupError> {
        let (from, to) = (self.path().join(name), self.model.join(name));
        sync_files(&from).map_err(|error| at(&from, &error))?;
        renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE).map_err(|error| at(&to, &error.into()))?;
        sync_folder(&self.model)?;
        Ok(to)
    }

    /// Replaces the version in `folder` with the staging folder, in one atomic exchange, and removes the old files.
    pub(super) fn replace_version(self, folder: &Path) -> Result<(), SetupError> {
        renameat_with(CWD, self.path(), CWD, folder, RenameFlags::EXCHANGE)
            .map_err(|error| at(folder, &error.into()))?;
        sync_folder(&self.model)
    }

    /// Syncs the staging folder to disk, so that the rename does not reach the disk before the files.
    pub(super) fn sync(&self) -> Result<(), SetupError> {
        let folder = self.path();
        let sync = || {
            // Makes the folder readable for the server's user: temporary folders are private to their owner.
            std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            sync_files(folder)
        };
        sync().map_err(|error| at(folder, &error))
    }

    /// Writes a value as JSON into a file of the staging folder.
    pub(super) fn write_json(&self, value: &impl serde::Serialize, name: &str) -> Result<(), SetupError> {
        let mut text = serde_json::to_vec(value).map_err(SetupError::internal)?;
        text.push(b'\n');
        let path = self.path().join(name);
        std::fs::write(&path, text).map_err(|error| at(&path, &error))
    }

    /// Copies a file into the staging folder. Refuses a name that already exists, and a pointer of Git LFS.
    pub(super) fn copy(&self, from: &Path, name: &str) -> Result<(), SetupError> {
        let to = self.path().join(name);
        if to.exists() {
            return Err(SetupError::Repository(format!("{}: there are two files named {name}", from.display())));
        }
        let mut source = open_regular(from).map_err(|error| at(from, &error))?;
        let mut target = File::create_new(&to).map_err(|error| at(&to, &error))?;
        io::copy(&mut source, &mut target).map_err(|error| at(from, &error))?;
        let kind = FileKind::of_file(&to).map_err(|error| at(&to, &error))?;
        match kind.and_then(FileKind::problem_as_any_file) {
            Some(problem) => Err(SetupError::Repository(format!("{}: {problem}", from.display()))),
            None => Ok(()),
        }
    }
}

/// Removes the staging folders of this process for a model, even while they are being written. For a process that is
/// about to end.
pub fn abandon_additions(model: &Path) {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    for folder in staging_folders(model, &prefix) {
        // Tried repeatedly, because another thread may still be writing.
        for _ in 0..100 {
            if std::fs::remove_dir_all(&folder).is_ok() || !folder.exists() {
                break;
            }
        }
    }
}

/// Returns the error for a failed operation on a path.
pub(super) fn at(path: &Path, error: &io::Error) -> SetupError {
    SetupError::Repository(format!("{}: {error}", path.display()))
}

fn create_locked(model: &Path) -> io::Result<(tempfile::TempDir, File)> {
    remove_abandoned(model);
    loop {
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(model)?;
        let lock = match File::open(folder.path()) {
            Ok(lock) => lock,
            // Another `leeway add` has just removed the folder as abandoned.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) if folder.path().exists() => return Ok((folder, lock)),
            Ok(()) | Err(TryLockError::WouldBlock) => continue,
            // This file system has no locks. Abandoned folders are not removed there.
            Err(TryLockError::Error(_)) => return Ok((folder, lock)),
        }
    }
}

/// Removes the staging folders of a model that are not locked.
fn remove_abandoned(model: &Path) {
    for folder in staging_folders(model, PREFIX) {
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

/// Syncs the files and folders in a folder to disk, and then the folder.
fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

fn sync_folder(folder: &Path) -> Result<(), SetupError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| at(folder, &error))
}

/// Opens a file for copying. Follows links, but refuses devices and pipes, which may block or never end.
fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::from(rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("is not a regular file")),
    }
}
