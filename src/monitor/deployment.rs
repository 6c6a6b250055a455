//! Metrics of deployments and loads. Written when something changes, which is seldom: under a lock.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::error::LoadFault;

/// Kinds of changes of a deployment. A closed set: it is a label.
pub(super) const ACTIONS: [&str; 4] = ["discover", "traffic", "promote", "rollback"];

/// The deployments of all models, and what failed about them.
#[derive(Debug, Default)]
pub struct DeploymentRecorder {
    models: Mutex<BTreeMap<String, ModelDeployment>>,
    journal_errors: AtomicU64,
    unwritten: AtomicU64,
    failing: Mutex<BTreeMap<StatePart, String>>,
    repository_errors: AtomicU64,
}

/// A part of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatePart {
    /// The deployments.
    Deployments,
    /// The outcomes of predictions.
    Feedback,
}

/// Metrics of a model.
#[derive(Debug, Clone, Default)]
pub(super) struct ModelDeployment {
    pub(super) generation: u64,
    pub(super) shares: Vec<DeployedShare>,
    pub(super) is_served: bool,
    pub(super) retirements: u64,
    changes: [u64; ACTIONS.len()],
    load_failures: [u64; LoadFault::ALL.len()],
}

/// Metrics of a loaded version.
#[derive(Debug, Clone, PartialEq)]
pub struct DeployedShare {
    /// The version's number.
    pub version: String,
    /// Its share of the model's requests, 0 to 1.
    pub ratio: f64,
    /// Since when it has had one, in seconds since 1970.
    pub deployed_at: Option<f64>,
    /// True if its files are not those any more that were loaded.
    pub is_altered: bool,
}

impl DeploymentRecorder {
    /// This is what is deployed of a model now.
    pub fn deployed(&self, model: &str, generation: u64, shares: Vec<DeployedShare>) {
        let mut models = self.models.lock();
        let seen = models.entry(model.to_owned()).or_default();
        (seen.generation, seen.shares) = (generation, shares);
    }

    /// Sets if the model is served.
    pub fn set_served(&self, model: &str, is_served: bool) {
        self.models.lock().entry(model.to_owned()).or_default().is_served = is_served;
    }

    /// Counts a version that was taken out of memory because newer ones serve, or because its folder is gone.
    pub fn retired(&self, model: &str) {
        self.models.lock().entry(model.to_owned()).or_default().retirements += 1;
    }

    /// A change was taken over.
    pub fn changed(&self, model: &str, action: &'static str) {
        if let Some(index) = ACTIONS.iter().position(|known| *known == action) {
            self.models.lock().entry(model.to_owned()).or_default().changes[index] += 1;
        }
    }

    /// A version, or a changed `model.toml`, was refused.
    pub fn load_failed(&self, model: &str, fault: LoadFault) {
        self.models.lock().entry(model.to_owned()).or_default().load_failures[fault as usize] += 1;
    }

    /// A model is not served any more.
    pub fn forget(&self, model: &str) {
        self.models.lock().remove(model);
    }

    /// Counts a part of the state that could not be read or written. Logs the first failure, and each different
    /// problem.
    pub fn state_failed(&self, part: StatePart, problem: &str) {
        self.journal_errors.fetch_add(1, Relaxed);
        let mut failing = self.failing.lock();
        if failing.get(&part).is_some_and(|known| known == problem) {
            return;
        }
        tracing::error!(state = part.name(), problem, "the state cannot be read or written; predictions go on");
        failing.insert(part, problem.to_owned());
    }

    /// Notes that a part of the state was written. Logs it after a failure.
    pub fn state_works(&self, part: StatePart) {
        if self.failing.lock().remove(&part).is_some() {
            tracing::info!(state = part.name(), "the state can be written again");
        }
    }

    /// Sets the number of deployments that are in effect but not yet in the journal.
    pub fn set_unwritten(&self, count: usize) {
        self.unwritten.store(count as u64, Relaxed);
    }

    /// The repository was looked at, and has so many problems.
    pub fn set_repository_errors(&self, count: usize) {
        self.repository_errors.store(count as u64, Relaxed);
    }

    pub(super) fn models(&self) -> BTreeMap<String, ModelDeployment> {
        self.models.lock().clone()
    }

    pub(super) fn journal_errors(&self) -> u64 {
        self.journal_errors.load(Relaxed)
    }

    pub(super) fn unwritten(&self) -> u64 {
        self.unwritten.load(Relaxed)
    }

    pub(super) fn repository_errors(&self) -> u64 {
        self.repository_errors.load(Relaxed)
    }
}

impl StatePart {
    fn name(self) -> &'static str {
        match self {
            StatePart::Deployments => "deployments",
            StatePart::Feedback => "feedback",
        }
    }
}

impl ModelDeployment {
    pub(super) fn changes(&self) -> Vec<(&'static str, u64)> {
        ACTIONS.into_iter().zip(self.changes).collect()
    }

    pub(super) fn load_failures(&self) -> Vec<(&'static str, u64)> {
        LoadFault::ALL.into_iter().map(LoadFault::name).zip(self.load_failures).collect()
    }
}
