//! Detects that the open state file is no longer the file at its path.
//!
//! A process can still write to an open file that was removed, moved or replaced, but these writes are lost when the
//! process ends. Therefore the file at the path is compared with the open one before a change is acknowledged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

/// Timeout of a check of the state file, including the wait for earlier checks. A file system that takes longer counts
/// as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Identities of the files of an open SQLite database, taken when it was opened.
#[derive(Debug)]
pub(super) struct StateFile {
    files: Arc<[(PathBuf, Identity)]>,
    checks: Checks,
}

/// Runs checks of a file system one at a time, on threads that may block, because a file system can be slow. A check
/// that hangs occupies only one thread, even if many callers wait.
#[derive(Debug, Clone)]
pub(super) struct Checks {
    /// Locked while a check runs, even after its caller has stopped waiting.
    running: Arc<Mutex<()>>,
    timeout: Duration,
}

impl Default for Checks {
    fn default() -> Checks {
        Checks { running: Arc::default(), timeout: CHECK_TIMEOUT }
    }
}

/// Device and inode, which identify a file on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl StateFile {
    /// Records the files of the database at this path, which has just been opened.
    pub(super) fn opened(path: &Path) -> io::Result<StateFile> {
        let mut files = vec![(path.to_owned(), Identity::of(path)?)];
        // The latest changes are in the write-ahead log, which exists as long as the database is open.
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = PathBuf::from(log);
        if let Ok(identity) = Identity::of(&log) {
            files.push((log, identity));
        }
        Ok(StateFile { files: files.into(), checks: Checks::default() })
    }

    /// Fails if the files at the paths are not the open ones. The error describes the difference.
    pub(super) async fn check(&self) -> Result<(), String> {
        let files = Arc::clone(&self.files);
        self.checks.run(move || files.iter().try_for_each(|(path, opened)| compare(path, *opened))).await?
    }
}

impl Checks {
    /// Returns the result of a check, or an error if the file system does not answer in time.
    pub(super) async fn run<T: Send + 'static>(&self, check: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let checked = async {
            let running = Arc::clone(&self.running).lock_owned().await;
            let check = move || {
                let result = check();
                drop(running);
                result
            };
            tokio::task::spawn_blocking(check).await.map_err(|error| error.to_string())
        };
        let late = |_| format!("the file system of the file at state.url has not answered for {:?}", self.timeout);
        tokio::time::timeout(self.timeout, checked).await.map_err(late)?
    }
}

impl Identity {
    #[cfg(unix)]
    fn of(path: &Path) -> io::Result<Identity> {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(path).map(|found| Identity { device: found.dev(), inode: found.ino() })
    }

    /// On other systems an open file cannot be removed, so all identities are equal.
    #[cfg(not(unix))]
    fn of(path: &Path) -> io::Result<Identity> {
        std::fs::metadata(path).map(|_| Identity { device: 0, inode: 0 })
    }
}

/// Fails if the file at a path is not the open one. Callers see the message, so it does not contain the path.
fn compare(path: &Path, opened: Identity) -> Result<(), String> {
    let what = match Identity::of(path) {
        Ok(found) if found == opened => return Ok(()),
        Ok(_) => "is a different file now",
        Err(error) if error.kind() == io::ErrorKind::NotFound => "no longer exists",
        Err(_) => "can no longer be checked",
    };
    let which = if path.extension().is_some_and(|end| end.as_encoded_bytes().ends_with(b"-wal")) {
        "the write-ahead log of the file at state.url"
    } else {
        "the file at state.url"
    };
    Err(format!(
        "{which} {what}, but the server still has the former file open, so that all writes would be lost; put the \
         former file back, or restart the server, which then uses the file at state.url"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_file_system_that_hangs_takes_one_thread_and_is_a_failure() {
        let checks = Checks { timeout: Duration::from_millis(10), ..Checks::default() };
        let started = Arc::new(AtomicUsize::new(0));
        let (answer, hung) = std::sync::mpsc::channel::<()>();
        let hung = Arc::new(parking_lot::Mutex::new(hung));
        let asking: Vec<_> = (0..64)
            .map(|_| {
                let (checks, started, hung) = (checks.clone(), Arc::clone(&started), Arc::clone(&hung));
                let hang = move || {
                    started.fetch_add(1, Ordering::SeqCst);
                    let _ = hung.lock().recv();
                };
                tokio::spawn(async move { checks.run(hang).await })
            })
            .collect();
        for asking in asking {
            assert!(asking.await.unwrap().unwrap_err().contains("has not answered for 10ms"));
        }
        // The next check has its turn once the hung one has ended.
        drop(answer);
        assert_eq!(started.load(Ordering::SeqCst), 1);
        while checks.run(|| 7).await != Ok(7) {}
    }

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
            assert!(problem().await.contains("no longer exists"));
            std::fs::write(one, "another").unwrap();
            assert!(problem().await.contains("is a different file now"));
            std::fs::rename(&kept, one).unwrap();
            assert_eq!(file.check().await, Ok(()));
        }
        std::fs::rename(folder.path().join("state"), folder.path().join("moved")).unwrap();
        assert!(problem().await.contains("no longer exists"));
    }
}
