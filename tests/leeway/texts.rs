//! The tiny transformer with its own tokenizer, compared with sentence-transformers; and invalid texts.

use serde_json::{Value, json};

use crate::harness::{TestApp, checkout, config};

async fn app() -> TestApp {
    let mut config = config();
    let repository = tempfile::tempdir().unwrap();
    let from = checkout().join("tests/data/text/sentences");
    crate::harness::copy_folder(&from.join("1"), &repository.path().join("sentences/1"));
    let settings = std::fs::read_to_string(from.join("model.toml")).unwrap();
    let patient = settings.replace("total_ms = 1000", "total_ms = 600000");
    assert_ne!(patient, settings);
    std::fs::write(repository.path().join("sentences/model.toml"), patient).unwrap();
    config.repository.path = repository.path().into();
    // The repository has been read when this returns, so that it may be deleted.
    TestApp::with(config).await
}

fn held_out() -> Value {
    let text = std::fs::read_to_string(checkout().join("tests/data/text/held_out.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// 1 − cos of the angle between two vectors.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    1.0 - product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

/// Texts of 3 to 400 words: alone, all in one request, and each in a concurrent request.
#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_what_sentence_transformers_makes_also_beside_strangers() {
    let (app, held_out) = (app().await, held_out());
    let texts = held_out["instances"].as_array().unwrap();
    assert_eq!(texts.len(), 100);
    let check = |index: usize, prediction: &Value| {
        let (ours, theirs) = (vector(&prediction["embedding"]), vector(&held_out["embeddings"][index]));
        assert!(distance(&ours, &theirs) < 1e-6, "text {index}: {}", distance(&ours, &theirs));
        let most = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(most < 1e-5, "text {index}: {most}");
    };
    let all = app.predict("/predict", json!({ "instances": texts }).to_string()).await.predictions();
    all.as_array().unwrap().iter().enumerate().for_each(|(index, prediction)| check(index, prediction));
    for _ in 0..3 {
        let bodies = texts.iter().map(|text| json!({ "instances": [text] }).to_string());
        let ask = |body| async { app.predict("/predict", body).await.predictions() };
        let answers = futures(bodies.map(ask)).await;
        for (index, answer) in answers.iter().enumerate() {
            check(index, &answer[0]);
        }
    }
    // Texts of one length shared runs.
    let rows = app.metric("leeway_batch_size_sum{model=\"sentences\",version=\"1\"}").await;
    let runs = app.metric("leeway_batch_size_count{model=\"sentences\",version=\"1\"}").await;
    assert!(rows / runs > 1.2, "{rows} rows in {runs} runs");
}

/// Sends all of them concurrently.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in all.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_text_is_refused_with_what_to_change() {
    let app = app().await;
    let cases = [
        ("a number", "[1]".to_owned()),
        ("null", r#"["a", null]"#.to_owned()),
        ("true", "[true]".to_owned()),
        ("an object", r#"[{"text": "a"}]"#.to_owned()),
        ("an empty array as a pair", "[[]]".to_owned()),
        ("a pair of one", r#"[["a"]]"#.to_owned()),
        ("a pair of three", r#"[["a", "b", "c"]]"#.to_owned()),
        ("a pair with a number", r#"[["a", 1]]"#.to_owned()),
        ("a pair with null", r#"[[null, "a"]]"#.to_owned()),
        ("a pair of pairs", r#"[[["a"], ["b"]]]"#.to_owned()),
        ("token numbers", "[[101, 102]]".to_owned()),
        ("a text in place of the array", r#""a""#.to_owned()),
        ("an object in place of the array", r#"{"text": "a"}"#.to_owned()),
        ("no text", "[]".to_owned()),
        ("a text of a megabyte", format!("[{:?}]", "word ".repeat(200_000))),
        ("a megabyte without a space", format!("[{:?}]", "x".repeat(1 << 20))),
        ("a megabyte of spaces", format!("[{:?}]", " ".repeat(1 << 20))),
        ("a megabyte as the second of a pair", format!("[[\"a\", {:?}]]", "ä".repeat(1 << 19))),
        ("a long text as the third of three", format!("[\"a\", \"b\", {:?}]", "é".repeat(70_000))),
        ("half a character", r#"["\ud83d"]"#.to_owned()),
        ("the other half", r#"["\udc4d"]"#.to_owned()),
        ("an unknown escape", r#"["\x41"]"#.to_owned()),
        ("a line end within a text", "[\"a\nb\"]".to_owned()),
        ("single quotes", "['a']".to_owned()),
        ("no quotes", "[a]".to_owned()),
        ("a text without its end", r#"["a]"#.to_owned()),
        ("a comma too many", r#"["a",]"#.to_owned()),
        ("two texts without a comma", r#"["a" "b"]"#.to_owned()),
        ("NaN", "[NaN]".to_owned()),
        ("5,000 texts", json!(vec!["a"; 5000]).to_string()),
    ];
    let mut seen = String::new();
    for (name, instances) in cases {
        let answer = app.predict("/predict", format!(r#"{{"instances": {instances}}}"#)).await;
        seen.push_str(&format!("{name}: {}\n    {}\n", answer.status, answer.json()["detail"].as_str().unwrap()));
    }
    insta::assert_snapshot!(seen);
    let invalid = [br#"{"instances": [""#.as_slice(), &[0xc3, 0x28], br#""]}"#].concat();
    assert_eq!(app.predict("/predict", invalid).await.status, 400);
    // Every text has an answer.
    let long = app.predict("/predict", json!({ "instances": [["a ".repeat(9_000), "b ".repeat(9_000)]] }).to_string());
    assert_eq!(long.await.predictions().as_array().unwrap().len(), 1);
    for text in ["", " ", "\u{0}", "\u{1f44d}\u{200d}", "[CLS] [PAD] [SEP]", "\u{202e}abc", "ﷺ"] {
        let answer = app.predict("/predict", json!({ "instances": [text, [text, "a"]] }).to_string()).await;
        assert_eq!(answer.predictions().as_array().unwrap().len(), 2, "{text:?}");
    }
}
