//! Open and closed load on a server, by oha, and the outcomes of the requests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::places::workshop;
use crate::server::Server;

/// Version of the load generator.
pub const OHA: &str = "1.16.0";

/// Kind and amount of load.
#[derive(Clone, Copy)]
pub enum Load {
    /// This number of connections, each sending its next request when it has its answer.
    Closed(usize),
    /// This number of requests a second, even if earlier ones are not answered yet.
    Open(f64),
    /// As `Open`, over this number of connections.
    OpenOver(f64, usize),
}

impl Load {
    fn connections(self) -> usize {
        match self {
            Load::Closed(connections) | Load::OpenOver(_, connections) => connections,
            Load::Open(_) => OPEN_CONNECTIONS,
        }
    }

    /// Returns the requests a second of an open load.
    fn rate(self) -> Option<f64> {
        match self {
            Load::Closed(_) => None,
            Load::Open(rate) | Load::OpenOver(rate, _) => Some(rate),
        }
    }
}

/// Connections of an open load, and so its maximum number of requests in flight.
const OPEN_CONNECTIONS: usize = 512;

/// Time after which a request counts as not answered.
const TIMEOUT: &str = "10s";

/// Minimum share of the requests of an open load whose outcome is known. With less, the load was not as asked for.
const MIN_HEARD: f64 = 0.98;

/// Outcomes of the requests of a load, in numbers.
pub struct Summary {
    /// Number of answers per second.
    pub per_second: f64,
    /// Quantiles of the latency of answered requests, in seconds.
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    /// Number of answers, by status.
    pub answered: BTreeMap<u16, u64>,
    /// Number of requests without an answer, by error.
    pub unanswered: BTreeMap<String, u64>,
    /// Number of requests that an open load should have had.
    pub offered: Option<f64>,
}

impl Summary {
    pub fn good(&self) -> u64 {
        self.answered.get(&200).copied().unwrap_or(0)
    }

    /// Returns the number of requests that were not answered with 200, or not at all.
    pub fn failed(&self) -> u64 {
        self.answered.values().sum::<u64>() - self.good() + self.unanswered.values().sum::<u64>()
    }

    /// Returns the number of requests of an open load without a known outcome: they were cut off by its end, or not
    /// sent because all connections were waiting for an answer.
    pub fn missing(&self) -> f64 {
        self.offered.map_or(0.0, |offered| offered - (self.good() + self.failed()) as f64)
    }

    /// Returns this summary. Panics if a request failed or too many are missing.
    pub fn all_good(self) -> Summary {
        assert!(self.good() > 0 && self.failed() == 0, "{:?}, not answered: {:?}", self.answered, self.unanswered);
        if let Some(offered) = self.offered {
            assert!(self.missing() <= (1.0 - MIN_HEARD) * offered + 1.0, "{} of {offered} are missing", self.missing());
        }
        self
    }
}

/// One answered request; times in seconds.
#[derive(Clone, Copy)]
pub struct Hit {
    /// Time of sending, since the beginning of the load.
    pub sent: f64,
    pub took: f64,
    pub status: u16,
}

/// Puts a URL under load and returns a summary of the outcomes. `body` is a file.
pub fn summarize(url: &str, body: &Path, load: Load, time: Duration) -> Summary {
    let output = command(Some(body), load, time).args(["--output-format", "json"]).arg(url).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).expect("oha's report is not JSON");
    let counts = |key: &str| {
        let counts = report[key].as_object().unwrap().clone();
        counts.into_iter().map(|(what, count)| (what, count.as_u64().unwrap()))
    };
    let quantile = |name: &str| report["latencyPercentiles"][name].as_f64().unwrap_or(f64::NAN);
    let answered: BTreeMap<u16, u64> =
        counts("statusCodeDistribution").map(|(status, count)| (status.parse().unwrap(), count)).collect();
    Summary {
        // oha's own `requestsPerSec` also counts the requests that its end cut off.
        per_second: answered.values().sum::<u64>() as f64 / report["summary"]["total"].as_f64().unwrap(),
        p50: quantile("p50"),
        p95: quantile("p95"),
        p99: quantile("p99"),
        answered,
        unanswered: counts("errorDistribution").filter(|(what, _)| !what.contains("aborted due to deadline")).collect(),
        offered: load.rate().map(|rate| rate * time.as_secs_f64()),
    }
}

/// Puts a URL under load and returns every answered request; oha does not report other requests here. `body` is a file.
pub fn fire(url: &str, body: Option<&Path>, load: Load, time: Duration) -> Vec<Hit> {
    let output = command(body, load, time).args(["--output-format", "csv"]).arg(url).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().expect("oha's report is empty").split(',').collect();
    let column = |name| names.iter().position(|known| *known == name).expect("oha's report has other columns");
    let (sent, took, status) = (column("request-start"), column("request-duration"), column("status"));
    let hit = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        Hit {
            sent: fields[sent].parse().unwrap(),
            took: fields[took].parse().unwrap(),
            status: fields[status].parse().unwrap(),
        }
    };
    lines.map(hit).collect()
}

fn command(body: Option<&Path>, load: Load, time: Duration) -> Command {
    let mut command = Command::new(oha());
    command.args(["--no-tui", "-t", TIMEOUT, "-z", &format!("{}ms", time.as_millis())]);
    command.args(["-c", &load.connections().to_string()]);
    if let Some(rate) = load.rate() {
        command.args(["-q", &rate.to_string()]);
    }
    if let Some(body) = body {
        command.args(["-m", "POST", "-T", "application/json", "-D"]).arg(body);
    }
    command
}

/// Returns the path of the load generator, after installing it with cargo if necessary.
pub fn oha() -> PathBuf {
    let path = workshop().join("bin/oha");
    if !path.exists() {
        println!("installing oha {OHA} into .bench (once, some minutes) ...");
        let installed = Command::new("cargo")
            .args(["install", "--quiet", "--locked", "oha", "--version", OHA, "--root"])
            .arg(workshop())
            .status()
            .unwrap();
        assert!(installed.success(), "oha could not be installed");
    }
    path
}

/// A request that is repeated under load.
pub struct Question {
    /// The model that is asked.
    pub model: &'static str,
    /// The URL.
    pub url: String,
    /// The file with the body.
    pub body: PathBuf,
}

impl Question {
    /// Makes a request with one instance for a model of a server.
    pub fn new(server: &Server, model: &'static str, instance: &Value) -> Question {
        let body = workshop().join(format!("question-{model}.json"));
        std::fs::write(&body, serde_json::json!({ "instances": [instance] }).to_string()).expect("a file below .bench");
        Question { model, url: server.url(&format!("/v1/models/{model}:predict")), body }
    }
}

/// Runs the loads of all questions at the same time.
pub fn together<T: Send>(
    questions: &[Question],
    load: impl Fn(usize) -> Load,
    ask: impl Fn(&Question, Load) -> T + Sync,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let ask = &ask;
        let one = |(index, question)| {
            let load = load(index);
            scope.spawn(move || ask(question, load))
        };
        let asked: Vec<_> = questions.iter().enumerate().map(one).collect();
        asked.into_iter().map(|asked| asked.join().expect("the load generator")).collect()
    })
}
