//! Mistakes of callers. Each is answered with a 4xx that says what to change, and has no effect on the next request.

use std::fmt::Write as _;

use crate::harness::{Answer, Repository, TestApp, held_out};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A bad request.
struct Bad {
    name: &'static str,
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
}

/// A body for the digits model.
fn body(name: &'static str, body: impl Into<Vec<u8>>) -> Bad {
    Bad { name, method: "POST", path: "/predict".into(), headers: vec![JSON], body: body.into() }
}

/// A valid body, sent to another path or with another method.
fn to(name: &'static str, method: &'static str, path: impl Into<String>) -> Bad {
    Bad { name, method, path: path.into(), headers: vec![JSON], body: good().into_bytes() }
}

fn with_header(name: &'static str, header: (&'static str, &'static str)) -> Bad {
    Bad { name, method: "POST", path: "/predict".into(), headers: vec![header], body: good().into_bytes() }
}

fn good() -> String {
    format!(r#"{{"instances": [{}]}}"#, digit())
}

fn digit() -> String {
    held_out("digits")["instances"][0].to_string()
}

/// Five instances, of which the third is `third`.
fn third_of_five(name: &'static str, third: &str) -> Bad {
    let good = digit();
    body(name, format!(r#"{{"instances": [{good}, {good}, {third}, {good}, {good}]}}"#))
}

/// A digit whose fourth pixel is `pixel`.
fn pixel(name: &'static str, pixel: &str) -> Bad {
    let digit =
        held_out("digits")["instances"][0].as_array().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    let row = [&digit[..3], &[pixel.to_owned()], &digit[4..]].concat().join(", ");
    body(name, format!(r#"{{"instances": [[{row}]]}}"#))
}

fn cases() -> Vec<Bad> {
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    vec![
        // --- heads ---
        with_header("no time at all", ("x-request-timeout-ms", "0")),
        with_header("time as a text", ("x-request-timeout-ms", "1s")),
        with_header("time of a proxy as a text", ("x-envoy-expected-rq-timeout-ms", "soon")),
        with_header("unknown priority", ("x-priority", "urgent")),
        // --- not JSON ---
        body("empty body", ""),
        body("white space", " \r\n\t"),
        body("text", "hello"),
        body("broken JSON", r#"{"instances": [[0, 0, 6"#),
        body("two bodies", r#"{"instances": [[1]]} {"instances": [[1]]}"#),
        body("trailing comma", r#"{"instances": [[1, 2, ]]}"#),
        body("single quotes", "{'instances': [[1]]}"),
        body("comment", r#"{"instances": [[1 /* one */]]}"#),
        body("leading zero", r#"{"instances": [[01]]}"#),
        body("hexadecimal", r#"{"instances": [[0x10]]}"#),
        body("byte order mark", "\u{feff}{\"instances\": [[1]]}"),
        body("invalid UTF-8", b"{\"instances\": [[\"\xff\"]]}".to_vec()),
        body("UTF-16", "{\"instances\": [[1]]}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()),
        body("form", "instances=1"),
        pixel("NaN", "NaN"),
        pixel("Infinity", "Infinity"),
        pixel("minus Infinity", "-Infinity"),
        // --- not a prediction request ---
        body("null", "null"),
        body("bare array", "[[1, 2, 3]]"),
        body("no instances", r#"{}"#),
        body("misspelt instances", r#"{"instnaces": [[1]]}"#),
        body("duplicate instances", r#"{"instances": [[1]], "instances": [[2]]}"#),
        body("instances null", r#"{"instances": null}"#),
        body("instances an object", r#"{"instances": {"pixels": [1]}}"#),
        body("instances text", r#"{"instances": "[[1]]"}"#),
        body("empty instances", r#"{"instances": []}"#),
        // --- not inputs of the model ---
        third_of_five("too few pixels in instance 3 of 5", "[1, 2, 3]"),
        third_of_five("too many pixels in instance 3 of 5", &format!("[{}]", ["1"; 65].join(", "))),
        third_of_five("no pixels in instance 3 of 5", "[]"),
        third_of_five("a number as instance 3 of 5", "7"),
        third_of_five("null as instance 3 of 5", "null"),
        third_of_five("an 8x8 image as instance 3 of 5", &format!("[{}]", ["[1, 2, 3, 4, 5, 6, 7, 8]"; 8].join(", "))),
        third_of_five("an unknown input in instance 3 of 5", r#"{"pixel": [1]}"#),
        third_of_five("no input in instance 3 of 5", "{}"),
        third_of_five("a duplicate input in instance 3 of 5", &format!(r#"{{"pixels": {0}, "pixels": {0}}}"#, digit())),
        pixel("1e39", "1e39"),
        pixel("-1e39", "-1e39"),
        pixel("1e999", "1e999"),
        pixel("text for a pixel", "\"6\""),
        pixel("null for a pixel", "null"),
        pixel("true for a pixel", "true"),
        pixel("an object for a pixel", "{}"),
        body("nested 100,000 deep", format!(r#"{{"instances": {}}}"#, deep(100_000))),
        body("envelope nested 100,000 deep", deep(100_000)),
        body("10 MB body", format!(r#"{{"instances": [[{}]]}}"#, "1, ".repeat(10_000_000 / 3))),
        // --- HTTP that is not supported ---
        with_header("content type of a form", ("content-type", "application/x-www-form-urlencoded")),
        with_header("content type of text", ("content-type", "text/plain; charset=utf-8")),
        with_header("compressed body", ("content-encoding", "gzip")),
        to("GET of a prediction", "GET", "/predict"),
        to("PUT of a prediction", "PUT", "/v1/models/digits:predict"),
        to("GET of a model's prediction", "GET", "/v1/models/digits:predict"),
        to("DELETE of a model", "DELETE", "/v1/models/digits"),
        to("POST to a model", "POST", "/v1/models/digits"),
        to("POST to a version", "POST", "/v1/models/digits/versions/1"),
        to("unknown verb", "POST", "/v1/models/digits:explain"),
        to("unknown path", "POST", "/v1/predictions"),
        to("unknown model", "POST", "/v1/models/digitz:predict"),
        to("unknown version", "POST", "/v1/models/digits/versions/3:predict"),
        to("version 0", "POST", "/v1/models/digits/versions/0:predict"),
        to("version latest", "POST", "/v1/models/digits/versions/latest:predict"),
        to("version beyond any number", "POST", "/v1/models/digits/versions/99999999999999999999:predict"),
        to("path in a model's name", "POST", "/v1/models/..%2F..%2Fetc%2Fpasswd:predict"),
        to("NUL in a model's name", "POST", "/v1/models/digits%00:predict"),
        to("control characters in a model's name", "POST", "/v1/models/%1b%5b31m%0d%0a:predict"),
        to("invalid UTF-8 in a model's name", "POST", "/v1/models/%ff%fe:predict"),
        to("long model name", "POST", format!("/v1/models/{}:predict", "a".repeat(5_000))),
        to("doubled slash", "POST", "//predict"),
        to("admin path on the data port", "GET", "/admin/v1/models"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_answered_with_what_to_change() {
    let app = TestApp::start().await;
    let expected = app.predict("/predict", good()).await.predictions();
    let cases = cases();
    assert!(cases.len() >= 40);
    let mut seen = String::new();
    for bad in cases {
        let mut request = app.client.request(bad.method.parse().unwrap(), app.url(&bad.path)).body(bad.body);
        for (name, value) in bad.headers {
            request = request.header(name, value);
        }
        let answer = Answer::of(request.header("x-request-id", "bad-input").send().await.unwrap()).await;
        let problem = answer.json();
        assert!((400..500).contains(&answer.status), "{}: {}", bad.name, answer.text);
        let is_of_a_protocol = bad.path.starts_with("/v1/") || bad.path.starts_with("/v2/");
        let media_type = if is_of_a_protocol { "application/json" } else { "application/problem+json" };
        assert_eq!(answer.header("content-type"), media_type, "{}", bad.name);
        assert_eq!(answer.header("x-request-id"), "bad-input", "{}", bad.name);
        assert_eq!(problem["request_id"], "bad-input", "{}", bad.name);
        assert_eq!(problem["status"], answer.status, "{}", bad.name);
        let detail = problem["detail"].as_str().unwrap();
        assert!(!detail.contains(".rs") && !detail.contains(env!("CARGO_MANIFEST_DIR")), "{}: {detail}", bad.name);
        let code = problem["type"].as_str().unwrap().rsplit(':').next().unwrap();
        writeln!(seen, "{}\n    {} {code}\n    {detail}", bad.name, answer.status).unwrap();

        let next = app.predict("/predict", good()).await;
        assert_eq!(next.predictions(), expected, "after {}", bad.name);
    }
    insta::assert_snapshot!(seen);
}

/// A chunked body without a length is limited in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_is_cut_at_the_limit() {
    let mut config = crate::harness::config();
    config.http.body_limit_bytes = 10_000.try_into().unwrap();
    let app = TestApp::with(config).await;
    let chunks = (0..20_000).map(|_| Ok::<_, std::io::Error>(bytes::Bytes::from_static(b" ")));
    let body = reqwest::Body::wrap(http_body_util::StreamBody::new(Chunks(chunks)));
    let answer = app.predict("/predict", body).await;
    assert_eq!(answer.status, 413, "{}", answer.text);
    assert_eq!(app.predict("/predict", good()).await.status, 200);
}

/// Turns an iterator into a stream of frames that is always ready.
struct Chunks<I>(I);

impl<I: Iterator<Item = std::io::Result<bytes::Bytes>> + Unpin> futures_core::Stream for Chunks<I> {
    type Item = std::io::Result<http_body::Frame<bytes::Bytes>>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next().map(|chunk| chunk.map(http_body::Frame::data)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_names_no_path_and_no_library() {
    let app = TestApp::with(Repository::of("echo_sequence").config()).await;
    for body in [r#"{"instances": [["a"]]}"#, r#"{"instances": [[1], [2, 3]]}"#, "{"] {
        let answer = app.predict("/predict", body).await;
        assert_eq!(answer.status, 400);
        for leak in ["onnx", "ort", "serde", "/tmp", ".rs"] {
            assert!(!answer.text.contains(leak), "{leak}: {}", answer.text);
        }
    }
}
