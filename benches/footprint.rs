//! Start time and memory of Leeway, compared with the bare ONNX Runtime with the same model.
//!
//!     make bench-footprint
//!
//! The bare runtime is `benches/bare_loop.rs`: it loads the library and the model and runs it. `LEEWAY_BENCH_ROUNDS`
//! and `LEEWAY_BENCH_SECONDS` set the duration. Linux only: memory is read from `/proc`.
//!
//! The last part starts a server with a model of 403 MB, again and again. The model is made by Python, with the packages of
//! `make bench-peers`.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use leeway::repository::FoundVersion;
use leeway_testkit::{
    Load, OHA, Repository, Server, TENSOR_STAGES, checkout, example, median, number_from, oha, onnxruntime,
    python_of_peers, shipped, succeed, summarize, test_model, workshop,
};

/// Maximum number of rows in a run.
const BATCH: usize = 32;

/// Number of connections that are opened and kept open, twice.
const IDLE: usize = 1_000;

/// A served model, and the width of its rows.
struct Model {
    name: &'static str,
    file: PathBuf,
    width: usize,
}

fn main() {
    oha();
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let time = Duration::from_secs(number_from("LEEWAY_BENCH_SECONDS", 3));
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores, shared with oha {OHA}; medians of {rounds} rounds\n");
    let models = [
        Model { name: "digits", file: shipped("digits", 2).join("model.onnx"), width: 64 },
        Model { name: "dense_deep", file: test_model("dense_deep"), width: 8 },
    ];
    println!(
        "{:>10} | {:>9} {:>9} {:>9} | {:>12} {:>12} {:>11} {:>11} {:>11}",
        "", "bare", "ready", "no trial", "bare, arena", "no arena", "at start", "after load", "more"
    );
    for model in &models {
        let rows: Vec<Measured> = (0..rounds).map(|_| measure(model, time)).collect();
        let column = |of: fn(&Measured) -> f64| median(rows.iter().map(of));
        println!(
            "{:>10} | {:>6.0} ms {:>6.0} ms {:>6.0} ms | {:>8.1} MiB {:>8.1} MiB {:>7.1} MiB {:>7.1} MiB {:>7.1} MiB",
            model.name,
            column(|m| m.bare_start),
            column(|m| m.ready),
            column(|m| m.ready_untried),
            column(|m| m.bare_memory_arena),
            column(|m| m.bare_memory),
            column(|m| m.memory_at_start),
            column(|m| m.memory_after_load),
            column(|m| m.memory_after_load - m.bare_memory),
        );
    }
    println!(
        "\nbare: until the process that loads the model and runs one row has ended; and its memory after {time:?} of"
    );
    println!("runs of {BATCH} rows, with the runtime's memory arena (its default) and without it (as in Leeway)");
    println!("ready: from the start of `leeway serve` until /readyz answers 200; no trial: with loading.trial = false");
    println!("after load: after {time:?} of load on 64 connections; more: difference from bare without the arena");
    idle_connections();
    large_model(rounds);
}

/// Starts with a large model: the first time, and again when its graph is kept; and memory with one and two versions.
fn large_model(rounds: usize) {
    let file = workshop().join("large.onnx");
    if !file.exists() {
        let mut make = Command::new(python_of_peers());
        succeed(make.arg(checkout().join("benches/python/peers/make_large.py")).arg(&file));
    }
    let repository = Repository::in_workshop("footprint-large")
        .with_version("large", 1, &file, &[])
        .with_config("large", &format!("{TENSOR_STAGES}[budget]\ntotal_ms = 60000\n"));
    let state = tempfile::tempdir_in(workshop()).unwrap();
    let url = format!("sqlite:{}", state.path().join("leeway.db").display());
    let start = |models: &Path, url: &str| {
        let begin = Instant::now();
        let server = Server::measured(models, &[("LEEWAY_STATE__URL", url)]).ready();
        (milliseconds(begin), server)
    };
    let read = || {
        let begin = Instant::now();
        FoundVersion::find(&repository.version("large", 1)).unwrap().check_digests().unwrap();
        milliseconds(begin)
    };
    let read = median((0..rounds).map(|_| read()));
    let forgotten = median((0..rounds).map(|_| start(repository.path(), "memory").0));
    let (first, _) = start(repository.path(), &url);
    let again = median((0..rounds).map(|_| start(repository.path(), &url).0));
    let one = start(repository.path(), &url).1.proportional_memory();
    repository.add_file("large", 2, &file);
    let two = start(repository.path(), &url).1.proportional_memory();
    println!("\nA model of 403 MB: its file is read and hashed in {read:.0} ms");
    println!("ready: {forgotten:.0} ms without a cache, {first:.0} ms the first time with one, {again:.0} ms again");
    println!("memory: {one:.0} MiB with one version, {two:.0} MiB with two that have the same weights");
}

fn idle_connections() {
    let settings = [("LEEWAY_REPOSITORY__DEFAULT_MODEL", "digits"), ("LEEWAY_HTTP__CONNECTION_LIMIT", "4096")];
    let server = Server::measured(&checkout().join("models"), &settings).ready();
    println!("\nThe shipped models, 4 versions with baselines: {:.1} MiB at the start", server.memory());
    // The first predictions leave other memory behind, so the first thousand connections are not counted.
    let _first = ask_on_connections(&server);
    let before = server.memory();
    let second = ask_on_connections(&server);
    let each = (server.memory() - before) / second.len() as f64 * 1024.0;
    println!("{} more connections, idle after one request: {each:.1} KiB each", second.len());
}

/// Opens connections, asks for a prediction on each, and keeps them.
fn ask_on_connections(server: &Server) -> Vec<TcpStream> {
    let body = serde_json::json!({ "instances": [vec![0.5; 64]] }).to_string();
    let head = format!("POST /predict HTTP/1.1\r\nhost: leeway\r\ncontent-length: {}\r\n\r\n", body.len());
    let ask = |_| {
        let mut stream = TcpStream::connect(server.data).unwrap();
        stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
        stream
    };
    (0..IDLE).map(ask).collect()
}

/// Times in milliseconds, and memory in mebibytes.
struct Measured {
    bare_start: f64,
    ready: f64,
    ready_untried: f64,
    bare_memory_arena: f64,
    bare_memory: f64,
    memory_at_start: f64,
    memory_after_load: f64,
}

fn measure(model: &Model, time: Duration) -> Measured {
    let model_toml = format!("{TENSOR_STAGES}[model]\nworkers = 1\nintra_op_threads = 1\nmax_batch_size = {BATCH}\n");
    let repository = Repository::in_workshop(&format!("footprint-{}", model.name))
        .with_version(model.name, 1, &model.file, &[])
        .with_config(model.name, &model_toml);
    let begin = Instant::now();
    bare(model, "no-arena", 1, Duration::ZERO);
    let bare_start = milliseconds(begin);
    let bare_memory_arena = bare(model, "arena", BATCH, time);
    let bare_memory = bare(model, "no-arena", BATCH, time);
    let begin = Instant::now();
    let untried = Server::measured(repository.path(), &[("LEEWAY_LOADING__TRIAL", "false")]).ready();
    let ready_untried = milliseconds(begin);
    drop(untried);
    let begin = Instant::now();
    let server = Server::measured(repository.path(), &[]).ready();
    let ready = milliseconds(begin);
    let memory_at_start = server.memory();
    let body = workshop().join("footprint.json");
    std::fs::write(&body, serde_json::json!({ "instances": [vec![0.5; model.width]] }).to_string()).unwrap();
    // More than a slow model can answer in time, so most requests may be refused.
    assert!(summarize(&server.url("/predict"), &body, Load::Closed(64), time).good() > 0, "nothing was answered");
    let memory_after_load = server.memory();
    Measured { bare_start, ready, ready_untried, bare_memory_arena, bare_memory, memory_at_start, memory_after_load }
}

/// Runs the model in batches of `rows` for this time, at least once. Returns the memory of the process, in mebibytes.
fn bare(model: &Model, arena: &str, rows: usize, time: Duration) -> f64 {
    let output = example("bare_loop")
        .arg(&model.file)
        .arg(onnxruntime())
        .args([arena, &rows.to_string(), &model.width.to_string(), "1", &time.as_secs_f64().to_string()])
        .stderr(Stdio::inherit())
        .output()
        .expect("target/release/examples/bare_loop: run `make bench-footprint`, which builds it");
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().split(' ').nth(1).unwrap().parse::<f64>().unwrap() / 1_048_576.0
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
