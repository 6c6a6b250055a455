//! Outcomes of predictions: joined with the predictions of any replica, and counted once.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use leeway::app::Dependencies;
use leeway::config::{Config, StateUrl};
use leeway::error::{Result, SetupError};
use leeway::feature::Observation;
use leeway::feedback::{Entry, Ledger, LedgerKey, NotRecorded, PredictionId, Recorded, Signer};
use leeway::identity::VersionKey;
use leeway::pipeline::Stages;
use leeway::state::MemoryLedger;
use serde_json::{Value, json};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::harness::{
    PLAIN, Repository, Server, TestApp, checkout, client, config, held_out, no_fleet, no_rollouts, runtime,
};

const KEY: &str = "a key of two replicas";

fn with_key(mut config: Config) -> Config {
    config.feedback.key = Some(KEY.replace(' ', "-").try_into().unwrap());
    config
}

async fn give(app: &TestApp, feedback: &Value) -> Value {
    let answer = app.predict("/feedback", json!({ "feedback": feedback }).to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// Returns the number of items with this result.
fn results(taken: &Value) -> BTreeMap<&str, u64> {
    let results = taken["results"].as_object().unwrap().iter();
    results.map(|(result, count)| (result.as_str(), count.as_u64().unwrap())).filter(|(_, count)| *count > 0).collect()
}

/// A pseudo-random permutation, the same every time.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 1u64;
    for i in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(i, (state >> 33) as usize % (i + 1));
    }
}

/// 100,000 predictions by two replicas that share a state. Their labels come back shuffled, a tenth of them twice, with
/// a hundredth forged in addition, to either replica. The golden values are scikit-learn's measures of the same data.
#[tokio::test(flavor = "multi_thread")]
async fn every_label_counts_once_wherever_it_is_sent() {
    const PREDICTIONS: usize = 100_000;
    let state = tempfile::tempdir().unwrap();
    let shared = || {
        let mut config = config();
        config.state.url = StateUrl::Sqlite(state.path().join("leeway.db"));
        config
    };
    let replicas = [TestApp::with(shared()).await, TestApp::with(shared()).await];
    let held_out = held_out("digits");
    let (instances, digits) = (held_out["instances"].as_array().unwrap(), held_out["digits"].as_array().unwrap());

    let mut feedback: Vec<Value> = Vec::new();
    let body = json!({ "instances": instances }).to_string();
    for round in 0..PREDICTIONS.div_ceil(instances.len()) {
        let answer = replicas[round % 2].predict("/predict", body.clone()).await.json();
        for (row, id) in answer["prediction_ids"].as_array().unwrap().iter().enumerate() {
            let (index, digit) = (round * instances.len() + row, digits[row].as_u64().unwrap());
            let label = if index.is_multiple_of(7) { (digit + 1) % 10 } else { digit };
            if index < PREDICTIONS {
                feedback.push(json!({ "prediction_id": id, "label": label }));
            }
        }
    }
    let twice: Vec<Value> = feedback.iter().step_by(10).cloned().collect();
    let forged = feedback.iter().step_by(100).map(|item| {
        let mut item = item.clone();
        let id: String = item["prediction_id"].as_str().unwrap().chars().rev().collect();
        item["prediction_id"] = id.into();
        item
    });
    let forged: Vec<Value> = forged.collect();
    feedback.extend(twice.into_iter().chain(forged));
    shuffle(&mut feedback);

    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    for (turn, some) in feedback.chunks(1_000).enumerate() {
        let taken = give(&replicas[turn % 2], &json!(some)).await;
        for (result, count) in results(&taken) {
            *totals.entry(result.to_owned()).or_default() += count;
        }
    }
    let expected = [("duplicate", 10_000), ("forged", 1_000), ("joined", 100_000)];
    assert_eq!(totals, expected.map(|(result, count)| (result.to_owned(), count)).into());

    // The measures are computed from the sums over both replicas.
    let texts = [replicas[0].get("/metrics").await.text, replicas[1].get("/metrics").await.text];
    let sum = |series: &str| -> f64 {
        let value = |text: &String| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
            line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
        };
        texts.iter().map(value).sum()
    };
    let of = |metric: &str| sum(&format!("leeway_outcome_{metric}{{model=\"digits\",version=\"2\"}}"));
    for (result, count) in expected {
        assert_eq!(sum(&format!("leeway_outcome_feedback_total{{result=\"{result}\"}}")), count as f64);
    }
    assert_eq!(of("labels_total"), 100_000.0);
    let golden = std::fs::read_to_string(checkout().join("tests/data/outcomes_golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let close = |found: f64, measure: &str| {
        // The golden confidences are scikit-learn's own, and differ in the last bits of a float32.
        let expected = golden["fleet"][measure].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-6, "{measure} is {found}, not {expected}");
    };
    close(of("correct_total") / 100_000.0, "accuracy");
    close(of("squared_error_total") / 100_000.0, "brier_score");
    let bin = |what: &str, bin: usize| {
        let edge = f64::from(bin as u32 + 1) / 10.0;
        sum(&format!("leeway_outcome_calibration_{what}_total{{model=\"digits\",version=\"2\",bin=\"{edge}\"}}"))
    };
    let gaps: f64 = (0..10).map(|index| (bin("confidence", index) - bin("correct", index)).abs()).sum();
    close(gaps / 100_000.0, "ece");
}

/// Returns an id as the server would have made it this long ago.
fn id(version: u32, ago: Duration, predicted: Observation) -> String {
    let then = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() - ago;
    let timestamp = uuid::Timestamp::from_unix(uuid::NoContext, then.as_secs(), then.subsec_nanos());
    let version = VersionKey::of(&"plus".parse().unwrap(), version.to_string().parse().unwrap());
    let request = Uuid::new_v7(timestamp);
    Signer::new(KEY.replace(' ', "-").as_bytes()).sign(&PredictionId { request, index: 0, version, predicted })
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_what_they_were_worth() {
    let model_toml = format!("{PLAIN}[monitoring.business]\nrevenue = \"sum\"\nbasket = \"mean\"\nbought = \"rate\"\n");
    let repository = Repository::new().with("plus", 1, "plus_1", &model_toml);
    let app = TestApp::with(with_key(repository.config())).await;
    let now = || id(1, Duration::from_secs(90), Observation::Value(10.0));
    let (first, second, third) = (now(), now(), now());
    let taken = give(
        &app,
        &json!([
            { "prediction_id": first, "value": 12.0, "metrics": { "revenue": 5, "bought": true } },
            { "prediction_id": second, "value": 7.0, "metrics": { "revenue": 2.5, "bought": false, "basket": 3 } },
            // New parts of an item count, and known parts do not.
            { "prediction_id": first, "value": 12.0, "metrics": { "basket": 4 } },
            { "prediction_id": first, "value": 12.0 },
            { "prediction_id": third, "metrics": { "bought": 0 } },
        ]),
    )
    .await;
    assert_eq!(results(&taken), [("duplicate", 1), ("joined", 4)].into());
    assert_eq!(taken["problems"], json!([{ "index": 3, "result": "duplicate", "detail": "it was reported before" }]));
    for (metric, expected) in [
        ("labels_total", 2.0),
        // 10 − 12 and 10 − 7.
        ("mae", 2.5),
        ("bias", 0.5),
        ("absolute_error_total", 5.0),
        ("squared_error_total", 13.0),
        ("label_delay_seconds_count", 2.0),
    ] {
        assert_eq!(app.metric(&format!("leeway_outcome_{metric}{{model=\"plus\",version=\"1\"}}")).await, expected);
    }
    for (name, kind, value) in [("revenue", "sum", 7.5), ("basket", "mean", 3.5), ("bought", "rate", 1.0 / 3.0)] {
        let labels = format!("{{model=\"plus\",version=\"1\",name=\"{name}\",kind=\"{kind}\"}}");
        assert_eq!(app.metric(&format!("leeway_outcome_business{labels}")).await, value);
    }
    let delay = "leeway_outcome_label_delay_seconds_bucket{model=\"plus\",version=\"1\",le=";
    assert_eq!(app.metric(&format!("{delay}\"60\"}}")).await, 0.0);
    assert_eq!(app.metric(&format!("{delay}\"600\"}}")).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_joined_is_said_item_by_item() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let app = TestApp::with(with_key(repository.config())).await;
    let value = |ago| id(1, Duration::from_secs(ago), Observation::Value(1.0));
    let good = value(5);
    let items = json!([
        { "prediction_id": good, "value": 1 },
        { "prediction_id": value(31 * 86_400), "value": 1 },
        { "prediction_id": id(2, Duration::ZERO, Observation::Value(1.0)), "value": 1 },
        { "prediction_id": "anything", "value": 1 },
        { "prediction_id": value(5), "label": "a" },
        { "prediction_id": id(1, Duration::ZERO, Observation::Nothing), "label": "a" },
        { "prediction_id": value(5), "metrics": { "revenue": 1 } },
        { "prediction_id": value(5) },
    ]);
    let taken = give(&app, &items).await;
    let problems: Vec<String> = taken["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| {
            let text = |key: &str| problem[key].as_str().unwrap();
            format!("{} {}: {}", problem["index"], text("result"), text("detail"))
        })
        .collect();
    let expected = [
        "1 late: the prediction was made 31 days ago",
        "2 unknown: the version that made the prediction is not loaded",
        "3 forged: this is not the id of a prediction of this fleet",
        "4 invalid: label: a number was predicted; send value",
        "5 invalid: nothing was predicted that could be compared",
        "6 invalid: metrics: there is no \"revenue\" in [monitoring.business]; it has: none",
        "7 invalid: the item is empty; send label, value or metrics",
    ];
    assert_eq!(problems, expected);
    // An item that was invalid may be sent again after correction.
    let fixed = json!([{ "prediction_id": items[4]["prediction_id"], "value": 1 }, items[0]]);
    assert_eq!(results(&give(&app, &fixed).await), [("duplicate", 1), ("joined", 1)].into());
    for (result, count) in [("joined", 2.0), ("late", 1.0), ("unknown", 1.0), ("forged", 1.0), ("invalid", 4.0)] {
        assert_eq!(app.metric(&format!("leeway_outcome_feedback_total{{result=\"{result}\"}}")).await, count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_feedback_is_refused_as_a_whole() {
    let app = TestApp::start().await;
    let too_many = json!({ "feedback": vec![json!({ "prediction_id": "x" }); 10_001] }).to_string();
    for (body, problem) in [
        ("{", "the body is not feedback: EOF"),
        ("{}", "missing field `feedback`"),
        ("[[]]", "invalid type: sequence, expected an object"),
        (r#"{"feedback": [["x", 3]]}"#, "invalid type: sequence, expected an object"),
        (r#"{"feedback": [], "feedback": []}"#, "the name \\\"feedback\\\" occurs twice"),
        (r#"{"feedback": [{}]}"#, "missing field `prediction_id`"),
        (r#"{"feedback": [{"prediction_id": "x", "lable": 3}]}"#, "unknown field `lable`"),
        (r#"{"feedback": [{"prediction_id": "x", "label": 3, "label": 3}]}"#, "the name \\\"label\\\" occurs twice"),
        (r#"{"feedback": [{"prediction_id": "x", "label": [3]}]}"#, "a label is a number, a string, true or false"),
        (r#"{"feedback": [{"prediction_id": "x", "metrics": {"a": "b"}}]}"#, "an amount is a number, true or false"),
        (r#"{"feedback": [{"prediction_id": "x", "metrics": {"a": 1, "a": 2}}]}"#, "the name \\\"a\\\" occurs twice"),
        (&too_many, "more than 10000 items; send them in several requests"),
    ] {
        let answer = app.predict("/feedback", body.to_owned()).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.text.contains(problem), "{}", answer.text);
    }
    assert_eq!(app.get("/feedback").await.status, 405);
    let form = app.client.post(app.url("/feedback")).header("content-type", "text/csv").body("a,b");
    assert_eq!(form.send().await.unwrap().status(), 415);
    let huge = app.predict("/feedback", vec![b' '; (8 << 20) + 1]).await;
    assert_eq!(huge.status, 413);
}

/// Feedback that was recorded is answered, because it would be a duplicate if it were sent again.
#[tokio::test(flavor = "multi_thread")]
async fn feedback_that_was_taken_is_answered_however_little_memory_is_left() {
    let mut config = Repository::of("echo_float32").config();
    config.http.body_memory_bytes = Some(8_000.try_into().unwrap());
    let repository = Repository::of("echo_float32");
    config.repository.path = repository.0.path().into();
    let app = TestApp::with(config).await;
    // The body fits, and an answer with a hundred problems does not.
    let taken = give(&app, &json!(vec![json!({ "prediction_id": "", "label": 0 }); 80])).await;
    assert_eq!(results(&taken), BTreeMap::from([("forged", 80)]));
    assert!(taken.to_string().len() > 6_000);
}

/// A ledger that blocks after recording, until the test releases it.
#[derive(Debug)]
struct SlowLedger {
    ledger: MemoryLedger,
    recorded: Notify,
    go: Notify,
}

#[async_trait]
impl Ledger for SlowLedger {
    async fn key(&self) -> Result<LedgerKey, SetupError> {
        self.ledger.key().await
    }

    async fn record(&self, entries: &[Entry]) -> Result<Vec<Recorded>, NotRecorded> {
        let recorded = self.ledger.record(entries).await;
        self.recorded.notify_one();
        self.go.notified().await;
        recorded
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn feedback_whose_client_has_left_is_counted_if_it_was_recorded() {
    let config = config();
    let ledger = Arc::new(SlowLedger {
        ledger: MemoryLedger::new(config.feedback.remembered),
        recorded: Notify::new(),
        go: Notify::new(),
    });
    let parts = Dependencies {
        engine: runtime(),
        isolated_engine: None,
        stages: Stages::default(),
        trial: None,
        journal: leeway::state::open_journal(&config.state).await.unwrap(),
        ledger: Arc::<SlowLedger>::clone(&ledger),
        fleet: no_fleet(),
        rollouts: no_rollouts(),
    };
    let app = TestApp::with_all(config, parts).await;
    let ids = predicted(&app, 1).await;
    let body = json!({ "feedback": [{ "prediction_id": ids[0], "label": 0 }] }).to_string();
    let before = app.metric("leeway_connections").await;
    let mut stream = TcpStream::connect(app.data).unwrap();
    write!(stream, "POST /feedback HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    ledger.recorded.notified().await;
    drop(stream);
    app.metric_becomes("leeway_connections", before).await;
    ledger.go.notify_one();
    app.metric_becomes("leeway_outcome_feedback_total{result=\"joined\"}", 1.0).await;
    ledger.go.notify_one();
    let again = give(&app, &json!([{ "prediction_id": ids[0], "label": 0 }])).await;
    assert_eq!(results(&again), BTreeMap::from([("duplicate", 1)]));
}

/// Ids of digits that the shipped model has just predicted.
async fn predicted(app: &TestApp, count: usize) -> Vec<Value> {
    let held_out = held_out("digits");
    let instances = &held_out["instances"].as_array().unwrap()[..count];
    let answer =
        app.predict("/v1/models/digits/versions/2:predict", json!({ "instances": instances }).to_string()).await;
    answer.json()["prediction_ids"].as_array().unwrap().clone()
}

/// Labels come from outside: a label that is not a class of the model is refused, and makes no series.
#[tokio::test(flavor = "multi_thread")]
async fn labels_that_are_none_of_the_classes_are_refused() {
    let app = TestApp::start().await;
    let series = |text: &str| -> Vec<String> {
        let of_version = "leeway_outcome_class_total{model=\"digits\",version=\"2\",";
        let lines = text.lines().filter(|line| line.starts_with(of_version));
        lines.map(|line| line.split_once("} ").unwrap().0.to_owned()).collect()
    };
    let before = series(&app.get("/metrics").await.text);
    let none = [
        json!("four"),
        json!("4 "),
        json!(" 4"),
        json!("4.0"),
        json!("04"),
        json!(""),
        json!("Zero"),
        json!(3.5),
        json!(10),
        json!(-1),
        json!(1e300),
        json!(true),
        json!(false),
        json!("\u{1b}[2J\u{0}"),
        json!("x".repeat(1 << 20)),
    ];
    let ids = predicted(&app, none.len() + 3).await;
    let said = ids.iter().zip(&none).map(|(id, label)| json!({ "prediction_id": id, "label": label }));
    let taken = give(&app, &said.collect()).await;
    assert_eq!(results(&taken), [("invalid", none.len() as u64)].into());
    let detail = |index: usize| taken["problems"][index]["detail"].as_str().unwrap();
    let classes = (0..10).map(|class| format!("\"{class}\"")).collect::<Vec<String>>().join(", ");
    assert_eq!(detail(0), format!("label: \"four\" is not one of the model's classes: {classes}"));
    assert_eq!(detail(7), format!("label: 3.5 is not one of the model's classes: {classes}"));
    assert_eq!(detail(13), format!("label: \"\\u{{1b}}[2J\\u{{0}}\" is not one of the model's classes: {classes}"));
    assert_eq!(detail(14), "label: a text of 1048576 bytes is not one of the model's classes");
    assert_eq!(series(&app.get("/metrics").await.text), before);

    // All notations of a class are accepted, even for ids whose labels were refused a moment ago.
    let classes = [json!(4), json!(4.0), json!("4")];
    let said = ids.iter().zip(&classes).map(|(id, label)| json!({ "prediction_id": id, "label": label }));
    assert_eq!(results(&give(&app, &said.collect()).await), [("joined", 3)].into());
    let actual = "leeway_outcome_class_total{model=\"digits\",version=\"2\",class=\"4\",of=\"actual\"}";
    assert_eq!(app.metric(actual).await, 3.0);
    assert_eq!(series(&app.get("/metrics").await.text), before);
}

/// A later label replaces an earlier one, on either of two replicas. Their sums together are right.
#[tokio::test(flavor = "multi_thread")]
async fn a_correction_replaces_and_is_told_from_a_duplicate() {
    let state = tempfile::tempdir().unwrap();
    let shared = || {
        let mut config = config();
        config.state.url = StateUrl::Sqlite(state.path().join("leeway.db"));
        config
    };
    let [one, other] = [TestApp::with(shared()).await, TestApp::with(shared()).await];
    let ids = predicted(&one, 2).await;
    let say = |label: &Value| json!([{ "prediction_id": ids[0], "label": label }]);
    let predicted: Value =
        one.predict("/predict", json!({ "instances": [held_out("digits")["instances"][0]] }).to_string()).await.json();
    let right = predicted["predictions"][0]["label"].clone();
    let wrong = if right == json!(0) { json!(1) } else { json!(0) };

    assert_eq!(results(&give(&one, &say(&right)).await), [("joined", 1)].into());
    let taken = give(&other, &say(&right)).await;
    assert_eq!(results(&taken), [("duplicate", 1)].into());
    assert_eq!(taken["problems"][0]["detail"], "it was reported before");
    // Changed and changed back, on both replicas.
    let taken = give(&other, &say(&wrong)).await;
    assert_eq!((results(&taken), &taken["problems"]), ([("corrected", 1)].into(), &json!([])));
    // The series of withdrawn labels exist from the first correction on.
    let value = async |app: &TestApp, series: &str| -> f64 {
        let text = app.get("/metrics").await.text;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
        line.map_or(0.0, |value| value.parse().unwrap())
    };
    let sum = async |series: &str| value(&one, series).await + value(&other, series).await;
    let of = |metric: &str, labels: &str| format!("leeway_outcome_{metric}{{model=\"digits\",version=\"2\"{labels}}}");
    let correct = async || {
        // The other replica has received no label yet, only a correction.
        sum(&of("correct_total", "")).await - sum(&of("withdrawn_total", ",of=\"correct\"")).await
    };
    let actual = async |class: &Value| {
        let labels = format!(",class=\"{class}\",of=\"actual\"");
        sum(&of("class_total", &labels)).await - sum(&of("class_withdrawn_total", &labels)).await
    };
    assert_eq!((correct().await, actual(&right).await, actual(&wrong).await), (0.0, 0.0, 1.0));
    assert_eq!(results(&give(&one, &say(&right)).await), [("corrected", 1)].into());
    assert_eq!((correct().await, actual(&right).await, actual(&wrong).await), (1.0, 1.0, 0.0));
    assert_eq!(results(&give(&other, &say(&right)).await), [("duplicate", 1)].into());
    assert_eq!(sum(&of("labels_total", "")).await, 1.0);
    assert_eq!(sum(&of("corrections_total", "")).await, 2.0);
    // Within one request, the last label counts.
    let both = json!([
        { "prediction_id": ids[1], "label": right },
        { "prediction_id": ids[1], "label": wrong },
        { "prediction_id": ids[1], "label": wrong },
    ]);
    let taken = give(&one, &both).await;
    assert_eq!(results(&taken), [("joined", 1), ("corrected", 1), ("duplicate", 1)].into());
    assert_eq!(actual(&wrong).await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_to_be_corrected_stays() {
    let model_toml = format!("{PLAIN}[monitoring.business]\nrevenue = \"sum\"\n");
    let repository = Repository::new().with("plus", 1, "plus_1", &model_toml);
    let mut config = with_key(repository.config());
    config.feedback.correction_window_ms = 60_000;
    let app = TestApp::with(config).await;
    let [old, new] = [90, 30].map(|ago| id(1, Duration::from_secs(ago), Observation::Value(10.0)));
    let say = async |id: &str, value: f64, revenue: f64| {
        let item = json!({ "prediction_id": id, "value": value, "metrics": { "revenue": revenue } });
        give(&app, &json!([item])).await
    };
    for id in [&old, &new] {
        assert_eq!(results(&say(id, 12.0, 5.0).await), [("joined", 1)].into());
        assert_eq!(results(&say(id, 12.0, 5.0).await), [("duplicate", 1)].into());
    }
    let taken = say(&old, 13.0, 6.0).await;
    assert_eq!(results(&taken), [("duplicate", 1)].into());
    let why = taken["problems"][0]["detail"].as_str().unwrap();
    assert!(why.starts_with("earlier feedback differs, and stays"), "{why}");
    assert_eq!(results(&say(&new, 11.0, 7.5).await), [("corrected", 1)].into());
    // |10 - 12| of the old value and |10 - 11| of the new one.
    let of = |metric: &str, labels: &str| format!("leeway_outcome_{metric}{{model=\"plus\",version=\"1\"{labels}}}");
    assert_eq!(app.metric(&of("mae", "")).await, 1.5);
    assert_eq!(app.metric(&of("business_amount", ",name=\"revenue\",kind=\"sum\"")).await, 12.5);
    assert_eq!(app.metric(&of("business_items_total", ",name=\"revenue\",kind=\"sum\"")).await, 2.0);
}

/// A prediction from a time when the clock was ahead: its delay is not known, and is not counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_prediction_from_the_future_has_no_delay() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let app = TestApp::with(with_key(repository.config())).await;
    let then = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap() + Duration::from_secs(3600);
    let timestamp = uuid::Timestamp::from_unix(uuid::NoContext, then.as_secs(), 0);
    let version = VersionKey::of(&"plus".parse().unwrap(), "1".parse().unwrap());
    let future =
        PredictionId { request: Uuid::new_v7(timestamp), index: 0, version, predicted: Observation::Value(1.0) };
    let future = Signer::new(KEY.replace(' ', "-").as_bytes()).sign(&future);
    let now = id(1, Duration::ZERO, Observation::Value(1.0));
    for id in [future, now] {
        assert_eq!(results(&give(&app, &json!([{ "prediction_id": id, "value": 1 }])).await), [("joined", 1)].into());
    }
    let of = |metric: &str| format!("leeway_outcome_{metric}{{model=\"plus\",version=\"1\"}}");
    assert_eq!(app.metric(&of("labels_total")).await, 2.0);
    assert_eq!(app.metric(&of("label_delay_seconds_count")).await, 1.0);
}

/// Reading a body of the maximum size takes a small multiple of its memory, for any content.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_body_takes_a_small_multiple_of_its_size() {
    const SIZE: usize = 8 << 20;
    let server = Server::start(&checkout().join("models"), &[("LEEWAY_REPOSITORY__DEFAULT_MODEL", "digits")]);
    let status = format!("/proc/{}/status", server.process());
    let peak = || -> usize {
        let status = std::fs::read_to_string(&status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    };
    let fill = |begin: &str, what: &str, end: &str| {
        let mut body = begin.to_owned();
        while body.len() + what.len() + end.len() + 1 < SIZE {
            body.push_str(what);
        }
        body.push('0');
        body + end
    };
    let item = r#"{"feedback":[{"prediction_id":"x","#;
    let amounts: String = (0..32).map(|amount| format!("\"{amount}\":1,")).collect();
    let whole = format!("{{\"prediction_id\":\"x\",\"metrics\":{{{}}}}}", amounts.trim_end_matches(','));
    let bodies = [
        fill(&format!("{item}\"label\":{}", "[".repeat(100)), "0,", &format!("{}}}]}}", "]".repeat(100))),
        fill(&format!("{item}\"label\":"), "[", ""),
        fill(&format!("{item}\"label\":{{\"a\":["), "{},", "]}}]}"),
        fill(&format!("{item}\"metrics\":{{\"a\":["), "0,", "]}}]}"),
        fill(&format!("{item}\"metrics\":{{"), "\"a\":0,", "\"a\":0}}]}"),
        fill(&format!("{item}\"label\":\""), "x\\u0000", "\"}]}"),
        fill("{\"feedback\":[{\"prediction_id\":\"", "x", "\"}]}"),
        fill(r#"{"feedback":["#, r#"{"prediction_id":"x"},"#, "]}"),
        fill(r#"{"feedback":["#, &format!("{whole},"), "]}"),
        fill(r#"{"feedback":["#, "{},", "]}"),
        fill(&format!("{item}\""), "x", "\":0}]}"),
        fill("[", "[],", "]"),
    ];
    for body in bodies {
        let before = peak();
        let begin: String = body.chars().take(60).collect();
        let answer = client().post(server.url("/feedback")).body(body).send().await.unwrap();
        assert!([400, 200, 413].contains(&answer.status().as_u16()), "{begin}: {}", answer.status());
        let taken = peak().saturating_sub(before);
        // A body that arrives in pieces is in memory twice.
        assert!(taken < 8 * SIZE, "{begin}: {} MB", taken >> 20);
    }
}
