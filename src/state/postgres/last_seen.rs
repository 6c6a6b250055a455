//! The deployments and the key that this machine has last seen in the database (`state.last_seen`), for a start while the
//! database cannot be reached.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::api::admin::Deployment;

/// The file with what was last seen.
#[derive(Debug)]
pub(super) struct LastSeen {
    path: PathBuf,
    /// The content of the file, once it was read or written.
    content: Mutex<Option<Seen>>,
    /// True once a failed write was logged.
    has_failed: AtomicBool,
}

/// Content of the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// The current deployment of every model; `None` if they were never read.
    pub(super) deployments: Option<Vec<Deployment>>,
    /// The key that prediction ids are signed with, in hexadecimal digits.
    pub(super) feedback_key: Option<String>,
}

impl LastSeen {
    /// Creates what is remembered in this file.
    pub(super) fn new(path: PathBuf) -> LastSeen {
        LastSeen { path, content: Mutex::default(), has_failed: AtomicBool::new(false) }
    }

    /// Returns what was last seen; nothing if the file does not exist or cannot be read.
    pub(super) async fn read(&self) -> Seen {
        let mut content = self.content.lock().await;
        content.get_or_insert_with(|| read_file(&self.path)).clone()
    }

    /// Remembers the current deployments of all models.
    pub(super) async fn deployments(&self, latest: &[Deployment]) {
        self.change(|seen| seen.deployments = Some(latest.to_vec())).await;
    }

    /// Remembers the current deployment of a model.
    pub(super) async fn deployment(&self, latest: &Deployment) {
        self.change(|seen| {
            let deployments = seen.deployments.get_or_insert_default();
            deployments.retain(|known| known.model != latest.model);
            deployments.push(latest.clone());
            deployments.sort_by(|one, other| one.model.cmp(&other.model));
        })
        .await;
    }

    /// Remembers the key that prediction ids are signed with.
    pub(super) async fn feedback_key(&self, key: &str) {
        self.change(|seen| seen.feedback_key = Some(key.to_owned())).await;
    }

    /// Changes what is remembered, and writes the file if that has made a difference.
    async fn change(&self, change: impl FnOnce(&mut Seen)) {
        let mut content = self.content.lock().await;
        let before = content.get_or_insert_with(|| read_file(&self.path)).clone();
        let mut now = before.clone();
        change(&mut now);
        if now == before {
            return;
        }
        let (path, written) = (self.path.clone(), now.clone());
        let result = tokio::task::spawn_blocking(move || write_file(&path, &written)).await;
        match result.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(()) => *content = Some(now),
            // Tried again at the next change.
            Err(error) => {
                if !self.has_failed.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        file = %self.path.display(), %error,
                        "the deployments cannot be remembered on this machine (state.last_seen); a start without the \
                         database would serve nothing"
                    );
                }
            }
        }
    }
}

fn read_file(path: &Path) -> Seen {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Seen::default(),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "state.last_seen cannot be read");
            return Seen::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(file = %path.display(), %error, "state.last_seen is not as Leeway writes it, and is ignored");
        Seen::default()
    })
}

/// Replaces the file as a whole. Only this user can read it, because of the key.
fn write_file(path: &Path, seen: &Seen) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".last-seen-").tempfile_in(folder)?;
    serde_json::to_writer(&mut file, seen)?;
    file.flush()?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[tokio::test]
    async fn it_is_there_at_the_next_start_and_only_for_this_user() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/last-seen.json");
        assert_eq!(LastSeen::new(path.clone()).read().await, Seen::default());
        let deployment = Deployment::first("digits".parse().unwrap(), "1".parse().unwrap(), Timestamp::UNIX_EPOCH);
        let seen = LastSeen::new(path.clone());
        seen.deployments(&[]).await;
        seen.deployment(&deployment).await;
        seen.feedback_key("abcd").await;
        let expected = Seen { deployments: Some(vec![deployment]), feedback_key: Some("abcd".to_owned()) };
        assert_eq!(LastSeen::new(path.clone()).read().await, expected);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "{\"deployments\"").unwrap();
        assert_eq!(LastSeen::new(path).read().await, Seen::default());
    }
}
