//! Tests of the queue's handling of requests, batches and runs.

use super::state::STALE;
use super::*;
use crate::budget::Deadline;
use crate::config::Provider;
use crate::error::{Error, Shed};
use crate::model::independence::Independence;
use crate::model::joining::Joining;
use crate::model::sharing::Rows;
use crate::monitor::{Monitor, VersionLabels};
use crate::tensor::{DType, Data, Dim, Signature, Tensor, TensorSpec};

fn queue(config: &SessionConfig) -> Arc<Queue> {
    let labels = VersionLabels { model: "m".into(), version: "1".into(), sha256: "ab".into(), provider: "cpu" };
    let recorder = Monitor::new("1", Default::default()).version(labels, LatencyBudget::DEFAULT, Default::default());
    let x = TensorSpec { name: "x".into(), dtype: DType::F32, dims: vec![Dim::Dynamic(None), Dim::Fixed(1)] };
    let signature = Signature { inputs: vec![x], ..Signature::default() };
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

/// The worker would wait for ten minutes, but no more requests will come.
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

/// A batch can also be ended between its forming and its run.
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
    // Only one attempt at a time: the next request is refused.
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
