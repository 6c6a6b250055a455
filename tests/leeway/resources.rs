//! A temporary lack of memory: some operations are refused, and others are not.

use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, Server, client, leeway};

/// A server that syncs with its repository only on request, with these fail points.
fn serve(repository: &Repository, fail_points: &str) -> Server {
    let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
    command.env("LEEWAY_LOADING__TRIAL", "false").env("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "0");
    Server::spawn(command.env("FAILPOINTS", fail_points))
}

async fn reload(server: &Server) -> Value {
    let url = format!("http://{}/admin/v1/reload", server.admin);
    client().post(url).json(&json!({})).send().await.unwrap().json().await.unwrap()
}

async fn metrics(server: &Server) -> String {
    client().get(server.url("/metrics")).send().await.unwrap().text().await.unwrap()
}

async fn predict(server: &Server) -> u16 {
    let body = json!({ "instances": [[0.0, 0.0]] }).to_string();
    client().post(server.url("/v1/models/plus:predict")).body(body).send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_refused_for_want_of_memory_is_loaded_when_there_is_some() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    // Two loads find no memory.
    let server = serve(&repository, "weights::available=2*return(0)->off");
    assert_eq!(predict(&server).await, 503);
    let refused = reload(&server).await;
    let version = &refused["models"][0]["versions"][0];
    assert_eq!((&version["state"], &version["fault"]), (&json!("refused"), &json!("resources")), "{refused}");
    // Nothing about the version changes.
    let loaded = reload(&server).await;
    assert_eq!(loaded["models"][0]["versions"][0]["state"], "loaded", "{loaded}");
    assert_eq!(predict(&server).await, 200);
    let metrics = metrics(&server).await;
    assert!(metrics.contains("leeway_load_failures_total{model=\"plus\",reason=\"resources\"} 2"), "{metrics}");
    server.signal("INT");
    let (_, log) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    // The first refusal is logged before the server is ready, and the second one is the same.
    assert_eq!(log.matches("\"not loaded\"").count(), 0, "{log}");
    assert_eq!(log.matches("resolved: the version is loaded").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_compared_without_memory_for_the_model() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let server = serve(&repository, "weights::available=1*off->return(0)");
    assert_eq!(predict(&server).await, 200);
    // The folder's fingerprint has changed, but the files are the same.
    let model = repository.0.path().join("plus/1/model.onnx");
    let file = std::fs::File::options().append(true).open(model).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9)).unwrap();
    let reloaded = reload(&server).await;
    assert_eq!(reloaded["models"][0]["versions"][0]["altered"], Value::Null, "{reloaded}");
    let metrics = metrics(&server).await;
    assert!(metrics.contains("leeway_version_altered{model=\"plus\",version=\"1\"} 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_one_line_of_the_log() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    // The first load is not stopped.
    let server = serve(&repository, "load::begun=1*off->panic(two\nlines)");
    repository.add("plus", 2, "plus_2");
    reload(&server).await;
    server.signal("INT");
    let (_, log) = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}\n{log}"))).collect();
    let panics: Vec<&Value> = lines.iter().filter(|line| line["message"] == "a thread panicked").collect();
    let [panic] = panics[..] else { panic!("{log}") };
    assert_eq!((&panic["panic"], &panic["thread"]), (&json!("two\nlines"), &json!("loader")), "{log}");
    assert!(panic["location"].as_str().is_some_and(|location| location.contains(".rs:")), "{log}");
}
