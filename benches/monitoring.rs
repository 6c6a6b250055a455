//! The cost of monitoring, and the accuracy of its quantiles. `benches/drift.rs` measures its sensitivity to drift.
//!
//!     make bench-monitoring
//!
//! 1. Throughput with `monitoring.enabled` on and off, alternating in one run, at 64 and at 512 features, under the
//!    load generator oha; and in the same way with a prediction log of a tenth of the requests and without, and with spans
//!    of a hundredth of them and without.
//! 2. P50, P95 and P99 of `/metrics` compared with oha's, under steady load.
//!
//! `LEEWAY_BENCH_ROUNDS` and `LEEWAY_BENCH_SECONDS` set the duration.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leeway::feature::{FeatureSchema, Features, Observation};
use leeway::monitor::{Baseline, Sample};
use leeway::repository::Manifest;
use leeway_testkit::{
    Load, OHA, Repository, Server, Spread, TENSOR_STAGES, held_out, in_turn, median, number_from, oha, summarize,
    test_model, workshop,
};
use serde_json::{Value, json};

fn main() {
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 9) as usize;
    let seconds = number_from("LEEWAY_BENCH_SECONDS", 3);
    oha();
    let models = models();
    println!("oha {OHA}, {} cores shared with it", std::thread::available_parallelism().unwrap());
    costs(models.path(), rounds, seconds);
    quantiles(models.path(), 10 * seconds);
}

// ===== the models =====

/// A repository with the shipped digits, 512 features of random numbers, and a model that takes some milliseconds.
fn models() -> Repository {
    let baseline = serde_json::to_vec(&wide_baseline()).unwrap();
    let wide = "[preprocess]\nkind = \"tensor\"\nfeatures = \"elements\"\n\
        [model]\nworkers = 1\nintra_op_threads = 1\n\
        [postprocess]\nkind = \"classifier\"\nscores = \"probabilities\"\n\
        [monitoring]\nmax_features = 512\n";
    let dense = format!("{TENSOR_STAGES}[model]\nworkers = 1\nintra_op_threads = 1\n[budget]\ntotal_ms = 2000\n");
    let repository = Repository::in_workshop("monitoring").with_shipped("digits", &[2]);
    give_projection(&repository.path().join("digits/2"));
    repository
        .with_version("wide", 1, &test_model("wide"), &[("baseline.json", &baseline)])
        .with_config("wide", wide)
        .with("dense", 1, "dense", &dense)
}

/// Returns numbers of four digits, as are usual in tables.
fn wide_row(random: &mut fastrand::Rng) -> Vec<f64> {
    (0..512).map(|_| (random.f64() * 1e4).round() / 1e4).collect()
}

fn wide_baseline() -> Baseline {
    let mut random = fastrand::Rng::with_seed(1);
    // Enough for a projection of 512 features.
    let rows = 4_000;
    let mut features = Features::with_rows(rows);
    features.numbers = (0..rows).flat_map(|_| wide_row(&mut random)).map(|value| value as f32).collect();
    let numbers = (0..512).map(|element| format!("x[{element}]").into()).collect();
    baseline(FeatureSchema { numbers, texts: Vec::new() }, &features)
}

/// Adds the projection of all features to the baseline of a shipped version, which was made before there were any.
fn give_projection(digits: &Path) {
    let held_out = held_out("digits");
    let instances = held_out["instances"].as_array().unwrap();
    let mut features = Features::with_rows(instances.len());
    let numbers = instances.iter().flat_map(|instance| instance.as_array().unwrap());
    features.numbers = numbers.map(|number| number.as_f64().unwrap() as f32).collect();
    let numbers = (0..64).map(|pixel| format!("pixels[{pixel}]").into()).collect();
    let reconstruction = baseline(FeatureSchema { numbers, texts: Vec::new() }, &features).reconstruction;
    assert!(reconstruction.is_some());
    let file = digits.join("baseline.json");
    let shipped = Baseline::parse(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::write(file, serde_json::to_vec(&Baseline { reconstruction, ..shipped }).unwrap()).unwrap();
    Manifest::write_for(digits).unwrap();
}

fn baseline(schema: FeatureSchema, features: &Features) -> Baseline {
    let nothing = vec![Observation::Nothing; features.rows()];
    let mut sample = Sample::new(schema, None);
    sample.add(features, &nothing);
    let mut builder = sample.freeze();
    builder.count(features, &nothing);
    builder.finish()
}

// ===== cost =====

/// Returns the value of a series of `/metrics`.
fn metric(program: &Server, series: &str) -> f64 {
    let output = Command::new("curl").args(["-sS", &program.url("/metrics")]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix(series)).unwrap().trim().parse().unwrap()
}

/// Starts a collector that takes spans over HTTP and forgets them, and returns its URL.
fn collector() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = |mut stream: TcpStream| -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                match line.to_ascii_lowercase().trim_end() {
                    "" => break,
                    line => length = line.strip_prefix("content-length: ").map_or(length, |n| n.parse().unwrap()),
                }
            }
            if length == 0 {
                return Ok(());
            }
            reader.read_exact(&mut vec![0; length])?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    url
}

fn costs(models: &Path, rounds: usize, seconds: u64) {
    let wide = wide_row(&mut fastrand::Rng::with_seed(2));
    let log = tempfile::tempdir_in(workshop()).unwrap();
    let logs =
        [("LEEWAY_PREDICTION_LOG__PATH", log.path().to_str().unwrap()), ("LEEWAY_PREDICTION_LOG__SAMPLE", "0.1")];
    let monitored = |enabled| Server::measured(models, &[("LEEWAY_MONITORING__ENABLED", enabled)]);
    let collector = collector();
    let traces = [("LEEWAY_TRACING__ENDPOINT", &*collector), ("LEEWAY_TRACING__SAMPLE_RATIO", "0.01")];
    let (off, on, logging) = (monitored("false"), monitored("true"), Server::measured(models, &logs));
    let tracing = Server::measured(models, &traces);
    for (model, series) in [("digits", "2"), ("wide", "1")] {
        let series = format!("leeway_monitoring_memory_bytes{{model=\"{model}\",version=\"{series}\"}}");
        println!("{series} {:.1} MB", metric(&on, &series) / 1e6);
    }
    println!("\nThroughput, one row a request: {rounds} rounds of {seconds} s each, alternating; medians\n");
    println!(
        "| features | connections | on | without, requests/s | with, requests/s | with ÷ without within a round | the \
         server's CPU time a request, without ÷ with |\n|---|---|---|---|---|---|---|"
    );
    for (model, features, instance) in
        [("digits", 64, held_out("digits")["instances"][0].clone()), ("wide", 512, json!(wide))]
    {
        let body = workshop().join(format!("{model}.json"));
        std::fs::write(&body, json!({ "instances": [instance] }).to_string()).unwrap();
        for connections in [16, 64] {
            let measure = |program: &Server, seconds: u64| {
                let url = program.url(&format!("/v1/models/{model}:predict"));
                let cpu = || metric(program, "process_cpu_seconds_total");
                let before = cpu();
                let load = Load::Closed(connections);
                let summary = summarize(&url, &body, load, Duration::from_secs(seconds)).all_good();
                (summary.per_second, (cpu() - before) / summary.good() as f64)
            };
            let compared =
                [("monitoring", &off, &on), ("prediction log", &on, &logging), ("traces of 1 %", &on, &tracing)];
            for (what, without, with) in compared {
                in_turn(1, || measure(without, 1), || measure(with, 1));
                let measured = in_turn(rounds, || measure(without, seconds), || measure(with, seconds));
                println!(
                    "| {features} | {connections} | {what} | {:.0} | {:.0} | {:.3} | {:.3} |",
                    median(measured.iter().map(|(without, _)| without.0)),
                    median(measured.iter().map(|(_, with)| with.0)),
                    Spread::of(measured.iter().map(|(without, with)| with.0 / without.0)),
                    median(measured.iter().map(|(without, with)| without.1 / with.1))
                );
            }
        }
    }
}

// ===== accuracy of the quantiles =====

fn quantiles(models: &Path, seconds: u64) {
    let program = Server::measured(models, &[]);
    let metrics = |path: &str| -> String {
        let url = program.url(path);
        let output = Command::new("curl").args(["-sS", &url]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let shape = serde_json::from_str::<Value>(&metrics("/v1/models/dense")).unwrap();
    let width = shape["versions"][0]["inputs"][0]["shape"][1].as_i64().unwrap();
    let body = workshop().join("dense.json");
    let rows: Vec<Vec<f64>> = vec![vec![0.5; width as usize]; 8];
    std::fs::write(&body, json!({ "instances": rows }).to_string()).unwrap();
    // A third of the capacity, so that some requests wait for others and most do not.
    let url = program.url("/v1/models/dense:predict");
    let alone = summarize(&url, &body, Load::Closed(1), Duration::from_secs(1)).all_good().p50;
    let rate = (1.0 / alone / 3.0).max(1.0).round();
    // A new server, so that its metrics have only the requests that oha measures.
    drop(program);
    let program = Server::measured(models, &[]);
    let url = program.url("/v1/models/dense:predict");
    let summary = summarize(&url, &body, Load::OpenOver(rate, 8), Duration::from_secs(seconds)).all_good();
    let output = Command::new("curl").args(["-sS", &program.url("/metrics")]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    println!(
        "\nQuantiles of {rate} requests/s for {seconds} s, a model of {:.1} ms alone\n\n\
         | | oha, ms | /metrics, ms | /metrics ÷ oha |\n|---|---|---|---|",
        alone * 1e3
    );
    let quantiles = [("P50", "0.5", summary.p50), ("P95", "0.95", summary.p95), ("P99", "0.99", summary.p99)];
    for (name, quantile, theirs) in quantiles {
        let series = format!(
            "leeway_latency_quantile_seconds{{model=\"dense\",version=\"1\",stage=\"total\",quantile=\"{quantile}\"}} "
        );
        let ours: f64 = text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap();
        println!("| {name} | {:.3} | {:.3} | {:.3} |", theirs * 1e3, ours * 1e3, ours / theirs);
    }
}
