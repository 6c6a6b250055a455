//! Journal and ledger in memory, which are lost when the process ends, and the fleet of a single server.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::num::NonZeroUsize;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::key::random_key;
use crate::api::admin::{Deployment, Replica};
use crate::deploy::{Appended, Fleet, Journal, Latest};
use crate::error::{OperatorError, Result, SetupError};
use crate::feedback::{Entry, Ledger, LedgerKey, NotRecorded, Recorded};
use crate::identity::ModelName;
use crate::rollout::{ProcessCounts, RolloutRecord, RolloutStore};

/// Maximum number of deployments of a model in memory; older ones are dropped.
pub(super) const KEPT_IN_MEMORY: usize = 1_000;

/// A deployment journal that is lost when the process ends.
#[derive(Debug, Default)]
pub struct MemoryJournal(Mutex<BTreeMap<ModelName, VecDeque<Deployment>>>);

impl MemoryJournal {
    /// Creates a journal that begins with these deployments.
    pub fn with(latest: Vec<Deployment>) -> MemoryJournal {
        MemoryJournal(Mutex::new(latest.into_iter().map(|latest| (latest.model.clone(), [latest].into())).collect()))
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn latest(&self) -> Result<Latest, SetupError> {
        Ok(Latest::read(self.0.lock().values().filter_map(|deployments| deployments.back().cloned()).collect()))
    }

    /// Never returns: no other process has this journal.
    async fn changed(&self) {
        std::future::pending().await
    }

    async fn append(&self, next: &Deployment) -> Result<Appended, OperatorError> {
        let mut models = self.0.lock();
        let deployments = models.entry(next.model.clone()).or_default();
        if deployments.back().map_or(0, |last| last.generation) + 1 != next.generation {
            return Ok(Appended::Lost(deployments.back().cloned()));
        }
        deployments.push_back(next.clone());
        if deployments.len() > KEPT_IN_MEMORY {
            deployments.pop_front();
        }
        Ok(Appended::Written)
    }

    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>, OperatorError> {
        let models = self.0.lock();
        let newest_first = models.get(model).into_iter().flatten().rev();
        Ok(newest_first.filter(|deployment| deployment.generation < before).take(limit as usize).cloned().collect())
    }
}

/// The fleet of a server that shares its state with no other.
#[derive(Debug, Clone, Copy)]
pub struct MemoryFleet;

#[async_trait]
impl Fleet for MemoryFleet {
    fn is_shared(&self) -> bool {
        false
    }

    async fn report(&self, own: &Replica) -> Result<Vec<Replica>, OperatorError> {
        Ok(vec![own.clone()])
    }

    async fn leave(&self, _: &str) -> Result<(), OperatorError> {
        Ok(())
    }
}

/// A ledger of feedback that is lost when the process ends.
#[derive(Debug)]
pub struct MemoryLedger {
    key: Vec<u8>,
    remembered: NonZeroUsize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    said: HashMap<u64, u64>,
    oldest_first: VecDeque<u64>,
}

impl MemoryLedger {
    /// Creates an empty ledger that remembers this many entries and has a random key for prediction ids.
    pub fn new(remembered: NonZeroUsize) -> MemoryLedger {
        MemoryLedger { key: random_key(), remembered, known: Mutex::default() }
    }
}

impl Known {
    fn record(&mut self, entry: Entry, remembered: usize) -> Recorded {
        let recorded = entry.outcome(self.said.get(&entry.key).map(|said| Some(*said)));
        match recorded {
            Recorded::Same | Recorded::Differs => return recorded,
            Recorded::First => self.oldest_first.push_back(entry.key),
            Recorded::Replaced { .. } => {}
        }
        self.said.insert(entry.key, entry.said);
        if self.oldest_first.len() > remembered
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.said.remove(&oldest);
        }
        recorded
    }
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn key(&self) -> Result<LedgerKey, SetupError> {
        Ok(LedgerKey::Shared(self.key.clone()))
    }

    async fn record(&self, entries: &[Entry]) -> Result<Vec<Recorded>, NotRecorded> {
        let mut known = self.known.lock();
        Ok(entries.iter().map(|entry| known.record(*entry, self.remembered.get())).collect())
    }
}

/// Maximum number of rollouts of a model in memory; older ones are dropped.
const ROLLOUTS_IN_MEMORY: usize = 100;

/// The number of a rollout, and the counts of each process.
type Reports = (u64, BTreeMap<String, ProcessCounts>);

/// Rollouts that are lost when the process ends.
#[derive(Debug, Default)]
pub struct MemoryRollouts {
    records: Mutex<BTreeMap<ModelName, Vec<RolloutRecord>>>,
    counts: Mutex<BTreeMap<ModelName, Reports>>,
}

#[async_trait]
impl RolloutStore for MemoryRollouts {
    /// Always true: no other process has this state.
    async fn leads(&self) -> Result<bool, OperatorError> {
        Ok(true)
    }

    async fn latest(&self) -> Result<Vec<RolloutRecord>, OperatorError> {
        Ok(self.records.lock().values().filter_map(|records| records.last().cloned()).collect())
    }

    async fn history(&self, model: &ModelName, limit: u32) -> Result<Vec<RolloutRecord>, OperatorError> {
        let records = self.records.lock();
        Ok(records.get(model).into_iter().flatten().rev().take(limit as usize).cloned().collect())
    }

    async fn write(&self, record: &RolloutRecord) -> Result<bool, OperatorError> {
        let mut models = self.records.lock();
        let records = models.entry(record.model.clone()).or_default();
        let (number, revision) = records.last().map_or((0, 0), |last| (last.number, last.revision));
        if record.revision == 1 && record.number == number + 1 {
            records.push(record.clone());
            let surplus = records.len().saturating_sub(ROLLOUTS_IN_MEMORY);
            records.drain(..surplus);
            return Ok(true);
        }
        match records.last_mut() {
            Some(last) if record.number == number && record.revision == revision + 1 => {
                *last = record.clone();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn report(&self, of: &RolloutRecord, process: &str, counts: &ProcessCounts) -> Result<(), OperatorError> {
        let mut all = self.counts.lock();
        let reported = all.entry(of.model.clone()).or_default();
        if reported.0 != of.number {
            *reported = (of.number, BTreeMap::new());
        }
        reported.1.insert(process.to_owned(), counts.clone());
        Ok(())
    }

    async fn reports(&self, of: &RolloutRecord) -> Result<BTreeMap<String, ProcessCounts>, OperatorError> {
        let all = self.counts.lock();
        Ok(all
            .get(&of.model)
            .filter(|(number, _)| *number == of.number)
            .map(|(_, counts)| counts.clone())
            .unwrap_or_default())
    }
}
