//! What is counted and timed, and how it is shown to Prometheus.
//!
//! - `metrics.rs` is the one table of all metrics: names, help texts, labels, and their text form.
//! - `recorder.rs` holds the buckets, and the handles that the request path writes to. Handles are made when a
//!   version is loaded; recording looks nothing up and takes no lock.
//! - `deployment.rs` holds what is known of deployments and loads.
//! - `shards.rs` keeps one set of cells per thread, summed when someone asks.
//!
//! This room knows nothing of HTTP, of models or of the registry: it is told.

mod deployment;
mod metrics;
mod recorder;
mod shards;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use self::deployment::{DeployedShare, DeploymentRecorder};
pub use self::metrics::{METRICS, Metric, TEXT_FORMAT};
pub use self::recorder::{Outcome, RequestGuard, ServerRecorder, ShedReason, VersionLabels, VersionRecorder};
use crate::budget::LatencyBudget;

/// Everything one server measures.
#[derive(Debug)]
pub struct Monitor {
    server: Arc<ServerRecorder>,
    versions: Mutex<Vec<Weak<VersionRecorder>>>,
    deployments: DeploymentRecorder,
    onnxruntime: String,
}

impl Monitor {
    /// A monitor for a server that runs on this version of ONNX Runtime.
    pub fn new(onnxruntime: &str) -> Monitor {
        Monitor {
            server: Arc::new(ServerRecorder::default()),
            versions: Mutex::new(Vec::new()),
            deployments: DeploymentRecorder::default(),
            onnxruntime: onnxruntime.to_owned(),
        }
    }

    /// The handles of what belongs to no version.
    pub fn server(&self) -> &Arc<ServerRecorder> {
        &self.server
    }

    /// What is recorded of deployments and loads.
    pub fn deployments(&self) -> &DeploymentRecorder {
        &self.deployments
    }

    /// The handles of a version: those it has already if it is loaded anew, so that it goes on counting. Its series are
    /// shown for as long as the handles are held.
    pub fn version(&self, labels: VersionLabels, budget: LatencyBudget) -> Arc<VersionRecorder> {
        let mut versions = self.versions.lock();
        versions.retain(|version| version.strong_count() > 0);
        let known = versions.iter().filter_map(Weak::upgrade).find(|version| *version.labels() == labels);
        if let Some(known) = known {
            known.set_budget(budget);
            return known;
        }
        let recorder = Arc::new(VersionRecorder::new(labels, budget));
        versions.push(Arc::downgrade(&recorder));
        recorder
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut versions: Vec<Arc<VersionRecorder>> = Vec::new();
        // Of two with the same number, one is being retired: a series can be there only once.
        for version in self.versions.lock().iter().rev().filter_map(Weak::upgrade) {
            let same = |other: &Arc<VersionRecorder>| other.labels().is_same_version(version.labels());
            if !versions.iter().any(same) {
                versions.push(version);
            }
        }
        versions.reverse();
        metrics::render(&self.server, &versions, &self.deployments, &self.onnxruntime)
    }
}
