//! Notices that files have changed, by their metadata.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// Interval of checks. A check is one system call for each file.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches some files.
#[derive(Debug)]
pub(super) struct FileWatch {
    paths: Vec<PathBuf>,
    seen: Vec<Option<Stamp>>,
}

/// Facts about a file that change when it is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileWatch {
    /// Watches the files at these paths, from their present state on. Links are followed, also those that Kubernetes
    /// exchanges when a secret changes.
    pub(super) fn new(paths: Vec<PathBuf>) -> FileWatch {
        let seen = stamps(&paths);
        FileWatch { paths, seen }
    }

    /// Waits until a file has changed and stays the same for one interval, so that it is not read while it is written.
    pub(super) async fn changed(&mut self) {
        let mut changing: Option<Vec<Option<Stamp>>> = None;
        loop {
            tokio::time::sleep(INTERVAL).await;
            let paths = self.paths.clone();
            // A file system may hang, and must not take a thread that serves connections with it.
            let Ok(now) = tokio::task::spawn_blocking(move || stamps(&paths)).await else { continue };
            if changing.as_ref() == Some(&now) {
                self.seen = now;
                return;
            }
            changing = (now != self.seen).then_some(now);
        }
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let found = fs::metadata(path).ok()?;
        Some(Stamp {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    };
    paths.iter().map(stamp).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_replaced_written_or_removed_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut watch = FileWatch::new(vec![path.clone()]);
        fs::write(&path, "1").unwrap();
        watch.changed().await;
        fs::write(folder.path().join("b"), "2").unwrap();
        fs::rename(folder.path().join("b"), &path).unwrap();
        watch.changed().await;
        fs::remove_file(&path).unwrap();
        watch.changed().await;
        assert!(tokio::time::timeout(3 * INTERVAL, watch.changed()).await.is_err());
    }
}
