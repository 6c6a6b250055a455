//! Limits of chains: crops, memory and time of a step, what a step refuses, changes that would break a chain, and the
//! forms of a request.

use std::io::Cursor;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::chains::{LOOK, golden, images, with_chain, with_images};
use crate::harness::{Answer, PLAIN, Repository, TestApp, until};

fn step(model: &str, rest: &str) -> String {
    format!("[[steps]]\nmodel = \"{model}\"\n{rest}\n")
}

/// An image of one colour in base64, in which every cell of the detector is an object.
fn coloured(width: u32, height: u32) -> Value {
    let mut png = Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, Rgb([250, 10, 20])).write_to(&mut png, ImageFormat::Png).unwrap();
    json!(STANDARD.encode(png.into_inner()))
}

fn detail(answer: &Answer) -> String {
    answer.json()["detail"].as_str().unwrap_or_else(|| panic!("{}", answer.text)).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pixels_of_all_crops_are_limited_and_their_memory_is_given_back() {
    let repository = with_chain(images(), "wide", &format!("{LOOK}margin = 4.0\n"));
    let app = TestApp::with(repository.config()).await;
    let ask = |image: &Value| app.predict("/v1/models/wide:predict", with_images(&[image]));
    let small = ask(&coloured(32, 32)).await.predictions();
    assert_eq!(small[0]["detections"].as_array().unwrap().len(), 16);
    assert!(small[0]["detections"].as_array().unwrap().iter().all(|found| found["prediction"]["label"] == "red"));
    // With the margin, each of the 16 crops is the whole image.
    let refused = ask(&coloured(2048, 1024)).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    let expected = "steps[1] (classify): instances[0]: the crops up to this image have 33554432 pixels together, more than \
        16777216";
    assert!(detail(&refused).starts_with(expected), "{}", refused.text);
    until(async || (app.metric("leeway_body_memory_bytes").await == 0.0).then_some(())).await;
}

/// A step whose instances would take more memory than is left is refused, and names itself.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_a_chain_makes_count_as_memory_of_requests() {
    let repository = Repository::of("echo_float32").with("table", 1, "table", PLAIN);
    let steps = step("echo_float32", "input = \"request.numbers\"")
        + &step("table", "input = { age = \"request.age\", country = \"request.text\" }");
    let repository = with_chain(repository, "chain", &steps);
    let mut config = repository.config();
    config.http.body_limit_bytes = (1 << 20).try_into().unwrap();
    config.http.body_memory_bytes = Some((3 << 20).try_into().unwrap());
    let app = TestApp::with(config).await;
    let mut refused = Vec::new();
    for kilobytes in (1..20).map(|step| step * 50) {
        let instance = json!({ "numbers": [1.0, 2.0], "age": [3.0], "text": ["a".repeat(kilobytes << 10)] });
        let answer = app.predict("/v1/models/chain:predict", json!({ "instances": [instance] }).to_string()).await;
        match answer.status {
            200 => assert!(refused.is_empty(), "{kilobytes}"),
            503 => refused.push(detail(&answer)),
            status => panic!("{kilobytes}: {status} {}", answer.text),
        }
        // The text of the last scrape is held, too.
        until(async || (app.metric("leeway_body_memory_bytes").await <= 256e3).then_some(())).await;
    }
    assert!(refused.iter().any(|detail| detail.starts_with("steps[1] (table): ")), "{refused:?}");
}

/// The budgets of the chain and of the model are ten minutes each.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_has_a_budget_of_its_own() {
    let steps = step("echo_float32", "input = \"request.numbers\"")
        + &step("work", "input = \"request.rounds\"\nbudget_ms = 1500");
    let repository = Repository::of("echo_float32").with("work", 1, "work", PLAIN);
    let app = TestApp::with(with_chain(repository, "chain", &steps).config()).await;
    let ask = |rounds: u32| {
        let body = json!({ "instances": [{ "numbers": [1.0, 2.0], "rounds": rounds }] }).to_string();
        app.predict("/v1/models/chain:predict", body)
    };
    assert_eq!(ask(1).await.status, 200);
    let late = ask(100_000_000).await;
    assert_eq!((late.status, &late.json()["type"]), (504, &json!("urn:leeway:problem:expired")), "{}", late.text);
    assert!(detail(&late).starts_with("steps[1] (work): time ran out during inference"), "{}", late.text);
}

/// The caller is at fault for what it sends, and not for what one step makes for the next.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_a_step_refuses_are_the_fault_of_who_made_them() {
    let repository = Repository::of("echo_float64").with("plus", 1, "plus_1", PLAIN);
    let steps = step("echo_float64", "") + &step("plus", "input = \"echo_float64\"");
    let app = TestApp::with(with_chain(repository, "chain", &steps).config()).await;
    let ask = |number: &str| app.predict("/v1/models/chain:predict", format!("{{\"instances\": [[1.0, {number}]]}}"));
    assert_eq!(ask("2.0").await.predictions(), json!([[2.0, 3.0]]));
    let refused = ask("\"a\"").await;
    assert_eq!(refused.status, 400, "{}", refused.text);
    assert!(detail(&refused).starts_with("steps[0] (echo_float64): instances[0][1]"), "{}", refused.text);
    // A number of 64 bits that is not one of 32 bits.
    let refused = ask("1e300").await;
    assert_eq!(
        (refused.status, &refused.json()["type"]),
        (500, &json!("urn:leeway:problem:unusable-output")),
        "{}",
        refused.text
    );
    let expected =
        "steps[1] (plus): the model's output \"echo_float64\" is not an instance of this step: instances[0][1]";
    assert!(detail(&refused).starts_with(expected), "{}", refused.text);
}

/// The number of crops is not known, so a model has to take any number of rows.
#[tokio::test(flavor = "multi_thread")]
async fn models_that_cannot_run_crops_are_refused_when_the_chain_is_published() {
    let mut repository = images().with("echo_batch_of_4", 1, "echo_batch_of_4", PLAIN);
    let folder = |repository: &Repository, model: &str| repository.path().join(model);
    let copied = |repository: Repository, from: &str, to: &str, change: &dyn Fn(String) -> String| {
        let file = folder(&repository, from).join("1/model.onnx");
        let settings = std::fs::read_to_string(folder(&repository, from).join("model.toml")).unwrap();
        repository.with_version(to, 1, &file, &[]).with_config(to, &change(settings))
    };
    repository = copied(repository, "colours", "few", &|settings| {
        settings.replace("[model]", "[model]\nbatching = \"never\"\nmax_batch_size = 8")
    });
    repository = copied(repository, "blobs", "raw", &|settings| {
        settings.replace("[preprocess]\nkind = \"image\"", "[preprocess]\nkind = \"tensor\"")
    });
    let detect = step("blobs", "");
    let chains = [
        (
            "four",
            format!("{detect}{}", step("echo_batch_of_4", "crop = \"blobs\"")),
            "steps[1] (echo_batch_of_4): crop: the model's batch dimension is fixed at 4, and the number of crops varies",
        ),
        (
            "sixteen",
            format!("{detect}{}", step("few", "crop = \"blobs\"")),
            "steps[1] (few): crop: a request to this model has at most 8 rows, and an image up to 16 crops; set max_crops = 8",
        ),
        (
            "tensors",
            format!("{}{}", step("raw", ""), step("colours", "crop = \"raw\"")),
            "steps[1] (colours): crop: the instances of model raw version 1 are not images",
        ),
    ];
    for (name, steps, _) in &chains {
        repository = with_chain(repository, name, steps);
    }
    repository =
        with_chain(repository, "eight", &format!("{detect}{}", step("few", "crop = \"blobs\"\nmax_crops = 8")));
    let app = TestApp::with(repository.config()).await;
    for (name, _, problem) in &chains {
        let view = app.get(&format!("/v1/models/{name}")).await.json();
        assert!(view["reason"].as_str().unwrap_or_default().starts_with(problem), "{name}: {view}");
    }
    let eight = app.predict("/v1/models/eight:predict", with_images(&[&coloured(32, 32)])).await.predictions();
    assert_eq!(eight[0]["detections"].as_array().unwrap().len(), 8);
}

/// Version 2 of `plus` takes 512 numbers, and the step before it makes 2.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_would_take_a_chain_out_of_service_is_refused() {
    let steps = step("echo_float32", "") + &step("plus", "input = \"echo_float32\"");
    let repository = with_chain(Repository::of("echo_float32").with("plus", 1, "plus_1", PLAIN), "chain", &steps);
    let app = TestApp::with(repository.config()).await;
    let ask = || app.predict("/v1/models/chain:predict", json!({ "instances": [[1.0, 2.0]] }).to_string());
    repository.add("plus", 2, "wide");
    assert_eq!(app.admin_post("/admin/v1/reload", json!({})).await.status, 200);
    const PROMOTE: &str = "/admin/v1/models/plus/promote";
    let refused = app.admin_post(PROMOTE, json!({ "version": 2 })).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    let expected = "it would take the chain chain out of service: steps[1] (plus): input: echo_float32: it has 2 values, and \
         512 are expected (model plus version 2); change its model.toml first";
    assert!(detail(&refused).starts_with(expected), "{}", refused.text);
    let shares = json!({ "shares": { "1": 90, "2": 10 } });
    assert_eq!(app.admin_put("/admin/v1/models/plus/traffic", shares).await.status, 422);
    assert_eq!(ask().await.predictions(), json!([[2.0, 3.0]]));

    // A chain that names its version does not follow the traffic, and keeps the version.
    std::fs::write(repository.path().join("chain/model.toml"), format!("{steps}version = 1\n")).unwrap();
    assert_eq!(app.admin_post("/admin/v1/reload", json!({})).await.status, 200);
    until(async || {
        let steps = app.get("/v1/models/chain").await.json()["versions"][0]["steps"].clone();
        (steps[1]["version"] == 1).then_some(())
    })
    .await;
    let promoted = app.admin_post(PROMOTE, json!({ "version": 2 })).await;
    assert_eq!(promoted.status, 200, "{}", promoted.text);
    assert_eq!(ask().await.predictions(), json!([[2.0, 3.0]]));
    // Its former version is the target of a rollback; after another promotion, it is not.
    repository.add("plus", 3, "wide");
    assert_eq!(app.admin_post("/admin/v1/reload", json!({})).await.status, 200);
    assert_eq!(app.admin_post(PROMOTE, json!({ "version": 3 })).await.status, 200);
    let kept = app.admin_post("/admin/v1/models/plus/versions/1/unload", json!({})).await;
    assert_eq!(kept.status, 422, "{}", kept.text);
    assert!(detail(&kept).contains("it is named by a step of the chain chain"), "{}", kept.text);
    assert_eq!(ask().await.predictions(), json!([[2.0, 3.0]]));
}

/// The forms of other servers, columns, CSV, and a pinned version.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_takes_every_form_of_a_request() {
    let steps = step("plus", "") + &step("plus", "name = \"again\"\ninput = \"plus\"");
    let repository = with_chain(Repository::new().with("plus", 1, "plus_1", PLAIN), "chain", &steps);
    let mut config = repository.config();
    config.repository.default_model = Some("chain".parse().unwrap());
    let app = TestApp::with(config).await;
    let (rows, expected) = (json!([[1.0, 2.0], [3.0, 4.0]]), json!([[3.0, 4.0], [5.0, 6.0]]));
    let bodies = [
        json!({ "instances": rows }),
        json!({ "instances": rows, "parameters": {} }),
        json!({ "signature_name": "serving_default", "instances": rows }),
        json!({ "dataframe_split": { "columns": ["0", "1"], "data": rows } }),
    ];
    for path in ["/predict", "/invocations", "/v1/models/chain:predict", "/v1/models/chain/versions/1:predict"] {
        for body in &bodies {
            let answer = app.predict(path, body.to_string()).await;
            assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text);
            assert_eq!(answer.predictions(), expected, "{path} {body}");
        }
        let request = app.client.post(app.url(path)).header("content-type", "text/csv").body("1,2\n3,4\n");
        assert_eq!(Answer::of(request.send().await.unwrap()).await.predictions(), expected, "{path}");
    }
    let columns = app.predict("/v1/models/chain:predict", json!({ "inputs": rows }).to_string()).await;
    assert_eq!(columns.json()["outputs"], expected, "{}", columns.text);
    let unknown = app.predict("/v1/models/chain/versions/2:predict", bodies[0].to_string()).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text);

    // More instances than a step takes are refused before the first step.
    let many = json!({ "instances": vec![json!([1.0, 2.0]); 4097] }).to_string();
    let refused = app.predict("/predict", many).await;
    assert_eq!(refused.status, 400);
    assert!(detail(&refused).starts_with("instances: more than 4096"), "{}", refused.text);
}

/// Requests whose clients go away, and requests while the models of the steps are loaded again, leave nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn requests_survive_reloads_of_the_models_of_their_steps() {
    let repository = with_chain(images(), "look", LOOK);
    let app = TestApp::with(repository.config()).await;
    let body = with_images(&[&golden()["images"][0]]);
    let expected = app.predict("/v1/models/look:predict", body.clone()).await.predictions();
    let reloads = async {
        for round in 0..6 {
            for model in ["blobs", "colours"] {
                change_workers(&repository.path().join(model), 1 + round % 2);
            }
            assert_eq!(app.admin_post("/admin/v1/reload", json!({})).await.status, 200);
        }
    };
    let requests = async {
        for _ in 0..60 {
            let answer = app.predict("/v1/models/look:predict", body.clone()).await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(answer.predictions(), expected);
        }
    };
    tokio::join!(reloads, requests);
    until(async || (app.metric("leeway_body_memory_bytes").await == 0.0).then_some(())).await;
}

/// Changes a setting that makes the server load the version again.
fn change_workers(model: &Path, workers: u32) {
    let file = model.join("model.toml");
    let settings = std::fs::read_to_string(&file).unwrap();
    let kept: Vec<&str> = settings.lines().filter(|line| !line.starts_with("workers")).collect();
    std::fs::write(&file, kept.join("\n").replace("[model]", &format!("[model]\nworkers = {workers}"))).unwrap();
}
