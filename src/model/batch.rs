//! Forms a batch: selects the waiting requests of the next run, and the number of rows to run of each. Pure: no clock,
//! no lock, no I/O.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::admission::MARGIN;
use super::element_bounds::ElementBounds;
use super::service_time::Line;
use crate::config::SessionConfig;
use crate::error::{Error, Result};
use crate::tensor::{Dim, Signature, Tensors};

/// Limits for forming the batches of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPolicy {
    /// Number of rows of a run.
    pub run_rows: RunRows,
    /// Maximum number of elements of all inputs together in one run.
    pub max_elements: Option<NonZeroUsize>,
    /// Maximum number of elements in one row, where `model.toml` does not limit the elements of a run.
    pub max_row_elements: Option<NonZeroUsize>,
    /// Maximum time for which a free worker waits for more rows.
    pub max_wait: Duration,
    /// Maximum number of rows of one request.
    pub max_instances: NonZeroUsize,
    /// Number of concurrent runs.
    pub workers: NonZeroUsize,
    /// Lengths of the rows that can be run together.
    pub lengths: Lengths,
}

/// Lengths of the rows that can be run together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lengths {
    /// All rows have the same shape.
    Alike,
    /// Rows of different shapes, of which only those of the same shape are run together. They take different times.
    Varied,
    /// Rows of similar length; short rows are padded.
    Padded,
}

/// Maximum share of padding in a row. Above it, padding costs more than a shared run saves.
pub const MAX_PADDING: f64 = 0.15;

/// Assumed maximum length of a row, for a model whose rows are padded.
const MAX_ROW: usize = 1 << 16;

/// Assumed maximum number of elements of a row, for a model whose rows differ in shape.
const MAX_ROW_ELEMENTS: usize = 1 << 24;

/// Number of rows of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunRows {
    /// Any number up to this one: small requests are joined, and large ones divided.
    UpTo(NonZeroUsize),
    /// All rows of one request, at most this many, because the rows may depend on each other.
    OneRequest(NonZeroUsize),
    /// Exactly this many rows, because the model fixes its batch dimension: requests run one by one.
    Exactly(NonZeroUsize),
}

/// Sharing of a run by requests, for a model that does not fix the number of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunSharing {
    /// Several requests share a run.
    Shared,
    /// A run has exactly the rows of one request.
    Exclusive,
}

/// A waiting request, with the data needed to form a batch.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Number of rows of the request that no worker has taken yet.
    pub rows: usize,
    /// Inputs of the request. Only their shapes are used.
    pub inputs: &'a Tensors,
    /// Arrival time of the request.
    pub entered: Instant,
    /// Time by which the run has to end; `None` if the request is run even if it will be late.
    pub finish_by: Option<Instant>,
}

/// Decision of a free worker about the waiting requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Queue positions of the requests that would be late even if they were run at once and alone.
    pub hopeless: Vec<usize>,
    /// Action for the other requests.
    pub next: Next,
}

/// Next action of a free worker, for the requests that can be in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Run these rows as one batch.
    Run(Vec<Share>),
    /// Wait for more rows, until this time at most.
    WaitUntil(Instant),
    /// There is nothing to run.
    Idle,
}

/// The rows of one request that go into the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The request's position in the queue.
    pub index: usize,
    /// Number of the request's rows in the run.
    pub rows: usize,
}

impl BatchPolicy {
    /// Returns the policy for a model. A fixed batch dimension determines the rows of a run; otherwise the
    /// configuration and `sharing` do.
    pub fn new(
        signature: &Signature,
        config: &SessionConfig,
        lengths: Lengths,
        sharing: RunSharing,
        bounds: ElementBounds,
    ) -> BatchPolicy {
        let run_rows = match (signature.batch_dim(), sharing) {
            (Dim::Fixed(rows), _) => RunRows::Exactly(NonZeroUsize::new(rows).unwrap_or(NonZeroUsize::MIN)),
            (Dim::Dynamic(_), RunSharing::Shared) => RunRows::UpTo(config.joined_batch_size()),
            (Dim::Dynamic(_), RunSharing::Exclusive) => RunRows::OneRequest(config.single_request_batch_size()),
        };
        let bounds = bounds.or_configured(config.max_batch_elements);
        BatchPolicy {
            run_rows,
            max_elements: bounds.run,
            max_row_elements: bounds.row,
            max_wait: config.max_wait(),
            max_instances: config.max_instances,
            workers: config.threads().workers,
            lengths,
        }
    }

    /// Returns this policy with runs of one row, for a model whose outputs have no dimension for rows.
    pub(super) fn of_one_row(self) -> BatchPolicy {
        let one = NonZeroUsize::MIN;
        BatchPolicy { run_rows: RunRows::Exactly(one), max_instances: one, ..self }
    }

    /// Minimum number of rows of one run.
    pub fn fewest_rows(self) -> usize {
        match self.run_rows {
            RunRows::Exactly(rows) => rows.get(),
            RunRows::UpTo(_) | RunRows::OneRequest(_) => 1,
        }
    }

    /// Maximum number of rows of one run.
    pub fn most_rows(self) -> usize {
        let (RunRows::UpTo(rows) | RunRows::OneRequest(rows) | RunRows::Exactly(rows)) = self.run_rows;
        rows.get()
    }

    /// Maximum number of rows of one request.
    pub fn most_rows_of_request(self) -> usize {
        match self.run_rows {
            RunRows::OneRequest(rows) => rows.min(self.max_instances).get(),
            RunRows::UpTo(_) | RunRows::Exactly(_) => self.max_instances.get(),
        }
    }

    /// Returns true if every request is a run of its own.
    pub fn keeps_requests_whole(self) -> bool {
        matches!(self.run_rows, RunRows::OneRequest(_))
    }

    /// Maximum size of one run. Padded rows can be of any length that the model accepts, so a maximum length is
    /// assumed.
    pub(super) fn most_size(self) -> usize {
        match self.lengths {
            Lengths::Alike => self.most_rows(),
            Lengths::Varied => self.most_rows().saturating_mul(MAX_ROW_ELEMENTS),
            Lengths::Padded => self.most_rows().saturating_mul(MAX_ROW),
        }
    }

    /// Size of a row of these inputs, in the unit of the service time: 1, or the row's elements or length where rows differ.
    /// The size of a run is the sum over its rows.
    pub(super) fn row_size(self, inputs: &Tensors) -> usize {
        match self.lengths {
            Lengths::Alike => 1,
            Lengths::Varied => inputs.row_elements().max(1),
            Lengths::Padded => inputs.row_length().max(1),
        }
    }

    /// Checks that a request with these inputs is within the limits of the model.
    pub(super) fn check(self, inputs: &Tensors) -> Result<()> {
        let rows = inputs.rows();
        if rows == 0 {
            return Err(Error::internal("the preprocessor made no rows"));
        }
        if rows > self.max_instances.get() {
            return Err(Error::InvalidInput(format!(
                "instances: {rows} are too many for one request, at most {}; send them in several",
                self.max_instances
            )));
        }
        // Minimum number of the request's rows in one run.
        let (fewest, row_elements) = match self.run_rows {
            RunRows::OneRequest(_) => (rows, inputs.row_elements()),
            RunRows::UpTo(_) | RunRows::Exactly(_) => (self.fewest_rows(), inputs.row_elements()),
        };
        if let Some(most) = self.max_row_elements.filter(|most| row_elements > most.get()) {
            return Err(Error::InvalidInput(format!(
                "instances: each has {row_elements} elements, but at most {most} are accepted: longer ones would take more memory or \
                 time than a request may (measured when this version was loaded; model.max_batch_elements sets another limit); send \
                 shorter ones"
            )));
        }
        if let Some(most) = self.max_elements
            && fewest.saturating_mul(row_elements) > most.get()
        {
            let least = if fewest == 1 { String::new() } else { format!(", and a run has {fewest} of them") };
            let shorter = if self.keeps_requests_whole() { "fewer, or shorter ones" } else { "shorter ones" };
            return Err(Error::InvalidInput(format!(
                "instances: each has {row_elements} elements{least}; at most {most} are run at one time \
                 (model.max_batch_elements): send {shorter}"
            )));
        }
        match self.run_rows {
            RunRows::OneRequest(most) if rows > most.get() => Err(Error::InvalidInput(format!(
                "instances: each request to this version is a run of its own (its batching is off), and a run has at most {most} \
                 rows (model.max_batch_size): {rows} are too many; send fewer"
            ))),
            RunRows::Exactly(size) if !rows.is_multiple_of(size.get()) => Err(Error::InvalidInput(format!(
                "instances: the model's batch dimension is fixed at {size}, so a request needs a multiple of {size} \
                 instances, not {rows}; export the model with a dynamic batch dimension to lift this"
            ))),
            _ => Ok(()),
        }
    }

    /// Returns true if these rows match the rows of the run in shape or length, so that they can join it.
    fn takes(self, run: &Contents<'_>, rows: usize, inputs: &Tensors, full_batch: usize) -> bool {
        match self.lengths {
            Lengths::Alike | Lengths::Varied => run.first.stacks_with(inputs),
            Lengths::Padded => {
                let with = run.with(self, rows, inputs);
                self.max_elements.is_none_or(|most| with.rows * with.longest <= most.get())
                    && with.size() <= full_batch
                    && with.shortest as f64 >= (1.0 - MAX_PADDING) * with.longest as f64
            }
        }
    }

    /// Returns the maximum number of rows of these inputs in one run that is no larger than a full batch.
    pub(super) fn limit(self, inputs: &Tensors, full_batch: usize) -> usize {
        match self.run_rows {
            RunRows::Exactly(size) => size.get(),
            RunRows::OneRequest(_) => inputs.rows(),
            RunRows::UpTo(size) => {
                let by_elements =
                    self.max_elements.map_or(usize::MAX, |most| most.get() / inputs.row_elements().max(1));
                size.get().min(full_batch / self.row_size(inputs)).min(by_elements).max(1)
            }
        }
    }
}

/// Returns true if the signature allows padding of short rows: output elements that come from padding can be identified
/// and cut off, so that each request gets the same outputs as if it ran alone. Every input must have two dimensions;
/// the second one is open and has the same name in all inputs. The only open dimensions of an output may be the rows
/// and, as the second, the one of that name.
///
/// ```
/// use leeway::model::can_be_padded;
/// use leeway::tensor::{DType, Dim, Signature, TensorSpec};
/// let open = |name: &str| Dim::Dynamic(Some(name.to_owned()));
/// let spec = |name: &str, dims| TensorSpec { name: name.into(), dtype: DType::F32, dims };
/// let with_output = |dims| Signature {
///     inputs: vec![spec("ids", vec![open("rows"), open("tokens")])],
///     outputs: vec![spec("hidden", dims)],
///     ..Signature::default()
/// };
/// assert!(can_be_padded(&with_output(vec![open("rows"), open("tokens"), Dim::Fixed(384)])));
/// assert!(can_be_padded(&with_output(vec![open("rows"), Dim::Fixed(3)])));
/// // An open dimension of another name, or a third open dimension, cannot be cut to length.
/// assert!(!can_be_padded(&with_output(vec![open("rows"), open("half")])));
/// assert!(!can_be_padded(&with_output(vec![open("rows"), open("tokens"), open("tokens")])));
/// ```
pub fn can_be_padded(signature: &Signature) -> bool {
    let mut lengths = signature.inputs.iter().map(|input| match &*input.dims {
        [_, Dim::Dynamic(Some(name))] => Some(name),
        _ => None,
    });
    let Some(Some(name)) = lengths.next() else { return false };
    let is_known = |(place, dim): (usize, &Dim)| match dim {
        Dim::Fixed(_) => true,
        Dim::Dynamic(other) => place == 0 || (place == 1 && other.as_ref() == Some(name)),
    };
    lengths.all(|other| other == Some(name))
        && signature.outputs.iter().all(|output| output.dims.iter().enumerate().all(is_known))
}

/// Contents of a run while it is formed.
#[derive(Debug, Clone, Copy)]
struct Contents<'a> {
    first: &'a Tensors,
    rows: usize,
    /// Elements of the shortest and of the longest row, before padding.
    shortest: usize,
    longest: usize,
    /// Size of each row, once short ones are padded.
    row_size: usize,
}

impl<'a> Contents<'a> {
    /// Returns an empty run whose first rows will be these inputs.
    fn none(first: &'a Tensors) -> Contents<'a> {
        Contents { first, rows: 0, shortest: usize::MAX, longest: 0, row_size: 1 }
    }

    fn size(&self) -> usize {
        self.rows * self.row_size
    }

    fn with(self, policy: BatchPolicy, rows: usize, inputs: &Tensors) -> Self {
        let row = inputs.row_elements();
        let (shortest, longest) = (self.shortest.min(row), self.longest.max(row));
        let row_size = self.row_size.max(policy.row_size(inputs));
        Contents { rows: self.rows + rows, shortest, longest, row_size, ..self }
    }
}

/// Maximum delay of a thread that wakes up at a given time.
const WAKE_UP: Duration = Duration::from_millis(1);

/// Forms the next batch from the waiting requests, in their order.
///
/// - The first request that can be in time is always in the batch, and a request does not overtake an earlier one that
///   also fits. Only requests whose rows do not match the batch in shape or length are passed over.
/// - The batch has at most `full_batch` rows, and never more rows or elements than the policy allows.
/// - A request joins only if the run is then still expected to end in time for it and for all requests already in the
///   batch. `time` is the typical time of a run; without it, the duration of the run is not considered.
/// - With a `max_wait`, a worker waits for more rows only while every waiting request is in the batch, and the
///   deadlines leave time for the wait.
/// - Requests larger than a run are divided; the remaining rows of a divided request come first in the next batch.
/// - With [`RunRows::OneRequest`], a run has all rows of its request.
pub fn plan<'a>(
    now: Instant,
    waiting: impl IntoIterator<Item = Candidate<'a>>,
    policy: BatchPolicy,
    full_batch: usize,
    time: Option<Line>,
) -> Plan {
    let mut batch = BatchBuilder::new(now, policy, full_batch, time);
    for (index, candidate) in waiting.into_iter().enumerate() {
        if batch.consider(index, candidate).is_break() {
            break;
        }
    }
    batch.finish()
}

/// A batch while it is formed.
struct BatchBuilder<'a> {
    now: Instant,
    policy: BatchPolicy,
    full_batch: usize,
    time: Option<Line>,
    hopeless: Vec<usize>,
    /// Shares of the run, each with the time by which its request needs the run to end.
    shares: Vec<(Share, Option<Instant>)>,
    /// The first request that can be in time.
    first: Option<Candidate<'a>>,
    run: Option<Contents<'a>>,
    /// Number of rows of the run so far.
    rows: usize,
    /// Maximum number of rows of the run.
    limit: usize,
    /// Maximum size of a run that is in time for all its requests.
    in_time: usize,
    /// True if a request that can still meet its deadline was left out of this run.
    somebody_is_left: bool,
}

impl<'a> BatchBuilder<'a> {
    fn new(now: Instant, policy: BatchPolicy, full_batch: usize, time: Option<Line>) -> BatchBuilder<'a> {
        BatchBuilder {
            now,
            policy,
            full_batch,
            time,
            hopeless: Vec::new(),
            shares: Vec::new(),
            first: None,
            run: None,
            rows: 0,
            limit: usize::MAX,
            in_time: usize::MAX,
            somebody_is_left: false,
        }
    }

    /// Adds the next request to the run, or passes it over. `Break` means that no later request can be in the batch.
    fn consider(&mut self, index: usize, candidate: Candidate<'a>) -> ControlFlow<()> {
        let limit = self.policy.limit(candidate.inputs, self.full_batch);
        let in_time = self.size_in_time(&candidate);
        if !self.is_in_time(&candidate, limit, in_time) {
            self.hopeless.push(index);
            return ControlFlow::Continue(());
        }
        if self.first.is_none() {
            self.first = Some(candidate);
            self.limit = limit;
        } else if !matches!(self.policy.run_rows, RunRows::UpTo(_)) {
            return ControlFlow::Break(());
        }
        let room = self.limit - self.rows;
        // Small requests stay whole; large ones fill the remaining rows.
        let share = if candidate.rows > self.limit { candidate.rows.min(room) } else { candidate.rows };
        if let Some(run) = &self.run
            && !self.policy.takes(run, share, candidate.inputs, self.full_batch)
        {
            self.somebody_is_left = true;
            return ControlFlow::Continue(());
        }
        let with = self.run.unwrap_or(Contents::none(candidate.inputs)).with(self.policy, share, candidate.inputs);
        let in_time = self.in_time.min(in_time);
        if share == 0 || share > room || with.size() > in_time {
            self.somebody_is_left = true;
            return ControlFlow::Break(());
        }
        self.rows = with.rows;
        self.run = Some(with);
        self.in_time = in_time;
        self.shares.push((Share { index, rows: share }, candidate.finish_by));
        if self.rows == self.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Returns the maximum size of a run that is in time for this request.
    fn size_in_time(&self, candidate: &Candidate<'_>) -> usize {
        match (self.time, candidate.finish_by) {
            (_, Some(finish_by)) if finish_by <= self.now => 0,
            (Some(line), Some(finish_by)) => line.rows_within(finish_by - self.now),
            _ => usize::MAX,
        }
    }

    /// Returns true if a request is in time when it is run at once and alone, with at most `limit` of its rows in a
    /// run.
    fn is_in_time(&self, candidate: &Candidate<'_>, limit: usize, size_in_time: usize) -> bool {
        let row_size = self.policy.row_size(candidate.inputs);
        match (self.time, candidate.finish_by) {
            // A divided request takes several runs, at most one per worker at a time.
            (Some(line), Some(finish_by)) if candidate.rows > limit => {
                let runs = candidate.rows.div_ceil(limit).div_ceil(self.policy.workers.get());
                let runs = u32::try_from(runs).unwrap_or(u32::MAX);
                let end = self.now.checked_add(line.at(limit * row_size).saturating_mul(runs));
                end.is_some_and(|end| end <= finish_by)
            }
            _ => size_in_time >= candidate.rows.min(limit) * row_size,
        }
    }

    fn finish(self) -> Plan {
        let until = self.wait_until();
        let BatchBuilder { hopeless, shares, first, .. } = self;
        let next = match until {
            _ if first.is_none() => Next::Idle,
            Some(until) => Next::WaitUntil(until),
            None => Next::Run(shares.into_iter().map(|(share, _)| share).collect()),
        };
        Plan { hopeless, next }
    }

    /// Returns the time until which the run waits for more rows; `None` if it is run at once.
    fn wait_until(&self) -> Option<Instant> {
        let may_grow =
            self.rows < self.limit && !self.somebody_is_left && matches!(self.policy.run_rows, RunRows::UpTo(_));
        if !may_grow || self.policy.max_wait.is_zero() {
            return None;
        }
        // A worker that wakes up late must still have time for the run.
        let size = self.run.map_or(self.rows, |run| run.size());
        let run = self.time.map_or(Duration::ZERO, |line| line.at(size)).mul_f64(MARGIN) + WAKE_UP;
        let start_by = self.shares.iter().filter_map(|(_, finish_by)| finish_by.and_then(|by| by.checked_sub(run)));
        let until = start_by.fold(self.first?.entered + self.policy.max_wait, Instant::min);
        (until > self.now).then_some(until)
    }
}

#[cfg(test)]
mod tests;
