//! The state in a PostgreSQL database, which any number of servers share.
//!
//! - `database.rs` connects, and creates the tables.
//! - `journal.rs`, `ledger.rs` and `fleet.rs` are its journal, its ledger and its list of servers.
//! - `last_seen.rs` remembers on this machine what the database had, for a start without it.

pub(super) mod database;
mod fleet;
mod journal;
mod last_seen;
mod ledger;
mod rollouts;

use std::num::NonZeroUsize;
use std::sync::Arc;

use self::database::PostgresDatabase;
use self::fleet::PostgresFleet;
use self::journal::PostgresJournal;
use self::last_seen::LastSeen;
use self::ledger::PostgresLedger;
use self::rollouts::PostgresRollouts;
use super::open_state::State;
use crate::config::{PostgresUrl, StateConfig};
use crate::deploy::Journal;
use crate::error::{Result, SetupError};

/// Opens the state in this database. The ledger remembers the last `remembered` entries.
///
/// Fails if the database refuses the connection or its tables. A database that cannot be reached is no error.
pub(super) async fn open(
    url: &PostgresUrl,
    config: &StateConfig,
    remembered: NonZeroUsize,
) -> Result<State, SetupError> {
    let database = connected(url, config).await?;
    let last_seen = Arc::new(LastSeen::new(config.last_seen.clone()));
    Ok(State {
        journal: Arc::new(PostgresJournal::new(Arc::clone(&database), Some(Arc::clone(&last_seen)))),
        ledger: Arc::new(PostgresLedger::new(Arc::clone(&database), remembered, last_seen)),
        fleet: Arc::new(PostgresFleet::new(Arc::clone(&database))),
        rollouts: Arc::new(PostgresRollouts::new(database)),
    })
}

/// Opens the journal of the state in this database, for a command: without what this machine has seen.
pub(super) async fn open_journal(url: &PostgresUrl, config: &StateConfig) -> Result<Arc<dyn Journal>, SetupError> {
    Ok(Arc::new(PostgresJournal::new(connected(url, config).await?, None)))
}

/// Checks the URL and the file of the password, without connecting.
pub(super) fn check(url: &PostgresUrl, config: &StateConfig) -> Result<(), SetupError> {
    PostgresDatabase::check(url, config.password_file.as_deref())
}

async fn connected(url: &PostgresUrl, config: &StateConfig) -> Result<Arc<PostgresDatabase>, SetupError> {
    let database = PostgresDatabase::new(url, config.password_file.clone())?;
    match database.set_up().await {
        Ok(()) => Ok(Arc::new(database)),
        Err(problem) if problem.is_unreachable() => {
            tracing::warn!(database = %database, %problem, "the database of the state cannot be reached; trying again");
            Ok(Arc::new(database))
        }
        Err(problem) => Err(SetupError::State(format!("state.url: {database}: {problem}"))),
    }
}
