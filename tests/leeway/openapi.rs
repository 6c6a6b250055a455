//! The OpenAPI documents and the schemas of models: real answers are valid against them, and examples can be sent as they are.

use std::collections::BTreeSet;

use leeway::api::routes::{AdminEndpoint, DataEndpoint, Method};
use leeway::pipeline::{Preprocessor, StageContext, Stages};
use serde_json::{Map, Value, json};

use crate::harness::{Answer, PLAIN, Repository, TestApp, checkout, config, copy_folder};

// ===== validation =====

/// Forbids members that a schema does not name, so that a member without documentation is found. `is_part` is true for a schema
/// that describes only some of the members of an object.
fn strict(schema: &mut Value, is_part: bool) {
    let Some(keywords) = schema.as_object_mut() else { return };
    let is_object = keywords.contains_key("properties");
    for keyword in ["anyOf", "oneOf", "allOf"] {
        let branches = keywords.get_mut(keyword).and_then(Value::as_array_mut);
        branches.into_iter().flatten().for_each(|branch| strict(branch, is_object || is_part));
    }
    for keyword in ["properties", "patternProperties"] {
        let members = keywords.get_mut(keyword).and_then(Value::as_object_mut);
        members.into_iter().flatten().for_each(|(_, member)| strict(member, false));
    }
    for keyword in ["items", "additionalProperties"] {
        keywords.get_mut(keyword).into_iter().for_each(|schema| strict(schema, false));
    }
    if is_object && !is_part && !keywords.contains_key("additionalProperties") {
        keywords.insert("unevaluatedProperties".to_owned(), false.into());
    }
}

/// Checks a value against a schema, whose references are those of an OpenAPI document.
fn assert_valid(value: &Value, schema: &Value, document: &Value, what: &str) {
    let mut schema = json!({ "allOf": [schema], "components": { "schemas": document["components"]["schemas"] } });
    for member in schema["components"]["schemas"].as_object_mut().into_iter().flatten() {
        strict(member.1, false);
    }
    strict(&mut schema["allOf"][0], false);
    let validator = jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("{what}: {error}"));
    let errors: Vec<String> =
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{what}: {errors:#?}\n{value:#}");
}

/// Checks that the document has the status, the headers and the body of an answer.
fn assert_documented(document: &Value, method: Method, path: &str, answer: &Answer) {
    let what = format!("{method} {path} {}", answer.status);
    let operation = &document["paths"][path][method.to_string().to_ascii_lowercase()];
    let response = resolved(document, &operation["responses"][answer.status.to_string()]);
    assert!(response.is_object(), "{what}: {}", answer.text);
    for name in response["headers"].as_object().into_iter().flatten().map(|(name, _)| name) {
        // `Retry-After` is absent if waiting does not help.
        assert!(answer.headers.contains_key(name) || name == "Retry-After" || name == "Connection", "{what}: {name}");
    }
    let content = response["content"].as_object().cloned().unwrap_or_default();
    if content.is_empty() {
        return assert_eq!(answer.text, "", "{what}");
    }
    let media_type = answer.header("content-type").split(';').next().unwrap_or_default();
    let content = content.get(media_type).unwrap_or_else(|| panic!("{what}: {media_type}"));
    if media_type.ends_with("json") {
        assert_valid(&answer.json(), &content["schema"], document, &what);
    }
}

fn resolved(document: &Value, value: &Value) -> Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).cloned().unwrap_or_default(),
        None => value.clone(),
    }
}

/// Returns all references in a document.
fn references(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(members) => {
            let own = members.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(members.values().flat_map(references)).collect()
        }
        Value::Array(elements) => elements.iter().flat_map(references).collect(),
        _ => BTreeSet::new(),
    }
}

fn assert_sound(document: &Value) {
    assert_eq!(document["openapi"], "3.1.0");
    for reference in references(document) {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
    }
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{method} {path}: {id}");
            assert!(ids.insert(id.to_owned()), "{method} {path}: {id}");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{method} {path}");
        }
    }
}

// ===== the documents =====

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_have_every_endpoint_and_are_made_once() {
    let app = TestApp::start().await;
    let document = app.get("/openapi.json").await;
    let data = DataEndpoint::ALL.iter().map(|endpoint| (endpoint.method(), endpoint.path()));
    let (of_data, of_admin) = (document.json(), app.admin_get("/openapi.json").await.json());
    let admin = AdminEndpoint::ALL.iter().map(|endpoint| (endpoint.method(), endpoint.path()));
    for (document, (method, path)) in data.map(|it| (&of_data, it)).chain(admin.map(|it| (&of_admin, it))) {
        let operation = &document["paths"][path][method.to_string().to_ascii_lowercase()];
        assert!(operation.is_object(), "{method} {path}");
    }
    assert_sound(&of_data);
    assert_sound(&of_admin);
    assert_eq!(of_data["paths"]["/v1/models/digits:predict"]["post"]["operationId"], "predictDigits");

    let tag = document.header("etag");
    let again = app.client.get(app.url("/openapi.json")).header("if-none-match", tag).send().await.unwrap();
    let again = Answer::of(again).await;
    assert_eq!((again.status, &*again.text, again.header("etag")), (304, "", tag));
    assert_documented(&of_data, Method::Get, "/openapi.json", &again);
}

/// A document describes the models that are served now.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_changes_the_document() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let app = TestApp::with(repository.config()).await;
    let before = app.get("/openapi.json").await;
    repository.add("plus", 2, "plus_2");
    app.admin_post("/admin/v1/reload", json!({})).await;
    app.admin_post("/admin/v1/models/plus/promote", json!({ "version": 2 })).await;
    let after = app.get("/openapi.json").await;
    assert_ne!(before.header("etag"), after.header("etag"));
    let about = after.json()["paths"]["/v1/models/plus:predict"]["post"]["description"].clone();
    assert!(about.as_str().unwrap().contains("those of version 2"), "{about}");
    assert_eq!(app.get("/v1/models/plus/schema").await.json()["version"], 2);
    assert_eq!(app.get("/v1/models/plus/versions/1/schema").await.json()["version"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_data_listener_are_as_documented() {
    let app = TestApp::start().await;
    let document = app.get("/openapi.json").await.json();
    let check = |method, path, answer: &Answer| assert_documented(&document, method, path, answer);
    for endpoint in DataEndpoint::ALL.iter().filter(|endpoint| endpoint.method() == Method::Get) {
        let with = |model: &str, version: &str| endpoint.path().replace("{model}", model).replace("{version}", version);
        check(Method::Get, endpoint.path(), &app.get(&with("digits", "1")).await);
        if endpoint.path().contains('{') {
            check(Method::Get, endpoint.path(), &app.get(&with("nobody", "1")).await);
            check(Method::Get, endpoint.path(), &app.get(&with("digits", "99")).await);
            check(Method::Get, endpoint.path(), &app.get(&with("digits:x", "1:x")).await);
        }
    }
    let typed = "/v1/models/digits:predict";
    let example = document["paths"][typed]["post"]["requestBody"]["content"]["application/json"]["example"].clone();
    for (template, path) in [
        ("/predict", "/predict"),
        (typed, typed),
        ("/v1/models/{model}:predict", typed),
        ("/v1/models/{model}/versions/{version}:predict", "/v1/models/digits/versions/2:predict"),
    ] {
        let answer = app.predict(path, example.to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        check(Method::Post, template, &answer);
        check(Method::Post, template, &app.predict(path, "{").await);
        let other = app.client.post(app.url(path)).header("content-type", "text/csv").body("1,2").send().await.unwrap();
        check(Method::Post, template, &Answer::of(other).await);
    }
    let input = app.get("/v2/models/digits").await.json()["inputs"][0]["name"].clone();
    let tensor = json!({ "name": input, "shape": [1, 64], "datatype": "FP32", "data": vec![0.5; 64] });
    for (body, status) in [(json!({ "id": "a", "inputs": [tensor] }), 200), (json!({ "inputs": [] }), 400)] {
        let answer = app.predict("/v2/models/digits/infer", body.to_string()).await;
        assert_eq!(answer.status, status, "{}", answer.text);
        check(Method::Post, "/v2/models/{model}/infer", &answer);
    }
    let index = app.predict("/v2/repository/index", "{}").await;
    check(Method::Post, "/v2/repository/index", &index);
    let load = "/v2/repository/models/{model}/load";
    check(Method::Post, load, &app.predict(&load.replace("{model}", "digits"), "{}").await);
    let feedback = json!({ "feedback": [{ "prediction_id": "forged", "label": 1, "metrics": { "a": true } }] });
    check(Method::Post, "/feedback", &app.predict("/feedback", feedback.to_string()).await);
    check(Method::Post, "/feedback", &app.predict("/feedback", "[]").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_admin_listener_are_as_documented() {
    let app = TestApp::start().await;
    let document = app.admin_get("/openapi.json").await.json();
    let check = |method, path, answer: &Answer| assert_documented(&document, method, path, answer);
    let at = |path: &str, model: &str| path.replace("{model}", model).replace("{version}", "2");
    app.predict("/predict", json!({ "instances": [vec![0.5; 64]] }).to_string()).await;
    let rollback = "/admin/v1/models/{model}/rollback";
    let conflict = app.admin_post(&at(rollback, "digits"), json!({ "if_generation": 1000 })).await;
    assert_eq!(conflict.status, 409, "{}", conflict.text);
    check(Method::Post, rollback, &conflict);
    for endpoint in AdminEndpoint::ALL {
        let path = endpoint.path();
        let body = match endpoint {
            AdminEndpoint::Traffic => json!({ "shares": { "1": 87.5, "2": 12.5 }, "reason": "a test" }),
            AdminEndpoint::Promote => json!({ "version": 1 }),
            _ => json!({}),
        };
        for model in ["digits", "nobody"] {
            let answer = match endpoint.method() {
                Method::Get => app.admin_get(&at(path, model)).await,
                Method::Post => app.admin_post(&at(path, model), body.clone()).await,
                Method::Put => app.admin_put(&at(path, model), body.clone()).await,
            };
            check(endpoint.method(), path, &answer);
        }
        if endpoint.method() != Method::Get {
            let wrong = app.client.request(
                endpoint.method().to_string().parse().unwrap(),
                format!("http://{}{}", app.admin, at(path, "digits")),
            );
            check(endpoint.method(), path, &Answer::of(wrong.body("{}").send().await.unwrap()).await);
        }
    }
    let from_page =
        app.client.get(format!("http://{}/admin/v1/models", app.admin)).header("origin", "http://a.example");
    check(Method::Get, "/admin/v1/models", &Answer::of(from_page.send().await.unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_document_names_the_token_if_there_is_one() {
    let mut config = config();
    config.admin.token = Some(serde_json::from_value(json!("a-token-of-operators-1234567890")).unwrap());
    let app = TestApp::with(config).await;
    let document = app.admin_get("/openapi.json").await.json();
    assert_eq!(document["components"]["securitySchemes"]["adminToken"]["scheme"], "bearer");
    assert_eq!(document["paths"]["/admin/v1/models"]["get"]["security"], json!([{ "adminToken": [] }]));
    let refused = app.admin_get("/admin/v1/models").await;
    assert_eq!(refused.status, 401);
    assert_documented(&document, Method::Get, "/admin/v1/models", &refused);
}

/// With API keys, the document needs one, and says so. The page asks for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_data_document_names_the_api_key_if_there_are_keys() {
    let mut config = config();
    config.http.api_keys =
        vec![leeway::config::ApiKey { name: "ada".parse().unwrap(), sha256: SHA256_OF_ABC.parse().unwrap() }];
    let app = TestApp::with(config).await;
    let asked = app.client.get(app.url("/openapi.json")).header("x-api-key", "abc").send().await.unwrap();
    let document = Answer::of(asked).await.json();
    assert_sound(&document);
    assert_eq!(document["components"]["securitySchemes"]["apiKey"]["name"], "X-Api-Key");
    for path in ["/openapi.json", "/v1/models", "/docs", "/livez"] {
        let answer = app.get(path).await;
        assert_eq!(answer.status, if ["/docs", "/livez"].contains(&path) { 200 } else { 401 }, "{path}");
        assert_documented(&document, Method::Get, path, &answer);
    }
}

/// SHA-256 of "abc" (FIPS 180-2, appendix B.1).
const SHA256_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

// ===== the schemas of models =====

/// The rest of a `model.toml`, with a budget for a busy machine.
const REST: &str = "\n[budget]\ntotal_ms = 600000\n";

/// A repository with a model of every kind of stage.
fn every_kind() -> Repository {
    let data = |file: &str| checkout().join("tests/data").join(file);
    let mut repository = Repository::new().with_shipped("penguins", &[1]);
    let tensors = "bfloat16 bool float16 float32 float64 image int16 int32 int64 int8 scalar sequence string uint16 uint32 \
                   uint64 uint8";
    for name in tensors.split_whitespace().map(|dtype| format!("echo_{dtype}")) {
        repository = repository.with(&name, 1, &name, PLAIN);
    }
    for name in ["echo_list", "no_inputs"] {
        repository = repository.with(name, 1, name, &format!("{PLAIN}rows = \"none\"\n"));
    }
    let numbers = |postprocess: &str| format!("[preprocess]\nkind = \"tensor\"\n[postprocess]\n{postprocess}{REST}");
    let images = |postprocess: &str| {
        format!("[preprocess]\nkind = \"image\"\nresize = \"stretch\"\n[postprocess]\n{postprocess}{REST}")
    };
    let mask = "kind = \"mask\"\nscores = \"logits\"\nlabels = [\"a\", \"b\", \"c\", \"d\"]\nformat";
    for (name, file, model_toml) in [
        ("value", "models/echo_scalar.onnx", numbers("kind = \"regressor\"\nnon_finite = \"text\"")),
        ("values", "multi/ridge.onnx", numbers("kind = \"regressor\"\ntargets = [\"a\", \"b\", \"c\"]")),
        ("anomaly", "multi/isolation_forest.onnx", numbers("kind = \"anomaly\"")),
        (
            "classes",
            "multi/ovr_multi_label.onnx",
            numbers(
                "kind = \"classifier\"\nscores = \"probabilities\"\nmulti_label = true\nlabels = [\"a\", \"b\", \"c\"]",
            ),
        ),
        (
            "targets",
            "multi/multi_output.onnx",
            numbers("kind = \"classifier\"\nscores = \"probabilities\"\ntargets = [\"a\", \"b\"]"),
        ),
        ("png", "masks/logits.onnx", images(&format!("{mask} = \"png\""))),
        ("rle", "masks/logits.onnx", images(&format!("{mask} = \"rle\""))),
        (
            "detector",
            "detectors/yolov8.onnx",
            images("kind = \"detector\"\nlayout = \"yolov8\"\nthreshold = 0.01\nlabels = [\"cat\", \"dog\", \"bird\"]"),
        ),
        (
            "sound",
            "audio/listener.onnx",
            format!(
                "[preprocess]\nkind = \"audio\"\ninput = \"sound\"\nsample_rate = 16000\nsamples = 512\n[postprocess]\nkind = \"tensor\"{REST}"
            ),
        ),
        ("bytes", "bytes/kinds.onnx", [crate::bytes::PREPROCESS, crate::bytes::REST].concat()),
    ] {
        repository = repository.with_version(name, 1, &data(file), &[]).with_config(name, &model_toml);
    }
    let sentences = data("text/sentences");
    copy_folder(&sentences.join("1"), &repository.version("embedding", 1));
    // Without the golden examples, which are those of the other postprocessor.
    let tokenizer = std::fs::read(sentences.join("1/tokenizer.json")).unwrap();
    repository =
        repository.with_version("entities", 1, &sentences.join("1/model.onnx"), &[("tokenizer.json", &tokenizer)]);
    let settings = std::fs::read_to_string(sentences.join("model.toml")).unwrap();
    let stages = settings.split("[postprocess]").next().unwrap().replace("total_ms = 1000", "total_ms = 600000");
    let labels: Vec<String> = (0..WIDTH).map(|label| format!("B-{label}")).collect();
    let entities =
        format!("{stages}[postprocess]\nkind = \"token-classifier\"\nscores = \"logits\"\nlabels = {labels:?}\n");
    repository
        .with_config("embedding", &settings.replace("total_ms = 1000", "total_ms = 600000"))
        .with_config("entities", &entities)
}

/// Length of the vectors of the sentences' model.
const WIDTH: usize = 32;

/// Problems with the versions of a model.
fn problems(model: &Value) -> Vec<Value> {
    let versions = model["versions"].as_array().unwrap().iter();
    versions.filter(|version| version["state"] != "loaded").map(|version| version["problem"].clone()).collect()
}

/// The example of every kind of stage is valid, can be sent as it is, and its answer is valid.
#[tokio::test(flavor = "multi_thread")]
async fn every_example_can_be_sent_and_its_answer_fits() {
    let repository = every_kind();
    let app = TestApp::with(repository.config()).await;
    let document = app.get("/openapi.json").await.json();
    assert_sound(&document);
    let status = app.admin_get("/admin/v1/models").await.json();
    let problems: Vec<Value> = status["models"].as_array().unwrap().iter().flat_map(problems).collect();
    assert!(problems.is_empty(), "{problems:#?}");
    let models = app.get("/").await.json()["models"].clone();
    let models: Vec<&str> = models.as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert!(models.len() > 30, "{models:?}");
    for name in models {
        let schema = app.get(&format!("/v1/models/{name}/schema")).await;
        assert_documented(&document, Method::Get, "/v1/models/{model}/schema", &schema);
        let schema = schema.json();
        let example = &schema["example"];
        if name == "echo_list" {
            // The items of a sequence may be anything.
            assert!(example.is_null(), "{example}");
            continue;
        }
        assert!(example.is_object(), "{name} has no example: {schema}");
        assert_valid(&example["instances"][0], &schema["instance"], &Value::Null, &format!("the example of {name}"));
        let path = format!("/v1/models/{name}:predict");
        let answer = app.predict(&path, example.to_string()).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text);
        assert_valid(
            &answer.json()["predictions"][0],
            &schema["prediction"],
            &Value::Null,
            &format!("{name}'s answer"),
        );
        assert_documented(&document, Method::Post, &path, &answer);
    }
}

/// Instances that fit the schema of digits and penguins are answered, and others are refused.
#[tokio::test(flavor = "multi_thread")]
async fn the_schemas_of_the_shipped_models_say_what_is_accepted() {
    let repository = Repository::new().with_shipped("penguins", &[1]).with_shipped("digits", &[2]);
    let app = TestApp::with(repository.config()).await;
    let penguin = |members: Value| {
        let mut penguin = json!({ "island": "Biscoe", "bill_length_mm": 39.1, "sex": "male" });
        penguin.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        penguin
    };
    for (model, instance) in [
        ("penguins", penguin(json!({}))),
        ("penguins", penguin(json!({ "bill_length_mm": null, "sex": null }))),
        ("penguins", penguin(json!({ "island": null }))),
        ("penguins", penguin(json!({ "island": 3 }))),
        ("penguins", penguin(json!({ "colour": "blue" }))),
        ("penguins", penguin(json!({ "bill_length_mm": "39.1" }))),
        ("penguins", penguin(json!({ "island": "a\u{0}b" }))),
        ("penguins", json!({})),
        ("digits", json!(vec![0.5; 64])),
        ("digits", json!(vec![0.5; 63])),
        ("digits", json!(vec![1e39; 64])),
        ("digits", json!(3)),
    ] {
        let schema = app.get(&format!("/v1/models/{model}/schema")).await.json();
        let is_valid = jsonschema::is_valid(&schema["instance"], &instance);
        let body = json!({ "instances": [instance] }).to_string();
        let answer = app.predict(&format!("/v1/models/{model}:predict"), body.clone()).await;
        assert_eq!((answer.status == 200, answer.status), (is_valid, if is_valid { 200 } else { 400 }), "{body}");
    }
}

/// A stage that describes nothing.
struct Plain;

impl Preprocessor for Plain {
    fn transform(
        &self,
        _: &serde_json::value::RawValue,
        _: leeway::budget::Deadline,
    ) -> leeway::error::Result<leeway::pipeline::Prepared> {
        Ok(leeway::pipeline::Prepared::unwatched(Default::default()))
    }
}

#[test]
fn a_custom_stage_allows_any_instance_by_default() {
    fn make(_: StageContext<'_>) -> Result<Box<dyn Preprocessor>, leeway::error::SetupError> {
        Ok(Box::new(Plain))
    }
    let _ = Stages::default().with_preprocessor("plain", make);
    assert_eq!(Plain.instance_schema(), Value::Object(Map::new()));
    assert_eq!(Plain.example(), None);
}

// ===== the page and the index =====

#[tokio::test(flavor = "multi_thread")]
async fn the_page_allows_itself_only() {
    let app = TestApp::start().await;
    for page in [app.get("/docs").await, app.admin_get("/docs").await] {
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        let known = app.client.get(app.url("/docs")).header("if-none-match", page.header("etag"));
        assert_eq!(known.send().await.unwrap().status(), 304);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_says_what_is_here_and_sends_a_browser_to_the_page() {
    let repository = Repository::new().with_shipped("digits", &[1]);
    repository.add_file("broken", 1, &checkout().join("README.md"));
    let repository = repository.with_config("broken", PLAIN);
    let app = TestApp::with(repository.config()).await;
    let index = app.get("/").await.json();
    assert_eq!(index["name"], "leeway");
    assert_eq!(index["models"], json!([{ "name": "digits", "ready": true }, { "name": "broken", "ready": false }]));
    for path in index["links"].as_object().unwrap().values() {
        assert_eq!(app.get(path.as_str().unwrap()).await.status, 200, "{path}");
    }
    let browser = crate::harness::client_builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let sent = browser.get(app.url("/")).header("accept", accept).send().await.unwrap();
    assert_eq!((sent.status().as_u16(), &sent.headers()["location"]), (303, &"docs".parse().unwrap()));
    assert!(
        app.client.get(app.url("/")).header("accept", accept).send().await.unwrap().url().path().ends_with("/docs")
    );
}
