//! Criterion: the cost of preprocessing, each stage compared with the library that does its work, if it uses one.
//!
//!     make bench-micro
//!
//! - `tabular`: rows of ten columns, from JSON; compared with reading the request's envelope alone.
//! - `text`: the stage, and the `tokenizers` crate alone on the same texts.
//! - `image`: from a JPEG of 640 x 427 to 3 x 224 x 224. (`make bench-python` compares it with Pillow.)

#![expect(clippy::unwrap_used, reason = "a bench")]

use std::collections::BTreeMap;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use leeway::budget::Deadline;
use leeway::pipeline::{Preprocessor, StageContext, Stages, instances};
use leeway::tensor::{DType, Dim, Signature, TensorSpec};
use leeway_testkit::checkout;
use serde_json::{Value, json};

fn file(path: &str) -> Vec<u8> {
    std::fs::read(checkout().join(path)).unwrap()
}

fn stage(settings: &Value, inputs: Vec<TensorSpec>, files: &BTreeMap<String, Vec<u8>>) -> Box<dyn Preprocessor> {
    let config = serde_json::from_value(settings.clone()).unwrap();
    let signature = Signature { inputs, ..Signature::default() };
    Stages::default().preprocessor(StageContext::new(&config, &signature, files)).unwrap()
}

fn input(name: &str, dtype: DType, row: Vec<Dim>) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, dims: [Dim::Dynamic(None)].into_iter().chain(row).collect() }
}

fn tabular(criterion: &mut Criterion) {
    let mut columns: Vec<Value> = (0..7).map(|column| json!({ "name": format!("number_{column}") })).collect();
    columns[0]["standardise"] = json!({ "mean": 40, "deviation": 12.5 });
    columns[1]["clip"] = json!([0, 100]);
    columns[2]["missing"] = json!(0);
    columns.push(json!({ "name": "country", "vocabulary": ["NL", "DE", "FR", "BE"], "encoding": "one-hot" }));
    columns.push(json!({ "name": "plan", "vocabulary": ["basic", "plus", "pro"], "unknown": "other" }));
    columns.push(json!({ "name": "member", "kind": "boolean" }));
    let settings = json!({ "kind": "tabular", "columns": columns });
    let stage = stage(&settings, vec![input("x", DType::F32, vec![Dim::Fixed(13)])], &BTreeMap::new());
    let mut random = fastrand::Rng::with_seed(1);
    let row = |_| {
        let mut row: serde_json::Map<String, Value> = serde_json::Map::new();
        for column in 0..7 {
            let value =
                if column < 3 { json!(random.u32(0..1000)) } else { json!(f64::from(random.u32(0..100_000)) / 100.0) };
            row.insert(format!("number_{column}"), value);
        }
        row.insert("country".to_owned(), json!(["NL", "DE", "FR", "BE"][random.usize(0..4)]));
        row.insert("plan".to_owned(), json!(["basic", "plus", "pro"][random.usize(0..3)]));
        row.insert("member".to_owned(), json!(random.bool()));
        Value::Object(row)
    };
    let rows: Vec<Value> = (0..1000).map(row).collect();
    let mut group = criterion.benchmark_group("tabular");
    for count in [1, 1000] {
        let body = json!({ "instances": rows[..count] }).to_string().into_bytes();
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("stage", count), &body, |bencher, body| {
            let instances = instances(body).unwrap();
            bencher.iter(|| stage.transform(instances, Deadline::never()).unwrap());
        });
        group.bench_with_input(BenchmarkId::new("envelope", count), &body, |bencher, body| {
            bencher.iter(|| instances(body).unwrap());
        });
    }
    group.finish();
}

fn text(criterion: &mut Criterion) {
    let tokenizer = file("tests/data/text/sentences/1/tokenizer.json");
    let alone = {
        let mut alone = tokenizers::Tokenizer::from_bytes(&tokenizer).unwrap();
        alone.with_padding(None);
        let truncation = tokenizers::TruncationParams { max_length: 512, ..Default::default() };
        alone.with_truncation(Some(truncation)).unwrap();
        alone
    };
    let files = [("tokenizer.json".to_owned(), tokenizer)].into();
    let tokens = |name| input(name, DType::I64, vec![Dim::Dynamic(None)]);
    let inputs = ["input_ids", "attention_mask", "token_type_ids"].map(tokens).to_vec();
    let stage = stage(&json!({ "kind": "text", "max_tokens": 512 }), inputs, &files);
    let held_out: Value = serde_json::from_slice(&file("tests/data/text/held_out.json")).unwrap();
    let texts: Vec<&str> =
        held_out["instances"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let mut group = criterion.benchmark_group("text");
    for (name, texts) in [("short", &texts[10..30]), ("long", &texts[60..70])] {
        let body = json!({ "instances": texts }).to_string().into_bytes();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("stage", name), |bencher| {
            bencher.iter(|| stage.transform(instances(&body).unwrap(), Deadline::never()).unwrap());
        });
        group.bench_function(BenchmarkId::new("tokenizers alone", name), |bencher| {
            bencher.iter(|| texts.iter().map(|text| alone.encode(*text, true).unwrap().len()).sum::<usize>());
        });
    }
    group.finish();
}

fn image(criterion: &mut Criterion) {
    let photograph = file("tests/data/images/china.jpg");
    let mut group = criterion.benchmark_group("image");
    for filter in ["bilinear", "bicubic"] {
        let settings =
            json!({ "kind": "image", "size": [224, 224], "resize": "crop", "shortest": 256, "filter": filter });
        let row = [3, 224, 224].map(Dim::Fixed).to_vec();
        let stage = stage(&settings, vec![input("x", DType::F32, row)], &BTreeMap::new());
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("stage", filter), |bencher| {
            bencher.iter(|| stage.transform_raw("image/jpeg", &photograph, Deadline::never()).unwrap());
        });
    }
    group.bench_function("decoding alone", |bencher| {
        bencher.iter(|| image::load_from_memory(&photograph).unwrap().into_rgb8());
    });
    group.finish();
}

criterion_group!(benches, tabular, text, image);
criterion_main!(benches);
