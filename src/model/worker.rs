//! A worker: one thread that owns a session and runs batches until its queue is closed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::batch::{BatchPolicy, split};
use super::queue::{FinishedRun, Job, Queue};
use super::session::{LoadedModel, Session};
use crate::budget::Waited;
use crate::error::{Error, Result};
use crate::monitor::VersionRecorder;
use crate::tensor::Tensors;

pub(super) struct Worker {
    /// `None` after a panic, until a new session could be opened.
    session: Option<Box<dyn Session>>,
    loaded: Arc<dyn LoadedModel>,
    queue: Arc<Queue>,
    policy: BatchPolicy,
    recorder: Arc<VersionRecorder>,
}

impl Worker {
    pub(super) fn new(
        session: Box<dyn Session>,
        loaded: Arc<dyn LoadedModel>,
        queue: Arc<Queue>,
        policy: BatchPolicy,
        recorder: Arc<VersionRecorder>,
    ) -> Worker {
        Worker { session: Some(session), loaded, queue, policy, recorder }
    }

    /// Runs batches until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let mut last = None;
        while let Some(batch) = self.queue.take(self.policy, last) {
            let (begin, requests) = (Instant::now(), batch.len());
            self.run_batch(batch, begin);
            last = Some(FinishedRun { requests, took: begin.elapsed() });
        }
    }

    fn run_batch(&mut self, batch: Vec<Job>, begin: Instant) {
        batch.iter().for_each(|job| job.take(begin));

        let rows: Vec<usize> = batch.iter().map(|job| job.inputs.rows()).collect();
        let outputs = match &*batch {
            [alone] => self.run_rows(&alone.inputs),
            many => Tensors::stack(many.iter().map(|job| &job.inputs))
                .ok_or_else(|| Error::internal("requests of different shapes were put into one batch"))
                .and_then(|inputs| self.run_rows(&inputs)),
        };
        let inference = begin.elapsed();
        match outputs {
            Ok(outputs) => {
                for (job, outputs) in batch.into_iter().zip(split(outputs, &rows)) {
                    let waited = Waited { queue: job.waited(begin), inference };
                    job.answer(Ok((outputs, waited)));
                }
            }
            // The model refused one of these inputs: each alone, so that only the bad one fails.
            Err(Error::ModelFailed { .. }) if batch.len() > 1 => {
                batch.into_iter().for_each(|job| self.run_batch(vec![job], Instant::now()));
            }
            Err(error) => batch.into_iter().for_each(|job| job.answer(Err(error.clone()))),
        }
    }

    /// Runs all rows, in as many runs as the policy asks for.
    fn run_rows(&mut self, inputs: &Tensors) -> Result<Tensors> {
        let rows = inputs.rows();
        let runs: Vec<_> = self.policy.runs(rows).collect();
        if let [_all] = &*runs {
            return self.run_once(inputs);
        }
        let mut parts = Vec::with_capacity(runs.len());
        for run in runs {
            let expected = run.len();
            let outputs = self.run_once(&inputs.slice_rows(run))?;
            // Only outputs with a row per instance can be put together again.
            parts.extend(split(outputs, &[expected]));
        }
        Tensors::stack(parts.iter()).ok_or_else(|| Error::ModelFailed {
            detail: "the runs of one request gave outputs of different shapes".to_owned(),
        })
    }

    fn run_once(&mut self, inputs: &Tensors) -> Result<Tensors> {
        let session = match &mut self.session {
            Some(session) => session,
            broken @ None => broken.insert(self.loaded.open()?),
        };
        self.recorder.batch(inputs.rows());
        match catch_unwind(AssertUnwindSafe(|| session.run(inputs))) {
            Ok(outputs) => outputs,
            Err(panic) => {
                tracing::error!(panic = panic_message(&*panic), "a worker panicked; its session is rebuilt");
                self.recorder.worker_restarted();
                // Whatever state the session is in, it is not used again. If no new one can be opened now,
                // the next batch tries again.
                self.session = None;
                match self.loaded.open() {
                    Ok(session) => self.session = Some(session),
                    Err(error) => tracing::error!(%error, detail = error.detail(), "no new session could be opened"),
                }
                Err(Error::WorkerPanicked)
            }
        }
    }
}

/// The text of a panic, where it has one.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}
