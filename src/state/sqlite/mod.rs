//! The state in an SQLite file, for one server or for several on one machine.
//!
//! - `database.rs` opens the file.
//! - `journal.rs`, `ledger.rs`, `rollouts.rs` and `fleet.rs` are its journal, its ledger, its rollouts and its list of
//!   servers.
//! - `unwritable_disk.rs` is for a disk that is full or read-only.
//! - `file.rs` detects that the open file was removed or replaced.

pub(super) mod database;
mod file;
mod fleet;
pub(super) mod journal;
pub(super) mod ledger;
mod rollouts;
pub(super) mod unwritable_disk;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use self::database::Database;
use self::fleet::SqliteFleet;
use self::journal::SqliteJournal;
use self::ledger::SqliteLedger;
use self::rollouts::SqliteRollouts;
use self::unwritable_disk::{ClosedLedger, FrozenJournal, writable};
use super::key::random_key;
use super::memory::{MemoryFleet, MemoryRollouts};
use super::open_state::State;
use crate::deploy::{Fleet, Journal};
use crate::error::{Result, SetupError};
use crate::feedback::Ledger;
use crate::rollout::RolloutStore;

/// Opens the state in this file. The ledger remembers the last `remembered` entries.
///
/// On a full or read-only disk, the journal is opened for reading, and the ledger refuses all feedback.
pub(super) async fn open(path: &Path, remembered: NonZeroUsize) -> Result<State, SetupError> {
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
    let fleet: Arc<dyn Fleet> = match (&database, &writable) {
        (Ok(database), Ok(())) => Arc::new(SqliteFleet::new(Arc::clone(database))),
        _ => Arc::new(MemoryFleet),
    };
    let rollouts: Arc<dyn RolloutStore> = match (&database, &writable) {
        (Ok(database), Ok(())) => Arc::new(SqliteRollouts::new(Arc::clone(database))),
        _ => Arc::new(MemoryRollouts::default()),
    };
    Ok(State { journal: journal(path, database, writable).await?, ledger, fleet, rollouts })
}

/// Opens the journal of the state in this file.
pub(super) async fn open_journal(path: &Path) -> Result<Arc<dyn Journal>, SetupError> {
    let (database, writable) = (Database::open(path).await.map(Arc::new), writable(path).await);
    journal(path, database, writable).await
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
        true => SqliteJournal::new(Arc::new(Database::read_only(path).await?)).latest().await?.deployments,
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
