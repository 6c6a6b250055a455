//! What Leeway takes beside the bare ONNX Runtime with the same model: the time until it is ready, and memory.
//!
//!     make bench-footprint
//!
//! The bare runtime is `benches/bare_loop.rs`: it loads the library and the model and runs it. `LEEWAY_BENCH_ROUNDS` and
//! `LEEWAY_BENCH_SECONDS` say how long it takes. Linux only: memory is read from `/proc`.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench")]

#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod load_generator;
#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod programs;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use load_generator::{Load, OHA, oha, summarize};
use programs::{Program, checkout, example, median, number_from, onnxruntime, workshop};

/// A model to be served, and what is asked of it.
struct Model {
    name: &'static str,
    file: PathBuf,
    width: usize,
    model_toml: String,
}

fn main() {
    oha();
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let time = Duration::from_secs(number_from("LEEWAY_BENCH_SECONDS", 3));
    println!(
        "{} cores, shared with oha {OHA}; medians of {rounds} rounds\n",
        std::thread::available_parallelism().unwrap()
    );
    let stages = "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"tensor\"\n\
        [model]\nworkers = 1\nintra_op_threads = 1\n";
    let test_model = |name: &str| checkout().join(format!("tests/data/models/{name}.onnx"));
    let models = [
        Model {
            name: "digits",
            file: checkout().join("models/digits/2/model.onnx"),
            width: 64,
            model_toml: stages.to_owned(),
        },
        Model { name: "dense_deep", file: test_model("dense_deep"), width: 8, model_toml: stages.to_owned() },
    ];
    println!(
        "{:>10} | {:>9} {:>9} {:>9} | {:>8} {:>11} {:>11} {:>11}",
        "", "bare", "ready", "no trial", "bare", "at start", "after load", "more"
    );
    for model in &models {
        let repository = repository(model);
        let mut rows = Vec::new();
        for _ in 0..rounds {
            rows.push(measure(model, &repository, time));
        }
        let column = |of: fn(&Measured) -> f64| median(rows.iter().map(of));
        println!(
            "{:>10} | {:>6.0} ms {:>6.0} ms {:>6.0} ms | {:>4.1} MiB {:>7.1} MiB {:>7.1} MiB {:>7.1} MiB",
            model.name,
            column(|m| m.bare_start),
            column(|m| m.ready),
            column(|m| m.ready_untried),
            column(|m| m.bare_memory),
            column(|m| m.memory_at_start),
            column(|m| m.memory_under_load),
            column(|m| m.memory_under_load - m.bare_memory),
        );
    }
    println!(
        "\nbare: until the process that loads the model and runs it once has ended, and its memory after {time:?} of runs"
    );
    println!("ready: from the start of `leeway serve` until /readyz answers 200; no trial: with loading.trial = false");
    println!("after load: when {time:?} of 64 connections are over");

    let settings = [("LEEWAY_REPOSITORY__DEFAULT_MODEL", "digits")];
    let server = Program::leeway_with(&checkout().join("models"), &settings).ready();
    let alone = server.resident();
    println!("\nThe shipped models, 4 versions with baselines: {:.1} MiB at the start", mebibytes(alone));
    let idle = idle_connections(&server);
    let each = (server.resident() - alone) as f64 / idle.len() as f64 / 1024.0;
    println!("{} connections that have asked once and stay open: {each:.1} KiB each", idle.len());
}

/// Opens connections, asks for a prediction on each, and keeps them.
fn idle_connections(server: &Program) -> Vec<TcpStream> {
    let body = serde_json::json!({ "instances": [vec![0.5; 64]] }).to_string();
    let head = format!("POST /predict HTTP/1.1\r\nhost: leeway\r\ncontent-length: {}\r\n\r\n", body.len());
    let connect = |_| {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
        stream
    };
    (0..1_000).map(connect).collect()
}

/// In milliseconds and mebibytes.
struct Measured {
    bare_start: f64,
    ready: f64,
    ready_untried: f64,
    bare_memory: f64,
    memory_at_start: f64,
    memory_under_load: f64,
}

fn measure(model: &Model, repository: &Path, time: Duration) -> Measured {
    let begin = Instant::now();
    bare(model, 0.0);
    let bare_start = milliseconds(begin);
    let bare_memory = mebibytes(bare(model, time.as_secs_f64()));
    let begin = Instant::now();
    let untried = Program::leeway_with(repository, &[("LEEWAY_LOADING__TRIAL", "false")]).ready();
    let ready_untried = milliseconds(begin);
    drop(untried);
    let begin = Instant::now();
    let server = Program::leeway(repository).ready();
    let ready = milliseconds(begin);
    let memory_at_start = mebibytes(server.resident());
    let body = workshop().join("footprint.json");
    std::fs::write(&body, serde_json::json!({ "instances": [vec![0.5; model.width]] }).to_string()).unwrap();
    // More than a slow model can do in time: then most are refused.
    assert!(summarize(&server.url("/predict"), &body, Load::Closed(64), time).good() > 0, "nothing was answered");
    let memory_under_load = mebibytes(server.resident());
    Measured { bare_start, ready, ready_untried, bare_memory, memory_at_start, memory_under_load }
}

/// Runs the model in batches of 32 for this time, and gives the memory of the process then.
fn bare(model: &Model, seconds: f64) -> u64 {
    let output = example("bare_loop")
        .arg(&model.file)
        .arg(onnxruntime())
        .args(["32", &model.width.to_string(), "1", &seconds.to_string()])
        .stderr(Stdio::inherit())
        .output()
        .expect("target/release/examples/bare_loop: run `make bench-footprint`, which builds it");
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().split(' ').nth(1).unwrap().parse().unwrap()
}

fn repository(model: &Model) -> PathBuf {
    let path = workshop().join("footprint").join(model.name);
    let _ = std::fs::remove_dir_all(&path);
    let version = path.join(model.name).join("1");
    std::fs::create_dir_all(&version).unwrap();
    std::fs::copy(&model.file, version.join("model.onnx")).unwrap();
    leeway::registry::Manifest::write_for(&version).unwrap();
    std::fs::write(path.join(model.name).join("model.toml"), &model.model_toml).unwrap();
    path
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}
