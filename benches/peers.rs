//! Leeway compared with the usual servers in Python, and with the floor program (`benches/floor.rs`), in one run.
//!
//!     make bench-peers
//!
//! 1. One digit a request: FastAPI with ONNX Runtime (two processes of uvicorn), LitServe and BentoML with two workers each,
//!    the floor program and Leeway, with the same model and the same body.
//! 2. One row of a model of 500 trees: LightGBM's own `predict` behind FastAPI, and Leeway.
//!
//! The servers are measured in turn, in an order that changes from round to round, and ratios are taken within a round. The
//! Python packages are installed into `.bench/peers`, once. `LEEWAY_BENCH_ROUNDS` and `LEEWAY_BENCH_SECONDS` set the
//! duration.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use leeway_testkit::{
    Floor, Load, OHA, PLAIN, Repository, Server, Spread, checkout, held_out, median, number_from, oha, python_of_peers,
    shipped, succeed, summarize, workshop,
};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

const CONNECTIONS: [usize; 4] = [1, 4, 16, 64];

/// A server with its name, and the URL of its predictions.
struct Peer {
    name: &'static str,
    url: String,
    /// Ends with the peer.
    _processes: Option<Processes>,
}

/// A server with its worker processes.
struct Processes(Child);

impl Drop for Processes {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Results of one run of oha; times in milliseconds.
#[derive(Clone, Copy)]
struct Measured {
    per_second: f64,
    p50: f64,
    p99: f64,
}

impl Peer {
    fn of(name: &'static str, url: String) -> Peer {
        Peer { name, url, _processes: None }
    }

    /// Starts a server in Python, and waits until it answers. `arguments` get the port.
    fn start(name: &'static str, python: &Path, arguments: &[&str], model: &Path, body: &Path) -> Peer {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let arguments = arguments.iter().map(|argument| argument.replace("PORT", &port.to_string()));
        let mut command = Command::new(python);
        command
            .args(arguments)
            .current_dir(checkout().join("benches/python/peers"))
            .env("MODEL", model)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("BENTOML_DO_NOT_TRACK", "True")
            .env("BENTOML_HOME", workshop().join("bentoml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let processes = Processes(command.process_group(0).spawn().unwrap());
        let url = format!("http://127.0.0.1:{port}/predict");
        let (begin, text) = (Instant::now(), std::fs::read_to_string(body).unwrap());
        while ureq::post(&url).header("content-type", "application/json").send(&text).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(120), "{name} does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        Peer { name, url, _processes: Some(processes) }
    }

    fn measure(&self, body: &Path, connections: usize, seconds: u64) -> Measured {
        let time = Duration::from_secs(seconds);
        let summary = summarize(&self.url, body, Load::Closed(connections), time).all_good();
        Measured { per_second: summary.per_second, p50: summary.p50 * 1e3, p99: summary.p99 * 1e3 }
    }
}

/// Measures all peers in turn, and prints a table. The last peer is Leeway.
fn compare(peers: &[Peer], body: &Path, rounds: usize, seconds: u64) {
    println!("| connections | server | requests/s | P50, ms | P99, ms | Leeway / it |\n|---|---|---|---|---|---|");
    for connections in CONNECTIONS {
        for peer in peers {
            peer.measure(body, connections, 1);
        }
        let mut measured: Vec<Vec<Measured>> = vec![Vec::new(); peers.len()];
        for round in 0..rounds {
            let order: Vec<usize> =
                if round % 2 == 0 { (0..peers.len()).collect() } else { (0..peers.len()).rev().collect() };
            for index in order {
                measured[index].push(peers[index].measure(body, connections, seconds));
            }
        }
        let ours = measured.last().unwrap().clone();
        for (peer, measured) in peers.iter().zip(&measured) {
            let of = |field: fn(&Measured) -> f64| median(measured.iter().map(field));
            let ratios = Spread::of(ours.iter().zip(measured).map(|(ours, it)| ours.per_second / it.per_second));
            println!(
                "| {connections} | {} | {:.0} | {:.2} | {:.2} | {ratios} |",
                peer.name,
                of(|m| m.per_second),
                of(|m| m.p50),
                of(|m| m.p99),
            );
        }
    }
}

fn main() {
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let seconds = number_from("LEEWAY_BENCH_SECONDS", 3);
    oha();
    let python = python_of_peers();
    let cores = std::thread::available_parallelism().unwrap();
    println!("oha {OHA}, {cores} cores shared with it; {rounds} rounds of {seconds} s, in turn; medians");

    println!("\nOne digit a request, model digits version 2 (64-64-10 MLP)\n");
    let body = workshop().join("one_digit.json");
    std::fs::write(&body, json!({ "instances": [held_out("digits")["instances"][0]] }).to_string()).unwrap();
    let model = shipped("digits", 2).join("model.onnx");
    let uvicorn = |app| ["-m", "uvicorn", "--workers", "2", "--log-level", "critical", "--port", "PORT", app];
    {
        let floor = Floor::start(&model);
        let leeway = Server::measured(&checkout().join("models"), &[("LEEWAY_REPOSITORY__DEFAULT_MODEL", "digits")]);
        let bentoml = ["-m", "bentoml", "serve", "bentoml_digits:Digits", "--host", "127.0.0.1", "--port", "PORT"];
        let peers = [
            Peer::start("FastAPI", &python, &uvicorn("fastapi_digits:app"), &model, &body),
            Peer::start("LitServe", &python, &["litserve_digits.py", "PORT"], &model, &body),
            Peer::start("BentoML", &python, &bentoml, &model, &body),
            Peer::of("floor", floor.url("/predict")),
            Peer::of("Leeway", leeway.url("/predict")),
        ];
        compare(&peers, &body, rounds, seconds);
    }

    println!("\nOne row a request, 500 trees of LightGBM\n");
    let trees = workshop().join("trees");
    if !trees.join("request.json").exists() {
        succeed(Command::new(&python).arg(checkout().join("benches/python/peers/make_trees.py")).arg(&trees));
    }
    let repository = Repository::new().with_version("trees", 1, &trees.join("model.onnx"), &[]);
    let repository = repository.with_config("trees", &PLAIN.replace("workers = 1\n", ""));
    let leeway = Server::measured(repository.path(), &[]);
    let body = trees.join("request.json");
    let peers = [
        Peer::start("FastAPI", &python, &uvicorn("fastapi_trees:app"), &trees.join("trees.txt"), &body),
        Peer::of("Leeway", leeway.url("/predict")),
    ];
    compare(&peers, &body, rounds, seconds);
}
