//! Element types, shapes and batches, through real ONNX models that echo their inputs.

use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, TestApp, checkout, leeway, run};

/// Sends instances to a model and compares the predictions.
async fn check(model: &str, instances: Value, expected: Value) {
    let app = TestApp::with(Repository::of(model).config()).await;
    let answer = app.predict("/predict", json!({ "instances": instances }).to_string()).await;
    assert_eq!(answer.predictions(), expected, "{model}");
}

/// Models that echo their input, one for each element type, and rows for them.
pub(crate) fn of_every_element_type() -> [(&'static str, Value); 14] {
    [
        ("echo_float32", json!([[0.1, -3.5], [3.4028235e38, 1e-45]])),
        ("echo_float64", json!([[0.1, -3.5], [1.7976931348623157e308, 5e-324]])),
        ("echo_float16", json!([[0.5, -65504.0]])),
        ("echo_bfloat16", json!([[0.5, -2.0]])),
        ("echo_int8", json!([[-128, 127]])),
        ("echo_int16", json!([[-32768, 32767]])),
        ("echo_int32", json!([[-2147483648i64, 2147483647]])),
        ("echo_int64", json!([[i64::MIN, i64::MAX]])),
        ("echo_uint8", json!([[0, 255]])),
        ("echo_uint16", json!([[0, 65535]])),
        ("echo_uint32", json!([[0, 4294967295u32]])),
        ("echo_uint64", json!([[0, u64::MAX]])),
        ("echo_bool", json!([[true, false], [false, false]])),
        ("echo_string", json!([["", "Grüße, \"世界\"\n"], ["a", "b"]])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_element_type_goes_through_unchanged() {
    for (model, rows) in of_every_element_type() {
        // f32 in JSON: compare as the numbers that were sent.
        if model == "echo_float32" {
            let app = TestApp::with(Repository::of(model).config()).await;
            let answer = app.predict("/predict", json!({ "instances": rows }).to_string()).await;
            let as_f32 = |value: Value| serde_json::from_value::<Vec<Vec<f32>>>(value).unwrap();
            assert_eq!(as_f32(answer.predictions()), as_f32(rows));
        } else {
            check(model, rows.clone(), rows).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_goes_through_unchanged() {
    check("echo_scalar", json!([1.5, -2.0]), json!([1.5, -2.0])).await;
    let image = json!([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]], [[[7.0, 8.0, 9.0], [0.0, 1.0, 2.0]]]]);
    check("echo_image", image.clone(), image).await;
    check("echo_sequence", json!([[1, 2, 3], [4, 5, 6]]), json!([[1, 2, 3], [4, 5, 6]])).await;
}

/// Numbers that the narrow type does not have become the nearest one.
#[tokio::test(flavor = "multi_thread")]
async fn narrow_types_are_answered_as_wider_ones() {
    check("echo_float8", json!([[1.5, -448.0], [0.001953125, 1.06]]), json!([[1.5, -448.0], [0.001953125, 1.0]])).await;
    check("echo_int4", json!([[-8, 7], [0, 3], [14, -100]]), json!([[-8, 7], [0, 3], [7, -8]])).await;
    check("echo_uint4", json!([[0, 15], [16, 255]]), json!([[0, 15], [15, 15]])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sequences_of_tensors_are_arrays_of_their_items() {
    let items = json!([[1.0, 2.5], [[3.0], [4.0]], 5.0, [[], []]]);
    check_whole("echo_list", json!([{ "x": items }]), json!([{ "y": items, "length": 4 }])).await;
}

/// Brackets that end the server's stack, and tensors that take far more memory than their text.
#[tokio::test(flavor = "multi_thread")]
async fn sequences_are_bounded_in_depth_and_number() {
    let model_toml = format!("{PLAIN}rows = \"none\"\n");
    let app = TestApp::with(Repository::new().with("a", 1, "echo_list", &model_toml).config()).await;
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let many = vec!["0"; 100_000].join(",");
    for (items, problem) in [
        (nested(1_000_000), "instances[0][0]: found a tensor of more than 16 dimensions"),
        (many, "the request has more than 65536 tensors in sequences"),
        (String::new(), "instances[0]: found an empty array, but ONNX Runtime takes no sequence without tensors"),
    ] {
        let answer = app.predict("/predict", format!(r#"{{"instances": [[{items}]]}}"#)).await;
        assert_eq!(answer.status, 400, "{problem}: {}", answer.text.chars().take(300).collect::<String>());
        assert!(answer.text.contains(problem), "{problem}: {}", answer.text);
    }
    let deepest = app.predict("/predict", format!(r#"{{"instances": [[{}]]}}"#, nested(16))).await;
    assert_eq!(deepest.predictions()[0]["length"], 1);
}

#[test]
fn a_model_with_sequences_is_not_added_for_a_process_of_its_own() {
    let repository = Repository::new();
    let folder = repository.path().join("a");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), format!("{PLAIN}rows = \"none\"\nisolation = \"process\"\n")).unwrap();
    let onnx = checkout().join("tests/data/models/echo_list.onnx");
    let (code, said) = run(leeway(&["add"]).arg(&folder).args(["--onnx", onnx.to_str().unwrap()]));
    assert!(
        code == 1 && said.contains("is a sequence of tensors, which only the server's own process can run"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_inputs_is_asked_with_an_empty_instance() {
    check_whole("no_inputs", json!([{}]), json!([[1.0, 1.0]])).await;
}

/// The model has one output for all rows of a run, so each instance has to be a run.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_without_rows_belongs_to_its_instance() {
    let model_toml = format!("{PLAIN}[model.outputs.y]\nrows = \"none\"\n");
    let app = TestApp::with(Repository::new().with("sum", 1, "not_per_row", &model_toml).config()).await;
    let answer = app.predict("/predict", json!({ "instances": [[1.0, 2.0], [10.0, 20.0]] }).to_string()).await;
    assert_eq!(answer.predictions(), json!([3.0, 30.0]));
}

/// Checks the answer to one whole call of a model.
async fn check_whole(model: &str, instances: Value, expected: Value) {
    let model_toml = format!("{PLAIN}rows = \"none\"\n");
    let app = TestApp::with(Repository::new().with(model, 1, model, &model_toml).config()).await;
    let answer = app.predict("/predict", json!({ "instances": instances }).to_string()).await;
    assert_eq!(answer.predictions(), expected, "{model}");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_inputs_and_outputs_go_by_name() {
    check(
        "two_inputs",
        json!([{ "x": [1.0, 2.0], "count": [3] }, { "count": [10], "x": [0.5, -1.0] }]),
        json!([{ "scaled": [3.0, 6.0], "seen": [3] }, { "scaled": [5.0, -10.0], "seen": [10] }]),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_batch_dimension_is_run_in_its_own_steps() {
    check("echo_fixed_batch", json!([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), json!([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
        .await;
    let eight: Vec<_> = (0..8).map(|i| json!([i as f32, 0.0])).collect();
    check("echo_batch_of_4", json!(eight), json!(eight)).await;

    let app = TestApp::with(Repository::of("echo_batch_of_4").config()).await;
    let answer = app.predict("/predict", json!({ "instances": eight[..3] }).to_string()).await;
    assert_eq!(answer.status, 400);
    assert!(answer.json()["detail"].as_str().unwrap().contains("multiple of 4"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_above_the_batch_limit_is_run_in_parts() {
    let small = format!("{}max_batch_size = 8\n", crate::harness::PLAIN);
    let repository = Repository::new().with("echo", 1, "echo_float64", &small);
    let app = TestApp::with(repository.config()).await;
    let rows: Vec<_> = (0..50).map(|i| json!([f64::from(i), 0.5])).collect();
    let answer = app.predict("/predict", json!({ "instances": rows }).to_string()).await;
    assert_eq!(answer.predictions(), json!(rows));
    assert_eq!(app.metric("leeway_batch_size_count{model=\"echo\",version=\"1\"}").await, 7.0);
    assert_eq!(app.metric("leeway_batch_size_sum{model=\"echo\",version=\"1\"}").await, 50.0);
}

/// Sequences of different lengths cannot share a run, but are answered.
#[tokio::test(flavor = "multi_thread")]
async fn requests_of_different_shapes_at_once_are_all_answered() {
    let app = std::sync::Arc::new(TestApp::with(Repository::of("echo_sequence").config()).await);
    let requests = (0..200usize).map(|i| {
        let app = std::sync::Arc::clone(&app);
        tokio::spawn(async move {
            let row: Vec<usize> = (0..1 + i % 5).collect();
            let answer = app.predict("/predict", json!({ "instances": [row] }).to_string()).await;
            assert_eq!(answer.predictions(), json!([row]));
        })
    });
    for request in requests.collect::<Vec<_>>() {
        request.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_non_finite_output_is_an_error_that_names_the_instance() {
    let app = TestApp::with(Repository::of("log").config()).await;
    let answer = app.predict("/predict", r#"{"instances": [[1, 2], [1, -1]]}"#).await;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.json()["type"], "urn:leeway:problem:non-finite-output");
    assert_eq!(answer.json()["detail"], "the model's output \"y\" is not a finite number for instances[1]");
    assert_eq!(app.predict("/predict", r#"{"instances": [[1, 1]]}"#).await.predictions(), json!([[0.0, 0.0]]));
}

/// The logarithm of 0 is -inf, and that of -1 NaN.
#[tokio::test(flavor = "multi_thread")]
async fn a_non_finite_output_is_null_if_the_model_may_have_some() {
    let toml = PLAIN.replace("[postprocess]\n", "[postprocess]\nnon_finite = \"null\"\n");
    let app = TestApp::with(Repository::new().with("log", 1, "log", &toml).config()).await;
    let answer = app.predict("/predict", r#"{"instances": [[1, 0], [-1, 1], [0, -1]]}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.predictions(), json!([[0.0, null], [null, 0.0], [null, null]]));
    let wrong = Repository::new().with("log", 1, "log", &toml.replace("\"null\"", "\"nan\""));
    let (code, said) = run(&mut leeway(&["check", "--models", wrong.0.path().to_str().unwrap()]));
    assert!(code != 0 && said.contains("non_finite") && said.contains("\"nan\" is not one of error, null"), "{said}");
}

/// The strings of the JSON form of Protocol Buffers, in both directions.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_are_not_finite_can_be_text() {
    let toml = PLAIN.replace("[postprocess]\n", "[postprocess]\nnon_finite = \"text\"\n");
    let app = TestApp::with(Repository::new().with("log", 1, "log", &toml).config()).await;
    let answer = app.predict("/predict", r#"{"instances": [[1, 0], [-1, 1], [0, 1e999]]}"#).await;
    assert_eq!(answer.status, 400, "{}", answer.text);
    let answer = app.predict("/predict", r#"{"instances": [[1, 0], [-1, 1]]}"#).await;
    assert_eq!(answer.predictions(), json!([[0.0, "-Infinity"], ["NaN", 0.0]]));
    assert_eq!(app.predict("/predict", r#"{"instances": [[1, "NaN"]]}"#).await.status, 400);

    let toml = toml.replace("[preprocess]\n", "[preprocess]\nnon_finite = \"text\"\n");
    for model in ["echo_float32", "echo_float64", "echo_float16", "echo_bfloat16"] {
        let app = TestApp::with(Repository::new().with(model, 1, model, &toml).config()).await;
        let rows = json!([["NaN", 0.5], ["Infinity", "-Infinity"], [-1.0, 2.0]]);
        let answer = app.predict("/predict", json!({ "instances": rows }).to_string()).await;
        assert_eq!((answer.status, answer.predictions()), (200, rows), "{model}");
        let wrong = app.predict("/predict", r#"{"instances": [["nan", 1]]}"#).await;
        let detail = wrong.json()["detail"].clone();
        let expected =
            "instances[0][0]: found the string \"nan\", expected a number, or \"NaN\", \"Infinity\" or \"-Infinity\"";
        assert!(detail.as_str().unwrap().starts_with(expected), "{detail}");
    }
}
