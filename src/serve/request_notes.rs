//! Facts about a request that only its stages learn, for the access log and for its spans.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::budget::{StageClock, StageTime};
use crate::registry::ServedVersion;
use crate::stage::Timings;
use crate::telemetry::{FinishedSpan, RequestTrace};

/// The facts about a request, written while it is served. They exist only for requests that are logged or traced.
#[derive(Debug, Default)]
pub struct RequestNotes {
    facts: Mutex<NotedFacts>,
    /// Empty without a trace.
    work: Mutex<NotedWork>,
    /// Trace of the request, if it is sampled.
    trace: Option<Arc<RequestTrace>>,
}

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

/// The work for a sampled request that has ended so far.
#[derive(Debug, Default)]
pub struct NotedWork {
    /// Times of the stages, once the last one has ended.
    pub stages: Vec<StageTime>,
    /// Spans of the steps of a chain.
    pub steps: Vec<FinishedSpan>,
}

impl RequestNotes {
    /// Returns notes of a request without a fact. `trace` is its trace, if it is sampled.
    pub fn new(trace: Option<Arc<RequestTrace>>) -> RequestNotes {
        RequestNotes { trace, ..RequestNotes::default() }
    }

    /// Returns the facts that are known so far.
    pub fn facts(&self) -> NotedFacts {
        self.facts.lock().clone()
    }

    /// Takes the work that has ended so far.
    pub fn take_work(&self) -> NotedWork {
        std::mem::take(&mut self.work.lock())
    }

    /// Returns the trace of the request, if it is sampled.
    pub fn trace(&self) -> Option<&Arc<RequestTrace>> {
        self.trace.as_ref()
    }

    pub(super) fn found(&self, version: &Arc<ServedVersion>) {
        self.facts.lock().version = Some(Arc::clone(version));
    }

    pub(super) fn prepared(&self, instances: usize) {
        self.facts.lock().instances = Some(instances);
    }

    pub(super) fn step_ended(&self, step: FinishedSpan) {
        self.work.lock().steps.push(step);
    }

    /// Notes the stages of a request, without those of the steps of a chain.
    pub(super) fn stages_ended(&self, clock: &StageClock) {
        if self.trace.is_some() {
            self.work.lock().stages = clock.stage_times();
        }
    }

    pub(super) fn ended(&self, timings: Timings) {
        self.facts.lock().timings = Some(timings);
    }
}
