//! The metrics of deployments and loads. Written when something changes, which is seldom: under a lock.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::metric_family::{Family, counter, gauge};
use super::text::Series;
use crate::error::LoadFault;

/// Kinds of changes of a deployment. A closed set: it is a label.
const ACTIONS: [&str; 4] = ["discover", "traffic", "promote", "rollback"];

/// The deployments of all models, and what failed about them.
#[derive(Debug, Default)]
pub struct DeploymentRecorder {
    seen: Mutex<SeenDeployments>,
    failing: Mutex<BTreeMap<StatePart, String>>,
}

/// What is known of deployments at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct SeenDeployments {
    models: BTreeMap<String, ModelDeployment>,
    journal_errors: u64,
    unwritten: u64,
    repository_errors: u64,
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
struct ModelDeployment {
    generation: u64,
    shares: Vec<DeployedShare>,
    is_served: bool,
    retirements: u64,
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

/// The metrics, in the order of `/metrics`.
pub(super) static FAMILIES: &[Family<SeenDeployments>] = &[
    gauge(
        "leeway_model_ready",
        &["model"],
        "1 if the model is served, 0 if a version that it needs cannot be, or its model.toml is wrong.",
        |seen, series| seen.models.iter().for_each(|(name, model)| series.value(&[name], u64::from(model.is_served))),
    ),
    counter(
        "leeway_load_failures_total",
        &["model", "reason"],
        "Versions, and changed model.toml files, that were refused, by why.",
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
        "Versions without traffic that were taken out of memory because newer ones serve, or because their folder is gone.",
        |seen, series| seen.models.iter().for_each(|(name, model)| series.value(&[name], model.retirements)),
    ),
    gauge(
        "leeway_version_altered",
        &["model", "version"],
        "1 if the files of a loaded version are not on disk any more as they were loaded, else 0.",
        |seen, series| seen.write(series, |share| Some(f64::from(u8::from(share.is_altered)))),
    ),
    gauge(
        "leeway_deployment_generation",
        &["model"],
        "The number of the model's present deployment; every change of stable version or shares adds 1.",
        |seen, series| seen.models.iter().for_each(|(name, model)| series.value(&[name], model.generation)),
    ),
    gauge(
        "leeway_traffic_share_ratio",
        &["model", "version"],
        "The share of the model's requests that a loaded version has, 0 to 1.",
        |seen, series| seen.write(series, |share| Some(share.ratio)),
    ),
    gauge(
        "leeway_deployed_timestamp_seconds",
        &["model", "version"],
        "Since when a version has had a share of the requests without a break, in seconds since 1970.",
        |seen, series| seen.write(series, |share| share.deployed_at),
    ),
    counter(
        "leeway_deployment_changes_total",
        &["model", "action"],
        "Changes of what is deployed that this server has taken over, by what was done.",
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
        "Reads and writes of the state that failed: of the deployment journal, and of the feedback that is remembered.",
        |seen, series| series.value(&[], seen.journal_errors),
    ),
    gauge(
        "leeway_deployments_unwritten",
        &[],
        "Deployments that are in effect and could not be written to the journal yet; a restart loses them.",
        |seen, series| series.value(&[], seen.unwritten),
    ),
    gauge(
        "leeway_repository_errors",
        &[],
        "Problems with the repository as a whole, or with folders in it that are no models, when it was last looked at.",
        |seen, series| series.value(&[], seen.repository_errors),
    ),
];

impl SeenDeployments {
    /// Writes a number of each loaded version that has it.
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
    /// This is what is deployed of a model now.
    pub fn deployed(&self, model: &str, generation: u64, shares: Vec<DeployedShare>) {
        self.change(model, |model| (model.generation, model.shares) = (generation, shares));
    }

    /// Sets if the model is served.
    pub fn set_served(&self, model: &str, is_served: bool) {
        self.change(model, |model| model.is_served = is_served);
    }

    /// Counts a version that was taken out of memory because newer ones serve, or because its folder is gone.
    pub fn retired(&self, model: &str) {
        self.change(model, |model| model.retirements += 1);
    }

    /// A change was taken over.
    pub fn changed(&self, model: &str, action: &'static str) {
        if let Some(index) = ACTIONS.iter().position(|known| *known == action) {
            self.change(model, |model| model.changes[index] += 1);
        }
    }

    /// A version, or a changed `model.toml`, was refused.
    pub fn load_failed(&self, model: &str, fault: LoadFault) {
        self.change(model, |model| model.load_failures[fault as usize] += 1);
    }

    /// A model is not served any more.
    pub fn forget(&self, model: &str) {
        self.seen.lock().models.remove(model);
    }

    /// Counts a part of the state that could not be read or written. Logs the first failure, and each different
    /// problem.
    pub fn state_failed(&self, part: StatePart, problem: &str) {
        self.seen.lock().journal_errors += 1;
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
        self.seen.lock().unwritten = count as u64;
    }

    /// The repository was looked at, and has so many problems.
    pub fn set_repository_errors(&self, count: usize) {
        self.seen.lock().repository_errors = count as u64;
    }

    /// Returns what is known now.
    pub(super) fn seen(&self) -> SeenDeployments {
        self.seen.lock().clone()
    }

    /// Changes what is known of a model.
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
