//! The state that outlives a server: the journal of deployments, rollouts, the ledger of feedback, and the list of the
//! servers that share them. In memory, in SQLite, or in PostgreSQL (`state.url`). The only module with SQL.
//!
//! - `open_state.rs` is what a server gets of its state.
//! - `memory.rs` has the state that is lost when the process ends.
//! - `sqlite/` has the state in a file.
//! - `postgres/` has the state in a PostgreSQL database, which any number of servers share.
//! - `key.rs` creates the key that prediction ids are signed with.

mod key;
mod memory;
mod open_state;
mod postgres;
mod sqlite;

#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::Arc;

pub use self::memory::{MemoryFleet, MemoryJournal, MemoryLedger, MemoryRollouts};
pub use self::open_state::State;
use crate::config::{StateConfig, StateUrl};
use crate::deploy::Journal;
use crate::error::{Result, SetupError};

/// Opens the configured state. The ledger remembers the last `remembered` entries.
///
/// On a full or read-only disk, the journal of an SQLite file is opened for reading, and the ledger refuses all feedback.
/// A PostgreSQL server that cannot be reached is no error: the last deployments that were seen are served.
pub async fn open(config: &StateConfig, remembered: NonZeroUsize) -> Result<State, SetupError> {
    match &config.url {
        StateUrl::Memory => Ok(State {
            journal: Arc::new(MemoryJournal::default()),
            ledger: Arc::new(MemoryLedger::new(remembered)),
            fleet: Arc::new(MemoryFleet),
            rollouts: Arc::new(MemoryRollouts::default()),
        }),
        StateUrl::Sqlite(path) => sqlite::open(path, remembered).await,
        StateUrl::Postgres(url) => postgres::open(url, config, remembered).await,
    }
}

/// Opens the journal of the configured state, without the ledger.
pub async fn open_journal(config: &StateConfig) -> Result<Arc<dyn Journal>, SetupError> {
    match &config.url {
        StateUrl::Memory => Ok(Arc::new(MemoryJournal::default())),
        StateUrl::Sqlite(path) => sqlite::open_journal(path).await,
        StateUrl::Postgres(url) => postgres::open_journal(url, config).await,
    }
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

/// Opens the journal of the configured state without creating it.
pub async fn past_journal(config: &StateConfig) -> Result<PastJournal, SetupError> {
    match &config.url {
        StateUrl::Memory => Ok(PastJournal::Unknown),
        StateUrl::Sqlite(path) if !path.exists() => Ok(PastJournal::Empty),
        StateUrl::Sqlite(_) | StateUrl::Postgres(_) => Ok(PastJournal::Written(open_journal(config).await?)),
    }
}

/// Checks that the configured state could be opened and written, as far as possible without touching it.
pub fn check_access(config: &StateConfig) -> Result<(), SetupError> {
    match &config.url {
        StateUrl::Memory => Ok(()),
        StateUrl::Sqlite(path) => sqlite::database::check_file(path),
        StateUrl::Postgres(url) => postgres::check(url, config),
    }
}
