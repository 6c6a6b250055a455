//! Comparisons of two versions by their true outcomes, over HTTP and on the command line.

use serde_json::{Value, json};

use crate::harness::{Repository, Server, TestApp, checkout, held_out, leeway, run};

/// The digits: version 2, versions 3 and 4 with the same model.
fn digits() -> Repository {
    let repository = Repository::new().with_shipped("digits", &[2]);
    for version in [3, 4] {
        repository.add_file("digits", version, &checkout().join("models/digits/2/model.onnx"));
    }
    let path = repository.path().join("digits/model.toml");
    let text = std::fs::read_to_string(path).unwrap().replace("total_ms = 200", "total_ms = 60000");
    let business = "[monitoring.business]\nrevenue = \"sum\"\nbought = \"rate\"\n";
    repository.with_config("digits", &format!("{text}\n{business}"))
}

/// Asks a version about 140 digits some times, and reports the truths and what each prediction was worth. Of the truths,
/// one in `wrong_every` is another digit.
async fn ask(app: &TestApp, version: u32, (rounds, wrong_every): (usize, usize), worth: f64) {
    let held_out = held_out("digits");
    let [instances, digits] = ["instances", "digits"].map(|name| &held_out[name].as_array().unwrap()[..140]);
    let body = json!({ "instances": instances }).to_string();
    for round in 0..rounds {
        let answer = app.predict(&format!("/v1/models/digits/versions/{version}:predict"), body.clone()).await.json();
        let ids = answer["prediction_ids"].as_array().unwrap();
        let item = |(index, (id, digit)): (usize, (&Value, &Value))| {
            // Values that differ among themselves.
            let amount = worth * (1.0 + ((index + round) % 5) as f64 / 5.0);
            let metrics = json!({ "revenue": amount, "bought": index % 2 == 0 });
            let other = (digit.as_u64().unwrap() + 1) % 10;
            let label = if index % wrong_every == 0 { json!(other) } else { digit.clone() };
            json!({ "prediction_id": id, "label": label, "metrics": metrics })
        };
        let feedback: Vec<Value> = ids.iter().zip(digits).enumerate().map(item).collect();
        let taken = app.predict("/feedback", json!({ "feedback": feedback }).to_string()).await;
        assert_eq!(taken.status, 200, "{}", taken.text);
    }
}

async fn compare(app: &TestApp, query: &str) -> Value {
    let answer = app.admin_get(&format!("/admin/v1/models/digits/compare?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

fn measure<'a>(comparison: &'a Value, name: &str) -> &'a Value {
    let measures = comparison["measures"].as_array().unwrap();
    measures.iter().find(|measure| measure["name"] == name).unwrap_or_else(|| panic!("no {name} in {comparison}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worse_version_is_found_and_an_equal_one_is_not_called_worse() {
    let repository = digits();
    let mut config = repository.config();
    config.repository.newest_versions = 3;
    let app = TestApp::with(config).await;
    ask(&app, 2, (3, 20), 1.0).await;
    ask(&app, 3, (3, 20), 1.0).await;
    ask(&app, 4, (3, 3), 2.0).await;

    let equal = compare(&app, "one=2&other=3").await;
    assert_eq!((&equal["one"]["requests"]["ok"], &equal["other"]["requests"]["ok"]), (&json!(3), &json!(3)));
    let labels = 3 * 140;
    for (name, of) in [("errors", 3), ("accuracy", labels), ("confidence", labels), ("latency_p99", 3)] {
        let found = measure(&equal, name);
        assert_eq!((&found["finding"], &found["other"]["of"]), (&json!("undecided"), &json!(of)), "{found}");
    }
    for name in ["business.revenue", "business.bought"] {
        let found = measure(&equal, name);
        assert_eq!(
            (&found["finding"], &found["difference"]["difference"]),
            (&json!("undecided"), &json!(0.0)),
            "{found}"
        );
    }

    let worse = compare(&app, "one=2&other=4").await;
    let accuracy = measure(&worse, "accuracy");
    assert_eq!((&accuracy["finding"], &accuracy["difference"]["more"]), (&json!("worse"), &json!(0)), "{accuracy}");
    let [difference, lower, upper, p_value] =
        ["difference", "lower", "upper", "p_value"].map(|name| accuracy["difference"][name].as_f64().unwrap());
    assert!(lower < difference && difference < upper && upper < 0.0 && p_value < 0.001, "{accuracy}");
    assert!(accuracy["explanation"].as_str().unwrap().starts_with("Version 4 is worse: -"), "{accuracy}");
    let revenue = measure(&worse, "business.revenue");
    assert_eq!(revenue["finding"], "higher", "{revenue}");
    let better = compare(&app, "one=4&other=2").await;
    assert_eq!(measure(&better, "accuracy")["finding"], "better");

    // The amounts of a later statement replace the earlier ones.
    let body = json!({ "instances": [held_out("digits")["instances"][0]] }).to_string();
    let answer = app.predict("/v1/models/digits/versions/2:predict", body).await;
    let id = &answer.json()["prediction_ids"][0];
    let before = measure(&compare(&app, "one=2&other=3").await, "business.revenue")["one"]["value"].as_f64().unwrap();
    for amount in [1_000_000.0, before] {
        let feedback = json!({ "feedback": [{ "prediction_id": id, "metrics": { "revenue": amount } }] });
        assert_eq!(app.predict("/feedback", feedback.to_string()).await.status, 200);
    }
    let corrected = compare(&app, "one=2&other=3").await;
    let revenue = measure(&corrected, "business.revenue");
    assert!((revenue["one"]["value"].as_f64().unwrap() - before).abs() < 1e-6, "{revenue}");
    assert!(revenue["difference"]["upper"].as_f64().unwrap() < 1.0, "{revenue}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_compared_is_told() {
    let repository = digits();
    let mut config = repository.config();
    config.repository.newest_versions = 2;
    let app = TestApp::with(config).await;
    let empty = compare(&app, "one=3&other=4").await;
    assert_eq!(measure(&empty, "errors")["explanation"], "There are no requests of either version yet.");
    ask(&app, 3, (1, 20), 1.0).await;
    let half = compare(&app, "one=3&other=4").await;
    let accuracy = measure(&half, "accuracy");
    assert_eq!((&accuracy["finding"], accuracy.get("difference")), (&json!("no_data"), None));
    assert_eq!(accuracy["explanation"], "There are no labels of version 4 yet.");
    for (model, query, status, says) in [
        ("digits", "one=3&other=3", 400, "found version 3 twice, expected two versions"),
        ("digits", "one=2&other=3", 400, "version 2 of model digits is not loaded"),
        ("digits", "one=3&other=9", 404, "has no version"),
        ("digits", "one=3", 400, "missing field `other`"),
        ("digits", "one=3&other=4&window=1", 400, "unknown field `window`"),
        ("digitz", "one=3&other=4", 404, "there is no model"),
    ] {
        let refused = app.admin_get(&format!("/admin/v1/models/{model}/compare?{query}")).await;
        assert!(refused.status == status && refused.text.contains(says), "{}: {}", refused.status, refused.text);
    }
}

#[test]
fn the_command_shows_a_table_and_sentences() {
    let repository = digits();
    let server = Server::start(
        repository.path(),
        &[("LEEWAY_STATE__URL", "memory"), ("LEEWAY_REPOSITORY__NEWEST_VERSIONS", "3")],
    );
    let ask = |arguments: &[&str]| run(leeway(arguments).env("LEEWAY_ADMIN__LISTEN", server.admin.to_string()));
    let (code, text) = ask(&["compare", "digits", "2", "4"]);
    assert_eq!(code, 0, "{text}");
    for says in [
        "digits: version 4 compared with version 2",
        "requests to version 2: none",
        "too little data",
        "errors: There are no requests of either version yet.",
        "however often you look",
    ] {
        assert!(text.contains(says), "{text}");
    }
    let (code, text) = ask(&["compare", "digits", "2", "4", "--json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["one"]["version"], &json["other"]["version"]), (0, &json!(2), &json!(4)));
    let (code, text) = ask(&["compare", "digits", "2", "2"]);
    assert!(code == 1 && text.contains("expected two versions"), "{text}");
}
