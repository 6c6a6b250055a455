//! Latency and goodput: under overload, compared with the floor program; at moderate load; of a lone request; compared
//! with a bare loop of `Session::run`; next to a stalled model; and next to a thousand slow clients.
//!
//!     make bench-latency
//!
//! Load is open: requests come at a fixed rate, even if earlier ones are not answered yet, up to 512 in flight (16 next
//! to slow clients). `LEEWAY_BENCH_ROUNDS` and `LEEWAY_BENCH_SECONDS` set the duration.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench")]

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use leeway_testkit::{
    Floor, Hit, Load, OHA, Repository, Server, Spread, TENSOR_STAGES, example, fire, in_turn, meanwhile, median,
    number_from, oha, onnxruntime, quantile, summarize, workshop,
};

/// Budget of the overloaded model, in seconds.
const BUDGET: f64 = 0.050;

/// Number of health checks per second.
const PROBES: f64 = 20.0;

/// Maximum number of rows in a batch, here and in the bare loop.
const BATCH: usize = 8;

fn main() {
    oha();
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let time = Duration::from_secs(number_from("LEEWAY_BENCH_SECONDS", 3));
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores, shared with oha {OHA}\n");

    let model = |batch: usize, budget_ms: u64| {
        format!(
            "{TENSOR_STAGES}[model]\nworkers = 1\nintra_op_threads = 1\nmax_batch_size = {batch}\n\
             [budget]\ntotal_ms = {budget_ms}\n"
        )
    };
    let models = Repository::in_workshop("latency")
        .with("dense", 1, "dense", &model(BATCH, (BUDGET * 1e3) as u64))
        .with("unbatched", 1, "dense", &model(1, 200))
        .with("patient", 1, "dense_deep", &model(BATCH, 20_000))
        .with("stalled", 1, "work", &model(32, 200));
    let leeway = Server::measured(models.path(), &[]);
    let body = file("row.json", r#"{"instances": [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]]}"#);

    let capacity = overload(&leeway, &models, &body, time);
    lone_request(&leeway, &body, rounds, time);
    saturation(&leeway, &models, &body, rounds, time);
    moderate_load(&leeway, &body, capacity, rounds, time);
    stalled_model(&leeway, &body, capacity, rounds, time);
    slow_clients(&leeway, &body, capacity, rounds, time);
}

// ===== under overload =====

fn overload(leeway: &Server, models: &Repository, body: &Path, time: Duration) -> f64 {
    let floor = Floor::start(&models.version("dense", 1).join("model.onnx"));
    let url = leeway.url("/v1/models/dense:predict");
    let good = |hit: &&Hit| hit.status == 200 && hit.took <= BUDGET;
    // Capacity of the model: all connections are busy, and the rows of two batches wait.
    let busy = fire(&url, Some(body), Load::Closed(3 * BATCH), time);
    let capacity = per_second(&busy, good);
    println!("== Overload: a dense network, batches of up to {BATCH}, one thread, budget {:.0} ms", BUDGET * 1e3);
    println!(
        "Leeway's capacity is {capacity:.0} answers/s. Good: answered 200 within the budget, as the client sees it.\n"
    );
    println!(
        "{:>6} | {:>9} {:>10} {:>11} {:>7} {:>7} {:>7} {:>11} {:>12} | {:>11} {:>8}",
        "load",
        "offered/s",
        "answered/s",
        "leeway good",
        "of peak",
        "P50 ms",
        "P99 ms",
        "refused/s",
        "refusal P50",
        "floor good",
        "P50 ms"
    );
    let loads = [0.7, 1.0, 1.3, 2.0, 5.0, 10.0];
    let mut measured = Vec::new();
    for load in loads {
        let probe = leeway.url("/livez");
        let probing = std::thread::spawn(move || fire(&probe, None, Load::Open(PROBES), time));
        let hits = settled(&fire(&url, Some(body), Load::Open(load * capacity), time));
        let probed = probing.join().unwrap();
        let floor_hits = settled(&fire(&floor.url("/predict"), Some(body), Load::Open(load * capacity), time));
        measured.push((load, hits, probed, floor_hits));
    }
    let peak = measured.iter().map(|(_, hits, ..)| per_second(hits, good)).fold(0.0, f64::max);
    for (load, hits, _, floor_hits) in &measured {
        let (answered, refused) = (took(hits, 200), took(hits, 503));
        let goodput = per_second(hits, good);
        println!(
            "{load:>5.1}x | {:>9.0} {:>10.0} {goodput:>11.0} {:>6.0}% {:>7.1} {:>7.1} {:>11.0} {:>9.2} ms | {:>11.0} {:>8.0}",
            load * capacity,
            per_second(hits, |_| true),
            100.0 * goodput / peak,
            1e3 * quantile(answered.clone(), 0.5),
            1e3 * quantile(answered, 0.99),
            per_second(hits, |hit| hit.status == 503),
            if refused.is_empty() { 0.0 } else { 1e3 * quantile(refused, 0.5) },
            per_second(floor_hits, good),
            1e3 * quantile(took(floor_hits, 200), 0.5),
        );
    }
    let probes = measured.iter().flat_map(|(_, _, probed, _)| probed);
    let slowest = probes.clone().map(|hit| hit.took).fold(0.0, f64::max);
    let sent = PROBES * time.as_secs_f64() * loads.len() as f64;
    println!(
        "\nGET /livez meanwhile, {PROBES} times a second: {} of {sent:.0} answered 200, the slowest in {:.1} ms (each load's end \
         may cut one off)",
        probes.filter(|hit| hit.status == 200).count(),
        slowest * 1e3
    );

    // Back to normal: the load falls from ten times the capacity to 70% of it at once.
    fire(&url, Some(body), Load::Open(10.0 * capacity), time);
    let after = fire(&url, Some(body), Load::Open(0.7 * capacity), time.max(Duration::from_secs(6)));
    let last_bad = after.iter().filter(|hit| !good(hit)).map(|hit| hit.sent).fold(0.0, f64::max);
    let bad = after.iter().filter(|hit| !good(hit)).count();
    println!("After 10x, at 0.7x: {bad} of {} not good, the last of them sent after {last_bad:.1} s", after.len());
    println!();
    capacity
}

// ===== at moderate load =====

fn moderate_load(leeway: &Server, body: &Path, capacity: f64, rounds: usize, time: Duration) {
    let url = leeway.url("/v1/models/dense:predict");
    let measure = |_| {
        let answered = took(&settled(&fire(&url, Some(body), Load::Open(0.7 * capacity), time)), 200);
        (quantile(answered.clone(), 0.5), quantile(answered, 0.99))
    };
    let measured: Vec<(f64, f64)> = (0..rounds).map(measure).collect();
    println!("== At 70% of the capacity: the tail");
    println!(
        "P50 {:.1} ms and P99 {:.1} ms, ratio {:.3}\n",
        1e3 * median(measured.iter().map(|(p50, _)| *p50)),
        1e3 * median(measured.iter().map(|(_, p99)| *p99)),
        Spread::of(measured.iter().map(|(p50, p99)| p99 / p50)),
    );
}

// ===== a lone request =====

fn lone_request(leeway: &Server, body: &Path, rounds: usize, time: Duration) {
    let p50 = |model: &str| {
        let hits = fire(&leeway.url(&format!("/v1/models/{model}:predict")), Some(body), Load::Closed(1), time);
        quantile(took(&settled(&hits), 200), 0.5)
    };
    let ratios = in_turn(rounds, || p50("dense"), || p50("unbatched"));
    println!(
        "== A lone request: P50 at one connection, batches of up to {BATCH} and batching off (max_batch_size = 1)"
    );
    println!(
        "{:.2} ms and {:.2} ms, ratio {:.3}\n",
        1e3 * median(ratios.iter().map(|(on, _)| *on)),
        1e3 * median(ratios.iter().map(|(_, off)| *off)),
        Spread::of(ratios.iter().map(|(on, off)| on / off)),
    );
}

// ===== saturation =====

fn saturation(leeway: &Server, models: &Repository, body: &Path, rounds: usize, time: Duration) {
    let served = || {
        let hits = fire(&leeway.url("/v1/models/patient:predict"), Some(body), Load::Closed(3 * BATCH), time);
        let mut done: Vec<f64> = hits.iter().filter(|hit| hit.status == 200).map(|hit| hit.sent + hit.took).collect();
        done.sort_by(f64::total_cmp);
        // From the end of one batch to the end of another, so that no part of a batch is counted.
        let (first, last) = (done[0] + 0.002, done[done.len() - 1]);
        done.iter().filter(|done| **done > first).count() as f64 / (last - first + 0.002)
    };
    let bare = || {
        let output = example("bare_loop")
            .arg(models.version("patient", 1).join("model.onnx"))
            .arg(onnxruntime())
            .args(["arena", &BATCH.to_string(), "8", "1", &time.as_secs().to_string()])
            .stderr(Stdio::inherit())
            .output()
            .expect("target/release/examples/bare_loop: run `make bench-latency`, which builds it");
        String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let measured = in_turn(rounds, served, bare);
    println!(
        "== Saturation: a compute-bound network in batches of {BATCH} on one thread, beside a bare loop of Session::run"
    );
    println!(
        "{:.1} and {:.1} rows/s, ratio {:.3}\n",
        median(measured.iter().map(|(served, _)| *served)),
        median(measured.iter().map(|(_, bare)| *bare)),
        Spread::of(measured.iter().map(|(served, bare)| served / bare)),
    );
}

// ===== a stalled model =====

fn stalled_model(leeway: &Server, body: &Path, capacity: f64, rounds: usize, time: Duration) {
    let endless = file("endless.json", r#"{"instances": [100000000]}"#);
    let other = || {
        let load = Load::Open(0.1 * capacity);
        let hits = settled(&fire(&leeway.url("/v1/models/dense:predict"), Some(body), load, time));
        quantile(took(&hits, 200), 0.99) * 1e3
    };
    let url = leeway.url("/v1/models/stalled:predict");
    let beside_stalled = || {
        let (url, endless) = (url.clone(), endless.clone());
        // One request after another, each running until its deadline, so that the model is never free.
        let longer = time + Duration::from_millis(600);
        let stalled = std::thread::spawn(move || fire(&url, Some(&endless), Load::Closed(1), longer));
        std::thread::sleep(Duration::from_millis(300));
        (other(), stalled.join().unwrap())
    };
    let measured = in_turn(rounds, other, beside_stalled);
    println!(
        "== A stalled model: a run of minutes; budget 200 ms, of which the server has 185. Another model beside it"
    );
    let stalled = || measured.iter().flat_map(|(_, (_, hits))| hits);
    let statuses: std::collections::BTreeSet<u16> = stalled().map(|hit| hit.status).collect();
    let times = || stalled().map(|hit| hit.took * 1e3);
    println!(
        "{} requests answered {statuses:?}, after {:.0} to {:.0} ms",
        stalled().count(),
        times().fold(f64::MAX, f64::min),
        times().fold(0.0, f64::max)
    );
    println!(
        "P99 of the other model at 0.1x: {:.1} ms without and {:.1} ms with it, ratio {:.3}",
        median(measured.iter().map(|(without, _)| *without)),
        median(measured.iter().map(|(_, (with, _))| *with)),
        Spread::of(measured.iter().map(|(without, (with, _))| with / without)),
    );
}

// ===== slow clients =====

const SLOW_CLIENTS: usize = 1_000;

fn slow_clients(leeway: &Server, body: &Path, capacity: f64, rounds: usize, time: Duration) {
    let p99 = || {
        // The slow clients take most of the 1,024 connections of the server.
        let load = Load::OpenOver(0.3 * capacity, 16);
        summarize(&leeway.url("/v1/models/dense:predict"), body, load, time).all_good().p99 * 1e3
    };
    let beside_slow = || {
        let (ready, all_connected) = mpsc::channel();
        // The helper owns the sender, so that `recv` returns if the helper fails.
        let slow = move |over: &AtomicBool| send_heads_slowly(leeway.data, &ready, over);
        let measure = || {
            all_connected.recv().expect("the slow clients could not connect");
            p99()
        };
        meanwhile(slow, measure).0
    };
    let measured = in_turn(rounds, p99, beside_slow);
    println!(
        "\n== Slow clients: {SLOW_CLIENTS} connections that send half a head, one byte a second each; and other clients"
    );
    println!(
        "P99 at 0.3x: {:.1} ms without and {:.1} ms with them, ratio {:.3}",
        median(measured.iter().map(|(without, _)| *without)),
        median(measured.iter().map(|(_, with)| *with)),
        Spread::of(measured.iter().map(|(without, with)| with / without)),
    );
}

/// Connects, reports to `ready`, and sends on each connection in turn, so that each sends one byte a second.
fn send_heads_slowly(address: SocketAddr, ready: &mpsc::Sender<()>, over: &AtomicBool) {
    let connect = |_| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"POST /predict HTTP/1.1\r\nhost: leeway\r\nx-slow: ").unwrap();
        stream
    };
    let mut streams: Vec<TcpStream> = (0..SLOW_CLIENTS).map(connect).collect();
    ready.send(()).unwrap();
    for turn in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        streams[turn % SLOW_CLIENTS].write_all(b"a").expect("a slow client was cut off before its time");
        std::thread::sleep(Duration::from_millis(1000) / SLOW_CLIENTS as u32);
    }
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = workshop().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

// ===== numbers =====

/// Returns the hits without those of the first half second.
fn settled(hits: &[Hit]) -> Vec<Hit> {
    hits.iter().filter(|hit| hit.sent >= 0.5).copied().collect()
}

/// Returns the number of hits per second for which `such` is true.
fn per_second(hits: &[Hit], such: impl Fn(&&Hit) -> bool) -> f64 {
    let sent = |hit: &Hit| hit.sent;
    let first = hits.iter().map(sent).fold(f64::MAX, f64::min);
    let last = hits.iter().map(sent).fold(0.0, f64::max);
    hits.iter().filter(such).count() as f64 / (last - first).max(1e-9)
}

fn took(hits: &[Hit], status: u16) -> Vec<f64> {
    hits.iter().filter(|hit| hit.status == status).map(|hit| hit.took).collect()
}
