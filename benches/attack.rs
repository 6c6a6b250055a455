//! Twenty minutes of all attacks on memory at once, on a server that is limited to 2 GiB, with honest load of a fifth
//! of its capacity. Three promises: nothing is killed, the honest P99 is at most three times the P99 without attacks,
//! and one minute after the attacks the memory is within 10% of its size at the start.
//!
//!     make bench-attack
//!
//! `benches/attacks.rs` has the attacks. An honest request that is not answered with 200 counts as infinitely slow.
//! `ATTACK_SECONDS` sets the length of the attacks, and of the quiet times if it is less than a minute. `ATTACKS`
//! selects the attacks whose names contain it. Linux only: memory is read from `/proc`. Making the control group
//! requires root.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a bench")]

mod attacks;
mod confinement;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use attacks::{Attack, Phase, Target};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use confinement::Confinement;
use leeway_testkit::{
    Hit, Load, OHA, Question, Repository, Server, TENSOR_STAGES, checkout, copy_folder, fire, held_out, leeway_program,
    meanwhile, number_from, oha, quantile, shipped, together,
};
use serde_json::json;

/// Memory limit of the server, as in the shipped Kubernetes deployment.
const MEMORY: u64 = 2 << 30;

/// Memory that the server reserves for bodies and answers by default.
const BODY_MEMORY: u64 = MEMORY / 8;

/// The honest load, as a share of the server's capacity.
const SHARE: f64 = 0.2;

/// Connections of the honest load to each model, as many as a load balancer keeps open.
const HONEST_CONNECTIONS: usize = 64;

/// The promises, as ratios to a quiet server.
const MAX_P99: f64 = 3.0;
const MAX_MEMORY: f64 = 1.1;

fn main() -> ExitCode {
    let seconds = number_from("ATTACK_SECONDS", 20 * 60);
    oha();
    let repository = repository();
    let confinement = Confinement::new(MEMORY);
    let body_memory = BODY_MEMORY.to_string();
    // The windows of the quantiles grow until they are full, by default for five minutes. That would count as growth.
    let mut settings = vec![("LEEWAY_MONITORING__QUANTILE_WINDOW_MS", "10000")];
    if let Confinement::DataLimit(_) = &confinement {
        // The default would be an eighth of the machine's memory.
        settings.push(("LEEWAY_HTTP__BODY_MEMORY_BYTES", &body_memory));
    }
    let server = Server::measured_by(confinement.command(&leeway_program()), repository.path(), &settings);
    println!(
        "{} cores, shared with oha {OHA} and the attackers; {} MiB of memory, {confinement}",
        std::thread::available_parallelism().unwrap(),
        MEMORY >> 20
    );
    let attacks = attacks::all(&std::env::var("ATTACKS").unwrap_or_default());
    let target = target(&server);
    let phase = Phase::quiet();
    warm_up(&target);
    let question = |model| Question::new(&server, model, &held_out(model)["instances"][0]);
    let questions = ["digits", "penguins"].map(question).into();
    let bench = Bench { questions, server, confinement };
    let (measured, scrapes) = std::thread::scope(|scope| {
        /// Ends the phase also if something fails. Otherwise the scope would wait for its threads forever.
        struct Ended<'a>(&'a Phase);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.end();
            }
        }
        let _ended = Ended(&phase);
        // The threads exist from the beginning, so that the quiet time includes their cost.
        attacks.iter().for_each(|attack| attack.start(scope, &target, &phase));
        meanwhile(|over| scrape(&bench.server, over), || bench.measure(seconds, &phase, &attacks))
    });
    bench.report(&measured, &scrapes, &attacks)
}

fn repository() -> Repository {
    let tensor = format!("{TENSOR_STAGES}[model]\nworkers = 1\nintra_op_threads = 1\n[budget]\ntotal_ms = 5000\n");
    let pictures = "[preprocess]\nkind = \"image\"\nsize = [8, 8]\ncolour = \"gray\"\nscale = 0.06666667\n\
                    [postprocess]\nkind = \"classifier\"\noutput = \"probabilities\"\nscores = \"probabilities\"\n\
                    [model]\nworkers = 1\nintra_op_threads = 1\n[budget]\ntotal_ms = 5000\n";
    let repository = Repository::in_workshop("attack")
        .with_shipped("digits", &[1, 2])
        .with_shipped("penguins", &[1, 2])
        .with("attention", 1, "attention", &tensor)
        .with("echo", 1, "echo_sequence", &tensor)
        .with_version("pictures", 1, &shipped("digits", 2).join("model.onnx"), &[])
        .with_config("pictures", pictures);
    let sentences = checkout().join("tests/data/text/sentences");
    copy_folder(&sentences.join("1"), &repository.version("sentences", 1));
    let settings = std::fs::read_to_string(sentences.join("model.toml")).unwrap();
    repository.with_config("sentences", &settings)
}

fn target(server: &Server) -> Target {
    let address = server.data;
    // The refusal of a row that is certainly too long gives the limit.
    let refusal =
        attacks::ask(address, "/v1/models/attention:predict", &json!({ "instances": [vec![1; 500_000]] }).to_string());
    let longest = refusal.split_once("and at most ").expect(&refusal).1;
    let longest_row = longest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
    println!("The attention takes rows of {longest_row} elements");
    let echoed = json!({ "instances": vec![vec![1_234_567; 100]; 1000] }).to_string();
    Target { address, longest_row, bomb: attacks::bomb(), echoed }
}

/// Sends every kind of request before the start, two at a time, as honest clients would: first use keeps some memory,
/// for code and for the allocator of each thread.
fn warm_up(target: &Target) {
    let echoed = |rows: usize| json!({ "instances": vec![vec![1_234_567; 100]; rows] }).to_string();
    let row = json!({ "instances": [vec![1; target.longest_row]] }).to_string();
    let sentence = json!({ "instances": vec!["so it goes"; 1_000] }).to_string();
    let item = r#"{"prediction_id":"x","label":"1"}"#;
    let feedback = format!(r#"{{"feedback":[{}{item}]}}"#, format!("{item},").repeat(9_999));
    let photograph = std::fs::read(checkout().join("tests/data/images/flower.png")).unwrap();
    let picture = json!({ "instances": [{ "b64": BASE64_STANDARD.encode(photograph) }] }).to_string();
    let requests = [
        ("/v1/models/attention:predict", &row),
        ("/v1/models/echo:predict", &echoed(10)),
        ("/v1/models/echo:predict", &echoed(1_000)),
        ("/v1/models/echo:predict", &echoed(4_000)),
        ("/v1/models/sentences:predict", &sentence),
        ("/v1/models/pictures:predict", &picture),
        ("/feedback", &feedback),
    ];
    for _ in 0..3 {
        for (path, body) in requests {
            std::thread::scope(|scope| {
                let ask = || {
                    let answer = attacks::ask(target.address, path, body);
                    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer:.900}");
                };
                (0..2).for_each(|_| drop(scope.spawn(ask)));
            });
        }
    }
}

// ===== the honest load =====

/// Results of the honest requests for one model.
#[derive(Clone, Default)]
struct Honest {
    /// Latencies in seconds; infinite for requests that were not answered with 200.
    took: Vec<f32>,
    /// Number of answers by status; 0 is for requests without an answer.
    answered: BTreeMap<u16, u64>,
}

impl Honest {
    fn add(&mut self, other: &Honest) {
        self.took.extend_from_slice(&other.took);
        other.answered.iter().for_each(|(status, count)| *self.answered.entry(*status).or_default() += count);
    }

    fn ms(&self, share: f64) -> f64 {
        1e3 * quantile(self.took.iter().copied().map(f64::from), share)
    }

    fn failed(&self) -> u64 {
        self.answered.iter().filter(|(status, _)| **status != 200).map(|(_, count)| count).sum()
    }
}

struct Bench {
    questions: Vec<Question>,
    server: Server,
    confinement: Confinement,
}

/// Results of all phases.
struct Measured {
    quiet: Vec<Honest>,
    attacked: Vec<Honest>,
    /// Memory in mebibytes, at the start and after the attacks.
    start: f64,
    after: f64,
}

impl Bench {
    fn measure(&self, seconds: u64, phase: &Phase, attacks: &[Attack]) -> Measured {
        let busy = self.honest(Duration::from_secs(10), |_| Load::Closed(16));
        let rates: Vec<f64> = busy.iter().map(|honest| SHARE * honest.took.len() as f64 / 10.0).collect();
        for (question, rate) in self.questions.iter().zip(&rates) {
            println!("{}: {rate:.0} requests/s, {SHARE} of what the server did for both at once", question.model);
        }
        let load = |model: usize| Load::OpenOver(rates[model], HONEST_CONNECTIONS);
        let names: Vec<&str> = self.questions.iter().map(|question| question.model).collect();
        println!(
            "\n{:>9} | {:>8} | P50 and P99 in ms, not answered 200: {} | load of the machine",
            "second",
            "RSS MiB",
            names.join(", ")
        );

        let minute = Duration::from_secs(seconds.min(60));
        self.honest(minute / 3, load);
        let mut quiet = self.minute("quiet", minute, load);
        let start = self.memory("VmRSS:");

        println!("{:>9} | up to {} connections of attackers", "", attacks::connections(attacks));
        phase.attack();
        let mut attacked = vec![Honest::default(); self.questions.len()];
        let mut done = 0;
        while done < seconds && !self.memory("VmRSS:").is_nan() {
            let time = (seconds - done).min(60);
            let minute = self.minute(&(done + time).to_string(), Duration::from_secs(time), load);
            attacked.iter_mut().zip(&minute).for_each(|(all, minute)| all.add(minute));
            done += time;
        }
        phase.end();
        self.minute("after", minute, load);
        let after = self.memory("VmRSS:");
        // The machine's other load changes from minute to minute, so quiet times are measured before and after.
        let quiet_again = self.minute("quiet", minute, load);
        quiet.iter_mut().zip(&quiet_again).for_each(|(all, minute)| all.add(minute));
        Measured { quiet, attacked, start, after }
    }

    fn minute(&self, name: &str, time: Duration, load: impl Fn(usize) -> Load) -> Vec<Honest> {
        let minute = self.honest(time, load);
        let of_model = |honest: &Honest| format!("{:.2} {:.2} {}", honest.ms(0.5), honest.ms(0.99), honest.failed());
        println!(
            "{name:>9} | {:>8.1} | {} | {}",
            self.memory("VmRSS:"),
            minute.iter().map(of_model).collect::<Vec<_>>().join(", "),
            machine_load()
        );
        minute
    }

    /// Returns the server's memory in mebibytes; NaN if the server has ended.
    fn memory(&self, which: &str) -> f64 {
        self.server.of_status(which).unwrap_or(f64::NAN)
    }

    /// Sends honest requests to all models at the same time.
    fn honest(&self, time: Duration, load: impl Fn(usize) -> Load) -> Vec<Honest> {
        let ask =
            |question: &Question, load| of_hits(&fire(&question.url, Some(&question.body), load, time), load, time);
        together(&self.questions, load, ask)
    }
}

/// Returns the results of a load, including requests that the load generator does not report.
fn of_hits(hits: &[Hit], load: Load, time: Duration) -> Honest {
    let mut honest = Honest::default();
    for hit in hits {
        honest.took.push(if hit.status == 200 { hit.took as f32 } else { f32::INFINITY });
        *honest.answered.entry(hit.status).or_default() += 1;
    }
    if let Load::OpenOver(rate, connections) = load {
        // Requests in flight at the end are cut off.
        let offered = (rate * time.as_secs_f64()) as usize;
        let missing = offered.saturating_sub(hits.len() + connections);
        if missing > 0 {
            honest.took.resize(honest.took.len() + missing, f32::INFINITY);
            honest.answered.insert(0, missing as u64);
        }
    }
    honest
}

/// Asks what Prometheus and an orchestrator ask, every five seconds. Returns the number and the longest duration of
/// each outcome.
fn scrape(server: &Server, over: &AtomicBool) -> BTreeMap<String, (u64, Duration)> {
    let mut outcomes: BTreeMap<String, (u64, Duration)> = BTreeMap::new();
    for half_second in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        for (address, path) in [(server.data, "/metrics"), (server.data, "/livez"), (server.admin, "/readyz")] {
            if half_second % 10 != 0 {
                continue;
            }
            let begin = Instant::now();
            let status = get(address, path).unwrap_or_else(|error| error.kind().to_string());
            let (count, longest) = outcomes.entry(format!("{path} {status}")).or_default();
            (*count, *longest) = (*count + 1, begin.elapsed().max(*longest));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    outcomes
}

/// Reads a whole response and returns its status.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\naccept-encoding: gzip\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer.get(9..12).map_or("closed".into(), |status| String::from_utf8_lossy(status).into_owned()))
}

fn machine_load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(1).collect()
}

// ===== report =====

impl Bench {
    fn report(
        mut self,
        measured: &Measured,
        scrapes: &BTreeMap<String, (u64, Duration)>,
        attacks: &[Attack],
    ) -> ExitCode {
        println!("\n{:<46} {:>8}  outcomes", "attack", "sent");
        for attack in attacks {
            let mut outcomes = attack.outcomes();
            let sent = outcomes.remove("sent").unwrap_or(0);
            let outcomes: Vec<String> = outcomes.iter().map(|(what, count)| format!("{what}: {count}")).collect();
            println!("{:<46} {sent:>8}  {}", attack.name, outcomes.join(", "));
        }

        println!(
            "\n{:<10} {:>10} {:>10} {:>10} {:>10} {:>6}  answers while attacked",
            "honest", "quiet P50", "P99 ms", "attacked P50", "P99 ms", "ratio"
        );
        let mut worst: f64 = 0.0;
        for ((question, quiet), attacked) in self.questions.iter().zip(&measured.quiet).zip(&measured.attacked) {
            let ratio = attacked.ms(0.99) / quiet.ms(0.99);
            worst = worst.max(ratio);
            println!(
                "{:<10} {:>10.2} {:>10.2} {:>12.2} {:>10.2} {ratio:>6.2}  {:?}",
                question.model,
                quiet.ms(0.5),
                quiet.ms(0.99),
                attacked.ms(0.5),
                attacked.ms(0.99),
                attacked.answered
            );
        }

        for (what, (count, longest)) in scrapes {
            println!("{what}: {count}, the slowest in {:.1} ms", 1e3 * longest.as_secs_f64());
        }

        let ended = self.server.ended();
        let kills = self.confinement.kills();
        let Measured { start, after, .. } = *measured;
        let group =
            self.confinement.peak().map(|peak| format!(", its control group {peak:.0} MiB")).unwrap_or_default();
        println!(
            "\nRSS: {start:.1} MiB at the start, {:.1} MiB at the most{group}, {after:.1} MiB a minute after",
            self.memory("VmHWM:")
        );

        println!();
        let promises = [
            (
                ended.is_none() && kills == 0,
                format!(
                    "no kill: process {} {}, the kernel has ended {kills}",
                    self.server.process(),
                    ended.map_or("lives".to_owned(), |status| status.to_string())
                ),
            ),
            (worst <= MAX_P99, format!("honest P99 at most {MAX_P99} times that of quiet: {worst:.2}")),
            (
                after <= MAX_MEMORY * start,
                format!(
                    "RSS back within {:.0}% of the start: {:+.1}%",
                    1e2 * (MAX_MEMORY - 1.0),
                    1e2 * (after / start - 1.0)
                ),
            ),
        ];
        for (is_kept, promise) in &promises {
            println!("{} {promise}", if *is_kept { "PASS" } else { "FAIL" });
        }
        if promises.iter().all(|(is_kept, _)| *is_kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
