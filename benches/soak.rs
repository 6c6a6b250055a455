//! Half an hour at half the load that the server can carry, a new version every minute: whether its memory stays where it is,
//! and whether a request fails.
//!
//!     make bench-soak
//!
//! Three models are asked by oha at fixed rates; beside it predictions get feedback, `/metrics` is scraped every second, and
//! bad requests come. Every minute a version is added and promoted, and every third one rolled back. `LEEWAY_BENCH_MINUTES`
//! says how long it takes. Linux only: memory is read from `/proc`.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench")]

#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod load_generator;
#[expect(dead_code, reason = "shared: not every bench needs all of it")]
mod programs;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use load_generator::{Load, OHA, Summary, oha, summarize};
use programs::{Program, checkout, number_from, workshop};
use serde_json::{Value, json};

/// The minutes that are not counted: until caches, windows and the allocator have what they need.
const SETTLING: u64 = 5;

/// The share of its capacity that the server gets.
const SHARE: f64 = 0.5;

/// How often memory is read.
const SAMPLING: Duration = Duration::from_secs(5);

/// The versions of the model that changes that stay in the repository.
const KEPT_VERSIONS: u64 = 6;

fn main() {
    let minutes = number_from("LEEWAY_BENCH_MINUTES", 30);
    assert!(minutes > SETTLING + 1, "LEEWAY_BENCH_MINUTES has to be at least {}", SETTLING + 2);
    oha();
    let repository = Repository::new();
    // Each of the loads has its connections open all the time.
    let server = Program::leeway_with(&repository.0, &[("LEEWAY_HTTP__CONNECTION_LIMIT", "2048")]);
    let models = models(&server);
    println!("{} cores, shared with oha {OHA}", std::thread::available_parallelism().unwrap());

    let together = |load: &(dyn Fn(usize) -> Load + Sync), time| -> Vec<Summary> {
        std::thread::scope(|scope| {
            let one = |(index, model): (usize, &Model)| {
                let (url, body, load) = (model.url.clone(), model.body.clone(), load(index));
                scope.spawn(move || summarize(&url, &body, load, time))
            };
            let loads: Vec<_> = models.iter().enumerate().map(one).collect();
            loads.into_iter().map(|load| load.join().unwrap()).collect()
        })
    };
    let busy = together(&|_| Load::Closed(16), Duration::from_secs(10));
    let rates: Vec<f64> = busy.into_iter().map(|summary| SHARE * summary.all_good().per_second).collect();
    for (model, rate) in models.iter().zip(&rates) {
        println!("{}: {rate:.0} requests/s, {SHARE} of what the server did for all at once", model.name);
    }

    println!("\n{:>6} | {:>8} | {:>9} {:>6} | P99 ms of {}", "minute", "RSS MiB", "answered", "failed", names(&models));
    let (begin, over) = (Instant::now(), AtomicBool::new(false));
    let memory = std::thread::scope(|scope| {
        let memory = scope.spawn(|| {
            let mut samples = Vec::new();
            while !over.load(Ordering::Relaxed) {
                samples.push((begin.elapsed().as_secs_f64() / 60.0, mebibytes(server.resident())));
                std::thread::sleep(SAMPLING);
            }
            samples
        });
        scope.spawn(|| beside(&server, &over));
        let mut failed = 0;
        for minute in 0..minutes {
            let (repository, server) = (&repository, &server);
            let swap = scope.spawn(move || {
                std::thread::sleep(Duration::from_secs(30));
                repository.swap(server, 3 + minute);
            });
            let summaries = together(&|model| Load::Open(rates[model]), Duration::from_secs(60));
            swap.join().unwrap();
            let sum = |of: fn(&Summary) -> u64| summaries.iter().map(of).sum::<u64>();
            failed += sum(Summary::failed);
            println!(
                "{:>6} | {:>8.1} | {:>9} {:>6} | {}",
                minute + 1,
                mebibytes(server.resident()),
                sum(Summary::good),
                sum(Summary::failed),
                summaries.iter().map(|summary| format!("{:.2}", summary.p99 * 1e3)).collect::<Vec<_>>().join("  "),
            );
            for (model, summary) in models.iter().zip(&summaries).filter(|(_, summary)| summary.failed() > 0) {
                println!("       {}: {:?}, not answered: {:?}", model.name, summary.answered, summary.unanswered);
            }
        }
        over.store(true, Ordering::Relaxed);
        println!("\n{failed} requests failed");
        memory.join().unwrap()
    });
    report(&memory);
}

fn report(memory: &[(f64, f64)]) {
    let settled: Vec<(f64, f64)> = memory.iter().copied().filter(|(minute, _)| *minute >= SETTLING as f64).collect();
    let values = || settled.iter().map(|(_, value)| *value);
    println!(
        "RSS after the first {SETTLING} minutes: {:.1} to {:.1} MiB, slope {:+.3} MiB a minute",
        values().fold(f64::MAX, f64::min),
        values().fold(0.0, f64::max),
        slope(&settled),
    );
    let (first, second) = settled.split_at(settled.len() / 2);
    let mean = |part: &[(f64, f64)]| part.iter().map(|(_, value)| value).sum::<f64>() / part.len() as f64;
    println!("Mean of its first half {:.1} MiB, of its second half {:.1} MiB", mean(first), mean(second));
}

/// Of the line with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = (points.iter().map(|p| p.0).sum::<f64>() / count, points.iter().map(|p| p.1).sum::<f64>() / count);
    points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

// ===== what is asked =====

struct Model {
    name: &'static str,
    url: String,
    body: PathBuf,
}

fn models(server: &Program) -> Vec<Model> {
    let held_out = |name: &str| -> Value {
        let text = std::fs::read_to_string(checkout().join("tests/data").join(name)).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["instances"][0].clone()
    };
    let model = |name, instance: Value| {
        let body = workshop().join(format!("soak-{name}.json"));
        std::fs::write(&body, json!({ "instances": [instance] }).to_string()).unwrap();
        Model { name, url: server.url(&format!("/v1/models/{name}:predict")), body }
    };
    vec![
        model("digits", held_out("digits_held_out.json")),
        model("penguins", held_out("penguins_held_out.json")),
        model("dense", json!([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])),
    ]
}

fn names(models: &[Model]) -> String {
    models.iter().map(|model| model.name).collect::<Vec<_>>().join(", ")
}

/// Ten times a second a prediction whose label is reported and a request that is wrong; every second a scrape.
#[tokio::main(flavor = "current_thread")]
async fn beside(server: &Program, over: &AtomicBool) {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
    let text = std::fs::read_to_string(checkout().join("tests/data/digits_held_out.json")).unwrap();
    let held_out: Value = serde_json::from_str(&text).unwrap();
    let rows = held_out["instances"].as_array().unwrap();
    let post = async |path: &str, body: String| -> (u16, Value) {
        let answer = client.post(server.url(path)).body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    };
    for turn in 0_usize.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let row = turn % rows.len();
        let (status, answer) = post("/v1/models/digits:predict", json!({ "instances": [rows[row]] }).to_string()).await;
        if status == 200 {
            let item = json!({ "prediction_id": answer["prediction_ids"][0], "label": held_out["digits"][row] });
            let (status, answer) = post("/feedback", json!({ "feedback": [item] }).to_string()).await;
            assert_eq!(status, 200, "{answer}");
        }
        // Of many sizes, so that memory is asked for in many sizes. A busy machine may not read the largest in time.
        let (status, _) = post("/v1/models/digits:predict", "[".repeat(1 << (turn % 20))).await;
        assert!(matches!(status, 400 | 503 | 504), "{status}");
        if turn % 10 == 0 {
            let text = client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
            assert!(text.contains("leeway_requests_total"), "{text}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

// ===== what is served =====

struct Repository(PathBuf);

impl Repository {
    /// The shipped models, and one whose runs take milliseconds.
    fn new() -> Repository {
        let path = workshop().join("soak");
        let _ = std::fs::remove_dir_all(&path);
        for model in ["digits", "penguins"] {
            let shipped = checkout().join("models").join(model);
            for version in ["1", "2"] {
                copy_folder(&shipped.join(version), &path.join(model).join(version));
            }
            std::fs::copy(shipped.join("model.toml"), path.join(model).join("model.toml")).unwrap();
        }
        let dense = path.join("dense/1");
        std::fs::create_dir_all(&dense).unwrap();
        std::fs::copy(checkout().join("tests/data/models/dense.onnx"), dense.join("model.onnx")).unwrap();
        leeway::registry::Manifest::write_for(&dense).unwrap();
        let model_toml = "[preprocess]\nkind = \"tensor\"\n[postprocess]\nkind = \"tensor\"\n\
            [model]\nworkers = 1\nintra_op_threads = 1\nmax_batch_size = 8\n";
        std::fs::write(path.join("dense/model.toml"), model_toml).unwrap();
        Repository(path)
    }

    /// Adds a version of the digits and gives it all requests; every third one is rolled back again. The oldest one goes.
    fn swap(&self, server: &Program, version: u64) {
        let folder = |version: u64| self.0.join("digits").join(version.to_string());
        let hidden = self.0.join("digits/.adding");
        copy_folder(&checkout().join("models/digits").join((1 + version % 2).to_string()), &hidden);
        std::fs::rename(hidden, folder(version)).unwrap();
        command(server, &["reload"]);
        command(server, &["promote", "digits", &version.to_string(), "--reason", "a soak"]);
        if version.is_multiple_of(3) {
            command(server, &["rollback", "digits", "--reason", "a soak"]);
        }
        if version > KEPT_VERSIONS {
            std::fs::remove_dir_all(folder(version - KEPT_VERSIONS)).unwrap();
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn command(server: &Program, arguments: &[&str]) {
    let mut command = Command::new(checkout().join("target/release/leeway"));
    let output = command.args(arguments).env("LEEWAY_ADMIN__LISTEN", &server.admin).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
