//! Leeway beside the floor program (`benches/floor.rs`), under the load generator oha, alternating in one run.
//!
//!     make bench-load
//!
//! Both run as programs of their own, on the same model and the same body. The order changes from round to round,
//! and a ratio is taken within a round, so that a machine whose speed drifts does not decide. `LEEWAY_BENCH_ROUNDS`
//! and `LEEWAY_BENCH_SECONDS` say how long it takes.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench")]

#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod load_generator;
#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod programs;

use std::path::Path;
use std::time::Duration;

use load_generator::{Load, OHA, oha, summarize};
use programs::{Program, checkout, median, number_from, workshop};
use serde_json::{Value, json};

const CONNECTIONS: [usize; 5] = [1, 2, 4, 16, 64];

/// What oha measured in one go; times in microseconds.
#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    p50: f64,
    p99: f64,
}

fn measure(program: &Program, body: &Path, connections: usize, time: Duration) -> Measured {
    let summary = summarize(&program.url("/predict"), body, Load::Closed(connections), time).all_good();
    Measured { per_second: summary.per_second, p50: summary.p50 * 1e6, p99: summary.p99 * 1e6 }
}

fn main() {
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let seconds = number_from("LEEWAY_BENCH_SECONDS", 3);
    oha();
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
            measure(program, &body, connections, Duration::from_secs(1));
        }
        let mut measured = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for turn in 0..2 {
                let which = (round + turn) % 2;
                measured[which].push(measure(&programs[which], &body, connections, Duration::from_secs(seconds)));
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
