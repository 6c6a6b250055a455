//! Compressed bodies of requests, and compressed answers.

use std::io::{Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::harness::{Answer, TestApp, config, held_out};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 3).unwrap()
}

async fn post(app: &TestApp, path: &str, coding: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = app.client.post(app.url(path)).header("content-type", "application/json");
    Answer::of(request.header("content-encoding", coding).body(body).send().await.unwrap()).await
}

/// Sends a body in pieces, so without a Content-Length.
fn in_pieces(body: &[u8]) -> reqwest::Body {
    reqwest::Body::wrap_stream(Pieces(body.chunks(700).map(<[u8]>::to_vec).collect::<Vec<_>>().into_iter()))
}

struct Pieces(std::vec::IntoIter<Vec<u8>>);

impl futures_core::Stream for Pieces {
    type Item = std::io::Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_answered_like_the_same_body_uncompressed() {
    let app = TestApp::start().await;
    let body = json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..50] }).to_string();
    let expected = app.predict("/predict", body.clone()).await.predictions();
    for (coding, compressed) in
        [("gzip", gzip(body.as_bytes())), ("x-gzip", gzip(body.as_bytes())), ("zstd", zstd(body.as_bytes()))]
    {
        assert!(compressed.len() * 3 < body.len());
        for path in ["/predict", "/v1/models/digits:predict"] {
            assert_eq!(post(&app, path, coding, compressed.clone()).await.predictions(), expected, "{coding}");
        }
        assert_eq!(post(&app, "/predict", coding, in_pieces(&compressed)).await.predictions(), expected, "{coding}");
    }
    let feedback =
        post(&app, "/feedback", "gzip", gzip(b"{\"feedback\": [{\"prediction_id\": \"x\", \"label\": 1}]}")).await;
    assert_eq!(feedback.status, 200, "{}", feedback.text);
    assert_eq!(app.metric("leeway_body_memory_bytes").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_expands_beyond_the_limit_costs_no_more_than_the_limit() {
    let mut config = config();
    config.http.body_limit_bytes = std::num::NonZeroUsize::new(1 << 20).unwrap();
    config.http.body_memory_bytes = std::num::NonZeroUsize::new(16 << 20);
    let app = TestApp::with(config).await;
    let zeros = vec![b' '; 512 << 20];
    for (coding, bomb) in [("gzip", gzip(&zeros)), ("zstd", zstd(&zeros))] {
        for body in [reqwest::Body::from(bomb.clone()), in_pieces(&bomb)] {
            let answer = post(&app, "/predict", coding, body).await;
            assert_eq!(answer.status, 413, "{}", answer.text);
        }
    }
    app.metric_becomes("leeway_body_memory_bytes", 0.0).await;
    assert_eq!(app.get("/livez").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_its_coding_is_refused_with_what_is_accepted() {
    let app = TestApp::start().await;
    for (coding, body) in
        [("gzip", &b"{}"[..]), ("zstd", b"{}"), ("gzip", &gzip(b"{\"instances\": []}")[..20]), ("gzip", b"")]
    {
        let answer = post(&app, "/predict", coding, body.to_vec()).await;
        assert_eq!(answer.status, 400, "{coding}: {}", answer.text);
        assert!(answer.text.contains(&format!("not complete {coding} data")), "{}", answer.text);
    }
    for coding in ["br", "deflate", "gzip, gzip", "gzip, br", "compress"] {
        for path in ["/predict", "/feedback"] {
            let answer = post(&app, path, coding, "{}").await;
            assert_eq!((answer.status, answer.header("accept-encoding")), (415, "gzip, zstd"), "{coding}");
            assert_eq!(answer.json()["type"], "urn:leeway:problem:unsupported-coding");
        }
    }
}

async fn accepting(app: &TestApp, accepted: Option<&str>, rows: usize) -> (Option<String>, String, Vec<u8>) {
    let body = json!({ "instances": held_out("digits")["instances"].as_array().unwrap()[..rows] }).to_string();
    let mut request = app.client.post(app.url("/predict")).header("content-type", "application/json").body(body);
    if let Some(accepted) = accepted {
        request = request.header("accept-encoding", accepted);
    }
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (coding, vary) = (header("content-encoding"), header("vary").unwrap_or_default());
    let bytes = response.bytes().await.unwrap().to_vec();
    (coding, vary, bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_if_that_is_on_and_the_client_accepts_it() {
    let mut config = config();
    config.http.compression = true;
    let app = TestApp::with(config).await;
    let (coding, vary, plain) = accepting(&app, None, 100).await;
    assert_eq!((coding, &*vary), (None, "accept-encoding"));
    let predictions = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap()["predictions"].clone();

    let (coding, _, compressed) = accepting(&app, Some("gzip, deflate"), 100).await;
    assert_eq!(coding.as_deref(), Some("gzip"));
    assert!(compressed.len() * 2 < plain.len(), "{} of {}", compressed.len(), plain.len());
    let mut text = Vec::new();
    GzDecoder::new(&compressed[..]).read_to_end(&mut text).unwrap();
    assert_eq!(predictions(&text), predictions(&plain));

    let (coding, _, compressed) = accepting(&app, Some("gzip;q=0.8, zstd"), 100).await;
    assert_eq!(coding.as_deref(), Some("zstd"));
    assert_eq!(predictions(&zstd::decode_all(&compressed[..]).unwrap()), predictions(&plain));

    for accepted in ["gzip;q=0", "identity", "br"] {
        assert_eq!(accepting(&app, Some(accepted), 100).await.0, None, "{accepted}");
    }
    // A small answer stays as it is.
    let (coding, vary, _) = accepting(&app, Some("gzip"), 1).await;
    assert_eq!((coding, &*vary), (None, ""));
    app.metric_becomes("leeway_body_memory_bytes", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_not_compressed_by_default() {
    let app = TestApp::start().await;
    let (coding, vary, _) = accepting(&app, Some("gzip, zstd"), 100).await;
    assert_eq!((coding, &*vary), (None, ""));
}
