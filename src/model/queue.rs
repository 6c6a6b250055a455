//! The bounded queue between requests and workers: who is let in, in which order they are taken, and whose run is
//! ended because nobody waits for it any more.
//!
//! A driver: what is let in is decided by `admission.rs`, what goes into a batch by `batch.rs`, and both rely on what
//! `service_time.rs` has learned. Those that wait stand in `waiting.rs`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::admission::{Admission, Backlog, Priority, admit, full_batch, residual, turn};
use super::batch::{BatchPolicy, Lengths, Next, plan};
use super::current_session::CurrentSession;
use super::load_estimate::LoadEstimate;
use super::request::{Batch, Reply, Request};
use super::service_time::{CLASSES, ServiceTime, class_of};
use super::sharing::Sharing;
use super::wait_strategy::{WaitStrategy, spin_until, wait_strategy};
use super::waiting::{Waiting, WaitingLine};
use crate::budget::{LatencyBudget, TimeLimits};
use crate::config::SessionConfig;
use crate::error::{Error, Result, Shed};
use crate::monitor::{Runs, VersionRecorder};
use crate::stage::{Stage, Timings};
use crate::tensor::Tensors;

/// Age at which the knowledge of runs of a size is stale. A free worker then runs a request that it is not expected to
/// finish in time: what was true of the model may not be true any more, and only a run can tell.
const STALE: Duration = Duration::from_secs(1);

/// The queue between requests and workers.
#[derive(Debug)]
pub(super) struct Queue {
    sharing: Arc<Sharing>,
    capacity: NonZeroUsize,
    /// The time there is for queue and run in a request's budget.
    queue_and_run: Duration,
    /// Age difference at which a request goes before one of the next higher priority.
    overtaking: Duration,
    /// Maximum time for which either side spins for the other.
    spin: Duration,
    state: Mutex<State>,
    arrived: Condvar,
    /// The length of `State::line`, for those who look without the lock.
    length: AtomicUsize,
    /// LoadEstimate about the queue, likewise.
    load_estimate: LoadEstimate,
    recorder: Arc<VersionRecorder>,
    /// The run of each worker, readable without the lock.
    runs: Arc<Runs>,
}

#[derive(Debug)]
struct State {
    line: WaitingLine,
    /// One per worker.
    workers: Vec<WorkerSlot>,
    service: ServiceTime,
    /// The size of a full batch, as `service` has it: in rows, or, where those differ in length, in their elements.
    full_batch: usize,
    /// The size of the last batches: a moving average.
    usual_size: f64,
    /// Time at which a run of each class of sizes was last learned from, or tried in order to learn.
    learned: [Instant; CLASSES],
    /// Workers that sleep until they are notified.
    parked: usize,
    /// Number of requests in a row that came while at most one other was waiting or running.
    quiet_streak: u32,
    /// Duration of the last run.
    last_run: Duration,
    door: Door,
    /// Rest of each worker's run, for a moment: kept to spare the allocation.
    residuals: Vec<Duration>,
}

#[derive(Debug)]
struct WorkerSlot {
    session: Arc<CurrentSession>,
    run: Option<Running>,
}

#[derive(Debug)]
struct Running {
    batch: Arc<Batch>,
    since: Instant,
    expected: Duration,
    /// Time at which it is ended if it still runs: nobody waits any more.
    until: Instant,
    /// Time at which it was ended.
    ended: Option<Instant>,
}

/// A batch that a worker has run.
#[derive(Debug, Clone, Copy)]
pub(super) struct FinishedRun {
    pub(super) took: Duration,
    pub(super) end: RunEnd,
}

/// Outcome of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunEnd {
    /// As a run should.
    Completed,
    /// Nobody waited for it any more.
    Terminated,
    /// With an error, or a panic.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Closed,
}

/// Answer of the queue to a request that it admits.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) request: Arc<Request>,
    pub(super) reply: oneshot::Receiver<Reply>,
    pub(super) wait_strategy: WaitStrategy,
}

// ===== impl Queue =====

impl Queue {
    pub(super) fn new(
        sharing: Arc<Sharing>,
        config: &SessionConfig,
        budget: &LatencyBudget,
        service: ServiceTime,
        workers: Vec<Arc<CurrentSession>>,
        recorder: Arc<VersionRecorder>,
    ) -> Queue {
        let runs = Arc::new(Runs::of(workers.len(), Instant::now()));
        recorder.watch_runs(&runs);
        let state = State {
            line: WaitingLine::default(),
            residuals: Vec::with_capacity(workers.len()),
            workers: workers.into_iter().map(|session| WorkerSlot { session, run: None }).collect(),
            full_batch: full_batch(sharing.policy().most_size(), &service, budget.queue_and_run()),
            service,
            usual_size: 0.0,
            learned: [Instant::now(); CLASSES],
            parked: 0,
            quiet_streak: 0,
            last_run: Duration::MAX,
            door: Door::Open,
        };
        let queue = Queue {
            sharing,
            capacity: config.queue_capacity,
            queue_and_run: budget.queue_and_run(),
            overtaking: budget.inference / 2,
            spin: config.spin(),
            state: Mutex::new(state),
            arrived: Condvar::new(),
            length: AtomicUsize::new(0),
            load_estimate: LoadEstimate::new(),
            recorder,
            runs,
        };
        queue.note_service_time(&queue.state.lock());
        queue
    }

    /// Admits a request of which only the head has been read, if it can be in time. Looks closer
    /// only where it may be no; [`Queue::push`] always does.
    pub(super) fn admit(&self, demand: TimeLimits, priority: Priority) -> Result<()> {
        let now = Instant::now();
        if self.load_estimate.is_ample(demand.finish_by.saturating_duration_since(now), now) {
            return Ok(());
        }
        let mut state = self.state.lock();
        self.check_door(&state)?;
        let fewest = self.sharing.policy().fewest_rows();
        let run_size = self.full_run(&state, fewest, state.full_batch.max(fewest));
        self.forecast(&mut state, (fewest, run_size), demand, priority, now).map(|_| ())
    }

    /// Lets a request in, or says why not. Also says how its answer is best waited for.
    pub(super) fn push(&self, inputs: Tensors, demand: TimeLimits, priority: Priority) -> Result<Entered> {
        let (now, policy) = (Instant::now(), self.sharing.policy());
        let row_size = policy.row_size(&inputs);
        let mut state = self.state.lock();
        self.check_door(&state)?;
        let size = inputs.rows() * row_size;
        let run_size = self.full_run(&state, size, policy.limit(&inputs, state.full_batch) * row_size);
        let predicted = self.forecast(&mut state, (size, run_size), demand, priority, now)?;
        let turn = turn(priority, now, self.overtaking);
        let (request, reply) = Request::new((inputs, row_size), demand, (turn, now), predicted);
        let request = Arc::new(request);

        let running: usize = state.runs().map(|run| run.batch.parts.len()).sum();
        let quiet = state.line.len() + running <= 1;
        state.quiet_streak = if quiet { state.quiet_streak.saturating_add(1) } else { 0 };
        state.line.insert(Arc::clone(&request));
        self.note_length(&state);
        let wait_strategy = wait_strategy(state.quiet_streak, state.last_run, self.spin);
        let worker_sleeps = state.parked > 0;
        drop(state);
        if worker_sleeps {
            self.arrived.notify_one();
        }
        Ok(Entered { request, reply, wait_strategy })
    }

    /// The size of a full batch for a request of this size, of which a run has at most `most`. Where only rows of about one
    /// length are run together, that is as many as there mostly were: a batch full of essays is never seen. Where a run has
    /// the rows of one request, it is the mean of those that wait and of this one.
    fn full_run(&self, state: &State, size: usize, most: usize) -> usize {
        let policy = self.sharing.policy();
        match policy.lengths {
            _ if policy.keeps_requests_whole() => (state.line.size() + size).div_ceil(state.line.len() + 1),
            Lengths::Alike => most,
            Lengths::Padded => most.min(size.max(state.usual_size as usize)),
        }
    }

    fn check_door(&self, state: &State) -> Result<()> {
        if state.door == Door::Closed {
            return Err(Error::ShuttingDown);
        }
        if state.line.len() >= self.capacity.get() {
            let retry_after = state.drained_in(self.sharing.policy());
            return Err(Error::QueueFull { capacity: self.capacity.get(), retry_after });
        }
        Ok(())
    }

    /// Returns the expected time in the queue and the run for a request of this size that comes now, of which a run takes
    /// so many; `None` if there is nothing to predict from, or it is only let in for a worker to try. An error if it
    /// cannot be in time.
    fn forecast(
        &self,
        state: &mut State,
        (size, run_size): (usize, usize),
        demand: TimeLimits,
        priority: Priority,
        now: Instant,
    ) -> Result<Option<Duration>> {
        let rows_ahead = state.line.size_before(turn(priority, now, self.overtaking));
        let is_free = rows_ahead == 0 && state.workers.iter().any(|slot| slot.run.is_none());
        let left = demand.finish_by.saturating_duration_since(now);
        // A low priority is to have time for others to go before it.
        let for_others = match priority {
            Priority::Low if !is_free => self.overtaking.min(left / 2),
            _ => Duration::ZERO,
        };
        let is_stale = state.is_stale(size.min(run_size), now);
        let State { residuals, workers, service, .. } = state;
        residuals.clear();
        residuals.extend(workers.iter().map(|slot| slot.run.as_ref().map_or(Duration::ZERO, |run| run.left(now))));
        residuals.sort_unstable();
        let admission = admit(Backlog { rows_ahead, residuals }, run_size, service, size, left - for_others);
        if let Admission::Admit(Some(predicted)) | Admission::Shed(predicted) = admission {
            self.load_estimate.note_predicted(predicted);
        }
        match admission {
            Admission::Admit(predicted) => Ok(predicted),
            // The estimate is stale, and a worker is free: run the request anyway, to learn. A request with much less time
            // than usual would be cancelled before it has taught anything.
            Admission::Shed(_) if is_free && left >= self.queue_and_run / 2 && is_stale => Ok(None),
            Admission::Shed(needed) => {
                let nobody_else = Backlog { rows_ahead: 0, residuals: &[] };
                let own_run = if self.sharing.policy().keeps_requests_whole() { size } else { run_size };
                Err(match admit(nobody_else, own_run, service, size, left) {
                    Admission::Shed(needed) => {
                        Error::Overloaded { shed: Shed::EvenAlone, needed, left, retry_after: Duration::ZERO }
                    }
                    Admission::Admit(_) => {
                        let needed = needed + for_others;
                        let retry_after = needed.saturating_sub(left);
                        Error::Overloaded { shed: Shed::AtTheDoor, needed, left, retry_after }
                    }
                })
            }
        }
    }

    /// Waits for requests and takes the next batch; `None` once the queue is closed and empty. `last` is the
    /// worker's last batch, if it has run one.
    pub(super) fn take(&self, worker: usize, last: Option<FinishedRun>) -> Option<Arc<Batch>> {
        let mut state = self.state.lock();
        self.finish(&mut state, worker, last);
        let mut wait_strategy = wait_strategy(state.quiet_streak, state.last_run, self.spin);
        loop {
            let now = Instant::now();
            let policy = match state.door {
                Door::Open => self.sharing.policy(),
                // Nobody else will come.
                Door::Closed => BatchPolicy { max_wait: Duration::ZERO, ..self.sharing.policy() },
            };
            let plan = plan(now, state.line.candidates(), policy, state.full_batch, state.service.typical_line());
            if plan.next == Next::Idle
                && let Some(&first) = plan.hopeless.first()
                && state.try_all_the_same(first, policy, now)
            {
                continue;
            }
            let (hopeless, batch) = state.line.carry_out(&plan);
            for waiting in hopeless {
                waiting.request.fail(state.too_late(&waiting, policy, now));
                state.end_unwanted_runs(&waiting.request);
            }
            self.note_length(&state);
            if let Some(batch) = batch.map(Arc::new) {
                // Others may have work to do, too: more is waiting than one batch takes.
                if state.parked > 0 && state.line.len() > 0 {
                    self.arrived.notify_one();
                }
                batch.take(now);
                let expected = state.service.tail(batch.size()).unwrap_or_default();
                let (batch_too, until) = (Arc::clone(&batch), batch.last_deadline().unwrap_or(now));
                let running = Running { batch: batch_too, since: now, expected, until, ended: None };
                state.workers[worker].run = Some(running);
                self.runs.begin(worker, now);
                self.load_estimate.note_free_at(state.first_free());
                return Some(batch);
            }
            match plan.next {
                Next::WaitUntil(until) => {
                    state.parked += 1;
                    self.arrived.wait_until(&mut state, until);
                    state.parked -= 1;
                }
                _ if state.door == Door::Closed => return None,
                _ => match std::mem::replace(&mut wait_strategy, WaitStrategy::Park) {
                    WaitStrategy::Spin(limit) => {
                        MutexGuard::unlocked(&mut state, || self.watch(limit));
                    }
                    WaitStrategy::Park => {
                        state.parked += 1;
                        self.arrived.wait(&mut state);
                        state.parked -= 1;
                    }
                },
            }
        }
    }

    /// Learns from a worker's last batch. From here on nobody ends its run any more.
    fn finish(&self, state: &mut State, worker: usize, last: Option<FinishedRun>) {
        let slot = &mut state.workers[worker];
        let Some(run) = slot.run.take() else { return };
        self.runs.end(worker);
        if run.ended.is_some() {
            slot.session.allow_runs();
        }
        let (rows, size, policy) = (run.batch.rows(), run.batch.size(), self.sharing.policy());
        self.load_estimate.note_free_at(state.first_free());
        let has_taught = match (last, run.ended) {
            (Some(FinishedRun { took, end: RunEnd::Completed }), _) => {
                state.last_run = took;
                state.usual_size += (size as f64 - state.usual_size) / 8.0;
                state.service.observe(size, took);
                true
            }
            // It was too slow for everybody who waited. If it was the smallest there is, nothing follows: one request
            // may be harder than others, and no run could be smaller.
            (Some(FinishedRun { end: RunEnd::Terminated, .. }), Some(ended)) if rows > policy.fewest_rows() => {
                state.service.observe_ended(size, ended.saturating_duration_since(run.since))
            }
            _ => false,
        };
        if has_taught {
            state.learned[class_of(size)] = Instant::now();
            state.full_batch = full_batch(policy.most_size(), &state.service, self.queue_and_run);
            self.note_service_time(state);
        }
    }

    /// Nobody waits for this request any more: it loses its place, and its run is ended if it was the last that anybody
    /// waited for.
    pub(super) fn give_up(&self, request: &Arc<Request>) {
        let mut state = self.state.lock();
        request.give_up();
        state.line.remove(request);
        self.note_length(&state);
        state.end_unwanted_runs(request);
        // The run may continue: not every run can be ended at once.
        if let Some(worker) = state.worker_of(request) {
            self.runs.abandon(worker);
        }
    }

    /// Returns the time for which all workers have been in their current runs; `None` if a worker is free.
    pub(super) fn all_busy_for(&self) -> Option<Duration> {
        self.runs.all_busy_for()
    }

    /// Spins until a request arrives, for `limit` at most.
    fn watch(&self, limit: Duration) {
        spin_until(limit, || (self.length.load(Ordering::Acquire) > 0).then_some(()));
    }

    /// Returns true if no request waits for a run.
    pub(super) fn is_empty(&self) -> bool {
        self.length.load(Ordering::Acquire) == 0
    }

    fn note_length(&self, state: &State) {
        self.length.store(state.line.len(), Ordering::Release);
        self.recorder.set_queue_depth(state.line.len());
    }

    fn note_service_time(&self, state: &State) {
        if let (Some(typical), Some(tail)) = (state.service.typical_line(), state.service.tail_line()) {
            self.recorder.set_service_time([(typical.a, typical.b), (tail.a, tail.b)]);
        }
    }

    /// Returns the typical duration of a run of so many rows, if it is known.
    pub(super) fn typical_run(&self, rows: usize) -> Option<Duration> {
        self.state.lock().service.typical(rows)
    }

    /// Returns true if another worker than this one has a session, and batches are still taken.
    pub(super) fn others_can_run(&self, worker: usize) -> bool {
        let state = self.state.lock();
        let mut others = state.workers.iter().enumerate().filter(|(index, _)| *index != worker);
        state.door == Door::Open && others.any(|(_, other)| other.session.is_open())
    }

    /// Lets nobody in any more; what is waiting can still be taken.
    pub(super) fn close(&self) {
        self.state.lock().door = Door::Closed;
        self.arrived.notify_all();
    }
}

// ===== impl State =====

impl State {
    fn runs(&self) -> impl Iterator<Item = &Running> {
        self.workers.iter().filter_map(|slot| slot.run.as_ref())
    }

    /// Ends the runs that this request was the last to wait for.
    fn end_unwanted_runs(&mut self, request: &Arc<Request>) {
        if request.taken().is_none() {
            return;
        }
        for slot in &mut self.workers {
            if let Some(run) = &mut slot.run
                && run.ended.is_none()
                && run.batch.has(request)
                && run.batch.is_over()
            {
                run.ended = Some(Instant::now());
                run.batch.terminate();
                slot.session.end_run();
            }
        }
    }

    /// Returns the worker that runs this request, or one of those that run rows of it.
    fn worker_of(&self, request: &Arc<Request>) -> Option<usize> {
        request.taken()?;
        self.workers.iter().position(|slot| slot.run.as_ref().is_some_and(|run| run.batch.has(request)))
    }

    /// Returns true if nothing has been learned of runs of this size for so long that it may not be true any more.
    fn is_stale(&self, size: usize, now: Instant) -> bool {
        now.saturating_duration_since(self.learned[class_of(size)]) > STALE
    }

    /// With a free worker and nobody else who could be in time: whether this one is run all the same, to learn.
    fn try_all_the_same(&mut self, place: usize, policy: BatchPolicy, now: Instant) -> bool {
        let Some(waiting) = self.line.at(place).filter(|waiting| !waiting.request.deadline.has_passed(now)) else {
            return false;
        };
        let size = waiting.run_size(policy, self.full_batch);
        let is_stale = self.is_stale(size, now);
        if is_stale {
            self.learned[class_of(size)] = now;
            self.line.run_however_late(place);
        }
        is_stale
    }

    /// Error for a request that cannot be in time any more.
    fn too_late(&self, waiting: &Waiting, policy: BatchPolicy, now: Instant) -> Error {
        let request = &waiting.request;
        if request.deadline.has_passed(now) {
            // Whoever waits knows best how long each stage took.
            return Error::Expired { stage: Stage::Queue, spent: Timings::default() };
        }
        let needed = self.service.typical(waiting.run_size(policy, self.full_batch)).unwrap_or_default();
        let left = request.finish_by.saturating_duration_since(now);
        Error::Overloaded { shed: Shed::InTheQueue, needed, left, retry_after: needed.saturating_sub(left) }
    }

    /// Returns the time at which the first worker is expected to have ended its run; `None` if one is free.
    fn first_free(&self) -> Option<Instant> {
        // `None` is less than any other.
        self.workers
            .iter()
            .map(|slot| slot.run.as_ref().map(|run| run.until.min(run.since + run.expected)))
            .min()
            .flatten()
    }

    /// About how long it takes until what is waiting has been run.
    fn drained_in(&self, policy: BatchPolicy) -> Duration {
        let run_size = match policy.keeps_requests_whole() {
            true => self.line.size().div_ceil(self.line.len().max(1)).max(1),
            false => self.full_batch,
        };
        let batches = self.line.size().div_ceil(run_size * self.workers.len().max(1));
        let run = self.service.typical(run_size).unwrap_or_default();
        run.saturating_mul(u32::try_from(batches).unwrap_or(u32::MAX))
    }
}

impl Running {
    /// Expected rest of the run. One that was ended should be over at once.
    fn left(&self, now: Instant) -> Duration {
        match self.ended {
            Some(ended) => residual(Duration::ZERO, now.saturating_duration_since(ended)),
            None => {
                let until = self.until.saturating_duration_since(now);
                residual(self.expected, now.saturating_duration_since(self.since)).min(until)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::independence::Independence;
    use super::super::joining::Joining;
    use super::super::sharing::Rows;
    use super::*;
    use crate::budget::Deadline;
    use crate::config::Provider;
    use crate::monitor::{Monitor, VersionLabels};
    use crate::tensor::{Data, Tensor};

    fn queue(config: &SessionConfig) -> Arc<Queue> {
        let labels = VersionLabels { model: "m".into(), version: "1".into(), sha256: "ab".into(), provider: "cpu" };
        let recorder =
            Monitor::new("1", Default::default()).version(labels, LatencyBudget::DEFAULT, Default::default());
        let signature = crate::tensor::Signature { inputs: vec![], ..Default::default() };
        let independence = Independence::Independent { difference: 0.0 };
        let rows = Rows { independence, joining: Joining::default() };
        let sharing = Arc::new(Sharing::new(&signature, config, Provider::Cpu, None, rows, Default::default()));
        let workers = vec![Arc::default()];
        Arc::new(Queue::new(sharing, config, &LatencyBudget::DEFAULT, ServiceTime::default(), workers, recorder))
    }

    fn push(queue: &Queue) -> Entered {
        let row = Tensor::new(vec![1, 1], Data::F32(vec![0.0])).unwrap();
        queue.push([("x".into(), row)].into_iter().collect(), demand(), Priority::Normal).unwrap()
    }

    fn demand() -> TimeLimits {
        let deadline = Deadline::after(Instant::now(), Duration::from_secs(600));
        TimeLimits { deadline, finish_by: deadline.instant() }
    }

    /// The worker would wait for ten minutes, and nobody will come.
    #[test]
    fn a_queue_that_is_closed_waits_for_no_company() {
        let queue = queue(&SessionConfig { max_wait_us: 600_000_000, ..SessionConfig::default() });
        let entered = push(&queue);
        let worker = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || (queue.take(0, None).map(|batch| batch.rows()), queue.take(0, None).is_none())
        });
        queue.close();
        assert_eq!(worker.join().unwrap(), (Some(1), true));
        assert!(entered.request.taken().is_some());
    }

    /// Between the moment a batch is formed and its first run, too.
    #[test]
    fn a_batch_that_nobody_waits_for_is_ended_and_the_next_may_run() {
        let queue = queue(&SessionConfig::default());
        let (first, second) = (push(&queue), push(&queue));
        let batch = queue.take(0, None).unwrap();
        queue.give_up(&first.request);
        assert!(!batch.is_terminated());
        queue.give_up(&second.request);
        assert!(batch.is_terminated());
        let third = push(&queue);
        let next = queue.take(0, Some(FinishedRun { took: Duration::ZERO, end: RunEnd::Terminated })).unwrap();
        assert!(!next.is_terminated() && next.has(&third.request));
    }

    /// A request with just enough time at its admission, and too little a moment later.
    #[test]
    fn what_is_known_for_long_is_tried_again_even_if_it_leaves_no_hope() {
        let queue = queue(&SessionConfig::default());
        let hopeless = push(&queue);
        {
            let mut state = queue.state.lock();
            // The request has ten minutes, and a run is believed to take a day.
            state.service.observe(1, Duration::from_secs(24 * 3600));
            state.learned = [Instant::now() - 2 * STALE; CLASSES];
        }
        let batch = queue.take(0, None).unwrap();
        assert!(batch.has(&hopeless.request));
        // One attempt at a time: the next is told so.
        let next = queue.push(hopeless.request.inputs.clone(), demand(), Priority::Normal).unwrap_err();
        assert!(matches!(next, Error::Overloaded { shed: Shed::EvenAlone, .. }));
    }

    #[test]
    fn only_a_run_that_was_too_late_for_everybody_says_that_runs_take_long() {
        for (end, is_learned) in [(RunEnd::Terminated, true), (RunEnd::Failed, false)] {
            let queue = queue(&SessionConfig::default());
            let entered = [push(&queue), push(&queue)];
            queue.take(0, None).unwrap();
            entered.iter().for_each(|entered| queue.give_up(&entered.request));
            push(&queue);
            queue.take(0, Some(FinishedRun { took: Duration::from_secs(1), end })).unwrap();
            assert_eq!(queue.typical_run(2).is_some(), is_learned);
        }
    }
}
