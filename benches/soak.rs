//! Half an hour at half of the server's capacity, with a new version every minute: shows growth of memory and failed
//! requests. Then a storm of twice the capacity: shows if the memory returns to its size before.
//!
//!     make bench-soak
//!
//! oha sends requests to three models at fixed rates. Meanwhile predictions get feedback, `/metrics` is scraped, and
//! bad requests are sent. Every minute a version is added and promoted, and every third one rolled back.
//! `LEEWAY_BENCH_MINUTES` sets the time before the storm. Linux only: memory is read from `/proc`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leeway_testkit::{
    Load, OHA, Question, Repository, Server, Summary, TENSOR_STAGES, copy_folder, held_out, meanwhile, number_from,
    oha, shipped, summarize, together,
};
use serde_json::{Value, json};

/// Minutes that are not counted, in which caches, windows and the allocator reach their size.
const SETTLING: u32 = 5;

/// Load in the soak and in the storm, as a share of the capacity.
const SHARE: f64 = 0.5;
const STORM: f64 = 2.0;

/// Minutes of the storm, and of the time after it, at the load of the soak.
const STORM_MINUTES: u64 = 2;
const CALM_MINUTES: u64 = 5;

/// Interval at which memory is read.
const SAMPLING: Duration = Duration::from_secs(5);

/// Number of versions of the changing model that are kept in the repository.
const KEPT_VERSIONS: u32 = 6;

fn main() {
    let minutes = number_from("LEEWAY_BENCH_MINUTES", 30) as u32;
    assert!(minutes > SETTLING + 1, "LEEWAY_BENCH_MINUTES has to be at least {}", SETTLING + 2);
    oha();
    let dense = format!("{TENSOR_STAGES}[model]\nworkers = 1\nintra_op_threads = 1\nmax_batch_size = 8\n");
    let repository = Repository::in_workshop("soak")
        .with_shipped("digits", &[1, 2])
        .with_shipped("penguins", &[1, 2])
        .with("dense", 1, "dense", &dense);
    // Each load keeps all its connections open.
    let server = Server::measured(repository.path(), &[("LEEWAY_HTTP__CONNECTION_LIMIT", "2048")]);
    let questions = questions(&server);
    let ask = |question: &Question, load| {
        summarize(&question.url, &question.body, load, Duration::from_secs(10)).all_good().per_second
    };
    println!("{} cores, shared with oha {OHA}", std::thread::available_parallelism().unwrap());

    let capacity = together(&questions, |_| Load::Closed(16), ask);
    for (Question { model, .. }, capacity) in questions.iter().zip(&capacity) {
        println!("{model}: {:.0} requests/s, {SHARE} of what the server did for all at once", SHARE * capacity);
    }

    let soak = Soak { repository, server, questions, capacity };
    let (_, outcomes) = meanwhile(
        |over| beside(&soak.server, over),
        || {
            soak.print_headings();
            let (_, memory) = meanwhile(|over| sample(&soak.server, over), || soak.minutes(minutes));
            report(&memory);
            let (_, memory) = meanwhile(|over| sample(&soak.server, over), || soak.storm());
            let most = memory.iter().map(|(_, memory)| *memory).fold(0.0, f64::max);
            println!("At most {most:.1} MiB in the storm; {:.1} MiB now", soak.server.memory());
        },
    );
    println!("\nOther requests, by outcome: {outcomes:?}");
}

/// A server under load, with its models.
struct Soak {
    repository: Repository,
    server: Server,
    questions: Vec<Question>,
    /// Capacity of each model under load on all of them, in requests a second.
    capacity: Vec<f64>,
}

impl Soak {
    fn minutes(&self, minutes: u32) {
        for minute in 1..=minutes {
            let swap = |_: &AtomicBool| {
                std::thread::sleep(Duration::from_secs(30));
                self.swap(2 + minute);
            };
            meanwhile(swap, || self.minute(&minute.to_string(), SHARE));
        }
    }

    fn storm(&self) {
        println!("\nA storm of {STORM} times the capacity, then {SHARE} as before:");
        self.print_headings();
        for minute in 1..=STORM_MINUTES {
            self.minute(&format!("storm {minute}"), STORM);
        }
        for minute in 1..=CALM_MINUTES {
            self.minute(&format!("after {minute}"), SHARE);
        }
    }

    fn print_headings(&self) {
        let names = self.questions.iter().map(|question| question.model).collect::<Vec<_>>().join(", ");
        println!(
            "\n{:>8} | {:>8} | {:>9} {:>7} {:>7} | P99 ms of all answers: {names}",
            "minute", "RSS MiB", "200", "failed", "missing"
        );
    }

    /// Runs a minute of load at this share of the capacity.
    fn minute(&self, name: &str, share: f64) {
        let load = |model: usize| Load::Open(share * self.capacity[model]);
        let ask = |question: &Question, load| summarize(&question.url, &question.body, load, Duration::from_secs(60));
        let summaries = together(&self.questions, load, ask);
        let sum = |of: fn(&Summary) -> u64| summaries.iter().map(of).sum::<u64>();
        println!(
            "{name:>8} | {:>8.1} | {:>9} {:>7} {:>7.0} | {}",
            self.server.memory(),
            sum(Summary::good),
            sum(Summary::failed),
            summaries.iter().map(Summary::missing).sum::<f64>(),
            summaries.iter().map(|summary| format!("{:.2}", summary.p99 * 1e3)).collect::<Vec<_>>().join("  "),
        );
        for (question, summary) in self.questions.iter().zip(&summaries).filter(|(_, summary)| summary.failed() > 0) {
            println!("         {}: {:?}, not answered: {:?}", question.model, summary.answered, summary.unanswered);
        }
    }

    /// Adds a version of the digits and gives it all requests. Rolls every third one back, and removes the oldest
    /// version.
    fn swap(&self, version: u32) {
        let hidden = self.repository.path().join("digits/.adding");
        copy_folder(&shipped("digits", 1 + version % 2), &hidden);
        std::fs::rename(hidden, self.repository.version("digits", version)).unwrap();
        self.server.command(&["reload"]);
        self.server.command(&["promote", "digits", &version.to_string(), "--reason", "a soak"]);
        if version.is_multiple_of(3) {
            self.server.command(&["rollback", "digits", "--reason", "a soak"]);
        }
        if version > KEPT_VERSIONS {
            std::fs::remove_dir_all(self.repository.version("digits", version - KEPT_VERSIONS)).unwrap();
        }
    }
}

// ===== memory =====

/// Returns the server's memory every few seconds, with the minutes since the beginning.
fn sample(server: &Server, over: &AtomicBool) -> Vec<(f64, f64)> {
    let begin = Instant::now();
    let mut samples = Vec::new();
    while !over.load(Ordering::Relaxed) {
        samples.push((begin.elapsed().as_secs_f64() / 60.0, server.memory()));
        std::thread::sleep(SAMPLING);
    }
    samples
}

fn report(memory: &[(f64, f64)]) {
    let settled: Vec<(f64, f64)> =
        memory.iter().copied().filter(|(minute, _)| *minute >= f64::from(SETTLING)).collect();
    let values = || settled.iter().map(|(_, value)| *value);
    println!(
        "\nRSS after the first {SETTLING} minutes: {:.1} to {:.1} MiB, slope {:+.3} MiB a minute",
        values().fold(f64::MAX, f64::min),
        values().fold(0.0, f64::max),
        slope(&settled),
    );
    let (first, second) = settled.split_at(settled.len() / 2);
    let mean = |part: &[(f64, f64)]| part.iter().map(|(_, value)| value).sum::<f64>() / part.len() as f64;
    println!("Mean of its first half {:.1} MiB, of its second half {:.1} MiB", mean(first), mean(second));
}

/// Returns the slope of the least-squares line.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = (points.iter().map(|p| p.0).sum::<f64>() / count, points.iter().map(|p| p.1).sum::<f64>() / count);
    points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

// ===== requests =====

fn questions(server: &Server) -> Vec<Question> {
    vec![
        Question::new(server, "digits", &held_out("digits")["instances"][0]),
        Question::new(server, "penguins", &held_out("penguins")["instances"][0]),
        Question::new(server, "dense", &json!([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])),
    ]
}

/// Sends, at most ten times a second, a prediction with feedback and a bad request, and with every tenth of them a
/// scrape. Returns the number of answers by kind and status; 200 is expected, and 400 for bad requests.
#[tokio::main(flavor = "current_thread")]
async fn beside(server: &Server, over: &AtomicBool) -> BTreeMap<String, u64> {
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
    let held_out = held_out("digits");
    let rows = held_out["instances"].as_array().unwrap();
    let mut outcomes = BTreeMap::new();
    let mut ask = async |what: &str, request: reqwest::RequestBuilder| -> Option<Value> {
        let answer = request.send().await;
        let status = answer.as_ref().map_or_else(|error| error.to_string(), |answer| answer.status().to_string());
        *outcomes.entry(format!("{what}: {status}")).or_default() += 1;
        answer.ok()?.json().await.ok()
    };
    for turn in 0_usize.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let row = turn % rows.len();
        let predict = || client.post(server.url("/v1/models/digits:predict"));
        let prediction = ask("prediction", predict().body(json!({ "instances": [rows[row]] }).to_string())).await;
        if let Some(id) = prediction.as_ref().and_then(|answer| answer["prediction_ids"][0].as_str()) {
            let item = json!({ "prediction_id": id, "label": held_out["digits"][row] });
            ask("feedback", client.post(server.url("/feedback")).body(json!({ "feedback": [item] }).to_string())).await;
        }
        // Of many sizes, for allocations of many sizes. A busy machine may not read the largest in time.
        ask("bad request", predict().body("[".repeat(1 << (turn % 20)))).await;
        if turn % 10 == 0 {
            ask("scrape", client.get(server.url("/metrics"))).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    outcomes
}
