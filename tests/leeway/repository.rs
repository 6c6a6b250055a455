//! A repository with faults: stray folders, half copies, damage, links, and loads that do not end. Loaded versions stay
//! in service, at the start and at run time.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use leeway::config::{Config, StageConfig, StateUrl};
use leeway::error::{Result, SetupError};
use leeway::pipeline::{Preprocessor, StageContext, Stages};
use leeway::repository::Manifest;
use serde_json::{Value, json};

use crate::harness::{
    PLAIN, Repository, Server, TENSOR_STAGES, TestApp, checkout, client, leeway, run, runtime, until,
};

/// Versions 1 and 2 of a model that adds its version number to x.
fn repository() -> Repository {
    Repository::new().with("plus", 1, "plus_1", PLAIN).with("plus", 2, "plus_2", PLAIN)
}

fn folder(repository: &Repository, path: &str) -> PathBuf {
    repository.0.path().join(path)
}

fn write(repository: &Repository, path: &str, content: impl AsRef<[u8]>) {
    let path = folder(repository, path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn body() -> String {
    json!({ "instances": [[0.0, 0.0]] }).to_string()
}

async fn reload(app: &TestApp) -> Value {
    let answer = app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

async fn serves(app: &TestApp, model: &str, version: u32) {
    let answer = app.predict(&format!("/v1/models/{model}/versions/{version}:predict"), body()).await;
    if answer.status != 200 {
        // The status has the reason why a version is not loaded.
        let status = app.admin_get("/admin/v1/models").await;
        panic!("{model} {version}: {}\n{}", answer.text, status.text);
    }
}

fn flip_a_bit(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

// ===== a newer version that does not serve =====

/// Of the newest two versions, 1 is the older one, and has no traffic.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_newer_version_takes_none_out_of_service() {
    let half_copied = |repository: &Repository| write(repository, "plus/9/model.onnx", "x");
    let empty = |repository: &Repository| std::fs::create_dir(folder(repository, "plus/9")).unwrap();
    let altered = |repository: &Repository| {
        repository.add("plus", 9, "plus_4");
        flip_a_bit(&folder(repository, "plus/9/model.onnx"));
    };
    let no_model = |repository: &Repository| {
        write(repository, "plus/9/model.onnx", vec![0xC3; 4096]);
        Manifest::write_for(&folder(repository, "plus/9")).unwrap();
    };
    let unfit = |repository: &Repository| repository.add("plus", 9, "not_per_row");
    let several = |repository: &Repository| {
        for version in 3..9 {
            write(repository, &format!("plus/{version}/model.onnx"), "x");
        }
        write(repository, "plus/9/model.onnx", "x");
    };
    let ways: [&dyn Fn(&Repository); 6] = [&half_copied, &empty, &altered, &no_model, &unfit, &several];
    for break_it in ways {
        let repository = repository();
        let app = TestApp::with(repository.config()).await;
        break_it(&repository);
        for _ in 0..2 {
            let overview = reload(&app).await;
            assert_eq!(overview["models"][0]["versions"][0]["state"], "refused", "{overview}");
            serves(&app, "plus", 1).await;
            serves(&app, "plus", 2).await;
        }
        assert_eq!(app.metric("leeway_versions_retired_total{model=\"plus\"}").await, 0.0);
        // The same after a restart.
        let app = TestApp::with(repository.config()).await;
        serves(&app, "plus", 1).await;
        serves(&app, "plus", 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_retired_when_newer_ones_serve_and_that_is_counted() {
    let repository = repository();
    let app = TestApp::with(repository.config()).await;
    let retired = "leeway_versions_retired_total{model=\"plus\"}";
    assert_eq!(app.metric(retired).await, 0.0);
    repository.add("plus", 9, "plus_4");
    reload(&app).await;
    serves(&app, "plus", 9).await;
    serves(&app, "plus", 2).await;
    assert_eq!(app.metric(retired).await, 1.0);
    assert_eq!(app.predict("/v1/models/plus/versions/1:predict", body()).await.status, 404);
}

// ===== the start =====

/// Entries beside a good model, and the number of problems that are shown for them.
const BESIDE: &[(&str, usize)] = &[
    ("lost+found/", 0),
    (".git/objects/", 0),
    (".snapshot/", 0),
    ("plus/.ipynb_checkpoints/", 0),
    ("notes.txt", 0),
    ("@eaDir/", 1),
    ("new/", 1),
    ("new/model.toml", 1),
    ("plus/notebooks/", 1),
    ("a b/1/model.onnx", 1),
];

fn lay(repository: &Repository, path: &str) {
    match path.strip_suffix('/') {
        Some(path) => std::fs::create_dir_all(folder(repository, path)).unwrap(),
        None => write(repository, path, TENSOR_STAGES),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stray_folders_keep_no_server_from_starting() {
    for (path, problems) in BESIDE {
        let repository = repository();
        lay(&repository, path);
        let app = TestApp::with(repository.config()).await;
        assert_eq!(app.get("/readyz").await.status, 200, "{path}");
        serves(&app, "plus", 2).await;
        let overview = app.admin_get("/admin/v1/models").await.json();
        assert_eq!(overview["problems"].as_array().unwrap().len(), *problems, "{path}: {overview}");
        assert_eq!(app.metric("leeway_repository_errors").await, *problems as f64, "{path}");
        // A folder appears as at run time.
        assert_eq!(reload(&app).await["problems"], overview["problems"], "{path}");
    }
}

/// Models that cannot be served, beside one that can. The start logs the reason, and they are served once they are
/// repaired.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_model_keeps_no_other_from_serving() {
    type Break = fn(&Repository);
    let ways: [(Break, Break, &str, &str); 4] = [
        (
            |repository| flip_a_bit(&folder(repository, "bad/1/model.onnx")),
            |repository| flip_a_bit(&folder(repository, "bad/1/model.onnx")),
            "version 1 was refused (digest)",
            "model.onnx is not the file that was added",
        ),
        (
            |repository| write(repository, "bad/model.toml", "[preprocess]\nkind = \"tenser\"\n"),
            |repository| write(repository, "bad/model.toml", PLAIN),
            "its model.toml is wrong",
            "model.toml: [postprocess] is missing",
        ),
        (
            |repository| write(repository, "bad/model.toml", PLAIN.replacen("tensor", "tenser", 1)),
            |repository| write(repository, "bad/model.toml", PLAIN),
            "version 1 was refused (config)",
            "there is no \"tenser\"",
        ),
        (
            |repository| std::fs::remove_file(folder(repository, "bad/1/version.toml")).unwrap(),
            |repository| drop(Manifest::write_for(&folder(repository, "bad/1")).unwrap()),
            "version 1 was refused (manifest)",
            "version.toml: the file with the digests of the other files is missing",
        ),
    ];
    for (break_it, mend_it, reason, says) in ways {
        let repository = repository().with("bad", 1, "plus_3", PLAIN);
        break_it(&repository);
        let app = TestApp::with(repository.config()).await;
        serves(&app, "plus", 2).await;
        let overview = app.admin_get("/admin/v1/models").await.text;
        assert!(overview.contains(&says.replace('"', "\\\"")), "{overview}");
        let shown = app.admin_get("/admin/v1/models/bad").await;
        assert!(shown.text.contains(&says.replace('"', "\\\"")), "{}", shown.text);
        let model = app.get("/v1/models/bad").await.json();
        assert_eq!((&model["ready"], &model["reason"]), (&json!(false), &json!(reason)), "{model}");
        let listed = app.get("/v1/models").await.json();
        let ready: Vec<bool> =
            listed["models"].as_array().unwrap().iter().map(|model| model["ready"] == json!(true)).collect();
        assert_eq!(ready, [true, false], "{listed}");
        for path in ["/v1/models/bad:predict", "/v1/models/bad/versions/1:predict"] {
            let refused = app.predict(path, body()).await;
            assert_eq!(refused.json()["type"], "urn:leeway:problem:model-unavailable", "{}", refused.text);
            assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
            assert!(refused.text.contains(reason), "{}", refused.text);
        }
        let readiness = app.get("/readyz").await;
        assert_eq!((readiness.status, &readiness.json()["unserved"]["bad"]), (200, &json!(reason)));
        assert_eq!(app.metric("leeway_model_ready{model=\"bad\"}").await, 0.0);
        assert_eq!(app.metric("leeway_model_ready{model=\"plus\"}").await, 1.0);
        // It was never deployed, so the only model that was deployed is the default model.
        assert_eq!(app.predict("/predict", body()).await.predictions(), json!([[2.0, 2.0]]));

        mend_it(&repository);
        reload(&app).await;
        serves(&app, "bad", 1).await;
        assert_eq!(app.metric("leeway_model_ready{model=\"bad\"}").await, 1.0);
        assert_eq!(app.get("/readyz").await.json(), json!({ "ready": true }));
    }
}

/// A damaged deployed version is not replaced by another one. An operator can roll back without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_deployed_version_is_not_replaced_by_another_one() {
    let state = tempfile::tempdir().unwrap();
    let config = |repository: &Repository| {
        let url = StateUrl::Sqlite(state.path().join("leeway.db"));
        let mut config = repository.config();
        config.state.url = url;
        config.repository.default_model = Some("plus".parse().unwrap());
        config
    };
    let repository = repository().with("other", 1, "plus_3", PLAIN);
    drop(TestApp::with(config(&repository)).await);
    flip_a_bit(&folder(&repository, "plus/2/model.onnx"));
    let app = TestApp::with(config(&repository)).await;
    serves(&app, "other", 1).await;
    for path in ["/predict", "/v1/models/plus:predict"] {
        let refused = app.predict(path, body()).await;
        assert_eq!(refused.status, 503, "{}", refused.text);
        assert!(
            refused.text.contains("model plus is not served now: version 2 was refused (digest)"),
            "{}",
            refused.text
        );
    }
    assert_eq!(app.get("/readyz").await.json()["unserved"]["plus"], "version 2 was refused (digest)");
    let promoted = app.admin_post("/admin/v1/models/plus/promote", json!({ "version": 1 })).await;
    assert_eq!(promoted.status, 200, "{}", promoted.text);
    assert_eq!(app.predict("/predict", body()).await.predictions(), json!([[1.0, 1.0]]));
}

/// Two models were deployed, and one is damaged: the other does not answer in its place.
#[tokio::test(flavor = "multi_thread")]
async fn the_only_model_that_is_left_is_not_the_default_model() {
    let state = tempfile::tempdir().unwrap();
    let config = |repository: &Repository| {
        let mut config = repository.config();
        config.state.url = StateUrl::Sqlite(state.path().join("leeway.db"));
        config
    };
    type Break = fn(&Repository);
    let ways: [Break; 2] = [
        |repository| flip_a_bit(&folder(repository, "other/1/model.onnx")),
        |repository| write(repository, "other/model.toml", "broken"),
    ];
    let repository = repository().with("other", 1, "plus_3", PLAIN);
    drop(TestApp::with(config(&repository)).await);
    for break_it in ways {
        break_it(&repository);
        let app = TestApp::with(config(&repository)).await;
        serves(&app, "plus", 2).await;
        assert_eq!(app.predict("/predict", body()).await.json()["type"], "urn:leeway:problem:no-default-model");
    }
}

/// A half copy changes nothing for the clients of the only model.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_half_copied_takes_the_default_from_no_other() {
    let repository = repository();
    let app = TestApp::with(repository.config()).await;
    for (path, content) in [("new/model.toml", "broken"), ("new/1/model.onnx", "x"), ("new/model.toml", PLAIN)] {
        write(&repository, path, content);
        reload(&app).await;
        assert_eq!(app.predict("/predict", body()).await.predictions(), json!([[2.0, 2.0]]), "{path}");
    }
}

/// The highest version is a half copy: the model starts with the one below it.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_model_begins_with_the_highest_version_that_loads() {
    let repository = repository();
    write(&repository, "plus/3/model.onnx", "x");
    let app = TestApp::with(repository.config()).await;
    assert_eq!(app.predict("/predict", body()).await.predictions(), json!([[2.0, 2.0]]));
    let deployment = app.admin_get("/admin/v1/models/plus").await.json()["deployment"].clone();
    assert_eq!((&deployment["stable"], &deployment["generation"]), (&json!(2), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_model_is_alive_and_not_ready_and_serves_the_first_that_comes() {
    let repository = Repository::new();
    let app = TestApp::with(repository.config()).await;
    assert_eq!(app.get("/livez").await.status, 200);
    let not_ready = app.get("/readyz").await;
    assert_eq!((not_ready.status, &not_ready.json()["type"]), (503, &json!("urn:leeway:problem:unhealthy")));
    assert_eq!(app.metric("leeway_ready").await, 0.0);
    assert!(app.admin_get("/admin/v1/models").await.text.contains("there is no model here"));
    let repository = repository.with("plus", 1, "plus_1", "broken");
    reload(&app).await;
    let detail = app.get("/readyz").await.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail, "no model is served: plus: its model.toml is wrong");
    write(&repository, "plus/model.toml", PLAIN);
    reload(&app).await;
    assert_eq!(app.get("/readyz").await.status, 200);
    assert_eq!(app.metric("leeway_ready").await, 1.0);
    assert_eq!(app.predict("/predict", body()).await.predictions(), json!([[1.0, 1.0]]));
}

/// The default model does not exist. This is reported, and the other models are served.
#[tokio::test(flavor = "multi_thread")]
async fn a_default_model_that_is_not_there_is_a_problem_that_is_shown() {
    let repository = repository();
    let mut config = repository.config();
    config.repository.default_model = Some("digits".parse().unwrap());
    let app = TestApp::with(config).await;
    serves(&app, "plus", 1).await;
    let overview = app.admin_get("/admin/v1/models").await.json();
    let expected = "repository.default_model: there is no model digits in the repository; it has plus";
    assert_eq!(overview["problems"], json!([expected]));
    assert_eq!(app.predict("/predict", body()).await.status, 404);
    let repository = repository.with("digits", 1, "plus_1", PLAIN);
    assert_eq!(reload(&app).await["problems"], json!([]));
    assert_eq!(app.predict("/predict", body()).await.status, 200);
    drop(repository);
}

#[test]
fn a_strict_start_and_check_refuse_what_a_lenient_start_passes_over() {
    for path in ["@eaDir/", "new/", "new/model.toml", "plus/notebooks/", "new/1/model.onnx"] {
        let repository = repository();
        lay(&repository, path);
        if path == "new/1/model.onnx" {
            lay(&repository, "new/model.toml");
        }
        let models = repository.0.path().to_str().unwrap();
        let (code, text) = run(&mut leeway(&["check", "--models", models]));
        assert!(code == 1 && text.contains("error: "), "{path}: {text}");
        let mut serve =
            leeway(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--models", models]);
        let (code, text) = run(serve.env("LEEWAY_REPOSITORY__START", "strict"));
        assert!(code == 1 && text.contains("\"fatal\":true"), "{path}: {text}");
    }
    for path in ["lost+found/", ".git/"] {
        let repository = repository();
        lay(&repository, path);
        let (code, text) = run(&mut leeway(&["check", "--models", repository.0.path().to_str().unwrap()]));
        assert_eq!(code, 0, "{path}: {text}");
    }
}

// ===== links =====

/// A file outside the repository, with the content of a password file.
const SECRET: &str = "root:$6$sekret$hash:19000:0:99999:7:::\n";

#[tokio::test(flavor = "multi_thread")]
async fn links_out_of_the_repository_are_refused_and_what_they_lead_to_is_never_shown() {
    let elsewhere = repository();
    write(&elsewhere, "shadow", SECRET);
    let repository = repository().with("leak", 1, "plus_1", PLAIN);
    std::fs::remove_file(folder(&repository, "leak/model.toml")).unwrap();
    symlink(folder(&elsewhere, "shadow"), folder(&repository, "leak/model.toml")).unwrap();
    symlink(folder(&elsewhere, "plus"), folder(&repository, "whole")).unwrap();
    symlink(folder(&elsewhere, "plus/2"), folder(&repository, "plus/3")).unwrap();
    let app = TestApp::with(repository.config()).await;
    let overview = app.admin_get("/admin/v1/models").await;
    let problems = overview.json()["problems"].clone();
    for (problem, path) in problems.as_array().unwrap().iter().zip(["leak/model.toml", "plus/3", "whole"]) {
        let expected = "is a symbolic link that leads out of the repository; copy what it leads to with cp -rL";
        assert_eq!(*problem, json!(format!("{}: {expected}", folder(&repository, path).display())));
    }
    assert_eq!(problems.as_array().unwrap().len(), 3);
    assert!(!overview.text.contains("sekret"), "{}", overview.text);
    serves(&app, "plus", 2).await;
    assert_eq!(app.get("/v1/models/whole").await.status, 404);
    // Nor if the file itself is there instead of a link.
    std::fs::remove_file(folder(&repository, "leak/model.toml")).unwrap();
    write(&repository, "leak/model.toml", SECRET);
    write(&repository, "plus/4/version.toml", SECRET);
    let overview = reload(&app).await.to_string();
    assert!(overview.contains("model.toml: line 1, column "), "{overview}");
    assert!(overview.contains("version.toml: line 1, column "), "{overview}");
    assert!(!overview.contains("sekret"), "{overview}");
}

/// As Kubernetes mounts a projected volume and replaces its content.
#[tokio::test(flavor = "multi_thread")]
async fn a_projected_volume_is_served_and_so_is_its_next_state() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let root = repository.0.path();
    std::fs::create_dir(root.join("..2024_1")).unwrap();
    std::fs::rename(root.join("plus"), root.join("..2024_1/plus")).unwrap();
    symlink("..2024_1", root.join("..data")).unwrap();
    symlink("..data/plus", root.join("plus")).unwrap();
    let outside = tempfile::tempdir().unwrap();
    symlink(root, outside.path().join("models")).unwrap();
    let mut config = repository.config();
    config.repository.path = outside.path().join("models").into();
    let app = TestApp::with(config).await;
    serves(&app, "plus", 1).await;

    let next = root.join("..2024_2/plus");
    std::fs::create_dir_all(&next).unwrap();
    crate::harness::copy_folder(&root.join("..2024_1/plus/1"), &next.join("1"));
    std::fs::write(next.join("model.toml"), PLAIN.replace("600000", "500000")).unwrap();
    symlink("..2024_2", root.join("..data_tmp")).unwrap();
    std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    std::fs::remove_dir_all(root.join("..2024_1")).unwrap();
    assert_eq!(reload(&app).await["problems"], json!([]));
    serves(&app, "plus", 1).await;
    assert_eq!(app.get("/v1/models/plus/versions/1").await.json()["budget_ms"], 500_000);
    assert_eq!(app.metric("leeway_version_altered{model=\"plus\",version=\"1\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_settings_are_bounded_and_so_is_what_is_said_of_them() {
    let long = "x".repeat(1_000_000);
    let escape = "\u{1b}[31m";
    for (path, content, says) in [
        ("bad/model.toml", "#".repeat(1 << 21), "larger than 1048576 bytes"),
        ("bad/model.toml", format!("{PLAIN}{long} = 1\n"), "unknown key"),
        ("bad/model.toml", format!("{PLAIN}\"{long}\" = 1\n"), "unknown key"),
        ("bad/model.toml", PLAIN.replacen("\"tensor\"", &format!("\"{long}\""), 1), "there is no"),
        ("bad/model.toml", PLAIN.replacen("\"tensor\"", "\"\\u001b[31m\"", 1), "there is no"),
        ("bad/model.toml", format!("{PLAIN}providers = [\"\\u001b[31m\"]\n"), "is not one of cpu, cuda"),
        ("bad/model.toml", format!("{PLAIN}\"\\u001b[31m\" = 1\n"), "unknown key"),
        ("bad/1/version.toml", "#".repeat(1 << 21), "larger than 1048576 bytes"),
        ("bad/1/version.toml", format!("format = 1\n{long} = 1\n"), "unknown field"),
        ("bad/1/version.toml", format!("format = 1\n[metrics]\n{long} = 1\n[files]\n"), "is not a name"),
        ("bad/1/version.toml", "format = 1\n[metrics]\n\"\\u001b[31m\" = 1\n[files]\n".to_owned(), "is not a name"),
        ("bad/1/version.toml", "format = 1\n[tags]\n\"\\u0000\" = \"a\"\n[files]\n".to_owned(), "is not a name"),
        ("bad/1/version.toml", format!("format = 1\n[files]\n\"{long}\" = \"00\"\n"), "is not the path of a file"),
    ] {
        let repository = repository().with("bad", 1, "plus_1", PLAIN);
        write(&repository, path, &content);
        let app = TestApp::with(repository.config()).await;
        let overview = app.admin_get("/admin/v1/models").await;
        assert!(overview.text.contains(says), "{path}, {says}: {:.3000}", overview.text);
        assert!(overview.text.len() < 20_000, "{path}, {says}: {}", overview.text.len());
        assert!(!overview.text.contains(escape), "{path}, {says}: {}", overview.text);
    }
}

/// Every command may show a folder's name on a terminal.
#[test]
fn names_of_folders_are_escaped_where_they_are_shown() {
    let repository = repository();
    std::fs::create_dir(folder(&repository, "\u{1b}]0;title\u{7}")).unwrap();
    std::fs::create_dir(folder(&repository, "plus/\u{1b}[2J")).unwrap();
    write(&repository, "plus/3/\u{1b}[2J", "x");
    let models = repository.0.path().to_str().unwrap();
    for command in ["verify", "check"] {
        let (code, text) = run(&mut leeway(&[command, "--models", models]));
        assert_eq!(code, 1, "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{command}: {text:?}");
        assert!(text.contains("\\u{1b}"), "{command}: {text}");
    }
}

// ===== the log =====

/// Lines of a log that contain a text.
fn lines<'a>(log: &'a str, says: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(says)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_is_logged_once_and_once_more_when_it_is_gone() {
    let repository = repository();
    let server = Server::start(repository.0.path(), &[("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "5")]);
    let client = client();
    let overview = async || -> Value {
        let url = format!("http://{}/admin/v1/models", server.admin);
        client.get(url).send().await.unwrap().json().await.unwrap()
    };
    // After a version is loaded, several more syncs have passed.
    let mut next = 10;
    let mut looks = async || {
        for _ in 0..3 {
            next += 1;
            repository.add("plus", next, "plus_3");
            let is_there = |overview: &Value| overview["models"][0]["versions"][0]["state"] == "loaded";
            until(async || Some(overview().await).filter(is_there).map(drop)).await;
            std::fs::remove_dir_all(folder(&repository, &format!("plus/{next}"))).unwrap();
            let is_gone = |overview: &Value| overview["models"][0]["versions"][0]["version"] != json!(next);
            until(async || Some(overview().await).filter(is_gone).map(drop)).await;
        }
    };
    std::fs::create_dir(folder(&repository, "@eaDir")).unwrap();
    // Appears and disappears at once: a sync that sees half of it would log another problem.
    write(&repository, ".bad/model.toml", "broken");
    write(&repository, ".bad/1/model.onnx", "x");
    std::fs::rename(folder(&repository, ".bad"), folder(&repository, "bad")).unwrap();
    write(&repository, "plus/9/model.onnx", "x");
    looks().await;
    // Another file of a version that is still being copied is the same problem.
    write(&repository, "plus/9/labels.txt", "x");
    looks().await;
    std::fs::remove_dir(folder(&repository, "@eaDir")).unwrap();
    std::fs::rename(folder(&repository, "bad"), folder(&repository, ".bad")).unwrap();
    Manifest::write_for(&{
        std::fs::copy(folder(&repository, "plus/2/model.onnx"), folder(&repository, "plus/9/model.onnx")).unwrap();
        folder(&repository, "plus/9")
    })
    .unwrap();
    looks().await;
    server.signal("INT");
    let (_, log) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert_eq!(lines(&log, "@eaDir").len(), 2, "{log}");
    assert!(lines(&log, "@eaDir")[1].contains("resolved"), "{log}");
    assert_eq!(lines(&log, "bad/model.toml").len(), 2, "{log}");
    assert!(lines(&log, "bad/model.toml")[1].contains("resolved"), "{log}");
    let of_9 = lines(&log, "\"version\":\"9\"").join("\n");
    assert_eq!(lines(&of_9, "the file with the digests of the other files is missing").len(), 1, "{log}");
    assert_eq!(lines(&of_9, "resolved: the version is loaded").len(), 1, "{log}");
    let retired = lines(&log, "retired");
    assert!(!retired.is_empty() && retired.iter().all(|line| line.contains("WARN")), "{log}");
}

// ===== loads that do not end =====

/// True while versions with a file called `hang` hang when they are loaded.
static HANGS: AtomicBool = AtomicBool::new(true);
/// Only one test at a time uses it.
static HANGING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The tensor stage, which hangs for versions with a file called `hang`.
fn make_hanging(context: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    if context.files.read("hang").is_ok() {
        while HANGS.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        return Err(SetupError::Config("it has hung for long enough".to_owned()));
    }
    let tensor = StageConfig::of_kind("tensor");
    Stages::default().preprocessor(StageContext { config: &tensor, ..context })
}

fn add_hanging(repository: &Repository, model: &str, version: u32) {
    let folder = folder(repository, &format!("{model}/.hang"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.with_file_name("model.toml"), PLAIN).unwrap();
    std::fs::copy(checkout().join("tests/data/models/plus_1.onnx"), folder.join("model.onnx")).unwrap();
    std::fs::write(folder.join("hang"), "").unwrap();
    Manifest::write_for(&folder).unwrap();
    std::fs::rename(&folder, folder.with_file_name(version.to_string())).unwrap();
}

async fn with_hanging(config: Config) -> TestApp {
    TestApp::with_parts(config, runtime(), Stages::default().with_preprocessor("tensor", make_hanging)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_hangs_holds_up_no_other_model() {
    let _alone = HANGING.lock().await;
    HANGS.store(true, Ordering::Relaxed);
    let repository = repository().with("other", 1, "plus_1", PLAIN);
    let mut config = repository.config();
    config.repository.reload_timeout_ms = 200.try_into().unwrap();
    let app = with_hanging(config).await;
    // More hanging loads than there are places.
    for model in ["hang1", "hang2", "hang3"] {
        add_hanging(&repository, model, 1);
    }
    add_hanging(&repository, "plus", 3);
    // `reload` answers, and names what is still loading.
    let begin = Instant::now();
    let overview = reload(&app).await;
    assert!(begin.elapsed() < crate::harness::PATIENCE / 2);
    let loading = overview["loading"].as_array().unwrap();
    assert_eq!(loading.len(), 4, "{overview}");
    assert!(loading.contains(&json!("plus version 3")), "{overview}");
    // All versions that served still serve, and no loading version displaces them.
    for (model, version) in [("plus", 1), ("plus", 2), ("other", 1)] {
        serves(&app, model, version).await;
    }
    // Other versions of other models, and of the same one, are loaded, and a rollback works.
    repository.add("other", 2, "plus_4");
    repository.add("plus", 4, "plus_4");
    until(async || {
        let answer = app.predict("/v1/models/other/versions/2:predict", body()).await;
        let of_same = app.predict("/v1/models/plus/versions/4:predict", body()).await;
        if answer.status == 200 && of_same.status == 200 {
            return Some(());
        }
        reload(&app).await;
        None
    })
    .await;
    for change in [("promote", json!({ "version": 2 })), ("rollback", json!({}))] {
        let changed = app.admin_post(&format!("/admin/v1/models/other/{}", change.0), change.1).await;
        assert_eq!(changed.status, 200, "{}", changed.text);
    }
    // The hanging loads are shown.
    let shown = app.admin_get("/admin/v1/models/plus").await.json();
    let states: Vec<_> = shown["versions"].as_array().unwrap().iter().map(|version| version["state"].clone()).collect();
    assert!(states.contains(&json!("loading")), "{shown}");
    assert_eq!(app.get("/v1/models/hang1").await.json()["reason"], "version 1 is being loaded");
    // A request that waits for such a load gets an answer at once when the server stops.
    let waiting = {
        let url = format!("http://{}/admin/v1/models/plus/promote", app.admin);
        tokio::spawn(app.client.post(url).json(&json!({ "version": 3 })).send())
    };
    app.stop.send(leeway::app::Stop::AtOnce).await.unwrap();
    tokio::time::timeout(crate::harness::PATIENCE / 2, app.running).await.unwrap().unwrap().unwrap();
    if let Ok(answer) = waiting.await.unwrap() {
        assert_eq!(answer.status(), 503);
    }
    HANGS.store(false, Ordering::Relaxed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_hangs_at_the_start_holds_up_no_other_model() {
    let _alone = HANGING.lock().await;
    HANGS.store(true, Ordering::Relaxed);
    let repository = repository();
    add_hanging(&repository, "a_hangs", 1);
    let mut config = repository.config();
    config.repository.reload_timeout_ms = 200.try_into().unwrap();
    // Longer than the time after which a load gives its place away.
    config.repository.start_timeout_ms = 8_000.try_into().unwrap();
    let app = with_hanging(config).await;
    until(async || {
        let answer = app.predict("/v1/models/plus/versions/2:predict", body()).await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(app.get("/readyz").await.json()["unserved"]["a_hangs"], "version 1 is being loaded");
    HANGS.store(false, Ordering::Relaxed);
    until(async || {
        let reason = app.get("/v1/models/a_hangs").await.json()["reason"].clone();
        (reason == "version 1 was refused (config)").then_some(())
    })
    .await;
}

/// The whole process: the hanging load is abandoned, and the exit code is 0.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_ends_at_once_though_a_load_hangs() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    // The first load is let through.
    let settings = [("FAILPOINTS", "load::begun=1*off->pause"), ("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "5")];
    let server = Server::start(repository.0.path(), &settings);
    let (client, url) = (client(), format!("http://{}/admin/v1/models", server.admin));
    repository.add("plus", 2, "plus_2");
    until(async || {
        let overview: Value = client.get(&url).send().await.unwrap().json().await.unwrap();
        (overview["models"][0]["versions"][0]["step"] == "waiting").then_some(())
    })
    .await;
    // With a request that waits for the load, and in far less than the grace period.
    let promote = client.post(format!("{url}/plus/promote")).json(&json!({ "version": 2 }));
    let waiting = tokio::spawn(promote.send());
    let begin = Instant::now();
    server.signal("INT");
    let (status, log) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(
        status.success() && log.contains("stopped without waiting for a load that is still running"),
        "{status}: {log}"
    );
    assert!(begin.elapsed() < Duration::from_secs(25), "{log}");
    drop(waiting.await.unwrap());
}

// ===== leeway add =====

fn add(repository: &Repository, more: &[&str]) -> std::process::Command {
    let mut command = leeway(&["add", folder(repository, "plus").to_str().unwrap()]);
    command
        .args(more)
        .env("LEEWAY_REPOSITORY__PATH", repository.0.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

fn hidden(repository: &Repository) -> Vec<String> {
    let entries = std::fs::read_dir(folder(repository, "plus")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

fn plus_3() -> String {
    checkout().join("tests/data/models/plus_3.onnx").to_str().unwrap().to_owned()
}

#[test]
fn what_has_no_end_is_not_added() {
    let repository = repository();
    let pipe = folder(&repository, "pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.to_str().unwrap();
    for more in [
        vec!["--onnx", pipe],
        vec!["--onnx", "/dev/zero"],
        vec!["--onnx", "/dev/null"],
        vec!["--onnx", "/tmp"],
        vec!["--onnx", &plus_3(), "--data-file", pipe],
        vec!["--onnx", &plus_3(), "--file", "/dev/zero"],
        vec!["--onnx", &plus_3(), "--golden", pipe],
    ] {
        let (code, text) = run(&mut add(&repository, &more));
        assert!(code == 1 && text.contains("is not a regular file"), "{more:?}: {text}");
        assert!(hidden(&repository).is_empty(), "{more:?}");
    }
}

/// For every signal that it handles.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn an_addition_that_is_broken_off_leaves_nothing_behind() {
    use crate::harness::KillOnDrop;
    let repository = repository();
    let begin = async || {
        let mut command = add(&repository, &["--onnx", &plus_3()]);
        let child = KillOnDrop(command.env("FAILPOINTS", "add::staged=pause").spawn().unwrap());
        until(async || {
            let staged = hidden(&repository)
                .into_iter()
                .find(|name| folder(&repository, &format!("plus/{name}/version.toml")).exists());
            staged.map(drop)
        })
        .await;
        child
    };
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut child = begin().await;
        child.signal(signal);
        let ended = until(async || child.0.try_wait().unwrap()).await;
        assert_eq!((ended.code(), hidden(&repository)), (Some(code), vec![]), "{signal}");
    }
    // A killed process cannot clean up. The next one does, and spares additions in progress.
    drop(begin().await);
    assert_eq!(hidden(&repository).len(), 1);
    let going_on = begin().await;
    assert_eq!(hidden(&repository).len(), 1);
    let (code, text) = run(&mut add(&repository, &["--onnx", &plus_3()]));
    assert!(code == 0 && text.contains("Added version 3"), "{text}");
    assert_eq!(hidden(&repository).len(), 1);
    drop(going_on);
}

/// A file with the name of the next version is not a version, and its number is skipped.
#[test]
fn a_number_that_is_taken_by_something_else_is_passed_over() {
    let repository = repository();
    write(&repository, "plus/3", "");
    std::fs::create_dir(folder(&repository, "plus/notebooks")).unwrap();
    let (code, text) = run(&mut add(&repository, &["--onnx", &plus_3()]));
    assert!(code == 0 && text.contains("Added version 4"), "{text}");
}
