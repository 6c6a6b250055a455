//! The folder of the log: `<model>/<version>/predictions-….parquet`. A file appears by one rename when it is whole and on
//! the disk, so no reader sees a part of one. Until then it has a hidden name, and is locked by its process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::rotation::{SizedFile, time_in_name};
use crate::error::SetupError;
use crate::identity::{ModelName, Version};
use crate::monitor::LoggedRows;

/// Ending of the hidden names of files that are being written.
const UNFINISHED: &str = ".tmp";
/// Permissions of files: they may have personal data.
const MODE: u32 = 0o640;

/// The folder of the log.
#[derive(Debug)]
pub(super) struct LogFolder {
    path: PathBuf,
}

impl LogFolder {
    /// Opens the folder, and makes it if there is none. Removes what dead processes have left behind. Fails if no file
    /// can be written there.
    pub(super) fn open(path: &Path) -> Result<LogFolder, SetupError> {
        let wrong = |error: io::Error| SetupError::Config(format!("prediction_log.path: {}: {error}", path.display()));
        fs::create_dir_all(path).map_err(wrong)?;
        tempfile::Builder::new().prefix(".writable-").tempfile_in(path).map_err(wrong)?;
        let folder = LogFolder { path: path.to_owned() };
        for (path, _) in folder.all_files().map_err(wrong)? {
            if is_unfinished(&path) && is_abandoned(&path) {
                fs::remove_file(&path).map_err(wrong)?;
            }
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file by `write`, and gives it its name when it is on the disk. Leaves nothing behind if that fails.
    pub(super) fn write<T>(
        &self,
        (model, version): (&ModelName, Version),
        name: &str,
        write: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        let folder = self.path.join(model.as_str()).join(version.to_string());
        fs::create_dir_all(&folder)?;
        let unfinished = folder.join(format!(".{name}{UNFINISHED}"));
        let file = File::options().write(true).create_new(true).mode(MODE).open(&unfinished)?;
        let written = write_and_rename(&file, &unfinished, &folder.join(name), write);
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// Returns the finished files of all models.
    pub(super) fn files(&self) -> io::Result<Vec<SizedFile<PathBuf>>> {
        let sized = |(file, bytes): (PathBuf, u64)| {
            let name = file.file_name()?.to_str()?;
            let time =
                [LoggedRows::Predictions, LoggedRows::Outcomes].iter().find_map(|kind| time_in_name(*kind, name));
            let time = time?.to_owned();
            Some(SizedFile { file, time, bytes })
        };
        Ok(self.all_files()?.into_iter().filter_map(sized).collect())
    }

    /// Removes a file.
    pub(super) fn remove(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }

    /// Returns the files in the folders of all versions, with their sizes. A file that disappears meanwhile is left out.
    fn all_files(&self) -> io::Result<Vec<(PathBuf, u64)>> {
        let mut found = Vec::new();
        for model in folders_in(&self.path)? {
            for version in folders_in(&model)? {
                for entry in entries(&version)? {
                    let entry = entry?;
                    if let Ok(metadata) = entry.metadata()
                        && metadata.is_file()
                    {
                        found.push((entry.path(), metadata.len()));
                    }
                }
            }
        }
        Ok(found)
    }
}

fn write_and_rename<T>(
    file: &File,
    unfinished: &Path,
    finished: &Path,
    write: impl FnOnce(&File) -> io::Result<T>,
) -> io::Result<T> {
    // A file system without locks: no process will take the file for abandoned.
    let _ = file.try_lock();
    let done = write(file)?;
    file.sync_all()?;
    fail::fail_point!("prediction_log::synced");
    fs::rename(unfinished, finished)?;
    if let Some(folder) = finished.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(done)
}

/// Returns true if the process that wrote this file has ended: its lock ended with it.
fn is_abandoned(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with('.') && name.ends_with(UNFINISHED)
    })
}

fn folders_in(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in entries(path)? {
        let entry = entry?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// Returns the entries of a folder; none if there is no such folder.
fn entries(path: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(path) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder.join("digits/2")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_whole_or_not_there() {
        let place = tempfile::tempdir().unwrap();
        let folder = LogFolder::open(place.path()).unwrap();
        let (model, version) = ("digits".parse().unwrap(), "2".parse().unwrap());
        let name = "outcomes-20261127T210359.123Z-000000ab-3.parquet";
        let failed = folder.write((&model, version), name, |mut file| {
            file.write_all(b"half")?;
            Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull))
        });
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(names(place.path()).is_empty());
        folder.write((&model, version), name, |mut file| file.write_all(b"all of it")).unwrap();
        assert_eq!(names(place.path()), [name]);
        assert_eq!(folder.files().unwrap()[0].bytes, 9);
    }

    #[test]
    fn what_dead_processes_leave_behind_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let versions = place.path().join("digits/2");
        fs::create_dir_all(&versions).unwrap();
        let alive = File::create(versions.join(".predictions-a.parquet.tmp")).unwrap();
        alive.try_lock().unwrap();
        fs::write(versions.join(".predictions-b.parquet.tmp"), "half").unwrap();
        fs::write(versions.join("predictions-c.parquet"), "whole").unwrap();
        LogFolder::open(place.path()).unwrap();
        let mut names = names(place.path());
        names.sort();
        assert_eq!(names, [".predictions-a.parquet.tmp", "predictions-c.parquet"]);
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let problem = LogFolder::open(&file.join("log")).unwrap_err().to_string();
        assert!(problem.starts_with("prediction_log.path: ") && problem.contains("file/log"), "{problem}");
    }
}
