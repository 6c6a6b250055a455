//! The requests that wait for a worker, in the order of their turns.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::batch::{BatchPolicy, Candidate, Next, Plan};
use super::request::{Batch, Part, Request};

/// Requests, sorted by turn, and the total size of their rows that no worker has taken yet.
#[derive(Debug, Default)]
pub(super) struct WaitingLine {
    waiting: VecDeque<Waiting>,
    size: usize,
}

/// A waiting request, and the first of its rows that no worker has taken.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: Arc<Request>,
    next_row: usize,
    /// True if the request is run even if it will be late.
    is_attempt: bool,
}

// ===== impl WaitingLine =====

impl WaitingLine {
    /// Number of waiting requests.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Total size of the rows that no worker has taken, in the unit of the service time.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The waiting requests, with the data needed to form a batch.
    pub(super) fn candidates(&self) -> impl Iterator<Item = Candidate<'_>> {
        self.waiting.iter().map(Waiting::candidate)
    }

    /// Returns the request at this position of the line.
    pub(super) fn at(&self, place: usize) -> Option<&Waiting> {
        self.waiting.get(place)
    }

    /// Marks the request at this position to be run even if it will be late.
    pub(super) fn run_however_late(&mut self, place: usize) {
        if let Some(waiting) = self.waiting.get_mut(place) {
            waiting.is_attempt = true;
        }
    }

    /// Inserts a request by its turn, usually at the end.
    pub(super) fn insert(&mut self, request: Arc<Request>) {
        let waiting = Waiting { request, next_row: 0, is_attempt: false };
        self.size += waiting.size();
        match self.waiting.back() {
            Some(last) if last.request.turn > waiting.request.turn => {
                let place = self.waiting.partition_point(|other| other.request.turn <= waiting.request.turn);
                self.waiting.insert(place, waiting);
            }
            _ => self.waiting.push_back(waiting),
        }
    }

    /// Total size of the waiting rows of requests whose turn is not after this one.
    pub(super) fn size_before(&self, turn: Instant) -> usize {
        match self.waiting.back() {
            Some(last) if last.request.turn > turn => {
                let place = self.waiting.partition_point(|other| other.request.turn <= turn);
                self.waiting.range(..place).map(Waiting::size).sum()
            }
            _ => self.size,
        }
    }

    /// Removes the hopeless requests and the next batch of a plan that was made from [`WaitingLine::candidates`].
    pub(super) fn carry_out(&mut self, plan: &Plan) -> (Vec<Waiting>, Option<Batch>) {
        let taken_out = plan.hopeless.iter().rev().filter_map(|&place| self.waiting.remove(place));
        let hopeless: Vec<Waiting> = taken_out.collect();
        self.size -= hopeless.iter().map(Waiting::size).sum::<usize>();

        let Next::Run(shares) = &plan.next else { return (hopeless, None) };
        let mut parts = Vec::with_capacity(shares.len());
        let mut gone = 0;
        for share in shares {
            // The share's index still counts the requests that were removed since the plan was made.
            let hopeless_before = plan.hopeless.partition_point(|&place| place < share.index);
            let place = share.index - hopeless_before - gone;
            let waiting = &mut self.waiting[place];
            let rows = waiting.next_row..waiting.next_row + share.rows;
            self.size -= share.rows * waiting.request.row_size;
            if share.rows < waiting.rows() {
                waiting.next_row = rows.end;
                // One run is enough to learn from, so the remaining rows are run only if they can be in time.
                waiting.is_attempt = false;
                parts.push(Part { request: Arc::clone(&waiting.request), rows });
            } else if let Some(taken) = self.waiting.remove(place) {
                gone += 1;
                parts.push(Part { request: taken.request, rows });
            }
        }
        (hopeless, Some(Batch::new(parts)))
    }

    /// Removes a request, if it still waits.
    pub(super) fn remove(&mut self, request: &Arc<Request>) {
        let first = self.waiting.partition_point(|other| other.request.turn < request.turn);
        let place = self.waiting.range(first..).position(|other| Arc::ptr_eq(&other.request, request));
        if let Some(removed) = place.and_then(|place| self.waiting.remove(first + place)) {
            self.size -= removed.size();
        }
    }
}

// ===== impl Waiting =====

impl Waiting {
    /// Number of rows that no worker has taken.
    pub(super) fn rows(&self) -> usize {
        self.request.inputs.rows() - self.next_row
    }

    /// Total size of the request's rows that no worker has taken, in the unit of the service time.
    fn size(&self) -> usize {
        self.rows() * self.request.row_size
    }

    /// Size of the request's next run, if it runs alone.
    pub(super) fn run_size(&self, policy: BatchPolicy, full_batch: usize) -> usize {
        self.rows().min(policy.limit(&self.request.inputs, full_batch)) * self.request.row_size
    }

    fn candidate(&self) -> Candidate<'_> {
        let Request { inputs, entered, finish_by, .. } = &*self.request;
        let finish_by = (!self.is_attempt).then_some(*finish_by);
        Candidate { rows: self.rows(), inputs, entered: *entered, finish_by }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::batch::Lengths;
    use super::super::batch::{RunRows, plan};
    use super::super::service_time::Line;
    use super::*;
    use crate::budget::{Deadline, TimeLimits};
    use crate::tensor::{Data, Tensor, Tensors};

    fn request(rows: usize, turn: Instant, finish_by: Instant) -> Arc<Request> {
        let tensor = Tensor::new(vec![rows, 1], Data::F32(vec![0.0; rows])).unwrap();
        let inputs: Tensors = [("x".into(), tensor)].into_iter().collect();
        let deadline = Deadline::after(turn, Duration::from_secs(60));
        Arc::new(Request::new((inputs, 3), TimeLimits { deadline, finish_by }, (turn, turn), None, None).0)
    }

    proptest! {
        /// For any requests, turns and deadlines, every row is taken once, or dropped with its request.
        #[test]
        fn every_row_leaves_once(
            sizes in prop::collection::vec((1usize..50, 0u64..100, prop_oneof![0u64..40, Just(60_000)]), 1..40),
            most in 1usize..16, given_up in prop::collection::vec(0usize..40, 0..5),
        ) {
            let now = Instant::now();
            let ms = Duration::from_millis;
            let policy = BatchPolicy {
                run_rows: RunRows::UpTo(most.try_into().unwrap()),
                max_elements: None,
                max_row_elements: None,
                max_wait: Duration::ZERO,
                max_instances: 4096.try_into().unwrap(),
                workers: 1.try_into().unwrap(),
                lengths: Lengths::Alike,
            };
            let mut line = WaitingLine::default();
            let requests: Vec<Arc<Request>> = sizes.iter().map(|&(rows, turn, finish_in)| {
                request(rows, now + ms(turn), now + ms(finish_in))
            }).collect();
            requests.iter().for_each(|request| line.insert(Arc::clone(request)));
            prop_assert!(line.waiting.iter().is_sorted_by_key(|waiting| waiting.request.turn));

            let mut taken = vec![0; requests.len()];
            let mut dropped = vec![false; requests.len()];
            let place = |request: &Arc<Request>| requests.iter().position(|other| Arc::ptr_eq(other, request)).unwrap();
            for round in 0.. {
                if let Some(&index) = given_up.get(round) && index < requests.len() {
                    line.remove(&requests[index]);
                    dropped[index] = true;
                }
                let planned = plan(now + ms(round as u64), line.candidates(), policy, most, Some(Line { a: 0.001, b: 0.0 }));
                let (hopeless, batch) = line.carry_out(&planned);
                hopeless.iter().for_each(|waiting| dropped[place(&waiting.request)] = true);
                let Some(batch) = batch else { break };
                prop_assert!(batch.rows() > 0 && batch.rows() <= most);
                for part in &batch.parts {
                    let index = place(&part.request);
                    prop_assert!(part.rows.start == taken[index] && !dropped[index]);
                    taken[index] = part.rows.end;
                }
                prop_assert_eq!(line.size(), 3 * line.waiting.iter().map(Waiting::rows).sum::<usize>());
                prop_assert_eq!(line.size_before(now + ms(1_000)), line.size());
            }
            prop_assert_eq!((line.len(), line.size()), (0, 0));
            for ((&(rows, ..), taken), dropped) in sizes.iter().zip(taken).zip(dropped) {
                prop_assert!(dropped || taken == rows);
            }
        }
    }
}
