//! Rehearsals: before a version serves, its preprocessor runs on generated instances that take especially long, from
//! small ones to the largest that it accepts. The version is refused if an instance takes too much memory, or longer
//! than a request may.
//!
//! A stage that has started holds a thread until it checks its deadline. So the instances grow step by step, and no run
//! takes much longer than the limit.

use std::time::Duration;

use crate::budget::{Deadline, LatencyBudget};
use crate::error::{Error, LoadFault};
use crate::model::Stopwatch;
use crate::pipeline::{Preprocessor, Rehearsal};
use crate::repository::Refusal;

/// Size of the first instance of a rehearsal.
const FIRST_SIZE: usize = 16;

/// Processor time that a preprocessor may always take for an instance, because it does not hold a thread for long. A
/// short budget may be meant for short texts, or for a faster machine. The tokenizer of BERT takes 0.1 s for the
/// default maximum of characters.
const NEVER_TOO_LONG: Duration = Duration::from_millis(500);

/// Deadline of a preprocessor's run, in multiples of its limit of processor time. The deadline is in wall time, which
/// includes the time of other processes.
const ENDED_AT: u32 = 20;

/// Returns the maximum processor time of a preprocessor for one instance.
fn limit(budget: &LatencyBudget) -> Duration {
    budget.on_the_server().max(NEVER_TOO_LONG)
}

/// Runs all rehearsals of a preprocessor.
pub(super) fn rehearse(preprocessor: &dyn Preprocessor, budget: &LatencyBudget) -> Result<(), Refusal> {
    let limit = limit(budget);
    preprocessor.rehearsals().iter().try_for_each(|rehearsal| run(rehearsal, limit))
}

fn run(rehearsal: &Rehearsal<'_>, limit: Duration) -> Result<(), Refusal> {
    let Rehearsal { instance, largest, unit, setting, run } = rehearsal;
    let refused = |problem: String| Err(Refusal::new(LoadFault::Trial, problem));
    let mut size = FIRST_SIZE.min(*largest);
    loop {
        let stopwatch = Stopwatch::ProcessorTime.start();
        let done = run(size, Deadline::from_now(limit * ENDED_AT));
        let took = stopwatch();
        if took > limit {
            let (took, limit) = (took.as_millis(), limit.as_millis());
            return refused(format!(
                "the preprocessor takes {took} ms for {size} {unit} ({instance}), but a request has {limit} ms; {largest} \
                 are allowed: lower {setting}, or raise budget.total_ms"
            ));
        }
        match done {
            Ok(()) => {}
            // Accepted: the deadline passed only because the machine was busy with other work.
            Err(Error::Expired { .. }) => return Ok(()),
            Err(error) => {
                return refused(format!(
                    "the preprocessor refuses {size} {unit} ({instance}), although {largest} are allowed ({setting}): \
                     {error}"
                ));
            }
        }
        if size >= *largest {
            return Ok(());
        }
        size = next_size(size, took, limit).min(*largest);
    }
}

/// Returns the size of the next instance, from the size of the last one and the time that it took. Even if the time
/// grows with the third power of the size, the next run does not take much longer than the limit.
fn next_size(size: usize, took: Duration, limit: Duration) -> usize {
    if took.saturating_mul(8 * 8 * 8) <= limit { size.saturating_mul(8) } else { size.saturating_mul(2) }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn rehearsal<'a>(largest: usize, run: impl Fn(usize, Deadline) -> crate::error::Result<()> + 'a) -> Rehearsal<'a> {
        Rehearsal {
            instance: "letters".to_owned(),
            largest,
            unit: "characters",
            setting: "preprocess.max_characters",
            run: Box::new(run),
        }
    }

    #[test]
    fn instances_grow_to_the_largest() {
        for (largest, expected) in
            [(5, &[5][..]), (16, &[16]), (100, &[16, 100]), (65_536, &[16, 128, 1024, 8192, 65_536])]
        {
            let seen = Mutex::new(Vec::new());
            let note = |size, _| {
                seen.lock().push(size);
                Ok(())
            };
            assert_eq!(run(&rehearsal(largest, note), LIMIT), Ok(()));
            assert_eq!(*seen.lock(), expected);
        }
        assert_eq!(next_size(16, Duration::from_millis(1), LIMIT), 128);
        assert_eq!(next_size(16, Duration::from_millis(100), LIMIT), 32);
    }

    #[test]
    fn what_fails_or_takes_too_long_is_refused_with_what_to_change() {
        let fails = |size, _| match size {
            ..=1000 => Ok(()),
            _ => Err(Error::InvalidInput("it makes too much of it".to_owned())),
        };
        let refused = run(&rehearsal(65_536, fails), LIMIT).unwrap_err();
        assert_eq!(
            refused.message,
            "the preprocessor refuses 1024 characters (letters), although 65536 are allowed \
             (preprocess.max_characters): it makes too much of it"
        );
        let spins = |_, deadline: Deadline| {
            loop {
                deadline.check()?;
            }
        };
        let refused = run(&rehearsal(65_536, spins), Duration::ZERO).unwrap_err();
        assert!(
            refused.message.contains("ms for 16 characters (letters), but a request has 0 ms"),
            "{}",
            refused.message
        );
        assert!(refused.message.ends_with("lower preprocess.max_characters, or raise budget.total_ms"));
    }

    #[test]
    fn a_short_budget_refuses_nothing_that_is_short() {
        let budget = LatencyBudget { total: Duration::from_millis(20), ..LatencyBudget::DEFAULT };
        assert_eq!(limit(&budget), NEVER_TOO_LONG);
    }
}
