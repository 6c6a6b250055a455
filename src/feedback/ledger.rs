//! Ledger of the accepted feedback, so that nothing is counted twice. Also holds the key that signs prediction ids.
//!
//! Servers that share a state accept each item only once between them, and recognize each other's ids. The ledger is
//! bounded: the oldest entries are forgotten. `state/` implements it.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::{Result, SetupError};

/// One statement of feedback about a prediction: its true outcome, or the amount of a business metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Hash of the prediction id and of the subject of the statement: the truth, or one of the business metrics.
    pub key: u64,
    /// The statement: the number of a class, or the bits of a number.
    pub said: u64,
    /// True if this statement may replace an earlier one.
    pub may_replace: bool,
}

/// Result of recording a statement in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// There was no earlier statement.
    First,
    /// The earlier statement was the same as this one, or is no longer stored.
    Same,
    /// The earlier statement was different and has been replaced.
    Replaced {
        /// The earlier statement.
        before: u64,
    },
    /// The earlier statement was different and stays.
    Differs,
}

/// Storage of the accepted feedback, shared by the servers of a fleet.
#[async_trait]
pub trait Ledger: Debug + Send + Sync {
    /// Returns the key that signs prediction ids: the same for all servers that share this ledger.
    async fn key(&self) -> Result<LedgerKey, SetupError>;

    /// Records these entries in order, and returns the result of each.
    async fn record(&self, entries: &[Entry]) -> Result<Vec<Recorded>, NotRecorded>;
}

/// The key that signs prediction ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerKey {
    /// The key that all servers with this ledger have.
    Shared(Vec<u8>),
    /// The ledger cannot be reached, and its key is not known on this machine.
    Unknown {
        /// A random key, to sign with until the shared one is known.
        provisional: Vec<u8>,
        /// The reason why the ledger cannot be reached.
        problem: String,
    },
}

/// The reason why entries were not recorded, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotRecorded {
    /// The ledger could not be written, and an operator has to mend it.
    Failed(String),
    /// The ledger cannot be reached now. It may have recorded the entries or not; recording them again is safe.
    Unreachable(String),
}

impl Entry {
    /// Returns the result of recording this entry, given the earlier statement with the same key.
    ///
    /// `known` is `None` if there was no statement, and `Some(None)` if there was one that is no longer stored.
    pub fn outcome(self, known: Option<Option<u64>>) -> Recorded {
        match known {
            None => Recorded::First,
            Some(None) => Recorded::Same,
            Some(Some(before)) if before == self.said => Recorded::Same,
            Some(Some(before)) if self.may_replace => Recorded::Replaced { before },
            Some(Some(_)) => Recorded::Differs,
        }
    }
}
