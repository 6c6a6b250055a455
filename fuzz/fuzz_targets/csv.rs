//! Rows as CSV: of a table, and of a list of numbers.

#![no_main]

use std::num::NonZeroUsize;
use std::sync::LazyLock;

use leeway::budget::MemoryBudget;
use leeway::pipeline::{CsvHeader, InstanceForm, NamedRows, instances_of};
use leeway::tensor::DType;
use leeway_fuzz::{Stage, input, refused};
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use serde_json::value::RawValue;

const MAX_ROWS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

static FORMS: LazyLock<Vec<InstanceForm>> = LazyLock::new(|| {
    let columns = json!([{ "name": "a" }, { "name": "b" }]);
    let own = vec![input("a", DType::F32, &[Some(1)]), input("b", DType::Text, &[Some(1)])];
    [
        Stage::new(json!({ "kind": "tabular", "columns": columns }), own),
        Stage::new(json!({ "kind": "tensor" }), vec![input("x", DType::F32, &[None])]),
    ]
    .iter()
    .filter_map(Stage::instance_form)
    .collect()
});

fuzz_target!(|text: &str| {
    let memory = MemoryBudget::new(1 << 22, NonZeroUsize::MIN);
    for form in FORMS.iter() {
        for header in [CsvHeader::Recognised, CsvHeader::Present, CsvHeader::Absent] {
            match instances_of(&NamedRows::Csv { text, header }, Some(form), MAX_ROWS, &memory) {
                Ok(instances) => {
                    // Numbers may be larger than any float: the preprocessor refuses them.
                    let rows: Vec<&RawValue> = serde_json::from_str(instances.json().get()).expect("a JSON array");
                    assert!((1..=MAX_ROWS.get()).contains(&rows.len()), "{} rows", rows.len());
                }
                Err(error) => refused(error),
            }
        }
    }
    assert_eq!(memory.held(), 0);
});
