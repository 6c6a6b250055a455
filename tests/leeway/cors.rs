//! Requests from web pages of other origins.

use leeway::config::CorsConfig;
use reqwest::Method;

use crate::harness::{Answer, TestApp, config};

const PAGE: &str = "http://localhost:3000";

async fn with_origins(origins: &[&str]) -> TestApp {
    let mut config = config();
    let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    config.http.cors = CorsConfig { origins, ..CorsConfig::default() };
    // A preflight request has no key.
    config.http.api_keys = vec![
        serde_json::from_value(serde_json::json!({
            "name": "page",
            // The digest of "key".
            "sha256": "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683",
        }))
        .unwrap(),
    ];
    TestApp::with(config).await
}

async fn preflight(app: &TestApp, url: String, origin: &str) -> Answer {
    let request = app.client.request(Method::OPTIONS, url).header("origin", origin);
    let request = request.header("access-control-request-method", "POST");
    let request = request.header("access-control-request-headers", "content-type,x-api-key");
    Answer::of(request.send().await.unwrap()).await
}

async fn post(app: &TestApp, path: &str, origin: &str, key: &str) -> Answer {
    let request = app.client.post(app.url(path)).header("origin", origin).header("x-api-key", key);
    let request = request.header("content-type", "application/json");
    Answer::of(request.body(format!("{{\"instances\":[[{}0]]}}", "0,".repeat(63))).send().await.unwrap()).await
}

/// Browsers separate by commas, with or without spaces.
fn list(answer: &Answer, name: &str) -> Vec<String> {
    answer.header(name).split(',').map(|item| item.trim().to_ascii_lowercase()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_origins_nothing_says_that_pages_may_ask() {
    let app = TestApp::start().await;
    for answer in [preflight(&app, app.url("/predict"), PAGE).await, post(&app, "/predict", PAGE, "").await] {
        assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{answer:?}");
    }
    assert_eq!(preflight(&app, app.url("/predict"), PAGE).await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_listed_origin_asks_and_reads() {
    let app = with_origins(&[PAGE, "https://app.example"]).await;
    for origin in [PAGE, "https://app.example"] {
        for path in ["/predict", "/v1/models/digits:predict"] {
            let answer = preflight(&app, app.url(path), origin).await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, origin));
            assert!(list(&answer, "access-control-allow-methods").contains(&"post".to_owned()), "{answer:?}");
            for header in ["content-type", "authorization", "x-api-key", "traceparent", "x-request-timeout-ms"] {
                assert!(list(&answer, "access-control-allow-headers").contains(&header.to_owned()), "{answer:?}");
            }
            assert_eq!(answer.header("access-control-max-age"), "7200");
            assert!(answer.headers.get("access-control-allow-credentials").is_none());
            assert!(list(&answer, "vary").contains(&"origin".to_owned()), "{answer:?}");
        }
        // The page can read answers and errors, with the headers that its code needs.
        for (path, key, status) in
            [("/predict", "key", 200), ("/predict", "no", 401), ("/v1/models/x:predict", "key", 404)]
        {
            let answer = post(&app, path, origin, key).await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, origin));
            for header in ["x-request-id", "x-model-version", "server-timing", "retry-after"] {
                assert!(list(&answer, "access-control-expose-headers").contains(&header.to_owned()), "{answer:?}");
            }
        }
    }
    // A browser keeps these answers from the page.
    for origin in ["https://evil.example", "null", "http://localhost:3001", "https://app.example.evil.example"] {
        let answer = preflight(&app, app.url("/predict"), origin).await;
        assert!(answer.headers.get("access-control-allow-origin").is_none(), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_origins_may_ask_without_credentials_and_none_the_operators_port() {
    let app = with_origins(&["*"]).await;
    let answer = preflight(&app, app.url("/predict"), "https://any.example").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "*"));
    assert!(answer.headers.get("access-control-allow-credentials").is_none());
    for path in ["/metrics", "/admin/v1/models", "/admin/v1/models/digits/rollback"] {
        let answer = preflight(&app, format!("http://{}{path}", app.admin), "https://any.example").await;
        assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")), "{path}: {answer:?}");
        assert!(answer.status >= 400, "{path}");
    }
}
