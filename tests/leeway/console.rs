//! The console: its files, and the endpoints that it reads.

use std::io::Read as _;

use serde_json::{Value, json};

use crate::harness::{Answer, TestApp, config, held_out};

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
    config.admin.token = Some("a-token-of-operators-1234567890".to_owned().try_into().unwrap());
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
    let files = std::fs::read_dir(crate::harness::checkout().join("console/dist/assets")).into_iter().flatten();
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
