//! False rollbacks, and the time until a worse version is rolled back, of simulated rollouts.
//!
//!     make bench-guardrails
//!
//! The events of two versions are simulated second by second, and judged by the server's own functions; beside them, a rule
//! with a fixed threshold, and a z-test that is repeated every second. `LEEWAY_BENCH_RUNS` sets the number of rollouts in
//! each row (default: 1000). All random numbers have fixed seeds.

#![expect(clippy::print_stdout, reason = "a bench")]

use leeway_testkit::{Rule, Scenario, median, number_from, rolled_back_at};

const RULES: [Rule; 3] = [Rule::Evidence, Rule::OnePercent, Rule::RepeatedTest];

/// Seconds of a rollout of a version that is not worse.
const HOUR: u32 = 3_600;

/// Steps of a rollout.
const RAMP: &[f64] = &[0.01, 0.05, 0.25, 0.5];

fn main() {
    let runs = number_from("LEEWAY_BENCH_RUNS", 1_000);
    println!(
        "Rolled back by mistake within {HOUR} looks, of {runs} rollouts of a version that is not worse (the bound is 1%)\n"
    );
    println!("| rate | share | | Leeway | above 1% in a minute | repeated z-test |\n|---|---|---|---|---|---|");
    let equal =
        |rate, shares, growth, cluster| Scenario { rates: (rate, rate), requests: 200.0, shares, growth, cluster };
    for rate in [0.001, 0.01, 0.1, 0.3] {
        for shares in [&[0.01][..], &[0.05], &[0.5]] {
            false_rollbacks(&equal(rate, shares, 1.0, 1), "", runs);
        }
    }
    false_rollbacks(&equal(0.01, RAMP, 1.0, 1), "1%, 5%, 25%, 50%", runs);
    false_rollbacks(&equal(0.01, RAMP, 5.0, 1), "1%, 5%, 25%, 50%, and a rate that grows to 5 times", runs);
    for cluster in [3, 10] {
        for shares in [&[0.05][..], &[0.5], RAMP] {
            false_rollbacks(
                &equal(0.01, shares, 1.0, cluster),
                &format!("users with {cluster} requests at once"),
                runs,
            );
        }
    }

    let runs = runs.div_ceil(5);
    println!(
        "\nSeconds until a worse version is rolled back, at 1,000 requests/s and a share of 5%: median of {runs} rollouts\n"
    );
    println!("| rates | | Leeway | above 1% in a minute | repeated z-test |\n|---|---|---|---|---|");
    for (worse, cluster) in [(0.008, 1), (0.01, 1), (0.02, 1), (0.05, 1), (1.0, 1), (0.01, 5)] {
        let about = if cluster == 1 { String::new() } else { format!("users with {cluster} requests at once") };
        let scenario = Scenario { rates: (0.005, worse), requests: 1_000.0, shares: &[0.05], growth: 1.0, cluster };
        let cells = RULES.map(|rule| detected(rule, &scenario, runs));
        println!("| 0.5% → {}% | {about} | {} |", worse * 100.0, cells.join(" | "));
    }
}

fn false_rollbacks(scenario: &Scenario, about: &str, runs: u64) {
    let share = |rule| {
        let found = all(runs, |seed| rolled_back_at(rule, scenario, HOUR, seed)).into_iter().flatten().count();
        format!("{:.1}%", found as f64 / runs as f64 * 100.0)
    };
    let shares: Vec<String> = scenario.shares.iter().map(|share| format!("{}%", share * 100.0)).collect();
    let shares = if shares.len() == 1 { shares[0].clone() } else { "rising".to_owned() };
    println!("| {}% | {shares} | {about} | {} |", scenario.rates.0 * 100.0, RULES.map(share).join(" | "));
}

/// Returns the median of the seconds, and the share of the rollouts that were not rolled back, if there are any.
fn detected(rule: Rule, scenario: &Scenario, runs: u64) -> String {
    let found: Vec<Option<u32>> = all(runs, |seed| rolled_back_at(rule, scenario, 1_800, seed));
    let missed = found.iter().filter(|found| found.is_none()).count();
    let seconds: Vec<f64> = found.into_iter().flatten().map(f64::from).collect();
    match (seconds.is_empty(), missed) {
        (true, _) => "never".to_owned(),
        (false, 0) => format!("{:.0}", median(seconds)),
        (false, missed) => format!("{:.0} (not in {:.0}%)", median(seconds), missed as f64 / runs as f64 * 100.0),
    }
}

/// Runs rollouts with different seeds on all cores.
fn all<T: Send>(runs: u64, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let run = &run;
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || (thread..runs).step_by(threads as usize).map(run).collect::<Vec<T>>()))
            .collect();
        started.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}
