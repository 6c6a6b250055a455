//! The span of a run of a batch, which is linked to the sampled requests that share the run.

use std::sync::Arc;
use std::time::Instant;

use super::request_trace::{RequestTrace, RunLink, RunOfBatch, SpanIds};
use super::spans::FinishedRun;

/// The span of a run of a batch, while the run goes on.
#[derive(Debug)]
pub struct RunTrace {
    ids: SpanIds,
    /// The sampled requests that share the run.
    requests: Vec<Arc<RequestTrace>>,
    batch: RunOfBatch,
}

impl RunTrace {
    /// Begins the span of a run, and notes it in the requests; `None` if none of them is sampled.
    pub fn begin<'a>(
        sampled: impl Iterator<Item = &'a Arc<RequestTrace>>,
        batch: impl FnOnce() -> RunOfBatch,
    ) -> Option<RunTrace> {
        let mut sampled = sampled.peekable();
        sampled.peek()?;
        let (ids, batch) = (SpanIds::of_trace(fastrand::u64(..)), batch());
        let requests: Vec<Arc<RequestTrace>> = sampled.map(Arc::clone).collect();
        requests.iter().for_each(|request| {
            request.joins(RunLink { ids, rows: batch.rows, requests: batch.requests });
        });
        Some(RunTrace { ids, requests, batch })
    }

    /// Ends the span of a run of this version. `outcome` is the name of the outcome.
    pub fn end(
        self,
        (model, version): (&str, &str),
        (began, ended): (Instant, Instant),
        outcome: &'static str,
        is_failure: bool,
    ) {
        let RunTrace { ids, requests, batch } = self;
        let Some(queue) = requests.first().map(|request| Arc::clone(&request.queue)) else { return };
        queue.push(Box::new(FinishedRun {
            ids,
            requests: requests.iter().map(|request| request.ids).collect(),
            batch,
            model: model.to_owned(),
            version: version.to_owned(),
            began,
            ended,
            outcome,
            is_failure,
        }));
    }
}
