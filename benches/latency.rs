//! What becomes of latency and goodput: under overload, beside the floor program; at moderate load; of a lone request;
//! beside a bare loop of `Session::run`; beside a model that is stalled; and beside a thousand slow clients.
//!
//!     make bench-latency
//!
//! Load is open: requests come at a fixed rate, whatever becomes of them, as long as no more than 512 (beside slow clients
//! 16) are in flight: a server that does not answer gets no more than that at one time. `LEEWAY_BENCH_ROUNDS` and
//! `LEEWAY_BENCH_SECONDS` say how long it takes.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench")]

#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod load_generator;
#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod programs;
#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod repository;

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use load_generator::{Hit, Load, OHA, fire, oha, quantile, summarize};
use programs::{Program, example, meanwhile, median, number_from, onnxruntime, workshop};
use repository::{Repository, TENSOR_STAGES, test_model};

/// The budget of the model that is overloaded, in seconds.
const BUDGET: f64 = 0.050;

/// Health checks a second.
const PROBES: f64 = 20.0;

/// The rows of a batch, here and in the bare loop.
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
    let models = Repository::new("latency")
        .with("dense", &test_model("dense"), &model(BATCH, (BUDGET * 1e3) as u64))
        .with("unbatched", &test_model("dense"), &model(1, 200))
        .with("patient", &test_model("dense_deep"), &model(BATCH, 20_000))
        .with("stalled", &test_model("work"), &model(32, 200));
    let leeway = Program::leeway(&models.0);
    let body = file("row.json", r#"{"instances": [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]]}"#);

    let capacity = overload(&leeway, &models, &body, time);
    lone_request(&leeway, &body, rounds, time);
    saturation(&leeway, &models, &body, rounds, time);
    moderate_load(&leeway, &body, capacity, rounds, time);
    stalled_model(&leeway, &body, capacity, rounds, time);
    slow_clients(&leeway, &body, capacity, rounds, time);
}

// ===== under overload =====

fn overload(leeway: &Program, models: &Repository, body: &Path, time: Duration) -> f64 {
    let floor = Program::floor(&models.file("dense"));
    let url = leeway.url("/v1/models/dense:predict");
    let good = |hit: &&Hit| hit.status == 200 && hit.took <= BUDGET;
    // What the model can do: all connections busy, and twice as many rows waiting as a batch has.
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

fn moderate_load(leeway: &Program, body: &Path, capacity: f64, rounds: usize, time: Duration) {
    let url = leeway.url("/v1/models/dense:predict");
    let measure = |_| {
        let answered = took(&settled(&fire(&url, Some(body), Load::Open(0.7 * capacity), time)), 200);
        (quantile(answered.clone(), 0.5), quantile(answered, 0.99))
    };
    let measured: Vec<(f64, f64)> = (0..rounds).map(measure).collect();
    println!("== At 70% of the capacity: the tail");
    println!(
        "P50 {:.1} ms and P99 {:.1} ms, ratio {}\n",
        1e3 * median(measured.iter().map(|(p50, _)| *p50)),
        1e3 * median(measured.iter().map(|(_, p99)| *p99)),
        spread(measured.iter().map(|(p50, p99)| p99 / p50)),
    );
}

// ===== a lone request =====

fn lone_request(leeway: &Program, body: &Path, rounds: usize, time: Duration) {
    let p50 = |model: &str| {
        let hits = fire(&leeway.url(&format!("/v1/models/{model}:predict")), Some(body), Load::Closed(1), time);
        quantile(took(&settled(&hits), 200), 0.5)
    };
    let ratios: Vec<(f64, f64)> = (0..rounds)
        .map(|round| {
            // The order changes from round to round.
            if round % 2 == 0 { (p50("dense"), p50("unbatched")) } else { swap((p50("unbatched"), p50("dense"))) }
        })
        .collect();
    println!(
        "== A lone request: P50 at one connection, batches of up to {BATCH} and batching off (max_batch_size = 1)"
    );
    println!(
        "{:.2} ms and {:.2} ms, ratio {}\n",
        1e3 * median(ratios.iter().map(|(on, _)| *on)),
        1e3 * median(ratios.iter().map(|(_, off)| *off)),
        spread(ratios.iter().map(|(on, off)| on / off)),
    );
}

// ===== saturation =====

fn saturation(leeway: &Program, models: &Repository, body: &Path, rounds: usize, time: Duration) {
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
            .arg(models.file("patient"))
            .arg(onnxruntime())
            .args(["arena", &BATCH.to_string(), "8", "1", &time.as_secs().to_string()])
            .stderr(Stdio::inherit())
            .output()
            .expect("target/release/examples/bare_loop: run `make bench-latency`, which builds it");
        String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let measured: Vec<(f64, f64)> =
        (0..rounds).map(|round| if round % 2 == 0 { (served(), bare()) } else { swap((bare(), served())) }).collect();
    println!(
        "== Saturation: a compute-bound network in batches of {BATCH} on one thread, beside a bare loop of Session::run"
    );
    println!(
        "{:.1} and {:.1} rows/s, ratio {}\n",
        median(measured.iter().map(|(served, _)| *served)),
        median(measured.iter().map(|(_, bare)| *bare)),
        spread(measured.iter().map(|(served, bare)| served / bare)),
    );
}

// ===== a stalled model =====

fn stalled_model(leeway: &Program, body: &Path, capacity: f64, rounds: usize, time: Duration) {
    let endless = file("endless.json", r#"{"instances": [100000000]}"#);
    let other = || {
        let load = Load::Open(0.1 * capacity);
        let hits = settled(&fire(&leeway.url("/v1/models/dense:predict"), Some(body), load, time));
        quantile(took(&hits, 200), 0.99) * 1e3
    };
    let url = leeway.url("/v1/models/stalled:predict");
    let beside_stalled = || {
        let (url, endless) = (url.clone(), endless.clone());
        // One after another, each running until its deadline: the model is never free.
        let longer = time + Duration::from_millis(600);
        let stalled = std::thread::spawn(move || fire(&url, Some(&endless), Load::Closed(1), longer));
        std::thread::sleep(Duration::from_millis(300));
        (other(), stalled.join().unwrap())
    };
    let measured: Vec<(f64, (f64, Vec<Hit>))> = (0..rounds)
        .map(|round| if round % 2 == 0 { (other(), beside_stalled()) } else { swap((beside_stalled(), other())) })
        .collect();
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
        "P99 of the other model at 0.1x: {:.1} ms without and {:.1} ms with it, ratio {}",
        median(measured.iter().map(|(without, _)| *without)),
        median(measured.iter().map(|(_, (with, _))| *with)),
        spread(measured.iter().map(|(without, (with, _))| with / without)),
    );
}

// ===== slow clients =====

const SLOW_CLIENTS: usize = 1_000;

fn slow_clients(leeway: &Program, body: &Path, capacity: f64, rounds: usize, time: Duration) {
    let p99 = || {
        // The server's places for predictions are 1,024, most of which are taken.
        let load = Load::OpenOver(0.3 * capacity, 16);
        summarize(&leeway.url("/v1/models/dense:predict"), body, load, time).all_good().p99 * 1e3
    };
    let beside_slow = || {
        let (ready, all_connected) = mpsc::channel();
        // The sender is its own: if it fails, nobody waits for it.
        let slow = move |over: &AtomicBool| send_heads_slowly(&leeway.address, &ready, over);
        let measure = || {
            all_connected.recv().expect("the slow clients could not connect");
            p99()
        };
        meanwhile(slow, measure).0
    };
    let measured: Vec<(f64, f64)> = (0..rounds)
        .map(|round| if round % 2 == 0 { (p99(), beside_slow()) } else { swap((beside_slow(), p99())) })
        .collect();
    println!(
        "\n== Slow clients: {SLOW_CLIENTS} connections that send half a head, one byte a second each. Others beside them"
    );
    println!(
        "P99 at 0.3x: {:.1} ms without and {:.1} ms with them, ratio {}",
        median(measured.iter().map(|(without, _)| *without)),
        median(measured.iter().map(|(_, with)| *with)),
        spread(measured.iter().map(|(without, with)| with / without)),
    );
}

/// Connects, says so, and sends on each connection in turn, so that each sends one byte a second.
fn send_heads_slowly(address: &str, ready: &mpsc::Sender<()>, over: &AtomicBool) {
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

/// Without the first half second.
fn settled(hits: &[Hit]) -> Vec<Hit> {
    hits.iter().filter(|hit| hit.sent >= 0.5).copied().collect()
}

/// How many a second are such.
fn per_second(hits: &[Hit], such: impl Fn(&&Hit) -> bool) -> f64 {
    let sent = |hit: &Hit| hit.sent;
    let first = hits.iter().map(sent).fold(f64::MAX, f64::min);
    let last = hits.iter().map(sent).fold(0.0, f64::max);
    hits.iter().filter(such).count() as f64 / (last - first).max(1e-9)
}

fn took(hits: &[Hit], status: u16) -> Vec<f64> {
    hits.iter().filter(|hit| hit.status == status).map(|hit| hit.took).collect()
}

fn swap<A, B>((a, b): (A, B)) -> (B, A) {
    (b, a)
}

/// The median, and from where to where.
fn spread(values: impl Iterator<Item = f64> + Clone) -> String {
    let least = values.clone().fold(f64::MAX, f64::min);
    let most = values.clone().fold(0.0, f64::max);
    format!("{:.3} ({least:.3} to {most:.3})", median(values))
}
