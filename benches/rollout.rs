//! The cost of a rollout for other requests: the tail of their latency while a third version is loaded, and the
//! duration of a rollback from the command line meanwhile.
//!
//!     make bench-rollout
//!
//! `LEEWAY_BENCH_ROUNDS` and `LEEWAY_BENCH_SECONDS` set the duration. Each round measures first without and then with
//! loading; the ratio is that of the two P99.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leeway_testkit::{
    Load, OHA, Repository, Server, Spread, TENSOR_STAGES, meanwhile, median, number_from, oha, summarize, test_model,
    workshop,
};

/// Size of a file, besides the model, that must be hashed to load the version.
const WEIGHTS: usize = 256 << 20;

fn main() {
    oha();
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let time = Duration::from_secs(number_from("LEEWAY_BENCH_SECONDS", 5));
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores, shared with oha {OHA}\n");

    let repository = repository();
    let server = Server::measured(repository.path(), &[]);
    let body = workshop().join("rollout-row.json");
    std::fs::write(&body, r#"{"instances": [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]]}"#).unwrap();
    let url = server.url("/v1/models/dense:predict");
    let capacity = summarize(&url, &body, Load::Closed(16), time).all_good().per_second;

    println!("## The tail while a third version is loaded, again and again");
    for share in [0.1, 0.3] {
        let mut ratios = Vec::new();
        let mut tails = Vec::new();
        for _ in 0..rounds {
            let tail = || summarize(&url, &body, Load::Open(capacity * share), time).all_good().p99 * 1e3;
            let before = tail();
            let during = while_loading(&server, tail);
            ratios.push(during.0 / before);
            tails.push((before, during.0, during.1));
        }
        println!(
            "{:.0} requests/s, {share}x capacity: P99 {:.1} ms before and {:.1} ms during {:.0} loads, ratio {}",
            capacity * share,
            median(tails.iter().map(|tail| tail.0)),
            median(tails.iter().map(|tail| tail.1)),
            median(tails.iter().map(|tail| tail.2 as f64)),
            Spread::of(ratios),
        );
    }

    println!("\n## A rollback from the command line while a third version is loaded");
    let (took, _) = while_loading(&server, || {
        let mut took = Vec::new();
        for _ in 0..rounds * 4 {
            server.command(&["promote", "dense", "2"]);
            let begin = Instant::now();
            server.command(&["rollback", "dense", "--reason", "a bench"]);
            took.push(begin.elapsed().as_secs_f64() * 1e3);
            std::thread::sleep(Duration::from_millis(50));
        }
        took
    });
    println!(
        "the whole command: median {:.1} ms, longest {:.1} ms of {}",
        median(took.iter().copied()),
        took.iter().copied().fold(0.0, f64::max),
        took.len()
    );
}

/// Runs `work` while version 1 is loaded and unloaded again and again. Returns its result and the number of loads.
fn while_loading<T>(server: &Server, work: impl FnOnce() -> T) -> (T, usize) {
    let load_and_unload = |over: &AtomicBool| {
        let mut loads = 0;
        while !over.load(Ordering::Relaxed) {
            server.command(&["load", "dense", "1"]);
            server.command(&["unload", "dense", "1"]);
            loads += 1;
        }
        loads
    };
    meanwhile(load_and_unload, work)
}

/// Makes a repository with two versions of a model of about 3 ms a row, which are loaded at the start, the newest one
/// stable; and an earlier version, four times as large and with a large file to hash, which is not loaded at the start.
fn repository() -> Repository {
    let model_toml = format!(
        "{TENSOR_STAGES}[model]\nworkers = 1\nintra_op_threads = 1\nmax_batch_size = 8\n[budget]\ntotal_ms = 2000\n"
    );
    Repository::in_workshop("rollout")
        .with_version("dense", 1, &test_model("dense_deep"), &[("weights.bin", &vec![7; WEIGHTS])])
        .with_version("dense", 2, &test_model("dense"), &[])
        .with_version("dense", 3, &test_model("dense"), &[])
        .with_config("dense", &model_toml)
}
