//! The body of a prediction request, from its bytes to tensors, by stages that read numbers, texts, tables and images.

#![no_main]

use std::sync::LazyLock;

use leeway::pipeline::instances;
use leeway::tensor::DType;
use leeway_fuzz::{Stage, input, refused};
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use serde_json::json;
use serde_json::value::RawValue;

/// Rows of four numbers: what most models take.
static NUMBERS: LazyLock<Stage> = LazyLock::new(|| {
    let columns = ["a", "b", "c", "d"];
    Stage::new(json!({ "kind": "tensor", "columns": columns }), vec![input("x", DType::F32, &[Some(4)])])
});

static OTHERS: LazyLock<Vec<Stage>> = LazyLock::new(|| {
    let named = vec![
        input("half", DType::F16, &[Some(2)]),
        input("double", DType::F64, &[]),
        input("whole", DType::I64, &[None]),
        input("byte", DType::U8, &[Some(1)]),
        input("text", DType::Text, &[None, Some(2)]),
        input("flag", DType::Bool, &[]),
    ];
    let columns = json!([
        { "name": "age", "missing": 0, "clip": [0, 120], "standardise": { "mean": 40, "deviation": 12.5 } },
        { "name": "amount", "log1p": true, "clip": [0, 1e9] },
        { "name": "country", "vocabulary": ["NL", "DE", "FR"], "encoding": "one-hot", "unknown": "ignore" },
        { "name": "plan", "vocabulary": ["basic", 2, 3], "unknown": "other", "missing": "basic" },
        { "name": "member", "kind": "boolean", "missing": false },
    ]);
    let own_inputs = vec![
        input("age", DType::I64, &[Some(1)]),
        input("large", DType::U64, &[Some(1)]),
        input("name", DType::Text, &[Some(1)]),
        input("score", DType::F64, &[Some(1)]),
        input("member", DType::Bool, &[Some(1)]),
    ];
    vec![
        Stage::new(json!({ "kind": "tensor" }), vec![input("x", DType::I64, &[None, Some(2)])]),
        Stage::new(json!({ "kind": "tensor" }), vec![input("x", DType::Text, &[])]),
        Stage::new(json!({ "kind": "tensor" }), named),
        Stage::new(json!({ "kind": "tabular", "columns": columns }), vec![input("x", DType::F32, &[Some(7)])]),
        Stage::new(json!({ "kind": "tabular", "extra_columns": "ignore" }), own_inputs),
        Stage::new(
            json!({ "kind": "image", "size": [2, 2], "max_pixels": 4096 }),
            vec![input("x", DType::F32, &[3, 2, 2].map(Some))],
        ),
    ]
});

fuzz_target!(|body: &[u8]| {
    let raw = match instances(body) {
        Ok(raw) => raw,
        Err(error) => return refused(error),
    };
    let rows = serde_json::from_str::<Vec<IgnoredAny>>(raw.get()).map(|rows| rows.len()).ok();
    if let Some(prepared) = NUMBERS.run(|stage, deadline| stage.transform(raw, deadline), rows) {
        // Each number is the one that is nearest to what was written. (A row may be an object with the input's name, too.)
        if let Ok(written) = serde_json::from_str::<Vec<Vec<&RawValue>>>(raw.get()) {
            let nearest = written.into_iter().flatten().map(|number| number.get().parse::<f32>());
            let read = prepared.inputs.at(0).and_then(|tensor| tensor.values::<f32>()).expect("numbers");
            assert!(nearest.eq(read.iter().copied().map(Ok)), "other numbers than were written: {read:?}");
        }
    }
    for stage in OTHERS.iter() {
        stage.run(|stage, deadline| stage.transform(raw, deadline), rows);
    }
});
