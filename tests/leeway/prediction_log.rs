//! The prediction log: its rows are the answers, with their truths; it loses at most what is not in a file yet, and no
//! prediction depends on it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use leeway::app::Stop;
use leeway::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chains::{TAG, golden, images, texts, with_chain};
use crate::harness::{Repository, Server, TestApp, checkout, client, config, held_out, leeway, run, until};

/// A model of a table, with a long budget and without a limit of time.
pub(crate) fn penguins(more: &str) -> Repository {
    let repository = Repository::new().with_shipped("penguins", &[1, 2]);
    let path = repository.path().join("penguins/model.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("total_ms = 200", "total_ms = 60000");
    std::fs::write(path, format!("{text}\n{more}")).unwrap();
    repository
}

/// A server that logs all requests into a folder.
pub(crate) fn logging(mut config: Config, folder: &TempDir) -> Config {
    config.prediction_log.path = Some(folder.path().to_owned());
    config.prediction_log.sample = 1.0;
    config
}

pub(crate) async fn stop(app: TestApp) {
    app.stop.send(Stop::AtOnce).await.unwrap();
    app.running.await.unwrap().unwrap();
}

/// Returns the log of a model, as `leeway log` prints it.
pub(crate) fn log(folder: &Path, arguments: &[&str]) -> Vec<Value> {
    let (code, text) = log_text(folder, arguments);
    assert_eq!(code, 0, "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn log_text(folder: &Path, arguments: &[&str]) -> (i32, String) {
    run(leeway(&["log"]).args(arguments).arg("--path").arg(folder))
}

/// Returns all files of the log, also hidden ones.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let models: Vec<PathBuf> = entries(folder).filter(|path| path.is_dir()).collect();
    let versions: Vec<PathBuf> = models.iter().flat_map(|model| entries(model)).collect();
    versions.iter().flat_map(|version| entries(version)).collect()
}

pub(crate) fn penguin(bill: Option<f64>) -> Value {
    json!({
        "island": "Biscoe", "bill_length_mm": bill, "bill_depth_mm": 15.0, "flipper_length_mm": 220, "body_mass_g": 5000,
        "sex": "male"
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_the_log_are_the_answers() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), penguins(""));
    let app = TestApp::with(logging(repository.config(), &folder)).await;
    let instances = [penguin(Some(50.5)), penguin(None)];
    let request = app.client.post(app.url("/v1/models/penguins:predict")).header("x-request-id", "asked-1");
    let answer: Value = request.json(&json!({ "instances": instances })).send().await.unwrap().json().await.unwrap();
    // Columns are logged as the instances that they mean.
    let columns = json!({ "dataframe_split": { "columns": ["island", "bill_length_mm"], "data": [["Dream", 40.5]] } });
    let split = app.predict("/v1/models/penguins/versions/1:predict", columns.to_string()).await;
    let tensor = |name: &str, datatype: &str, value: Value| json!({ "name": name, "shape": [1], "datatype": datatype, "data": [value] });
    let v2 = json!({ "inputs": [tensor("island", "BYTES", json!("Torgersen")), tensor("body_mass_g", "FP32", json!(4000))],
                     "parameters": { "content": "pipeline" } });
    let v2 = app.predict("/v2/models/penguins/versions/1/infer", v2.to_string()).await;
    assert_eq!(v2.status, 200, "{}", v2.text);
    // Requests that are refused, or not real, are not logged.
    assert_eq!(app.predict("/v1/models/penguins:predict", "{\"instances\": [1]}").await.status, 400);
    let probe = app.client.post(app.url("/v1/models/penguins:predict")).header("x-leeway-synthetic", "true");
    probe.json(&json!({ "instances": [penguin(None)] })).send().await.unwrap().error_for_status().unwrap();
    stop(app).await;

    let rows = log(folder.path(), &["penguins"]);
    assert_eq!(rows.len(), 4);
    let of_two: Vec<&Value> = rows.iter().filter(|row| row["version"] == 2).collect();
    for (index, row) in of_two.iter().enumerate() {
        assert_eq!(row["prediction_id"], answer["prediction_ids"][index]);
        assert_eq!(row["answer"], answer["predictions"][index]);
        assert_eq!(row["class"], answer["predictions"][index]["label"]);
        assert_eq!((&row["request_id"], &row["index"]), (&json!("asked-1"), &json!(index)));
        assert_eq!(row["instance"], instances[index]);
        assert_eq!((&row["model"], &row["value"]), (&json!("penguins"), &Value::Null));
        assert_eq!((&row["feature.island"], &row["feature.body_mass_g"]), (&json!("Biscoe"), &json!(5000.0)));
        let certainty = (row["confidence"].as_f64().unwrap(), row["margin"].as_f64().unwrap());
        assert!((certainty.0 - answer["predictions"][index]["confidence"].as_f64().unwrap()).abs() < 1e-6);
        assert!(certainty.1 <= certainty.0 && row["entropy"].as_f64().is_some());
    }
    assert_eq!(
        (&of_two[0]["feature.bill_length_mm"], &of_two[1]["feature.bill_length_mm"]),
        (&json!(50.5), &Value::Null)
    );
    let of_one: Vec<&Value> = rows.iter().filter(|row| row["version"] == 1).collect();
    let ids = v2.json()["outputs"].as_array().unwrap().iter().find(|output| output["name"] == "prediction_id").unwrap()
        ["data"]
        .clone();
    assert_eq!((&of_one[1]["prediction_id"], &of_one[1]["instance"]["island"]), (&ids[0], &json!("Torgersen")));
    let of_one = of_one[0];
    assert_eq!(of_one["prediction_id"], split.json()["prediction_ids"][0]);
    assert_eq!(of_one["instance"], json!({ "island": "Dream", "bill_length_mm": 40.5 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn truths_are_beside_their_predictions() {
    let folder = tempfile::tempdir().unwrap();
    let repository = penguins("[monitoring.business]\nrevenue = \"sum\"\n");
    let app = TestApp::with(logging(repository.config(), &folder)).await;
    let body = json!({ "instances": [penguin(Some(50.0)), penguin(Some(40.0)), penguin(None)] }).to_string();
    let ids = app.predict("/v1/models/penguins:predict", body).await.json()["prediction_ids"].clone();
    let give = async |feedback: Value| {
        let answer = app.predict("/feedback", json!({ "feedback": [feedback] }).to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    give(json!({ "prediction_id": ids[0], "label": "Adelie" })).await;
    // Said again, and corrected.
    give(json!({ "prediction_id": ids[0], "label": "Adelie" })).await;
    give(json!({ "prediction_id": ids[0], "label": "Gentoo" })).await;
    give(json!({ "prediction_id": ids[1], "metrics": { "revenue": 12.5 } })).await;
    // Refused.
    give(json!({ "prediction_id": ids[2], "label": "Emperor" })).await;
    stop(app).await;

    let rows = log(folder.path(), &["penguins"]);
    assert_eq!((&rows[0]["true_label"], rows[0].get("metrics")), (&json!("Gentoo"), None));
    assert!(rows[0]["true_at"].is_string());
    assert_eq!((rows[1].get("true_label"), &rows[1]["metrics"]), (None, &json!({ "revenue": 12.5 })));
    assert_eq!(rows[2].get("true_label"), None);
    let (_, table) = log_text(folder.path(), &["penguins", "--count"]);
    let counts: Vec<&str> = table.lines().last().unwrap().split_whitespace().take(4).collect();
    assert_eq!(counts, ["2", "3", "2", "1"], "{table}");
    // The header, and a line for each row.
    let (_, text) = log_text(folder.path(), &["penguins", "--format", "csv"]);
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.starts_with("time,prediction_id,request_id,index,model,version,class,"), "{text}");
    // The window.
    assert_eq!(log(folder.path(), &["penguins", "--since", "1h"]).len(), 3);
    assert_eq!(log(folder.path(), &["penguins", "--until", "1h"]).len(), 0);
    let (code, text) = log_text(folder.path(), &["nobody"]);
    assert!(code == 1 && text.contains("nobody: the log has no predictions of nobody"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redacted_names_are_in_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let repository = penguins("[prediction_log]\nredact = [\"island\", \"request_id\"]\n");
    let mut config = logging(repository.config(), &folder);
    config.prediction_log.redact = vec!["sex".to_owned()];
    let app = TestApp::with(config).await;
    let body = json!({ "instances": [penguin(Some(50.0))] }).to_string();
    assert_eq!(app.predict("/v1/models/penguins:predict", body).await.status, 200);
    stop(app).await;
    let rows = log(folder.path(), &["penguins"]);
    let names: Vec<&String> = rows[0]["instance"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["bill_depth_mm", "bill_length_mm", "body_mass_g", "flipper_length_mm"]);
    assert!(rows[0].get("feature.island").is_none() && rows[0].get("feature.sex").is_none(), "{rows:?}");
    assert!(rows[0]["request_id"].is_null() && rows[0]["feature.body_mass_g"].is_number(), "{rows:?}");
    for file in files(folder.path()) {
        let bytes = std::fs::read(file).unwrap();
        assert!(!bytes.windows(6).any(|part| part == b"Biscoe"), "a redacted value");
    }
}

/// An array has no names that could be removed, so it is not written.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_cannot_be_redacted_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = logging(config(), &folder);
    config.prediction_log.redact = vec!["email".to_owned()];
    let app = TestApp::with(config).await;
    let body = json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..2] }).to_string();
    assert_eq!(app.predict("/predict", body).await.status, 200);
    stop(app).await;
    let rows = log(folder.path(), &["digits"]);
    assert!(rows.len() == 2 && rows.iter().all(|row| row["instance"].is_null() && row["answer"].is_object()));
}

/// Which requests are logged follows from their ids, so the feedback on the others is not logged, either.
#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_requests_is_logged_with_their_feedback() {
    for (more, share) in [("", 0.5), ("[prediction_log]\nsample = 0\n", 0.0), ("[prediction_log]\nsample = 1\n", 1.0)] {
        let (folder, repository) = (tempfile::tempdir().unwrap(), penguins(more));
        let mut config = logging(repository.config(), &folder);
        config.prediction_log.sample = 0.5;
        let app = TestApp::with(config).await;
        let body = json!({ "instances": [penguin(None), penguin(Some(40.0))] }).to_string();
        const REQUESTS: usize = 200;
        for _ in 0..REQUESTS {
            let answer = app.predict("/v1/models/penguins:predict", body.clone()).await.json();
            let ids = answer["prediction_ids"].as_array().unwrap().iter();
            let feedback: Vec<Value> = ids.map(|id| json!({ "prediction_id": id, "label": "Adelie" })).collect();
            assert_eq!(app.predict("/feedback", json!({ "feedback": feedback }).to_string()).await.status, 200);
        }
        stop(app).await;
        if share == 0.0 {
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
            continue;
        }
        let rows = log(folder.path(), &["penguins"]);
        // Six standard deviations.
        let (expected, tolerated) = (share * REQUESTS as f64, 6.0 * (REQUESTS as f64 * share * (1.0 - share)).sqrt());
        assert!((rows.len() as f64 / 2.0 - expected).abs() <= tolerated, "{} rows", rows.len());
        assert!(rows.iter().all(|row| row["true_label"] == "Adelie"));
        let (_, table) = log_text(folder.path(), &["penguins", "--count"]);
        let counts: Vec<&str> = table.lines().last().unwrap().split_whitespace().skip(1).take(2).collect();
        assert_eq!(counts, [rows.len().to_string(), rows.len().to_string()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_logs_its_own_answers() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), with_chain(texts(), "tag", TAG));
    let app = TestApp::with(logging(repository.config(), &folder)).await;
    let answer = app.predict("/v1/models/tag:predict", json!({ "instances": ["a", "b"] }).to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = answer.json();
    let feedback = json!({ "feedback": [{ "prediction_id": answer["prediction_ids"][1], "label": "c" }] });
    assert_eq!(app.predict("/feedback", feedback.to_string()).await.status, 200);
    stop(app).await;
    let rows = log(folder.path(), &["tag"]);
    assert_eq!(rows.len(), 2);
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(row["answer"], answer["predictions"][index]);
        assert_eq!(row["prediction_id"], answer["prediction_ids"][index]);
        assert_eq!(row["instance"], json!(["a", "b"])[index]);
    }
    // The id of the prediction is that of the step that made it; its truth is found all the same.
    assert_eq!((rows[0].get("true_label"), &rows[1]["true_label"]), (None, &json!("c")));
}

/// The bytes of an image are logged as the instance that they mean.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_an_image_are_logged_as_an_instance() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), images());
    let app = TestApp::with(logging(repository.config(), &folder)).await;
    let image = golden()["images"][0].as_str().unwrap().to_owned();
    let bytes = STANDARD.decode(&image).unwrap();
    let request = app.client.post(app.url("/v1/models/colours:predict")).header("content-type", "image/png");
    request.body(bytes).send().await.unwrap().error_for_status().unwrap();
    stop(app).await;
    assert_eq!(log(folder.path(), &["colours"])[0]["instance"], json!({ "b64": image }));
}

/// Settings of a process that logs all requests.
fn settings<'a>(folder: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let always = [
        ("LEEWAY_PREDICTION_LOG__PATH", folder),
        ("LEEWAY_PREDICTION_LOG__SAMPLE", "1.0"),
        ("LEEWAY_LOADING__TRIAL", "false"),
        ("LEEWAY_SHUTDOWN__DEREGISTRATION_DELAY_MS", "0"),
    ];
    [&always, more].concat()
}

async fn predict(client: &reqwest::Client, server: &Server) -> reqwest::Result<Value> {
    let body = json!({ "instances": [penguin(Some(50.0)), penguin(None)] });
    let request = client.post(server.url("/v1/models/penguins:predict")).json(&body);
    request.send().await?.error_for_status()?.json().await
}

/// Returns the value of a series of `/metrics`.
async fn metric(client: &reqwest::Client, server: &Server, series: &str) -> f64 {
    let text = client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
    line.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
}

const WRITTEN: &str = "leeway_prediction_log_rows_total{kind=\"predictions\"}";
const FAILED: &str = "leeway_prediction_log_dropped_total{reason=\"write_failed\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_writes_what_waits() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), penguins(""));
    let server = Server::start(repository.path(), &settings(folder.path().to_str().unwrap(), &[]));
    let answer = predict(&client(), &server).await.unwrap();
    assert!(files(folder.path()).is_empty());
    server.signal("TERM");
    assert!(server.wait().0.success());
    let rows = log(folder.path(), &["penguins"]);
    assert_eq!(
        rows.iter().map(|row| &row["prediction_id"]).collect::<Vec<_>>(),
        [&answer["prediction_ids"][0], &answer["prediction_ids"][1]]
    );
}

/// A process that is killed while it writes a file leaves all earlier files whole, and no part of this one that anybody
/// would read.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn killed_while_a_file_is_written() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), penguins(""));
    let path = folder.path().to_str().unwrap();
    let small = [("LEEWAY_PREDICTION_LOG__FILE_ROWS", "10"), ("FAILPOINTS", "prediction_log::synced=3*off->pause")];
    let (server, client) = (Server::start(repository.path(), &settings(path, &small)), client());
    let mut answered = Vec::new();
    for _ in 0..40 {
        let answer = predict(&client, &server).await.unwrap();
        answered.extend(answer["prediction_ids"].as_array().unwrap().clone());
    }
    let is_hidden = |file: &PathBuf| file.file_name().unwrap().to_str().unwrap().starts_with('.');
    let paused = || {
        let files = files(folder.path());
        files.len() == 4 && files.iter().filter(|file| is_hidden(file)).count() == 1
    };
    until(async || paused().then_some(())).await;
    server.signal("KILL");
    drop(server);
    let ids =
        || log(folder.path(), &["penguins"]).into_iter().map(|row| row["prediction_id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(), answered[..30]);
    assert_eq!(files(folder.path()).len(), 4);
    // The next server removes the hidden file.
    let server = Server::start(repository.path(), &settings(path, &[]));
    assert_eq!(files(folder.path()).len(), 3);
    assert_eq!(ids(), answered[..30]);
    drop(server);
}

/// Kills the process again and again while it writes. Everything that it has reported as written is there.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_no_written_row_is_lost() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), penguins(""));
    let path = folder.path().to_str().unwrap();
    let small = [("LEEWAY_PREDICTION_LOG__FILE_ROWS", "6"), ("LEEWAY_PREDICTION_LOG__FILE_MS", "100")];
    let (mut answered, mut certain) = (std::collections::HashSet::new(), 0);
    for kill in 0..5 {
        let (server, client) = (Server::start(repository.path(), &settings(path, &small)), client());
        let (mut written, mut killer) = (0, None);
        while let Ok(answer) = predict(&client, &server).await {
            answered.extend(answer["prediction_ids"].as_array().unwrap().iter().map(Value::to_string));
            let Ok(answer) = client.get(server.url("/metrics")).send().await else { break };
            let Ok(text) = answer.text().await else { break };
            let value = text.lines().find_map(|line| line.strip_prefix(WRITTEN)).unwrap();
            written = value.trim().parse().unwrap();
            if written > 0 && killer.is_none() {
                killer = Some(server.kill_at(Instant::now() + Duration::from_millis(11 * kill)));
            }
        }
        killer.unwrap().join().unwrap();
        certain += written;
        drop(server);
    }
    let rows = log(folder.path(), &["penguins"]);
    assert!(certain > 0 && rows.len() >= certain, "{} rows, {certain} were reported as written", rows.len());
    // The answer to the last request of each process may not have arrived.
    let unknown = rows.iter().filter(|row| !answered.contains(&row["prediction_id"].to_string())).count();
    assert!(unknown <= 2 * 5, "{unknown} rows that were not answered");
}

/// A server whose log is on a file system of its own, with room for this much. `None` if this machine does not allow it.
#[cfg(target_os = "linux")]
fn on_a_small_disk(repository: &Repository, folder: &str, size: &str) -> Option<Server> {
    let namespace = ["--user", "--map-root-user", "--mount"];
    let is_allowed = Command::new("unshare").args(namespace).arg("true").status().is_ok_and(|status| status.success());
    if !is_allowed {
        eprintln!("not tested: this machine allows no user namespaces");
        return None;
    }
    let mount = format!("mount -t tmpfs -o size={size} none \"$0\" && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(namespace).args(["sh", "-c", &mount, folder, env!("CARGO_BIN_EXE_leeway"), "serve", "--models"]);
    command.arg(repository.path()).current_dir(checkout().join("tests/data"));
    command.env_remove("ORT_DYLIB_PATH").env("LEEWAY_STATE__URL", "memory");
    let short = [("LEEWAY_PREDICTION_LOG__FILE_MS", "100"), ("LEEWAY_PREDICTION_LOG__FILE_ROWS", "20")];
    Some(Server::spawn(command.envs(settings(folder, &short))))
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_no_prediction() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), penguins(""));
    let path = folder.path().to_str().unwrap();
    let Some(server) = on_a_small_disk(&repository, path, "256k") else { return };
    let client = client();
    // The folder as the process sees it.
    let seen = PathBuf::from(format!("/proc/{}/root{path}", server.process()));
    predict(&client, &server).await.unwrap();
    until(async || (metric(&client, &server, WRITTEN).await == 2.0).then_some(())).await;
    let filler = seen.join("filler");
    assert!(std::fs::write(&filler, vec![0; 1 << 20]).is_err(), "the disk is not full");
    for _ in 0..50 {
        predict(&client, &server).await.unwrap();
    }
    until(async || (metric(&client, &server, FAILED).await == 100.0).then_some(())).await;
    assert_eq!(metric(&client, &server, WRITTEN).await, 2.0);
    assert_eq!(files(&seen).len(), 1, "a part of a file");
    std::fs::remove_file(&filler).unwrap();
    predict(&client, &server).await.unwrap();
    until(async || (metric(&client, &server, WRITTEN).await == 4.0).then_some(())).await;
    assert_eq!(log(&seen, &["penguins"]).len(), 4);
    server.signal("TERM");
    let (status, log) = server.wait();
    assert!(status.success());
    let incidents = log.lines().filter(|line| line.contains("a file of the prediction log cannot be written")).count();
    assert!(incidents == 1 && log.contains("the prediction log is written again"), "{log}");
    assert!(log.contains("No space left on device"), "{log}");
}

/// The same with a folder that cannot be written to, on any machine.
#[tokio::test(flavor = "multi_thread")]
async fn an_unwritable_folder_loses_no_prediction() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), penguins(""));
    let mut config = logging(repository.config(), &folder);
    config.prediction_log.file_rows = 2;
    let app = TestApp::with(config).await;
    let body = json!({ "instances": [penguin(None), penguin(Some(40.0))] }).to_string();
    // A file where the folder of the model should be.
    let obstacle = folder.path().join("penguins");
    std::fs::write(&obstacle, "").unwrap();
    for _ in 0..20 {
        assert_eq!(app.predict("/v1/models/penguins:predict", body.clone()).await.status, 200);
    }
    app.metric_becomes(FAILED, 40.0).await;
    std::fs::remove_file(&obstacle).unwrap();
    assert_eq!(app.predict("/v1/models/penguins:predict", body).await.status, 200);
    app.metric_becomes(WRITTEN, 2.0).await;
    stop(app).await;
    assert_eq!(log(folder.path(), &["penguins"]).len(), 2);
}

/// What waits is bounded: more is dropped and counted, and predictions go on.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_wait_take_a_bounded_memory() {
    const REQUESTS: usize = 40;
    let folder = tempfile::tempdir().unwrap();
    let mut config = logging(config(), &folder);
    config.prediction_log.queue_mb = 1;
    let app = TestApp::with(config).await;
    // One request takes a third of the memory.
    let instances = held_out("digits")["instances"].as_array().unwrap().clone();
    let body = json!({ "instances": instances }).to_string();
    let ask = async || assert_eq!(app.predict("/predict", body.clone()).await.status, 200);
    for _ in 0..REQUESTS / 4 {
        tokio::join!(ask(), ask(), ask(), ask());
    }
    let dropped = app.metric("leeway_prediction_log_dropped_total{reason=\"queue_full\"}").await as usize;
    stop(app).await;
    let logged = log(folder.path(), &["digits"]).len();
    assert!(logged > 0 && logged + dropped == REQUESTS * instances.len(), "{logged} logged, {dropped} dropped");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_files_make_room() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = logging(config(), &folder);
    (config.prediction_log.max_mb, config.prediction_log.file_rows) = (1, 1);
    let app = TestApp::with(config).await;
    let body = json!({ "instances": held_out("digits")["instances"] }).to_string();
    let removed = "leeway_prediction_log_removed_files_total";
    let mut asked = 0;
    while app.metric(removed).await < 3.0 {
        assert_eq!(app.predict("/predict", body.clone()).await.status, 200);
        asked += 1;
        assert!(asked < 1_000, "nothing is removed");
    }
    let newest = app.predict("/predict", body).await.json()["prediction_ids"][0].clone();
    stop(app).await;
    let bytes: u64 = files(folder.path()).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= 1 << 20, "{bytes} bytes");
    assert!(log(folder.path(), &["digits"]).iter().any(|row| row["prediction_id"] == newest));
}

#[test]
fn a_folder_that_cannot_be_used_ends_the_start() {
    let (folder, repository) = (tempfile::tempdir().unwrap(), penguins(""));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let mut serve = leeway(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--models"]);
    serve.arg(repository.path()).env("LEEWAY_PREDICTION_LOG__PATH", file.join("log"));
    let (code, text) = run(&mut serve);
    assert!(code == 2 && text.contains("prediction_log.path: ") && text.contains("file/log"), "{code}: {text}");
}
