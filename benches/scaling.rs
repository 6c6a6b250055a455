//! The cost of a request by the number of its features, and by the number of loaded models.
//!
//!     make bench-scaling
//!
//! 1. A logistic regression with 64 to 4,096 features: requests a second at one and at 16 connections, and the processor
//!    time of the server for a request.
//! 2. One small model beside 0 to 199 others that get no requests: the same, and memory and the size of `/metrics`.
//!
//! Each row is a server of its own, so that rows are compared with care: the machine's speed drifts. `LEEWAY_BENCH_SECONDS`
//! sets the duration of each measurement. The models are made by Python, with the packages of `make bench-peers`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leeway_testkit::{
    Load, OHA, PLAIN, Repository, Server, checkout, number_from, oha, python_of_peers, succeed, summarize, workshop,
};
use serde_json::json;

const FEATURES: [usize; 4] = [64, 256, 1024, 4096];
const MODELS: [usize; 4] = [1, 10, 50, 200];
const CONNECTIONS: [usize; 2] = [1, 16];

/// Results at one number of connections.
struct Measured {
    per_second: f64,
    p50_us: f64,
    /// Processor time of the server for a request, in microseconds.
    processor_us: f64,
}

fn measure(server: &Server, body: &Path, connections: usize, seconds: u64) -> Measured {
    let (url, load) = (server.url("/v1/models/it:predict"), Load::Closed(connections));
    summarize(&url, body, load, Duration::from_secs(1)).all_good();
    let before = server.processor_time();
    let summary = summarize(&url, body, load, Duration::from_secs(seconds)).all_good();
    let processor_us = (server.processor_time() - before).as_secs_f64() * 1e6 / summary.good() as f64;
    Measured { per_second: summary.per_second, p50_us: summary.p50 * 1e6, processor_us }
}

/// Measures a server at all numbers of connections, and prints the cells of a row.
fn row(server: &Server, body: &Path, seconds: u64) {
    for connections in CONNECTIONS {
        let Measured { per_second, p50_us, processor_us } = measure(server, body, connections, seconds);
        print!(" {per_second:.0} | {p50_us:.0} | {processor_us:.0} |");
    }
}

/// Returns a body with one instance of this many numbers.
fn body(features: usize) -> std::path::PathBuf {
    let body = workshop().join(format!("features-{features}.json"));
    let instance: Vec<f64> = (0..features).map(|at| (at % 97) as f64 / 97.0).collect();
    std::fs::write(&body, json!({ "instances": [instance] }).to_string()).unwrap();
    body
}

fn main() {
    let seconds = number_from("LEEWAY_BENCH_SECONDS", 4);
    oha();
    let cores = std::thread::available_parallelism().unwrap();
    println!("oha {OHA}, {cores} cores shared with it; {seconds} s each\n");
    let model_toml = PLAIN.replace("workers = 1\n", "");

    let linear = workshop().join("linear");
    if FEATURES.iter().any(|features| !linear.join(format!("linear_{features}.onnx")).exists()) {
        let mut make = Command::new(python_of_peers());
        make.arg(checkout().join("benches/python/peers/make_linear.py")).arg(&linear);
        succeed(make.args(FEATURES.map(|features| features.to_string())));
    }
    let cells = "1 connection: requests/s | P50, µs | processor, µs | 16: requests/s | P50, µs | processor, µs |";
    println!("| features | {cells}\n|---|---|---|---|---|---|---|");
    for features in FEATURES {
        let model = linear.join(format!("linear_{features}.onnx"));
        let repository = Repository::new().with_version("it", 1, &model, &[]).with_config("it", &model_toml);
        let server = Server::measured(repository.path(), &[]);
        print!("| {features} |");
        row(&server, &body(features), seconds);
        println!();
    }

    println!("\n| models | {cells} memory, MiB | /metrics, KiB |\n|---|---|---|---|---|---|---|---|---|");
    for models in MODELS {
        let mut repository = Repository::new().with("it", 1, "plus_1", &model_toml);
        for other in 1..models {
            repository = repository.with(&format!("other-{other}"), 1, "plus_2", &model_toml);
        }
        let server = Server::measured(repository.path(), &[]);
        print!("| {models} |");
        row(&server, &body(2), seconds);
        let metrics = ureq::get(server.url("/metrics")).call().unwrap().into_body().read_to_string().unwrap();
        println!(" {:.0} | {:.0} |", server.memory(), metrics.len() as f64 / 1024.0);
    }
}
