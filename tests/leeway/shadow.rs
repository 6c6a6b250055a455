//! Shadow traffic: copies of requests reach the other version when there is room, and nothing of them reaches callers or the
//! counts of others.

use std::sync::Arc;

use leeway::config::StateUrl;
use leeway::pipeline::Stages;
use leeway::tensor::Tensors;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use crate::harness::{
    HookedEngine, PLAIN, Repository, Server, TestApp, checkout, held_out, leeway, run, runtime, until,
};

/// The digits: version 2, and version 3 with the same model.
fn digits() -> Repository {
    let repository = Repository::new().with_shipped("digits", &[1, 2]);
    repository.add_file("digits", 3, &checkout().join("models/digits/2/model.onnx"));
    with_a_long_budget(repository, "digits")
}

/// The penguins: version 2, and as version 3 the canary of `leeway demo`, which confuses the species.
fn penguins() -> Repository {
    let repository = Repository::new().with_shipped("penguins", &[2]);
    repository.add_file("penguins", 3, &checkout().join("src/cli/demo/canary/model.onnx"));
    with_a_long_budget(repository, "penguins")
}

fn with_a_long_budget(repository: Repository, model: &str) -> Repository {
    let path = repository.path().join(model).join("model.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("total_ms = 200", "total_ms = 60000");
    repository.with_config(model, &text)
}

/// Versions 1 and 2 of a model, which add their own number.
fn plus() -> Repository {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    Repository::add(&repository, "plus", 2, "plus_2");
    repository
}

async fn promote(app: &TestApp, model: &str, version: u32) {
    let answer = app.admin_post(&format!("/admin/v1/models/{model}/promote"), json!({ "version": version })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

async fn shadow(app: &TestApp, model: &str, version: u32, percent: f64) -> Value {
    let change = json!({ "version": version, "percent": percent, "by": "a test" });
    let answer = app.admin_post(&format!("/admin/v1/models/{model}/shadow"), change).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// Returns the copies of requests to a version by outcome, and its compared predictions; 0 before the first copy.
async fn counts(app: &TestApp, model: &str, version: u32) -> impl Fn(&str) -> f64 + use<> {
    let (text, labels) = (app.get("/metrics").await.text, format!("model=\"{model}\",version=\"{version}\""));
    move |name: &str| {
        let series = match name {
            "agreed" | "disagreed" => format!("leeway_shadow_predictions_total{{{labels},agreement=\"{name}\"}} "),
            outcome => format!("leeway_shadow_requests_total{{{labels},outcome=\"{outcome}\"}} "),
        };
        text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0.0, |value| value.parse().unwrap())
    }
}

/// Sends a request until a count of copies has grown by this much.
async fn ask_until(app: &TestApp, (model, version): (&str, u32), count: &str, more: f64, mut ask: impl AsyncFnMut()) {
    let before = counts(app, model, version).await(count);
    until(async || {
        ask().await;
        (counts(app, model, version).await(count) >= before + more).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_equal_version_agrees_and_nothing_of_it_is_seen_elsewhere() {
    let repository = digits();
    let app = TestApp::with(repository.config()).await;
    promote(&app, "digits", 2).await;
    let outcome = shadow(&app, "digits", 3, 100.0).await;
    assert_eq!(outcome["deployment"]["shadow"], json!({ "version": 3, "percent": 100 }));
    assert_eq!((&outcome["deployment"]["action"], &outcome["before"]), (&json!("shadow"), &json!({ "2": 100 })));

    let held_out = held_out("digits");
    let instances = held_out["instances"].as_array().unwrap();
    let mut sent = 0;
    for instance in &instances[..30] {
        let answer = app.predict("/predict", json!({ "instances": [instance] }).to_string()).await;
        assert_eq!(answer.json()["model"]["version"], 2);
        let feedback = json!({ "feedback": [{ "prediction_id": answer.json()["prediction_ids"][0], "label": 1 }] });
        let taken = app.predict("/feedback", feedback.to_string()).await.json();
        assert_eq!(taken["results"]["joined"], 1, "{taken}");
        sent += 1;
    }
    // Rows in another form, and named tensors.
    let forms = [
        ("/v1/models/digits:predict", json!({ "inputs": [instances[0], instances[1]] })),
        (
            "/v2/models/digits/infer",
            json!({ "inputs": [{ "name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": instances[0] }] }),
        ),
    ];
    for (path, body) in &forms {
        ask_until(&app, ("digits", 3), "compared", 1.0, async || {
            sent += 1;
            assert_eq!(app.predict(path, body.to_string()).await.status, 200);
        })
        .await;
    }
    // Pinned and made-up requests are not copied.
    for (path, header) in [("/v1/models/digits/versions/2:predict", "false"), ("/predict", "true")] {
        let request = app.client.post(app.url(path)).header("x-leeway-synthetic", header);
        let answer = request.body(json!({ "instances": [instances[0]] }).to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        sent += 1;
    }

    let all = until(async || {
        let count = counts(&app, "digits", 3).await;
        let ended: f64 = ["compared", "starved", "dropped"].iter().map(|outcome| count(outcome)).sum();
        (ended == f64::from(sent - 2)).then_some(count)
    });
    let count = all.await;
    assert!(count("agreed") > 0.0 && count("disagreed") == 0.0, "{} {}", count("agreed"), count("disagreed"));
    assert_eq!(count("only_shadow_failed") + count("only_stable_failed") + count("both_failed"), 0.0);
    assert_eq!(app.metric("leeway_shadow_distance_ratio_sum{model=\"digits\",version=\"3\"}").await, 0.0);

    // The other counts of either version are those without shadow traffic.
    let of =
        |name: &str, version: u32, rest: &str| format!("leeway_{name}{{model=\"digits\",version=\"{version}\"{rest}}}");
    assert_eq!(app.metric(&of("requests_total", 2, ",outcome=\"ok\"")).await, f64::from(sent));
    assert_eq!(app.metric(&of("outcome_labels_total", 2, "")).await, 30.0);
    for zero in ["requests_total|,outcome=\"ok\"", "outcome_labels_total|", "batch_size_count|", "requests_in_flight|"]
    {
        let (name, rest) = zero.split_once('|').unwrap();
        assert_eq!(app.metric(&of(name, 3, rest)).await, 0.0, "{name}");
    }
    let drift = app.admin_get("/admin/v1/models/digits/drift").await.json();
    let rows = |version: u64| {
        let found = drift["versions"].as_array().unwrap().iter().find(|found| found["version"] == version).unwrap();
        found["rows"].as_u64().unwrap()
    };
    assert!(rows(2) > 0 && rows(3) == 0, "{drift}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_other_labels_disagrees() {
    let repository = penguins();
    let app = TestApp::with(repository.config()).await;
    promote(&app, "penguins", 2).await;
    shadow(&app, "penguins", 3, 100.0).await;
    let held_out = held_out("penguins");
    let body = json!({ "instances": held_out["instances"] }).to_string();
    ask_until(&app, ("penguins", 3), "compared", 1.0, async || {
        assert_eq!(app.predict("/predict", body.clone()).await.status, 200);
    })
    .await;
    let count = counts(&app, "penguins", 3).await;
    assert!(count("disagreed") > count("agreed"), "{} agreed, {} disagreed", count("agreed"), count("disagreed"));

    // In a CSV, and with half of the requests.
    shadow(&app, "penguins", 3, 50.0).await;
    let names: Vec<&String> = held_out["instances"][0].as_object().unwrap().keys().collect();
    let cells = names.iter().map(|name| held_out["instances"][0][name.as_str()].to_string().replace('"', ""));
    let head: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
    let csv = format!("{}\n{}\n", head.join(","), cells.collect::<Vec<_>>().join(","));
    ask_until(&app, ("penguins", 3), "compared", 2.0, async || {
        let request = app.client.post(app.url("/predict")).header("content-type", "text/csv").body(csv.clone());
        assert_eq!(request.send().await.unwrap().status(), 200);
    })
    .await;
}

/// A gate at which copies wait. Requests pass it.
static GATE: (Mutex<bool>, Condvar) = (Mutex::new(true), Condvar::new());
static GATE_IN_USE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// Number of copies that have reached the gate.
static CAME: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

fn set_gate(is_open: bool) {
    *GATE.0.lock() = is_open;
    GATE.1.notify_all();
}

fn is_copy() -> bool {
    std::thread::current().name() == Some("shadow")
}

async fn app_with_gate(repository: &Repository) -> TestApp {
    let before_run = |_: &Tensors| {
        if is_copy() {
            CAME.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut is_open = GATE.0.lock();
            while !*is_open {
                GATE.1.wait(&mut is_open);
            }
        }
    };
    let engine = Arc::new(HookedEngine { engine: runtime(), before_run });
    TestApp::with_parts(repository.config(), engine, Stages::default()).await
}

fn body() -> String {
    json!({ "instances": [[0.0, 10.0]] }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_cannot_be_run_are_dropped_and_nobody_waits() {
    let _in_use = GATE_IN_USE.lock().await;
    let repository = plus();
    let app = app_with_gate(&repository).await;
    promote(&app, "plus", 1).await;
    shadow(&app, "plus", 2, 100.0).await;
    set_gate(false);
    let came = CAME.load(std::sync::atomic::Ordering::SeqCst);
    until(async || {
        assert_eq!(app.predict("/predict", body()).await.predictions(), json!([[1.0, 11.0]]));
        (CAME.load(std::sync::atomic::Ordering::SeqCst) > came).then_some(())
    })
    .await;
    // While a copy is stuck, 300 requests are answered by the stable version, and most copies are dropped.
    for _ in 0..300 {
        assert_eq!(app.predict("/predict", body()).await.predictions(), json!([[1.0, 11.0]]));
    }
    let dropped = counts(&app, "plus", 2).await("dropped");
    assert!(dropped >= 300.0 - 64.0, "{dropped}");
    assert_eq!(app.metric("leeway_requests_total{model=\"plus\",version=\"1\",outcome=\"shed\"}").await, 0.0);
    // The version has one session, in which the copy is stuck. A request that names it does not wait for the copy's end.
    let pinned = tokio::spawn({
        let request = app.client.post(app.url("/v1/models/plus/versions/2:predict")).body(body());
        async move { request.send().await.unwrap().text().await.unwrap() }
    });
    app.metric_becomes("leeway_queue_depth{model=\"plus\",version=\"2\"}", 1.0).await;
    set_gate(true);
    let pinned: Value = serde_json::from_str(&pinned.await.unwrap()).unwrap();
    assert_eq!(pinned["predictions"], json!([[2.0, 12.0]]));
    // The copy has given way to the request, and its version gets copies again.
    until(async || (counts(&app, "plus", 2).await("starved") >= 1.0).then_some(())).await;
    ask_until(&app, ("plus", 2), "compared", 1.0, async || {
        assert_eq!(app.predict("/predict", body()).await.status, 200);
    })
    .await;
    assert_eq!(app.metric("leeway_runs_terminated_total{model=\"plus\",version=\"2\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_copies_is_bounded() {
    let _in_use = GATE_IN_USE.lock().await;
    let repository = plus();
    let app = app_with_gate(&repository).await;
    promote(&app, "plus", 1).await;
    shadow(&app, "plus", 2, 100.0).await;
    set_gate(false);
    // Bodies of 4 MB, of which at most 32 MiB are kept in all.
    let large = format!("{{\"instances\": [[0.0, 10.0]]{}}}", " ".repeat(4_000_000));
    for _ in 0..12 {
        let answer = app.predict("/predict", large.clone()).await;
        assert_eq!(answer.predictions(), json!([[1.0, 11.0]]));
    }
    let dropped = counts(&app, "plus", 2).await("dropped");
    assert!(dropped >= 4.0, "{dropped}");
    assert!(app.metric("leeway_body_memory_bytes").await < 4e6);
    set_gate(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_or_a_crash_of_a_copy_hurts_nobody() {
    let before_run = |inputs: &Tensors| {
        let first = inputs.at(0).unwrap().values::<f32>().unwrap()[0];
        assert!(!is_copy() || first < 100.0, "a run of a copy panics");
    };
    let repository = plus();
    let engine = Arc::new(HookedEngine { engine: runtime(), before_run });
    let app = TestApp::with_parts(repository.config(), engine, Stages::default()).await;
    promote(&app, "plus", 1).await;
    shadow(&app, "plus", 2, 100.0).await;
    for (first, outcome) in [(100.0, "only_shadow_failed"), (1.0, "compared"), (100.0, "only_shadow_failed")] {
        ask_until(&app, ("plus", 2), outcome, 1.0, async || {
            let answer = app.predict("/predict", json!({ "instances": [[first, 0.0]] }).to_string()).await;
            assert_eq!(answer.predictions(), json!([[first + 1.0, 1.0]]));
        })
        .await;
    }

    // Its process ends at this number.
    const BAD: f32 = 123_456.0;
    let isolated = format!("{PLAIN}isolation = \"process\"\n");
    let repository = Repository::new().with("plus", 1, "plus_1", &isolated);
    Repository::add(&repository, "plus", 2, "crash");
    let app = TestApp::with(repository.config()).await;
    promote(&app, "plus", 1).await;
    shadow(&app, "plus", 2, 100.0).await;
    for (first, outcome) in [(BAD, "only_shadow_failed"), (1.0, "compared")] {
        ask_until(&app, ("plus", 2), outcome, 1.0, async || {
            let answer = app.predict("/predict", json!({ "instances": [[first, 0.0]] }).to_string()).await;
            assert_eq!(answer.predictions(), json!([[first + 1.0, 1.0]]));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_the_stable_version_fails_are_compared_too() {
    let before_run = |inputs: &Tensors| {
        let first = inputs.at(0).unwrap().values::<f32>().unwrap()[0];
        assert!(is_copy() || first < 100.0, "a run of the stable version panics");
    };
    let repository = plus();
    let engine = Arc::new(HookedEngine { engine: runtime(), before_run });
    let app = TestApp::with_parts(repository.config(), engine, Stages::default()).await;
    promote(&app, "plus", 1).await;
    shadow(&app, "plus", 2, 100.0).await;
    for (instance, status, outcome) in
        [(json!([100.0, 0.0]), 500, "only_stable_failed"), (json!(["a", 0.0]), 400, "both_failed")]
    {
        ask_until(&app, ("plus", 2), outcome, 1.0, async || {
            assert_eq!(app.predict("/predict", json!({ "instances": [instance] }).to_string()).await.status, status);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_traffic_is_a_part_of_the_deployment() {
    let repository = plus();
    let state = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = repository.config();
        config.state.url = StateUrl::Sqlite(state.path().join("leeway.db"));
        config.repository.newest_versions = 1;
        config
    };
    Repository::add(&repository, "plus", 3, "plus_3");
    let path = "/admin/v1/models/plus/shadow";
    {
        let app = TestApp::with(config()).await;
        promote(&app, "plus", 1).await;
        for (change, status, says) in [
            (json!({ "version": 1, "percent": 5 }), 422, "version 1 is the stable version"),
            (json!({ "version": 9, "percent": 5 }), 404, "plus has no version"),
            (json!({ "percent": 5 }), 400, "expected the version that gets the copies"),
            (json!({ "version": 2, "percent": 105 }), 400, "expected percent from 0 to 100"),
            (json!({ "version": 2, "percent": 5, "if_generation": 1 }), 409, "decided on generation 1"),
        ] {
            let refused = app.admin_post(path, change).await;
            assert!(refused.status == status && refused.text.contains(says), "{}: {}", refused.status, refused.text);
        }
        // Version 2 is not among the newest versions, and is loaded for this.
        shadow(&app, "plus", 2, 20.0).await;
        assert_eq!(shadow(&app, "plus", 2, 20.0).await["changed"], false);
        let refused = app.admin_post("/admin/v1/models/plus/versions/2/unload", json!({})).await;
        assert!(refused.status == 422 && refused.text.contains("gets shadow traffic"), "{}", refused.text);
        let shares = json!({ "shares": { "1": 90, "3": 10 } });
        let changed = app.admin_put("/admin/v1/models/plus/traffic", shares).await.json();
        assert_eq!(changed["deployment"]["shadow"], json!({ "version": 2, "percent": 20 }));
        app.admin_post("/admin/v1/reload", json!({})).await;
        app.stop.send(leeway::app::Stop::AtOnce).await.unwrap();
        app.running.await.unwrap().unwrap();
    }
    let app = TestApp::with(config()).await;
    let other = TestApp::with(config()).await;
    let status = app.admin_get("/admin/v1/models/plus").await.json();
    assert_eq!(status["deployment"]["shadow"], json!({ "version": 2, "percent": 20 }));
    until(async || {
        app.admin_post("/admin/v1/reload", json!({})).await;
        let version = app.admin_get("/admin/v1/models/plus/versions/2").await.json();
        (version["state"] == "loaded").then_some(())
    })
    .await;
    // Another server of the fleet follows.
    shadow(&app, "plus", 3, 100.0).await;
    until(async || {
        other.admin_post("/admin/v1/reload", json!({})).await;
        let status = other.admin_get("/admin/v1/models/plus").await.json();
        (status["deployment"]["shadow"]["version"] == 3).then_some(())
    })
    .await;
    ask_until(&other, ("plus", 3), "compared", 1.0, async || {
        assert_eq!(other.predict("/predict", body()).await.status, 200);
    })
    .await;
    let rolled_back = app.admin_post("/admin/v1/models/plus/rollback", json!({})).await.json();
    assert_eq!(rolled_back["deployment"].get("shadow"), None);
}

/// Chains have no requests of their own that could be copied, and a version that is gone gets no copies.
#[tokio::test(flavor = "multi_thread")]
async fn shadow_traffic_ends_with_its_version() {
    let repository = plus();
    let mut config = repository.config();
    config.repository.newest_versions = 1;
    let app = TestApp::with(config).await;
    promote(&app, "plus", 2).await;
    shadow(&app, "plus", 1, 100.0).await;
    std::fs::remove_dir_all(repository.version("plus", 1)).unwrap();
    until(async || {
        app.admin_post("/admin/v1/reload", json!({})).await;
        (app.admin_get("/admin/v1/models/plus/versions/1").await.status == 404).then_some(())
    })
    .await;
    assert_eq!(app.predict("/predict", body()).await.predictions(), json!([[2.0, 12.0]]));
    Repository::add(&repository, "plus", 3, "plus_3");
    app.admin_post("/admin/v1/reload", json!({})).await;
    let shares = json!({ "shares": { "2": 90, "3": 10 } });
    let changed = app.admin_put("/admin/v1/models/plus/traffic", shares).await.json();
    assert_eq!(changed["deployment"].get("shadow"), None, "{changed}");
}

#[test]
fn the_commands_begin_show_and_end_shadow_traffic() {
    let repository = plus();
    let server = Server::start(repository.path(), &[("LEEWAY_STATE__URL", "memory")]);
    let ask = |arguments: &[&str]| run(leeway(arguments).args(["--server", &server.admin.to_string()])).1;
    let _ = ask(&["promote", "plus", "1"]);
    assert!(ask(&["shadow", "plus", "2", "--percent", "20"]).contains("20% copied to version 2"));
    assert!(ask(&["status", "plus"]).contains("shadow: version 2 gets copies of 20% of the requests"));
    assert!(ask(&["shadow", "plus", "1", "--percent", "20"]).contains("version 1 is the stable version"));
    assert!(ask(&["shadow", "plus", "2", "--percent", "0"]).contains("--off ends shadow traffic"));
    assert!(!ask(&["shadow", "plus", "--off"]).contains("copied"));
    assert!(ask(&["history", "plus"]).contains("shadow"));
}
