//! The first runs of a model, before anybody waits for one: whether it runs at all, and what its runs take.

use std::time::{Duration, Instant};

use super::batch::BatchPolicy;
use super::made_up_rows::zeros;
use super::service_time::ServiceTime;
use super::session::Session;
use crate::tensor::Signature;

/// Method of timing a run, and with it the time for measuring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopwatch {
    /// By the clock: nobody else needs the machine.
    WallTime,
    /// By the processor time of this thread, which takes its share of the run's work: requests are served meanwhile, and
    /// go first.
    ProcessorTime,
}

/// Number of runs of each size.
const RUNS: usize = 3;

/// So many rows are run of a model whose requests are not joined.
const MAX_ROWS: usize = 32;

/// Larger inputs than this many elements are not made up only to measure.
const MAX_ELEMENTS: usize = 1 << 24;

/// Runs a session that is warm on zeros, from the fewest rows to a full batch, and learns what that takes, so that the
/// first requests are not admitted blindly. Sizes for which there is no time, no room, or at which the model fails are
/// left out.
pub fn measure(
    session: &mut dyn Session,
    signature: &Signature,
    policy: BatchPolicy,
    stopwatch: Stopwatch,
) -> ServiceTime {
    let mut service = ServiceTime::default();
    let begin = Instant::now();
    let row = zeros(signature, policy.fewest_rows());
    let most = match policy.keeps_requests_whole() {
        // How large requests are is up to their authors.
        true => {
            let by_elements = policy.max_elements.map_or(usize::MAX, |most| most.get() / row.row_elements().max(1));
            policy.most_rows().min(MAX_ROWS).min(by_elements).max(1)
        }
        false => policy.limit(&row, usize::MAX),
    };
    let most = most.min(MAX_ELEMENTS / row.row_elements().max(1));
    for rows in sizes(policy.fewest_rows(), most) {
        if begin.elapsed() >= stopwatch.time_limit() {
            break;
        }
        let inputs = zeros(signature, rows);
        for _ in 0..RUNS {
            let run = stopwatch.start();
            if let Err(error) = session.run(&inputs) {
                let detail = error.detail();
                tracing::warn!(
                    rows,
                    detail,
                    "the model runs, but not with so many rows; is model.max_batch_size too large?"
                );
                return service;
            }
            service.observe(rows, run());
            if begin.elapsed() >= stopwatch.time_limit() {
                break;
            }
        }
    }
    service
}

impl Stopwatch {
    /// Time limit of measuring. A run that has begun is waited for.
    fn time_limit(self) -> Duration {
        match self {
            Stopwatch::WallTime => Duration::from_millis(200),
            Stopwatch::ProcessorTime => Duration::from_millis(100),
        }
    }

    /// Begins, and says at the end how long it took.
    pub fn start(self) -> impl FnOnce() -> Duration {
        let (wall, processor) = (Instant::now(), processor_time());
        move || match self {
            Stopwatch::WallTime => wall.elapsed(),
            Stopwatch::ProcessorTime => processor_time().saturating_sub(processor).min(wall.elapsed()),
        }
    }
}

/// The processor time that this thread has taken.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// The fewest rows, then twice as many, up to the most.
fn sizes(fewest: usize, most: usize) -> impl Iterator<Item = usize> {
    let doubled = std::iter::successors(Some(fewest), |rows| rows.checked_mul(2));
    doubled.take_while(move |rows| *rows < most).chain((most >= fewest).then_some(most))
}
