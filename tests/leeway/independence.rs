//! No answer depends on other requests: many clients ask models with dependent rows at the same time, and models with
//! independent rows, which still share runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::gate::{GATE_IN_USE, gated, let_go, one_at_the_gate};
use crate::harness::{PLAIN, Repository, TENSOR_STAGES, TestApp, checkout, copy_folder, is_same, leeway, run, until};
use leeway::pipeline::Stages;

/// Number of concurrent callers, and of answers for each.
const CALLERS: usize = 16;
const ANSWERS: usize = 1_000;

fn golden(folder: &str) -> serde_json::Map<String, Value> {
    let path = checkout().join(format!("tests/data/{folder}/{folder}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A model of `tests/data/<folder>` in its own repository.
fn repository(folder: &str, model: &str, model_toml: &str) -> Repository {
    let repository = Repository::new();
    add_from(&repository, folder, model, model_toml);
    repository
}

fn add_from(repository: &Repository, folder: &str, model: &str, model_toml: &str) {
    repository.add_file(model, 1, &checkout().join(format!("tests/data/{folder}/{model}.onnx")));
    std::fs::write(repository.0.path().join(model).join("model.toml"), model_toml).unwrap();
}

/// Returns the reported batching of a version.
async fn batching(app: &TestApp, model: &str) -> Value {
    app.get(&format!("/v1/models/{model}/versions/1")).await.json()["batching"].clone()
}

/// A connection that sends a request and waits for the answer, without the cost of a client library.
struct Caller(BufReader<TcpStream>);

impl Caller {
    fn new(address: SocketAddr) -> Caller {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Caller(BufReader::new(stream))
    }

    fn ask(&mut self, model: &str, instances: &Value) -> String {
        let body = json!({ "instances": instances }).to_string();
        let head = format!(
            "POST /v1/models/{model}:predict HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.0.get_mut().write_all([head, body].concat().as_bytes()).unwrap();
        let (mut line, mut length, mut status) = (String::new(), 0, String::new());
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the server closed the connection");
            if status.is_empty() {
                status = line.trim().to_owned();
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
        body
    }
}

/// Sixteen concurrent callers, each with a different request at any moment, and with this number of answers. Passes every
/// answer to `check`.
pub(crate) async fn ask_at_once(
    app: &TestApp,
    model: &str,
    requests: &[Value],
    answers: usize,
    check: impl Fn(usize, Value) + Send + Sync + 'static,
) {
    let (address, model) = (app.data, model.to_owned());
    let (requests, check) = (requests.to_vec(), Arc::new(check));
    let callers = (0..CALLERS).map(|caller| {
        let (model, requests, check) = (model.clone(), requests.clone(), Arc::clone(&check));
        tokio::task::spawn_blocking(move || {
            let mut connection = Caller::new(address);
            for turn in 0..answers {
                let which = (caller + turn * (caller + 1)) % requests.len();
                let answer: Value = serde_json::from_str(&connection.ask(&model, &requests[which])).unwrap();
                check(which, answer["predictions"].clone());
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
}

/// The expected answers are those of ONNX Runtime in Python, one request at a time.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_callers_at_once_are_answered_as_if_each_were_alone() {
    let models = golden("rows");
    let repository = Repository::new();
    // Rows of a text-like model depend on each other only with padding, which another test covers.
    let dependent: Vec<&String> = models.keys().filter(|name| *name != "no_mask_mean").collect();
    // The file of this one names another dimension after the batch.
    let model_toml =
        |name: &str| if name == "time_first_lstm" { format!("{PLAIN}rows = 0\n") } else { PLAIN.to_owned() };
    dependent.iter().for_each(|name| add_from(&repository, "rows", name, &model_toml(name)));
    let app = TestApp::with(repository.config()).await;
    for name in dependent {
        let found = batching(&app, name).await;
        assert_eq!((&found["on"], &found["rows"]["finding"]), (&json!(false), &json!("dependent")), "{name}: {found}");
        let cause = if name == "random" { "nondeterminism" } else { "other_rows" };
        assert_eq!(found["rows"]["cause"], cause, "{name}: {found}");

        let requests = models[name]["requests"].as_array().unwrap().clone();
        let (expected, asked, of) = (models[name]["expected"].clone(), requests.clone(), name.clone());
        ask_at_once(&app, name, &requests, ANSWERS, move |which, answer| match of.as_str() {
            // x + noise from [0, 0.5): there is no exact value to compare with.
            "random" => {
                for (x, y) in asked[which].as_array().unwrap().iter().zip(answer.as_array().unwrap()) {
                    for (x, y) in x.as_array().unwrap().iter().zip(y.as_array().unwrap()) {
                        let noise = y.as_f64().unwrap() - x.as_f64().unwrap();
                        assert!((-1e-5..0.500_01).contains(&noise), "{noise}");
                    }
                }
            }
            // A lone row shows its rounding, which this model multiplies by 316.
            "batch_norm_training" => assert!(is_same(&answer, &expected[which], 1e-3), "{of} {which}: {answer}"),
            _ => assert!(is_same(&answer, &expected[which], 1e-5), "{of} {which}: {answer} {}", expected[which]),
        })
        .await;
        // Each request has its own run, without rows of other requests.
        let (runs, rows) = (metric(&app, name, "count").await, metric(&app, name, "sum").await);
        assert_eq!(runs, (CALLERS * ANSWERS) as f64, "{name}");
        assert!(rows > runs, "{name}");
        let labels = format!("model=\"{name}\",version=\"1\",rows=\"dependent\",batching=\"off\"");
        assert_eq!(app.metric(&format!("leeway_batching_info{{{labels}}}")).await, 1.0);
    }
}

async fn metric(app: &TestApp, model: &str, of: &str) -> f64 {
    app.metric(&format!("leeway_batch_size_{of}{{model=\"{model}\",version=\"1\"}}")).await
}

/// All models of the tests that can have independent rows, and the shipped ones: they share runs, and answer as ONNX
/// Runtime in Python does, also for all rows together.
#[tokio::test(flavor = "multi_thread")]
async fn independent_models_are_found_to_be() {
    let models = golden("independent");
    let repository = Repository::new();
    for (name, model) in &models {
        let preprocess = model["preprocess"].as_str().unwrap();
        let names: Vec<&String> = model["expected"].as_object().unwrap().keys().collect();
        let outputs = format!("outputs = {}\n", serde_json::to_string(&names).unwrap());
        let postprocess = "[postprocess]\nkind = \"tensor\"\n";
        let model_toml = PLAIN.replacen("\"tensor\"", &format!("\"{preprocess}\""), 1);
        let model_toml = model_toml.replace(postprocess, &[postprocess, &outputs].concat());
        add_from(&repository, "independent", name, &model_toml);
    }
    let others = std::fs::read_dir(checkout().join("tests/data/models")).unwrap();
    let others: Vec<String> = others
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".onnx").map(str::to_owned))
        // Excludes models that are made to be refused, have a fixed batch, always give the same answer, or need more
        // information to be run.
        .filter(|name| {
            !["bomb", "endless", "not_per_row", "plus_5_external", "constant_beside", "state_beside"].contains(&&**name)
                && !["echo_fixed_batch", "echo_batch_of_4", "of_14", "of_14_dependent"].contains(&&**name)
                && !["misdeclared", "above", "no_inputs", "echo_list"].contains(&&**name)
        })
        .collect();
    others.iter().for_each(|name| add_from(&repository, "models", name, PLAIN));
    for (from, name) in
        [("models", "digits"), ("models", "penguins"), ("tests/data", "diabetes"), ("tests/data/text", "sentences")]
    {
        let from = checkout().join(from).join(name);
        copy_folder(&from.join("1"), &repository.0.path().join(name).join("1"));
        std::fs::copy(from.join("model.toml"), repository.0.path().join(name).join("model.toml")).unwrap();
    }
    let app = TestApp::with(repository.config()).await;
    let list = app.get("/v1/models").await.json();
    let served = list["models"].as_array().unwrap();
    assert!(served.len() >= 60, "{}", served.len());
    for model in served {
        let batching = &model["versions"][0]["batching"];
        assert_eq!((&batching["on"], &batching["rows"]["finding"]), (&json!(true), &json!("independent")), "{model}");
        assert!(batching["rows"]["difference"].as_f64().unwrap() < 1e-3, "{model}");
    }
    for (name, model) in &models {
        let body = json!({ "instances": model["instances"] }).to_string();
        let found = app.predict(&format!("/v1/models/{name}:predict"), body).await.predictions();
        let outputs = model["expected"].as_object().unwrap();
        let expected = (0..8).map(|row| match outputs.len() {
            1 => outputs.values().next().unwrap()[row].clone(),
            _ => outputs.iter().map(|(name, rows)| (name.clone(), rows[row].clone())).collect(),
        });
        let tolerance = if name == "mlp_float16" { 5e-3 } else { 1e-5 };
        assert!(is_same(&found, &expected.collect(), tolerance), "{name}: {found}");
    }
    // As with all texts of the examples.
    assert_eq!(app.admin_get("/admin/v1/models/sentences").await.json()["versions"][0]["batching"]["on"], true);
}

/// A model that cannot be run at load: its rows have 14 numbers, which its file does not declare.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_found_out_at_load_real_requests_show() {
    let repository = Repository::new();
    for name in ["of_14", "of_14_dependent"] {
        add_from(&repository, "models", name, PLAIN);
    }
    let app = TestApp::with(repository.config()).await;
    for (name, on, finding) in [("of_14", true, "independent"), ("of_14_dependent", false, "dependent")] {
        let before = batching(&app, name).await;
        assert_eq!((&before["on"], &before["rows"]["finding"]), (&json!(false), &json!("unknown")), "{before}");
        assert!(before["rows"]["reason"].as_str().unwrap().contains("could not be run"), "{before}");
        let path = format!("/v1/models/{name}:predict");
        let row = |start: usize| -> Value {
            (0..14).map(|place| json!(((start * 3 + place * 5) % 11) as f64 - 2.5)).collect()
        };
        // Three equal rows show nothing.
        for _ in 0..3 {
            app.predict(&path, json!({ "instances": [row(0)] }).to_string()).await.predictions();
        }
        assert_eq!(batching(&app, name).await["rows"]["finding"], "unknown");
        // Three rows may be alike in the relevant way; nine are not. A comparison gives way to a request that arrives
        // meanwhile, so that nine requests may not be enough.
        let mut starts = (1..9).cycle();
        let after = until(async || {
            let row = row(starts.next()?);
            app.predict(&path, json!({ "instances": [row] }).to_string()).await.predictions();
            let found = batching(&app, name).await;
            (found["rows"]["finding"] != "unknown").then_some(found)
        });
        let after = after.await;
        assert_eq!((&after["on"], &after["rows"]["finding"]), (&json!(on), &json!(finding)), "{after}");
        let state = if on { "on" } else { "off" };
        let series =
            format!("leeway_batching_info{{model=\"{name}\",version=\"1\",rows=\"{finding}\",batching=\"{state}\"}}");
        assert_eq!(app.metric(&series).await, 1.0);
    }
}

/// Three requests, of which two wait while the first one runs.
async fn runs_of_three_requests(model: &str, batching: &str) -> (f64, Vec<Value>) {
    let _gate = GATE_IN_USE.lock().await;
    let_go(usize::MAX);
    let model_toml = format!("{PLAIN}batching = \"{batching}\"\n");
    let repository = repository("rows", model, &model_toml);
    let app = Arc::new(TestApp::with_parts(repository.config(), gated(), Stages::default()).await);
    let_go(0);
    let ask = |number: f64| {
        let app = Arc::clone(&app);
        let body = json!({ "instances": [[number, number]] }).to_string();
        tokio::spawn(async move { app.predict("/predict", body).await.predictions() })
    };
    let first = ask(1.0);
    one_at_the_gate().await;
    let others = [ask(2.0), ask(8.0)];
    app.metric_becomes(&format!("leeway_queue_depth{{model=\"{model}\",version=\"1\"}}"), 2.0).await;
    let_go(usize::MAX);
    let mut answers = vec![first.await.unwrap()];
    for other in others {
        answers.push(other.await.unwrap());
    }
    (metric(&app, model, "count").await, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn model_toml_overrides_what_was_found() {
    // x ÷ the largest value of the run: 1 for a lone row.
    let alone = json!([[1.0, 1.0]]);
    assert_eq!(runs_of_three_requests("batch_max", "auto").await, (3.0, vec![alone.clone(); 3]));
    assert_eq!(runs_of_three_requests("batch_max", "never").await, (3.0, vec![alone.clone(); 3]));
    // With `always`, requests share runs: the answer to the second depends on the third.
    let (runs, answers) = runs_of_three_requests("batch_max", "always").await;
    assert_eq!((runs, &answers[0], &answers[2]), (2.0, &alone, &alone));
    assert_eq!(answers[1], json!([[0.25, 0.25]]));
}

/// Dependent rows of one request stay together: a hundred time steps are one run, for any batch size.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_one_request_stay_together() {
    let steps: Vec<Value> = (0..100).map(|_| json!([1.0])).collect();
    let sums: Vec<Value> = (1..=100).map(|sum| json!([f64::from(sum)])).collect();
    let app = TestApp::with(repository("rows", "time_first_sum", PLAIN).config()).await;
    let body = json!({ "instances": steps }).to_string();
    assert_eq!(app.predict("/predict", body.clone()).await.predictions(), json!(sums));
    assert_eq!(metric(&app, "time_first_sum", "count").await, 1.0);

    // A configured limit is kept, but no request is divided.
    let limited = format!("{PLAIN}max_batch_size = 64\n");
    let app = TestApp::with(repository("rows", "time_first_sum", &limited).config()).await;
    let answer = app.predict("/predict", body).await;
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 400);
    assert!(detail.contains("at most 64 rows (model.max_batch_size): 100 are too many"), "{detail}");
}

/// A mean over all tokens, including padding: only texts of one length may share a run.
#[tokio::test(flavor = "multi_thread")]
async fn texts_are_filled_up_only_where_that_changes_no_answer() {
    let repository = Repository::new();
    let folder = repository.0.path().join("no_mask_mean");
    let tokenizer = checkout().join("tests/data/text/sentences/1/tokenizer.json");
    let model = checkout().join("tests/data/rows/no_mask_mean.onnx");
    std::fs::create_dir_all(&folder).unwrap();
    let text = "[preprocess]\nkind = \"text\"\npad_token = \"[PAD]\"\n[postprocess]\nkind = \"embedding\"\n\
        normalise = false\n[budget]\ntotal_ms = 600000\n[model]\nworkers = 1\n";
    std::fs::write(folder.join("model.toml"), text).unwrap();
    let (status, said) = run(leeway(&["add"]).arg(&folder).args([
        "--onnx",
        model.to_str().unwrap(),
        "--file",
        tokenizer.to_str().unwrap(),
    ]));
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("Batching is on: rows are independent"), "{said}");
    assert!(said.contains("Only texts of one length share a run; with padding, rows depend"), "{said}");

    let app = TestApp::with(repository.config()).await;
    let texts: Vec<Value> = (1..=30).map(|words| json!(vec!["invoice"; words].join(" "))).collect();
    let mut alone = Vec::new();
    for text in &texts {
        alone.push(app.predict("/predict", json!({ "instances": [text] }).to_string()).await.predictions());
    }
    let requests: Vec<Value> = texts.iter().map(|text| json!([text])).collect();
    ask_at_once(&app, "no_mask_mean", &requests, ANSWERS, move |which, answer| {
        assert!(is_same(&answer, &alone[which], 1e-6), "{which}: {answer} {}", alone[which]);
    })
    .await;
}

#[test]
fn what_was_found_is_said_when_a_version_is_added_and_checked() {
    let said_of = |folder: &str, model: &str, more: &str| {
        let repository = Repository::new();
        let folder_of_model = repository.0.path().join(model);
        std::fs::create_dir_all(&folder_of_model).unwrap();
        std::fs::write(folder_of_model.join("model.toml"), format!("{TENSOR_STAGES}{more}")).unwrap();
        let file = checkout().join(format!("tests/data/{folder}/{model}.onnx"));
        let (status, added) = run(leeway(&["add"]).arg(&folder_of_model).args(["--onnx", file.to_str().unwrap()]));
        assert_eq!(status, 0, "{added}");
        let (status, checked) = run(&mut leeway(&["check", "--models", repository.0.path().to_str().unwrap()]));
        assert_eq!(status, 0, "{checked}");
        (added, checked)
    };
    for (folder, model, more, expected) in [
        ("independent", "mlp_float32", "", "Batching is on: rows are independent"),
        (
            "rows",
            "time_first_lstm",
            "[model]\nrows = 0\n",
            "Batching is off, each request is a run of its own: rows depend on each other: the output \"y\" differs by",
        ),
        ("rows", "time_first_lstm", "", "Batching is on: rows are independent"),
        ("rows", "time_first_lstm", "", "Note: dimension 1 holds the rows of x, y"),
        ("rows", "random", "", "Batching is off, each request is a run of its own: the model is nondeterministic"),
        ("models", "of_14", "", "The test run on made-up inputs failed"),
        ("models", "of_14", "", "it is not known if rows are independent: several rows could not be run and compared"),
        ("models", "echo_batch_of_4", "", "Batching is off: a run has exactly 4 rows, of one request"),
        ("rows", "batch_max", "[model]\nbatching = \"always\"\n", "WARNING: batching is on (batching = \"always\")"),
        ("rows", "batch_max", "[model]\nbatching = \"never\"\n", "Batching is off (batching = \"never\")"),
    ] {
        let (added, checked) = said_of(folder, model, more);
        assert!(added.contains(expected), "{added}");
        assert!(checked.contains(expected), "{checked}");
        let has_run = model != "of_14";
        assert_eq!(added.contains("It loads, runs, and fits model.toml."), has_run, "{added}");
        assert_eq!(checked.contains("All models load and run."), has_run, "{checked}");
    }
}

/// A model that only seems to have one output row for each input row is refused, as is an ambiguous dimension of rows.
#[test]
fn an_output_that_has_as_many_rows_by_chance_is_no_answer() {
    let add = |model: &str, model_toml: &str| {
        let repository = Repository::new();
        let folder = repository.0.path().join(model);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.toml"), model_toml).unwrap();
        let file = checkout().join(format!("tests/data/models/{model}.onnx"));
        run(leeway(&["add"]).arg(&folder).args(["--onnx", file.to_str().unwrap()]))
    };
    let (status, said) = add("constant_beside", TENSOR_STAGES);
    assert!(status != 0 && said.contains("the model's output \"c\" does not have one row per instance"), "{said}");
    let (status, said) = add("constant_beside", &format!("{TENSOR_STAGES}outputs = [\"y\"]\n"));
    assert_eq!(status, 0, "{said}");
    let (status, said) = add("state_beside", TENSOR_STAGES);
    assert!(status != 0, "{said}");
    assert!(said.contains("the model's input \"x\" is float32[n, 4] and \"h\" is float32[2, n, 4]"), "{said}");
}
