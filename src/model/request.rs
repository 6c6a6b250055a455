//! A request to a model: its inputs and limits, its progress, and the channel for its answer.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::joining::join;
use crate::budget::{Deadline, QueueTimings, TimeLimits};
use crate::error::{Error, Result};
use crate::telemetry::{RequestTrace, RunOfBatch, RunTrace};
use crate::tensor::Tensors;

/// The outputs for all rows of a request, and the request's times in the queue and in the run.
pub(super) type Reply = Result<(Tensors, QueueTimings)>;

/// A request, shared by the ticket that waits for it, the queue, and the workers that run its rows.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) inputs: Tensors,
    /// Size of each row, in the unit of the service time.
    pub(super) row_size: usize,
    /// Time after which nobody waits for the outputs any more.
    pub(super) deadline: Deadline,
    /// Time by which the request's run has to end.
    pub(super) finish_by: Instant,
    /// Turn in the queue: the time of arrival, shifted by the priority.
    pub(super) turn: Instant,
    pub(super) entered: Instant,
    /// Predicted time in the queue and the run.
    pub(super) predicted: Option<Duration>,
    /// Trace of the request, if it is sampled.
    pub(super) trace: Option<Arc<RequestTrace>>,
    /// Time at which a worker first took rows of the request.
    taken: OnceLock<Instant>,
    /// True once the request was answered, or nobody waits for it.
    is_over: AtomicBool,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
struct Progress {
    reply: Option<oneshot::Sender<Reply>>,
    /// Outputs so far, with the rows that they belong to. Only for requests that are run in parts.
    parts: Vec<(Range<usize>, Tensors)>,
}

/// Rows of requests that are run together.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) parts: Vec<Part>,
    /// True if the run was ended from outside.
    is_terminated: AtomicBool,
    /// True if it was ended because a worker is to run the batch.
    is_moved: AtomicBool,
    /// True if the run was counted, before it was moved.
    pub(super) is_counted: AtomicBool,
    /// True if nobody waits for the run, so that it is not counted.
    pub(super) is_idle: bool,
}

/// Rows of one request that are part of a batch.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) request: Arc<Request>,
    pub(super) rows: Range<usize>,
}

// ===== impl Request =====

impl Request {
    pub(super) fn new(
        (inputs, row_size): (Tensors, usize),
        TimeLimits { deadline, finish_by }: TimeLimits,
        (turn, entered): (Instant, Instant),
        predicted: Option<Duration>,
        trace: Option<Arc<RequestTrace>>,
    ) -> (Request, oneshot::Receiver<Reply>) {
        let (sender, reply) = oneshot::channel();
        let progress = Mutex::new(Progress { reply: Some(sender), parts: Vec::new() });
        let (taken, is_over) = (OnceLock::new(), AtomicBool::new(false));
        let request = Request {
            inputs,
            row_size,
            deadline,
            finish_by,
            turn,
            entered,
            predicted,
            trace,
            taken,
            is_over,
            progress,
        };
        (request, reply)
    }

    /// Returns the time at which a worker first took rows of the request; `None` if no worker has.
    pub(super) fn taken(&self) -> Option<Instant> {
        self.taken.get().copied()
    }

    /// Returns true if the request was answered or given up.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Records that nobody waits for the request any more.
    pub(super) fn give_up(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// Returns true if nobody waits for the request any more, or its deadline has passed.
    pub(super) fn is_unwanted(&self, now: Instant) -> bool {
        self.is_over() || self.deadline.has_passed(now)
    }

    /// Adds the outputs of some rows, and answers the request once it has the outputs of all rows.
    fn deliver(&self, rows: Range<usize>, outputs: Tensors, now: Instant) {
        let mut progress = self.progress.lock();
        let outputs = if rows.len() == self.inputs.rows() {
            Ok(outputs)
        } else {
            progress.parts.push((rows, outputs));
            if progress.parts.iter().map(|(rows, _)| rows.len()).sum::<usize>() < self.inputs.rows() {
                return;
            }
            let mut parts = std::mem::take(&mut progress.parts);
            parts.sort_unstable_by_key(|(rows, _)| rows.start);
            let (rows, parts): (Vec<usize>, Vec<Tensors>) =
                parts.into_iter().map(|(rows, part)| (rows.len(), part)).unzip();
            join(&parts, &rows).ok_or_else(|| {
                Error::InvalidInput(
                    "instances: the outputs for these instances differ in shape, so one answer cannot hold them; send each \
                     instance in a request of its own"
                        .to_owned(),
                )
            })
        };
        let taken = self.taken().unwrap_or(now);
        let waited = QueueTimings {
            queue: taken.saturating_duration_since(self.entered),
            inference: now.saturating_duration_since(taken),
            entered: Some(self.entered),
        };
        self.send(&mut progress, outputs.map(|outputs| (outputs, waited)));
    }

    /// Answers with an error, if the request has no answer yet.
    pub(super) fn fail(&self, error: Error) {
        self.send(&mut self.progress.lock(), Err(error));
    }

    fn send(&self, progress: &mut Progress, reply: Reply) {
        self.give_up();
        if let Some(sender) = progress.reply.take() {
            // If the receiver is gone, nobody needs the answer.
            let _ = sender.send(reply);
        }
    }
}

// ===== impl Batch =====

impl Batch {
    pub(super) fn new(parts: Vec<Part>) -> Batch {
        let [is_terminated, is_moved, is_counted] = [(); 3].map(|()| AtomicBool::new(false));
        Batch { parts, is_terminated, is_moved, is_counted, is_idle: false }
    }

    /// Returns the batch as one that nobody waits for.
    pub(super) fn for_nobody(mut self) -> Batch {
        self.is_idle = true;
        self
    }

    /// Records in each request of the batch that a worker takes it now.
    pub(super) fn take(&self, now: Instant) {
        for part in &self.parts {
            // Only the first time counts: a request may be run in parts.
            let _ = part.request.taken.set(now);
        }
    }

    /// Begins the span of a run of the batch; `None` if none of its requests is sampled.
    pub(super) fn begin_trace(&self) -> Option<RunTrace> {
        let sampled = self.parts.iter().filter_map(|part| part.request.trace.as_ref());
        RunTrace::begin(sampled, || RunOfBatch { rows: self.rows(), requests: self.parts.len() })
    }

    /// Number of rows of the batch.
    pub(super) fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows.len()).sum()
    }

    /// Size of the batch, in the unit of the service time: short rows are padded to the longest.
    pub(super) fn size(&self) -> usize {
        self.rows() * self.parts.iter().map(|part| part.request.row_size).max().unwrap_or(1)
    }

    /// The last deadline of the batch's requests.
    pub(super) fn last_deadline(&self) -> Option<Instant> {
        self.parts.iter().map(|part| part.request.deadline.instant()).max()
    }

    /// Returns true if the batch has rows of this request.
    pub(super) fn has(&self, request: &Arc<Request>) -> bool {
        self.parts.iter().any(|part| Arc::ptr_eq(&part.request, request))
    }

    /// Returns true if nobody waits for any request of the batch.
    pub(super) fn is_over(&self) -> bool {
        self.parts.iter().all(|part| part.request.is_over())
    }

    /// Ends the run, because nobody waits for it any more.
    pub(super) fn terminate(&self) {
        self.is_terminated.store(true, Ordering::Release);
    }

    /// Ends the run, because a worker is to run the batch.
    pub(super) fn move_to_worker(&self) {
        self.is_moved.store(true, Ordering::Relaxed);
        self.terminate();
    }

    /// Returns true if the run was ended because a worker is to run the batch.
    pub(super) fn is_moved(&self) -> bool {
        self.is_moved.load(Ordering::Relaxed)
    }

    /// Returns the parts that still need a run; `None` if there are none.
    pub(super) fn rest(&self) -> Option<Batch> {
        let parts: Vec<Part> = self.parts.iter().filter(|part| !part.request.is_over()).cloned().collect();
        let is_counted = AtomicBool::new(self.is_counted.load(Ordering::Relaxed));
        (!parts.is_empty()).then(|| Batch { is_counted, ..Batch::new(parts) })
    }

    /// Returns true if the run was ended from outside.
    pub(super) fn is_terminated(&self) -> bool {
        self.is_terminated.load(Ordering::Acquire)
    }
}

// ===== impl Part =====

impl Part {
    /// Returns true if the part has all rows of its request.
    pub(super) fn is_whole(&self) -> bool {
        self.rows.len() == self.request.inputs.rows()
    }

    /// Passes the outputs of these rows to the request.
    pub(super) fn deliver(&self, outputs: Tensors, now: Instant) {
        self.request.deliver(self.rows.clone(), outputs, now);
    }
}
