//! Runs batches on a session, and opens a new session after a panic. The thread of a worker or of a request calls it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::current_session::CurrentSession;
use super::independence::{Independence, are_conclusive, compare};
use super::queue::{FinishedRun, Queue, RunEnd};
use super::real_rows::RealRows;
use super::request::{Batch, Part};
use super::session::{LoadedModel, Session};
use super::sharing::Sharing;
use crate::error::{Error, ProcessEnd, Result, SetupError};
use crate::monitor::VersionRecorder;
use crate::tensor::Tensors;

/// A session, with everything that a run needs.
pub(super) struct Runner {
    /// `None` after a panic, until a new session is open.
    session: Option<Box<dyn Session>>,
    current: Arc<CurrentSession>,
    loaded: Arc<dyn LoadedModel>,
    queue: Arc<Queue>,
    recorder: Arc<VersionRecorder>,
    sharing: Arc<Sharing>,
    real_rows: RealRows,
}

impl Runner {
    pub(super) fn new(
        session: Box<dyn Session>,
        current: Arc<CurrentSession>,
        loaded: Arc<dyn LoadedModel>,
        queue: &Arc<Queue>,
        recorder: &Arc<VersionRecorder>,
        sharing: &Arc<Sharing>,
    ) -> Runner {
        current.set(&*session);
        Runner {
            session: Some(session),
            current,
            loaded,
            queue: Arc::clone(queue),
            recorder: Arc::clone(recorder),
            sharing: Arc::clone(sharing),
            real_rows: RealRows::new(),
        }
    }

    /// Runs a batch and answers its requests. A panic fails only this batch.
    pub(super) fn run(&mut self, batch: &Batch) -> FinishedRun {
        let (begin, trace) = (Instant::now(), batch.begin_trace());
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let end = self.run_batch(batch, &batch.parts);
            let took = begin.elapsed();
            if end == RunEnd::Completed && self.sharing.is_open() && !batch.is_idle {
                self.learn_from(batch);
            }
            FinishedRun { took, end }
        }));
        let finished = ran.unwrap_or_else(|panic| {
            tracing::error!(panic = panic_message(&*panic), "a worker panicked; its session is rebuilt");
            self.recorder.worker_restarted();
            self.fail(&batch.parts, &Error::WorkerPanicked);
            // The session may be in an invalid state, so it is not used again.
            self.lose_session();
            FinishedRun { took: begin.elapsed(), end: RunEnd::Failed }
        });
        if let Some(trace) = trace {
            let FinishedRun { took, end } = finished;
            trace.end(self.recorder.names(), (begin, begin + took), end.name(), end == RunEnd::Failed);
        }
        finished
    }

    /// Returns true if there is a session.
    pub(super) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// Closes the session.
    pub(super) fn close(&mut self) {
        self.lose_session();
    }

    fn lose_session(&mut self) {
        self.session = None;
        self.current.clear();
    }

    /// Opens a new session, so that the next batch need not wait for it. If opening fails, the next batch tries again.
    pub(super) fn rebuild(&mut self) {
        let reopen = || {
            drop(self.session.take());
            let session = self.loaded.open()?;
            self.current.set(&*session);
            self.session = Some(session);
            Ok(())
        };
        match catch_unwind(AssertUnwindSafe(reopen)) {
            Ok(Ok(())) => {}
            // The end of the process is already logged.
            Ok(Err::<(), SetupError>(SetupError::Run(Error::ModelRestarting { .. }))) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "no new session could be opened")
            }
            Err(_panic) => tracing::error!("opening a new session panicked"),
        }
    }

    /// Runs parts of a batch together and answers their requests.
    fn run_batch(&mut self, batch: &Batch, parts: &[Part]) -> RunEnd {
        let rows: Vec<(usize, usize)> =
            parts.iter().map(|part| (part.rows.len(), part.request.inputs.row_length())).collect();
        let outputs = match parts {
            [alone] if alone.is_whole() => self.run_once(batch, &alone.request.inputs, 0),
            several => {
                let rows: Vec<(&Tensors, Range<usize>)> =
                    several.iter().map(|part| (&part.request.inputs, part.rows.clone())).collect();
                self.sharing
                    .joining()
                    .gather(&rows)
                    .ok_or_else(|| Error::internal("requests of different shapes were put into one batch"))
                    .and_then(|inputs| {
                        let before = |(inputs, rows): &(&Tensors, Range<usize>)| rows.len() * inputs.row_elements();
                        let all = inputs.rows() * inputs.row_elements();
                        self.run_once(batch, &inputs, all - rows.iter().map(before).sum::<usize>())
                    })
            }
        };
        match outputs.and_then(|outputs| self.sharing.joining().split(outputs, &rows)) {
            Ok(outputs) => {
                let now = Instant::now();
                for (part, outputs) in parts.iter().zip(outputs) {
                    part.deliver(outputs, now);
                }
                RunEnd::Completed
            }
            Err(_) if batch.is_moved() => RunEnd::Moved,
            Err(error) if batch.is_terminated() => {
                if !batch.is_idle {
                    self.recorder.run_terminated();
                }
                self.fail(parts, &error);
                RunEnd::Terminated
            }
            // The model failed on one of these inputs, or gave no usable output: run each request alone, so that only
            // the bad one fails.
            Err(Error::ModelFailed { .. } | Error::UnusableOutput { .. }) if parts.len() > 1 => {
                for part in parts {
                    if !part.request.is_unwanted(Instant::now())
                        && self.run_batch(batch, std::slice::from_ref(part)) == RunEnd::Moved
                    {
                        return RunEnd::Moved;
                    }
                }
                RunEnd::Failed
            }
            Err(error) => {
                self.fail(parts, &error);
                RunEnd::Failed
            }
        }
    }

    /// Checks with rows of real requests if rows are independent, for a model that could not be checked at load.
    fn learn_from(&mut self, batch: &Batch) {
        for part in &batch.parts {
            self.real_rows.keep(&part.request.inputs);
        }
        let Some(session) = &mut self.session else { return };
        let Some(rows) = self.real_rows.take(!self.queue.is_empty()) else { return };
        let (gives_way, mut has_given_way) = (self.real_rows.gives_way(), false);
        let mut run = |inputs: &Tensors| {
            has_given_way = gives_way && !self.queue.is_empty();
            if has_given_way { Err(Error::internal("a request arrived")) } else { session.run(inputs) }
        };
        let row_size = rows.first().map_or(1, |row| self.sharing.policy().row_size(row));
        let compared = compare(&rows, &self.sharing.comparing((self.queue.full_batch() / row_size).max(1)), &mut run);
        if has_given_way {
            self.real_rows.put_back(rows);
            return;
        }
        if let Err(error) = &compared {
            self.note_end(error);
        }
        let (model, version) = self.recorder.names();
        let problem = match compared {
            Ok(comparison) => {
                let (outputs, is_conclusive) =
                    (comparison.outputs.clone(), are_conclusive(std::slice::from_ref(&comparison)));
                if let Some(comparisons) = self.real_rows.add(comparison) {
                    let found = Independence::of(comparisons, String::new);
                    match &found {
                        Independence::Dependent(_) => tracing::warn!(model, version, "{found}"),
                        _ => tracing::info!(model, version, "{found}"),
                    }
                    self.sharing.decide(found, outputs);
                    self.recorder.set_batching(self.sharing.independence().name(), self.sharing.is_on());
                    return;
                }
                if is_conclusive {
                    return;
                }
                "different requests had the same answer".to_owned()
            }
            Err(error) => error.for_operators(),
        };
        if self.real_rows.has_given_up() {
            tracing::warn!(
                model,
                version,
                problem,
                "requests are still run one at a time: real requests did not show if rows are independent"
            );
        }
    }

    /// Answers parts with an error. Other rows of their requests are not run any more.
    fn fail(&self, parts: &[Part], error: &Error) {
        for part in parts {
            part.request.fail(error.clone());
            if !part.is_whole() {
                self.queue.give_up(&part.request);
            }
        }
    }

    /// Runs inputs that contain `padding` elements of padding.
    fn run_once(&mut self, batch: &Batch, inputs: &Tensors, padding: usize) -> Result<Tensors> {
        let session = match &mut self.session {
            Some(session) => session,
            broken @ None => {
                let session = broken.insert(self.loaded.open().map_err(SetupError::of_a_request)?);
                self.current.set(&**session);
                session
            }
        };
        // The batch was ended before its run began, or while the worker had no session.
        if batch.is_terminated() {
            return Err(Error::internal("nobody waits for this run any more"));
        }
        // A batch that was moved may have been counted before.
        if !batch.is_idle && !batch.is_counted.swap(true, Relaxed) {
            self.recorder.batch(inputs.rows(), inputs.rows() * inputs.row_elements(), padding);
        }
        match session.run(inputs) {
            // The input is not to blame: the run was ended from outside.
            Err(Error::ModelFailed { .. }) if self.current.is_retired() => Err(Error::ShuttingDown),
            Err(Error::ModelProcessEnded { when: ProcessEnd::BeforeTheRun, detail }) => {
                self.process_ended(&detail);
                let session = self.session.insert(self.loaded.open().map_err(SetupError::of_a_request)?);
                self.current.set(&**session);
                session.run(inputs).inspect_err(|error| self.note_end(error))
            }
            ran => ran.inspect_err(|error| self.note_end(error)),
        }
    }

    /// Drops the session if the error means that the session's process has ended.
    fn note_end(&mut self, error: &Error) {
        if let Error::ModelProcessEnded { detail, .. } = error {
            self.process_ended(detail);
        }
    }

    fn process_ended(&mut self, detail: &str) {
        let (model, version) = self.recorder.names();
        tracing::error!(model, version, detail, "a model's process ended; another one is started");
        self.recorder.worker_restarted();
        self.lose_session();
    }
}

/// Returns the message of a panic, or a text that says that it has none.
fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}
