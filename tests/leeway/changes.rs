//! Changes of the deployment: invalid bodies, and a state that cannot be written or has disappeared.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use leeway::api::admin::Deployment;
use leeway::app::Dependencies;
use leeway::config::{StateConfig, StateUrl};
use leeway::deploy::{Appended, Journal, Latest};
use leeway::error::{OperatorError, Result, SetupError};
use leeway::identity::ModelName;
use leeway::pipeline::Stages;
use leeway::state::MemoryJournal;
use serde_json::{Value, json};

use crate::harness::{
    Answer, PLAIN, Repository, Server, TestApp, client, held_out, ledger, leeway, no_fleet, no_rollouts, run, runtime,
    until,
};

const PROMOTE: &str = "/admin/v1/models/plus/promote";
const ROLLBACK: &str = "/admin/v1/models/plus/rollback";
const TRAFFIC: &str = "/admin/v1/models/plus/traffic";

/// Versions 1, 2 and 3.
fn repository() -> Repository {
    let repository = Repository::new();
    for version in 1..=3 {
        repository.add("plus", version, &format!("plus_{version}"));
    }
    std::fs::write(repository.0.path().join("plus/model.toml"), PLAIN).unwrap();
    repository
}

async fn send(app: &TestApp, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let url = format!("http://{}{path}", app.admin);
    let request = if path == TRAFFIC { app.client.put(url) } else { app.client.post(url) };
    let request = request.header("content-type", "application/json").body(body);
    Answer::of(request.send().await.unwrap()).await
}

/// A body is one object without duplicate names.
#[tokio::test(flavor = "multi_thread")]
async fn arrays_and_names_that_stand_twice_are_no_changes() {
    let repository = repository();
    let app = TestApp::with(repository.config()).await;
    let before = app.admin_get("/admin/v1/models/plus").await.text;
    for (path, body, problem) in [
        (TRAFFIC, r#"{"shares":{"2":50,"1":50,"2":50}}"#, "the name \\\"2\\\" occurs twice"),
        (TRAFFIC, r#"{"shares":{"2":100},"shares":{"1":100}}"#, "the name \\\"shares\\\" occurs twice"),
        (TRAFFIC, r#"{"shares":[["2",100]]}"#, "invalid type: sequence, expected an object"),
        (TRAFFIC, r#"[{"2":100}]"#, "invalid type: sequence, expected an object"),
        (TRAFFIC, r#"{"shares":{"02":100}}"#, "invalid type: string \\\"02\\\""),
        (PROMOTE, r#"[2,"a","b",null]"#, "invalid type: sequence, expected an object"),
        (PROMOTE, r#"{"version":2,"version":2}"#, "the name \\\"version\\\" occurs twice"),
        (PROMOTE, r#"{"version":2,"by":"a","by":"b"}"#, "the name \\\"by\\\" occurs twice"),
        (ROLLBACK, r#"["a","b",1]"#, "invalid type: sequence, expected an object"),
        (ROLLBACK, r#"{"if_generation":1,"if_generation":2}"#, "the name \\\"if_generation\\\" occurs twice"),
        (ROLLBACK, "null", "invalid type: null, expected an object"),
    ] {
        let answer = send(&app, path, body).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text);
        assert!(answer.text.contains(problem), "{path} {body}: {}", answer.text);
    }
    let large = format!(r#"{{"version": 2, "reason": "{}"}}"#, "x".repeat(1 << 16));
    let answer = send(&app, PROMOTE, large).await;
    assert_eq!(answer.status, 413);
    assert!(answer.text.contains("a change") && !answer.text.contains("http.body_limit_bytes"), "{}", answer.text);
    assert_eq!(app.admin_get("/admin/v1/models/plus").await.text, before);
    assert_eq!(send(&app, TRAFFIC, r#"{"shares":{"2":50,"1":50}}"#).await.status, 200);
}

/// The files of the state are removed, moved or replaced while the server has them open. It acknowledges nothing that
/// would be lost, and continues when they are back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_that_would_not_last() {
    let repository = repository();
    let digits = crate::harness::checkout().join("models/digits");
    crate::harness::copy_folder(&digits.join("2"), &repository.0.path().join("digits/2"));
    let model_toml = std::fs::read_to_string(digits.join("model.toml")).unwrap();
    let patient = model_toml.replace("total_ms = 200", "total_ms = 60000");
    std::fs::write(repository.0.path().join("digits/model.toml"), patient).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (state, kept) = (folder.path().join("state"), folder.path().join("kept"));
    std::fs::create_dir(&state).unwrap();
    let mut config = repository.config();
    config.state.url = StateUrl::Sqlite(state.join("leeway.db"));
    let app = TestApp::with(config).await;
    let one_digit = json!({ "instances": [held_out("digits")["instances"][0]] }).to_string();
    let id = app.predict("/v1/models/digits:predict", one_digit).await.json()["prediction_ids"][0].clone();
    let feedback = json!({ "feedback": [{ "prediction_id": id, "label": 1 }] }).to_string();
    let errors = "leeway_journal_errors_total";

    let check_refused = async |what: &str| {
        let before = app.metric(errors).await;
        let promoted = app.admin_post(PROMOTE, json!({ "version": 2 })).await;
        assert_eq!(
            (promoted.status, &promoted.json()["type"]),
            (503, &json!("urn:leeway:problem:journal-failed")),
            "{what}"
        );
        assert!(promoted.text.contains("nothing was changed"), "{what}: {}", promoted.text);
        assert!(promoted.text.contains("the file at state.url"), "{what}: {}", promoted.text);
        let taken = app.predict("/feedback", feedback.clone()).await;
        let expected = (503, &json!("urn:leeway:problem:feedback-not-recorded"));
        assert_eq!((taken.status, &taken.json()["type"]), expected, "{what}");
        assert!(!taken.text.contains("state") && taken.header("retry-after") == "30", "{what}: {}", taken.text);
        assert_eq!(app.metric(errors).await, before + 2.0, "{what}");
        let status = app.admin_get("/admin/v1/models/plus").await.json();
        assert_eq!(status["deployment"]["stable"], 3, "{what}");
    };
    std::fs::rename(&state, &kept).unwrap();
    check_refused("the folder was moved").await;
    std::fs::create_dir(&state).unwrap();
    for file in std::fs::read_dir(&kept).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), state.join(file.file_name())).unwrap();
    }
    check_refused("copies are in the place of the files").await;
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&kept, &state).unwrap();
    assert_eq!(app.admin_post(PROMOTE, json!({ "version": 2 })).await.status, 200);
    assert_eq!(app.predict("/feedback", feedback.clone()).await.json()["results"]["joined"], 1);
    std::fs::remove_file(state.join("leeway.db")).unwrap();
    let promoted = app.admin_post(PROMOTE, json!({ "version": 1 })).await;
    assert_eq!(promoted.status, 503, "{}", promoted.text);
}

/// A journal whose disk is full for as long as the test says so.
#[derive(Debug, Default)]
struct Disk {
    journal: MemoryJournal,
    is_full: AtomicBool,
    /// True while it has no deployment of any model.
    is_empty: AtomicBool,
}

#[async_trait]
impl Journal for Disk {
    async fn latest(&self) -> Result<Latest, SetupError> {
        self.journal.latest().await
    }

    async fn changed(&self) {
        self.journal.changed().await
    }

    async fn append(&self, next: &Deployment) -> Result<Appended, OperatorError> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(OperatorError::Journal("database or disk is full".to_owned()));
        }
        if self.is_empty.load(Ordering::SeqCst) {
            return Ok(Appended::Lost(None));
        }
        self.journal.append(next).await
    }

    async fn history(&self, model: &ModelName, before: u64, limit: u32) -> Result<Vec<Deployment>, OperatorError> {
        self.journal.history(model, before, limit).await
    }
}

async fn on_disk(repository: &Repository, disk: &Arc<Disk>) -> TestApp {
    let (engine, stages) = (runtime(), Stages::default());
    let journal: Arc<dyn Journal> = Arc::<Disk>::clone(disk);
    TestApp::with_all(
        repository.config(),
        Dependencies {
            engine,
            isolated_engine: None,
            stages,
            trial: None,
            journal,
            ledger: ledger(),
            fleet: no_fleet(),
            rollouts: no_rollouts(),
        },
    )
    .await
}

async fn version(app: &TestApp) -> String {
    let answer = app.predict("/predict", json!({ "instances": [[0.0, 0.0]] }).to_string()).await;
    answer.header("x-model-version").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_is_made_on_a_full_disk_and_written_when_there_is_room() {
    let (repository, disk) = (repository(), Arc::new(Disk::default()));
    let app = on_disk(&repository, &disk).await;
    for version in [1, 2] {
        assert_eq!(app.admin_post(PROMOTE, json!({ "version": version })).await.status, 200);
    }
    disk.is_full.store(true, Ordering::SeqCst);
    assert_eq!(app.admin_post(PROMOTE, json!({ "version": 3 })).await.status, 503);
    // Back to version 1, and back to version 3.
    for (generation, stable) in [(4, "1"), (5, "3")] {
        let back = app.admin_post(ROLLBACK, json!({})).await;
        assert_eq!((back.status, &back.json()["changed"]), (200, &json!(true)), "{}", back.text);
        assert_eq!(back.json()["deployment"]["generation"], generation);
        let unwritten = back.json()["unwritten"].as_str().unwrap().to_owned();
        let begin = format!("generation {generation} is in effect, but not saved yet: database or disk is full");
        assert!(unwritten.starts_with(&begin), "{unwritten}");
        assert_eq!(version(&app).await, stable);
        let status = app.admin_get("/admin/v1/models/plus").await.json();
        assert_eq!(status["unwritten"], unwritten);
    }
    assert_eq!(app.metric("leeway_deployments_unwritten").await, 2.0);
    // No other change is accepted before it is written.
    let promoted = app.admin_post(PROMOTE, json!({ "version": 2 })).await;
    assert_eq!((promoted.status, version(&app).await.as_str()), (503, "3"), "{}", promoted.text);
    assert_eq!(disk.latest().await.unwrap().deployments[0].generation, 3);

    disk.is_full.store(false, Ordering::SeqCst);
    app.metric_becomes("leeway_deployments_unwritten", 0.0).await;
    let written = disk.history(&"plus".parse().unwrap(), u64::MAX, 10).await.unwrap();
    assert_eq!(written.iter().map(|deployment| deployment.generation).collect::<Vec<u64>>(), [5, 4, 3, 2, 1]);
    let status = app.admin_get("/admin/v1/models/plus").await.json();
    assert_eq!((&status["unwritten"], &status["deployment"]["stable"]), (&Value::Null, &json!(3)));
    assert_eq!(app.admin_post(PROMOTE, json!({ "version": 2 })).await.status, 200);
}

/// Another server on the same journal has written meanwhile: the written deployment wins.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_was_not_written_gives_way_to_what_another_server_has_written() {
    let (repository, disk) = (repository(), Arc::new(Disk::default()));
    let app = on_disk(&repository, &disk).await;
    let other = on_disk(&repository, &disk).await;
    assert_eq!(app.admin_post(PROMOTE, json!({ "version": 1 })).await.status, 200);
    disk.is_full.store(true, Ordering::SeqCst);
    assert_eq!(app.admin_post(ROLLBACK, json!({})).await.json()["deployment"]["stable"], 3);
    disk.is_full.store(false, Ordering::SeqCst);
    // In any order. Then both serve the deployment in the journal.
    let promoted = other.admin_post(PROMOTE, json!({ "version": 2 })).await;
    assert_eq!(promoted.status, 200, "{}", promoted.text);
    app.metric_becomes("leeway_deployments_unwritten", 0.0).await;
    for server in [&app, &other] {
        until(async || {
            server.admin_post("/admin/v1/reload", json!({})).await;
            (version(server).await == "2").then_some(())
        })
        .await;
    }
}

/// Both deployments have the same generation, and the written one cannot be loaded at first.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_server_has_written_is_taken_over_once_it_can_be_loaded() {
    let (repository, elsewhere, disk) = (repository(), repository(), Arc::new(Disk::default()));
    let file = repository.0.path().join("plus/2/model.onnx");
    let model = std::fs::read(&file).unwrap();
    std::fs::write(&file, "no model").unwrap();
    let app = on_disk(&repository, &disk).await;
    assert_eq!(app.admin_post(PROMOTE, json!({ "version": 1 })).await.status, 200);
    disk.is_full.store(true, Ordering::SeqCst);
    assert_eq!(app.admin_post(ROLLBACK, json!({})).await.json()["deployment"]["generation"], 3);
    // The other server has seen nothing of that.
    let other = on_disk(&elsewhere, &disk).await;
    disk.is_full.store(false, Ordering::SeqCst);
    let promoted = other.admin_post(PROMOTE, json!({ "version": 2 })).await;
    assert_eq!(promoted.status, 200, "{}", promoted.text);
    assert_eq!(promoted.json()["deployment"]["generation"], 3);
    app.metric_becomes("leeway_deployments_unwritten", 0.0).await;
    app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(version(&app).await, "3");

    std::fs::write(&file, model).unwrap();
    until(async || {
        app.admin_post("/admin/v1/reload", json!({})).await;
        (version(&app).await == "2").then_some(())
    })
    .await;
    let status = app.admin_get("/admin/v1/models/plus").await.json();
    assert_eq!((&status["deployment"]["generation"], &status["deployment"]["stable"]), (&json!(3), &json!(2)));
    assert_eq!(app.admin_post(PROMOTE, json!({ "version": 1 })).await.json()["deployment"]["generation"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_has_lost_the_deployments_of_a_model_has_written_none() {
    let (repository, disk) = (repository(), Arc::new(Disk::default()));
    let app = on_disk(&repository, &disk).await;
    assert_eq!(app.admin_post(PROMOTE, json!({ "version": 1 })).await.status, 200);
    disk.is_full.store(true, Ordering::SeqCst);
    assert_eq!(app.admin_post(ROLLBACK, json!({})).await.json()["deployment"]["stable"], 3);
    disk.is_empty.store(true, Ordering::SeqCst);
    disk.is_full.store(false, Ordering::SeqCst);
    until(async || {
        let status = app.admin_get("/admin/v1/models/plus").await.json();
        assert_ne!(status["unwritten"], Value::Null);
        status["unwritten"].as_str()?.contains("it does not have the model's deployments any more").then_some(())
    })
    .await;
    assert_eq!(version(&app).await, "3");
    disk.is_empty.store(false, Ordering::SeqCst);
    app.metric_becomes("leeway_deployments_unwritten", 0.0).await;
    assert_eq!(disk.latest().await.unwrap().deployments[0].generation, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_served_that_could_not_be_written_down() {
    let (repository, disk) = (repository(), Arc::new(Disk::default()));
    disk.is_full.store(true, Ordering::SeqCst);
    let app = on_disk(&repository, &disk).await;
    assert_eq!(version(&app).await, "3");
    assert_eq!(app.metric("leeway_deployments_unwritten").await, 1.0);
    disk.is_full.store(false, Ordering::SeqCst);
    app.metric_becomes("leeway_deployments_unwritten", 0.0).await;
    assert_eq!(disk.latest().await.unwrap().deployments[0].generation, 1);
}

/// A refusal is logged when it begins, and not for each request.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_fails_is_one_line_in_the_log() {
    let repository = repository();
    let state = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}/leeway.db", state.path().display());
    let server = Server::start(repository.0.path(), &[("LEEWAY_STATE__URL", &url)]);
    std::fs::rename(state.path().join("leeway.db"), state.path().join("kept.db")).unwrap();
    let promote = async |version: u64| {
        let url = format!("http://{}{PROMOTE}", server.admin);
        client().post(url).json(&json!({ "version": version })).send().await.unwrap().status().as_u16()
    };
    for _ in 0..20 {
        assert_eq!(promote(1).await, 503);
    }
    std::fs::rename(state.path().join("kept.db"), state.path().join("leeway.db")).unwrap();
    assert_eq!(promote(1).await, 200);
    server.signal("INT");
    let (_, log) = server.wait();
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("the state cannot be read or written"), 1, "{log}");
    assert_eq!(count("the state can be written again"), 1, "{log}");
    assert_eq!(count("no longer exists"), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_used_is_refused_at_the_start_with_a_way_out() {
    let repository = repository();
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("leeway.db");
    let url = StateUrl::Sqlite(path.clone());
    let start = |problem: &[&str]| {
        let mut serve = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
        serve.env("LEEWAY_STATE__URL", format!("sqlite:{}", path.display()));
        let (code, text) = run(&mut serve);
        assert_eq!(code, 1, "{text}");
        for part in problem.iter().chain(&[path.to_str().unwrap()]) {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(!text.contains("nothing was changed"), "{text}");
    };
    // A disk that gets full in the middle of a file, simulated with SQLite's own tools.
    let journal = leeway::state::open_journal(&StateConfig::at(url.clone())).await.unwrap();
    drop(journal);
    drop(leeway::state::open(&StateConfig::at(url.clone()), std::num::NonZeroUsize::MIN).await.unwrap());
    let sqlite = |statement: &str| {
        let python = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\ndb.execute(sys.argv[2])\ndb.commit()";
        let status =
            std::process::Command::new("python3").args(["-c", python]).arg(&path).arg(statement).status().unwrap();
        assert!(status.success());
    };
    sqlite("INSERT INTO deployments VALUES ('plus', 4, '{\"model\": \"plus\", \"gener')");
    start(&[
        "cannot be read: generation 4 of model plus",
        "restore the file",
        "DELETE FROM deployments",
        "move it away",
    ]);
    sqlite("DELETE FROM deployments");
    sqlite("UPDATE feedback_keys SET key = ''");
    start(&["is invalid: it has 0 bytes instead of 32", "DELETE FROM feedback_keys", "feedback.key"]);
}
