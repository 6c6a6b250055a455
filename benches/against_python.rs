//! Texts and images, compared with the usual Python implementations, in one run.
//!
//!     make bench-python
//!
//! 1. all-MiniLM-L6-v2, exported by `examples/sentence_embeddings/export.py`: the difference of the vectors of 100
//!    texts of 3 to 400 words from those of sentence-transformers.
//! 2. Throughput and P50 compared with FastAPI and sentence-transformers on PyTorch
//!    (`benches/python/fastapi_sentences.py`), alternating, at one connection and at 16.
//! 3. The share of padding in the runs, on texts whose lengths are log-normally distributed.
//! 4. Conversion of a JPEG to a tensor, compared with Pillow.
//!
//! The Python packages (PyTorch among them, some hundred megabytes) are installed into `.bench/python`, once.
//! `LEEWAY_BENCH_ROUNDS` and `LEEWAY_BENCH_SECONDS` set the duration of the second part.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use leeway::pipeline::{StageContext, Stages};
use leeway::tensor::{DType, Dim, Signature, TensorSpec};
use leeway_testkit::{
    KillOnDrop, Load, OHA, Server, checkout, in_turn, median, number_from, oha, python, succeed, summarize, workshop,
};
use serde_json::{Value, json};

fn main() {
    let rounds = number_from("LEEWAY_BENCH_ROUNDS", 5) as usize;
    let seconds = number_from("LEEWAY_BENCH_SECONDS", 4);
    oha();
    let python = python("python", "benches/python/requirements.txt", "PyTorch and FastAPI");
    let (models, held_out) = minilm(&python);
    println!("oha {OHA}, {} cores shared with it", std::thread::available_parallelism().unwrap());
    let leeway = Server::measured(&models, &[]);
    truth(&leeway, &held_out);
    beside_fastapi(&python, &leeway, rounds, seconds);
    padding(&leeway);
    beside_pillow(&python);
}

// ===== model =====

/// Exports the model, and 100 texts with their vectors.
fn minilm(python: &Path) -> (PathBuf, Value) {
    let models = workshop().join("sentences");
    let held_out = models.join(".held_out.json");
    if !held_out.exists() {
        println!("exporting all-MiniLM-L6-v2 into .bench/sentences (once) ...");
        let _ = std::fs::remove_dir_all(&models);
        let mut export = Command::new(python);
        export.arg(checkout().join("examples/sentence_embeddings/export.py")).arg(models.join("sentences"));
        export.arg("--held-out").arg(&held_out).stdout(Stdio::null()).stderr(Stdio::null());
        succeed(&mut export);
    }
    let text = std::fs::read_to_string(held_out).unwrap();
    (models, serde_json::from_str(&text).unwrap())
}

fn post(url: &str, body: &Value) -> Value {
    let agent = ureq::Agent::new_with_defaults();
    let answer = agent
        .post(url)
        .header("content-type", "application/json")
        .send(body.to_string())
        .unwrap_or_else(|error| panic!("{url}: {error}"));
    serde_json::from_str(&answer.into_body().read_to_string().unwrap()).unwrap()
}

// ===== correctness =====

fn truth(leeway: &Server, held_out: &Value) {
    let vector = |value: &Value| -> Vec<f64> { serde_json::from_value(value.clone()).unwrap() };
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let distance = |(text, expected): (&Value, &Value)| {
        let answer = post(&leeway.url("/predict"), &json!({ "instances": [text] }));
        let (ours, theirs) = (vector(&answer["predictions"][0]["embedding"]), vector(expected));
        1.0 - product(&ours, &theirs) / (product(&ours, &ours) * product(&theirs, &theirs)).sqrt()
    };
    let texts = held_out["instances"].as_array().unwrap().iter();
    let distances = texts.zip(held_out["embeddings"].as_array().unwrap()).map(distance);
    let worst = distances.fold(0.0, f64::max);
    println!("\n100 texts of 3 to 400 words: at most {worst:.1e} cosine distance from sentence-transformers");
}

// ===== comparison with FastAPI =====

/// The Python server, ended with the bench.
struct FastApi {
    _process: KillOnDrop,
    address: String,
}

impl FastApi {
    fn start(python: &Path) -> FastApi {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(python)
            .args(["-m", "uvicorn", "--log-level", "warning", "--app-dir"])
            .arg(checkout().join("benches/python"))
            .args(["fastapi_sentences:app", "--port", &free.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = FastApi { _process: KillOnDrop(child), address: format!("127.0.0.1:{free}") };
        let begin = Instant::now();
        while std::net::TcpStream::connect(&server.address).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(120), "FastAPI did not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }
}

fn beside_fastapi(python: &Path, leeway: &Server, rounds: usize, seconds: u64) {
    let fastapi = FastApi::start(python);
    let body = workshop().join("sentence.json");
    let text = "The invoice has not arrived since Monday, and nobody answers although I paid.";
    std::fs::write(&body, json!({ "instances": [text] }).to_string()).unwrap();
    let measure = |url: &str, connections: usize, seconds: u64| {
        let load = Load::Closed(connections);
        let summary = summarize(url, &body, load, Duration::from_secs(seconds)).all_good();
        (summary.per_second, 1e3 * summary.p50)
    };
    let [theirs, ours] = [format!("http://{}/predict", fastapi.address), leeway.url("/predict")];
    println!("\nOne text of 19 tokens a request, {rounds} rounds of {seconds} s, alternating; medians\n");
    println!("| connections | FastAPI + PyTorch, requests/s | Leeway | ratio | FastAPI's P50, ms | Leeway's | ratio |");
    println!("|---|---|---|---|---|---|---|");
    for connections in [1, 16] {
        let measure = |url: &str, seconds| measure(url, connections, seconds);
        in_turn(1, || measure(&theirs, 2), || measure(&ours, 2));
        let measured = in_turn(rounds, || measure(&theirs, seconds), || measure(&ours, seconds));
        println!(
            "| {connections} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            median(measured.iter().map(|(theirs, _)| theirs.0)),
            median(measured.iter().map(|(_, ours)| ours.0)),
            median(measured.iter().map(|(theirs, ours)| ours.0 / theirs.0)),
            median(measured.iter().map(|(theirs, _)| theirs.1)),
            median(measured.iter().map(|(_, ours)| ours.1)),
            median(measured.iter().map(|(theirs, ours)| theirs.1 / ours.1))
        );
    }
}

// ===== padding =====

/// Sends texts from 16 clients at the same time. Their numbers of words are log-normally distributed, with a median of
/// 20 and σ = 0.8.
fn padding(leeway: &Server) {
    let elements = |kind: &str| {
        let text = ureq::get(leeway.url("/metrics")).call().unwrap().into_body().read_to_string().unwrap();
        let series = format!("leeway_batch_elements_total{{model=\"sentences\",version=\"1\",kind=\"{kind}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("0");
        value.parse::<f64>().unwrap()
    };
    let runs = || {
        let text = ureq::get(leeway.url("/metrics")).call().unwrap().into_body().read_to_string().unwrap();
        let value = |name: &str| {
            let series = format!("{name}{{model=\"sentences\",version=\"1\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse::<f64>().unwrap()
        };
        (value("leeway_batch_size_sum"), value("leeway_batch_size_count"))
    };
    let before = (elements("input"), elements("padding"), runs());
    std::thread::scope(|scope| {
        for client in 0..16 {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(client);
                for _ in 0..60 {
                    let normal: f64 = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
                    let words = (3.0 + 0.8 * normal).exp().round().clamp(1.0, 400.0) as usize;
                    let text = vec!["invoice"; words].join(" ");
                    post(&leeway.url("/predict"), &json!({ "instances": [text] }));
                }
            });
        }
    });
    let (input, padded) = (elements("input") - before.0, elements("padding") - before.1);
    let (rows, count) = (runs().0 - before.2.0, runs().1 - before.2.1);
    println!(
        "\n960 texts of log-normally many words (median 20, σ 0.8), 16 at a time: {:.1} rows a run, {:.1} % of the \
         elements were padding",
        rows / count,
        1e2 * padded / (input + padded)
    );
}

// ===== comparison with Pillow =====

fn beside_pillow(python: &Path) {
    let photograph = checkout().join("tests/data/images/china.jpg");
    let output =
        Command::new(python).arg(checkout().join("benches/python/pillow_image.py")).arg(&photograph).output().unwrap();
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let photograph = std::fs::read(photograph).unwrap();
    println!("\nA JPEG of 640 x 427 to a tensor of 3 x 224 x 224, on one core; medians of 300\n");
    println!("| filter | Pillow and NumPy, ms | Leeway, ms | ratio |\n|---|---|---|---|");
    for filter in ["bilinear", "bicubic"] {
        let settings = json!({ "kind": "image", "resize": "crop", "shortest": 256, "filter": filter });
        let config = serde_json::from_value(settings).unwrap();
        let dims = [Dim::Dynamic(None), Dim::Fixed(3), Dim::Fixed(224), Dim::Fixed(224)].to_vec();
        let inputs = vec![TensorSpec { name: "x".into(), dtype: DType::F32, dims }];
        let signature = Signature { inputs, ..Signature::default() };
        let files = BTreeMap::new();
        let context = StageContext::new(&config, &signature, &files);
        let stage = Stages::default().preprocessor(context).unwrap();
        let times = (0..300).map(|_| {
            let begin = Instant::now();
            stage.transform_raw("image/jpeg", &photograph, leeway::budget::Deadline::never()).unwrap();
            1e3 * begin.elapsed().as_secs_f64()
        });
        let (ours, theirs) = (median(times), theirs[filter].as_f64().unwrap());
        println!("| {filter} | {theirs:.2} | {ours:.2} | {:.2} |", theirs / ours);
    }
}
