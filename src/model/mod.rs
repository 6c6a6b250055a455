//! Running one version of a model: a bounded queue, and workers that own sessions.
//!
//! A request's tensors enter the queue (`queue.rs`) if they can be run in time (`admission.rs` decides, from the
//! times that `service_time.rs` has learned). A worker that becomes free takes the waiting requests, up to the batch
//! limit (`batch.rs` decides), runs them as one batch and answers each request (`worker.rs`, `runner.rs`). So batches
//! grow by themselves under load, and a lone request does not wait for others. Where runs are very short, the thread
//! of a request runs the batch instead of a worker (`inline.rs`, `inline_mode.rs`, `others_first.rs`,
//! `queue/inline_runs.rs`). Copies of requests run while nothing waits (`queue/idle_runs.rs`). A run that no request waits for any more is ended. `request.rs` holds the state of a
//! request, which all of these files share, and `waiting_line.rs` the waiting requests. `load_estimate.rs` shows
//! without a lock that a request has ample time, and `warm_up.rs` makes the first runs of a session. `session.rs` is
//! the interface of a runtime; `onnx.rs` and `onnx/values.rs` are the only files that name ONNX Runtime, and
//! `isolated/` opens its sessions in other processes.
//!
//! Requests share runs only if the answer to one does not depend on the others: `independence.rs` checks this with rows
//! that are made up (`made_up_rows.rs`, in a shape from `row_shape.rs`) or real (`real_rows.rs`), `sharing.rs` decides
//! based on the finding, and `joining.rs` joins rows and splits outputs.
//!
//! `row_layout.rs` moves the rows of inputs and outputs to the first dimension, where all other files expect them, and
//! `constant_input.rs` reads the inputs that are constants.
//!
//! `element_bounds.rs` finds the maximum length of rows for a model with open dimensions.
//!
//! This module does not depend on HTTP, pipelines or the registry.

mod admission;
mod batch;
mod constant_input;
mod current_session;
mod element_bounds;
mod independence;
mod inline;
mod inline_mode;
pub mod isolated;
mod joining;
mod load_estimate;
mod made_up_rows;
pub mod onnx;
mod others_first;
mod queue;
mod real_rows;
mod request;
mod row_layout;
mod row_shape;
mod runner;
mod runtime_libraries;
mod service_time;
mod session;
mod sharing;
mod sizing;
mod waiting_line;
mod warm_up;
mod worker;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use self::admission::{Admission, Backlog, Priority, admit, full_batch, residual, time_for_one_run, turn};
pub use self::batch::{
    BatchPolicy, Candidate, Lengths, MAX_PADDING, Next, Plan, RunRows, RunSharing, Share, can_be_padded, plan,
};
use self::current_session::CurrentSession;
pub use self::element_bounds::{ElementBounds, Tried};
pub use self::independence::{
    Cause, Comparing, Comparison, Dependence, Independence, Precision, are_conclusive, compare,
};
pub use self::inline::InlineSlots;
use self::inline::{InlineRun, InlineRuns, MAX_HELD, MAX_RUN};
pub use self::joining::{Joining, RowOutputs};
pub use self::made_up_rows::Values;
pub(crate) use self::made_up_rows::{RARE_SIZES, SIZES, for_an_example, made_up, zeros};
use self::others_first::OthersFirst;
use self::queue::{Entered, IdleStep, Inline, Queue};
use self::request::{Reply, Request};
pub use self::row_shape::RowShape;
use self::runner::Runner;
pub use self::runtime_libraries::RuntimeLibraries;
pub use self::service_time::{Line, ServiceTime};
pub use self::session::{Engine, Interrupt, LoadedModel, ModelBytes, ModelSource, OptimisedGraph, Session};
pub use self::sharing::{BatchingStatus, Rows, Sharing, run_sharing};
pub use self::sizing::{MAX_CHOSEN_ROWS, MeasuredThreads, Sizing, threads_to_measure};
pub use self::warm_up::{Stopwatch, measure, shortest_runs, sizes, slow_run};
use self::worker::work;
use crate::budget::{Deadline, LatencyBudget, QueueTimings, TimeLimits};
use crate::config::{Provider, SessionConfig};
use crate::error::{Error, Result};
use crate::monitor::VersionRecorder;
use crate::telemetry::RequestTrace;
use crate::tensor::{Signature, Tensors};

/// A loaded version that takes requests.
pub struct OnnxModel {
    signature: Signature,
    provider: Provider,
    sharing: Arc<Sharing>,
    queue: Arc<Queue>,
    sessions: Vec<Arc<CurrentSession>>,
    runners: Arc<[Mutex<Runner>]>,
    /// The threads of the workers, one for each session.
    workers: Vec<JoinHandle<()>>,
}

/// A ticket for a request in the queue. Awaiting it returns the model's outputs. Dropping it earlier withdraws the
/// request, and ends the request's run if no other request waits for that run.
pub struct Ticket {
    reply: oneshot::Receiver<Reply>,
    request: Arc<Request>,
    queue: Arc<Queue>,
    gathering: Option<Gathering>,
}

/// The wait for other requests that have arrived on the same thread, before a run that they share.
struct Gathering {
    others: OthersFirst,
    runners: Arc<[Mutex<Runner>]>,
}

/// Settings that the workers of a version share.
#[derive(Debug, Clone)]
pub struct ModelSettings<'a> {
    /// Settings of the sessions.
    pub session: &'a SessionConfig,
    /// Division of the time of a request.
    pub budget: &'a LatencyBudget,
    /// Sharing of runs by requests.
    pub sharing: Arc<Sharing>,
}

/// Result of a run that gives way to requests.
#[derive(Debug)]
pub enum WhileIdle {
    /// All rows were run.
    Ran {
        /// The outputs of the model.
        outputs: Tensors,
        /// Duration of the runs.
        took: Duration,
    },
    /// There was no room, or a request needed the session.
    GaveWay,
}

impl OnnxModel {
    /// Starts a worker for each session, which is already open and warm. `service` is the service time that was learned
    /// from warming up.
    pub fn start(
        name: &str,
        loaded: &Arc<dyn LoadedModel>,
        sessions: Vec<Box<dyn Session>>,
        ModelSettings { session: config, budget, sharing }: ModelSettings<'_>,
        service: ServiceTime,
        recorder: &Arc<VersionRecorder>,
        inline_slots: &Arc<InlineSlots>,
    ) -> Result<OnnxModel> {
        let signature = loaded.signature().clone();
        recorder.set_batching(sharing.independence().name(), sharing.is_on());
        let max_run = if can_run_inline(&**loaded, config) { config.inline() } else { Duration::ZERO };
        let inline = InlineRuns { max_run, slots: Arc::clone(inline_slots) };
        let current: Vec<Arc<CurrentSession>> = sessions.iter().map(|_| Arc::default()).collect();
        let (shared, recorder_too) = (Arc::clone(&sharing), Arc::clone(recorder));
        let queue = Arc::new(Queue::new(shared, config, budget, service, current.clone(), inline, recorder_too));
        let runner = |(session, current): (Box<dyn Session>, &Arc<CurrentSession>)| {
            Mutex::new(Runner::new(session, Arc::clone(current), Arc::clone(loaded), &queue, recorder, &sharing))
        };
        let runners: Arc<[Mutex<Runner>]> = sessions.into_iter().zip(&current).map(runner).collect();
        let mut model = OnnxModel {
            provider: loaded.provider(),
            signature,
            sharing,
            queue: Arc::clone(&queue),
            sessions: current,
            runners: Arc::clone(&runners),
            workers: Vec::new(),
        };
        for index in 0..runners.len() {
            let (queue, runners) = (Arc::clone(&queue), Arc::clone(&runners));
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || work(index, &queue, &runners))
                .map_err(|error| Error::internal(format_args!("a worker thread could not be started: {error}")))?;
            model.workers.push(thread);
        }
        Ok(model)
    }

    /// The inputs and outputs of the model.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The execution provider that is in use.
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Returns the number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Returns the limits for forming batches.
    pub fn policy(&self) -> BatchPolicy {
        self.sharing.policy()
    }

    /// Returns the sharing of runs by requests, with the finding that it is based on.
    pub fn sharing(&self) -> &Sharing {
        &self.sharing
    }

    /// Returns the typical duration of a run of this many rows, if any run was observed; for rows that differ in length, that
    /// of a run of the usual size.
    pub fn typical_run(&self, rows: usize) -> Option<Duration> {
        self.queue.typical_run(rows)
    }

    /// Returns the line of the typical duration of a run by its size, if any run was observed.
    pub fn typical_line(&self) -> Option<Line> {
        self.queue.typical_line()
    }

    /// Returns the time for which all workers have been in their current runs; `None` if a worker is free.
    pub fn all_busy_for(&self) -> Option<Duration> {
        self.queue.all_busy_for()
    }

    /// Admits a request of which only the head is known, if it can be in time. Very cheap.
    pub fn admit(&self, demand: TimeLimits, priority: Priority) -> Result<()> {
        self.queue.admit(demand, priority)
    }

    /// Puts a request's inputs into the queue, if they can be run in time. The inputs must match the signature, and be
    /// in its order.
    ///
    /// If a run takes less than `model.inline_us` and a session is free, this runs the waiting requests, and the ticket is
    /// answered when it is returned; or the ticket runs them, after the other requests that have arrived on its thread.
    ///
    /// If there is a `trace`, the spans of the runs that have rows of the request are linked to it.
    pub fn enqueue(
        &self,
        inputs: Tensors,
        demand: TimeLimits,
        priority: Priority,
        trace: Option<Arc<RequestTrace>>,
    ) -> Result<Ticket> {
        self.check(&inputs)?;
        let Entered { request, reply, inline } = self.queue.push(inputs, demand, priority, trace)?;
        let gathering = match inline {
            Inline::None => None,
            Inline::AtOnce(first) => {
                run_inline(&self.queue, &self.runners, first);
                None
            }
            Inline::AfterOthers => {
                Some(Gathering { others: OthersFirst::default(), runners: Arc::clone(&self.runners) })
            }
        };
        Ok(Ticket { reply, request, queue: Arc::clone(&self.queue), gathering })
    }

    /// Returns true if requests wait for a run.
    pub fn has_waiting(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Runs inputs that nobody waits for, on this thread, as long as no request waits and a session is free. A request
    /// that needs the session ends the run. The runs are neither counted nor learned from.
    pub fn run_while_idle(&self, inputs: Tensors, deadline: Deadline) -> Result<WhileIdle> {
        self.check(&inputs)?;
        let (mut idle, mut took) = (self.queue.idle_request(inputs, deadline), Duration::ZERO);
        loop {
            match self.queue.begin_idle(&mut idle)? {
                IdleStep::Run { session, batch } => {
                    let finished = self.runners[session].lock().run(&batch);
                    self.queue.end_idle(session);
                    took += finished.took;
                    if batch.is_terminated() {
                        return Ok(WhileIdle::GaveWay);
                    }
                }
                IdleStep::GiveWay => return Ok(WhileIdle::GaveWay),
                IdleStep::Done => return idle.outputs().map(|outputs| WhileIdle::Ran { outputs, took }),
            }
        }
    }

    /// Ends a run of [`OnnxModel::run_while_idle`] that takes too long.
    pub fn interrupt_idle(&self) {
        self.queue.interrupt_idle();
    }

    /// Stops accepting requests. Waiting requests are still answered, then the workers end.
    pub fn retire(&self) {
        self.queue.close();
    }

    /// Ends the current runs of a model that is being retired: its workers answer with an error and end.
    pub fn interrupt(&self) {
        self.sessions.iter().for_each(|session| session.retire());
    }

    /// Returns true if all workers have ended.
    pub fn is_retired(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }

    fn check(&self, inputs: &Tensors) -> Result<()> {
        let declared = &self.signature.inputs;
        let fits = inputs.len() == declared.len()
            && inputs.iter().zip(declared).all(|((name, tensor), spec)| {
                *name == spec.name && tensor.dtype() == spec.dtype && tensor.rows() == inputs.rows()
            });
        if !fits {
            return Err(Error::internal("the preprocessor's tensors do not have the model's names, types and rows"));
        }
        self.policy().check(inputs)
    }
}

/// Runs waiting requests on this thread, and answers them.
fn run_inline(queue: &Queue, runners: &[Mutex<Runner>], run: InlineRun) {
    let InlineRun { session, mut batch, began, slot } = run;
    loop {
        let finished = runners[session].lock().run(&batch);
        let may_go_on = began.elapsed() < MAX_HELD;
        let Some((next, begins)) = queue.next_inline(session, finished, may_go_on) else { return };
        slot.next_run(begins);
        batch = next;
    }
}

/// Returns true if short runs can be made on the thread of a request: they run on the processor, in this process.
fn can_run_inline(loaded: &dyn LoadedModel, config: &SessionConfig) -> bool {
    loaded.is_in_process()
        && loaded.provider() == Provider::Cpu
        && config.max_wait().is_zero()
        && config.inline() < MAX_RUN
}

impl std::fmt::Debug for OnnxModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OnnxModel")
            .field("provider", &self.provider)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl Drop for OnnxModel {
    fn drop(&mut self) {
        self.retire();
    }
}

impl Ticket {
    /// Predicted time in the queue and the run, if there is a prediction.
    pub fn predicted(&self) -> Option<Duration> {
        self.request.predicted
    }

    /// Returns a function that returns the time at which a worker took the request, or `None` if it is still waiting
    /// then.
    pub fn taken(&self) -> impl FnOnce() -> Option<Instant> + use<> {
        let request = Arc::clone(&self.request);
        move || request.taken()
    }

    fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Result<(Tensors, QueueTimings)>> {
        Pin::new(&mut self.reply)
            .poll(context)
            // The sender is part of the request, which the ticket holds, so it is not dropped before the ticket.
            .map(|reply| reply.unwrap_or_else(|lost| Err(Error::internal(lost))))
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("request", &self.request).finish_non_exhaustive()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.request.is_over() {
            self.queue.give_up(&self.request);
        }
    }
}

impl Future for Ticket {
    type Output = Result<(Tensors, QueueTimings)>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Another thread may have run the request meanwhile.
        if let Poll::Ready(reply) = self.poll_reply(context) {
            return Poll::Ready(reply);
        }
        if let Some(gathering) = &mut self.gathering {
            ready!(Pin::new(&mut gathering.others).poll(context));
            if let Some(Gathering { runners, .. }) = self.gathering.take()
                && let Some(first) = self.queue.start_gathered()
            {
                run_inline(&self.queue, &runners, first);
            }
        }
        self.poll_reply(context)
    }
}
