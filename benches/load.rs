//! Leeway beside the floor program (`benches/floor.rs`), under the load generator oha, alternating in one run.
//!
//!     make bench-load
//!
//! Both run as programs of their own, on the same model and the same body. The order changes from round to round,
//! and a ratio is taken within a round, so that a machine whose speed drifts does not decide. `LEEWAY_BENCH_ROUNDS`
//! and `LEEWAY_BENCH_SECONDS` say how long it takes.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

const OHA: &str = "1.16.0";
const CONNECTIONS: [usize; 5] = [1, 2, 4, 16, 64];

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program that is measured, killed with the bench.
struct Program {
    name: &'static str,
    child: Child,
    address: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn leeway() -> Program {
        let mut child = Command::new(checkout().join("target/release/leeway"))
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .current_dir(checkout())
            .stderr(Stdio::piped())
            .spawn()
            .expect("target/release/leeway: run `make build` first");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let ready = |line: String| serde_json::from_str::<Value>(&line).ok()?["data"].as_str().map(str::to_owned);
        let address = lines.find_map(ready).expect("leeway did not start");
        Program { name: "leeway", child, address }
    }

    fn floor() -> Program {
        let library = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
        let mut child = Command::new(checkout().join("target/release/examples/floor"))
            .arg(checkout().join("models/digits/2/model.onnx"))
            .arg(checkout().join(".onnxruntime").join(library))
            .stdout(Stdio::piped())
            .spawn()
            .expect("target/release/examples/floor: run `make bench-load`, which builds it");
        let address = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        Program { name: "floor", child, address }
    }
}

/// What oha measured in one go.
#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    p50: f64,
    p99: f64,
}

/// Installs the load generator with cargo, once.
fn oha() -> PathBuf {
    let path = checkout().join(".bench/bin/oha");
    if !path.exists() {
        println!("installing oha {OHA} into .bench (once, some minutes) ...");
        let root = checkout().join(".bench");
        let installed = Command::new("cargo")
            .args(["install", "--quiet", "--locked", "oha", "--version", OHA, "--root"])
            .arg(root)
            .status()
            .unwrap();
        assert!(installed.success(), "oha could not be installed");
    }
    path
}

fn measure(oha: &Path, program: &Program, body: &Path, connections: usize, seconds: u64) -> Measured {
    let output = Command::new(oha)
        .args(["--no-tui", "--output-format", "json", "-m", "POST", "-T", "application/json"])
        .args(["-z", &format!("{seconds}s"), "-c", &connections.to_string(), "-D"])
        .arg(body)
        .arg(format!("http://{}/predict", program.address))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).expect("oha's report is not JSON");
    let statuses = report["statusCodeDistribution"].as_object().unwrap();
    assert!(statuses.keys().all(|status| status == "200"), "{}: {statuses:?}", program.name);
    Measured {
        per_second: report["summary"]["requestsPerSec"].as_f64().unwrap(),
        p50: report["latencyPercentiles"]["p50"].as_f64().unwrap() * 1e6,
        p99: report["latencyPercentiles"]["p99"].as_f64().unwrap() * 1e6,
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().expect(variable))
}

fn main() {
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let seconds = number_from("LEEWAY_BENCH_SECONDS", 3);
    let oha = oha();
    let held_out = std::fs::read_to_string(checkout().join("tests/data/digits_held_out.json")).unwrap();
    let held_out: Value = serde_json::from_str(&held_out).unwrap();
    let body = checkout().join(".bench/one_digit.json");
    std::fs::write(&body, json!({ "instances": [held_out["instances"][0]] }).to_string()).unwrap();

    let programs = [Program::floor(), Program::leeway()];
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
