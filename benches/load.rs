//! Leeway beside the floor program (`benches/floor.rs`), under the load generator oha, alternating in one run.
//!
//!     make bench-load
//!
//! Both run as programs of their own, on the same model and the same body. The order changes from round to round,
//! and a ratio is taken within a round, so that a machine whose speed drifts does not decide. `LEEWAY_BENCH_ROUNDS`
//! and `LEEWAY_BENCH_SECONDS` say how long it takes.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench")]

#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod programs;

use std::path::Path;
use std::process::Command;

use programs::{OHA, Program, checkout, median, number_from, oha, workshop};
use serde_json::{Value, json};

const CONNECTIONS: [usize; 5] = [1, 2, 4, 16, 64];

/// What oha measured in one go.
#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    p50: f64,
    p99: f64,
}

fn measure(oha: &Path, program: &Program, body: &Path, connections: usize, seconds: u64) -> Measured {
    let output = Command::new(oha)
        .args(["--no-tui", "--output-format", "json", "-m", "POST", "-T", "application/json"])
        .args(["-z", &format!("{seconds}s"), "-c", &connections.to_string(), "-D"])
        .arg(body)
        .arg(program.url("/predict"))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).expect("oha's report is not JSON");
    let statuses = report["statusCodeDistribution"].as_object().unwrap();
    assert!(statuses.keys().all(|status| status == "200"), "{}: {statuses:?}", program.address);
    Measured {
        per_second: report["summary"]["requestsPerSec"].as_f64().unwrap(),
        p50: report["latencyPercentiles"]["p50"].as_f64().unwrap() * 1e6,
        p99: report["latencyPercentiles"]["p99"].as_f64().unwrap() * 1e6,
    }
}

fn main() {
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let seconds = number_from("LEEWAY_BENCH_SECONDS", 3);
    let oha = oha();
    let held_out = std::fs::read_to_string(checkout().join("tests/data/digits_held_out.json")).unwrap();
    let held_out: Value = serde_json::from_str(&held_out).unwrap();
    let body = workshop().join("one_digit.json");
    std::fs::write(&body, json!({ "instances": [held_out["instances"][0]] }).to_string()).unwrap();

    let programs = [
        Program::floor(&checkout().join("models/digits/2/model.onnx")),
        Program::leeway_with(&checkout().join("models"), &[("LEEWAY_REPOSITORY__DEFAULT_MODEL", "digits")]),
    ];
    let cores = std::thread::available_parallelism().unwrap();
    println!("one digit a request, model digits version 2 (64-64-10 MLP), {cores} cores shared with oha {OHA}");
    println!("{rounds} rounds of {seconds} s each, alternating; medians, and the ratio of requests/s within a round\n");
    println!(
        "{:>5} | {:>12} {:>8} {:>8} | {:>12} {:>8} {:>8} | leeway / floor",
        "conns", "floor req/s", "P50 µs", "P99 µs", "leeway req/s", "P50 µs", "P99 µs"
    );
    for connections in CONNECTIONS {
        for program in &programs {
            measure(&oha, program, &body, connections, 1);
        }
        let mut measured = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for turn in 0..2 {
                let which = (round + turn) % 2;
                measured[which].push(measure(&oha, &programs[which], &body, connections, seconds));
            }
        }
        let [floor, leeway] = &measured;
        let column = |of: &[Measured], field: fn(&Measured) -> f64| median(of.iter().map(field));
        let ratios: Vec<f64> =
            floor.iter().zip(leeway).map(|(floor, leeway)| leeway.per_second / floor.per_second).collect();
        let (least, most) =
            (ratios.iter().copied().fold(f64::MAX, f64::min), ratios.iter().copied().fold(0.0, f64::max));
        println!(
            "{connections:>5} | {:>12.0} {:>8.0} {:>8.0} | {:>12.0} {:>8.0} {:>8.0} | {:.2} ({least:.2} to {most:.2})",
            column(floor, |m| m.per_second),
            column(floor, |m| m.p50),
            column(floor, |m| m.p99),
            column(leeway, |m| m.per_second),
            column(leeway, |m| m.p50),
            column(leeway, |m| m.p99),
            median(ratios.iter().copied()),
        );
    }
}
