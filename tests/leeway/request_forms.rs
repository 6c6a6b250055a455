//! The forms of a request that clients of TensorFlow Serving, SageMaker, Vertex AI and MLflow send for the same
//! prediction, with the answers that they expect; and hostile bodies in these forms.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Answer, Repository, Server, TestApp, checkout, config, copy_folder, held_out, leeway, run};

/// The shipped models, with a budget of a minute: penguins are a table, digits rows of 64 numbers.
async fn shipped() -> TestApp {
    let repository = tempfile::tempdir().unwrap();
    for name in ["penguins", "digits"] {
        let (from, to) = (checkout().join("models").join(name), repository.path().join(name));
        for version in ["1", "2"] {
            copy_folder(&from.join(version), &to.join(version));
        }
        write_patient(&from, &to, "total_ms = 200");
    }
    let mut config = config();
    config.repository.path = repository.path().into();
    config.repository.default_model = Some("penguins".parse().unwrap());
    // The repository has been read when this returns, so that it may be deleted.
    TestApp::with(config).await
}

/// Writes the `model.toml` of a model with a budget for a busy machine.
fn write_patient(from: &Path, to: &Path, budget: &str) {
    let settings = std::fs::read_to_string(from.join("model.toml")).unwrap();
    let patient = settings.replace(budget, "total_ms = 60000");
    assert_ne!(patient, settings);
    std::fs::write(to.join("model.toml"), patient).unwrap();
}

const PENGUINS: [&str; 6] = ["island", "bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "sex"];

/// Rows of penguins whose island is known, the first few with missing values.
fn penguins() -> Vec<Value> {
    let instances = held_out("penguins")["instances"].as_array().unwrap().clone();
    instances.into_iter().filter(|row| row["island"].is_string()).take(12).collect()
}

async fn post(app: &TestApp, path: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
    let request = app.client.post(app.url(path)).body(body);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Answer::of(request.send().await.unwrap()).await
}

async fn post_json(app: &TestApp, path: &str, body: &Value) -> Answer {
    app.predict(path, body.to_string()).await
}

/// A row as the fields of CSV, in the order of these columns.
fn csv_line(row: &Value, columns: &[&str]) -> String {
    let field = |column: &&str| match &row[*column] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    columns.iter().map(field).collect::<Vec<_>>().join(",")
}

fn columns_of(rows: &[Value]) -> Value {
    let column = |name: &&str| (name.to_string(), rows.iter().map(|row| row[*name].clone()).collect());
    Value::Object(PENGUINS.iter().map(column).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_table_has_the_same_predictions() {
    let (app, rows) = (shipped().await, penguins());
    let expected = post_json(&app, "/predict", &json!({ "instances": rows })).await.predictions();
    assert_eq!(expected.as_array().unwrap().len(), rows.len());
    let row = |row: &Value| PENGUINS.iter().rev().map(|name| row[*name].clone()).collect::<Vec<_>>();
    let reversed: Vec<&str> = PENGUINS.iter().rev().copied().collect();
    let split = json!({ "columns": reversed, "data": rows.iter().map(row).collect::<Vec<_>>() });
    let bodies = [
        json!({ "instances": rows, "parameters": {} }),
        json!({ "signature_name": "serving_default", "instances": rows }),
        json!({ "inputs": columns_of(&rows), "params": null }),
        json!({ "dataframe_records": rows }),
        json!({ "dataframe_split": split }),
    ];
    for path in ["/predict", "/invocations"] {
        for body in &bodies {
            assert_eq!(post_json(&app, path, body).await.predictions(), expected, "{path} {body}");
        }
        let lines = |columns: &[&str]| rows.iter().map(|row| csv_line(row, columns) + "\n").collect::<String>();
        let csv = [
            ("text/csv", lines(&PENGUINS)),
            ("text/csv; charset=utf-8", format!("{}\r\n{}", PENGUINS.join(","), lines(&PENGUINS))),
            ("text/csv", format!("{}\n{}", reversed.join(","), lines(&reversed))),
            ("text/csv;header=present", format!("\"{}\"\n{}", reversed.join("\",\""), lines(&reversed))),
            ("application/jsonlines", rows.iter().map(|row| format!("{row}\n\n")).collect()),
            ("application/json-seq", rows.iter().map(|row| format!("\u{1e}{row}\n")).collect()),
        ];
        for (content_type, body) in csv {
            let answer = post(&app, path, &[("content-type", content_type)], body.clone()).await;
            assert_eq!(answer.predictions(), expected, "{path} {body}");
        }
    }
    // MLflow's client writes the NaN of pandas as Python does.
    let nan = json!({ "dataframe_records": rows }).to_string().replace("null", "NaN");
    assert!(nan.contains("NaN"));
    assert_eq!(app.predict("/invocations", nan.clone()).await.predictions(), expected);
    assert_eq!(app.predict("/predict", nan).await.status, 400);
    // All of them are counted, like those of `/predict`.
    let requests = app.metric("leeway_requests_total{model=\"penguins\",version=\"2\",outcome=\"ok\"}").await;
    assert!(requests >= 23.0, "{requests}");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_answered_with_columns_on_the_paths_of_tensorflow_serving() {
    let (app, rows) = (shipped().await, penguins());
    let path = "/v1/models/penguins:predict";
    let expected = post_json(&app, path, &json!({ "instances": rows })).await.predictions();
    let answer = post_json(&app, path, &json!({ "inputs": columns_of(&rows), "signature_name": "" })).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = answer.json();
    let column = |name: &str| expected.as_array().unwrap().iter().map(|row| row[name].clone()).collect::<Vec<_>>();
    let expected = json!({ "label": column("label"), "confidence": column("confidence"), "top": column("top") });
    assert_eq!(answer["outputs"], expected);
    assert_eq!(answer["prediction_ids"].as_array().unwrap().len(), rows.len());
    assert_eq!((&answer["model"]["name"], answer.get("predictions")), (&json!("penguins"), None));

    let digits = held_out("digits")["instances"].as_array().unwrap()[..3].to_vec();
    let input = app.get("/v1/models/digits").await.json()["versions"][0]["inputs"][0]["name"].clone();
    let input = input.as_str().unwrap();
    for path in ["/v1/models/digits:predict", "/v1/models/digits/versions/1:predict"] {
        let rows = post_json(&app, path, &json!({ "instances": digits })).await.predictions();
        let columns = [json!({ "inputs": digits }), json!({ "inputs": { (input): digits } })];
        for body in columns {
            let answer = post_json(&app, path, &body).await.json();
            assert_eq!(answer["outputs"]["label"][2], rows[2]["label"], "{answer}");
        }
    }
}

/// The forms of the responses of TensorFlow Serving, as its documentation shows them
/// (<https://www.tensorflow.org/tfx/serving/api_rest>).
#[tokio::test(flavor = "multi_thread")]
async fn status_and_metadata_have_the_form_of_tensorflow_serving() {
    let app = shipped().await;
    let status = json!({ "version": "1", "state": "AVAILABLE", "status": { "error_code": "OK", "error_message": "" } });
    let all = app.get("/v1/models/digits").await.json();
    assert_eq!(all["model_version_status"].as_array().unwrap().last().unwrap(), &status);
    let one = app.get("/v1/models/digits/versions/1").await.json();
    assert_eq!(one["model_version_status"], json!([status]));
    assert_eq!(one["version"], 1);

    let metadata = app.get("/v1/models/digits/versions/1/metadata").await.json();
    assert_eq!(metadata["model_spec"], json!({ "name": "digits", "signature_name": "", "version": "1" }));
    let signature = &metadata["metadata"]["signature_def"]["signature_def"]["serving_default"];
    assert_eq!(signature["method_name"], "tensorflow/serving/predict");
    let input = &signature["inputs"].as_object().unwrap().values().next().unwrap();
    assert_eq!((&input["dtype"], &input["tensor_shape"]["dim"][1]["size"]), (&json!("DT_FLOAT"), &json!("64")));
    assert_eq!(
        (&input["tensor_shape"]["dim"][0]["size"], &input["tensor_shape"]["unknown_rank"]),
        (&json!("-1"), &json!(false))
    );
    assert_eq!(signature["outputs"]["probabilities"]["dtype"], "DT_FLOAT");

    let metadata = app.get("/v1/models/penguins/metadata").await.json();
    let inputs = &metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"];
    assert_eq!(
        (&inputs["island"]["dtype"], &inputs["body_mass_g"]["dtype"]),
        (&json!("DT_STRING"), &json!("DT_FLOAT"))
    );
    assert_eq!(app.get("/v1/models/none/metadata").await.status, 404);
    assert_eq!(app.get("/v1/models/digits/versions/99/metadata").await.status, 404);

    for action in ["classify", "regress"] {
        let answer = post_json(&app, &format!("/v1/models/digits:{action}"), &json!({ "examples": [{}] })).await;
        assert_eq!(answer.status, 404);
        let problem = answer.json();
        let expected = format!("a model has no \":{action}\"; send the request to :predict in its place");
        assert_eq!(
            (&problem["error"], &problem["type"]),
            (&json!(expected), &json!("urn:leeway:problem:unknown-action"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_has_the_format_that_is_accepted() {
    let (app, rows) = (shipped().await, penguins());
    let csv: String = rows.iter().map(|row| csv_line(row, &PENGUINS) + "\n").collect();
    let expected = post_json(&app, "/invocations", &json!({ "instances": rows })).await.predictions();
    let labels = expected.as_array().unwrap().iter().map(|row| format!("{}\n", row["label"].as_str().unwrap()));
    let ask = |path: &'static str, accept: &'static str| {
        let csv = csv.clone();
        let app = &app;
        async move { post(app, path, &[("content-type", "text/csv"), ("accept", accept)], csv).await }
    };
    let answer = ask("/invocations", "text/csv").await;
    assert_eq!((answer.header("content-type"), answer.header("x-model-version")), ("text/csv; charset=utf-8", "2"));
    assert_eq!(answer.text, labels.collect::<String>());
    let answer = ask("/invocations", "application/jsonlines").await;
    assert_eq!(answer.header("content-type"), "application/jsonlines");
    let lines: Vec<Value> = answer.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::from(lines), expected);
    // Other formats are not there, and other paths answer JSON.
    assert_eq!(ask("/invocations", "application/x-recordio-protobuf").await.predictions(), expected);
    assert_eq!(ask("/predict", "text/csv").await.predictions(), expected);
}

/// SageMaker sends rows of numbers without a header, as its built-in algorithms take them.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_numbers_may_be_csv_or_columns_that_pandas_has_named() {
    let (app, digits) = (shipped().await, held_out("digits")["instances"].as_array().unwrap()[..5].to_vec());
    let path = "/v1/models/digits:predict";
    let expected = post_json(&app, path, &json!({ "instances": digits })).await.predictions();
    let line = |row: &Value| row.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(",");
    let csv: Vec<String> = digits.iter().map(line).collect();
    let target = [("content-type", "text/csv"), ("x-amzn-sagemaker-target-model", "digits.tar.gz")];
    assert_eq!(post(&app, "/invocations", &target, csv.join("\n")).await.predictions(), expected);
    assert_eq!(post(&app, path, &target, csv.join("\r\n")).await.predictions(), expected);
    let split = json!({ "columns": (0..64).collect::<Vec<_>>(), "index": [0, 1, 2, 3, 4], "data": digits });
    let target = [("content-type", "application/json"), ("x-amzn-sagemaker-target-model", "digits")];
    let body = json!({ "dataframe_split": split }).to_string();
    assert_eq!(post(&app, "/invocations", &target, body).await.predictions(), expected);
    let places =
        format!("{}\n{}\n", (0..64).map(|place| place.to_string()).collect::<Vec<_>>().join(","), csv.join("\n"));
    let refused = post(&app, path, &[("content-type", "text/csv")], places.clone()).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(refused.text.contains("text/csv; header=present, or header=absent"), "{}", refused.text);
    let with_header = [("content-type", "text/csv; header=present")];
    assert_eq!(post(&app, path, &with_header, places.clone()).await.predictions(), expected);
    let without_header = [("content-type", "text/csv; header=absent")];
    let all_rows = post(&app, path, &without_header, places).await;
    assert_eq!(all_rows.predictions().as_array().map(Vec::len), Some(6));
    let unknown = [("content-type", "text/csv"), ("x-amzn-sagemaker-target-model", "birds")];
    assert_eq!(post(&app, "/invocations", &unknown, "1").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_have_a_name_and_a_second_one() {
    let repository = tempfile::tempdir().unwrap();
    let from = checkout().join("tests/data/text/sentences");
    copy_folder(&from.join("1"), &repository.path().join("sentences/1"));
    write_patient(&from, &repository.path().join("sentences"), "total_ms = 1000");
    let mut config = config();
    config.repository.path = repository.path().into();
    let app = TestApp::with(config).await;
    let texts = json!(["a short text", "7", "one, with a \"quote\""]);
    let expected = post_json(&app, "/predict", &json!({ "instances": texts })).await.predictions();
    for body in [json!({ "inputs": texts }), json!({ "inputs": { "text": texts } })] {
        assert_eq!(post_json(&app, "/invocations", &body).await.predictions(), expected);
        // The only member of a prediction is answered as a list.
        let outputs = post_json(&app, "/v1/models/sentences:predict", &body).await.json()["outputs"].clone();
        assert_eq!(outputs[2], expected[2]["embedding"]);
    }
    let csv = "text\na short text\n7\n\"one, with a \"\"quote\"\"\"\n";
    let answer = post(&app, "/invocations", &[("content-type", "text/csv"), ("accept", "text/csv")], csv).await;
    let first = answer.text.lines().nth(2).unwrap().split(',').next().unwrap().parse::<f64>().unwrap();
    assert!((first - expected[2]["embedding"][0].as_f64().unwrap()).abs() < 1e-6);
    let pair = post_json(&app, "/predict", &json!({ "instances": [["a", "b"]] })).await.predictions();
    let columns = json!({ "inputs": { "text": ["a"], "text_pair": ["b"] } });
    assert_eq!(post_json(&app, "/invocations", &columns).await.predictions(), pair);
    let metadata = app.get("/v1/models/sentences/metadata").await.json();
    let inputs = &metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"];
    assert_eq!(inputs["text"]["dtype"], "DT_STRING");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_has_the_paths_of_sagemaker_and_mlflow() {
    let app = shipped().await;
    for path in ["/ping", "/health"] {
        let answer = app.get(path).await;
        assert_eq!((answer.status, &*answer.text), (200, ""), "{path}");
    }
    let answer = app.get("/version").await;
    assert_eq!((answer.status, &*answer.text), (200, env!("CARGO_PKG_VERSION")));
    let empty = tempfile::tempdir().unwrap();
    let mut config = config();
    config.repository.path = empty.path().into();
    let app = TestApp::with(config).await;
    assert_eq!(app.get("/ping").await.status, 503);
}

/// Messages say what to change. None of the bodies may end the server, or take long.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_bodies_are_refused_with_what_to_change() {
    let app = shipped().await;
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let wide: String = (0..100_000).map(|index| format!("\"c{index}\":[1],")).collect();
    let columns: String = (0..100_000).map(|index| format!("\"c{index}\",")).collect();
    let json = "application/json";
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("both forms", json, br#"{"instances": [], "inputs": {}}"#.to_vec()),
        ("a form twice", json, br#"{"inputs": {}, "inputs": {}}"#.to_vec()),
        ("another signature", json, br#"{"instances": [], "signature_name": "classify"}"#.to_vec()),
        ("parameters", json, br#"{"instances": [], "parameters": {"confidenceThreshold": 0.5}}"#.to_vec()),
        ("a column twice", json, br#"{"inputs": {"sex": ["male"], "sex": ["male"]}}"#.to_vec()),
        ("an unknown column", json, br#"{"inputs": {"island": ["Dream"], "beak": [1]}}"#.to_vec()),
        ("columns of different lengths", json, br#"{"inputs": {"island": ["Dream"], "sex": []}}"#.to_vec()),
        ("columns that are numbers", json, br#"{"inputs": {"island": 5}}"#.to_vec()),
        ("no columns", json, br#"{"inputs": {}}"#.to_vec()),
        ("values without names", json, br#"{"inputs": [["Dream", 1, 2, 3, 4, "male"]]}"#.to_vec()),
        ("a wrong value", json, br#"{"inputs": {"island": ["Dream"], "body_mass_g": ["heavy"]}}"#.to_vec()),
        ("nested deeply", json, format!(r#"{{"inputs": {{"island": [{deep}]}}}}"#).into_bytes()),
        ("nested deeply without names", json, format!(r#"{{"inputs": {deep}}}"#).into_bytes()),
        ("very many columns", json, format!(r#"{{"inputs": {{{}"x":[1]}}}}"#, wide).into_bytes()),
        (
            "very many names",
            json,
            format!(r#"{{"dataframe_split": {{"columns": [{columns}"x"], "data": [[1]]}}}}"#).into_bytes(),
        ),
        (
            "rows of different lengths",
            json,
            br#"{"dataframe_split": {"columns": ["island"], "data": [["Dream"], ["Dream", 1]]}}"#.to_vec(),
        ),
        (
            "rows that are objects",
            json,
            br#"{"dataframe_split": {"columns": ["island"], "data": [{"island": "Dream"}]}}"#.to_vec(),
        ),
        ("no data", json, br#"{"dataframe_split": {"columns": ["island"]}}"#.to_vec()),
        ("null for the names", json, br#"{"dataframe_split": {"columns": null, "data": []}}"#.to_vec()),
        (
            "infinity of Python",
            json,
            br#"{"dataframe_records": [{"island": "Dream", "body_mass_g": Infinity}]}"#.to_vec(),
        ),
        ("too many rows", json, format!(r#"{{"inputs": {{"island": [{}1]}}}}"#, "1,".repeat(5_000)).into_bytes()),
        ("no CSV", "text/csv", Vec::new()),
        ("empty lines", "text/csv", b"\n".repeat(1_000_000)),
        ("commas", "text/csv", b",".repeat(1_000_000)),
        ("lines of commas", "text/csv", b",,,,,,\n".repeat(100_000)),
        ("too few fields", "text/csv", b"Dream,1\n".to_vec()),
        ("ragged lines", "text/csv", b"Dream,1,2,3,4,male\nDream,1\n".to_vec()),
        ("too many lines", "text/csv", b"Dream,1,2,3,4,male\n".repeat(5_000)),
        ("an open quote", "text/csv", b"Dream,1,2,3,4,\"male\n".to_vec()),
        ("quotes", "text/csv", b"\"".repeat(1_000_000)),
        ("a header alone", "text/csv", PENGUINS.join(",").into_bytes()),
        ("a part of a header", "text/csv", b"island,sex\nDream,male\n".to_vec()),
        ("an unknown name", "text/csv; header=present", b"island,beak\nDream,1\n".to_vec()),
        ("no number", "text/csv", b"Dream,1,0x2,3,4,male\n".to_vec()),
        ("NUL", "text/csv", b"Dre\0am,1,2,3,4,male\n".to_vec()),
        ("no UTF-8", "text/csv", b"Dre\xffam,1,2,3,4,male\n".to_vec()),
        ("UTF-16", "text/csv", b"\xff\xfeD\0r\0".to_vec()),
        ("no lines", "application/jsonlines", b"\n".repeat(1_000_000)),
        ("two on a line", "application/jsonlines", b"{}, {}\n".to_vec()),
        ("half a line", "application/jsonlines", b"{\"island\":\n\"Dream\"}".to_vec()),
        ("too many texts", "application/jsonlines", b"{}\n".repeat(5_000)),
        ("a text without separator", "application/json-seq", b"{}{}".to_vec()),
        ("another type", "application/x-parquet", b"PAR1".to_vec()),
    ];
    let mut seen = String::new();
    for (name, content_type, body) in cases {
        let answer = post(&app, "/invocations", &[("content-type", content_type)], body).await;
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        seen.push_str(&format!("{name}: {}\n    {detail}\n", answer.status));
    }
    insta::assert_snapshot!(seen);
    assert_eq!(app.get("/readyz").await.status, 200);
    assert_eq!(app.metric("leeway_body_memory_bytes").await, 0.0);
}

/// The routes and the request that Vertex AI documents for custom containers.
#[test]
fn the_variables_of_vertex_ai_choose_the_port_and_the_paths() {
    let repository = Repository::of("echo_float32");
    let (predict, health) = ("/v1/endpoints/7/deployedModels/4:predict", "/v1/endpoints/7/deployedModels/4");
    let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
    command.envs([("AIP_PREDICT_ROUTE", predict), ("AIP_HEALTH_ROUTE", health), ("AIP_HTTP_PORT", "1")]);
    // What is configured takes precedence over the port of the platform.
    command.env("LEEWAY_HTTP__LISTEN", "127.0.0.1:0").env("LEEWAY_ADMIN__LISTEN", "127.0.0.1:0");
    let server = Server::spawn(&mut command).ready();
    let get = |path: &str| send(&server.url(path), None);
    assert_eq!(get(health).0, 200);
    let (status, text) = send(&server.url(predict), Some(r#"{"instances": [[1, 2]], "parameters": null}"#));
    assert_eq!(status, 200, "{text}");
    assert!(text.starts_with(r#"{"predictions":"#), "{text}");
    drop(server);

    for (variable, value, problem) in [
        ("AIP_HTTP_PORT", "http", "environment variable AIP_HTTP_PORT: found \"http\", expected a port, 1 to 65535"),
        ("AIP_HTTP_PORT", "0", "environment variable AIP_HTTP_PORT: found \"0\""),
        ("AIP_PREDICT_ROUTE", "predict", "environment variable AIP_PREDICT_ROUTE: found \"predict\", expected a path"),
        ("AIP_HEALTH_ROUTE", "/{health}", "environment variable AIP_HEALTH_ROUTE: found \"/{health}\""),
        ("AIP_PREDICT_ROUTE", "/metrics", "http.predict_route: /metrics is the path of GET /metrics; choose another"),
        ("AIP_PREDICT_ROUTE", "/below/new", "http.predict_route: /below/new is below http.path_prefix"),
    ] {
        let mut command = leeway(&["serve", "--models", repository.0.path().to_str().unwrap()]);
        command.env("LEEWAY_HTTP__LISTEN", "127.0.0.1:0").env("LEEWAY_ADMIN__LISTEN", "127.0.0.1:0");
        command.env("LEEWAY_HTTP__PATH_PREFIX", "/below");
        let text = run(command.env(variable, value)).1.replace("\\\"", "\"");
        assert!(text.contains(problem), "{variable}={value}: {text}");
    }
}

/// Sends a request, and returns the status and the body of the response.
fn send(url: &str, body: Option<&str>) -> (u16, String) {
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    threads.block_on(async {
        let client = crate::harness::client();
        let request = match body {
            Some(body) => client.post(url).header("content-type", "application/json").body(body.to_owned()),
            None => client.get(url),
        };
        let answer = Answer::of(request.send().await.unwrap()).await;
        (answer.status, answer.text)
    })
}
