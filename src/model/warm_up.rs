//! The first runs of a model, before it serves requests. They show that the model runs, and measure the duration of its
//! runs.

use std::time::{Duration, Instant};

use super::batch::BatchPolicy;
use super::service_time::ServiceTime;
use super::session::Session;
use crate::tensor::Tensors;

/// Clock that times a run. It also determines the time limit of measuring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopwatch {
    /// Wall time, for a machine that is otherwise idle.
    WallTime,
    /// Processor time of this thread, which does its share of the run's work. For measuring while requests are served,
    /// which take precedence.
    ProcessorTime,
}

/// Number of measured runs of each size.
const RUNS: usize = 3;

/// Maximum number of runs for the duration of a slow run.
const SLOW_RUNS: usize = 20;

/// Maximum number of runs of each size of which the shortest counts. After a pause, the threads of a run take some runs to be
/// as fast as under load.
const SHORTEST_OF: usize = 200;

/// Maximum time for the first `RUNS` runs of a slow model.
const MAX_MEASURING: Duration = Duration::from_secs(3);

/// Maximum number of rows that are measured for a model whose requests are not joined.
const MAX_ROWS: usize = 32;

/// Maximum number of elements of inputs that are made up for measuring.
const MAX_ELEMENTS: usize = 1 << 24;

/// Runs a warm session on `inputs` of several numbers of rows, from the fewest rows to a full batch, and learns the
/// durations, so that the first requests are not admitted blindly. Leaves out sizes beyond the time limit or
/// `MAX_ELEMENTS`, and sizes at which the model fails.
pub fn measure(
    session: &mut dyn Session,
    inputs: &dyn Fn(usize) -> Option<Tensors>,
    policy: BatchPolicy,
    stopwatch: Stopwatch,
) -> ServiceTime {
    let mut service = ServiceTime::default();
    let begin = Instant::now();
    let Some(row) = inputs(policy.fewest_rows()) else { return service };
    let most = match policy.keeps_requests_whole() {
        // A run is as large as its request, and requests can be of any size.
        true => {
            let by_elements = policy.max_elements.map_or(usize::MAX, |most| most.get() / row.row_elements().max(1));
            policy.most_rows().min(MAX_ROWS).min(by_elements).max(1)
        }
        false => policy.limit(&row, usize::MAX),
    };
    let most = most.min(MAX_ELEMENTS / row.row_elements().max(1)).max(policy.fewest_rows());
    for rows in sizes(policy.fewest_rows(), most) {
        if begin.elapsed() >= stopwatch.time_limit() {
            break;
        }
        let Some(inputs) = inputs(rows) else { break };
        for _ in 0..RUNS {
            let run = stopwatch.start();
            if let Err(error) = session.run(&inputs) {
                let detail = error.detail();
                tracing::warn!(
                    rows,
                    detail,
                    "the model runs, but not with this many rows; is model.max_batch_size too large?"
                );
                return service;
            }
            service.observe(rows * policy.row_size(&inputs), run());
            if begin.elapsed() >= stopwatch.time_limit() {
                break;
            }
        }
    }
    service
}

/// Returns the duration that 95% of the runs on these inputs take at most, over a few runs of a warm session. `None` if
/// the model fails.
pub fn slow_run(session: &mut dyn Session, inputs: &Tensors, stopwatch: Stopwatch) -> Option<Duration> {
    let begin = Instant::now();
    let mut times = Vec::with_capacity(SLOW_RUNS);
    loop {
        let run = stopwatch.start();
        session.run(inputs).ok()?;
        times.push(run());
        let limit = if times.len() < RUNS { MAX_MEASURING } else { stopwatch.time_limit() };
        if times.len() == SLOW_RUNS || begin.elapsed() >= limit {
            break;
        }
    }
    times.sort_unstable();
    // The nearest rank.
    times.get((times.len() * 95).div_ceil(100) - 1).copied()
}

/// Returns the shortest of a few runs for each of these numbers of rows, in wall time. Other work of the machine makes runs
/// longer, but hardly ever all of them. Leaves out sizes after `longest`, and from the first size at which the model fails.
pub fn shortest_runs(
    session: &mut dyn Session,
    inputs: &dyn Fn(usize) -> Option<Tensors>,
    rows: impl Iterator<Item = usize>,
    longest: Duration,
) -> Vec<(usize, Duration)> {
    let begin = Instant::now();
    let mut shortest = Vec::new();
    for rows in rows {
        let Some(inputs) = inputs(rows) else { break };
        let of_size = Instant::now();
        let mut best: Option<Duration> = None;
        // The first run of a size makes its buffers.
        for run in 0..=SHORTEST_OF {
            let one = Instant::now();
            if session.run(&inputs).is_err() {
                return shortest;
            }
            let took = one.elapsed();
            if run > 0 || took > longest / 4 {
                best = Some(best.map_or(took, |best| best.min(took)));
            }
            if best.is_some() && of_size.elapsed() > longest / 8 {
                break;
            }
        }
        shortest.extend(best.map(|best| (rows, best)));
        if begin.elapsed() > longest {
            break;
        }
    }
    shortest
}

impl Stopwatch {
    /// Time limit of measuring. A run that has begun is completed.
    fn time_limit(self) -> Duration {
        match self {
            Stopwatch::WallTime => Duration::from_millis(200),
            Stopwatch::ProcessorTime => Duration::from_millis(100),
        }
    }

    /// Starts the stopwatch. The returned function returns the time since the start.
    pub fn start(self) -> impl FnOnce() -> Duration {
        let (wall, processor) = (Instant::now(), processor_time());
        move || match self {
            Stopwatch::WallTime => wall.elapsed(),
            Stopwatch::ProcessorTime => processor_time().saturating_sub(processor).min(wall.elapsed()),
        }
    }
}

/// Processor time that this thread has used.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Returns the numbers of rows to measure: `fewest`, doubled repeatedly, and `most`.
pub fn sizes(fewest: usize, most: usize) -> impl Iterator<Item = usize> {
    let doubled = std::iter::successors(Some(fewest), |rows| rows.checked_mul(2));
    doubled.take_while(move |rows| *rows < most).chain((most >= fewest).then_some(most))
}
