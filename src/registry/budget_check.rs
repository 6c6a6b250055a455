//! Comparison of the measured duration of a run with the latency budget of a request. Pure.

use std::time::Duration;

use crate::budget::{Enforce, LatencyBudget};
use crate::model::time_for_one_run;

/// Returns the problem if a run takes longer than the budget allows, and its remedy. `run` is the duration of a slow run
/// of as few rows as possible.
///
/// The budget allows a run as long as [`time_for_one_run`]: a request that arrives during a run needs time for the rest
/// of that run and for its own run, and the server adds a safety margin to the durations that it has learned. So the
/// queue and the run need about one and a half times the duration of a run.
///
/// ```
/// use std::time::Duration;
/// use leeway::budget::LatencyBudget;
/// use leeway::registry::budget_problem;
/// let ms = Duration::from_millis;
/// assert_eq!(budget_problem(&LatencyBudget::DEFAULT, ms(80), 1), None);
/// assert_eq!(
///     budget_problem(&LatencyBudget::DEFAULT, ms(330), 1).unwrap(),
///     "a run of one row takes 330 ms, and the budget leaves 145 ms for the queue and the run, so that requests are \
///      refused or too late; write in model.toml: [budget] total_ms = 700"
/// );
/// ```
pub fn budget_problem(budget: &LatencyBudget, run: Duration, fewest_rows: usize) -> Option<String> {
    let available = budget.queue_and_run();
    let total_ms = sufficient_total_ms(budget, run, Duration::ZERO)?;
    let needed = time_needed(run);
    let parts = match budget.enforce {
        Enforce::Total => format!("total_ms = {total_ms}"),
        Enforce::Stages => format!("total_ms = {total_ms} and inference_ms = {}", rounded_up(needed * 1e3)),
    };
    let rows = if fewest_rows == 1 { "one row".to_owned() } else { format!("{fewest_rows} rows") };
    let consequence = match run > available {
        true => ", so that requests are refused or too late",
        false => ": too little for a request that arrives during a run",
    };
    Some(format!(
        "a run of {rows} takes {:.0} ms, and the budget leaves {} ms for the queue and the run{consequence}; write in \
         model.toml: [budget] {parts}",
        run.as_secs_f64() * 1e3,
        available.as_millis()
    ))
}

/// Returns the total time of a request, in milliseconds, that suffices for a run of this duration, and for stages around it that
/// take `stages` together; `None` if the budget allows them already.
///
/// ```
/// use std::time::Duration;
/// use leeway::budget::LatencyBudget;
/// use leeway::registry::sufficient_total_ms;
/// let ms = Duration::from_millis;
/// assert_eq!(sufficient_total_ms(&LatencyBudget::DEFAULT, ms(80), ms(40)), None);
/// assert_eq!(sufficient_total_ms(&LatencyBudget::DEFAULT, ms(330), ms(40)), Some(700));
/// assert_eq!(sufficient_total_ms(&LatencyBudget::DEFAULT, ms(80), ms(300)), Some(700));
/// ```
pub fn sufficient_total_ms(budget: &LatencyBudget, run: Duration, stages: Duration) -> Option<u64> {
    let seconds = total_for_run(budget, run).into_iter().chain(total_for_slow_stages(budget, run, stages));
    seconds.reduce(f64::max).map(|seconds| rounded_up(seconds * 1e3))
}

/// Returns the total, in seconds, that suffices for a run; `None` if the budget allows it already.
fn total_for_run(budget: &LatencyBudget, run: Duration) -> Option<f64> {
    let available = budget.queue_and_run();
    if run <= time_for_one_run(available) {
        return None;
    }
    let more = time_needed(run) - available.as_secs_f64();
    // The smallest share of additional time that goes to the queue and the run: that of a budget without parts. Where
    // `model.toml` sets parts, the share is larger.
    let share = match budget.enforce {
        Enforce::Total => LatencyBudget::DEFAULT.queue_and_run(),
        Enforce::Stages => LatencyBudget::DEFAULT.inference,
    };
    let share = share.div_duration_f64(LatencyBudget::DEFAULT.total);
    Some(budget.total.as_secs_f64() + more / share)
}

/// Returns the total, in seconds, that suffices for stages that take longer than their parts; `None` if they do not, or if the
/// budget allows it already. The stages get the same margin as the run.
fn total_for_slow_stages(budget: &LatencyBudget, run: Duration, stages: Duration) -> Option<f64> {
    let share = LatencyBudget::DEFAULT.on_the_server().div_duration_f64(LatencyBudget::DEFAULT.total);
    let total = time_needed(run + stages) / share;
    let is_slow = stages > budget.preprocess + budget.postprocess;
    (is_slow && total > budget.total.as_secs_f64()).then_some(total)
}

/// Returns the time that the queue and a run of this duration need, in seconds.
fn time_needed(run: Duration) -> f64 {
    run.div_duration_f64(time_for_one_run(Duration::from_secs(1)))
}

/// Rounds up to a number with one digit, or with two of which the second is 5 or (below 2) even.
fn rounded_up(ms: f64) -> u64 {
    const STEPS: [f64; 14] = [1.0, 1.2, 1.4, 1.5, 1.6, 1.8, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let power = 10f64.powf(ms.max(1.0).log10().floor());
    // The product is rounded, because 1.2 has no exact value.
    let steps = STEPS.into_iter().chain([9.0, 10.0]).map(|step| (step * power).round());
    steps.into_iter().find(|step| *step >= ms).unwrap_or(ms.ceil()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn numbers_are_rounded_up_to_a_round_one() {
        for (ms, expected) in
            [(0.4, 1), (1.0, 1), (101.0, 120), (698.0, 700), (700.0, 700), (901.0, 1000), (12_001.0, 14_000)]
        {
            assert_eq!(rounded_up(ms), expected, "{ms}");
        }
    }

    /// The budget is as `model.toml` would read it with the suggested total: left-out parts keep their share.
    #[test]
    fn the_suggested_total_is_enough() {
        for run in [110, 150, 330, 1_000, 9_999] {
            let problem = budget_problem(&LatencyBudget::DEFAULT, ms(run), 1).unwrap();
            let total: u64 = problem.rsplit_once("total_ms = ").unwrap().1.parse().unwrap();
            let scale = total as f64 / 200.0;
            let part = |part: Duration| part.mul_f64(scale);
            let LatencyBudget { network, preprocess, inference, postprocess, enforce, .. } = LatencyBudget::DEFAULT;
            let budget = LatencyBudget {
                total: ms(total),
                network: part(network),
                preprocess: part(preprocess),
                inference: part(inference),
                postprocess: part(postprocess),
                enforce,
            };
            assert_eq!(budget_problem(&budget, ms(run), 1), None, "{problem}");
        }
    }

    #[test]
    fn a_budget_that_ends_stages_needs_a_larger_part_for_inference() {
        let budget = LatencyBudget { enforce: Enforce::Stages, ..LatencyBudget::DEFAULT };
        assert_eq!(
            budget_problem(&budget, ms(330), 4).unwrap(),
            "a run of 4 rows takes 330 ms, and the budget leaves 100 ms for the queue and the run, so that requests are \
             refused or too late; write in model.toml: [budget] total_ms = 1200 and inference_ms = 600"
        );
    }
}
