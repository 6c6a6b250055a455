//! Facts about a request that only its stages learn, for the access log.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::registry::ServedVersion;
use crate::stage::Timings;

/// The facts about a request, written while it is served. They exist only while the access log is on.
#[derive(Debug, Default)]
pub struct RequestNotes(Mutex<NotedFacts>);

/// The facts about a request that are known so far.
#[derive(Debug, Clone, Default)]
pub struct NotedFacts {
    /// Version that the request reached.
    pub version: Option<Arc<ServedVersion>>,
    /// Number of instances, once they are read.
    pub instances: Option<usize>,
    /// Durations of the stages, once the last one has ended.
    pub timings: Option<Timings>,
}

impl RequestNotes {
    /// Returns the facts that are known so far.
    pub fn facts(&self) -> NotedFacts {
        self.0.lock().clone()
    }

    pub(super) fn found(&self, version: &Arc<ServedVersion>) {
        self.0.lock().version = Some(Arc::clone(version));
    }

    pub(super) fn prepared(&self, instances: usize) {
        self.0.lock().instances = Some(instances);
    }

    pub(super) fn ended(&self, timings: Timings) {
        self.0.lock().timings = Some(timings);
    }
}
