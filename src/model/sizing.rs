//! Choice of the number of workers, of the threads of each, and of the rows of a shared run, from measured runs. Pure: no
//! clock, no I/O.
//!
//! More threads for one run answer a lone request sooner; more workers answer more requests per second, because threads
//! that share a run wait for each other. Which of the two matters depends on the load, which is not known when a version is
//! loaded. So the choice is the number of threads that loses least at its worse end: with one request at a time, or with all
//! workers busy.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Count, MAX_BATCH_SIZE, Provider, SessionConfig, Threads};

/// Minimum number of rows of a full shared run that is chosen by measuring. Even if a larger run gains nothing by itself,
/// fewer runs are disturbed less by the threads that serve connections.
const MIN_CHOSEN_ROWS: usize = 32;

/// Maximum number of rows of a shared run that is chosen by measuring.
pub const MAX_CHOSEN_ROWS: usize = 128;

/// Time that a run costs besides the run itself: taking it from the queue, and handing out its answers.
const RUN_OVERHEAD: Duration = Duration::from_micros(30);

/// A number of rows is enough if the time per row is at most this multiple of the best.
const ROWS_TOLERANCE: f64 = 1.05;

/// More threads are chosen only if their score is at least this multiple of the score of fewer. The times of two loads
/// differ by some percent.
const MIN_GAIN: f64 = 1.05;

/// Minimum durations of runs of a session with this number of threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredThreads {
    /// Number of workers, and of the threads of each.
    pub threads: Threads,
    /// Number of rows of a run, and its duration. The numbers rise, and the first is the minimum that the model takes.
    pub runs: Vec<(usize, Duration)>,
}

/// Numbers that were chosen for a version by measuring its runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizing {
    /// Number of workers.
    pub workers: NonZeroUsize,
    /// Number of threads of each worker.
    pub intra_op_threads: NonZeroUsize,
    /// Maximum number of rows in a run of several requests; `None` if it was not measured.
    pub shared_rows: Option<NonZeroUsize>,
    /// The choice in words, with the measured times.
    pub reason: String,
}

/// Returns the numbers of threads that are worth measuring for these settings, in ascending order. There is nothing to
/// choose if it is only one, and the number of rows is given.
///
/// ```
/// use std::num::NonZeroUsize;
/// use leeway::config::{Count, SessionConfig};
/// use leeway::model::threads_to_measure;
/// let cores = |count| NonZeroUsize::new(count).unwrap();
/// let numbers = |count, config: &SessionConfig| -> Vec<(usize, usize)> {
///     let all = threads_to_measure(cores(count), config);
///     all.iter().map(|threads| (threads.workers.get(), threads.intra_op.get())).collect()
/// };
/// let auto = SessionConfig::default();
/// assert_eq!(numbers(1, &auto), [(1, 1)]);
/// assert_eq!(numbers(2, &auto), [(2, 1), (1, 2)]);
/// assert_eq!(numbers(16, &auto), [(8, 1), (8, 2), (4, 4)]);
/// let one_worker = SessionConfig { workers: Count::Fixed(cores(1)), ..auto };
/// assert_eq!(numbers(4, &one_worker), [(1, 1), (1, 2), (1, 4)]);
/// ```
pub fn threads_to_measure(cores: NonZeroUsize, config: &SessionConfig) -> Vec<Threads> {
    let usual = Threads::choose(cores, config.workers, config.intra_op_threads);
    // A GPU does the work of a run: the threads of the processor only start it.
    if config.intra_op_threads != Count::Auto || config.providers.first() != Some(&Provider::Cpu) {
        return vec![usual];
    }
    let doubled = std::iter::successors(Some(NonZeroUsize::MIN), |threads| threads.checked_mul(TWO));
    let fewer = doubled.take_while(|threads| *threads < usual.intra_op);
    let with = |threads| Threads::choose(cores, config.workers, Count::Fixed(threads));
    fewer.map(with).chain([usual]).collect()
}

const TWO: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);

impl Sizing {
    /// Chooses from measured runs, in ascending order of their threads. `rows` is the setting `max_batch_size`. Returns
    /// `None` if nothing was measured.
    ///
    /// ```
    /// use std::num::NonZeroUsize;
    /// use std::time::Duration;
    /// use leeway::config::{Count, Threads};
    /// use leeway::model::{MeasuredThreads, Sizing};
    /// let number = |number| NonZeroUsize::new(number).unwrap();
    /// let measured = |workers, intra_op, ms: [u64; 2]| MeasuredThreads {
    ///     threads: Threads { workers: number(workers), intra_op: number(intra_op) },
    ///     runs: vec![(1, Duration::from_millis(ms[0])), (8, Duration::from_millis(ms[1]))],
    /// };
    /// // Two threads halve a run of one row, and lose little in a run of eight.
    /// let sizing = Sizing::choose(&[measured(2, 1, [40, 320]), measured(1, 2, [21, 165])], Count::Auto).unwrap();
    /// assert_eq!((sizing.workers.get(), sizing.intra_op_threads.get()), (1, 2));
    /// // They save a tenth of a run: two workers with one thread each do almost twice as much.
    /// let sizing = Sizing::choose(&[measured(2, 1, [40, 320]), measured(1, 2, [36, 290])], Count::Auto).unwrap();
    /// assert_eq!((sizing.workers.get(), sizing.intra_op_threads.get()), (2, 1));
    /// ```
    pub fn choose(measured: &[MeasuredThreads], rows: Count<MAX_BATCH_SIZE>) -> Option<Sizing> {
        let measured: Vec<&MeasuredThreads> = measured.iter().filter(|one| !one.runs.is_empty()).collect();
        let best = |of: fn(&MeasuredThreads) -> f64| measured.iter().map(|one| of(one)).fold(0.0, f64::max);
        let (best_alone, best_busy) = (best(MeasuredThreads::rate_alone), best(MeasuredThreads::rate_busy));
        let score = |one: &MeasuredThreads| (one.rate_alone() / best_alone).min(one.rate_busy() / best_busy);
        let mut measured = measured.iter();
        let mut chosen = *measured.next()?;
        let mut others = Vec::new();
        for one in measured {
            let loser = if score(one) >= MIN_GAIN * score(chosen) { std::mem::replace(&mut chosen, one) } else { one };
            others.push(loser);
        }
        let shared_rows = (rows == Count::Auto).then(|| chosen.enough_rows()).flatten();
        let Threads { workers, intra_op } = chosen.threads;
        Some(Sizing { workers, intra_op_threads: intra_op, shared_rows, reason: reason(chosen, &others, shared_rows) })
    }
}

impl MeasuredThreads {
    /// Returns the runs per second if there is one request at a time.
    fn rate_alone(&self) -> f64 {
        self.runs.first().map_or(0.0, |(_, took)| 1.0 / (*took + RUN_OVERHEAD).as_secs_f64())
    }

    /// Returns the rows per second if all workers are busy.
    fn rate_busy(&self) -> f64 {
        let per_row = self.runs.iter().map(time_per_row).fold(f64::INFINITY, f64::min);
        self.threads.workers.get() as f64 / per_row
    }

    /// Returns the smallest number of rows, from `MIN_CHOSEN_ROWS`, that takes hardly more time per row than the best.
    fn enough_rows(&self) -> Option<NonZeroUsize> {
        // The model runs with one number of rows only.
        if self.runs.len() < 2 {
            return None;
        }
        let best = self.runs.iter().map(time_per_row).fold(f64::INFINITY, f64::min);
        let enough = self.runs.iter().find(|run| time_per_row(run) <= ROWS_TOLERANCE * best)?;
        NonZeroUsize::new(enough.0.max(MIN_CHOSEN_ROWS))
    }
}

fn time_per_row((rows, took): &(usize, Duration)) -> f64 {
    (*took + RUN_OVERHEAD).as_secs_f64() / *rows as f64
}

/// Describes the choice, as in `2 workers with 1 thread each, and at most 64 rows in a shared run: a run of 1 row takes
/// 0.040 ms, and one of 128 rows 1.900 ms; with 2 threads, 0.050 ms and 2.000 ms`.
fn reason(chosen: &MeasuredThreads, others: &[&MeasuredThreads], shared_rows: Option<NonZeroUsize>) -> String {
    let count = |count: usize, thing: &str| format!("{count} {thing}{}", if count == 1 { "" } else { "s" });
    let Threads { workers, intra_op } = chosen.threads;
    let mut text = format!("{} with {} each", count(workers.get(), "worker"), count(intra_op.get(), "thread"));
    if let Some(rows) = shared_rows {
        text += &format!(", and at most {} in a shared run", count(rows.get(), "row"));
    }
    let ms = |took: &Duration| format!("{:.3} ms", took.as_secs_f64() * 1e3);
    let Some((fewest, took)) = chosen.runs.first() else { return text };
    text += &format!(": a run of {} takes {}", count(*fewest, "row"), ms(took));
    let last = chosen.runs.last().filter(|(rows, _)| rows > fewest);
    text += &last.map_or_else(String::new, |(rows, took)| format!(", and one of {rows} rows {}", ms(took)));
    for other in others {
        let of = |wanted: usize| other.runs.iter().find(|(rows, _)| *rows == wanted).map(|(_, took)| ms(took));
        // The measurement of a slow model may have ended before the largest run.
        let times: Vec<String> = [of(*fewest), last.and_then(|(rows, _)| of(*rows))].into_iter().flatten().collect();
        text += &format!("; with {}, {}", count(other.threads.intra_op.get(), "thread"), times.join(" and "));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).unwrap()
    }

    /// Runs that take `b` µs each and `a` µs for each row.
    fn line(workers: usize, intra_op: usize, a: f64, b: f64) -> MeasuredThreads {
        let took = |rows: usize| Duration::from_secs_f64((a * rows as f64 + b) / 1e6);
        let runs = [1, 2, 4, 8, 16, 32, 64, 128].map(|rows| (rows, took(rows))).to_vec();
        MeasuredThreads { threads: Threads { workers: number(workers), intra_op: number(intra_op) }, runs }
    }

    fn chosen(measured: &[MeasuredThreads]) -> (usize, usize, Option<usize>) {
        let sizing = Sizing::choose(measured, Count::Auto).unwrap();
        (sizing.workers.get(), sizing.intra_op_threads.get(), sizing.shared_rows.map(NonZeroUsize::get))
    }

    #[test]
    fn the_choice_follows_the_times() {
        // A small model: a second thread only costs.
        assert_eq!(chosen(&[line(2, 1, 0.5, 6.0), line(1, 2, 0.5, 9.0)]), (2, 1, Some(128)));
        // A network for images, whose rows all cost the same: a shared run gains nothing.
        assert_eq!(chosen(&[line(2, 1, 40_000.0, 0.0), line(1, 2, 21_000.0, 0.0)]), (1, 2, Some(32)));
        assert_eq!(chosen(&[line(2, 1, 200.0, 1000.0), line(1, 2, 160.0, 950.0)]), (2, 1, Some(64)));
        // With 16 cores, the middle loses least.
        let by_cores = [line(8, 1, 1000.0, 0.0), line(8, 2, 520.0, 0.0), line(4, 4, 400.0, 0.0)];
        assert_eq!(chosen(&by_cores), (8, 2, Some(32)));
        assert_eq!(Sizing::choose(&[], Count::Auto), None);
    }

    #[test]
    fn the_reason_has_the_numbers() {
        let measured = [line(2, 1, 0.5, 6.0), line(1, 2, 0.5, 9.0)];
        insta::assert_snapshot!(
            Sizing::choose(&measured, Count::Auto).unwrap().reason,
            @"2 workers with 1 thread each, and at most 128 rows in a shared run: a run of 1 row takes 0.006 ms, and one of 128 rows 0.070 ms; with 2 threads, 0.009 ms and 0.073 ms"
        );
        // A time is compared with a time of as many rows only.
        let slow = MeasuredThreads { runs: measured[0].runs[..3].to_vec(), ..measured[0].clone() };
        insta::assert_snapshot!(
            Sizing::choose(&[slow, line(1, 2, 0.2, 3.0)], Count::Fixed(number(8))).unwrap().reason,
            @"1 worker with 2 threads each: a run of 1 row takes 0.003 ms, and one of 128 rows 0.029 ms; with 1 thread, 0.006 ms"
        );
        let only = MeasuredThreads { runs: vec![(1, Duration::from_millis(3))], ..measured[1].clone() };
        insta::assert_snapshot!(
            Sizing::choose(&[only], Count::Fixed(number(8))).unwrap().reason,
            @"1 worker with 2 threads each: a run of 1 row takes 3.000 ms"
        );
    }

    proptest! {
        #[test]
        fn no_choice_is_beaten_at_both_ends(times in prop::collection::vec((1.0f64..1e5, 0.0f64..1e5), 1..5)) {
            let measured: Vec<_> =
                times.iter().enumerate().map(|(index, (a, b))| line(8 >> index, 1 << index, *a, *b)).collect();
            let sizing = Sizing::choose(&measured, Count::Auto).unwrap();
            let of = |threads| measured.iter().find(|one| one.threads.intra_op == threads).unwrap();
            let it = of(sizing.intra_op_threads);
            for other in &measured {
                let factor = MIN_GAIN.powi(4) + 1e-9;
                let is_better = other.rate_alone() > factor * it.rate_alone() && other.rate_busy() > factor * it.rate_busy();
                prop_assert!(!is_better, "{other:?} {it:?}");
            }
        }
    }
}
