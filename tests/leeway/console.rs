//! The console: its files, and the endpoints that it reads.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Answer, Repository, Server, TestApp, checkout, config, held_out, until};

const TRY: &str = "/admin/v1/models/digits/versions/1/try";

/// Returns a request body with some instances of digits.
fn some_digits(count: usize) -> Value {
    json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..count] })
}

/// Sends a request to the admin listener with these headers.
async fn ask(app: &TestApp, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = app.client.get(format!("http://{}{path}", app.admin));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_files_are_served_without_a_token_and_with_a_strict_policy() {
    let mut config = config();
    config.admin.token = Some(TOKEN.to_owned().try_into().unwrap());
    let app = TestApp::with(config).await;
    let page = Answer::of(ask(&app, "/console/", &[]).await).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.text.contains("<title>Leeway"), "{}", page.text);
    let policy = page.header("content-security-policy").to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    assert_eq!((page.header("x-content-type-options"), page.header("referrer-policy")), ("nosniff", "no-referrer"));
    // The links of the page are relative to its folder.
    let moved = app.admin_get("/console").await;
    assert!(moved.text.contains("<title>Leeway"), "{moved:?}");
    let tag = page.header("etag").to_owned();
    let known = Answer::of(ask(&app, "/console/", &[("if-none-match", &tag)]).await).await;
    assert_eq!((known.status, known.text.as_str()), (304, ""));
    let compressed = ask(&app, "/console/", &[("accept-encoding", "gzip, zstd")]).await;
    if compressed.headers().get("content-encoding").is_some_and(|coding| coding == "gzip") {
        let bytes = compressed.bytes().await.unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*bytes).read_to_string(&mut text).unwrap();
        assert_eq!(text, page.text);
    }
    // Only files are served: the app has its routes behind a #.
    for path in ["/console/models", "/console/../Cargo.toml", "/console/%2e%2e/Cargo.toml", "/console/assets/"] {
        let answer = app.admin_get(path).await;
        assert_eq!(answer.status, 404, "{path}");
    }
    let files = std::fs::read_dir(checkout().join("console/dist/assets")).into_iter().flatten();
    for file in files {
        let path = format!("/console/assets/{}", file.unwrap().file_name().to_str().unwrap());
        let answer = ask(&app, &path, &[]).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert!(answer.headers()["cache-control"].to_str().unwrap().contains("immutable"), "{path}");
    }
    // The data that it shows need the token, and the data listener has no console.
    assert_eq!(app.admin_get("/admin/v1/models").await.status, 401);
    assert_eq!(app.admin_post(TRY, some_digits(1)).await.status, 401);
    assert_eq!(app.get("/console").await.status, 404);
    let post = app.client.post(format!("http://{}/console/", app.admin)).send().await.unwrap();
    assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_can_be_tried_out_on_the_admin_listener() {
    let app = TestApp::start().await;
    let expected = app.predict("/v1/models/digits/versions/1:predict", some_digits(3).to_string()).await;
    let tried = app.admin_post(TRY, some_digits(3)).await;
    assert_eq!(tried.predictions(), expected.predictions());
    assert_eq!(tried.header("x-model-version"), "1");
    for stage in ["net;dur=", "pre;dur=", "queue;dur=", "infer;dur=", "post;dur="] {
        assert!(tried.header("server-timing").contains(stage), "{tried:?}");
    }
    // It counts as a request, but not as a prediction that is monitored.
    let drift = app.admin_get("/admin/v1/models/digits/drift?version=1").await.json();
    assert_eq!(drift["versions"][0]["rows"], 3, "{drift}");
    let wrong = app.admin_post(TRY, json!({ "instances": [[1, 2]] })).await;
    assert_eq!((wrong.status, &wrong.json()["title"]), (400, &json!("Invalid input")));
    assert_eq!(app.admin_post(&TRY.replace("/1/", "/9/"), some_digits(1)).await.status, 404);
    let text = app.client.post(format!("http://{}{TRY}", app.admin)).header("content-type", "text/plain").body("{}");
    assert_eq!(text.send().await.unwrap().status(), 415);
}

/// Returns the first version in an answer about digits that has this number.
fn version(answer: &Value, number: u64) -> &Value {
    answer["versions"].as_array().unwrap().iter().find(|version| version["version"] == number).unwrap()
}

/// Sends predictions to version 1 of digits, and the true outcome of each: right for all but the first one.
async fn predictions_with_outcomes(app: &TestApp, count: usize) {
    let answer = app.predict("/v1/models/digits/versions/1:predict", some_digits(count).to_string()).await.json();
    let labels = answer["predictions"].as_array().unwrap().iter().map(|prediction| &prediction["label"]);
    let ids = answer["prediction_ids"].as_array().unwrap().iter();
    let items = ids.zip(labels).enumerate().map(|(index, (id, label))| {
        let label = label.as_u64().unwrap();
        json!({ "prediction_id": id, "label": if index == 0 { (label + 1) % 10 } else { label } })
    });
    let feedback = json!({ "feedback": items.collect::<Vec<_>>() }).to_string();
    assert_eq!(app.predict("/feedback", feedback).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_numbers_are_those_of_the_requests() {
    let app = TestApp::start().await;
    let live = async || version(&app.admin_get("/admin/v1/models/digits/live").await.json(), 1).clone();
    let before = live().await;
    assert_eq!(
        (&before["requests"]["ok"], &before["batches"]["runs"], &before["stable"]),
        (&json!(0), &json!(0), &json!(false))
    );
    app.predict("/v1/models/digits/versions/1:predict", some_digits(3).to_string()).await;
    app.predict("/v1/models/digits/versions/1:predict", "[").await;
    let after = live().await;
    assert_eq!(
        after["requests"],
        json!({
            "ok": 1, "invalid": 1, "shed": 0, "expired": 0, "model_error": 0, "server_error": 0, "abandoned": 0,
        })
    );
    assert_eq!((&after["batches"]["runs"], &after["batches"]["rows"]), (&json!(1), &json!(3)));
    let sizes = after["batches"]["sizes"].as_array().unwrap();
    assert_eq!(sizes[2], json!({ "upto": 4, "runs": 1 }));
    assert_eq!(sizes.last().unwrap(), &json!({ "runs": 0 }));
    for stage in ["network", "preprocess", "queue", "inference", "postprocess", "total"] {
        let found = &after["latency"][stage];
        assert_eq!(found["count"], 1, "{stage}: {after}");
        assert!(found["p50_ms"].as_f64().unwrap() <= found["p99_ms"].as_f64().unwrap(), "{after}");
    }
    assert_eq!(after["budget"]["total_ms"], 60_000.0);
    assert!(after["uptime_s"].as_f64().unwrap() > 0.0);
    assert_eq!(app.admin_get("/admin/v1/models/nothing/live").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_have_their_classes_confidence_and_outcomes() {
    let app = TestApp::start().await;
    let read = async || version(&app.admin_get("/admin/v1/models/digits/predictions").await.json(), 1).clone();
    let before = read().await;
    assert_eq!((&before["calibration"], &before["by_class"], before.get("confusion")), (&json!([]), &json!([]), None));
    predictions_with_outcomes(&app, 50).await;
    // The comparison with the baseline is up to a second old.
    let after = until(async || Some(read().await).filter(|found| found["rows"] == 50)).await;
    let sum = |list: &str, member: &str| -> u64 {
        after[list].as_array().unwrap().iter().map(|found| found[member].as_u64().unwrap()).sum()
    };
    assert_eq!((sum("classes", "count"), sum("confidence", "count"), sum("calibration", "count")), (50, 50, 50));
    assert_eq!((sum("by_class", "actual"), sum("by_class", "correct")), (50, 49));
    assert_eq!((&after["outcomes"]["labels"], &after["outcomes"]["accuracy"]), (&json!(50), &json!(0.98)));
    let counts: Vec<Vec<u64>> = serde_json::from_value(after["confusion"]["counts"].clone()).unwrap();
    assert_eq!(after["confusion"]["classes"].as_array().unwrap().len(), 10);
    let right: u64 = (0..10).map(|class| counts[class][class]).sum();
    assert_eq!((right, counts.iter().flatten().sum::<u64>()), (49, 50));
    let parts: Vec<&str> =
        after["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
    assert!(parts.contains(&"class") && parts.contains(&"confidence"), "{parts:?}");
    let history = app.admin_get("/admin/v1/models/digits/drift/history").await.json();
    let points = version(&history, 1)["points"].as_array().unwrap();
    let last = points.last().unwrap();
    assert_eq!(last["rows"], 50, "{last}");
    assert!(last["features"]["max_psi"].as_f64().unwrap() >= last["features"]["mean_psi"].as_f64().unwrap());
    assert_eq!(last["worst"].as_array().unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_refused_is_an_alert_with_advice() {
    let repository = Repository::of("echo_float32");
    let app = TestApp::with(repository.config()).await;
    let alerts = async || app.admin_get("/admin/v1/alerts").await.json()["alerts"].as_array().unwrap().clone();
    assert_eq!(alerts().await, Vec::<Value>::new());
    let broken = repository.0.path().join("echo_float32/7");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("manifest.json"), "{}").unwrap();
    app.admin_post("/admin/v1/reload", json!({})).await;
    let found = until(async || alerts().await.first().cloned()).await;
    let expected = ("ticket", "LeewayVersionRefused", 7, "alerts.md#versions");
    let text = |member: &str| found[member].as_str().unwrap_or_default().to_owned();
    assert_eq!((&*text("severity"), &*text("alert"), found["version"].as_u64().unwrap(), &*text("runbook")), expected);
    assert!(text("advice").contains("leeway status MODEL says what is wrong"), "{found}");
}

// ===== its sources =====

/// The token of the server that the browser visits.
const TOKEN: &str = "a-token-of-operators-1234567890";

/// Returns the folder of the sources, with the packages that they need, which are installed once. `None` without Node.js,
/// where only what is committed can be used.
fn sources() -> Option<PathBuf> {
    static SOURCES: OnceLock<Option<PathBuf>> = OnceLock::new();
    SOURCES
        .get_or_init(|| {
            let folder = checkout().join("console");
            Command::new("npm").arg("--version").output().ok()?;
            // npm writes this file when it is done.
            let installed =
                std::fs::metadata(folder.join("node_modules/.package-lock.json")).and_then(|file| file.modified());
            let locked = std::fs::metadata(folder.join("package-lock.json")).unwrap().modified().unwrap();
            if installed.is_ok_and(|installed| installed >= locked) {
                return Some(folder);
            }
            run_there(&folder, "npm", &["ci", "--no-audit", "--no-fund"], &[]);
            Some(folder)
        })
        .clone()
}

/// Runs a command of Node.js in the folder of the sources, and panics with its output if it fails.
fn run_there(folder: &Path, program: &str, arguments: &[&str], environment: &[(&str, &str)]) {
    let mut command = Command::new(program);
    let output = command.args(arguments).envs(environment.iter().copied()).current_dir(folder).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{out}\n{err}", output.status);
}

/// Returns the files of a folder and its folders, by path.
fn files_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    drop(files.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(path).unwrap()))
                }
            }
        }
    }
    files
}

#[test]
fn the_committed_files_are_what_the_sources_build_to() {
    let Some(folder) = sources() else { return };
    let built = tempfile::tempdir().unwrap();
    let into = built.path().to_str().unwrap();
    run_there(&folder, "npm", &["run", "--silent", "build", "--", "--outDir", into, "--emptyOutDir"], &[]);
    let (built, committed) = (files_of(built.path()), files_of(&folder.join("dist")));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&built), names(&committed), "run `make console`, and commit console/dist");
    for (path, bytes) in built {
        assert!(committed[&path] == bytes, "{}: run `make console`, and commit console/dist", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_committed_types_are_those_of_the_admin_api() {
    let Some(folder) = tokio::task::spawn_blocking(sources).await.unwrap() else { return };
    let mut config = config();
    config.admin.token = Some(TOKEN.to_owned().try_into().unwrap());
    let app = TestApp::with(config).await;
    let scratch = tempfile::tempdir().unwrap();
    let (document, types) = (scratch.path().join("openapi.json"), scratch.path().join("api.d.ts"));
    std::fs::write(&document, app.admin_get("/openapi.json").await.text).unwrap();
    let arguments =
        ["--no-install", "openapi-typescript", document.to_str().unwrap(), "--output", types.to_str().unwrap()];
    run_there(&folder, "npx", &arguments, &[]);
    let [made, committed] = [types, folder.join("src/api.d.ts")].map(|path| std::fs::read_to_string(path).unwrap());
    assert!(made == committed, "console/src/api.d.ts is out of date: run `make console`, and commit it");
}

/// Sends predictions of digits to a server until it is dropped. The suite sends its own requests, too.
async fn traffic(data: String) {
    let client = crate::harness::client();
    let held_out = held_out("digits");
    let instances = held_out["instances"].as_array().unwrap();
    for instance in instances.iter().cycle() {
        let request = client.post(format!("{data}/v1/models/digits:predict"));
        request.json(&json!({ "instances": [instance] })).send().await.unwrap();
        // A pause, because the browser needs the processor, too.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The suite of `console/` in headless Chromium, against a real server under load.
#[tokio::test(flavor = "multi_thread")]
async fn it_works_in_a_browser() {
    let Some(folder) = tokio::task::spawn_blocking(sources).await.unwrap() else { return };
    let repository = Repository::new().with_shipped("digits", &[1, 2]).with_shipped("penguins", &[1, 2]);
    let server = Server::start(repository.path(), &[("LEEWAY_ADMIN__TOKEN", TOKEN)]).ready();
    let sending = tokio::spawn(traffic(server.url("")));
    let (console, data) = (format!("http://{}/console/", server.admin), server.url(""));
    let visited = tokio::task::spawn_blocking(move || {
        let chromium = checkout().join(".chromium/bin/chromium");
        assert!(chromium.exists(), "run `make chromium`");
        let environment = [
            ("CONSOLE_URL", &*console),
            ("CONSOLE_DATA_URL", &data),
            ("CONSOLE_TOKEN", TOKEN),
            ("LEEWAY_CHROMIUM", chromium.to_str().unwrap()),
            // Neither colours nor a report in HTML.
            ("CI", "1"),
            ("NO_COLOR", "1"),
        ];
        run_there(&folder, "npx", &["--no-install", "playwright", "test"], &environment);
    });
    let visited = visited.await;
    sending.abort();
    drop(server);
    visited.unwrap();
}
