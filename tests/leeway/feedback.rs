//! What becomes of predictions: joined with them, wherever they were made, and counted once.

use std::collections::BTreeMap;
use std::time::Duration;

use leeway::config::{Config, StateUrl};
use leeway::feature::Observation;
use leeway::feedback::{PredictionId, Signer};
use leeway::identity::VersionKey;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{PLAIN, Repository, TestApp, checkout, config, held_out};

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

/// How many items came to this.
fn results(taken: &Value) -> BTreeMap<&str, u64> {
    let results = taken["results"].as_object().unwrap().iter();
    results.map(|(result, count)| (result.as_str(), count.as_u64().unwrap())).filter(|(_, count)| *count > 0).collect()
}

/// A permutation that looks like none: the same every time.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 1u64;
    for i in (1..items.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(i, (state >> 33) as usize % (i + 1));
    }
}

/// 100,000 predictions by two replicas that share a state; their labels come back shuffled, a tenth of them twice and as
/// many again forged as a hundredth, to whichever replica: golden are scikit-learn's measures of the same.
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
    let held_out = held_out();
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

    // The sums over both are what the measures are made of.
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

/// An id as the server would have made it, so long ago.
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
            // What is new of it counts, and what is not does not.
            { "prediction_id": first, "value": 100.0, "metrics": { "basket": 4 } },
            { "prediction_id": first, "value": 12.0 },
            { "prediction_id": third, "metrics": { "bought": 0 } },
        ]),
    )
    .await;
    assert_eq!(results(&taken), [("duplicate", 1), ("joined", 4)].into());
    assert_eq!(taken["problems"], json!([{ "index": 3, "result": "duplicate", "detail": "it was there before" }]));
    for (metric, expected) in [
        ("labels_total", 2.0),
        // 10 less 12 and 10 less 7.
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
        "6 invalid: metrics: there is no \"revenue\" in [monitoring.business]; there is: none",
        "7 invalid: it says nothing; send label, value or metrics",
    ];
    assert_eq!(problems, expected);
    // An item that was invalid may be sent again, put right.
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
        (r#"{"feedback": [{}]}"#, "missing field `prediction_id`"),
        (r#"{"feedback": [{"prediction_id": "x", "lable": 3}]}"#, "unknown field `lable`"),
        (r#"{"feedback": [{"prediction_id": "x", "label": [3]}]}"#, "a label is a number, a string, true or false"),
        (r#"{"feedback": [{"prediction_id": "x", "metrics": {"a": "b"}}]}"#, "an amount is a number, true or false"),
        (&too_many, "10001 items are too many, at most 10000"),
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

/// Labels come from outside: there are no more series for that.
#[tokio::test(flavor = "multi_thread")]
async fn labels_that_nobody_knows_make_no_endless_series() {
    let app = TestApp::start().await;
    let held_out = held_out();
    let instances = &held_out["instances"].as_array().unwrap()[..300];
    let answer = app.predict("/predict", json!({ "instances": instances }).to_string()).await.json();
    let ids = answer["prediction_ids"].as_array().unwrap();
    let said = ids.iter().enumerate().map(|(index, id)| json!({ "prediction_id": id, "label": format!("l{index}") }));
    assert_eq!(results(&give(&app, &said.collect()).await), [("joined", 300)].into());
    let text = app.get("/metrics").await.text;
    let of_version = "leeway_outcome_class_total{model=\"digits\",version=\"2\",";
    let series = text.lines().filter(|line| line.starts_with(of_version)).count();
    assert!(series <= 3 * 101, "{series}");
}
