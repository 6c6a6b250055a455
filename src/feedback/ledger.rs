//! Ledger of the accepted feedback, so that nothing is counted twice; and the key that ids are signed with.
//!
//! Servers that share a state accept each item only once between them, and recognize each other's ids. The ledger is
//! bounded: the oldest entries are forgotten. `state/` implements it.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::{Result, SetupError};

/// One statement about a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Hash of the prediction and of the subject of the statement: the truth, or one of the metrics.
    pub key: u64,
    /// The statement: the number of a class, or the bits of a number.
    pub said: u64,
    /// True if this statement may replace an earlier one.
    pub may_replace: bool,
}

/// Result of recording an entry.
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

/// Stores the accepted feedback.
#[async_trait]
pub trait Ledger: Debug + Send + Sync {
    /// Returns the key that ids are signed with: the same for all servers that share this ledger.
    async fn key(&self) -> Result<Vec<u8>, SetupError>;

    /// Records these entries in order, and returns the result of each.
    async fn record(&self, entries: Vec<Entry>) -> Result<Vec<Recorded>>;
}

impl Entry {
    /// Returns the result of an entry, given the earlier statement.
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
