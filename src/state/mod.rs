//! The state that outlives a server: the journal of deployments and the ledger of feedback, in memory or in SQLite
//! (`state.url`). The only module with SQL.
//!
//! - `memory.rs` has the state that is lost when the process ends.
//! - `sqlite.rs` opens the SQLite file, which `sqlite_journal.rs` and `sqlite_ledger.rs` use.
//! - `unwritable_disk.rs` is for a disk that is full or read-only.
//! - `file.rs` detects that the open file was removed or replaced.
//! - `key.rs` creates the key that prediction ids are signed with.

mod file;
mod key;
mod memory;
mod sqlite;
mod sqlite_journal;
mod sqlite_ledger;
mod unwritable_disk;

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use self::key::random_key;
pub use self::memory::{MemoryJournal, MemoryLedger};
use self::sqlite::{Database, check_file};
use self::sqlite_journal::SqliteJournal;
use self::sqlite_ledger::SqliteLedger;
use self::unwritable_disk::{ClosedLedger, FrozenJournal, writable};
use crate::config::StateUrl;
use crate::deploy::Journal;
use crate::error::{Result, SetupError};
use crate::feedback::Ledger;

/// The state of a server: its journal of deployments and its ledger of feedback.
#[derive(Debug)]
pub struct State {
    /// The journal of deployments.
    pub journal: Arc<dyn Journal>,
    /// The ledger of feedback.
    pub ledger: Arc<dyn Ledger>,
}

/// Opens the state at this address. The ledger remembers the last `remembered` entries.
///
/// On a full or read-only disk, the journal is opened for reading, and the ledger refuses all feedback.
pub async fn open(url: &StateUrl, remembered: NonZeroUsize) -> Result<State, SetupError> {
    let path = match url {
        StateUrl::Memory => {
            let (journal, ledger) = (MemoryJournal::default(), MemoryLedger::new(remembered));
            return Ok(State { journal: Arc::new(journal), ledger: Arc::new(ledger) });
        }
        StateUrl::Sqlite(path) => path,
    };
    let (database, writable) = (Database::open(path).await.map(Arc::new), writable(path).await);
    let ledger = match &database {
        Ok(database) => {
            let ledger = SqliteLedger::new(Arc::clone(database), remembered);
            ledger.key().await.map(|_| ledger)
        }
        Err(error) => Err(error.clone()),
    };
    let ledger: Arc<dyn Ledger> = match (ledger, &writable) {
        (Err(_), Err(problem)) => closed_ledger(path, problem),
        (ledger, _) => Arc::new(ledger?),
    };
    Ok(State { journal: journal(path, database, writable).await?, ledger })
}

/// Opens the journal of the state at this address, without the ledger.
pub async fn open_journal(url: &StateUrl) -> Result<Arc<dyn Journal>, SetupError> {
    let path = match url {
        StateUrl::Memory => return Ok(Arc::new(MemoryJournal::default())),
        StateUrl::Sqlite(path) => path,
    };
    let (database, writable) = (Database::open(path).await.map(Arc::new), writable(path).await);
    journal(path, database, writable).await
}

/// The journal of past deployments, for commands that do not write to it.
#[derive(Debug)]
pub enum PastJournal {
    /// A journal that a server has written.
    Written(Arc<dyn Journal>),
    /// No server has written a journal yet.
    Empty,
    /// The state is in the memory of a server, so past deployments are not known.
    Unknown,
}

/// Opens the journal of the state at this address without creating it.
pub async fn past_journal(url: &StateUrl) -> Result<PastJournal, SetupError> {
    match url {
        StateUrl::Memory => Ok(PastJournal::Unknown),
        StateUrl::Sqlite(path) if !path.exists() => Ok(PastJournal::Empty),
        StateUrl::Sqlite(_) => Ok(PastJournal::Written(open_journal(url).await?)),
    }
}

/// Checks that the state at this address could be opened and written, as far as possible without touching it.
pub fn check_access(url: &StateUrl) -> Result<(), SetupError> {
    match url {
        StateUrl::Memory => Ok(()),
        StateUrl::Sqlite(path) => check_file(path),
    }
}

async fn journal(
    path: &Path,
    database: Result<Arc<Database>, SetupError>,
    writable: Result<(), String>,
) -> Result<Arc<dyn Journal>, SetupError> {
    let Err(problem) = writable else { return Ok(Arc::new(SqliteJournal::new(database?))) };
    if let Ok(database) = database {
        tracing::warn!(journal = %path.display(), problem, "the deployment journal cannot be written now");
        return Ok(Arc::new(SqliteJournal::new(database)));
    }
    let latest = match path.exists() {
        true => SqliteJournal::new(Arc::new(Database::read_only(path).await?)).latest().await?,
        false => Vec::new(),
    };
    tracing::warn!(
        journal = %path.display(), problem, deployments = latest.len(),
        "the deployment journal can only be read; its deployments are served, and nothing is saved until writing \
         works again"
    );
    Ok(Arc::new(FrozenJournal::new(path.to_owned(), latest, problem)))
}

fn closed_ledger(path: &Path, problem: &str) -> Arc<dyn Ledger> {
    tracing::warn!(
        state = %path.display(), problem,
        "feedback is refused until the server is restarted, and prediction ids from before the restart are not \
         valid after it"
    );
    Arc::new(ClosedLedger { key: random_key(), problem: problem.to_owned() })
}
