//! The documentation is true: its examples run, and its tables are complete.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use leeway::config::{Config, DeploymentFile, ModelConfig};
use leeway::model::RowShape;
use leeway::monitor::metrics;
use leeway::pipeline::{StageContext, Stages};
use leeway::repository::{Golden, Manifest};
use leeway::tensor::{DType, Dim, Signature, TensorSpec};
use leeway_testkit::Postgres;
use serde_json::Value;

use crate::harness::{Repository, Server, TENSOR_STAGES, TestApp, checkout, copy_folder, held_out};

fn read(path: &str) -> String {
    std::fs::read_to_string(checkout().join(path)).unwrap()
}

/// Returns the fenced blocks that follow `<!-- marker -->`.
pub(crate) fn blocks_after(text: &str, marker: &str) -> Vec<String> {
    let marker = format!("<!-- {marker} -->");
    let block = |after: &str| {
        // Blocks within a list are indented as a whole.
        let fence = after.find("```").unwrap();
        let indent = after[..fence].rsplit('\n').next().unwrap().len();
        let lines = after[fence..].lines().skip(1).take_while(|line| !line.trim_start().starts_with("```"));
        lines.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect()
    };
    text.split(&marker).skip(1).map(block).collect()
}

/// Returns the `curl` commands of a snippet, split as by a shell.
fn curl_arguments(snippet: &str) -> Vec<Vec<String>> {
    let script = format!("curl() {{ for a; do printf '%s\\0' \"$a\"; done; printf '\\1'; }}\n{snippet}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let commands = text.split_terminator('\u{1}');
    commands.map(|command| command.split_terminator('\0').map(str::to_owned).collect()).collect()
}

/// Sends the request of a `curl` command to this server instead of the documented address.
async fn curl(app: &TestApp, arguments: &[String]) -> reqwest::Response {
    let mut arguments = arguments.iter();
    let (mut url, mut headers, mut body) = (None, Vec::new(), None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-H" => headers.push(arguments.next().unwrap().split_once(": ").unwrap()),
            "-d" => body = arguments.next().cloned(),
            other => {
                let url_here = other.replace("127.0.0.1:8080", &app.data.to_string());
                url = Some(url_here.replace("127.0.0.1:8081", &app.admin.to_string()));
            }
        }
    }
    let url = url.unwrap();
    let mut request = if body.is_some() { app.client.post(url) } else { app.client.get(url) };
    for (name, value) in headers {
        request = request.header(name, value);
    }
    // curl -d removes line breaks only when it reads data from a file.
    request.body(body.unwrap_or_default()).send().await.unwrap()
}

/// Checks an answer against the documented one. Ids are new each time, and documented scores are rounded.
fn same(documented: &Value, answered: &Value, key: &str) {
    match (documented, answered) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{key}");
            a.iter().for_each(|(key, value)| same(value, &b[key], key));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{key}");
            a.iter().zip(b).for_each(|(a, b)| same(a, b, key));
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() => {
            assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-5, "{key}: {a} is {b}");
        }
        (Value::String(a), Value::String(b)) if ["request_id", "prediction_ids"].contains(&key) => {
            assert_eq!(a.len(), b.len(), "{key}");
        }
        _ => assert_eq!(documented, answered, "{key}"),
    }
}

/// Returns true if an answer has everything that a documented one has, which may be shortened.
fn same_form(documented: &Value, answered: &Value, key: &str) {
    match (documented, answered) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{key}");
            a.iter().for_each(|(key, value)| same_form(value, &b[key], key));
        }
        (Value::Array(a), Value::Array(b)) => a.iter().zip(b).for_each(|(a, b)| same_form(a, b, key)),
        _ => assert_eq!(std::mem::discriminant(documented), std::mem::discriminant(answered), "{key}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_requests_get_the_readmes_answers() {
    let app = TestApp::start().await;
    let readme = read("README.md");
    for (name, status) in [("six", 200), ("mistake", 400)] {
        let [command] = &*curl_arguments(&blocks_after(&readme, &format!("run: {name}"))[0]) else { panic!("{name}") };
        let response = curl(&app, command).await;
        assert_eq!(response.status(), status);
        let documented: Value = serde_json::from_str(&blocks_after(&readme, &format!("answer: {name}"))[0]).unwrap();
        same(&documented, &response.json().await.unwrap(), name);
    }
    let more = curl_arguments(&blocks_after(&readme, "run: more")[0]);
    assert_eq!(more.len(), 2);
    for command in more {
        assert_eq!(curl(&app, &command).await.status(), 200);
    }
}

/// The documented id stands for the id that this server gives to the same prediction.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_feedback_is_joined() {
    let readme = read("README.md");
    let six = curl_arguments(&blocks_after(&readme, "run: six")[0]);
    let documented: Value = serde_json::from_str(&blocks_after(&readme, "answer: six")[0]).unwrap();
    let documented = documented["prediction_ids"][0].as_str().unwrap();
    let text = read("docs/monitoring.md");
    let expected: Value = serde_json::from_str(&blocks_after(&text, "answer: feedback")[0]).unwrap();
    let app = TestApp::start().await;
    for text in [&text, &readme] {
        let predicted: Value = curl(&app, &six[0]).await.json().await.unwrap();
        let snippet = blocks_after(text, "run: feedback")[0].clone();
        assert!(snippet.contains(documented), "{snippet}");
        let command = curl_arguments(&snippet.replace(documented, predicted["prediction_ids"][0].as_str().unwrap()));
        same(&expected, &curl(&app, &command[0]).await.json().await.unwrap(), "feedback");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_drift_report_has_this_form() {
    let app = TestApp::start().await;
    let text = read("docs/monitoring.md");
    let command = curl_arguments(&blocks_after(&text, "run: report")[0]);
    let documented: Value = serde_json::from_str(&blocks_after(&text, "answer: report")[0]).unwrap();
    // Half of the digits are inverted.
    let mut digits = held_out("digits")["instances"].clone();
    let inverted = digits.as_array_mut().unwrap().iter_mut().step_by(2);
    for pixel in inverted.flat_map(|digit| digit.as_array_mut().unwrap()) {
        *pixel = (16 - pixel.as_i64().unwrap()).into();
    }
    assert_eq!(app.predict("/predict", serde_json::json!({ "instances": digits }).to_string()).await.status, 200);
    same_form(&documented, &curl(&app, &command[0]).await.json().await.unwrap(), "report");
}

/// Returns a folder with the shipped models in `models`.
fn folder_with_models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for version in ["1", "2"] {
        copy_folder(
            &checkout().join("models/digits").join(version),
            &folder.path().join("models/digits").join(version),
        );
    }
    std::fs::copy(checkout().join("models/digits/model.toml"), folder.path().join("models/digits/model.toml")).unwrap();
    folder
}

/// Runs the commands of a document in a folder with the shipped models, with a server on them.
fn run_commands(file: &str, marker: &str, prepare: impl FnOnce(&Path)) -> String {
    let folder = folder_with_models();
    prepare(folder.path());
    let server = Server::start(&folder.path().join("models"), &[("LEEWAY_REPOSITORY__POLL_INTERVAL_MS", "0")]);
    let blocks = blocks_after(&read(file), &format!("run: {marker}"));
    assert!(!blocks.is_empty(), "{file}: {marker}");
    let script = format!("set -e\nleeway() {{ {} \"$@\"; }}\n{}", env!("CARGO_BIN_EXE_leeway"), blocks.concat());
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env_remove("ORT_DYLIB_PATH")
        .env("LEEWAY_ADMIN__LISTEN", server.admin.to_string())
        .env("LEEWAY_HTTP__LISTEN", server.data.to_string())
        .output()
        .unwrap();
    let (said, complaints) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{file}: {said}\n{complaints}");
    said
}

/// Two replicas on a real database, at sockets instead of the documented addresses.
#[test]
fn a_fleet_is_made_by_the_documented_commands() {
    let (postgres, folder) = (Postgres::start(), folder_with_models());
    let page = read("docs/fleet.md");
    let block = |marker: &str| blocks_after(&page, &format!("fleet: {marker}")).concat();
    let ready = "for server in 127.0.0.1:8081 127.0.0.1:8091; do until leeway status --server $server > /dev/null 2>&1; do \
                 sleep 0.05; done; done\n";
    let mut script = format!(
        "set -e\nleeway() {{ {} \"$@\"; }}\ntrap 'kill $(jobs -p)' EXIT\n{}{ready}{}",
        env!("CARGO_BIN_EXE_leeway"),
        // Programs instead of shells, so that the end of the script ends them.
        block("start").replace("\nleeway serve", concat!("\n", env!("CARGO_BIN_EXE_leeway"), " serve")),
        block("use")
    );
    for port in ["8080", "8081", "8090", "8091"] {
        let socket = format!("unix:{}/{port}", folder.path().display());
        script = script.replace(&format!("127.0.0.1:{port}"), &socket);
    }
    script = script.replace("postgres://leeway@db.example/leeway", &format!("'{}'", postgres.url()));
    assert!(!script.contains("127.0.0.1"), "{script}");
    let mut bash = Command::new("bash");
    bash.args(["-c", &script])
        .current_dir(folder.path())
        .env_remove("ORT_DYLIB_PATH")
        .env("LEEWAY_LOADING__TRIAL", "false");
    let output = bash.output().unwrap();
    let (said, complaints) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{said}\n{complaints}");
    assert!(said.contains("stable version 1, generation 2") && said.contains("reported"), "{said}");
}

#[test]
fn every_deployment_toml_in_the_documentation_is_valid() {
    let blocks = blocks_after(&read("docs/models.md"), "deployment.toml");
    assert!(!blocks.is_empty());
    for block in blocks {
        DeploymentFile::parse(&block, "docs/models.md").unwrap();
    }
}

#[test]
fn the_readmes_split_can_be_made() {
    let said = run_commands("README.md", "split", |_| {});
    assert!(said.contains("2=100 -> 1=10 2=90, stable version 2, generation 2"), "{said}");
    assert!(said.contains("1=10 2=90 -> 2=100, stable version 2, generation 3"), "{said}");
}

/// Writes digits as a table, with a column that is not a feature.
fn write_digits(file: &Path) {
    let header: Vec<String> = (0..64).map(|pixel| format!("p{pixel}")).collect();
    let mut csv = format!("{},digit\n", header.join(","));
    for instance in held_out("digits")["instances"].as_array().unwrap() {
        let row: Vec<String> = instance.as_array().unwrap().iter().map(Value::to_string).collect();
        csv.push_str(&format!("{},7\n", row.join(",")));
    }
    std::fs::write(file, csv).unwrap();
}

#[test]
fn the_documented_command_line_works() {
    let page = "docs/command-line.md";
    let said = run_commands(page, "predict", |folder| write_digits(&folder.join("rows.csv")));
    let documented = blocks_after(&read(page), "answer: predict").remove(0);
    assert_eq!(said.lines().count(), documented.lines().count(), "{said}");
    for (said, documented) in said.lines().zip(documented.lines()) {
        let is_same = match (said.split_once(','), documented.split_once(',')) {
            (Some((label, score)), Some((expected, rounded))) if label == expected => {
                match (score.parse::<f64>(), rounded.parse::<f64>()) {
                    (Ok(score), Ok(rounded)) => (score - rounded).abs() < 1e-4,
                    _ => score == rounded,
                }
            }
            _ => false,
        };
        assert!(is_same, "{said} is documented as {documented}");
    }
    let said = run_commands(page, "state", |_| {});
    assert!(said.contains("digits: generation 1") && said.contains("req/s") && said.contains("Brier"), "{said}");
    run_commands(page, "completions", |_| {});
}

/// Every command is on its page.
#[test]
fn the_page_of_the_command_line_has_every_command() {
    let output = crate::harness::leeway(&["--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names: Vec<&str> =
        names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(names.len() > 20, "{names:?}");
    let page = read("docs/command-line.md");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/command-line.md has no {name}");
    }
}

#[test]
fn the_first_look_of_operations_works() {
    let said = run_commands("docs/operations.md", "first-look", |_| {});
    assert!(said.contains("digits") && said.contains("100%"), "{said}");
}

#[test]
fn the_rollout_of_the_documentation_works() {
    let said = run_commands("docs/models.md", "rollout", |folder| {
        let version = checkout().join("models/digits/1");
        std::fs::copy(version.join("model.onnx"), folder.join("digits.onnx")).unwrap();
        std::fs::copy(version.join("golden.json"), folder.join("golden.json")).unwrap();
    });
    for says in [
        "Added version 3",
        "2=100 -> 2=90 3=10",
        "-> 3=100, stable version 3",
        "3=100 -> 2=100, stable version 2",
        "3 versions are",
    ] {
        assert!(said.contains(says), "{says}: {said}");
    }
}

#[test]
fn the_shadow_traffic_and_the_comparison_of_the_documentation_work() {
    let said = run_commands("docs/shadow-and-compare.md", "shadow", |_| {});
    assert!(said.contains("shadow: version 1 gets copies of 20% of the requests"), "{said}");
    let said = run_commands("docs/shadow-and-compare.md", "compare", |_| {});
    assert!(said.contains("digits: version 1 compared with version 2"), "{said}");
}

#[test]
fn the_baselines_of_the_documentation_can_be_made() {
    let said = run_commands("docs/monitoring.md", "baseline", |folder| {
        std::fs::copy(checkout().join("models/digits/1/model.onnx"), folder.join("digits.onnx")).unwrap();
        let header: Vec<String> = (0..64).map(|pixel| format!("p{pixel}")).collect();
        let held_out = held_out("digits");
        let digits = held_out["digits"].as_array().unwrap();
        let mut csv = format!("{},digit\n", header.join(","));
        for (instance, digit) in held_out["instances"].as_array().unwrap().iter().zip(digits) {
            let row: Vec<String> = instance.as_array().unwrap().iter().map(Value::to_string).collect();
            csv.push_str(&format!("{},{digit}\n", row.join(",")));
        }
        std::fs::write(folder.join("train.txt"), csv.replace(',', ";")).unwrap();
        std::fs::write(folder.join("held_out.csv"), &csv).unwrap();
        let timed = |(row, line): (usize, &str)| match row {
            0 => format!("{line},when\n"),
            row => format!("{line},2026-11-{:02}T{:02}:00:00\n", 1 + row % 28, row % 2),
        };
        std::fs::write(folder.join("timed.csv"), csv.lines().enumerate().map(timed).collect::<String>()).unwrap();
        std::fs::write(folder.join("train.csv"), csv).unwrap();
    });
    let profile = "It has a profile by time of day (+01:00): 2 of 48 hours have enough rows.";
    for says in ["Added version 3", "Added version 4", "It has no baseline", "Of 360 labelled rows, 9", profile] {
        assert!(said.contains(says), "{says}: {said}");
    }
    let made = "Its baseline has 360 rows; features: all 64; predictions: class, confidence, margin, entropy.";
    assert_eq!(said.matches(made).count(), 6, "{said}");
}

#[test]
fn the_golden_examples_of_the_documentation_can_be_made() {
    let said = run_commands("docs/models.md", "golden", |folder| {
        std::fs::copy(checkout().join("models/digits/1/model.onnx"), folder.join("digits.onnx")).unwrap();
        let header: Vec<String> = (0..64).map(|pixel| format!("p{pixel}")).collect();
        let mut csv = format!("{},digit\n", header.join(","));
        let held_out = held_out("digits");
        let labels = held_out["versions"]["1"]["labels"].as_array().unwrap();
        for (instance, label) in held_out["instances"].as_array().unwrap().iter().zip(labels) {
            let row: Vec<String> = instance.as_array().unwrap().iter().map(Value::to_string).collect();
            csv.push_str(&format!("{},{label}\n", row.join(",")));
        }
        std::fs::write(folder.join("predicted.csv"), csv).unwrap();
    });
    for says in ["its 100 golden examples", "its 20 golden examples", "the first 20 rows of predicted.csv"] {
        assert!(said.contains(says), "{says}: {said}");
    }
}

#[test]
fn the_documented_init_writes_the_documented_file() {
    let said = run_commands("docs/init.md", "init", |folder| {
        std::fs::copy(checkout().join("models/digits/1/model.onnx"), folder.join("digits.onnx")).unwrap();
    });
    assert!(said.contains("Added version 1") && said.contains("leeway serve"), "{said}");
    let printed = run_commands("docs/init.md", "print", |folder| {
        std::fs::copy(checkout().join("models/digits/1/model.onnx"), folder.join("digits.onnx")).unwrap();
    });
    assert_eq!(blocks_after(&read("docs/init.md"), "printed")[0], printed);
}

#[test]
fn the_documented_commands_show_drift() {
    for (file, feature) in [("README.md", "pixels[20]"), ("docs/monitoring.md", "confidence")] {
        let said = run_commands(file, "drift", |_| {});
        assert!(said.contains("digits version 2: not enough data; 0 rows"), "{said}");
        assert!(said.contains(&format!("{feature}: not enough data")), "{said}");
    }
}

#[test]
fn the_manifest_and_the_examples_of_the_documentation_can_be_read() {
    let text = read("docs/models.md");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("version.toml"), &blocks_after(&text, "version.toml")[0]).unwrap();
    Manifest::read(folder.path()).unwrap();
    Golden::parse(blocks_after(&text, "golden.json")[0].as_bytes()).unwrap();
}

#[test]
fn every_model_toml_in_the_documentation_is_valid() {
    let mut count = 0;
    for page in [
        "README",
        "docs/chains",
        "docs/configuration",
        "docs/latency",
        "docs/monitoring",
        "docs/rollouts",
        "docs/stages",
    ] {
        let file = &format!("{page}.md");
        for block in blocks_after(&read(file), "model.toml") {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("model.toml");
            std::fs::write(&path, block).unwrap();
            ModelConfig::read(&path).unwrap();
            count += 1;
        }
    }
    assert!(count >= 16, "{count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_call_with_whole_tensors_is_answered() {
    let text = read("docs/models.md");
    let repository = Repository::new().with("above", 1, "above", &blocks_after(&text, "whole tensors: model.toml")[0]);
    let app = TestApp::with(repository.config()).await;
    let request = blocks_after(&text, "whole tensors: request").remove(0);
    let expected: Value = serde_json::from_str(&blocks_after(&text, "whole tensors: predictions")[0]).unwrap();
    assert_eq!(app.predict("/v1/models/above:predict", request).await.predictions(), expected);
}

#[test]
fn the_documented_lengths_of_the_first_run_fit_a_model_of_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.toml");
    let block = &blocks_after(&read("docs/models.md"), "warm_up: model.toml")[0];
    std::fs::write(&path, format!("{TENSOR_STAGES}{block}")).unwrap();
    let config = ModelConfig::read(&path).unwrap();
    let dims = vec![Dim::Dynamic(None), Dim::Fixed(3), Dim::Dynamic(None), Dim::Dynamic(None)];
    let inputs = vec![TensorSpec { name: "images".into(), dtype: DType::F32, dims }];
    let signature = Signature { inputs, ..Signature::default() };
    let shape = RowShape::of_settings(&signature, &config.model.warm_up).unwrap();
    assert_eq!(shape.describe(&signature), "images [3, 640, 960]");
}

/// A model with the inputs and outputs that the documented stages need.
fn signature(preprocess: &str, postprocess: &str) -> Signature {
    let spec = |name: &str, dtype, row: &[Dim]| TensorSpec {
        name: name.into(),
        dtype,
        dims: [Dim::Dynamic(None)].iter().chain(row).cloned().collect(),
    };
    let inputs = match preprocess {
        "text" => ["input_ids", "attention_mask", "token_type_ids"]
            .map(|name| spec(name, DType::I64, &[Dim::Dynamic(None)]))
            .to_vec(),
        "image" if postprocess == "tensor" => {
            vec![spec("x", DType::F32, &[Dim::Fixed(3), Dim::Dynamic(None), Dim::Dynamic(None)])]
        }
        "image" => vec![spec("x", DType::F32, &[3, 224, 224].map(Dim::Fixed))],
        "audio" => vec![spec("x", DType::F32, &[Dim::Dynamic(None)])],
        "bytes" => vec![spec("x", DType::I32, &[Dim::Fixed(2048)])],
        _ => vec![spec("x", DType::F32, &[Dim::Fixed(7)])],
    };
    let outputs = match postprocess {
        "embedding" => vec![spec("last_hidden_state", DType::F32, &[Dim::Dynamic(None), Dim::Fixed(384)])],
        "mask" => vec![spec("out", DType::F32, &[21, 520, 520].map(Dim::Fixed))],
        "anomaly" => vec![spec("label", DType::I64, &[Dim::Fixed(1)]), spec("scores", DType::F32, &[Dim::Fixed(1)])],
        "several targets" => {
            ["probabilities1", "probabilities2"].map(|name| spec(name, DType::F32, &[Dim::Fixed(2)])).into()
        }
        "detector" => vec![spec("output0", DType::F32, &[84, 8400].map(Dim::Fixed))],
        _ => vec![spec("y", DType::F32, &[Dim::Fixed(2)])],
    };
    Signature { inputs, outputs, ..Signature::default() }
}

fn files() -> BTreeMap<String, Vec<u8>> {
    let tokenizer = std::fs::read(checkout().join("tests/data/text/sentences/1/tokenizer.json")).unwrap();
    [("tokenizer.json".to_owned(), tokenizer), ("labels.txt".to_owned(), b"cat\ndog\n".to_vec())].into()
}

#[test]
fn the_documented_stages_can_be_made() {
    let (stages, files) = (Stages::default(), files());
    for block in blocks_after(&read("docs/stages.md"), "model.toml") {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.toml");
        std::fs::write(&path, &block).unwrap();
        let config = ModelConfig::read(&path).unwrap();
        let several = block.contains("[[postprocess.targets]]").then_some("several targets");
        let signature = signature(&config.preprocess.kind, several.unwrap_or(&config.postprocess.kind));
        let context = |config| StageContext::new(config, &signature, &files);
        stages.preprocessor(context(&config.preprocess)).map(drop).unwrap_or_else(|error| panic!("{error}: {block}"));
        stages.postprocessor(context(&config.postprocess)).map(drop).unwrap_or_else(|error| panic!("{error}: {block}"));
    }
}

/// The keys of a kind are those that the message about an unknown key lists.
#[test]
fn the_reference_of_stages_has_every_kind_and_every_key() {
    let (stages, files, text) = (Stages::default(), files(), read("docs/stages.md"));
    let signature = signature("tensor", "tensor");
    let unknown_key = |kind: &str| serde_json::from_value(serde_json::json!({ "kind": kind, "zzz": 1 })).unwrap();
    let kinds = |error: &str| error.split_once("known kinds: ").unwrap().1.split(", ").map(str::to_owned).collect();
    let preprocessor = |kind: &str| {
        let config = unknown_key(kind);
        let context = StageContext::new(&config, &signature, &files);
        stages.preprocessor(context).err().unwrap().to_string()
    };
    let postprocessor = |kind: &str| {
        let config = unknown_key(kind);
        let context = StageContext::new(&config, &signature, &files);
        stages.postprocessor(context).err().unwrap().to_string()
    };
    for part in ["## Preprocessors", "## Postprocessors"] {
        let make = |kind: &str| if part == "## Preprocessors" { preprocessor(kind) } else { postprocessor(kind) };
        let part = text.split(part).nth(1).unwrap().split("\n## ").next().unwrap();
        let all: Vec<String> = kinds(&make("none"));
        assert!(all.len() >= 4);
        for kind in all {
            let section = part.split(&format!("\n### {kind}")).nth(1);
            let section = section.unwrap_or_else(|| panic!("docs/stages.md has no {kind}"));
            let section = section.split("\n### ").next().unwrap();
            let message = make(&kind);
            for key in message.split_once("allowed here: ").unwrap().1.split(", ").filter(|key| *key != "output") {
                assert!(section.contains(&format!("| `{key}` |")), "docs/stages.md: {kind} has no {key}");
            }
        }
    }
}

/// `python/tests/test_documentation.py` follows the rest of the page to the letter.
#[test]
fn the_excerpts_of_a_model_of_ones_own_occur_in_the_files() {
    let text = read("docs/your-own-model.md");
    let shipped = read("models/penguins/model.toml");
    for line in blocks_after(&text, "penguins: model.toml")[0].lines() {
        assert!(shipped.lines().any(|shipped| shipped.split(" #").next().unwrap().trim_end() == line), "{line}");
    }
    assert_eq!(read("examples/sentence_embeddings/model.toml"), blocks_after(&text, "sentences: model.toml")[0]);
    let script = |file: &str, quoted: &str| assert!(read(file).contains(quoted), "{file}: {quoted}");
    script("examples/penguins/train.py", "target_opset={\"\": 18, \"ai.onnx.ml\": 3}");
    script("examples/sentence_embeddings/export.py", "rows, tokens = torch.export.Dim(\"rows\", min=1, max=4096)");
}

/// Every key with its default, as in `http.listen` and `127.0.0.1:8080`; `None` for those without one.
fn keys() -> Vec<(String, Option<String>)> {
    let config = serde_json::to_value(Config::default()).unwrap();
    let with_default = |(section, field): (String, String)| {
        // A table within a section, as in `http.cors.origins`.
        let default = config[&section].pointer(&format!("/{}", field.replace('.', "/")));
        let default = default.map(|default| default.as_str().map_or_else(|| default.to_string(), str::to_owned));
        (format!("{section}.{field}"), default)
    };
    Config::keys().into_iter().map(with_default).collect()
}

#[test]
fn the_shipped_configuration_is_the_default_with_every_key() {
    let path = checkout().join("config/leeway.toml");
    assert_eq!(Config::load(Some(&path), &Default::default()).unwrap(), Config::default());
    let text = read("config/leeway.toml");
    for (key, default) in keys() {
        let (section, field) = key.split_once('.').unwrap();
        let section = text.split(&format!("[{section}]")).nth(1).unwrap().split("\n[").next().unwrap();
        let line = if default.is_some() { format!("\n{field} = ") } else { format!("\n# {field} = ") };
        assert!(section.contains(&line), "{key} is not in config/leeway.toml");
    }
}

#[test]
fn the_configuration_reference_has_every_key_and_its_default() {
    let text = read("docs/configuration.md");
    for (key, default) in keys() {
        let row = match default {
            Some(default) => format!("| `{key}` | `{default}` |"),
            None => format!("| `{key}` | |"),
        };
        assert!(text.contains(&row), "docs/configuration.md has no row {row}");
    }
    // The keys of model.toml, from the message that lists them.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.toml");
    for (section, count) in [("model", 10), ("budget", 6), ("monitoring", 3), ("prediction_log", 3)] {
        std::fs::write(&path, format!("{TENSOR_STAGES}[{section}]\nx = 1\n")).unwrap();
        let message = ModelConfig::read(&path).unwrap_err().to_string();
        let keys: Vec<&str> = message.split_once("allowed here: ").unwrap().1.split(", ").collect();
        assert!(keys.len() >= count, "{message}");
        for key in keys {
            assert!(text.contains(&format!("| `{section}.{key}` |")), "docs/configuration.md has no {section}.{key}");
        }
    }
}

#[test]
fn the_metrics_reference_has_every_metric_and_no_other() {
    let text = read("docs/metrics.md");
    let metrics = metrics();
    for metric in &metrics {
        let row = text.lines().find(|line| line.starts_with(&format!("| `{}` |", metric.name)));
        let row = row.unwrap_or_else(|| panic!("docs/metrics.md has no row for {}", metric.name));
        for label in metric.labels {
            assert!(row.contains(&format!("`{label}`")), "{}: {label}", metric.name);
        }
    }
    assert_eq!(
        text.lines().filter(|line| line.starts_with("| `leeway_") || line.starts_with("| `nv_")).count(),
        metrics.len()
    );
}

#[test]
fn operations_says_what_to_do_at_every_alert() {
    let text = read("docs/alerts.md");
    let alerts = read("deploy/prometheus/rules/leeway.alerts.yml");
    let alerts: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    for alert in &alerts {
        assert!(text.contains(&format!("\n**{alert}** (")), "docs/alerts.md has no {alert}");
    }
    assert_eq!(text.matches("\n**Leeway").count(), alerts.len());
}

/// The codes are those of the metric that counts errors by code.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_reference_has_every_error_and_no_other() {
    let app = TestApp::start().await;
    let metrics = app.get("/metrics").await.text;
    let code =
        |line: &str| Some(line.strip_prefix("leeway_error_responses_total{code=\"")?.split_once('"')?.0.to_owned());
    let mut codes: Vec<String> = metrics.lines().filter_map(code).collect();
    let text = read("docs/http-api.md");
    let table = text.split("| `type` ends with |").nth(1).unwrap();
    let documented = |line: &str| Some(line.strip_prefix("| `")?.split_once("` | ")?.0.to_owned());
    let mut documented: Vec<String> = table.lines().filter_map(documented).collect();
    codes.sort();
    documented.sort();
    assert_eq!(codes, documented);
}

/// Returns the anchor of a heading, made from its words.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Each claim in docs/security.md names a test that exists.
#[test]
fn every_test_and_target_that_the_security_page_names_exists() {
    let (text, makefile) = (read("docs/security.md"), read("Makefile"));
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| who"));
    let mut named = 0;
    for cell in rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next()) {
        for test in cell.split('`').skip(1).step_by(2) {
            named += 1;
            let exists = match (test.split_once("::"), test.strip_prefix("make ")) {
                (Some((file, name)), _) => read(&format!("tests/leeway/{file}.rs")).contains(&format!("fn {name}(")),
                (None, Some(target)) => makefile.contains(&format!("\n{target}:")),
                (None, None) => continue,
            };
            assert!(exists, "docs/security.md names {test}");
        }
    }
    assert!(named > 80, "{named}");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let docs = std::fs::read_dir(checkout().join("docs")).unwrap();
    let docs = docs.map(|entry| format!("docs/{}", entry.unwrap().file_name().into_string().unwrap()));
    let others = ["README.md", "CHANGELOG.md", "deploy/README.md"].map(str::to_owned);
    for file in docs.filter(|file| file.ends_with(".md")).chain(others) {
        let text = read(&file);
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.starts_with("http") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => checkout().join(&file),
                path => checkout().join(Path::new(&file).parent().unwrap()).join(path),
            };
            assert!(target.exists(), "{file}: {link}");
            if !heading.is_empty() {
                let text = std::fs::read_to_string(target).unwrap();
                let anchors = text.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(anchors.into_iter().any(|anchor| anchor == heading), "{file}: {link}");
            }
        }
    }
}

/// The documented example of a custom stage is the one in `examples/`.
#[expect(dead_code, reason = "its main is another program's")]
#[path = "../../examples/custom_stage.rs"]
mod custom_stage;

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_a_custom_stage_works() {
    let example = read("examples/custom_stage.rs");
    let body = example.split("-d '").nth(1).unwrap().split('\'').next().unwrap().to_owned();

    let mut config = crate::harness::config();
    config.repository.path = checkout().join("examples/models").into();
    let app = TestApp::with_parts(config, crate::harness::runtime(), custom_stage::stages()).await;
    let predictions = app.predict("/predict", body).await.predictions();
    assert!(predictions[0]["even"].as_f64().unwrap() > 0.9, "{predictions}");
    let wrong = app.predict("/predict", r#"{"instances": ["too short"]}"#).await;
    assert_eq!((wrong.status, &wrong.json()["detail"]), (400, &Value::from("instances[0]: expected 64 characters")));
}
