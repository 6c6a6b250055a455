//! State on a disk that is full or read-only: its deployments are served, and nothing new is written.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::database::Database;
use super::file::Checks;
use super::journal::SqliteJournal;
use crate::api::admin::Deployment;
use crate::deploy::{Appended, Journal, Latest};
use crate::error::{OperatorError, Result, SetupError};
use crate::feedback::{Entry, Ledger, LedgerKey, NotRecorded, Recorded};
use crate::identity::ModelName;
use crate::state::memory::MemoryJournal;

/// A deployment journal that could only be read when the server started. Each write tries to open it again for writing.
#[derive(Debug)]
pub(in crate::state) struct FrozenJournal {
    path: PathBuf,
    latest: MemoryJournal,
    problem: String,
    checks: Checks,
    thawed: OnceCell<SqliteJournal>,
}

impl FrozenJournal {
    /// Creates a journal that returns these deployments until its file can be opened for writing.
    pub(in crate::state) fn new(path: PathBuf, latest: Vec<Deployment>, problem: String) -> FrozenJournal {
        let latest = MemoryJournal::with(latest);
        FrozenJournal { path, latest, problem, checks: Checks::default(), thawed: OnceCell::new() }
    }

    /// Returns the journal in the file, opened for writing. Fails while the disk cannot be written to.
    async fn thaw(&self) -> Result<&SqliteJournal, OperatorError> {
        let open = async || match is_writable(&self.path, &self.checks).await {
            Ok(()) => match Database::open(&self.path).await {
                Ok(database) => Ok(SqliteJournal::new(Arc::new(database))),
                Err(error) => Err(OperatorError::Journal(error.to_string())),
            },
            Err(_) => Err(OperatorError::Journal(format!(
                "it could only be read when the server was started ({}), and still cannot be written",
                self.problem
            ))),
        };
        self.thawed.get_or_try_init(open).await
    }
}

#[async_trait]
impl Journal for FrozenJournal {
    async fn latest(&self) -> Result<Latest, SetupError> {
        match self.thawed.get() {
            Some(journal) => journal.latest().await,
            None => self.latest.latest().await,
        }
    }

    /// Never returns: the regular polls read the journal.
    async fn changed(&self) {
        std::future::pending().await
    }

    async fn append(&self, next: &Deployment) -> Result<Appended, OperatorError> {
        self.thaw().await?.append(next).await
    }

    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>, OperatorError> {
        match self.thawed.get() {
            Some(journal) => journal.history(model, before, limit).await,
            None => self.latest.history(model, before, limit).await,
        }
    }
}

/// A ledger that refuses all feedback, because its file could not be written when the server started.
#[derive(Debug)]
pub(in crate::state) struct ClosedLedger {
    pub(in crate::state) key: Vec<u8>,
    pub(in crate::state) problem: String,
}

#[async_trait]
impl Ledger for ClosedLedger {
    async fn key(&self) -> Result<LedgerKey, SetupError> {
        Ok(LedgerKey::Shared(self.key.clone()))
    }

    async fn record(&self, _: &[Entry]) -> Result<Vec<Recorded>, NotRecorded> {
        let problem = &self.problem;
        Err(NotRecorded::Failed(format!(
            "the file at state.url could not be written when the server was started: {problem}"
        )))
    }
}

/// Checks that the disk can be written and has space for a file at this path. Other problems are reported when the file
/// is opened.
pub(in crate::state) async fn writable(path: &Path) -> Result<(), String> {
    is_writable(path, &Checks::default()).await
}

async fn is_writable(path: &Path, checks: &Checks) -> Result<(), String> {
    let path = path.to_owned();
    match checks.run(move || try_to_write(&path)).await? {
        Ok(()) => Ok(()),
        Err(error) => disk_problem(&error).map_or(Ok(()), Err),
    }
}

/// Returns the problem if an operator has to free space or make the disk writable; `None` for other errors.
pub(in crate::state) fn disk_problem(error: &io::Error) -> Option<String> {
    let problem = match error.kind() {
        io::ErrorKind::StorageFull => "its disk is full",
        io::ErrorKind::QuotaExceeded => "its disk quota is used up",
        io::ErrorKind::ReadOnlyFilesystem => "its disk is read-only",
        _ => return None,
    };
    Some(problem.to_owned())
}

/// Writes and removes a file as large as the index that SQLite creates beside its own file.
fn try_to_write(path: &Path) -> io::Result<()> {
    const INDEX: usize = 32 << 10;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".leeway-").tempfile_in(folder)?;
    file.write_all(&[0; INDEX])?;
    file.flush()
}
