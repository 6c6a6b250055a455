//! Admission control: admits a request only if it can still be in time. Pure: no clock, no lock, no I/O.
//!
//! A request is admitted if its own run, after all runs that precede it, is predicted to end in time:
//!
//! ```text
//! residual + (⌊q / B⌋ + 1) · S(B) · 1.15 ≤ left
//! ```
//!
//! where `q` is the number of waiting rows that go before the request, `B` the number of rows of a full batch, `S(B)`
//! the learned [`ServiceTime`] of a full batch, `residual` the remaining time of the current run, and `left` the time
//! until the request's own run has to end. After Clockwork (Gujarati et al., OSDI 2020): the service times of neural
//! networks are predictable enough to base admission on them. Every batch is assumed to be *full*, including the
//! request's own, because it will be full by the time it is formed. An estimate from the rows that wait now would admit
//! requests that finish just too late, and goodput would collapse.

use std::time::{Duration, Instant};

use super::service_time::ServiceTime;

/// Safety factor by which predicted durations of runs are multiplied.
pub(super) const MARGIN: f64 = 1.15;

/// Maximum share that one run may take of the time for queue and run. A request that arrives during a run needs time
/// for the rest of that run and for its own run.
const MAX_RUN: f64 = 0.75;

/// Priority of a request, chosen by its caller. The lowest priority is refused first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// For requests that can wait.
    Low,
    /// The default.
    #[default]
    Normal,
    /// For requests that should go before others.
    High,
}

/// Load of a queue and its workers at the arrival of a request.
#[derive(Debug, Clone, Copy)]
pub struct Backlog<'a> {
    /// Waiting rows that go before the request.
    pub rows_ahead: usize,
    /// Remaining time of each worker's run, in ascending order; zero for a free worker.
    pub residuals: &'a [Duration],
}

/// Decision to admit or to shed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The request can be in time: its run is predicted to end after this time; `None` if no service time was learned
    /// yet.
    Admit(Option<Duration>),
    /// The request would be late: its run would end after this time.
    Shed(Duration),
}

impl Priority {
    /// All priorities, from the highest to the lowest.
    pub const ALL: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

    /// Returns the name of the priority in the `X-Priority` header.
    pub fn name(self) -> &'static str {
        match self {
            Priority::High => "high",
            Priority::Normal => "normal",
            Priority::Low => "low",
        }
    }
}

/// Checks if a request of `rows` rows can be run within `left`; `full_batch` is the maximum number of rows of one run.
///
/// ```
/// use std::time::Duration;
/// use leeway::model::{Admission, Backlog, ServiceTime, admit};
/// let ms = Duration::from_millis;
/// let mut service = ServiceTime::default();
/// for _ in 0..3 {
///     service.observe(1, Duration::from_micros(2_250));
///     service.observe(32, ms(10));
/// }
/// // The current run takes 4 ms more, then 40 rows wait: two runs to go, each 11.5 ms with its margin.
/// let backlog = Backlog { rows_ahead: 40, residuals: &[ms(4)] };
/// assert_eq!(admit(backlog, 32, &service, 1, ms(28)), Admission::Admit(Some(ms(27))));
/// assert_eq!(admit(backlog, 32, &service, 1, ms(26)), Admission::Shed(ms(27)));
/// ```
pub fn admit(backlog: Backlog<'_>, full_batch: usize, service: &ServiceTime, rows: usize, left: Duration) -> Admission {
    let is_idle = backlog.rows_ahead == 0 && backlog.residuals.first().is_none_or(Duration::is_zero);
    let needed = if is_idle { alone(full_batch, service, rows) } else { behind(backlog, full_batch, service, rows) };
    match needed {
        Some(needed) if needed > left => Admission::Shed(needed),
        needed => Admission::Admit(needed),
    }
}

/// Time needed for a request if other requests go first: the duration of full batches, with a margin.
fn behind(backlog: Backlog<'_>, full_batch: usize, service: &ServiceTime, rows: usize) -> Option<Duration> {
    // Workers take batches in turn, beginning with the worker that becomes free first.
    let last_batch = (backlog.rows_ahead + rows.saturating_sub(1)) / full_batch;
    let workers = backlog.residuals.len().max(1);
    let residual = backlog.residuals.get(last_batch % workers).copied().unwrap_or_default();
    let batches = u32::try_from(last_batch / workers + 1).unwrap_or(u32::MAX);
    let run = service.tail(full_batch)?.mul_f64(MARGIN);
    Some(residual.saturating_add(run.saturating_mul(batches)))
}

/// Time needed for a request if a worker is free and no request goes first: the duration for its own rows, without a
/// margin, because a late run does not harm other requests.
fn alone(full_batch: usize, service: &ServiceTime, rows: usize) -> Option<Duration> {
    let full = u32::try_from(rows.saturating_sub(1) / full_batch).unwrap_or(u32::MAX);
    let rest = rows - full as usize * full_batch;
    let full_runs = service.typical(full_batch)?.saturating_mul(full);
    Some(full_runs.saturating_add(service.typical(rest)?))
}

/// Returns the duration of the longest run that leaves enough of the time for queue and run to a request that arrives
/// during the run: three quarters of the time, less the safety margin.
///
/// ```
/// use std::time::Duration;
/// use leeway::model::time_for_one_run;
/// assert_eq!(time_for_one_run(Duration::from_millis(100)).as_millis(), 65);
/// ```
pub fn time_for_one_run(queue_and_run: Duration) -> Duration {
    queue_and_run.mul_f64(MAX_RUN / MARGIN)
}

/// Number of rows of a full batch: at most `most`, and few enough that a run, with its margin, takes at most three
/// quarters of the time for queue and run. The rest is left for a request that arrives during the run.
///
/// ```
/// use std::time::Duration;
/// use leeway::model::{ServiceTime, full_batch};
/// let mut service = ServiceTime::default();
/// assert_eq!(full_batch(32, &service, Duration::from_millis(100)), 32);
/// service.observe(1, Duration::from_millis(10));
/// // 100 ms · 0.75 / 1.15 is enough time for six such rows.
/// assert_eq!(full_batch(32, &service, Duration::from_millis(100)), 6);
/// ```
pub fn full_batch(most: usize, service: &ServiceTime, queue_and_run: Duration) -> usize {
    match service.tail_line() {
        Some(line) => line.rows_within(time_for_one_run(queue_and_run)).clamp(1, most.max(1)),
        None => most.max(1),
    }
}

/// Returns the expected remaining time of a run that has gone on for `elapsed`. A run that is overdue by some time is
/// expected to take as much time again.
///
/// ```
/// use std::time::Duration;
/// use leeway::model::residual;
/// let ms = Duration::from_millis;
/// assert_eq!(residual(ms(10), ms(4)), ms(6));
/// assert_eq!(residual(ms(10), ms(500)), ms(490));
/// ```
pub fn residual(expected: Duration, elapsed: Duration) -> Duration {
    expected.abs_diff(elapsed)
}

/// Returns the turn of a request that arrives at `now`; the earliest turn goes first. A request overtakes requests of
/// the next lower priority, unless they arrived more than `overtaking` earlier. So no request waits forever.
///
/// ```
/// use std::time::{Duration, Instant};
/// use leeway::model::{Priority, turn};
/// let (now, ms) = (Instant::now() + Duration::from_secs(1), Duration::from_millis);
/// let turn = |priority, after| turn(priority, now + ms(after), ms(50));
/// assert!(turn(Priority::High, 40) < turn(Priority::Normal, 0));
/// assert!(turn(Priority::Normal, 0) < turn(Priority::High, 60));
/// assert!(turn(Priority::Normal, 40) < turn(Priority::Low, 0));
/// ```
pub fn turn(priority: Priority, now: Instant, overtaking: Duration) -> Instant {
    match priority {
        Priority::High => now.checked_sub(overtaking).unwrap_or(now),
        Priority::Normal => now,
        Priority::Low => now + overtaking,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service(a_us: u64, b_us: u64) -> ServiceTime {
        let mut service = ServiceTime::default();
        for rows in [1, 1, 1, 8, 8, 8, 64, 64, 64] {
            service.observe(rows, Duration::from_micros(a_us * rows as u64 + b_us));
        }
        service
    }

    fn needed(admission: Admission) -> Duration {
        match admission {
            Admission::Admit(needed) => needed.unwrap(),
            Admission::Shed(needed) => needed,
        }
    }

    #[test]
    fn what_nothing_is_known_of_is_admitted() {
        let backlog = Backlog { rows_ahead: 1000, residuals: &[Duration::from_secs(1)] };
        assert_eq!(admit(backlog, 32, &ServiceTime::default(), 1, Duration::ZERO), Admission::Admit(None));
    }

    #[test]
    fn more_workers_take_batches_in_turn() {
        let ms = Duration::from_millis;
        let service = service(0, 10_000);
        // Batches 0 and 1 go to the workers as they become free, batch 2 to the first again.
        for (rows_ahead, expected) in [(0, 4.0 + 11.5), (32, 7.0 + 11.5), (64, 4.0 + 23.0)] {
            let backlog = Backlog { rows_ahead, residuals: &[ms(4), ms(7)] };
            let found = needed(admit(backlog, 32, &service, 1, ms(100))).as_secs_f64() * 1e3;
            assert!((found - expected).abs() < 0.01, "{found} is not {expected}");
        }
    }

    proptest! {
        #[test]
        fn a_longer_queue_never_helps(
            a in 1u64..500, b in 1u64..5_000, ahead in 1usize..5_000, more in 0usize..500, rows in 1usize..200,
            residual_us in 0u64..50_000, batch in 1usize..128,
        ) {
            let (service, residuals) = (service(a, b), [Duration::from_micros(residual_us)]);
            let needs = |rows_ahead, rows| {
                needed(admit(Backlog { rows_ahead, residuals: &residuals }, batch, &service, rows, Duration::ZERO))
            };
            prop_assert!(needs(ahead, rows) <= needs(ahead + more, rows));
            prop_assert!(needs(ahead, rows) <= needs(ahead, rows + more));
            // For one row, the result is that of the formula in the header of this module.
            let formula = residuals[0] + service.tail(batch).unwrap().mul_f64(MARGIN) * (ahead / batch + 1) as u32;
            prop_assert!(needs(ahead, 1) == formula);
        }

        #[test]
        fn whoever_has_more_time_is_not_refused_before_others(
            ahead in 0usize..500, residual_us in 0u64..50_000, left_us in 0u64..100_000, more_us in 0u64..100_000,
        ) {
            let (service, residuals) = (service(250, 2_000), [Duration::from_micros(residual_us)]);
            let backlog = Backlog { rows_ahead: ahead, residuals: &residuals };
            let decide = |left_us| admit(backlog, 32, &service, 1, Duration::from_micros(left_us));
            if matches!(decide(left_us), Admission::Admit(_)) {
                prop_assert!(matches!(decide(left_us + more_us), Admission::Admit(_)));
            }
        }

        #[test]
        fn nobody_is_overtaken_for_ever(
            overtaking_ms in 0u64..1_000, later_ms in 0u64..5_000, own in 0usize..3, other in 0usize..3,
        ) {
            let (own, other) = (Priority::ALL[own], Priority::ALL[other]);
            let (overtaking, later) = (Duration::from_millis(overtaking_ms), Duration::from_millis(later_ms));
            let now = Instant::now() + Duration::from_secs(10);
            let (mine, theirs) = (turn(own, now, overtaking), turn(other, now + later, overtaking));
            // The highest priority overtakes requests of the lowest that arrived up to `2 * overtaking` earlier, but no
            // older ones.
            prop_assert!(later <= 2 * overtaking || mine < theirs);
            // Within a priority, and against a lower one, the earlier request goes first.
            prop_assert!(other > own || mine <= theirs);
        }

        #[test]
        fn a_full_batch_can_be_run_in_time(a in 1u64..500, b in 1u64..5_000, most in 1usize..128, time_us in 1u64..200_000) {
            let (service, time) = (service(a, b), Duration::from_micros(time_us));
            let full = full_batch(most, &service, time);
            prop_assert!((1..=most).contains(&full));
            prop_assert!(full == 1 || service.tail(full).unwrap() <= time.mul_f64(MAX_RUN / MARGIN) + Duration::from_micros(1));
        }
    }
}
