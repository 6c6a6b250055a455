//! A worker: one thread that owns a session and runs batches until its queue is closed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::batch::{BatchPolicy, join, split};
use super::queue::{FinishedRun, Job, Queue};
use super::session::{Interrupt, LoadedModel, Session};
use crate::budget::Waited;
use crate::error::{Error, Result};
use crate::monitor::VersionRecorder;
use crate::stage::{Stage, Timings};
use crate::tensor::Tensors;

pub(super) struct Worker {
    /// `None` after a panic, until a new session could be opened.
    session: Option<Box<dyn Session>>,
    current: Arc<CurrentSession>,
    loaded: Arc<dyn LoadedModel>,
    queue: Arc<Queue>,
    policy: BatchPolicy,
    recorder: Arc<VersionRecorder>,
}

/// The session that a worker owns at the moment, for those who want to end its run.
#[derive(Default)]
pub(super) struct CurrentSession {
    interrupt: Mutex<Option<Interrupt>>,
    is_interrupted: AtomicBool,
}

impl CurrentSession {
    fn set(&self, session: &dyn Session) {
        let mut current = self.interrupt.lock();
        let interrupt = current.insert(session.interrupt());
        // A session that was opened too late to be interrupted with the others.
        if self.is_interrupted.load(Ordering::Relaxed) {
            interrupt();
        }
    }

    pub(super) fn interrupt(&self) {
        self.is_interrupted.store(true, Ordering::Relaxed);
        if let Some(interrupt) = &*self.interrupt.lock() {
            interrupt();
        }
    }
}

impl Worker {
    pub(super) fn new(
        session: Box<dyn Session>,
        current: &Arc<CurrentSession>,
        loaded: Arc<dyn LoadedModel>,
        queue: &Arc<Queue>,
        policy: BatchPolicy,
        recorder: &Arc<VersionRecorder>,
    ) -> Worker {
        current.set(&*session);
        Worker {
            session: Some(session),
            current: Arc::clone(current),
            loaded,
            queue: Arc::clone(queue),
            policy,
            recorder: Arc::clone(recorder),
        }
    }

    /// Runs batches until the queue is closed and empty. A panic fails the batch that it happened in: its requests
    /// see that nobody will answer them.
    pub(super) fn run(mut self) {
        let mut last = None;
        while let Some(batch) = self.queue.take(self.policy, last) {
            let (begin, requests) = (Instant::now(), batch.len());
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run_batch(batch, begin))) {
                tracing::error!(panic = panic_message(&*panic), "a worker panicked; its session is rebuilt");
                self.recorder.worker_restarted();
                // Whatever state the session is in, it is not used again.
                self.session = None;
                self.rebuild();
            }
            last = Some(FinishedRun { requests, took: begin.elapsed() });
        }
    }

    /// Opens a new session, so that the next batch need not wait for it. If that fails now, the next batch tries
    /// again.
    fn rebuild(&mut self) {
        match catch_unwind(AssertUnwindSafe(|| self.loaded.open())) {
            Ok(Ok(session)) => {
                self.current.set(&*session);
                self.session = Some(session);
            }
            Ok(Err(error)) => tracing::error!(%error, detail = error.detail(), "no new session could be opened"),
            Err(_panic) => tracing::error!("opening a new session panicked"),
        }
    }

    fn run_batch(&mut self, batch: Vec<Job>, begin: Instant) {
        batch.iter().for_each(|job| job.take(begin));

        let rows: Vec<usize> = batch.iter().map(|job| job.inputs.rows()).collect();
        let outputs = match &*batch {
            [alone] => self.run_alone(alone),
            many => Tensors::stack(&many.iter().map(|job| &job.inputs).collect::<Vec<_>>())
                .ok_or_else(|| Error::internal("requests of different shapes were put into one batch"))
                .and_then(|inputs| self.run_once(&inputs)),
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

    /// Runs the rows of one request, in as many runs as the policy asks for, for as long as someone waits.
    fn run_alone(&mut self, job: &Job) -> Result<Tensors> {
        let runs: Vec<_> = self.policy.runs(job.inputs.rows()).collect();
        if let [_all] = &*runs {
            return self.run_once(&job.inputs);
        }
        let mut parts = Vec::with_capacity(runs.len());
        for run in &runs {
            if job.is_unwanted(Instant::now()) {
                return Err(Error::Expired { stage: Stage::Inference, spent: Timings::default() });
            }
            parts.push(self.run_once(&job.inputs.slice_rows(run.clone()))?);
        }
        let rows: Vec<usize> = runs.into_iter().map(|run| run.len()).collect();
        join(&parts, &rows).ok_or_else(|| Error::ModelFailed {
            detail: "the runs of one request gave outputs of different shapes".to_owned(),
        })
    }

    fn run_once(&mut self, inputs: &Tensors) -> Result<Tensors> {
        let session = match &mut self.session {
            Some(session) => session,
            broken @ None => {
                let session = broken.insert(self.loaded.open()?);
                self.current.set(&**session);
                session
            }
        };
        self.recorder.batch(inputs.rows());
        session.run(inputs).map_err(|error| match error {
            // It was not the input: the run was ended from outside.
            Error::ModelFailed { .. } if self.current.is_interrupted.load(Ordering::Relaxed) => Error::ShuttingDown,
            other => other,
        })
    }
}

/// The text of a panic, where it has one.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}
