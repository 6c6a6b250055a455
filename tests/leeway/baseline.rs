//! Baselines: made from training data by the program, stored with the version, and monitored by the server.

use std::io::Write as _;

use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, Server, TestApp, leeway, run};

/// Writes training data and makes a baseline from them for version 1 of a model.
fn make(repository: &Repository, model: &str, file: &str, data: impl AsRef<[u8]>, more: &[&str]) -> (i32, String) {
    let data_file = repository.0.path().join(file);
    std::fs::write(&data_file, data).unwrap();
    let models = repository.0.path().to_str().unwrap();
    let arguments = ["baseline", model, "1", "--models", models, "--data", data_file.to_str().unwrap()];
    run(&mut leeway(&[&arguments, more].concat()))
}

fn read(repository: &Repository, model: &str) -> Value {
    let file = repository.0.path().join(model).join("1/baseline.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Returns the counts of a feature, or of a part of the predictions.
fn counts(baseline: &Value, side: &str, name: &str) -> Value {
    let features = baseline[side].as_array().unwrap();
    let found = features.iter().find(|feature| feature["name"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {baseline}"))["counts"].clone()
}

/// A table whose columns are separate inputs: they are read by name, in any order, among other columns.
#[test]
fn the_columns_of_a_table_are_found_by_their_names() {
    let repository = Repository::new().with("table", 1, "table", PLAIN);
    let mut csv = "id,country,age\n".to_owned();
    (0..40).for_each(|row| csv.push_str(&format!("{row},{},{}\n", ["NL", "12"][row % 2], row / 10)));
    let (code, said) = make(&repository, "table", "train.csv", &csv, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Its baseline has 40 rows; features: all 2; predictions: value."), "{said}");
    let from_csv = read(&repository, "table");
    // A text is a text even if it looks like a number.
    assert_eq!(counts(&from_csv, "features", "country"), json!([20, 20]));
    assert_eq!(
        counts(&from_csv, "features", "age").as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>(),
        40
    );
    assert_eq!(
        counts(&from_csv, "predictions", "value").as_array().unwrap().iter().filter_map(Value::as_u64).sum::<u64>(),
        40
    );

    // The same data as JSON lines, with the members in another order.
    let line = |row: usize| format!("{{\"age\": [{}], \"country\": [\"{}\"]}}\n", row / 10, ["NL", "12"][row % 2]);
    let (code, said) = make(&repository, "table", "train.jsonl", (0..40).map(line).collect::<String>(), &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(read(&repository, "table"), from_csv);
    let verify = run(&mut leeway(&["verify", "--models", repository.0.path().to_str().unwrap()]));
    assert_eq!(verify.0, 0, "{}", verify.1);
}

#[test]
fn a_row_is_an_array_of_the_columns_where_that_is_what_the_model_takes() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let (code, said) =
        make(&repository, "plus", "train.CSV", "a,label,b\n1,x,2\n3,y,4\n", &["--ignore-column", "label"]);
    assert_eq!(code, 0, "{said}");
    let baseline = read(&repository, "plus");
    let features: Vec<&Value> =
        baseline["features"].as_array().unwrap().iter().map(|feature| &feature["name"]).collect();
    assert_eq!((&baseline["rows"], features), (&json!(2), vec![&json!("x[0]"), &json!("x[1]")]));
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The same rows in the dialects of spreadsheets and data frames give the same baseline.
#[test]
fn training_data_are_read_in_the_forms_that_tools_write() {
    let expected = {
        let repository = Repository::new().with("table", 1, "table", PLAIN);
        let (code, said) = make(&repository, "table", "train.csv", "id,country,age\n1,NL,30\n2,\"a,b;c\",40\n", &[]);
        assert_eq!(code, 0, "{said}");
        read(&repository, "table")
    };
    let commas = "id,country,age\n1,NL,30\n2,\"a,b;c\",40\n";
    let semicolons = "id;country;age\n1;NL;30\n2;\"a,b;c\";40\n";
    let tabs = "id\tcountry\tage\n1\tNL\t30\n2\ta,b;c\t40\n";
    let lines = "{\"age\": [30], \"country\": [\"NL\"]}\n{\"age\": [40], \"country\": [\"a,b;c\"]}\n";
    // Members of a gzip file follow each other without a mark.
    let (first, second) = commas.split_at(20);
    let two_members = [gzip(first.as_bytes()), gzip(second.as_bytes())].concat();
    let mark = |text: &str| format!("\u{feff}{text}").into_bytes();
    for (file, data, more) in [
        ("train.csv", semicolons.into(), &[][..]),
        ("train.csv", tabs.into(), &[]),
        ("train.tsv", tabs.into(), &[]),
        ("train.csv", mark(commas), &[]),
        ("train.csv", mark(&semicolons.replace('\n', "\r\n")), &[]),
        ("train.csv.gz", gzip(commas.as_bytes()), &[]),
        ("train.csv.gz", two_members, &[]),
        ("train.TSV.GZ", gzip(tabs.as_bytes()), &[]),
        ("train.jsonl.gz", gzip(&mark(lines)), &[]),
        ("train.jsonl", mark(lines), &[]),
        // Some tools unpack a download and keep its name, or leave it packed.
        ("train.csv.gz", commas.into(), &[]),
        ("train.csv", gzip(commas.as_bytes()), &[]),
        // Quoted names may contain other separators.
        ("train.csv", "id;\"x,y\";country;age\n1;0;NL;30\n2;0;\"a,b;c\";40\n".into(), &[]),
        ("train.csv", "id;x,y;country;age\n1;0;NL;30\n2;0;\"a,b;c\";40\n".into(), &["--delimiter", ";"]),
        ("train.csv", "x;y\tcountry\tage\n1\tNL\t30\n2\ta,b;c\t40\n".into(), &["--delimiter", "tab"]),
        ("train.txt", "id|country|age\n1|NL|30\n2|a,b;c|40\n".into(), &["--delimiter", "|"]),
    ] {
        let repository = Repository::new().with("table", 1, "table", PLAIN);
        let (code, said) = make(&repository, "table", file, &data, more);
        assert_eq!(code, 0, "{file} {more:?}: {said}");
        assert_eq!(read(&repository, "table"), expected, "{file} {more:?}");
    }
}

/// A file that cannot be read as rows is named, with what to do.
#[test]
fn training_data_in_other_forms_are_named() {
    let cut_off = {
        let whole = gzip("age,country\n1,NL\n2,NL\n".as_bytes());
        whole[..whole.len() - 12].to_vec()
    };
    let utf_16: Vec<u8> = "\u{feff}age,country\n1,NL\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (file, data, more, problem) in [
        ("a.csv", b"age,country;x\n1,NL;2\n".to_vec(), &[][..], "a.csv: the header has \",\" and \";\""),
        ("a.csv", b"age,country;x\n1,NL;2\n".to_vec(), &[], "--delimiter"),
        ("a.csv", b"age,country\n1,NL\n".to_vec(), &["--delimiter", "; "], "not a delimiter"),
        (
            "a.parquet",
            b"PAR1\x15\x04".to_vec(),
            &["--ignore-column", "age"],
            "a.parquet: the Parquet file cannot be read",
        ),
        ("a.parquet.gz", gzip(b"PAR1\x15\x04"), &[], "a.parquet.gz: a Parquet file; unpack it first"),
        ("a.npy", b"\x93NUMPY\x01\0".to_vec(), &[], "a.npy: the header is cut off"),
        ("a.xlsx", b"PK\x03\x04\x14\0".to_vec(), &[], "a.xlsx: a zip archive; write the rows as CSV"),
        ("a.csv", b"version https://git-lfs.example/spec/v1\n".to_vec(), &[], "a.csv: a Git LFS pointer, not the file"),
        ("a.csv.gz", gzip(b"<html><body>"), &[], "a.csv.gz: an HTML page"),
        ("a.csv.gz", cut_off, &[], "a.csv.gz: "),
        ("a.csv", utf_16, &[], "a.csv: text in UTF-16; save it as UTF-8"),
    ] {
        let repository = Repository::new().with("table", 1, "table", PLAIN);
        let (code, said) = make(&repository, "table", file, &data, more);
        assert!(code != 0 && said.contains(problem), "{file} {more:?}: {said}");
        assert!(!repository.0.path().join("table/1/baseline.json").exists(), "{file}");
    }
    let repository = Repository::new().with("table", 1, "table", PLAIN);
    let models = repository.0.path().to_str().unwrap();
    let (code, said) = run(&mut leeway(&["baseline", "table", "1", "--models", models, "--data", models]));
    assert!(code != 0 && said.contains(": a folder; "), "{said}");
}

/// The order of the columns in a file may differ from that of training: a note says so, unless columns are named.
#[test]
fn the_columns_of_a_tensor_are_found_by_their_names_if_they_have_some() {
    let (forth, back) = ("a,b\n1,20\n3,40\n", "b,id,a\n20,7,1\n40,8,3\n");
    let unnamed = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let (code, said) = make(&unnamed, "plus", "train.csv", forth, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("train.csv are used as the elements of a row in the order of the file"), "{said}");
    assert!(said.contains("(a, b); set columns in [preprocess]"), "{said}");

    let named = PLAIN.replacen("\"tensor\"", "\"tensor\"\ncolumns = [\"a\", \"b\"]", 1);
    let baseline = |data: &str| {
        let repository = Repository::new().with("plus", 1, "plus_1", &named);
        let (code, said) = make(&repository, "plus", "train.csv", data, &[]);
        assert_eq!(code, 0, "{said}");
        assert!(!said.contains("in the order of the file"), "{said}");
        read(&repository, "plus")
    };
    assert_eq!(baseline(back), baseline(forth));
    // Columns are matched by their names.
    assert!(counts(&baseline(back), "features", "b").is_array());
    let repository = Repository::new().with("plus", 1, "plus_1", &named);
    let (code, said) = make(&repository, "plus", "train.csv", "a,c\n1,2\n", &[]);
    assert!(code != 0 && said.contains("there is no column \"b\", which the pipeline reads"), "{said}");
}

/// A model that takes four rows at a time, and thousands of rows: padding rows of a run are not counted.
#[test]
fn every_row_is_counted_once_whatever_the_model_takes_at_one_time() {
    let repository = Repository::of("echo_batch_of_4");
    let rows: String = (0..1_003).map(|row| format!("[{row}, 1]\n")).collect();
    let (code, said) = make(&repository, "echo_batch_of_4", "train.jsonl", &rows, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("counting: 1003 of 1003 rows"), "{said}");
    let baseline = read(&repository, "echo_batch_of_4");
    assert_eq!(baseline["rows"], 1003);
    let tenths = counts(&baseline, "features", "x[0]");
    let tenths: Vec<u64> = tenths.as_array().unwrap().iter().filter_map(Value::as_u64).collect();
    assert_eq!(tenths.iter().sum::<u64>(), 1003);
    assert!(tenths.len() == 10 && tenths.iter().all(|count| (99..=102).contains(count)), "{tenths:?}");
}

#[test]
fn training_data_that_do_not_fit_are_named_and_nothing_is_changed() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN).with("table", 1, "table", PLAIN);
    for (model, file, data, more, problem) in [
        ("plus", "a.csv", "a,b\n", &[][..], "there are no rows"),
        ("plus", "a.jsonl", "\n\n", &[], "there are no rows"),
        ("plus", "a.csv", "a,b,c\n1,2,3\n", &[], "a.csv: the pipeline does not take the first row: as an object"),
        ("plus", "a.csv", "a,b\n1,2\n1,\n", &[], "a.csv: line 3: instances[0][1]: found null"),
        ("plus", "a.csv", "a,b\n1,2\n1,2,3\n", &[], "a.csv: CSV error: record 2 (line: 3"),
        (
            "plus",
            "a.csv",
            "a,b\n1,2\n",
            &["--ignore-column", "c"],
            "there is no column \"c\" to ignore; there are: a, b",
        ),
        ("plus", "a.jsonl", "[1, 2]\n[1, \n", &[], "a.jsonl: line 2, column 4: this is not an instance as JSON: EOF"),
        (
            "plus",
            "a.jsonl",
            "[1, 2]\n",
            &["--ignore-column", "c"],
            "there is no column \"c\", because only tables have",
        ),
        ("plus", "a.jsonl", "[1, 2]\n[1, \"b\"]\n", &[], "a.jsonl: line 2: instances[0][1]: found the string"),
        ("table", "a.csv", "age,country\n1,NL\nold,NL\n", &[], "a.csv: line 3: instances[0].age[0]: found the string"),
        ("nobody", "a.jsonl", "[1, 2]\n", &[], "nobody"),
    ] {
        let (code, said) = make(&repository, model, file, data, more);
        assert!(code != 0 && said.contains(problem), "{data}: {said}");
        assert!(!repository.0.path().join(model).join("1/baseline.json").exists());
    }
    let (code, said) = run(&mut leeway(&["verify", "--models", repository.0.path().to_str().unwrap()]));
    assert_eq!(code, 0, "{said}");
}

/// The labelled rows are those of scikit-learn, with its own predictions. For these rows, the estimate is exact.
#[tokio::test(flavor = "multi_thread")]
async fn labelled_rows_give_the_accuracy_that_is_to_be_expected() {
    let repository = Repository::new().with_shipped("digits", &[1]);
    let held_out = crate::harness::held_out("digits");
    let rows: Vec<(&Value, &Value)> =
        held_out["instances"].as_array().unwrap().iter().zip(held_out["digits"].as_array().unwrap()).collect();
    let predicted = held_out["versions"]["1"]["labels"].as_array().unwrap();
    let correct = rows.iter().zip(predicted).filter(|((_, digit), predicted)| digit == predicted).count();
    let header: Vec<String> = (0..64).map(|pixel| format!("p{pixel}")).collect();
    let mut csv = format!("{},digit\n", header.join(","));
    for (pixels, digit) in &rows {
        csv.push_str(&format!("{},{digit}\n", pixels.to_string().trim_matches(['[', ']'])));
    }
    let wrong = csv.replacen(",9\n", ",nine\n", 1);
    let (code, said) = make(&repository, "digits", "wrong.csv", wrong, &["--label-column", "digit"]);
    assert!(
        code != 0 && said.contains("column \"digit\": \"nine\" is not one of the model's classes: \"0\""),
        "{said}"
    );
    let (code, said) = make(&repository, "digits", "held_out.csv", &csv, &["--label-column", "digit"]);
    let share = format!("Of 360 labelled rows, {:.1} % are predicted right.", correct as f64 / 3.6);
    assert!(code == 0 && said.contains(&share), "{said}");
    // The columns of another file are used in its order, which has to be the same.
    let swapped = repository.path().join("swapped.csv");
    std::fs::write(&swapped, csv.replacen("p0,p1", "p1,p0", 1)).unwrap();
    let more = ["--label-column", "digit", "--labelled-data", swapped.to_str().unwrap()];
    let (code, said) = make(&repository, "digits", "held_out.csv", &csv, &more);
    assert!(code != 0 && said.contains("swapped.csv: the columns are not those of "), "{said}");
    // The same rows as JSON lines.
    let line = |(pixels, digit): &(&Value, &Value)| json!({ "instance": pixels, "digit": digit }).to_string() + "\n";
    let lines: String = rows.iter().map(line).collect();
    let (code, said) = make(&repository, "digits", "held_out.jsonl", lines, &["--label-column", "digit"]);
    assert!(code == 0 && said.contains(&share) && said.contains("there are only 360 labelled rows"), "{said}");
    let labelled = read(&repository, "digits")["labelled"].clone();
    assert_eq!((&labelled["rows"], &labelled["correct"]), (&json!(360), &json!(correct)));

    let app = TestApp::with(repository.config()).await;
    let instances: Vec<&Value> = rows.iter().map(|(pixels, _)| *pixels).collect();
    for instances in instances.chunks(60) {
        let answer = app.predict("/v1/models/digits:predict", json!({ "instances": instances }).to_string()).await;
        assert_eq!(answer.status, 200);
    }
    let metric = async |name: &str| app.metric(&format!("leeway_{name}{{model=\"digits\",version=\"1\"}}")).await;
    let accuracy = correct as f64 / 360.0;
    assert!((metric("outcome_accuracy_estimate").await - accuracy).abs() < 1e-8);
    assert!((metric("baseline_accuracy").await - accuracy).abs() < 1e-12);
    let error = metric("outcome_accuracy_estimate_error").await;
    assert!(error > (accuracy * (1.0 - accuracy) / 360.0).sqrt() && error < 0.05, "{error}");
}

#[test]
fn what_was_deployed_is_not_given_a_baseline_any_more() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let models = repository.0.path();
    let state = format!("sqlite:{}", models.join("state.db").display());
    drop(Server::start(models, &[("LEEWAY_STATE__URL", &state)]));
    let data = models.join("train.jsonl");
    std::fs::write(&data, "[1, 2]\n").unwrap();
    let plus = models.join("plus");
    let arguments = ["baseline", plus.to_str().unwrap(), "1", "--data", data.to_str().unwrap()];
    let (code, said) = run(leeway(&arguments).env("LEEWAY_STATE__URL", &state));
    assert!(code != 0 && said.contains("plus 1 is or was deployed (generation 1)"), "{said}");
    // A journal in memory does not know past deployments.
    let (code, said) = run(&mut leeway(&arguments));
    assert!(code == 0 && said.contains("it is not known whether plus 1 was deployed"), "{said}");
}

#[test]
fn a_baseline_comes_from_one_place() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let file = |name: &str, content: &str| {
        let path = repository.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (own, data) = (file("baseline.json", "{}"), file("train.jsonl", "[1, 2]\n"));
    let (model, onnx) = (repository.0.path().join("plus"), repository.0.path().join("plus/1/model.onnx"));
    let add = |more: &[&str]| {
        let arguments = ["add", model.to_str().unwrap(), "--onnx", onnx.to_str().unwrap()];
        run(&mut leeway(&[&arguments, more].concat()))
    };
    let (code, said) = add(&["--file", &own, "--baseline-data", &data]);
    assert!(code != 0 && said.contains("a baseline is made from --baseline-data; give only one of the two"), "{said}");
    let (code, said) = add(&["--file", &own]);
    assert!(code != 0 && said.contains("baseline.json"), "{said}");
    let (code, said) = add(&["--baseline-data", &data]);
    assert!(code == 0 && said.contains("Its baseline has 1 rows"), "{said}");
}

/// A version with an unreadable baseline is refused like any other broken version.
#[test]
fn a_version_with_a_broken_baseline_is_refused() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    let version = repository.0.path().join("plus/1");
    for (baseline, problem) in [
        (r#"{"format": 1, "rows": 3, "features": 5}"#, "baseline.json: invalid type: integer `5`, expected a sequence"),
        (r#"{"format": 9, "rows": 3, "sampled_rows": 3, "features": [], "predictions": []}"#, "format"),
    ] {
        std::fs::write(version.join("baseline.json"), baseline).unwrap();
        leeway::repository::Manifest::write_for(&version).unwrap();
        let (code, said) = run(&mut leeway(&["check", "--models", repository.0.path().to_str().unwrap()]));
        assert!(code != 0 && said.contains("model plus version 1") && said.contains(problem), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_features_are_watched_than_are_allowed_and_texts_are() {
    let toml = format!("{PLAIN}[monitoring]\nmax_features = 1\n");
    let repository = Repository::new().with("table", 1, "table", PLAIN).with("words", 1, "echo_string", PLAIN);
    let rows: String = (0..40).map(|row| format!("{{\"age\": [{row}], \"country\": [\"NL\"]}}\n")).collect();
    let (code, said) = make(&repository, "table", "train.jsonl", &rows, &[]);
    assert_eq!(code, 0, "{said}");
    std::fs::write(repository.0.path().join("table/model.toml"), toml).unwrap();
    let words: String = (0..40).map(|row| format!("[\"a\", \"{}\"]\n", ["b", "c"][row % 2])).collect();
    let (code, said) = make(&repository, "words", "train.jsonl", &words, &[]);
    assert_eq!(code, 0, "{said}");

    let app = TestApp::with(repository.config()).await;
    let drift = async |model: &str| {
        let path = format!("/admin/v1/models/{model}/drift?version=1");
        app.admin_get(&path).await.json()["versions"][0].clone()
    };
    let table = drift("table").await;
    assert_eq!((&table["features"][0]["name"], &table["not_watched"]), (&json!("age"), &json!(["country"])));
    // A window without values has no index.
    assert_eq!((&table["features"][0]["psi"], &table["features"][0]["window_count"]), (&Value::Null, &json!(0)));

    let body = json!({ "instances": vec![["a", "new"]; 600] }).to_string();
    assert_eq!(app.predict("/v1/models/words:predict", body).await.status, 200);
    let words = drift("words").await;
    assert_eq!((&words["features"][0]["name"], &words["features"][0]["status"]), (&json!("x[1]"), &json!("drifted")));
    let other = words["features"][0]["bins"].as_array().unwrap().iter().find(|bin| bin["bin"] == "other");
    assert_eq!(other.unwrap()["window_count"], 600);
    assert_eq!(words["features"][1]["status"], "ok");
}

/// A feature that is ignored is not judged; one that does not exist is a typo, and refuses the version.
#[tokio::test(flavor = "multi_thread")]
async fn ignored_features_are_not_watched_and_have_to_exist() {
    let ignoring = |name: &str| format!("{PLAIN}[monitoring]\nignored_features = [\"{name}\"]\n");
    let repository = Repository::new().with("table", 1, "table", PLAIN);
    let rows: String = (0..40).map(|row| format!("{{\"age\": [{row}], \"country\": [\"NL\"]}}\n")).collect();
    let (code, said) = make(&repository, "table", "train.jsonl", &rows, &[]);
    assert_eq!(code, 0, "{said}");
    std::fs::write(repository.0.path().join("table/model.toml"), ignoring("age")).unwrap();
    let app = TestApp::with(repository.config()).await;
    let drift = app.admin_get("/admin/v1/models/table/drift").await.json()["versions"][0].clone();
    assert_eq!((&drift["features"][0]["name"], &drift["not_watched"]), (&json!("country"), &json!(["age"])));

    std::fs::write(repository.0.path().join("table/model.toml"), ignoring("aeg")).unwrap();
    let (code, said) = run(&mut leeway(&["check", "--models", repository.0.path().to_str().unwrap()]));
    let problem = "monitoring.ignored_features: the model has no feature \"aeg\"; its features are: age, country";
    assert!(code != 0 && said.contains(problem), "{said}");
}

/// With monitoring off, nothing is counted or shown, and little is stored.
#[tokio::test(flavor = "multi_thread")]
async fn without_monitoring_nothing_is_watched() {
    let mut config = crate::harness::config();
    config.repository.path = crate::harness::checkout().join("models").into();
    config.repository.default_model = Some("digits".parse().unwrap());
    config.monitoring.enabled = false;
    let app = TestApp::with(config).await;
    let body =
        json!({ "instances": crate::harness::held_out("digits")["instances"].as_array().unwrap()[..3] }).to_string();
    assert_eq!(app.predict("/predict", body).await.status, 200);
    let report = app.admin_get("/admin/v1/models/digits/drift?version=2").await.json();
    assert_eq!((&report["enabled"], &report["versions"][0]["features"]), (&json!(false), &json!([])));
    let text = app.get("/metrics").await.text;
    assert!(!text.contains("leeway_feature_") && !text.contains("leeway_prediction_bin"), "{text}");
    assert_eq!(app.metric("leeway_baseline_rows{model=\"digits\",version=\"2\"}").await, 1437.0);
}

/// The series of a version disappear when it is unloaded, even if it was loaded at the start.
#[test]
fn a_version_that_is_unloaded_is_not_held_by_the_process() {
    let repository = Repository::new().with("plus", 1, "plus_1", PLAIN);
    repository.add("plus", 2, "plus_2");
    let server = Server::start(repository.0.path(), &[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = crate::harness::client();
        let unload = format!("http://{}/admin/v1/models/plus/versions/1/unload", server.admin);
        let answer = client.post(unload).header("content-type", "application/json").body("{}").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        crate::harness::until(async || {
            let text = client.get(server.url("/metrics")).send().await.unwrap().text().await.unwrap();
            (!text.contains("leeway_model_info{model=\"plus\",version=\"1\"")).then_some(())
        })
        .await;
    });
}
