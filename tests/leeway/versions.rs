//! Versions as artifacts: added, verified, tried out, and refused if they are invalid.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leeway::app::Dependencies;
use leeway::config::StartMode;
use leeway::pipeline::Stages;
use leeway::repository::{Manifest, VerifiedVersion};
use serde_json::{Value, json};

use crate::harness::{
    PLAIN, Repository, Server, TestApp, checkout, client, ledger, leeway, no_fleet, no_rollouts, run, runtime, trial,
};

/// A repository whose version 1 serves. A test may break version 2, which adds 5 to x and has the 5 in a file of its
/// own.
fn repository() -> Repository {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN).with("plus", 2, "plus_5_external", PLAIN);
    let data = checkout().join("tests/data/models/plus_5.onnx.data");
    std::fs::copy(data, version(&repository).join("plus_5.onnx.data")).unwrap();
    std::fs::write(version(&repository).join("labels.txt"), "a\nb\n").unwrap();
    Manifest::write_for(&version(&repository)).unwrap();
    repository
}

fn version(repository: &Repository) -> PathBuf {
    repository.0.path().join("plus/2")
}

fn flip_a_bit(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// Replaces the name of the weights file by another one of the same length, and seals the version.
fn locate_weights_at(folder: &Path, location: &str) {
    assert_eq!(location.len(), "plus_5.onnx.data".len());
    let file = folder.join("model.onnx");
    let bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(location.len()).position(|window| window == b"plus_5.onnx.data").unwrap();
    let changed = [&bytes[..at], location.as_bytes(), &bytes[at + location.len()..]].concat();
    std::fs::write(file, changed).unwrap();
    Manifest::write_for(folder).unwrap();
}

/// All ways to break a version's files, and the expected messages.
#[test]
fn every_mutation_of_a_versions_files_is_refused_with_its_reason() {
    let mut seen = String::new();
    let mut check = |name: &str, break_it: &dyn Fn(&Path)| {
        let repository = repository();
        assert!(VerifiedVersion::read(&version(&repository)).is_ok());
        break_it(&version(&repository));
        let refusal = VerifiedVersion::read(&version(&repository)).unwrap_err();
        let message = refusal.message.replace(repository.0.path().to_str().unwrap(), "MODELS");
        writeln!(seen, "{name}: {}: {message}\n", refusal.fault.name()).unwrap();
    };
    for file in ["model.onnx", "plus_5.onnx.data", "labels.txt"] {
        check(&format!("a bit of {file}"), &|folder| flip_a_bit(&folder.join(file)));
        check(&format!("{file} truncated"), &|folder| {
            let bytes = std::fs::read(folder.join(file)).unwrap();
            std::fs::write(folder.join(file), &bytes[..bytes.len() - 1]).unwrap();
        });
        check(&format!("{file} missing"), &|folder| std::fs::remove_file(folder.join(file)).unwrap());
        check(&format!("{file} a symbolic link"), &|folder| {
            std::fs::rename(folder.join(file), folder.join("../elsewhere")).unwrap();
            std::os::unix::fs::symlink("../elsewhere", folder.join(file)).unwrap();
        });
        check(&format!("{file} a hard link"), &|folder| {
            std::fs::hard_link(folder.join(file), folder.join("../elsewhere")).unwrap();
        });
    }
    check("one file more", &|folder| std::fs::write(folder.join("more.txt"), "").unwrap());
    check("a folder that is a symbolic link", &|folder| {
        std::os::unix::fs::symlink("/tmp", folder.join("vocab")).unwrap();
    });
    check("a pipe", &|folder| {
        let made = std::process::Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap();
        assert!(made.success());
    });
    check("weights outside", &|folder| locate_weights_at(folder, "../1/model.onnx "));
    check("weights at an absolute path", &|folder| locate_weights_at(folder, "/etc/hostname.x1"));
    check("weights outside by a detour", &|folder| locate_weights_at(folder, "a/../../../x/y.d"));
    check("weights in a file that is not there", &|folder| locate_weights_at(folder, "plus_6.onnx.data"));
    check("no manifest", &|folder| std::fs::remove_file(folder.join("version.toml")).unwrap());
    let manifest = |text: &'static str| move |folder: &Path| std::fs::write(folder.join("version.toml"), text).unwrap();
    check("a manifest of nothing", &manifest(""));
    check("a manifest of a later form", &manifest("format = 2\n[files]\n"));
    check("a manifest with an unknown key", &manifest("format = 1\nauthor = \"ada\"\n[files]\n"));
    check("a manifest that leads outside", &manifest("format = 1\n[files]\n\"../x\" = \"00\"\n"));
    check("a manifest with a number that is none", &manifest("format = 1\n[metrics]\nauc = nan\n[files]\n"));
    insta::assert_snapshot!(seen);
}

fn predict(app: &TestApp) -> impl Future<Output = crate::harness::Answer> {
    app.predict("/predict", json!({ "instances": [[0.0, 0.0]] }).to_string())
}

async fn with_trial(repository: &Repository, timeout_ms: u64) -> TestApp {
    let mut config = repository.config();
    config.loading.trial_timeout_ms = timeout_ms.try_into().unwrap();
    let trial = trial(&config);
    TestApp::with_trial(config, trial).await
}

/// A server that serves version 1. A version 2 that cannot be served appears, and is requested in every way.
async fn refuses_the_second(break_it: impl FnOnce(&Repository), fault: &str, says: &str) {
    refuses_the_second_within(60_000, break_it, fault, says).await;
}

/// As above, with this timeout for trials, also that of version 1, because a test machine may be busy.
async fn refuses_the_second_within(timeout_ms: u64, break_it: impl FnOnce(&Repository), fault: &str, says: &str) {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let app = with_trial(&repository, timeout_ms).await;
    break_it(&repository);
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.json();
    let second = &overview["models"][0]["versions"][0];
    assert_eq!(
        (&second["version"], &second["state"], &second["fault"]),
        (&json!(2), &json!("refused"), &json!(fault)),
        "{second}"
    );
    assert!(second["problem"].as_str().unwrap().contains(says), "{second}");
    let series = format!("leeway_load_failures_total{{model=\"plus\",reason=\"{fault}\"}}");
    assert_eq!(app.metric(&series).await, 1.0);
    // An unchanged version is not tried again, except on request.
    app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(app.metric(&series).await, 1.0);
    let promoted = app.admin_post("/admin/v1/models/plus/promote", json!({ "version": 2 })).await;
    assert_eq!(promoted.status, 422, "{}", promoted.text);
    assert!(promoted.json()["detail"].as_str().unwrap().contains(says), "{}", promoted.text);
    let answer = predict(&app).await;
    assert_eq!((answer.predictions(), answer.header("x-model-version")), (json!([[1.0, 1.0]]), "1"));
}

fn add_second(model: &'static str) -> impl FnOnce(&Repository) {
    move |repository| Repository::add(repository, "plus", 2, model)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_altered_never_serves() {
    let broken = |repository: &Repository| {
        Repository::add(repository, "plus", 2, "plus_2");
        flip_a_bit(&version(repository).join("model.onnx"));
    };
    refuses_the_second(broken, "digest", "model.onnx is not the file that was added").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_takes_all_memory_does_so_elsewhere() {
    refuses_the_second(add_second("bomb"), "trial", "loading.trial_memory_mb allows more").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_end_is_ended() {
    refuses_the_second_within(8_000, add_second("endless"), "trial", "did not finish within 8000 ms").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_does_not_fit_is_refused() {
    refuses_the_second(add_second("not_per_row"), "warm_up", "\"y\" does not have one row per instance").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_predicts_something_else_is_refused() {
    let golden = |repository: &Repository| {
        Repository::add(repository, "plus", 2, "plus_2");
        let golden = json!({ "instances": [[0, 0], [1, 2]], "predictions": [[2, 2], [3, 4.5]], "tolerance": 0.01 });
        std::fs::write(version(repository).join("golden.json"), golden.to_string()).unwrap();
        Manifest::write_for(&version(repository)).unwrap();
    };
    refuses_the_second(golden, "golden", "predictions[1][1] is 4.0, expected 4.5 ± 0.045").await;
}

/// No available model makes the real program abort. This program does, and the server sees the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_trial_that_aborts_is_a_refusal() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let script = repository.0.path().join("abort.sh");
    let mut trial = trial(&repository.config());
    for (does, says) in [
        ("echo 'free(): invalid pointer' >&2; kill -ABRT $$", "its process ended with signal 6"),
        ("echo 'free(): invalid pointer' >&2; kill -ABRT $$", "free(): invalid pointer"),
        ("exit 3", "its process ended with exit code 3"),
        ("echo '{}'", "its process ended with exit code 0"),
        ("cat >/dev/null; yes", "did not finish within"),
    ] {
        std::fs::write(&script, format!("#!/bin/sh\n{does}\n")).unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        trial.program.clone_from(&script);
        trial.timeout = Duration::from_millis(300);
        let mut config = repository.config();
        config.repository.start = StartMode::Strict;
        let journal = leeway::state::open_journal(&config.state).await.unwrap();
        let parts = Dependencies {
            engine: runtime(),
            isolated_engine: None,
            stages: Stages::default(),
            trial: Some(trial.clone()),
            journal,
            ledger: ledger(),
            fleet: no_fleet(),
            rollouts: no_rollouts(),
        };
        let error = leeway::app::App::build_with(config, parts).await.unwrap_err().to_string();
        assert!(error.contains(says), "{does}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_loaded_version_are_watched() {
    let repository = repository();
    let app = TestApp::with(repository.config()).await;
    let altered = "leeway_version_altered{model=\"plus\",version=\"2\"}";
    assert_eq!(app.metric(altered).await, 0.0);

    let model = version(&repository).join("model.onnx");
    let whole = std::fs::read(&model).unwrap();
    flip_a_bit(&model);
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.json();
    let problem = overview["models"][0]["versions"][0]["altered"].as_str().unwrap();
    assert!(problem.contains("model.onnx is not the file that was added"), "{problem}");
    assert_eq!(app.metric(altered).await, 1.0);
    // An alarm, but no swap: the loaded files are still served.
    assert_eq!(predict(&app).await.predictions(), json!([[5.0, 5.0]]));

    std::fs::write(&model, whole).unwrap();
    app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(app.metric(altered).await, 0.0);

    std::fs::remove_dir_all(version(&repository)).unwrap();
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.json();
    assert!(overview["models"][0]["versions"][0]["altered"].is_string(), "{overview}");
    assert_eq!(predict(&app).await.predictions(), json!([[5.0, 5.0]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_model_toml_is_taken_over_if_it_is_right() {
    let repository = repository();
    let app = TestApp::with(repository.config()).await;
    let model_toml = repository.0.path().join("plus/model.toml");
    let budget = async || app.get("/v1/models/plus/versions/2").await.json()["budget_ms"].clone();
    assert_eq!(predict(&app).await.status, 200);

    std::fs::write(&model_toml, "[preprocess]\nkind = \"tenser\"\n").unwrap();
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.json();
    assert!(overview["models"][0]["config_problem"].as_str().unwrap().contains("postprocess"), "{overview}");
    assert_eq!(predict(&app).await.predictions(), json!([[5.0, 5.0]]));

    // A valid model.toml that does not fit the model.
    std::fs::write(&model_toml, PLAIN.replacen("tensor", "nothing", 1)).unwrap();
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.json();
    let problem = overview["models"][0]["versions"][0]["reload_problem"].as_str().unwrap();
    assert!(problem.contains("there is no \"nothing\""), "{problem}");
    assert_eq!((predict(&app).await.status, budget().await), (200, json!(600_000)));
    // A loaded version can be deployed, even if model.toml is wrong meanwhile.
    for change in ["promote", "rollback"] {
        let path = format!("/admin/v1/models/plus/{change}");
        let body = if change == "promote" { json!({ "version": 1 }) } else { json!({}) };
        assert_eq!(app.admin_post(&path, body).await.status, 200);
    }

    std::fs::write(&model_toml, PLAIN.replace("600000", "500000")).unwrap();
    let overview = app.admin_post("/admin/v1/reload", json!({})).await.json();
    assert_eq!(overview["models"][0]["config_problem"], Value::Null);
    assert_eq!((predict(&app).await.status, budget().await), (200, json!(500_000)));
    // Another budget needs other histograms, so counting begins at zero, as after a restart. After other changes it
    // continues.
    let ok = "leeway_requests_total{model=\"plus\",version=\"2\",outcome=\"ok\"}";
    assert_eq!(app.metric(ok).await, 1.0);
    std::fs::write(&model_toml, PLAIN.replace("600000", "500000").replace("[model]", "[model]\nqueue_capacity = 7"))
        .unwrap();
    app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(predict(&app).await.status, 200);
    assert_eq!(app.metric(ok).await, 2.0);
}

/// Another artifact under the same number, sealed like a version, is never taken for the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_exchanged_is_never_swapped_in() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let app = TestApp::with(repository.config()).await;
    let altered = "leeway_version_altered{model=\"plus\",version=\"1\"}";
    std::fs::remove_dir_all(repository.0.path().join("plus/1")).unwrap();
    repository.add("plus", 1, "plus_4");
    app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(app.metric(altered).await, 1.0);
    std::fs::write(repository.0.path().join("plus/model.toml"), PLAIN.replace("600000", "500000")).unwrap();
    app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(app.metric(altered).await, 1.0);
    assert_eq!(predict(&app).await.predictions(), json!([[1.0, 1.0]]));
    // It could not be loaded again, so it gets no traffic that it does not have already.
    repository.add("plus", 2, "plus_2");
    app.admin_post("/admin/v1/reload", json!({})).await;
    assert_eq!(app.admin_post("/admin/v1/models/plus/promote", json!({ "version": 2 })).await.status, 200);
    let again = app.admin_post("/admin/v1/models/plus/promote", json!({ "version": 1 })).await;
    assert!(again.status == 422 && again.text.contains("altered on disk"), "{}", again.text);
    assert_eq!(app.admin_post("/admin/v1/models/plus/rollback", json!({})).await.status, 200);
    assert_eq!(predict(&app).await.predictions(), json!([[1.0, 1.0]]));
}

/// The trial uses the `model.toml` that the server has read, even if the file has changed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_model_toml_keeps_no_version_from_being_loaded() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN).with("plus", 2, "plus_2", PLAIN);
    let mut config = repository.config();
    config.repository.newest_versions = 0;
    let trial = Some(trial(&config));
    let journal = leeway::state::open_journal(&config.state).await.unwrap();
    let parts = Dependencies {
        engine: runtime(),
        isolated_engine: None,
        stages: Stages::default(),
        trial,
        journal,
        ledger: ledger(),
        fleet: no_fleet(),
        rollouts: no_rollouts(),
    };
    let app = TestApp::with_all(config, parts).await;
    std::fs::write(repository.0.path().join("plus/model.toml"), "broken").unwrap();
    let promoted = app.admin_post("/admin/v1/models/plus/promote", json!({ "version": 1 })).await;
    assert_eq!(promoted.status, 200, "{}", promoted.text);
    assert_eq!(predict(&app).await.predictions(), json!([[1.0, 1.0]]));
}

#[test]
fn a_version_is_added_with_everything_that_is_known_of_it() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let models = repository.0.path();
    let model = models.join("plus");
    let data = checkout().join("tests/data/models");
    let instances = models.join("instances.jsonl");
    std::fs::write(&instances, "[1, 2]\n[0.5, 4]\n\n").unwrap();
    let add = |more: &[&str]| {
        let mut command = leeway(&["add", model.to_str().unwrap()]);
        run(command.args(more).env("LEEWAY_REPOSITORY__PATH", models))
    };
    let file = |name: &str| data.join(name).to_str().unwrap().to_owned();

    let alone = models.join("plus_5_external.onnx");
    std::fs::copy(file("plus_5_external.onnx"), &alone).unwrap();
    let (code, text) = add(&["--onnx", alone.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(
        text.contains("\"plus_5.onnx.data\", which is not a file of this version (`leeway add --data-file`"),
        "{text}"
    );

    let (code, text) = add(&[
        "--onnx",
        &file("plus_5_external.onnx"),
        "--data-file",
        &file("plus_5.onnx.data"),
        "--record-golden",
        instances.to_str().unwrap(),
        "--trained-at",
        "2026-11-01",
        "--dataset",
        "numbers-7",
        "--metric",
        "accuracy=0.97",
        "--tag",
        "team=sums",
    ]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("Added version 2") && text.contains("its 2 golden examples"), "{text}");
    let verified = VerifiedVersion::read(&version(&repository)).unwrap();
    assert_eq!(verified.manifest.metrics["accuracy"], 0.97);
    assert_eq!(
        (verified.manifest.dataset.as_deref(), verified.manifest.tags["team"].as_str()),
        (Some("numbers-7"), "sums")
    );
    assert_eq!(json!(verified.golden.unwrap().predictions), json!([[6.0, 7.0], [5.5, 9.0]]));

    // An invalid addition leaves nothing behind.
    for (more, says) in [
        (vec!["--onnx", "/nowhere/model.onnx"], "/nowhere/model.onnx: No such file"),
        (vec!["--onnx", &file("bomb.onnx")], "loading.trial_memory_mb"),
        (vec!["--onnx", &file("not_per_row.onnx")], "\"y\" does not have one row per instance"),
        (vec!["--onnx", &file("make_models.py")], "No such file"),
        (vec!["--onnx", instances.to_str().unwrap()], "not an ONNX file"),
        (vec!["--onnx", &file("plus_2.onnx"), "--metric", "accuracy=high"], "is not a number"),
        (vec!["--onnx", &file("plus_2.onnx"), "--trained-at", "yesterday"], "is not a date"),
    ] {
        let (code, text) = add(&more);
        assert!(code != 0 && text.contains(says), "{more:?}: {text}");
    }
    let left: Vec<String> = std::fs::read_dir(&model)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !["1", "2", "model.toml"].contains(&name.as_str()))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    let verify = || run(&mut leeway(&["verify", "--models", models.to_str().unwrap()]));
    let (code, text) = verify();
    assert!(code == 0 && text.contains("2 versions are as they were added"), "{text}");
    flip_a_bit(&version(&repository).join("plus_5.onnx.data"));
    let (code, text) = verify();
    assert!(code == 1 && text.contains("plus 2: BAD (digest): plus_5.onnx.data is not the file"), "{text}");
}

/// Files that the model does not name, and those that are not its own, stay where they are.
#[test]
fn weights_beside_the_model_are_added_with_it() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let data = checkout().join("tests/data/models");
    let add = |folder: &Path, more: &[&str]| {
        let (model, onnx) = (repository.0.path().join("plus"), folder.join("plus_5_external.onnx"));
        let command = ["add", model.to_str().unwrap(), "--onnx", onnx.to_str().unwrap()];
        run(&mut leeway(&[&command, more].concat()))
    };
    let folder = || {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(data.join("plus_5_external.onnx"), folder.path().join("plus_5_external.onnx")).unwrap();
        folder
    };
    let weights = std::fs::read(data.join("plus_5.onnx.data")).unwrap();
    let added = |version: u32| {
        let verified = VerifiedVersion::read(&repository.0.path().join(format!("plus/{version}"))).unwrap();
        verified.manifest.files.keys().map(ToString::to_string).collect::<Vec<_>>()
    };

    let beside = folder();
    std::fs::write(beside.path().join("plus_5.onnx.data"), &weights).unwrap();
    std::fs::write(beside.path().join("other.data"), &weights).unwrap();
    let (code, text) = add(beside.path(), &[]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains(
            "Taken along from beside the ONNX file, because the model keeps weights there: plus_5.onnx.data."
        ),
        "{text}"
    );
    assert_eq!(added(2), ["model.onnx", "plus_5.onnx.data"]);

    // What is given wins, and a link within the folder is followed.
    std::fs::write(beside.path().join("plus_5.onnx.data"), "something else").unwrap();
    let given = data.join("plus_5.onnx.data");
    let (code, text) = add(beside.path(), &["--data-file", given.to_str().unwrap()]);
    assert!(code == 0 && !text.contains("Taken along"), "{text}");
    assert_eq!(std::fs::read(repository.0.path().join("plus/3/plus_5.onnx.data")).unwrap(), weights);
    let linked = folder();
    std::fs::write(linked.path().join("blob"), &weights).unwrap();
    std::os::unix::fs::symlink("blob", linked.path().join("plus_5.onnx.data")).unwrap();
    let (code, text) = add(linked.path(), &[]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(added(4), ["model.onnx", "plus_5.onnx.data"]);

    // A link that leads out, and a folder, are not the model's weights.
    let outside = folder();
    std::os::unix::fs::symlink(&given, outside.path().join("plus_5.onnx.data")).unwrap();
    let is_folder = folder();
    std::fs::create_dir(is_folder.path().join("plus_5.onnx.data")).unwrap();
    for folder in [&outside, &is_folder] {
        let (code, text) = add(folder.path(), &[]);
        assert!(code == 1 && text.contains("which is not a file of this version (`leeway add --data-file`"), "{text}");
    }
}

#[test]
fn instances_to_record_may_be_packed_and_have_a_byte_order_mark() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let instances = repository.0.path().join("instances.jsonl.gz");
    let file = std::fs::File::create(&instances).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
    encoder.write_all("\u{feff}[1, 2]\n[0.5, 4]\n".as_bytes()).unwrap();
    encoder.finish().unwrap();
    let (model, onnx) = (repository.0.path().join("plus"), checkout().join("tests/data/models/plus_3.onnx"));
    let arguments = ["add", model.to_str().unwrap(), "--onnx", onnx.to_str().unwrap()];
    let (code, text) = run(leeway(&arguments).args(["--record-golden", instances.to_str().unwrap()]));
    assert_eq!(code, 0, "{text}");
    let golden = VerifiedVersion::read(&version(&repository)).unwrap().golden.unwrap();
    assert_eq!(json!(golden.predictions), json!([[4.0, 5.0], [3.5, 7.0]]));
}

/// A running server finds versions that `leeway add` adds, and gives them no traffic.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_is_taken_in_by_itself() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let server = Server::start(repository.0.path(), &[("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "20")]);
    let file = checkout().join("tests/data/models/plus_2.onnx");
    let model = repository.0.path().join("plus");
    let (code, text) = run(&mut leeway(&["add", model.to_str().unwrap(), "--onnx", file.to_str().unwrap()]));
    assert_eq!(code, 0, "{text}");
    let client = client();
    let url = server.url("/v1/models/plus/versions/2:predict");
    let body = json!({ "instances": [[0, 0]] }).to_string();
    let answer: Value = crate::harness::until(async || {
        let answer = client.post(&url).body(body.clone()).send().await.unwrap();
        if answer.status() == 200 { answer.json().await.ok() } else { None }
    })
    .await;
    assert_eq!(answer["predictions"], json!([[2.0, 2.0]]));
    let answer: Value = client.post(server.url("/predict")).body(body).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["predictions"], json!([[1.0, 1.0]]));
}
