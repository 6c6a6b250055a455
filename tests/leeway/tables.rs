//! Tables: every held-out penguin on both shipped versions, and patients, compared with scikit-learn; and invalid rows.

use serde_json::{Value, json};

use crate::harness::{TestApp, checkout, config, copy_folder};

async fn app() -> TestApp {
    let mut config = config();
    config.repository.path = checkout().join("models").into();
    TestApp::with(config).await
}

fn held_out() -> Value {
    let text = std::fs::read_to_string(checkout().join("tests/data/penguins_held_out.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn path(version: &str) -> String {
    format!("/v1/models/penguins/versions/{version}:predict")
}

/// Includes missing values and categories that did not occur in training.
#[tokio::test(flavor = "multi_thread")]
async fn penguins_are_what_scikit_learn_says() {
    let (app, held_out) = (app().await, held_out());
    let instances = held_out["instances"].as_array().unwrap();
    let has =
        |value: &Value| instances.iter().filter(|row| row.as_object().unwrap().values().any(|v| v == value)).count();
    assert!(has(&Value::Null) >= 40 && has(&json!("Atlantis")) >= 10);
    let classes = ["Adelie", "Chinstrap", "Gentoo"];
    for version in ["1", "2"] {
        let expected = &held_out["versions"][version];
        let check = |row: usize, prediction: &Value| {
            assert_eq!(prediction["label"], expected["labels"][row], "version {version} row {row}");
            for score in prediction["top"].as_array().unwrap() {
                let class = classes.iter().position(|class| score["label"] == *class).unwrap();
                let (ours, theirs) =
                    (score["score"].as_f64().unwrap(), expected["probabilities"][row][class].as_f64().unwrap());
                assert!((ours - theirs).abs() < 1e-5, "version {version} row {row}: {ours}, scikit-learn {theirs}");
            }
        };
        let all = app.predict(&path(version), json!({ "instances": instances }).to_string()).await.predictions();
        assert_eq!(all.as_array().unwrap().len(), instances.len());
        for (row, prediction) in all.as_array().unwrap().iter().enumerate() {
            check(row, prediction);
        }
        // A null value may also be left out.
        for (row, instance) in instances.iter().enumerate().filter(|(row, _)| row % 7 == 0 || *row >= 100) {
            let mut instance = instance.clone();
            instance.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            let alone = app.predict(&path(version), json!({ "instances": [instance] }).to_string()).await.predictions();
            check(row, &alone[0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_penguin_is_refused_with_row_and_column() {
    let app = app().await;
    let good = r#"{"island": "Dream", "bill_length_mm": 40, "bill_depth_mm": 18.5, "flipper_length_mm": 190, "body_mass_g": 3800, "sex": "male"}"#;
    let with = |column: &str, value: &str| {
        let mut row: serde_json::Map<String, Value> = serde_json::from_str(good).unwrap();
        row.remove(column);
        let rest = serde_json::to_string(&row).unwrap();
        format!("[{good}, {{\"{column}\": {value}, {}]", &rest[1..])
    };
    let cases = [
        ("a row as an array", format!(r#"[{good}, ["Dream", 40]]"#)),
        ("a row as a number", "[1]".to_owned()),
        ("a row as a string", r#"["Dream"]"#.to_owned()),
        ("null", format!("[{good}, null]")),
        ("an object in place of the array", good.to_owned()),
        ("no row", "[]".to_owned()),
        ("an empty row", format!("[{good}, {{}}]")),
        ("an unknown column", with("beak", "1")),
        ("a column in other letters", with("Island", "\"Dream\"")),
        ("a column with a long name", with(&"x".repeat(5000), "1")),
        ("a column twice", good.replacen("}", r#", "sex": "female"}"#, 1).replace('{', "[{") + "]"),
        ("a number as a string", with("bill_length_mm", "\"40\"")),
        ("an empty string for a number", with("bill_length_mm", "\"\"")),
        ("true for a number", with("bill_length_mm", "true")),
        ("an array for a number", with("bill_length_mm", "[40]")),
        ("an object for a number", with("bill_length_mm", "{}")),
        ("a number without end", with("bill_length_mm", "1e999")),
        ("a number that single precision has not", with("bill_length_mm", "1e39")),
        ("a number with many digits", with("bill_length_mm", &format!("1{}", "0".repeat(5000)))),
        ("NaN", with("bill_length_mm", "NaN")),
        ("infinity", with("bill_length_mm", "-Infinity")),
        ("hexadecimal", with("bill_length_mm", "0x10")),
        ("a number for a text", with("sex", "1")),
        ("true for a text", with("sex", "true")),
        ("an array for a text", with("sex", "[\"male\"]")),
        ("a text that is no JSON", with("sex", "male")),
        ("half a character", with("sex", r#""\ud83d""#)),
        ("a category without a stand-in left out", with("island", "null")),
        ("a column with a stand-in that is an object", with("sex", "{\"value\": \"male\"}")),
        ("a comma too many", with("sex", "\"male\",")),
        ("an end too early", with("sex", "\"male\"").replace("}]", "")),
    ];
    let mut seen = String::new();
    for (name, instances) in cases {
        let answer = app.predict(&path("2"), format!(r#"{{"instances": {instances}}}"#)).await;
        seen.push_str(&format!("{name}: {}\n    {}\n", answer.status, answer.json()["detail"].as_str().unwrap()));
    }
    insta::assert_snapshot!(seen);
    // A text of a megabyte is an unknown category.
    let long = with("sex", &format!("{:?}", "x".repeat(1 << 20)));
    assert_eq!(app.predict(&path("2"), format!(r#"{{"instances": {long}}}"#)).await.status, 200);
    let mut body = format!(r#"{{"instances": [{good}]}}"#).into_bytes();
    let place = body.windows(4).position(|window| window == b"male").unwrap();
    body[place] = 0xff;
    assert_eq!(app.predict(&path("2"), body).await.status, 400);
}

/// Ten columns become one tensor, and the standardised output becomes the original unit.
#[tokio::test(flavor = "multi_thread")]
async fn a_regressor_says_what_scikit_learn_says_in_its_unit() {
    let mut config = config();
    let repository = tempfile::tempdir().unwrap();
    let from = checkout().join("tests/data/diabetes");
    copy_folder(&from.join("1"), &repository.path().join("diabetes/1"));
    std::fs::copy(from.join("model.toml"), repository.path().join("diabetes/model.toml")).unwrap();
    config.repository.path = repository.path().into();
    let app = TestApp::with(config).await;
    let held_out: Value = serde_json::from_str(&std::fs::read_to_string(from.join("held_out.json")).unwrap()).unwrap();
    let answer = app.predict("/predict", json!({ "instances": held_out["instances"] }).to_string()).await.predictions();
    let expected = held_out["values"].as_array().unwrap();
    assert_eq!(answer.as_array().unwrap().len(), expected.len());
    for (prediction, expected) in answer.as_array().unwrap().iter().zip(expected) {
        let (ours, theirs) = (prediction["value"].as_f64().unwrap(), expected.as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-3, "{ours}, scikit-learn {theirs}");
    }
}
