//! Prometheus itself: checks of the shipped files, and a server that scrapes two replicas.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use leeway::feature::{Certainty, FeatureSchema, Features, Observation};
use leeway::monitor::{Baseline, Drift, LabelledCounter, Sample};
use leeway::repository::Manifest;
use serde_json::{Value, json};

use crate::deployment::yaml;
use crate::harness::{
    KillOnDrop, PATIENCE, PLAIN, Repository, Server, TestApp, checkout, client, copy_folder, held_out,
};

/// Scrape interval of the replicas, in milliseconds.
const SCRAPE_MS: u64 = 500;

/// A program of Debian's package, which `make prometheus` has installed.
fn program(name: &str) -> Command {
    let path = checkout().join(".prometheus/bin").join(name);
    assert!(path.exists(), "there is no {}; `make prometheus` fetches it, and so does `make test`", path.display());
    Command::new(path)
}

fn promtool(arguments: &[&str]) {
    let output =
        program("promtool").args(arguments).current_dir(checkout().join("deploy/prometheus")).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn the_configuration_and_the_rules_are_valid() {
    promtool(&["check", "config", "prometheus.yml"]);
}

/// Each alert fires, with its text, when its condition becomes true, and ends when it becomes false.
#[test]
fn the_rules_pass_their_tests() {
    let mut tests: Vec<String> = std::fs::read_dir(checkout().join("deploy/prometheus/tests"))
        .unwrap()
        .map(|entry| format!("tests/{}", entry.unwrap().file_name().to_string_lossy()))
        .collect();
    tests.sort();
    assert!(tests.len() >= 5);
    let arguments: Vec<&str> = ["test", "rules"].into_iter().chain(tests.iter().map(String::as_str)).collect();
    promtool(&arguments);
    // Every alert has a test.
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap();
    let tests: String = tests.iter().map(|test| read(checkout().join("deploy/prometheus").join(test))).collect();
    let alerts = read(checkout().join("deploy/prometheus/rules/leeway.alerts.yml"));
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_pass_promtools_check() {
    let app = TestApp::start().await;
    let answer =
        app.predict("/predict", json!({ "instances": held_out("digits")["instances"] }).to_string()).await.json();
    let items: Vec<Value> = answer["prediction_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| json!({ "prediction_id": id, "label": 1 }))
        .collect();
    app.predict("/feedback", json!({ "feedback": items }).to_string()).await;
    let text = app.get("/metrics").await.text;
    let mut check =
        program("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut check.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

// ===== a real server =====

/// A Prometheus that scrapes these servers, killed with the test.
struct Prometheus {
    _process: KillOnDrop,
    url: String,
    _folder: tempfile::TempDir,
}

/// Shortens the durations of a key in Prometheus' files for the test; alerts fire at once.
fn hurried(text: &str) -> String {
    let line = |line: &str| {
        let (indent, word) = line.split_at(line.len() - line.trim_start().len());
        match word.split_once(": ") {
            Some((key @ ("scrape_interval" | "scrape_timeout"), _)) => format!("{indent}{key}: {SCRAPE_MS}ms\n"),
            Some((key @ ("interval" | "evaluation_interval"), _)) => format!("{indent}{key}: 1s\n"),
            Some(("for" | "keep_firing_for", _)) => String::new(),
            _ => format!("{line}\n"),
        }
    };
    text.lines().map(line).collect()
}

impl Prometheus {
    /// Starts the shipped configuration with its rules, with these replicas and short durations.
    fn start(replicas: &[Server; 2]) -> Prometheus {
        let folder = tempfile::tempdir().unwrap();
        let shipped = checkout().join("deploy/prometheus");
        let mut config = std::fs::read_to_string(shipped.join("prometheus.yml")).unwrap();
        for (named, replica) in ["leeway-1:8080", "leeway-2:8080"].iter().zip(replicas) {
            assert_eq!(config.matches(named).count(), 1, "{named}");
            config = config.replace(named, &replica.data.to_string());
        }
        std::fs::write(folder.path().join("prometheus.yml"), hurried(&config)).unwrap();
        std::fs::create_dir(folder.path().join("rules")).unwrap();
        for entry in std::fs::read_dir(shipped.join("rules")).unwrap() {
            let rules = entry.unwrap();
            let text = std::fs::read_to_string(rules.path()).unwrap();
            std::fs::write(folder.path().join("rules").join(rules.file_name()), hurried(&text)).unwrap();
        }
        // A port that was just free, because Prometheus cannot report the port that it took.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = program("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--log.level=error")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Prometheus { _process: KillOnDrop(process), url: format!("http://127.0.0.1:{port}/api/v1"), _folder: folder }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let url = reqwest::Url::parse_with_params(&format!("{}{path}", self.url), query).unwrap();
        let answer: Value = client().get(url).send().await.ok()?.json().await.ok()?;
        if answer["status"] == "error" {
            panic!("{query:?}: {answer}");
        }
        Some(answer["data"].clone())
    }

    /// Returns the current series of an expression.
    async fn query(&self, expression: &str) -> Vec<Value> {
        let found = self.get("/query", &[("query", expression)]).await;
        match found.map(|found| found["result"].clone()) {
            Some(Value::Array(series)) => series,
            _ => Vec::new(),
        }
    }

    /// Repeats a query until `will_do` returns a value.
    async fn until<T>(&self, expression: &str, will_do: impl Fn(&[Value]) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            let series = self.query(expression).await;
            if let Some(found) = will_do(&series) {
                return found;
            }
            assert!(begin.elapsed() < PATIENCE, "{expression}: {series:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Prometheus {
    /// Returns the expression of a rule with the rules that it uses expanded, for counts at the last scrape of each
    /// replica: `increase` extrapolates from then, and that differs between replicas.
    async fn at_the_last_scrape(&self, rule: &str, replicas: &[Server]) -> String {
        let groups = self.get("/rules", &[]).await.unwrap();
        let rules = groups["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rules: Vec<(String, String)> = rules.map(|rule| (text(&rule["name"]), text(&rule["query"]))).collect();
        let mut expression = rule.to_owned();
        while let Some(begin) = expression.find("leeway:") {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            let length = expression[begin..].find(|c| !is_name(c)).unwrap_or(expression.len() - begin);
            let (_, query) = rules.iter().find(|(name, _)| *name == expression[begin..begin + length]).unwrap();
            expression = format!("{}({query}){}", &expression[..begin], &expression[begin + length..]);
        }
        let mut counts = Vec::new();
        for replica in replicas {
            let series = format!("leeway_feature_bin_total{{instance=\"{}\"}}", replica.data);
            // A late scrape leaves a gap until the next one.
            let last = self.until(&format!("max(timestamp({series}))"), |series| series.first().map(value)).await;
            counts.push(format!("increase({series}[1h] @ {last:.3})"));
        }
        let increase = "increase(leeway_feature_bin_total[1h])";
        assert!(expression.contains(increase), "{expression}");
        expression.replace(increase, &format!("({})", counts.join(" or ")))
    }
}

fn value(series: &Value) -> f64 {
    series["value"][1].as_str().unwrap().parse().unwrap()
}

/// A regressor with a baseline of many rows, uniform from 0 to 1.
pub(crate) fn even_baseline() -> Baseline {
    let schema = FeatureSchema { numbers: vec!["x".into()], texts: Vec::new() };
    let rows = 100_000;
    let mut features = Features::with_rows(rows);
    features.numbers = (0..rows).map(|row| (row as f64 / rows as f64) as f32).collect();
    let values: Vec<Observation> = features.numbers.iter().map(|value| Observation::Value(f64::from(*value))).collect();
    let mut sample = Sample::new(schema, None);
    sample.add(&features, &values);
    let mut builder = sample.freeze();
    builder.count(&features, &values);
    let mut labelled = LabelledCounter::new(None);
    values.iter().take(1_000).for_each(|value| labelled.value(*value, 0.5));
    Baseline { labelled: labelled.finish(), ..builder.finish() }
}

/// Two words, equally often.
fn baseline_of_words() -> Baseline {
    let schema = FeatureSchema { numbers: Vec::new(), texts: vec!["x[0]".into(), "x[1]".into()] };
    let mut features = Features::with_rows(1_000);
    features.texts = (0..2_000).map(|value| Some(["yes", "no", "no"][value % 3].to_owned())).collect();
    let nothing = vec![Observation::Nothing; 1_000];
    let mut sample = Sample::new(schema, None);
    sample.add(&features, &nothing);
    let mut builder = sample.freeze();
    builder.count(&features, &nothing);
    builder.finish()
}

/// Adds the quality on labelled rows to a baseline: nine of ten are predicted right.
fn give_labelled_rows(version: &Path) {
    let file = version.join("baseline.json");
    let baseline = Baseline::parse(&std::fs::read(&file).unwrap()).unwrap();
    let mut labelled = LabelledCounter::new(None);
    let certainty = Certainty { confidence: 0.9, margin: 0.8, entropy: 0.2 };
    let predicted = Observation::Class { class: 1, certainty };
    (0..1_000).for_each(|row| labelled.class(predicted, if row % 10 == 0 { "7" } else { "1" }));
    let baseline = Baseline { labelled: labelled.finish(), ..baseline };
    std::fs::write(file, serde_json::to_vec(&baseline).unwrap()).unwrap();
    Manifest::write_for(version).unwrap();
}

fn repository() -> Repository {
    let business = "[monitoring.business]\nrevenue = \"sum\"\n";
    let repository = Repository::new().with("even", 1, "echo_scalar", &format!("{PLAIN}{business}"));
    let even = repository.0.path().join("even/1");
    std::fs::write(even.join("baseline.json"), serde_json::to_vec(&even_baseline()).unwrap()).unwrap();
    Manifest::write_for(&even).unwrap();
    let repository = repository.with("words", 1, "echo_string", PLAIN).with("log", 1, "log", PLAIN);
    let words = repository.0.path().join("words/1");
    std::fs::write(words.join("baseline.json"), serde_json::to_vec(&baseline_of_words()).unwrap()).unwrap();
    Manifest::write_for(&words).unwrap();
    let digits = repository.0.path().join("digits");
    for version in ["1", "2"] {
        copy_folder(&checkout().join("models/digits").join(version), &digits.join(version));
    }
    let model_toml = std::fs::read_to_string(checkout().join("models/digits/model.toml")).unwrap();
    give_labelled_rows(&digits.join("2"));
    std::fs::write(digits.join("model.toml"), model_toml.replace("total_ms = 200", "total_ms = 60000")).unwrap();
    repository
}

async fn post(url: String, body: &Value) -> Value {
    let answer = client().post(url).body(body.to_string()).send().await.unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

/// Sends predictions and outcomes to one replica: shifted digits, numbers that are no longer uniform, and requests that
/// fail.
async fn use_server(server: &Server, numbers: &[f64]) {
    let shift = |digit: &Value| {
        let pixels: Vec<u64> = digit.as_array().unwrap().iter().map(|pixel| pixel.as_u64().unwrap()).collect();
        pixels.chunks(8).flat_map(|row| [&[0], &row[..7]].concat()).collect::<Vec<u64>>()
    };
    let held_out = held_out("digits");
    let shifted: Vec<Vec<u64>> = held_out["instances"].as_array().unwrap().iter().map(shift).collect();
    let predict = |model: &str| server.url(&format!("/v1/models/{model}:predict"));
    let feedback = async |answer: &Value, truth: &dyn Fn(usize) -> Value| {
        let ids = answer["prediction_ids"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let item = |(index, id): (usize, &Value)| {
            let mut item = truth(index);
            item["prediction_id"] = id.clone();
            item
        };
        let items: Vec<Value> = ids.iter().take(1_000).enumerate().map(item).collect();
        let taken = post(server.url("/feedback"), &json!({ "feedback": items })).await;
        assert_eq!(taken["results"]["joined"], items.len(), "{taken}");
    };
    for _ in 0..5 {
        let answer = post(predict("digits"), &json!({ "instances": shifted })).await;
        feedback(&answer, &|index| json!({ "label": held_out["digits"][index] })).await;
    }
    for some in numbers.chunks(4_000) {
        let answer = post(predict("even"), &json!({ "instances": some })).await;
        feedback(&answer, &|index| json!({ "value": some[index] + 0.5, "metrics": { "revenue": 2 } })).await;
    }
    post(predict("words"), &json!({ "instances": [["yes", "no"], ["perhaps", "no"]] })).await;
    // log(-1) is not a number, so there is no prediction; nor is there one for a refused request.
    assert_eq!(post(predict("log"), &json!({ "instances": [[-1.0, -1.0]] })).await["status"], 500);
    assert_eq!(post(predict("log"), &json!({ "instances": [] })).await["status"], 400);
}

/// Returns the counts of a feature's bins on a replica, in the order of its baseline.
async fn bins(server: &Server, feature: &str) -> Vec<u64> {
    let text = client().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let series = format!("leeway_feature_bin_total{{model=\"even\",version=\"1\",feature=\"{feature}\",bin=");
    let count = |line: &str| line.strip_prefix(&series)?.split_once("} ")?.1.parse::<f64>().ok();
    text.lines().filter_map(count).map(|count| count as u64).collect()
}

/// Returns the expressions of the dashboard, with its variables filled in.
fn dashboard() -> Vec<(String, String)> {
    fn collect(panel: &Value, into: &mut Vec<(String, String)>) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let filled = expression
                .replace("$model", ".*")
                .replace("$version", ".*")
                .replace("$feature", "x")
                .replace("$__rate_interval", "1m");
            assert!(!filled.replace("$1", "").contains('$'), "{filled}");
            into.push((panel["title"].as_str().unwrap().to_owned(), filled));
        }
        for inner in panel["panels"].as_array().into_iter().flatten() {
            collect(inner, into);
        }
    }
    let text = std::fs::read_to_string(checkout().join("deploy/grafana/leeway.json")).unwrap();
    let mut all = Vec::new();
    collect(&serde_json::from_str(&text).unwrap(), &mut all);
    all
}

/// Returns the query of the Prometheus adapter for the autoscaler, with its placeholders filled in.
fn autoscaling() -> Vec<(String, String)> {
    let adapter = yaml("deploy/kubernetes/prometheus-adapter.yaml");
    let query = |rule: &Value| {
        let text = |key: &str| rule[key].as_str().unwrap();
        let (series, labels) = text("seriesQuery").split_once('{').unwrap();
        assert!(labels.contains("namespace!=") && labels.contains("pod!="), "{labels}");
        let filled = text("metricsQuery")
            .replace("<<.GroupBy>>", "instance")
            .replace("<<.Series>>", series)
            .replace("<<.LabelMatchers>>", "job=\"leeway\"");
        assert!(!filled.contains("<<"), "{filled}");
        ("autoscaling".to_owned(), filled)
    };
    adapter["rules"]["custom"].as_array().unwrap().iter().map(query).collect()
}

/// Returns the names of all recording rules.
fn recorded() -> Vec<String> {
    let path = checkout().join("deploy/prometheus/rules/leeway.recording.yml");
    let rules = std::fs::read_to_string(path).unwrap();
    rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_that_scrapes_two_replicas_sees_the_fleet() {
    let repository = repository();
    let models: &Path = repository.0.path();
    let settings = [("LEEWAY_FEEDBACK__KEY", "a-key-of-two-replicas"), ("LEEWAY_MONITORING__DRIFT_SERIES", "all")];
    let replicas = [Server::start(models, &settings), Server::start(models, &settings)];
    let prometheus = Prometheus::start(&replicas);
    prometheus.until("up{job=\"leeway\"} == 1", |series| (series.len() == 2).then_some(())).await;
    // Counters begin at 0, and must be scraped before anything is counted.
    prometheus
        .until("count(count_over_time(leeway_feature_bin_total{model=\"even\"}[1m]) > 2)", |series| {
            (series.len() == 1 && value(&series[0]) == 28.0).then_some(())
        })
        .await;

    // One replica gets only the lower half, the other one the upper three quarters.
    let numbers = |from: f64, to: f64| -> Vec<f64> {
        (0..100_000).map(|row| from + (to - from) * f64::from(row) / 100_000.0).collect()
    };
    let (lower, upper) = (numbers(0.0, 0.5), numbers(0.25, 1.0));
    tokio::join!(use_server(&replicas[0], &lower), use_server(&replicas[1], &upper));

    let [first, second] = [bins(&replicas[0], "x").await, bins(&replicas[1], "x").await];
    let merged: Vec<u64> = first.iter().zip(&second).map(|(first, second)| first + second).collect();
    assert_eq!(merged.iter().sum::<u64>(), 200_000);
    // Values out of range, missing and unknown ones are not compared.
    let [_, compared @ .., _, _, _] = &*merged else { panic!("{merged:?}") };
    let expected = Drift::between(&even_baseline().features[0].counts, compared);
    prometheus
        .until("sum by (instance) (leeway_feature_bin_total{model=\"even\",feature=\"x\"}) == 100000", |series| {
            (series.len() == 2).then_some(())
        })
        .await;
    for (rule, expected) in [
        ("leeway:feature_psi:1h", expected.psi),
        ("leeway:feature_psi_adjusted:1h", expected.psi_adjusted),
        ("leeway:feature_drift_z:1h", expected.z),
    ] {
        let expression = prometheus.at_the_last_scrape(rule, &replicas).await;
        let found = prometheus.query(&expression).await;
        let of_x = |series: &&Value| series["metric"]["model"] == "even" && series["metric"]["feature"] == "x";
        let found = value(found.iter().find(of_x).unwrap());
        assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{rule} is {found}, not {expected}");
        // Compared with the recorded values: the last scrapes of the replicas were at different times.
        let recorded = format!("{rule}{{model=\"even\",version=\"1\",feature=\"x\"}}");
        let is_close = |series: &[Value]| {
            series.first().map(value).filter(|found| (found - expected).abs() < 0.05 * expected.abs())
        };
        prometheus.until(&recorded, is_close).await;
    }
    // Less than a day is known, so that a distribution is a warning at most.
    prometheus
        .until("ALERTS{alertname=\"LeewayDrift\",alertstate=\"firing\",model=\"even\"}", |series| {
            (!series.is_empty()).then_some(())
        })
        .await;

    // The deployments change, too: a canary, and a version that is refused.
    let admin = |path: &str| format!("http://{}/admin/v1{path}", replicas[0].admin);
    let canary = client().put(admin("/models/digits/traffic")).json(&json!({ "shares": { "1": 10, "2": 90 } }));
    assert_eq!(canary.send().await.unwrap().status(), 200);
    std::fs::create_dir(models.join("log/2")).unwrap();
    assert_eq!(client().post(admin("/reload")).json(&json!({})).send().await.unwrap().status(), 200);

    let begin = Instant::now();
    let mut without_data = Vec::new();
    let rules = recorded().into_iter().map(|rule| ("recording rule".to_owned(), rule));
    for (what, expression) in rules.chain(dashboard()).chain(autoscaling()) {
        while prometheus.query(&expression).await.is_empty() {
            if begin.elapsed() > PATIENCE / 2 {
                without_data.push(format!("{what}: {expression}"));
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    assert!(without_data.is_empty(), "without data:\n{}", without_data.join("\n"));
    // No rule fails, whatever the data.
    let rules = prometheus.get("/rules", &[]).await.unwrap();
    for rule in rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
}
