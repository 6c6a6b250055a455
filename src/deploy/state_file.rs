//! Notices that the open state file is no longer the file at its path.
//!
//! A process that has a file open keeps it after it was removed, moved or replaced, and what it writes there is lost at
//! its end. So before a change is acknowledged, the file at the path is compared with the open one.

use std::io;
use std::path::{Path, PathBuf};

/// Identities of the files of an open SQLite database, taken when it was opened.
#[derive(Debug, Clone)]
pub struct StateFile {
    files: Vec<(PathBuf, Identity)>,
}

/// Identity of a file on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl StateFile {
    /// Notes the files of the database at this path, which has just been opened.
    pub fn opened(path: &Path) -> io::Result<StateFile> {
        let mut files = vec![(path.to_owned(), Identity::of(path)?)];
        // The latest changes are in the write-ahead log, which exists as long as the database is open.
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = PathBuf::from(log);
        if let Ok(identity) = Identity::of(&log) {
            files.push((log, identity));
        }
        Ok(StateFile { files })
    }

    /// Fails if the files at the paths are not the open ones. The error describes the difference.
    pub async fn check(&self) -> Result<(), String> {
        let files = self.files.clone();
        let compare = move || files.iter().try_for_each(|(path, opened)| compare(path, *opened));
        // On a thread of its own, because a file system can be slow.
        tokio::task::spawn_blocking(compare).await.map_err(|error| error.to_string())?
    }
}

impl Identity {
    #[cfg(unix)]
    fn of(path: &Path) -> io::Result<Identity> {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path).map(|found| Identity { device: found.dev(), inode: found.ino() })
    }

    /// On other systems an open file cannot be removed.
    #[cfg(not(unix))]
    fn of(path: &Path) -> io::Result<Identity> {
        std::fs::metadata(path).map(|_| Identity { device: 0, inode: 0 })
    }
}

/// Callers see the message, so it names no path.
fn compare(path: &Path, opened: Identity) -> Result<(), String> {
    let what = match Identity::of(path) {
        Ok(found) if found == opened => return Ok(()),
        Ok(_) => "is another one now",
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is not there any more",
        Err(_) => "cannot be looked at any more",
    };
    let which = if path.extension().is_some_and(|end| end.as_encoded_bytes().ends_with(b"-wal")) {
        "the write-ahead log of the file at state.url"
    } else {
        "the file at state.url"
    };
    Err(format!(
        "{which} {what}, while the server has the former one open, so that nothing that is written would last; put the former \
         one back, or restart the server, which then goes on with what is at state.url"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_gone_moved_or_another_one_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/leeway.db");
        std::fs::create_dir(folder.path().join("state")).unwrap();
        std::fs::write(&path, "one").unwrap();
        let log = folder.path().join("state/leeway.db-wal");
        std::fs::write(&log, "one").unwrap();
        let file = StateFile::opened(&path).unwrap();
        assert_eq!(file.check().await, Ok(()));
        // Writing to the file does not change its identity.
        std::fs::write(&path, "more").unwrap();
        assert_eq!(file.check().await, Ok(()));
        let problem = async || file.check().await.unwrap_err();

        let kept = folder.path().join("kept");
        for one in [&path, &log] {
            std::fs::rename(one, &kept).unwrap();
            assert!(problem().await.contains("is not there any more"));
            std::fs::write(one, "another").unwrap();
            assert!(problem().await.contains("is another one now"));
            std::fs::rename(&kept, one).unwrap();
            assert_eq!(file.check().await, Ok(()));
        }
        std::fs::rename(folder.path().join("state"), folder.path().join("moved")).unwrap();
        assert!(problem().await.contains("is not there any more"));
    }
}
