//! Tests of `batch.rs`.

use proptest::prelude::*;

use super::*;
use crate::tensor::{Data, Tensor};

/// A request whose rows are `width` numbers each.
fn request(rows: usize, width: usize) -> Tensors {
    let values = (0..rows * width).map(|v| v as f32).collect();
    [("x".into(), Tensor::new(vec![rows, width], Data::F32(values)).unwrap())].into_iter().collect()
}

fn policy(run_rows: RunRows) -> BatchPolicy {
    BatchPolicy {
        run_rows,
        max_elements: None,
        max_row_elements: None,
        max_wait: Duration::ZERO,
        max_instances: 4096.try_into().unwrap(),
        workers: NonZeroUsize::MIN,
        lengths: Lengths::Alike,
    }
}

fn up_to(limit: usize) -> BatchPolicy {
    policy(RunRows::UpTo(limit.try_into().unwrap()))
}

/// Plans a batch for requests of these rows and widths, without deadlines, and checks the shares (index, rows).
fn check(policy: BatchPolicy, waiting: &[(usize, usize)], expected: &[(usize, usize)]) {
    let now = Instant::now();
    let waiting: Vec<Tensors> = waiting.iter().map(|&(rows, width)| request(rows, width)).collect();
    let candidate = |inputs| Candidate { rows: Tensors::rows(inputs), inputs, entered: now, finish_by: None };
    let planned = plan(now, waiting.iter().map(candidate), policy, usize::MAX, None);
    let expected: Vec<Share> = expected.iter().map(|&(index, rows)| Share { index, rows }).collect();
    let expected = if expected.is_empty() { Next::Idle } else { Next::Run(expected) };
    assert_eq!(planned, Plan { hopeless: vec![], next: expected });
}

#[test]
fn plan_takes_what_fits_from_the_oldest_on() {
    check(up_to(8), &[], &[]);
    check(up_to(8), &[(1, 4)], &[(0, 1)]);
    check(up_to(8), &[(3, 4), (5, 4), (1, 4)], &[(0, 3), (1, 5)]);
    // A small request stays whole, and no later one overtakes it.
    check(up_to(8), &[(3, 4), (6, 4), (1, 4)], &[(0, 3)]);
    // A large request is divided, and fills the remaining rows.
    check(up_to(8), &[(100, 4), (1, 4)], &[(0, 8)]);
    check(up_to(8), &[(3, 4), (100, 4)], &[(0, 3), (1, 5)]);
    // A request of another shape is passed over; it will be the first in a later batch.
    check(up_to(8), &[(1, 4), (1, 5), (1, 4)], &[(0, 1), (2, 1)]);
    // With padding, requests of about the same length join the first.
    let padded = BatchPolicy { lengths: Lengths::Padded, ..up_to(8) };
    check(padded, &[(1, 90), (1, 10), (1, 100), (1, 80), (1, 86)], &[(0, 1), (2, 1), (4, 1)]);
    let few = BatchPolicy { max_elements: NonZeroUsize::new(199), ..padded };
    check(few, &[(1, 90), (1, 100), (1, 99)], &[(0, 1), (2, 1)]);
    check(policy(RunRows::Exactly(NonZeroUsize::MIN)), &[(1, 4), (1, 4)], &[(0, 1)]);
    check(policy(RunRows::Exactly(4.try_into().unwrap())), &[(8, 4), (4, 4)], &[(0, 4)]);
    // A request whose rows may depend on each other stays whole, and alone.
    check(policy(RunRows::OneRequest(99.try_into().unwrap())), &[(50, 4), (1, 4)], &[(0, 50)]);
    // 8 elements in all: two rows of four.
    check(BatchPolicy { max_elements: NonZeroUsize::new(8), ..up_to(8) }, &[(1, 4), (1, 4), (1, 4)], &[(0, 1), (1, 1)]);
}

/// 1 ms per element: of rows that differ in shape, long ones take longer.
#[test]
fn the_time_of_rows_of_other_shapes_follows_their_elements() {
    let now = Instant::now();
    let (short, long) = (request(1, 4), request(1, 8));
    let varied = BatchPolicy { lengths: Lengths::Varied, ..up_to(8) };
    let planned = |waiting: &[(&Tensors, u64)]| {
        let candidates = waiting.iter().map(|&(inputs, finish_in_ms)| Candidate {
            rows: 1,
            inputs,
            entered: now,
            finish_by: Some(now + Duration::from_millis(finish_in_ms)),
        });
        plan(now, candidates, varied, 1000, Some(Line { a: 0.001, b: 0.0 }))
    };
    let run = |shares: &[usize]| Next::Run(shares.iter().map(|&index| Share { index, rows: 1 }).collect());
    assert_eq!(planned(&[(&short, 5), (&long, 5)]), Plan { hopeless: vec![1], next: run(&[0]) });
    assert_eq!(planned(&[(&long, 17), (&short, 90), (&long, 17)]), Plan { hopeless: vec![], next: run(&[0, 2]) });
    // A full batch of 20 elements has two long rows, or five short ones.
    assert_eq!((varied.limit(&long, 20), varied.limit(&short, 20)), (2, 5));
    assert_eq!((varied.row_size(&long), up_to(8).row_size(&long)), (8, 1));
}

/// 1 ms per row; the second request has to end within 3.5 ms, the third could not be in time even alone.
#[test]
fn a_batch_is_no_larger_than_its_deadlines_allow() {
    let now = Instant::now();
    let inputs = request(1, 2);
    let candidate = |finish_in_us: Option<u64>| Candidate {
        rows: 1,
        inputs: &inputs,
        entered: now,
        finish_by: finish_in_us.map(|us| now + Duration::from_micros(us)),
    };
    let waiting = [Some(9_000), Some(3_500), Some(500), None, None];
    let planned = plan(now, waiting.map(candidate), up_to(8), 8, Some(Line { a: 0.001, b: 0.0 }));
    let shares = [0, 1, 3].map(|index| Share { index, rows: 1 });
    assert_eq!(planned, Plan { hopeless: vec![2], next: Next::Run(shares.to_vec()) });
}

#[test]
fn a_worker_waits_for_company_no_longer_than_it_may() {
    let now = Instant::now();
    let (inputs, ms) = (request(1, 2), Duration::from_millis);
    let policy = BatchPolicy { max_wait: ms(5), ..up_to(2) };
    let until = |entered, finish_by, count| {
        let candidate = Candidate { rows: 1, inputs: &inputs, entered, finish_by };
        plan(now, std::iter::repeat_n(candidate, count), policy, 2, Some(Line { a: 0.0, b: 0.001 })).next
    };
    assert_eq!(until(now, None, 1), Next::WaitUntil(now + ms(5)));
    // 1 ms for the run, a margin of 15%, and 1 ms for waking up.
    let in_time = now + ms(5) - Duration::from_micros(2_150);
    assert_eq!(until(now, Some(now + ms(5)), 1), Next::WaitUntil(in_time));
    assert!(matches!(until(now, Some(now + ms(2)), 1), Next::Run(_)));
    assert!(matches!(until(now, None, 2), Next::Run(_)));
    assert!(matches!(until(now - ms(5), None, 1), Next::Run(_)));
    // A worker that wakes up a little late still runs the batch.
    let candidate = Candidate { rows: 1, inputs: &inputs, entered: now, finish_by: Some(now + ms(5)) };
    let late = in_time + Duration::from_micros(900);
    let woken = plan(late, [candidate], policy, 2, Some(Line { a: 0.0, b: 0.001 }));
    assert_eq!(woken, Plan { hopeless: vec![], next: Next::Run(vec![Share { index: 0, rows: 1 }]) });
}

/// A batch of at most eight rows has three. The next request of six stays whole, and no later one may overtake it.
#[test]
fn a_worker_does_not_wait_for_company_that_cannot_come() {
    let (now, inputs, other) = (Instant::now(), [request(3, 2), request(6, 2)], request(1, 3));
    let policy = BatchPolicy { max_wait: Duration::from_secs(1), ..up_to(8) };
    let candidate = |inputs| Candidate { rows: Tensors::rows(inputs), inputs, entered: now, finish_by: None };
    for waiting in [[&inputs[0], &inputs[1]], [&inputs[0], &other]] {
        let planned = plan(now, waiting.map(candidate), policy, 8, None);
        assert_eq!(planned.next, Next::Run(vec![Share { index: 0, rows: 3 }]));
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let message = |policy: BatchPolicy, rows| policy.check(&request(rows, 2)).unwrap_err().to_string();
    let fixed = policy(RunRows::Exactly(4.try_into().unwrap()));
    assert!(fixed.check(&request(8, 2)).is_ok());
    assert!(message(fixed, 8000).contains("at most 4096"));
    assert!(message(fixed, 6).contains("multiple of 4"));
    let narrow = BatchPolicy { max_elements: Some(NonZeroUsize::MIN), ..up_to(4) };
    assert!(message(narrow, 1).contains("each has 2 elements; at most 1"));
    assert!(matches!(up_to(4).check(&request(0, 2)), Err(Error::Internal { .. })));
}

proptest! {
    #[test]
    fn a_plan_keeps_what_it_promises(
        requests in prop::collection::vec((1usize..40, 1usize..3, prop::option::of(0u64..60_000)), 1..40),
        most in 1usize..64, full_batch in 1usize..64, max_elements in prop::option::of(2usize..100),
        (a_us, b_us) in (0u32..500, 0u32..5_000), max_wait_us in prop_oneof![Just(0u64), 1u64..5_000],
    ) {
        let now = Instant::now();
        let line = Line { a: f64::from(a_us) / 1e6, b: f64::from(b_us) / 1e6 };
        let policy = BatchPolicy {
            max_elements: max_elements.and_then(NonZeroUsize::new),
            max_wait: Duration::from_micros(max_wait_us),
            ..up_to(most)
        };
        let inputs: Vec<Tensors> = requests.iter().map(|&(rows, width, _)| request(rows, width)).collect();
        let finish_by = |index: usize| requests[index].2.map(|us| now + Duration::from_micros(us));
        let waiting = inputs.iter().enumerate().map(|(index, inputs)| {
            Candidate { rows: inputs.rows(), inputs, entered: now, finish_by: finish_by(index) }
        });
        let limit = |index: usize| policy.limit(&inputs[index], full_batch);
        // A microsecond of tolerance: rows_within() rounds to the nearest row.
        let in_time = |index: usize, rows| {
            finish_by(index).is_none_or(|by| now + line.at(rows) <= by + Duration::from_micros(1))
        };
        let Plan { hopeless, next } = plan(now, waiting, policy, full_batch, Some(line));
        // No request is given up that could have been in time alone.
        for &index in &hopeless {
            let (runs, rows) = (requests[index].0.div_ceil(limit(index)), requests[index].0.min(limit(index)));
            let alone = line.at(rows) * u32::try_from(runs).unwrap();
            prop_assert!(finish_by(index).is_some_and(|by| now + alone + Duration::from_micros(1) >= by));
        }
        let shares = match next {
            Next::Run(shares) => shares,
            Next::WaitUntil(until) => {
                prop_assert!(until > now && until <= now + policy.max_wait);
                return Ok(());
            }
            Next::Idle => {
                prop_assert_eq!(hopeless.len(), requests.len());
                return Ok(());
            }
        };
        let rows: usize = shares.iter().map(|share| share.rows).sum();
        let first = shares[0].index;
        // Never over the limits.
        prop_assert!(rows <= most && rows <= full_batch.max(1) || rows == 1);
        prop_assert!(policy.max_elements.is_none_or(|most| rows * inputs[first].row_elements() <= most.get() || rows == 1));
        // Never past a deadline that could be kept.
        prop_assert!(shares.iter().all(|share| in_time(share.index, rows)));
        // Oldest first: a request that was passed over before the last one taken is hopeless or of another shape.
        prop_assert!(shares.is_sorted_by_key(|share| share.index));
        for index in 0..shares[shares.len() - 1].index {
            let taken = shares.iter().any(|share| share.index == index);
            let of_other_shape = index > first && !inputs[first].stacks_with(&inputs[index]);
            prop_assert!(taken || of_other_shape || hopeless.contains(&index));
        }
        // Only requests larger than a run are divided.
        for share in &shares {
            prop_assert!(share.rows == requests[share.index].0 || requests[share.index].0 > limit(first));
        }
    }
}
