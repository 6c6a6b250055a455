//! The metrics of deployments and of loads of versions. Changes are rare, so a lock is fast enough.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::metric_family::{Family, counter, gauge};
use super::text::Series;
use crate::error::LoadFault;

/// Kinds of changes of a deployment. A closed set, because the kind is a label.
const ACTIONS: [&str; 5] = ["discover", "traffic", "promote", "rollback", "file"];

/// Recorder of the deployments of all models, and of failed reads and writes of the state.
#[derive(Debug, Default)]
pub struct DeploymentRecorder {
    seen: Mutex<SeenDeployments>,
    failing: Mutex<BTreeMap<StatePart, String>>,
}

/// The metrics of deployments at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenDeployments {
    models: BTreeMap<String, ModelDeployment>,
    journal_errors: u64,
    unwritten: u64,
    repository_errors: u64,
    /// States of the last rollouts, by model.
    rollouts: BTreeMap<String, &'static str>,
}

/// A part of the state that a server keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatePart {
    /// The journal of deployments.
    Deployments,
    /// The ledger of feedback.
    Feedback,
}

/// Metrics of a model's deployment.
#[derive(Debug, Clone, Default)]
struct ModelDeployment {
    generation: u64,
    shares: Vec<DeployedShare>,
    is_served: bool,
    retirements: u64,
    changes: [u64; ACTIONS.len()],
    load_failures: [u64; LoadFault::ALL.len()],
}

/// Metrics of a loaded version in its model's deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct DeployedShare {
    /// The version's number.
    pub version: String,
    /// The version's share of the model's requests, 0 to 1.
    pub ratio: f64,
    /// Time since which the version has had a share, in seconds since 1970.
    pub deployed_at: Option<f64>,
    /// True if the version's files on disk no longer match the loaded ones.
    pub is_altered: bool,
}

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: &[Family<SeenDeployments>] = &[
    gauge(
        "leeway_model_ready",
        &["model"],
        "1 if the model is served, 0 if a version that it needs cannot be served or its model.toml is wrong.",
        |seen, series| seen.models.iter().for_each(|(name, model)| series.value(&[name], u64::from(model.is_served))),
    ),
    counter(
        "leeway_load_failures_total",
        &["model", "reason"],
        "Refused versions and refused changes of model.toml, by reason.",
        |seen, series| {
            for (name, model) in &seen.models {
                for (fault, count) in LoadFault::ALL.into_iter().zip(model.load_failures) {
                    series.value(&[name, fault.name()], count);
                }
            }
        },
    ),
    counter(
        "leeway_versions_retired_total",
        &["model"],
        "Versions without traffic that were unloaded because newer ones serve, or because their folder is gone.",
        |seen, series| seen.models.iter().for_each(|(name, model)| series.value(&[name], model.retirements)),
    ),
    gauge(
        "leeway_version_altered",
        &["model", "version"],
        "1 if the files of a loaded version on disk no longer match what was loaded, else 0.",
        |seen, series| seen.write(series, |share| Some(f64::from(u8::from(share.is_altered)))),
    ),
    gauge(
        "leeway_deployment_generation",
        &["model"],
        "The number of the model's current deployment; every change of the stable version or of shares adds 1.",
        |seen, series| seen.models.iter().for_each(|(name, model)| series.value(&[name], model.generation)),
    ),
    gauge(
        "leeway_traffic_share_ratio",
        &["model", "version"],
        "The share of the model's requests that a loaded version gets, 0 to 1.",
        |seen, series| seen.write(series, |share| Some(share.ratio)),
    ),
    gauge(
        "leeway_deployed_timestamp_seconds",
        &["model", "version"],
        "The time since which a version has had a share of the requests without a break, in seconds since 1970.",
        |seen, series| seen.write(series, |share| share.deployed_at),
    ),
    counter(
        "leeway_deployment_changes_total",
        &["model", "action"],
        "Changes of deployments that this server has applied, by action.",
        |seen, series| {
            for (name, model) in &seen.models {
                for (action, count) in ACTIONS.into_iter().zip(model.changes) {
                    series.value(&[name, action], count);
                }
            }
        },
    ),
    counter(
        "leeway_journal_errors_total",
        &[],
        "Failed reads and writes of the state: of the deployment journal, and of the stored feedback.",
        |seen, series| series.value(&[], seen.journal_errors),
    ),
    gauge(
        "leeway_deployments_unwritten",
        &[],
        "Deployments that are in effect but not yet written to the journal; a restart loses them.",
        |seen, series| series.value(&[], seen.unwritten),
    ),
    gauge(
        "leeway_repository_errors",
        &[],
        "Problems that the last sync found with the repository, with its folders or with the journal.",
        |seen, series| series.value(&[], seen.repository_errors),
    ),
    gauge(
        "leeway_rollout_state",
        &["model", "state"],
        "Always 1; its label is the state of the model's last rollout: running, paused, promoted, rolled_back, aborted or superseded.",
        |seen, series| seen.rollouts.iter().for_each(|(name, state)| series.value(&[name, state], 1u64)),
    ),
];

impl SeenDeployments {
    /// Writes a series of `number` for each loaded version. Skips versions for which it is `None`.
    fn write(&self, series: &mut Series<'_>, number: fn(&DeployedShare) -> Option<f64>) {
        for (name, model) in &self.models {
            for share in &model.shares {
                if let Some(number) = number(share) {
                    series.value(&[name, &share.version], number);
                }
            }
        }
    }
}

impl DeploymentRecorder {
    /// Sets the current deployment of a model.
    pub fn deployed(&self, model: &str, generation: u64, shares: Vec<DeployedShare>) {
        self.change(model, |model| (model.generation, model.shares) = (generation, shares));
    }

    /// Sets the gauge of the model being served.
    pub fn set_served(&self, model: &str, is_served: bool) {
        self.change(model, |model| model.is_served = is_served);
    }

    /// Counts a version that was unloaded because newer versions are served, or because its folder is gone.
    pub fn retired(&self, model: &str) {
        self.change(model, |model| model.retirements += 1);
    }

    /// Counts an applied change of a model's deployment.
    pub fn changed(&self, model: &str, action: &'static str) {
        if let Some(index) = ACTIONS.iter().position(|known| *known == action) {
            self.change(model, |model| model.changes[index] += 1);
        }
    }

    /// Counts a refused version or a refused change of `model.toml`.
    pub fn load_failed(&self, model: &str, fault: LoadFault) {
        self.change(model, |model| model.load_failures[fault as usize] += 1);
    }

    /// Removes the series of a model that is not served any more.
    pub fn forget(&self, model: &str) {
        let mut seen = self.seen.lock();
        seen.models.remove(model);
        seen.rollouts.remove(model);
    }

    /// Counts a failed read or write of a part of the state. Logs the problem if it differs from the last one.
    pub fn state_failed(&self, part: StatePart, problem: &str) {
        self.seen.lock().journal_errors += 1;
        let mut failing = self.failing.lock();
        if failing.get(&part).is_some_and(|known| known == problem) {
            return;
        }
        tracing::error!(
            state = part.name(),
            problem,
            "the state cannot be read or written; predictions are still served"
        );
        failing.insert(part, problem.to_owned());
    }

    /// Records that a part of the state was written. Logs this if the last attempt failed.
    pub fn state_works(&self, part: StatePart) {
        if self.failing.lock().remove(&part).is_some() {
            tracing::info!(state = part.name(), "the state can be written again");
        }
    }

    /// Sets the number of deployments that are in effect but not yet in the journal.
    pub fn set_unwritten(&self, count: usize) {
        self.seen.lock().unwritten = count as u64;
    }

    /// Sets the number of problems that the last sync found.
    pub fn set_repository_errors(&self, count: usize) {
        self.seen.lock().repository_errors = count as u64;
    }

    /// Sets the states of the last rollouts, by model.
    pub fn set_rollouts<'a>(&self, states: impl Iterator<Item = (&'a str, &'static str)>) {
        self.seen.lock().rollouts = states.map(|(model, state)| (model.to_owned(), state)).collect();
    }

    /// Returns the current metrics.
    pub(super) fn seen(&self) -> SeenDeployments {
        self.seen.lock().clone()
    }

    /// Changes the metrics of a model.
    fn change(&self, model: &str, change: impl FnOnce(&mut ModelDeployment)) {
        change(self.seen.lock().models.entry(model.to_owned()).or_default());
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
