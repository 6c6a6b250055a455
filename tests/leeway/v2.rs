//! The Open Inference Protocol over REST: hostile bodies, raw bytes, columns of pipelines, and the repository. What clients
//! do with it is in `clients.rs`.

use leeway::config::Config;
use serde_json::{Value, json};

use crate::harness::{Answer, PLAIN, Repository, TestApp, config};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A model with the inputs x: float32[?, 2] and count: int64[?, 1], and the outputs scaled and others.
fn two_inputs() -> Repository {
    Repository::new().with("two", 1, "two_inputs", PLAIN)
}

fn request() -> Value {
    json!({ "inputs": [
        { "name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0] },
        { "name": "count", "shape": [1, 1], "datatype": "INT64", "data": [3] },
    ] })
}

async fn infer(app: &TestApp, body: impl Into<reqwest::Body>) -> Answer {
    app.predict("/v2/models/two/infer", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_answered_with_their_place() {
    let app = TestApp::with(two_inputs().config()).await;
    assert_eq!(infer(&app, request().to_string()).await.status, 200);
    let with = |pointer: &str, value: Value| {
        let mut body = request();
        *body.pointer_mut(pointer).unwrap() = value;
        body.to_string()
    };
    let and = |key: &str, value: Value| {
        let mut body = request();
        body[key] = value;
        body.to_string()
    };
    let deep = format!(
        r#"{{"inputs": [{{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": {}}}]}}"#,
        "[".repeat(100_000) + &"]".repeat(100_000)
    );
    let many = format!(
        r#"{{"inputs": [{}]}}"#,
        [r#"{"name":"x","shape":[1,2],"datatype":"FP32","data":[]}"#; 2_000].join(",")
    );
    for (body, problem) in [
        (String::new(), "the body is not a JSON object"),
        ("[]".to_owned(), "the body is not a JSON object"),
        ("{}".to_owned(), "missing field `inputs`"),
        ("{\"inputs\": []}".to_owned(), "the input \\\"x\\\" is missing"),
        (with("/inputs/0/name", json!("y")), "the model has no input \\\"y\\\"; it has: x, count"),
        (with("/inputs/1/name", json!("x")), "the input \\\"x\\\" occurs twice"),
        (with("/inputs/0/datatype", json!("FP64")), "found float64[1, 2], expected float32["),
        (
            with("/inputs/0/datatype", json!("float")),
            "inputs[0] (\\\"x\\\").datatype: found \\\"float\\\", expected BOOL",
        ),
        (with("/inputs/0/shape", json!([2])), "found float32[2], expected float32["),
        (with("/inputs/0/shape", json!([1, -2])), "invalid value"),
        (with("/inputs/0/shape", json!([1, 3])), "found float32[1, 3], expected float32["),
        (with("/inputs/0/shape", json!(vec![1; 40])), "an array of at most 32 items"),
        (with("/inputs/0/shape", json!([4_000_000_000u64, 2])), "4000000000 rows"),
        (with("/inputs/0", json!(["x", [1, 2], "FP32", [1.0, 2.0]])), "invalid type: sequence, expected an object"),
        (with("/inputs/0/data", json!([1.0])), "the input \\\"x\\\": found 1 values, expected 2 for the shape [1, 2]"),
        (
            with("/inputs/0/data", json!([1.0, "a"])),
            "the input \\\"x\\\"[1]: found the string \\\"a\\\", expected a number",
        ),
        (with("/inputs/0/data", json!([1.0, 1e39])), "is not a value of type float32"),
        (with("/inputs/1/data", json!([0.5])), "0.5 is not a value of type int64"),
        (with("/inputs/0/data", json!(null)), "inputs[0] (\\\"x\\\"): the key \\\"data\\\" is missing"),
        (with("/inputs/0/data", json!([[[1.0, 2.0]]])), "the arrays are nested deeper"),
        (and("outputs", json!([{ "name": "y" }])), "the model does not answer an output \\\"y\\\"; it answers:"),
        (and("outputs", json!([{ "name": "scaled", "parameters": { "classification": 3 } }])), "classification"),
        (and("parameters", json!({ "priority": 4 })), "parameters.priority: found 4, expected 0"),
        (and("parameters", json!({ "content": "raw" })), "parameters.content: found \\\"raw\\\""),
        (and("parameters", json!({ "sequence_id": 7 })), "parameters.sequence_id"),
        (and("paramters", json!({})), "unknown field `paramters`"),
        (deep, ""),
        (many, "an array of at most 1024 items"),
        ("\u{feff}{}".to_owned(), "the body is not a JSON object"),
    ] {
        let answer = infer(&app, body.clone()).await;
        let shown: String = body.chars().take(200).collect();
        assert_eq!(answer.status, 400, "{shown}: {}", answer.text);
        assert!(answer.text.contains(problem), "{shown}: {}", answer.text);
        assert_eq!(answer.json()["error"], answer.json()["detail"]);
    }
    for key in ["id", "outputs", "parameters"] {
        assert_eq!(infer(&app, and(key, Value::Null)).await.status, 200, "{key}");
    }
    let expired = infer(&app, and("parameters", json!({ "timeout": 1 }))).await;
    assert!([503, 504].contains(&expired.status), "{}", expired.text);
    assert_eq!(infer(&app, request().to_string()).await.status, 200);
}

async fn infer_raw(app: &TestApp, model: &str, json: &str, raw: &[u8], length: &str) -> Answer {
    let body = [json.as_bytes(), raw].concat();
    let request = app.client.post(app.url(&format!("/v2/models/{model}/infer"))).body(body);
    let request = request.header("content-type", "application/octet-stream");
    Answer::of(request.header("inference-header-content-length", length).send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_bytes_are_checked_to_the_last_one() {
    let app = TestApp::with(two_inputs().config()).await;
    let json = |x: usize, count: usize| {
        json!({ "inputs": [
            { "name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": { "binary_data_size": x } },
            { "name": "count", "shape": [1, 1], "datatype": "INT64", "parameters": { "binary_data_size": count } },
        ] })
        .to_string()
    };
    let raw: Vec<u8> =
        [1.0f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat().into_iter().chain(3i64.to_le_bytes()).collect();
    let right = json(8, 8);
    let answer = infer_raw(&app, "two", &right, &raw, &right.len().to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    for (json, raw, length, problem) in [
        (json(8, 8), &raw[..15], None, "8 bytes do not follow the JSON text: 7 are left"),
        (json(7, 8), &raw[..15], None, "the input \\\"x\\\": found 7 bytes, expected 8 for 2 elements"),
        (json(8, 0), &raw[..8], None, "the input \\\"count\\\": found 0 bytes, expected 8"),
        (json(8, 8), &[&raw[..], b"!"].concat()[..], None, "1 bytes of the body belong to no input"),
        (json(usize::MAX, 8), &raw, None, "bytes do not follow the JSON text"),
        (json(8, 8), &raw, Some("1"), "the body is not valid JSON"),
        (json(8, 8), &raw, Some("99999"), "the JSON text has 99999 bytes, but the body has"),
        (json(8, 8), &raw, Some("-1"), "found \\\"-1\\\", expected the length"),
        (json(8, 8), &raw, Some("18446744073709551616"), "expected the length"),
    ] {
        let length = length.map_or_else(|| json.len().to_string(), str::to_owned);
        let answer = infer_raw(&app, "two", &json, raw, &length).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(answer.text.contains(problem), "{problem}: {}", answer.text);
    }
    let plain = app.client.post(app.url("/v2/models/two/infer")).header("content-type", "application/octet-stream");
    let answer = Answer::of(plain.body("{}").send().await.unwrap()).await;
    assert_eq!(answer.status, 415, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_a_pipeline_are_answered_as_predict_answers_them() {
    let app = TestApp::start().await;
    let pixels = crate::harness::held_out("digits")["instances"][0].clone();
    let instances = json!({ "instances": [pixels] }).to_string();
    let prediction = app.predict("/v1/models/digits:predict", instances).await.predictions()[0].clone();
    let inputs = json!([{ "name": "pixels", "shape": [1, 64], "datatype": "FP32", "data": pixels }]);
    let body = json!({ "inputs": inputs, "parameters": { "content": "pipeline" } }).to_string();
    let answer = app.predict("/v2/models/digits/infer", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let output = |name: &str| {
        let outputs = answer.json()["outputs"].as_array().unwrap().clone();
        outputs.into_iter().find(|output| output["name"] == name).unwrap()
    };
    assert_eq!(output("label")["data"][0], prediction["label"]);
    assert_eq!(output("label")["datatype"], "INT64");
    assert_eq!(output("confidence")["data"][0], prediction["confidence"]);
    let as_json: Value = serde_json::from_str(output("prediction")["data"][0].as_str().unwrap()).unwrap();
    assert_eq!(as_json, prediction);
    let id = output("prediction_id")["data"][0].clone();
    let infinity = [f32::INFINITY.to_le_bytes(); 64].concat();
    let json = json!({
        "inputs": [{ "name": "pixels", "shape": [1, 64], "datatype": "FP32", "parameters": { "binary_data_size": 256 } }],
        "parameters": { "content": "pipeline" },
    })
    .to_string();
    let refused = infer_raw(&app, "digits", &json, &infinity, &json.len().to_string()).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.text.contains("[0]: found infinity"), "{}", refused.text);
    let feedback = json!({ "feedback": [{ "prediction_id": id, "label": prediction["label"] }] }).to_string();
    assert_eq!(app.predict("/feedback", feedback).await.status, 200);
}

fn with_token() -> Config {
    let mut config = config();
    config.admin.token = Some(TOKEN.to_owned().try_into().unwrap());
    config
}

async fn change(
    app: &TestApp,
    at: std::net::SocketAddr,
    what: &str,
    token: Option<&str>,
    body: &'static str,
) -> Answer {
    let url = format!("http://{at}/v2/repository/models/digits/{what}");
    let mut request = app.client.post(url).header("content-type", "application/json").body(body);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    Answer::of(request.send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_unloaded_and_loaded_by_operators_only() {
    let app = TestApp::with(with_token()).await;
    let pixels = vec![0; 64];
    let body = json!({ "instances": [pixels] }).to_string();
    for at in [app.data, app.admin] {
        for what in ["unload", "load"] {
            assert_eq!(change(&app, at, what, None, "{}").await.status, 401);
            assert_eq!(change(&app, at, what, Some("wrong"), "{}").await.status, 401);
        }
        assert_eq!(change(&app, at, "unload", Some(TOKEN), "").await.status, 200);
        let answer = app.predict("/v1/models/digits:predict", body.clone()).await;
        assert_eq!(answer.status, 503, "{}", answer.text);
        assert!(answer.text.contains("an operator has unloaded it"), "{}", answer.text);
        assert_eq!(app.get("/v2/models/digits/ready").await.status, 503);
        let promote = json!({ "version": 1 });
        let client = app.client.post(format!("http://{}/admin/v1/models/digits/promote", app.admin)).json(&promote);
        let refused = Answer::of(client.header("authorization", format!("Bearer {TOKEN}")).send().await.unwrap()).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        assert!(refused.text.contains("load it first"), "{}", refused.text);
        let entries = app.predict("/v2/repository/index", r#"{"ready": true}"#).await;
        assert_eq!(entries.json(), json!([]));
        assert_eq!(change(&app, at, "load", Some(TOKEN), "{}").await.status, 200);
        assert_eq!(app.predict("/v1/models/digits:predict", body.clone()).await.status, 200);
        assert_eq!(app.get("/v2/models/digits/ready").await.status, 200);
    }
    let version = change(&app, app.data, "unload", Some(TOKEN), r#"{"parameters": {"version": "2"}}"#).await;
    assert_eq!(version.status, 422, "{}", version.text);
    let list = change(&app, app.data, "unload", Some(TOKEN), r#"{"parameters": []}"#).await;
    assert_eq!(list.status, 400, "{}", list.text);
    let unknown = change(&app, app.data, "load", Some(TOKEN), r#"{"parameters": {"config": "{}"}}"#).await;
    assert_eq!(unknown.status, 400, "{}", unknown.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_models_are_changed_on_the_admin_listener_only() {
    let app = TestApp::start().await;
    let refused = change(&app, app.data, "unload", None, "{}").await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    assert_eq!(change(&app, app.admin, "unload", None, "{}").await.status, 200);
    assert_eq!(change(&app, app.admin, "load", None, "{}").await.status, 200);
}
