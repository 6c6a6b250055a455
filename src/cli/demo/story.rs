//! The story of the demo, step by step. Every number in it comes from the server.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::client::Client;
use super::folder::{CANARY, DemoFolder, MODEL, VERSION, add_canary};
use super::penguins::Penguin;
use super::traffic::{Source, Traffic};
use crate::api::admin::{ChangeOutcome, History, HistoryQuery, ModelDrift, Overview, RollbackChange, TrafficChange};
use crate::cli::drift_change::change;
use crate::cli::metrics_text::Metrics;
use crate::cli::table_cells::words;
use crate::cli::terminal;
use crate::pipeline::Object;
use crate::traffic::Share;

/// Number of requests in each of the three parts with traffic: enough for drift, which is measured on 100 rows or more.
const REQUESTS: usize = 600;
/// Share of the demo's time in each of these parts. The rest is for the start of the server and of the canary.
const PART: f64 = 0.3;
/// Share of the requests that the canary gets, in percent.
const CANARY_PERCENT: f64 = 30.0;
const AUTHOR: &str = "leeway demo";

/// The story, and what it needs while it is told.
pub(super) struct Story {
    server: Client,
    folder: PathBuf,
    /// Length of each part with traffic.
    part: Duration,
    is_over: Arc<AtomicBool>,
    out: terminal::Printable<std::io::Stdout>,
}

/// Counts of a version, from the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counts {
    requests: f64,
    labels: f64,
    correct: f64,
}

impl Story {
    pub(super) fn new(server: Client, folder: &DemoFolder, length: Duration, is_over: Arc<AtomicBool>) -> Story {
        let (folder, part) = (folder.path().to_owned(), length.mul_f64(PART));
        Story { server, folder, part, is_over, out: terminal::stdout() }
    }

    /// Tells the story, from the first request to the last outcome.
    pub(super) fn tell(&mut self) -> Result<()> {
        let source = Source::new(Arc::clone(&self.is_over))?;
        self.start()?;
        self.traffic_with_labels(&source)?;
        self.canary(&source)?;
        self.rollback()?;
        self.drift(&source)?;
        self.last_numbers()
    }

    fn start(&mut self) -> Result<()> {
        let (data, admin, folder) = (&self.server.data, &self.server.admin, self.folder.display());
        write!(
            self.out,
            "Leeway in about {:.0} seconds. All numbers are those of a real server on this\n\
             machine, and each line with $ is the command that does the same.\n\n\
             1. A server starts, with a shipped model\n\n   \
             {MODEL}: from six columns of a table to the species of a penguin.\n   \
             for clients    http://{data} (its API: http://{data}/docs)\n   \
             for operators  http://{admin}\n   \
             its files      {folder}\n   \
             The commands below find it in another terminal after\n     \
             export LEEWAY_SERVER=http://{admin}\n\n",
            self.part.as_secs_f64() / PART
        )?;
        let overview: Overview = self.server.get("/models")?;
        for version in overview.models.iter().flat_map(|model| &model.versions) {
            let manifest = version.manifest.as_deref();
            let description = manifest.and_then(|manifest| manifest.description.as_deref()).unwrap_or_default();
            let (number, share) = (version.version, version.traffic_percent);
            writeln!(self.out, "   Version {number} ({description}) gets {share} of the requests.")?;
        }
        Ok(())
    }

    fn traffic_with_labels(&mut self, source: &Source) -> Result<()> {
        let (data, example) = (&self.server.data, source.example()?);
        // A terminal has 80 columns.
        let break_before = |row: String, column| row.replace(column, &format!("\n         {column}"));
        let example = ["\"bill_depth", "\"body_mass"].into_iter().fold(example, break_before);
        write!(
            self.out,
            "\n2. Traffic, and labels\n\n   \
             $ curl http://{data}/v1/models/{MODEL}:predict \\\n       \
             -H 'content-type: application/json' \\\n       \
             -d '{{\"instances\":[{example}]}}'\n\n   \
             Each prediction has an id. When the true species is known, it is sent back\n   \
             with the id (POST /feedback): so the server knows how often it was right.\n\n"
        )?;
        self.send(source, |penguin| penguin)?;
        let metrics = self.server.metrics()?;
        let within = |quantile: &str| {
            let labels = [("model", MODEL), ("version", VERSION), ("stage", "total"), ("quantile", quantile)];
            metrics.value("latency_quantile_seconds", &labels).unwrap_or(f64::NAN) * 1e3
        };
        let (half, most) = (within("0.5"), within("0.95"));
        let counts = Counts::of(&metrics, VERSION);
        writeln!(self.out, "   Half of the answers took up to {half:.1} ms, and 95% of them up to {most:.1} ms.")?;
        writeln!(
            self.out,
            "   Version {VERSION} was right in {:.0} of {:.0} predictions: accuracy {:.2}.",
            counts.correct,
            counts.labels,
            counts.accuracy()
        )?;
        self.drifted_features()?;
        writeln!(
            self.out,
            "\n   Each feature is compared with the training data. A difference counts if it\n   \
             is large, and not explained by chance."
        )?;
        Ok(())
    }

    fn canary(&mut self, source: &Source) -> Result<()> {
        add_canary(&self.folder)?;
        self.server.post::<Overview>("/reload", &Object(BTreeMap::<String, String>::new()))?;
        write!(
            self.out,
            "\n3. A canary that is worse\n\n   \
             Somebody trains the model again, and its test says 0.99, as before. But the\n   \
             training had the body mass in kilograms, and requests have it in grams.\n   \
             Nobody has seen that. Version {CANARY} gets {CANARY_PERCENT:.0}% of the requests:\n\n   \
             $ leeway traffic {MODEL} {VERSION}={:.0} {CANARY}={CANARY_PERCENT:.0} --reason \"trained again\"\n\n",
            100.0 - CANARY_PERCENT
        )?;
        let shares = [(VERSION, 100.0 - CANARY_PERCENT), (CANARY, CANARY_PERCENT)]
            .map(|(version, percent)| Ok((version.parse()?, Share::from_percent(percent)?)));
        let shares = shares.into_iter().collect::<Result<BTreeMap<_, _>>>()?;
        let change = TrafficChange {
            shares: Object(shares),
            by: AUTHOR.to_owned(),
            reason: "trained again".to_owned(),
            if_generation: None,
            wait_ms: None,
        };
        self.server.put::<ChangeOutcome>(&format!("/models/{MODEL}/traffic"), &change)?;
        self.send(source, |penguin| penguin)?;
        let metrics = self.server.metrics()?;
        let (before, canary) = (Counts::of(&metrics, VERSION), Counts::of(&metrics, CANARY));
        writeln!(self.out)?;
        self.versions(&metrics)?;
        let verdict = if canary.accuracy() < before.accuracy() { "worse than" } else { "as good as" };
        writeln!(self.out, "\n   The outcomes show it: version {CANARY} is {verdict} version {VERSION}.")?;
        Ok(())
    }

    fn rollback(&mut self) -> Result<()> {
        write!(self.out, "\n4. Rollback\n\n   $ leeway rollback {MODEL} --reason \"the canary is worse\"\n\n")?;
        let change = RollbackChange {
            by: AUTHOR.to_owned(),
            reason: "the canary is worse".to_owned(),
            if_generation: None,
            wait_ms: None,
        };
        let begin = Instant::now();
        let ChangeOutcome { before, deployment, .. } =
            self.server.post(&format!("/models/{MODEL}/rollback"), &change)?;
        let took = begin.elapsed().as_secs_f64() * 1e3;
        writeln!(self.out, "   {before} -> {}, in {took:.1} ms: nothing had to be loaded.", deployment.traffic)?;
        Ok(())
    }

    fn drift(&mut self, source: &Source) -> Result<()> {
        write!(
            self.out,
            "\n5. Drift\n\n   \
             The app that sends the requests is updated: it sends lengths in centimetres\n   \
             now. Every request is still valid, and gets an answer.\n\n"
        )?;
        let before = Counts::of(&self.server.metrics()?, VERSION);
        self.send(source, Penguin::in_centimetres)?;
        let lately = Counts::of(&self.server.metrics()?, VERSION).since(before);
        let drifted = self.drifted_features()?;
        let are = if drifted.len() == 1 { "feature has" } else { "features have" };
        writeln!(
            self.out,
            "\n   {} {are} drifted. That needs no labels, which often come late. Here,\n   \
             they confirm it: {:.0} of the last {:.0} predictions were right.",
            drifted.len(),
            lately.correct,
            lately.labels
        )?;
        Ok(())
    }

    fn last_numbers(&mut self) -> Result<()> {
        writeln!(self.out, "\n6. At the end\n")?;
        let metrics = self.server.metrics()?;
        self.versions(&metrics)?;
        writeln!(self.out, "   (The accuracy of version {VERSION} includes the part with centimetres.)")?;
        writeln!(self.out, "\n   $ leeway history {MODEL}\n")?;
        let history: History =
            self.server.get(&format!("/models/{MODEL}/history?limit={}", HistoryQuery::default().limit))?;
        for deployment in history.deployments {
            let (action, reason) = (deployment.change.action.name(), &deployment.change.reason);
            writeln!(self.out, "   {action:<9} {:<14} {reason}", deployment.traffic.to_string())?;
        }
        Ok(())
    }

    /// Sends the traffic of a part of the story.
    fn send(&mut self, source: &Source, change: fn(Penguin) -> Penguin) -> Result<()> {
        let traffic = Traffic { requests: REQUESTS, length: self.part, change };
        let refused = source.send(&self.server, traffic)?;
        writeln!(self.out, "   {REQUESTS} requests, {} of them answered.", REQUESTS - refused)?;
        Ok(())
    }

    /// Prints the counts of both versions.
    fn versions(&mut self, metrics: &Metrics) -> Result<()> {
        writeln!(self.out, "   version   requests   labels   right   accuracy")?;
        for version in [VERSION, CANARY] {
            let counts = Counts::of(metrics, version);
            writeln!(
                self.out,
                "   {version:<7} {:>10.0} {:>8.0} {:>7.0} {:>10.2}",
                counts.requests,
                counts.labels,
                counts.correct,
                counts.accuracy()
            )?;
        }
        Ok(())
    }

    /// Prints the drift of the features, and returns the names of those that have drifted.
    fn drifted_features(&mut self) -> Result<Vec<String>> {
        let drift: ModelDrift = self.server.get(&format!("/models/{MODEL}/drift?version={VERSION}"))?;
        let version = drift.versions.into_iter().next().context("the server reports no drift")?;
        let mut drifted = Vec::new();
        writeln!(self.out, "\n   $ leeway drift {MODEL} --version {VERSION}\n")?;
        writeln!(self.out, "   feature             status    change")?;
        for feature in version.report.features {
            let status = words(feature.status.name());
            let line = format!("{:<19} {status:<9} {}", feature.name, change(&feature));
            writeln!(self.out, "   {}", line.trim_end())?;
            if feature.status == crate::monitor::DriftStatus::Drifted {
                drifted.push(feature.name);
            }
        }
        Ok(drifted)
    }
}

impl Counts {
    fn of(metrics: &Metrics, version: &str) -> Counts {
        let of = |name| metrics.sum(name, &[("model", MODEL), ("version", version)]);
        Counts {
            requests: of("requests_total"),
            labels: of("outcome_labels_total"),
            correct: of("outcome_correct_total"),
        }
    }

    fn since(self, before: Counts) -> Counts {
        Counts {
            requests: self.requests - before.requests,
            labels: self.labels - before.labels,
            correct: self.correct - before.correct,
        }
    }

    /// Returns the share of predictions with a label that were right; NaN without labels.
    fn accuracy(self) -> f64 {
        self.correct / self.labels
    }
}

/// Prints the end: what is left behind, and what to try next.
pub(super) fn end(kept: Option<&Path>, told: Result<()>) -> Result<()> {
    told?;
    let mut out = terminal::stdout();
    match kept {
        None => writeln!(out, "\nThe server has stopped, and its files are removed.\n")?,
        Some(folder) => writeln!(
            out,
            "\nThe server has stopped. Its files are kept; to serve them, with their history:\n\n  \
             LEEWAY_STATE__URL=sqlite:{0}/leeway.db leeway serve --models {0}/models\n",
            folder.display()
        )?,
    }
    write!(
        out,
        "What to try next:\n\n  \
         leeway serve model.onnx     a model of yours, at once\n  \
         leeway init model.onnx      a folder for it, with its settings in a file\n  \
         leeway demo --keep          the demo again; its files stay, and can be served\n"
    )?;
    Ok(())
}
