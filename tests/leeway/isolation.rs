//! Models in processes of their own: the answers are the same, and a crash of the process fails one batch.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, Server, TestApp, client, until};
use crate::tensors::of_every_element_type;

fn isolated() -> String {
    format!("{PLAIN}isolation = \"process\"\n")
}

/// With this number, `crash` ends its process, and `hungry` asks for 32 TB.
const BAD: f32 = 123_456.0;

fn body(value: f32) -> String {
    json!({ "instances": [[value, 0.0]] }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_element_type_goes_through_another_process_unchanged() {
    let shapes = [("echo_scalar", json!([1.5, -2.0])), ("echo_sequence", json!([[1, 2, 3], [4, 5, 6]]))];
    let models: Vec<(&str, Value)> = of_every_element_type().into_iter().chain(shapes).collect();
    let repository =
        models.iter().fold(Repository::new(), |repository, (name, _)| repository.with(name, 1, name, &isolated()));
    let app = TestApp::with(repository.config()).await;
    for (name, rows) in models {
        let answer = app.predict(&format!("/v1/models/{name}:predict"), json!({ "instances": rows }).to_string()).await;
        let text = |value: &Value| value.to_string().replace("e+", "e");
        match name {
            "echo_float32" => {
                let as_f32 = |value: Value| serde_json::from_value::<Vec<Vec<f32>>>(value).unwrap();
                assert_eq!(as_f32(answer.predictions()), as_f32(rows));
            }
            _ => assert_eq!(text(&answer.predictions()), text(&rows), "{name}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_fails_its_batch_and_nothing_else() {
    let repository = Repository::new().with("crash", 1, "crash", &isolated()).with("plus", 1, "plus_1", PLAIN);
    let app = TestApp::with(repository.config()).await;
    let ask = async |value| app.predict("/v1/models/crash:predict", body(value)).await;
    assert_eq!(ask(1.0).await.predictions(), json!([[2.0, 1.0]]));
    let failed = ask(BAD).await;
    assert_eq!((failed.status, &failed.json()["type"]), (500, &json!("urn:leeway:problem:model-process-ended")));
    // After the first crash it is restarted at once.
    assert_eq!(ask(1.0).await.predictions(), json!([[2.0, 1.0]]));
    let restarts = "leeway_worker_restarts_total{model=\"crash\",version=\"1\"}";
    assert_eq!(app.metric(restarts).await, 1.0);

    // After each further crash the backoff grows. Other models are not affected.
    let refused = until(async || Some(ask(BAD).await).filter(|answer| answer.status == 503)).await;
    assert_eq!(refused.json()["type"], "urn:leeway:problem:model-restarting");
    assert_eq!(refused.header("retry-after"), "1");
    let other = app.predict("/v1/models/plus:predict", body(1.0)).await;
    assert_eq!(other.predictions(), json!([[2.0, 1.0]]));
    until(async || (ask(1.0).await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_another_process_ends_at_its_deadline() {
    let short = isolated().replace("total_ms = 600000", "total_ms = 500");
    let repository = Repository::new().with("work", 1, "work", &short);
    let app = TestApp::with(repository.config()).await;
    let ask = async |rounds: u32| app.predict("/predict", json!({ "instances": [rounds] }).to_string()).await;
    let late = ask(100_000_000).await;
    assert_eq!((late.status, &late.json()["type"]), (504, &json!("urn:leeway:problem:expired")), "{}", late.text);
    // The run was ended, but not its process: the same process serves the next one.
    until(async || (ask(1).await.status == 200).then_some(())).await;
    let series = |name: &str| format!("{name}{{model=\"work\",version=\"1\"}}");
    assert_eq!(app.metric(&series("leeway_runs_terminated_total")).await, 1.0);
    assert_eq!(app.metric(&series("leeway_worker_restarts_total")).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_opened_in_another_process_says_why() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let app = TestApp::with(repository.config()).await;
    let folder = repository.0.path().join("broken");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), isolated()).unwrap();
    let file = folder.join("no_model.onnx");
    std::fs::write(&file, b"\x3a\x00").unwrap();
    repository.add_file("broken", 1, &file);
    std::fs::remove_file(&file).unwrap();
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.text;
    assert!(overview.contains("model.onnx cannot be loaded"), "{overview}");
}

/// Processes whose parent is this one.
#[cfg(target_os = "linux")]
fn children(parent: u32) -> Vec<u32> {
    let parent_of = |stat: &str| stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        parent_of(&stat) == Some(parent) && !stat.contains(") Z ")
    })
    .collect()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn the_processes_of_models_end_with_the_server_however_it_ends() {
    let repository = Repository::new().with("plus", 1, "plus_1", &isolated().replace("workers = 1", "workers = 2"));
    let server = Server::start(repository.0.path(), &[]);
    let of_models = children(server.process());
    assert_eq!(of_models.len(), 2);
    server.signal("KILL");
    let exists = |id: &u32| {
        std::fs::read_to_string(format!("/proc/{id}/cmdline")).is_ok_and(|command| command.contains("run-model"))
    };
    until(async || (!of_models.iter().any(exists)).then_some(())).await;
}

/// A run that needs more memory than there is fails alone.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_wants_more_memory_than_there_is_fails_alone() {
    let repository = Repository::new().with("hungry", 1, "hungry", &isolated());
    let server = Server::start(repository.0.path(), &[]);
    let client = client();
    let ask = async |value| client.post(server.url("/predict")).body(body(value)).send().await.unwrap().status();
    assert_eq!(ask(1.0).await, 200);
    let begin = std::time::Instant::now();
    assert_eq!(ask(BAD).await, 500);
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert_eq!(ask(1.0).await, 200);
}

/// Returns if the sessions of the two versions of `plus` run in processes of their own: first version 1, then 2.
async fn own_processes(app: &TestApp) -> [bool; 2] {
    let model = app.admin_get("/admin/v1/models/plus").await.json();
    [1, 2].map(|version| {
        let versions = model["versions"].as_array().unwrap();
        let found = versions.iter().find(|found| found["version"] == version).unwrap();
        assert_eq!(found["state"], "loaded", "{model}");
        found["sessions"] == "own_processes"
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_isolated_until_it_is_promoted() {
    let until_promoted = format!("{PLAIN}isolation = \"until_promoted\"\n");
    let repository = Repository::new().with("plus", 1, "plus_1", &until_promoted);
    let app = TestApp::with(repository.config()).await;
    repository.add("plus", 2, "plus_2");
    app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(own_processes(&app).await, [false, true]);
    let shares = json!({ "shares": { "1": 50, "2": 50 } });
    assert_eq!(app.admin_put("/admin/v1/models/plus/traffic", shares).await.status, 200);
    assert_eq!(own_processes(&app).await, [false, true]);

    assert_eq!(app.admin_post("/admin/v1/models/plus/promote", json!({ "version": 2 })).await.status, 200);
    until(async || {
        assert_eq!(app.predict("/predict", body(1.0)).await.predictions(), json!([[3.0, 2.0]]));
        (own_processes(&app).await == [false, false]).then_some(())
    })
    .await;
}
