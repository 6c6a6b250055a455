//! Profiles by time of day: from times in the training data, and learned from the prediction log.

use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, TestApp, leeway, run};
use crate::prediction_log::{logging, penguin, penguins, stop};

/// Makes a baseline for version 1 of a model from a file with this content.
fn make(repository: &Repository, model: &str, file: &str, data: &str, more: &[&str]) -> (i32, String) {
    let data_file = repository.path().join(file);
    std::fs::write(&data_file, data).unwrap();
    let models = repository.path().to_str().unwrap();
    let arguments = ["baseline", model, "1", "--models", models, "--data", data_file.to_str().unwrap()];
    run(&mut leeway(&[&arguments, more].concat()))
}

fn profile(repository: &Repository, model: &str) -> Value {
    let file = repository.path().join(model).join("1/baseline.json");
    let baseline: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    baseline["profile"].clone()
}

/// Two ages at eight o'clock, by the day of the week: 2026-11-23 is a Monday.
fn rows() -> Vec<(String, f64)> {
    let day =
        |row: usize| (format!("2026-11-{} 08:{:02}:00", 23 + row % 7, row % 60), f64::from(u8::from(row % 7 >= 5)));
    (0..700).map(day).collect()
}

#[test]
fn a_column_of_times_gives_a_profile_and_is_no_feature() {
    let repository = Repository::new().with("table", 1, "table", PLAIN);
    let line = |(time, age): (String, f64)| format!("{time},NL,{age}\n");
    let csv = format!("when,country,age\n{},NL,1\n", "") + &rows().into_iter().map(line).collect::<String>();
    let (code, said) = make(&repository, "table", "train.csv", &csv, &["--timestamp-column", "when"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("It has a profile by time of day (UTC): 2 of 48 hours have enough rows."), "{said}");
    assert!(said.contains("Note: 1 of 701 rows have no time"), "{said}");
    assert!(said.contains("features: all 2;"), "{said}");
    let of_csv = profile(&repository, "table");
    assert_eq!(
        (&of_csv["rows"][8], &of_csv["rows"][24 + 8], &of_csv["untimed_rows"]),
        (&json!(500), &json!(200), &json!(1))
    );
    let features = of_csv["features"].as_array().unwrap();
    let age = features.iter().find(|feature| feature["name"] == "age").unwrap();
    // The bins below 0, 0, 1, above, missing and other.
    assert_eq!((&age["counts"][8], &age["counts"][32]), (&json!([0, 500, 0, 0, 0, 0]), &json!([0, 0, 200, 0, 0, 0])));

    // The same as JSON lines, with the time beside the columns, in seconds, of another zone.
    let line = |(index, (_, age)): (usize, (String, f64))| {
        let seconds = 1_795_392_000 + 86_400 * (index % 7) + 8 * 3_600;
        format!("{{\"age\": [{age}], \"country\": [\"NL\"], \"when\": {seconds}}}\n")
    };
    let lines: String = rows().into_iter().enumerate().map(line).collect();
    let zone = ["--timestamp-column", "when", "--time-zone", "+02:00"];
    let (code, said) = make(&repository, "table", "train.jsonl", &lines, &zone);
    assert_eq!(code, 0, "{said}");
    let of_lines = profile(&repository, "table");
    assert_eq!((&of_lines["rows"][10], &of_lines["time_zone"]), (&json!(500), &json!("+02:00")));
    let verify = run(&mut leeway(&["verify", "--models", repository.path().to_str().unwrap()]));
    assert_eq!(verify.0, 0, "{}", verify.1);
}

#[test]
fn times_that_cannot_be_used_are_named() {
    let repository = Repository::new().with("table", 1, "table", PLAIN);
    let times = |more: &[&'static str]| [&["--timestamp-column", "when"], more].concat();
    for (file, data, more, expected) in [
        ("a.csv", "when,country,age\n2026-11-23,NL,1\n", times(&[]), "line 2: column \"when\": expected a time"),
        ("b.csv", "country,age\nNL,1\n", times(&[]), "there is no column \"when\" with times; there are: country, age"),
        ("c.csv", "when,country,age\n,NL,1\n", times(&[]), "no row has a time in \"when\""),
        (
            "d.csv",
            "when,country,age\n,NL,1\n",
            times(&["--time-zone", "CETX"]),
            "--time-zone: found \"CETX\", expected UTC",
        ),
        ("e.jsonl", "[1]\n", times(&[]), "expected an object with the member \"when\""),
    ] {
        let (code, said) = make(&repository, "table", file, data, &more);
        assert!(code != 0 && said.contains(expected), "{file}: {said}");
    }
}

/// What was really asked becomes what is usual, for a version that is in use, until it is taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_is_learned_from_the_log_accepted_and_taken_back() {
    let this_hour = || jiff::Timestamp::now().as_second() / 3_600;
    let began = this_hour();
    let (folder, repository) = (tempfile::tempdir().unwrap(), penguins(""));
    let app = TestApp::with(logging(repository.config(), &folder)).await;
    let instances: Vec<Value> = (0..300).map(|row| penguin(Some(40.0 + f64::from(row) / 20.0))).collect();
    let asked =
        app.predict("/v1/models/penguins/versions/2:predict", json!({ "instances": instances }).to_string()).await;
    assert_eq!(asked.status, 200, "{}", asked.text);
    stop(app).await;

    let (log, models) = (folder.path().to_str().unwrap(), repository.path().to_str().unwrap());
    let learn =
        |more: &[&str]| run(&mut leeway(&[&["baseline", "learn", "penguins", "2", "--models", models], more].concat()));
    let hour = [&["--log", log, "--from", "1h..0s"][..], &["--by", "ops", "--reason", "new app"]].concat();
    let (code, said) = learn(&hour);
    assert!(code != 0 && said.contains("nothing was changed: accept the profile with --yes"), "{said}");
    for expected in
        ["penguins 2: 300 rows in the log from ", "Rows per hour (UTC):", "fewer than 100 rows", "bill_length_mm"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let (code, said) = learn(&[&hour[..], &["--yes"]].concat());
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("The profile is accepted."), "{said}");
    let (code, said) = learn(&["--log", log, "--from", "2026-01-01..2026-01-02", "--yes"]);
    assert!(code != 0 && said.contains("the log has no predictions of penguins 2 from 2026-01-01"), "{said}");

    let app = TestApp::with(repository.config()).await;
    let drift = async || app.admin_get("/admin/v1/models/penguins/drift?version=2").await.json()["versions"][0].clone();
    for part in instances.chunks(100) {
        app.predict("/v1/models/penguins/versions/2:predict", json!({ "instances": part }).to_string()).await;
    }
    let found = drift().await;
    let learned = &found["profile"]["learned"];
    assert_eq!((&learned["by"], &learned["reason"], &learned["rows"]), (&json!("ops"), &json!("new app"), &json!(300)));
    // The same requests are unlike the training data, and usual at this hour, unless the hour is another one by now.
    assert_eq!(found["status"], "drifted", "{found}");
    if began == this_hour() {
        assert_eq!(found["verdict"]["status"], "ok", "{found}");
    }

    let (code, said) = learn(&["--undo"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(app.admin_post("/admin/v1/reload", json!({})).await.status, 200);
    let found = drift().await;
    assert_eq!((&found["profile"], &found["verdict"]["status"]), (&Value::Null, &json!("warning")), "{found}");
    let (code, said) = learn(&["--undo"]);
    assert!(code != 0 && said.contains("there is no learned profile to take back"), "{said}");
    stop(app).await;
}
