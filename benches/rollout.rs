//! What a rollout costs those who are served meanwhile: the tail of their latency while a third version is loaded, and how
//! long a rollback from the command line takes then.
//!
//!     make bench-rollout
//!
//! `LEEWAY_BENCH_ROUNDS` and `LEEWAY_BENCH_SECONDS` say how long it takes. Each round measures without and with loading, one
//! after the other; the ratio is that of their P99.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench")]

#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod load_generator;
#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod programs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use load_generator::{Load, OHA, oha, summarize};
use programs::{Program, checkout, median, number_from, workshop};

/// Beside its model, the version that is loaded has a file of so many bytes to be hashed.
const WEIGHTS: usize = 256 << 20;

fn main() {
    oha();
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let time = Duration::from_secs(number_from("LEEWAY_BENCH_SECONDS", 5));
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores, shared with oha {OHA}\n");

    let repository = repository();
    let server = Program::leeway(&repository);
    let body = workshop().join("rollout-row.json");
    std::fs::write(&body, r#"{"instances": [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]]}"#).unwrap();
    let capacity =
        { summarize(&server.url("/v1/models/dense:predict"), &body, Load::Closed(16), time).all_good().per_second };

    println!("## The tail while a third version is loaded, again and again");
    for share in [0.1, 0.3] {
        let mut ratios = Vec::new();
        let mut tails = Vec::new();
        for _ in 0..rounds {
            let tail = || {
                let url = server.url("/v1/models/dense:predict");
                summarize(&url, &body, Load::Open(capacity * share), time).all_good().p99 * 1e3
            };
            let before = tail();
            let during = while_loading(&server, tail);
            ratios.push(during.0 / before);
            tails.push((before, during.0, during.1));
        }
        println!(
            "{:.0} requests/s, {share}x capacity: P99 {:.1} ms before and {:.1} ms during {:.0} loads, ratio {:.2} ({:.2} to {:.2})",
            capacity * share,
            median(tails.iter().map(|tail| tail.0)),
            median(tails.iter().map(|tail| tail.1)),
            median(tails.iter().map(|tail| tail.2 as f64)),
            median(ratios.iter().copied()),
            ratios.iter().copied().fold(f64::MAX, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
        );
    }

    println!("\n## A rollback from the command line while a third version is loaded");
    let (took, _) = while_loading(&server, || {
        let mut took = Vec::new();
        for _ in 0..rounds * 4 {
            command(&server, &["promote", "dense", "2"]);
            let begin = Instant::now();
            command(&server, &["rollback", "dense", "--reason", "a bench"]);
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

/// Does something while version 1 is loaded and unloaded, one after the other; how often it was loaded.
fn while_loading<T>(server: &Program, work: impl FnOnce() -> T) -> (T, usize) {
    let (over, loads) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                command(server, &["load", "dense", "1"]);
                loads.fetch_add(1, Ordering::Relaxed);
                command(server, &["unload", "dense", "1"]);
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        (done, loads.load(Ordering::Relaxed).max(1))
    })
}

fn command(server: &Program, arguments: &[&str]) {
    let mut command = Command::new(checkout().join("target/release/leeway"));
    let Output { status, stderr, .. } =
        command.args(arguments).env("LEEWAY_ADMIN__LISTEN", &server.admin).output().unwrap();
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
}

/// Two versions of a model of about 3 ms a row, which are loaded at the start, the newest one stable; and one before them
/// that is four times as large and has a large file to be hashed, which is not.
fn repository() -> PathBuf {
    let path = workshop().join("rollout");
    let _ = std::fs::remove_dir_all(&path);
    for (version, model) in [("1", "dense_deep"), ("2", "dense"), ("3", "dense")] {
        let folder = path.join("dense").join(version);
        std::fs::create_dir_all(&folder).unwrap();
        let file: &Path = &checkout().join("tests/data/models").join(format!("{model}.onnx"));
        std::fs::copy(file, folder.join("model.onnx")).unwrap();
        if version == "1" {
            std::fs::write(folder.join("weights.bin"), vec![7; WEIGHTS]).unwrap();
        }
        leeway::registry::Manifest::write_for(&folder).unwrap();
    }
    let model_toml = "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"tensor\"\n\
        [model]\nworkers = 1\nintra_op_threads = 1\nmax_batch_size = 8\n[budget]\ntotal_ms = 2000\n";
    std::fs::write(path.join("dense/model.toml"), model_toml).unwrap();
    path
}
