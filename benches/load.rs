//! Leeway compared with the floor program (`benches/floor.rs`), under the load generator oha, alternating in one run.
//!
//!     make bench-load
//!
//! Both run as separate processes, with the same model and the same body. The order changes from round to round, and
//! ratios are taken within a round, so that a drift of the machine's speed favours neither. `LEEWAY_BENCH_ROUNDS` and
//! `LEEWAY_BENCH_SECONDS` set the duration.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::path::Path;
use std::time::Duration;

use leeway_testkit::{
    Floor, Load, OHA, Server, Spread, checkout, held_out, in_turn, median, number_from, oha, shipped, summarize,
    workshop,
};
use serde_json::json;

const CONNECTIONS: [usize; 5] = [1, 2, 4, 16, 64];

/// Results of one run of oha; times in microseconds.
#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    p50: f64,
    p99: f64,
}

fn measure(url: &str, body: &Path, connections: usize, time: Duration) -> Measured {
    let summary = summarize(url, body, Load::Closed(connections), time).all_good();
    Measured { per_second: summary.per_second, p50: summary.p50 * 1e6, p99: summary.p99 * 1e6 }
}

fn main() {
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let seconds = number_from("LEEWAY_BENCH_SECONDS", 3);
    oha();
    let body = workshop().join("one_digit.json");
    std::fs::write(&body, json!({ "instances": [held_out("digits")["instances"][0]] }).to_string()).unwrap();

    let floor = Floor::start(&shipped("digits", 2).join("model.onnx"));
    let leeway = Server::measured(&checkout().join("models"), &[("LEEWAY_REPOSITORY__DEFAULT_MODEL", "digits")]);
    let cores = std::thread::available_parallelism().unwrap();
    println!("one digit a request, model digits version 2 (64-64-10 MLP), {cores} cores shared with oha {OHA}");
    println!("{rounds} rounds of {seconds} s each, alternating; medians, and the ratio of requests/s within a round\n");
    println!(
        "{:>5} | {:>12} {:>8} {:>8} | {:>12} {:>8} {:>8} | leeway / floor",
        "conns", "floor req/s", "P50 µs", "P99 µs", "leeway req/s", "P50 µs", "P99 µs"
    );
    for connections in CONNECTIONS {
        let measure = |url: &str, seconds| measure(url, &body, connections, Duration::from_secs(seconds));
        let of_floor = |seconds| measure(&floor.url("/predict"), seconds);
        let of_leeway = |seconds| measure(&leeway.url("/predict"), seconds);
        in_turn(1, || of_floor(1), || of_leeway(1));
        let measured = in_turn(rounds, || of_floor(seconds), || of_leeway(seconds));
        let of_floor = |field: fn(&Measured) -> f64| median(measured.iter().map(|(floor, _)| field(floor)));
        let of_leeway = |field: fn(&Measured) -> f64| median(measured.iter().map(|(_, leeway)| field(leeway)));
        println!(
            "{connections:>5} | {:>12.0} {:>8.0} {:>8.0} | {:>12.0} {:>8.0} {:>8.0} | {}",
            of_floor(|m| m.per_second),
            of_floor(|m| m.p50),
            of_floor(|m| m.p99),
            of_leeway(|m| m.per_second),
            of_leeway(|m| m.p50),
            of_leeway(|m| m.p99),
            Spread::of(measured.iter().map(|(floor, leeway)| leeway.per_second / floor.per_second)),
        );
    }
}
