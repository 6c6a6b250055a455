//! Stages that are slow or multiply their input, and inputs that their libraries reject. None of them delays other
//! requests, and each gets an answer that says what to change.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use leeway::budget::Deadline;
use leeway::error::{Result, SetupError};
use leeway::pipeline::{Prepared, Preprocessor, StageContext, Stages};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::harness::{PLAIN, Repository, TENSOR_STAGES, TestApp, checkout, leeway, run, runtime, until};

const TEXT: &str = "[preprocess]\nkind = \"text\"\npad_token = \"[PAD]\"\n[postprocess]\nkind = \"embedding\"\n\
    normalise = false\n[model]\nworkers = 1\n[budget]\n";

/// The tokenizer of the tests, with another normaliser, splitter or model.
fn tokenizer(changes: &[(&str, Value)]) -> Vec<u8> {
    let file = std::fs::read(checkout().join("tests/data/text/sentences/1/tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&file).unwrap();
    for (part, change) in changes {
        tokenizer[part] = change.clone();
    }
    tokenizer.to_string().into_bytes()
}

/// Replaces every `from` by ten, in several steps.
fn ten_times(from: &str, steps: usize) -> Value {
    let step = json!({"type": "Replace", "pattern": {"String": from}, "content": from.repeat(10)});
    json!({"type": "Sequence", "normalizers": vec![step; steps]})
}

/// Splits by a regular expression with nested repetition, whose time doubles with each character.
fn nested_counts(of: &str) -> Value {
    json!({
        "type": "Split", "pattern": {"Regex": format!("({of}+)+$")}, "behavior": "Isolated", "invert": false
    })
}

/// Runs `leeway add` for a model of texts with this tokenizer.
fn add(repository: &Repository, name: &str, budget: &str, tokenizer: &[u8]) -> (i32, String) {
    let folder = repository.0.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.toml"), format!("{TEXT}{budget}")).unwrap();
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("tokenizer.json");
    std::fs::write(&file, tokenizer).unwrap();
    let model = checkout().join("tests/data/rows/no_mask_mean.onnx");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    run(leeway(&["add"]).arg(&folder).args(["--onnx", &path(&model), "--file", &path(&file)]))
}

/// The trial runs the tokenizer on the longest texts, and names the one that failed.
#[test]
fn a_tokenizer_that_is_slow_or_multiplies_or_gives_up_is_refused_before_it_serves() {
    let repository = Repository::new();
    // From each letter, the pattern searches for a mark to the end of the text.
    let far = json!({"type": "Split", "pattern": {"Regex": "a[^!]*!|a"}, "behavior": "Isolated", "invert": false});
    for (name, budget, tokenizer, problems) in [
        (
            "slow",
            "total_ms = 200",
            tokenizer(&[("pre_tokenizer", far)]),
            [
                "characters (words), but a request has 500 ms",
                "lower preprocess.max_characters, or raise budget.total_ms",
            ],
        ),
        (
            "multiplies",
            "total_ms = 600000",
            tokenizer(&[("normalizer", ten_times("a", 5))]),
            [
                "(words), although 65536 are allowed (preprocess.max_characters)",
                "the tokenizer's normaliser makes more than 1052672 bytes of this text",
            ],
        ),
        (
            "multiplies_digits",
            "total_ms = 600000",
            tokenizer(&[("normalizer", ten_times("7", 5))]),
            ["(digits), although 65536 are allowed", "normaliser makes more than 1052672 bytes"],
        ),
        (
            "gives_up",
            "total_ms = 600000",
            tokenizer(&[("pre_tokenizer", nested_counts("a"))]),
            ["(letters without a blank, and a mark)", "a regular expression of the tokenizer gave up"],
        ),
    ] {
        let (status, said) = add(&repository, name, budget, &tokenizer);
        assert_ne!(status, 0, "{name}: {said}");
        problems.iter().for_each(|problem| assert!(said.contains(problem), "{name}: {said}"));
        // No part of the version is left.
        assert!(!repository.0.path().join(name).join("1").exists(), "{name}");
    }
}

/// A fault that only a caller's text shows: a character that the trial does not use.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_a_tokenizer_cannot_take_is_a_400_that_names_it_and_nothing_is_lost() {
    let repository = Repository::new();
    for (name, part, change) in
        [("multiplies", "normalizer", ten_times("ꙮ", 5)), ("gives_up", "pre_tokenizer", nested_counts("ꙮ"))]
    {
        let (status, said) = add(&repository, name, "total_ms = 600000", &tokenizer(&[(part, change)]));
        assert_eq!(status, 0, "{said}");
    }
    // WordPiece with words of any length would take minutes.
    let words =
        ["[UNK]", "[PAD]", "a", "##a"].into_iter().zip(0..).map(|(word, id)| (word.to_owned(), Value::from(id)));
    let any_word = tokenizer(&[
        (
            "model",
            json!({
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 1_000_000_000, "vocab": words.collect::<serde_json::Map<_, _>>()
            }),
        ),
        ("added_tokens", json!([])),
        ("post_processor", Value::Null),
    ]);
    let (status, said) = add(&repository, "long_words", "total_ms = 600000", &any_word);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("words of more than 1024 bytes are refused"), "{said}");
    let app = TestApp::with(repository.config()).await;
    let letters = "a".repeat(65_535);
    let long = "ꙮ".repeat(65_535);
    for (model, text, problem) in [
        ("multiplies", &*long, "the tokenizer's normaliser makes more than 1052672 bytes of this text"),
        ("long_words", &*letters, "found a word of 65535 bytes, at most 1024 for this model's tokenizer"),
        ("gives_up", &*long, "a regular expression of the tokenizer gave up on this text"),
        ("gives_up", "ꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮꙮ", "gave up on this text"),
    ] {
        let path = format!("/v1/models/{model}:predict");
        for _ in 0..3 {
            let text = format!("{text}!");
            let refused = app.predict(&path, json!({ "instances": ["fine", text.as_str()] }).to_string()).await;
            assert_eq!((refused.status, refused.header("content-type")), (400, "application/json"), "{}", refused.text);
            let detail = refused.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.starts_with("instances[1]: ") && detail.contains(problem), "{detail}");
        }
        let answer = app.predict(&path, json!({ "instances": ["fine", "ꙮ"] }).to_string()).await;
        assert_eq!(answer.predictions().as_array().unwrap().len(), 2);
    }
}

/// Number of stages that have checked their deadline and ended.
static ENDED: AtomicUsize = AtomicUsize::new(0);

/// A preprocessor that runs until its deadline, either on a thread of its own or on one that serves connections.
struct Endless {
    is_heavy: bool,
}

impl Preprocessor for Endless {
    fn transform(&self, _: &RawValue, deadline: Deadline) -> Result<Prepared> {
        loop {
            if let Err(error) = deadline.check() {
                ENDED.fetch_add(1, SeqCst);
                return Err(error);
            }
        }
    }

    fn is_heavy(&self) -> bool {
        self.is_heavy
    }
}

fn make_endless(_: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    Ok(Box::new(Endless { is_heavy: true }))
}

fn make_endless_inline(_: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
    Ok(Box::new(Endless { is_heavy: false }))
}

/// There is one place for heavy stages. If the first did not end, the second would never start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_ends_at_the_deadline_of_its_request() {
    let stages = Stages::default()
        .with_preprocessor("endless", make_endless)
        .with_preprocessor("endless_inline", make_endless_inline);
    let model_toml = |kind: &str| {
        format!("{}[budget]\ntotal_ms = 250\n", TENSOR_STAGES.replacen("\"tensor\"", &format!("\"{kind}\""), 1))
    };
    let repository = Repository::new().with("heavy", 1, "echo_float32", &model_toml("endless")).with(
        "light",
        1,
        "echo_float32",
        &model_toml("endless_inline"),
    );
    let mut config = repository.config();
    config.http.threads = leeway::config::Count::Fixed(1.try_into().unwrap());
    let app = TestApp::with_parts(config, runtime(), stages).await;
    for (index, model) in ["heavy", "heavy", "light"].into_iter().enumerate() {
        let answer = app.predict(&format!("/v1/models/{model}:predict"), r#"{"instances": [[1, 2]]}"#).await;
        assert_eq!(answer.status, 504, "{model}: {}", answer.text);
        assert!(answer.text.contains("time ran out during preprocess"), "{}", answer.text);
        until(async || (ENDED.load(SeqCst) > index).then_some(())).await;
    }
}

/// ONNX Runtime's strings end at the first NUL, so it would refuse the whole batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_nul_in_a_string_is_a_400_before_anything_is_run() {
    let table = PLAIN.replacen(
        "\"tensor\"",
        "\"tabular\"\n[[preprocess.columns]]\nname = \"island\"\n[[preprocess.columns]]\nname = \"sex\"",
        1,
    );
    let repository = Repository::of("echo_string").with("table", 1, "echo_string", &table);
    let app = TestApp::with(repository.config()).await;
    for (model, instances, place) in [
        ("echo_string", r#"[["a", "x"], ["b", "x"], ["x", "c\u0000d"]]"#, "instances[2][1]: "),
        ("echo_string", r#"[["\u0000", "x"]]"#, "instances[0][0]: "),
        ("table", r#"[{"island": "a", "sex": "x"}, {"sex": "", "island": "\u0000"}]"#, "instances[1].island: "),
    ] {
        let path = format!("/v1/models/{model}:predict");
        let refused = app.predict(&path, format!(r#"{{"instances": {instances}}}"#)).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with(&format!("{place}found a string with a NUL character")), "{detail}");
    }
    let runs = app.metric(r#"leeway_batch_size_count{model="echo_string",version="1"}"#).await;
    assert_eq!(runs, 0.0);
}

/// Duplicate keys, and an array instead of an object, are refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_there_twice_and_an_array_in_the_place_of_an_object_are_400() {
    let table = PLAIN.replacen("\"tensor\"", "\"tabular\"", 1);
    let repository =
        Repository::of("echo_float32").with("table", 1, "table", &table).with("two_inputs", 1, "two_inputs", PLAIN);
    let app = TestApp::with(repository.config()).await;
    for (model, body) in [
        ("echo_float32", r#"{"instances": [[1, 2]], "instances": [[1, 2]]}"#),
        ("echo_float32", r#"{"instances": [[1, 2]], "inst\u0061nces": [[1, 2]]}"#),
        ("echo_float32", r#"[[[1, 2]]]"#),
        ("echo_float32", r#"[{"instances": [[1, 2]]}]"#),
        ("echo_float32", r#"{"instances": {"0": [1, 2]}}"#),
        ("echo_float32", r#"{"instances": [{"x": [1, 2], "x": [1, 2]}]}"#),
        ("table", r#"{"instances": [[1, 2, 3]]}"#),
        ("two_inputs", r#"{"instances": [[[1], [2]]]}"#),
    ] {
        let refused = app.predict(&format!("/v1/models/{model}:predict"), body).await;
        assert_eq!(refused.status, 400, "{body}: {}", refused.text);
    }
}
