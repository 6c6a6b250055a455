//! What is counted and timed, and how it is shown to Prometheus.
//!
//! - `metrics.rs` is the one table of all metrics: names, help texts, labels, and their text form.
//! - `recorder.rs` holds the buckets, and the handles that the request path writes to. Handles are made when a
//!   version is loaded; recording looks nothing up and takes no lock.
//! - `shards.rs` keeps one set of cells per thread, summed when someone asks.
//!
//! This room knows nothing of HTTP, of models or of the registry: it is told.

mod metrics;
mod recorder;
mod shards;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use self::metrics::{METRICS, Metric, TEXT_FORMAT};
pub use self::recorder::{Outcome, RequestGuard, ServerRecorder, ShedReason, VersionLabels, VersionRecorder};
use crate::budget::LatencyBudget;

/// Everything one server measures.
#[derive(Debug)]
pub struct Monitor {
    server: Arc<ServerRecorder>,
    versions: Mutex<Vec<Weak<VersionRecorder>>>,
    onnxruntime: String,
}

impl Monitor {
    /// A monitor for a server that runs on this version of ONNX Runtime.
    pub fn new(onnxruntime: &str) -> Monitor {
        Monitor {
            server: Arc::new(ServerRecorder::default()),
            versions: Mutex::new(Vec::new()),
            onnxruntime: onnxruntime.to_owned(),
        }
    }

    /// The handles of what belongs to no version.
    pub fn server(&self) -> &Arc<ServerRecorder> {
        &self.server
    }

    /// New handles for a version. Its series are shown for as long as the handles are held.
    pub fn version(&self, labels: VersionLabels, budget: LatencyBudget) -> Arc<VersionRecorder> {
        let recorder = Arc::new(VersionRecorder::new(labels, budget));
        let mut versions = self.versions.lock();
        versions.retain(|version| version.strong_count() > 0);
        versions.push(Arc::downgrade(&recorder));
        recorder
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let versions: Vec<Arc<VersionRecorder>> = self.versions.lock().iter().filter_map(Weak::upgrade).collect();
        metrics::render(&self.server, &versions, &self.onnxruntime)
    }
}
