//! Tests of the queue's handling of requests, batches and runs.

use super::state::STALE;
use super::*;
use crate::budget::Deadline;
use crate::config::Provider;
use crate::error::{Error, Shed};
use crate::model::independence::Independence;
use crate::model::inline::{InlineOwner, InlineSlots};
use crate::model::joining::Joining;
use crate::model::session::{Interrupt, Session};
use crate::model::sharing::Rows;
use crate::monitor::{Monitor, VersionLabels};
use crate::tensor::{DType, Data, Dim, Signature, Tensor, TensorSpec};

fn queue(config: &SessionConfig) -> Arc<Queue> {
    queue_with(config, Duration::ZERO)
}

/// A queue of one session, whose runs of up to `max_run` are inline.
fn queue_with(config: &SessionConfig, max_run: Duration) -> Arc<Queue> {
    let labels = VersionLabels { model: "m".into(), version: "1".into(), sha256: "ab".into(), provider: "cpu" };
    let recorder = Monitor::new("1", Default::default()).version(labels, LatencyBudget::DEFAULT, Default::default());
    let x = TensorSpec { name: "x".into(), dtype: DType::F32, dims: vec![Dim::Dynamic(None), Dim::Fixed(1)] };
    let signature = Signature { inputs: vec![x], ..Signature::default() };
    let independence = Independence::Independent { difference: 0.0 };
    let rows = Rows { independence, joining: Joining::default() };
    let sharing = Arc::new(Sharing::new(&signature, config, Provider::Cpu, None, rows, Default::default()));
    let session = Arc::new(CurrentSession::default());
    session.set(&NoSession);
    let inline = InlineRuns { max_run, slots: InlineSlots::for_threads(1.try_into().unwrap()).unwrap() };
    let budget = &LatencyBudget::DEFAULT;
    Arc::new(Queue::new(sharing, config, budget, ServiceTime::default(), vec![session], inline, recorder))
}

/// A session that nothing runs on.
#[derive(Debug)]
struct NoSession;

impl Session for NoSession {
    fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::new(NoSession)
    }

    fn run(&mut self, _: &Tensors) -> Result<Tensors> {
        Err(Error::internal("not run in this test"))
    }
}

impl Interrupt for NoSession {
    fn end_runs(&self) {}

    fn allow_runs(&self) {}
}

/// The batch that a worker takes next.
fn take(queue: &Queue, last: Option<FinishedRun>) -> Arc<Batch> {
    match queue.take(last.map(|last| (0, last))) {
        Some(Work::Run { session: 0, batch }) => batch,
        other => panic!("{other:?}"),
    }
}

fn push(queue: &Arc<Queue>) -> Entered {
    let row = Tensor::new(vec![1, 1], Data::F32(vec![0.0])).unwrap();
    queue.push([("x".into(), row)].into_iter().collect(), demand(), Priority::Normal, None).unwrap()
}

fn demand() -> TimeLimits {
    let deadline = Deadline::after(Instant::now(), Duration::from_secs(600));
    TimeLimits { deadline, finish_by: deadline.instant() }
}

const COMPLETED: FinishedRun = FinishedRun { took: Duration::from_micros(5), end: RunEnd::Completed };

/// The worker would wait for ten minutes, but no more requests will come.
#[test]
fn a_queue_that_is_closed_waits_for_no_company() {
    let queue = queue(&SessionConfig { max_wait_us: 600_000_000, ..SessionConfig::default() });
    let entered = push(&queue);
    let worker = std::thread::spawn({
        let queue = Arc::clone(&queue);
        move || {
            let rows = take(&queue, None).rows();
            (rows, queue.take(Some((0, COMPLETED))).is_none())
        }
    });
    queue.close();
    assert_eq!(worker.join().unwrap(), (1, true));
    assert!(entered.request.taken().is_some());
}

/// A batch can also be ended between its forming and its run.
#[test]
fn a_batch_that_nobody_waits_for_is_ended_and_the_next_may_run() {
    let queue = queue(&SessionConfig::default());
    let (first, second) = (push(&queue), push(&queue));
    let batch = take(&queue, None);
    queue.give_up(&first.request);
    assert!(!batch.is_terminated());
    queue.give_up(&second.request);
    assert!(batch.is_terminated());
    let third = push(&queue);
    let next = take(&queue, Some(FinishedRun { took: Duration::ZERO, end: RunEnd::Terminated }));
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
    let batch = take(&queue, None);
    assert!(batch.has(&hopeless.request));
    // Only one attempt at a time: the next request is refused.
    let next = queue.push(hopeless.request.inputs.clone(), demand(), Priority::Normal, None).unwrap_err();
    assert!(matches!(next, Error::Overloaded { shed: Shed::EvenAlone, .. }));
}

#[test]
fn only_a_run_that_was_too_late_for_everybody_says_that_runs_take_long() {
    for (end, is_learned) in [(RunEnd::Terminated, true), (RunEnd::Failed, false)] {
        let queue = queue(&SessionConfig::default());
        let entered = [push(&queue), push(&queue)];
        take(&queue, None);
        entered.iter().for_each(|entered| queue.give_up(&entered.request));
        push(&queue);
        take(&queue, Some(FinishedRun { took: Duration::from_secs(1), end }));
        assert_eq!(queue.typical_run(2).is_some(), is_learned);
    }
}

// ===== inline runs =====

const SHORT: Duration = Duration::from_micros(100);

impl Entered {
    fn take_run(&mut self) -> Option<InlineRun> {
        match std::mem::replace(&mut self.inline, Inline::None) {
            Inline::AtOnce(run) => Some(run),
            Inline::AfterOthers | Inline::None => None,
        }
    }

    fn runs_itself(&self) -> bool {
        matches!(self.inline, Inline::AtOnce(_))
    }

    fn gathers(&self) -> bool {
        matches!(self.inline, Inline::AfterOthers)
    }
}

/// A queue that has learned that its runs are short.
fn queue_of_short_runs() -> Arc<Queue> {
    let queue = queue_with(&SessionConfig::default(), SHORT);
    let first = push(&queue);
    assert!(!first.runs_itself(), "nothing is known yet");
    take(&queue, None);
    assert!(queue.next_inline(0, COMPLETED, true).is_none(), "nothing waits");
    queue
}

#[test]
fn a_request_that_finds_a_free_session_runs_itself_and_what_arrives_meanwhile() {
    let queue = queue_of_short_runs();
    let mut first = push(&queue);
    let run = first.take_run().unwrap();
    assert!(run.session == 0 && run.batch.has(&first.request));
    let (second, third) = (push(&queue), push(&queue));
    assert!(!second.runs_itself() && !third.runs_itself());
    let (next, _) = queue.next_inline(0, COMPLETED, true).unwrap();
    assert!(next.has(&second.request) && next.has(&third.request));
    assert!(queue.next_inline(0, COMPLETED, true).is_none());
    drop(run.slot);
    assert!(push(&queue).runs_itself());
}

#[test]
fn a_request_that_has_made_runs_for_long_leaves_the_rest_to_a_worker() {
    let queue = queue_of_short_runs();
    let first = push(&queue);
    let second = push(&queue);
    assert!(queue.next_inline(0, COMPLETED, false).is_none());
    assert!(take(&queue, None).has(&second.request) && first.runs_itself());
}

#[test]
fn longer_runs_and_more_rows_than_one_run_takes_are_left_to_workers() {
    let queue = queue_of_short_runs();
    for _ in 0..7 {
        if !push(&queue).runs_itself() {
            break;
        }
        queue.next_inline(0, FinishedRun { took: 2 * SHORT, end: RunEnd::Completed }, true);
    }
    assert!(!push(&queue).runs_itself());

    let queue = queue_of_short_runs();
    let rows = queue.state.lock().inline_batch + 1;
    let many = Tensor::new(vec![rows, 1], Data::F32(vec![0.0; rows])).unwrap();
    let many: Tensors = [("x".into(), many)].into_iter().collect();
    assert!(!queue.push(many, demand(), Priority::Normal, None).unwrap().runs_itself());
}

#[test]
fn a_run_that_takes_long_after_all_is_ended_and_a_worker_runs_its_requests() {
    let queue = queue_of_short_runs();
    let mut first = push(&queue);
    let run = first.take_run().unwrap();
    queue.move_to_worker(0, run.began - SHORT);
    assert!(!run.batch.is_terminated(), "that was an earlier run");
    queue.move_to_worker(0, run.began);
    assert!(run.batch.is_terminated() && run.batch.is_moved());
    let second = push(&queue);
    assert!(queue.next_inline(0, FinishedRun { took: SHORT, end: RunEnd::Moved }, true).is_none());
    let batch = take(&queue, None);
    assert!(batch.has(&first.request) && !batch.has(&second.request) && !batch.is_terminated());
    assert!(take(&queue, Some(COMPLETED)).has(&second.request));
    // For a while, no run is inline.
    assert!(!push(&queue).runs_itself());
}

#[test]
fn a_request_that_was_given_up_is_not_moved() {
    let queue = queue_of_short_runs();
    let mut first = push(&queue);
    let began = first.take_run().unwrap().began;
    queue.move_to_worker(0, began);
    queue.give_up(&first.request);
    queue.next_inline(0, FinishedRun { took: SHORT, end: RunEnd::Moved }, true);
    let second = push(&queue);
    assert!(take(&queue, None).has(&second.request));
}

/// A queue whose short runs begin after the other requests of a thread.
fn queue_that_gathers() -> Arc<Queue> {
    let queue = queue_of_short_runs();
    let mut state = queue.state.lock();
    while !state.inline_mode.lets_others_go_first() {
        state.inline_mode.ran(2);
    }
    drop(state);
    queue
}

#[test]
fn requests_that_gather_share_the_run_of_the_first_one_that_goes_on() {
    let queue = queue_that_gathers();
    let (first, second) = (push(&queue), push(&queue));
    assert!(first.gathers() && second.gathers());
    let run = queue.start_gathered().unwrap();
    assert!(run.batch.has(&first.request) && run.batch.has(&second.request));
    assert!(queue.start_gathered().is_none(), "nothing is left");
    // What gathers during the run has a thread of its own.
    let third = push(&queue);
    assert!(third.gathers() && queue.next_inline(0, COMPLETED, true).is_none());
    drop(run.slot);
    assert!(queue.start_gathered().unwrap().batch.has(&third.request));
}

#[test]
fn requests_that_have_gathered_while_all_sessions_are_busy_are_run_by_who_uses_one() {
    let queue = queue_that_gathers();
    let first = push(&queue);
    let run = queue.start_gathered().unwrap();
    let second = push(&queue);
    assert!(queue.start_gathered().is_none() && run.batch.has(&first.request));
    let (next, _) = queue.next_inline(0, COMPLETED, true).unwrap();
    assert!(next.has(&second.request));
    // That was the last one, so the next one gathers again.
    let third = push(&queue);
    assert!(third.gathers() && queue.next_inline(0, COMPLETED, true).is_none());
}

#[test]
fn requests_that_gather_when_the_queue_is_closed_are_left_to_workers() {
    let queue = queue_that_gathers();
    let first = push(&queue);
    queue.close();
    assert!(queue.start_gathered().is_none());
    assert!(take(&queue, None).has(&first.request));
}

#[test]
fn after_a_run_that_nothing_ended_for_long_workers_make_all_runs() {
    let queue = queue_of_short_runs();
    assert!(push(&queue).runs_itself());
    queue.next_inline(0, FinishedRun { took: 2 * Duration::from_millis(100), end: RunEnd::Failed }, true);
    assert!(!push(&queue).runs_itself());
}

/// A request of more rows than a run takes has looked once, so its rest needs somebody else.
#[test]
fn the_rest_of_a_request_that_is_larger_than_a_run_is_run_too() {
    let queue = queue_that_gathers();
    let rows = queue.state.lock().full_batch + 1;
    queue.state.lock().inline_batch = 2 * rows;
    let many = Tensor::new(vec![rows, 1], Data::F32(vec![0.0; rows])).unwrap();
    let large = queue.push([("x".into(), many)].into_iter().collect(), demand(), Priority::Normal, None).unwrap();
    assert!(large.gathers());
    assert_eq!(queue.start_gathered().unwrap().batch.rows(), rows - 1);
    let (rest, _) = queue.next_inline(0, COMPLETED, true).unwrap();
    assert!(rest.has(&large.request) && rest.rows() == 1);
}

/// A request that has looked while no run could be inline is not taken for one that still gathers.
#[test]
fn a_request_that_has_looked_in_vain_is_run_next() {
    let queue = queue_that_gathers();
    let _first = push(&queue);
    let _run = queue.start_gathered().unwrap();
    let second = push(&queue);
    let usual = std::mem::take(&mut queue.state.lock().inline_batch);
    assert!(second.gathers() && queue.start_gathered().is_none());
    queue.state.lock().inline_batch = usual;
    assert!(queue.next_inline(0, COMPLETED, true).unwrap().0.has(&second.request));
}
