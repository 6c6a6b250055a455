//! `leeway predict`: the predictions for a file are those of the server, in the order of the rows.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{Repository, Server, checkout, client, held_out, is_same, leeway, run};

const COLUMNS: [&str; 6] = ["island", "bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "sex"];

/// A server with the penguins, and much time for requests, because a test machine may be busy.
struct Penguins {
    repository: Repository,
    server: Server,
}

impl Penguins {
    fn start() -> Penguins {
        let repository = Repository::new().with_shipped("penguins", &[1, 2]);
        let file = repository.path().join("penguins/model.toml");
        let settings = std::fs::read_to_string(&file).unwrap().replace("total_ms = 200", "total_ms = 60000");
        std::fs::write(&file, settings).unwrap();
        let server = Server::start(repository.path(), &[]);
        Penguins { repository, server }
    }

    fn url(&self) -> String {
        self.server.url("")
    }

    /// Writes a file beside the models.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.repository.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Returns the predictions of the server for instances.
    async fn predictions(&self, version: u32, instances: &[Value]) -> Vec<Value> {
        let url = self.server.url(&format!("/v1/models/penguins/versions/{version}:predict"));
        let mut all = Vec::new();
        for some in instances.chunks(500) {
            let answer = client().post(&url).json(&json!({ "instances": some })).send().await.unwrap();
            let answer: Value = answer.json().await.unwrap();
            all.extend(answer["predictions"].as_array().unwrap().iter().cloned());
        }
        all
    }
}

/// Some thousand penguins, some of them with missing values.
fn penguins() -> Vec<Value> {
    let text = std::fs::read_to_string(checkout().join("tests/data/penguins_held_out.json")).unwrap();
    let held_out: Value = serde_json::from_str(&text).unwrap();
    let instances = held_out["instances"].as_array().unwrap();
    instances.iter().cycle().take(3_000).cloned().collect()
}

/// Returns rows as text with a header, and with a column that is not the model's.
fn delimited(instances: &[Value], delimiter: &str) -> String {
    let mut text = format!("{}{delimiter}id\n", COLUMNS.join(delimiter));
    for (id, instance) in instances.iter().enumerate() {
        let cell = |name: &&str| match &instance[*name] {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let cells: Vec<String> = COLUMNS.iter().map(cell).collect();
        text.push_str(&format!("{}{delimiter}{id}\n", cells.join(delimiter)));
    }
    text
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn same(found: &[Value], expected: &[Value]) {
    assert_eq!(found.len(), expected.len());
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(is_same(found, expected, 1e-5), "row {row}: {found} {expected}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_predictions_for_a_table_are_those_of_the_server() {
    let (app, rows) = (Penguins::start(), penguins());
    let expected = app.predictions(2, &rows).await;
    let url = app.url();
    let csv = app.file("rows.csv", delimited(&rows, ","));
    let semicolons = app.file("semicolons.csv", delimited(&rows, ";"));
    let packed = app.file("rows.tsv.gz", gzip(delimited(&rows, "\t").as_bytes()));
    let instances: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let json_lines = app.file("rows.jsonl", instances);
    let request = app.file("rows.json", json!({ "instances": rows }).to_string());
    let out = app.repository.path().join("out.jsonl");
    for file in [&csv, &semicolons, &packed, &json_lines, &request] {
        let arguments =
            ["predict", "penguins", file.to_str().unwrap(), "--server", &url, "--output", out.to_str().unwrap()];
        let (code, said) = run(&mut leeway(&arguments));
        assert!(code == 0 && said.contains("3000 rows in") && !said.contains("refused"), "{file:?}: {said}");
        same(&lines(&out), &expected);
    }

    // One version, in this process, from standard input.
    let models = app.repository.path().to_str().unwrap();
    for (version, expected) in [("1", app.predictions(1, &rows).await), ("2", expected)] {
        let mut command = leeway(&["predict", "penguins", "--models", models, "--version", version]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let text = delimited(&rows, ";");
        std::thread::spawn(move || stdin.write_all(text.as_bytes()).unwrap());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let found: Vec<Value> =
            String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        same(&found, &expected);
    }
}

#[test]
fn files_in_columns_are_read_like_text() {
    let app = Penguins::start();
    let formats = checkout().join("tests/data/formats");
    let predicted = |name: &str| {
        let file = formats.join(name);
        let arguments = ["predict", "penguins", file.to_str().unwrap(), "--server", &app.url(), "--columns", "label"];
        let (code, said) = run(&mut leeway(&arguments));
        assert_eq!(code, 0, "{name}: {said}");
        said.lines().filter(|line| !line.contains(" rows in ")).map(str::to_owned).collect::<Vec<String>>()
    };
    let expected = predicted("penguins.csv");
    assert_eq!((&*expected[0], expected.len()), ("label", 61));
    for name in ["pandas_snappy.parquet", "polars_zstd.parquet", "pandas_lz4.feather", "pyarrow_stream.arrows"] {
        assert_eq!(predicted(name), expected, "{name}");
    }
}

#[test]
fn columns_without_names_are_taken_in_their_order() {
    let repository = Repository::new().with_shipped("digits", &[1]);
    let instances = held_out("digits")["instances"].as_array().unwrap()[..50].to_vec();
    let header: Vec<String> = (0..64).map(|pixel| format!("p{pixel}")).collect();
    let mut csv = format!("{},digit\n", header.join(","));
    for instance in &instances {
        let row: Vec<String> = instance.as_array().unwrap().iter().map(Value::to_string).collect();
        csv.push_str(&format!("{},7\n", row.join(",")));
    }
    let file = repository.path().join("rows.csv");
    std::fs::write(&file, csv).unwrap();
    let (file, models) = (file.to_str().unwrap(), repository.path().to_str().unwrap());
    let predict = |more: &[&str]| run(&mut leeway(&[&["predict", "digits", file, "--models", models], more].concat()));
    let (code, said) = predict(&["--ignore-column", "digit", "--format", "csv"]);
    let expected = &held_out("digits")["versions"]["1"]["labels"];
    assert_eq!(code, 0, "{said}");
    for (row, line) in said.lines().filter(|line| !line.contains(" rows in ")).skip(1).enumerate() {
        assert!(line.starts_with(&format!("{},", expected[row])), "{row}: {line}");
    }
    let (code, said) = predict(&[]);
    assert!(code == 1 && said.contains("65 columns, expected 64") && said.contains("--ignore-column"), "{said}");
}

#[test]
fn refused_rows_are_named_by_their_line() {
    let app = Penguins::start();
    let mut text = delimited(&penguins()[..300], ",");
    let bad = text.lines().count() + 1;
    text.push_str("Dream,long,18,190,3900,male,x\n");
    text.push_str(delimited(&penguins()[..100], ",").split_once('\n').unwrap().1);
    text.push_str("Dream,39,18\n");
    let file = app.file("rows.csv", text);
    let (file, url) = (file.to_str().unwrap(), app.url());
    let out = app.repository.path().join("out.csv");
    let arguments = ["predict", "penguins", file, "--server", &url, "--output", out.to_str().unwrap()];
    let (code, said) = run(&mut leeway(&arguments));
    let named = format!("line {bad}: bill_length_mm: found the string \"long\", expected a number");
    assert!(code == 1 && said.contains(&named) && said.contains("--keep-going"), "{code}: {said}");
    assert_eq!(std::fs::read_to_string(&out).unwrap().lines().count(), bad - 1);

    let (code, said) = run(&mut leeway(&[&arguments[..], &["--keep-going"]].concat()));
    assert!(code == 3 && said.contains(&named) && said.contains("402 rows in") && said.contains("2 refused"), "{said}");
    let written = std::fs::read_to_string(&out).unwrap();
    let written: Vec<&str> = written.lines().collect();
    assert_eq!((written.len(), written[0]), (403, "label,confidence,error"));
    assert!(written[bad - 1].starts_with(&format!(",,\"line {bad}: ")), "{}", written[bad - 1]);
    assert!(written[402].contains("it has 3 fields, but the header has 7"), "{}", written[402]);
}

#[test]
fn mistakes_say_what_to_change() {
    let app = Penguins::start();
    let (url, models) = (app.url(), app.repository.path().to_str().unwrap());
    let table = app.file("table.csv", "a,b\n1,2\n");
    let nothing = app.file("nothing.jsonl", "");
    let array = checkout().join("tests/data/formats/float32.npy");
    let check = |arguments: &[&str], code: i32, says: &str| {
        let (found, said) = run(&mut leeway(&[&["predict"], arguments].concat()));
        assert!(found == code && said.contains(says), "{arguments:?}: {found} {said}");
    };
    let (table, nothing, array) = (table.to_str().unwrap(), nothing.to_str().unwrap(), array.to_str().unwrap());
    check(&["penguins", table, "--server", &url], 1, "none of the model's columns (bill_depth_mm, bill_length_mm");
    check(&["penguins", nothing, "--server", &url], 0, "0 rows in");
    check(&["penguins", "nowhere.csv", "--server", &url], 1, "nowhere.csv: there is no such file");
    check(&["penguins", array, "--server", &url], 1, "save the rows as Parquet, CSV or JSON lines");
    check(&["penguin", table, "--server", &url], 1, "there is no model \"penguin\"");
    check(&["penguins", table, "--server", &url, "--version", "9"], 1, "no such version loaded; loaded: 2");
    check(&["penguins", table, "--server", "127.0.0.1:1"], 1, "no server answers at 127.0.0.1:1");
    check(&["penguins", table, "--server", "ftp://a"], 2, "which has another scheme");
    check(&["penguin", table, "--models", models], 1, "there is no model penguin; models: penguins");
    check(&["penguins", table, "--models", models, "--version", "9"], 1, "no version 9; versions: 1, 2");
    check(&["penguins", table, "--models", models, "--server", &url], 2, "cannot be used with");
    let rows = app.file("rows.csv", delimited(&penguins()[..3], ","));
    let rows = rows.to_str().unwrap();
    let wanted = "have no part \"lable\" for --columns; they have: label, confidence";
    check(&["penguins", rows, "--server", &url, "--columns", "lable"], 1, wanted);
    check(&["penguins", rows, "--server", &url, "--output", rows], 1, "is the file with the rows");
    assert_eq!(std::fs::read_to_string(rows).unwrap(), delimited(&penguins()[..3], ","));
    check(&["penguins", rows, "--server", &url, "--output", "nowhere/a.csv"], 1, "nowhere/a.csv cannot be written");
}
