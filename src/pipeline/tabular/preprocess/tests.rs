//! Tests of `preprocess.rs`.

use proptest::prelude::*;

use super::*;
use crate::pipeline::stage_context::of_settings;
use crate::tensor::DType;

fn signature(inputs: &[(&str, DType, Option<usize>)]) -> Signature {
    let input = |&(name, dtype, width): &(&str, DType, Option<usize>)| {
        let dims = [Dim::Dynamic(None)].into_iter().chain(width.map(Dim::Fixed)).collect();
        TensorSpec { name: name.into(), dtype, dims }
    };
    Signature { inputs: inputs.iter().map(input).collect(), ..Signature::default() }
}

fn stage(columns: &str, signature: &Signature) -> Result<Box<dyn Preprocessor>, SetupError> {
    of_settings(make, &format!(r#"{{"kind": "tabular"{columns}}}"#), signature)
}

fn prepare(stage: &dyn Preprocessor, instances: &str) -> Result<Prepared, String> {
    let raw: Box<RawValue> = serde_json::from_str(instances).unwrap();
    stage.transform(&raw, Deadline::never()).map_err(|error| error.to_string())
}

const MIXED: &str = r#", "columns": [
        {"name": "age", "missing": 40, "clip": [0, 100], "standardise": {"mean": 40, "deviation": 20}},
        {"name": "income", "log1p": true},
        {"name": "colour", "vocabulary": ["red", "blue"], "encoding": "one-hot", "unknown": "other", "missing": "unknown"},
        {"name": "grade", "vocabulary": [3, 1, 2], "missing": 1},
        {"name": "member", "kind": "boolean", "missing": false}
    ]"#;

#[test]
fn columns_become_parts_of_a_row() {
    let stage = stage(MIXED, &signature(&[("x", DType::F32, Some(7))])).unwrap();
    let prepared = prepare(
        &*stage,
        r#"[{"age": 60, "income": 0, "colour": "blue", "grade": 2, "member": true},
                {"grade": 3, "age": 1000, "colour": "green", "income": 0.0},
                {"age": null, "income": 0, "colour": null, "grade": null, "member": false}]"#,
    )
    .unwrap();
    let x = prepared.inputs.get("x").unwrap();
    assert_eq!(x.shape(), [3, 7]);
    #[rustfmt::skip]
        let expected = [
            1.0, 0.0, 0.0, 1.0, 0.0, 2.0, 1.0,
            3.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0,
        ];
    assert_eq!(x.values::<f32>().unwrap(), expected);
    // The monitored values are those that were sent.
    let schema = stage.features();
    assert_eq!(schema.numbers.iter().map(|name| &**name).collect::<Vec<_>>(), ["age", "income"]);
    assert_eq!(schema.texts.iter().map(|name| &**name).collect::<Vec<_>>(), ["colour", "grade", "member"]);
    assert_eq!(prepared.features.numbers_of(1), [1000.0, 0.0]);
    assert_eq!(prepared.features.texts_of(1), [Some("green".to_owned()), Some("3".to_owned()), None]);
    assert!(prepared.features.numbers_of(2)[0].is_nan());
}

#[test]
fn each_column_can_be_an_input_of_its_own() {
    let inputs = [
        ("age", DType::F32, Some(1)),
        ("city", DType::Text, Some(1)),
        ("visits", DType::I64, None),
        ("member", DType::Bool, Some(1)),
    ];
    let stage = stage("", &signature(&inputs)).unwrap();
    let prepared = prepare(&*stage, r#"[{"city": "Köln", "age": 1.5, "member": true, "visits": 7}]"#).unwrap().inputs;
    assert_eq!(prepared.get("age").unwrap().values::<f32>().unwrap(), [1.5]);
    assert_eq!(prepared.get("city").unwrap().values::<String>().unwrap(), ["Köln"]);
    assert_eq!(
        (prepared.get("visits").unwrap().shape(), prepared.get("visits").unwrap().values::<i64>().unwrap()),
        (&[1][..], &[7][..])
    );
    assert_eq!(prepared.get("member").unwrap().values::<bool>().unwrap(), [true]);
    let columns: Vec<bool> = stage.table().unwrap().columns.into_iter().map(|column| column.is_text).collect();
    assert_eq!(columns, [false, true, false, false]);
}

#[test]
fn a_missing_number_can_be_left_to_the_model() {
    let columns = r#", "columns": [{"name": "a", "missing": "nan"}, {"name": "b"}]"#;
    let stage = stage(columns, &signature(&[("x", DType::F64, Some(2))])).unwrap();
    let prepared = prepare(&*stage, r#"[{"b": 2}]"#).unwrap().inputs;
    let values = prepared.get("x").unwrap().values::<f64>().unwrap();
    assert!(values[0].is_nan() && values[1] == 2.0);
}

#[test]
fn a_missing_boolean_can_be_left_to_the_model() {
    let columns = r#", "columns": [{"name": "a", "kind": "boolean", "missing": "nan"}, {"name": "b"}]"#;
    let stage = stage(columns, &signature(&[("x", DType::F32, Some(2))])).unwrap();
    let prepared = prepare(&*stage, r#"[{"b": 2}, {"a": null, "b": 3}, {"a": true, "b": 4}]"#).unwrap();
    let values = prepared.inputs.get("x").unwrap().values::<f32>().unwrap();
    assert!(values[0].is_nan() && values[2].is_nan() && values[4] == 1.0);
    assert_eq!(prepared.features.texts[0], None);
}

/// pandas writes 1.0 in a boolean column with gaps.
#[test]
fn one_and_zero_are_booleans() {
    let stage = stage("", &signature(&[("member", DType::Bool, Some(1))])).unwrap();
    let rows = r#"[{"member": 1}, {"member": 0}, {"member": true}, {"member": 0.0}, {"member": 1.0}]"#;
    let prepared = prepare(&*stage, rows).unwrap();
    let booleans = [true, false, true, false, true];
    assert_eq!(prepared.inputs.get("member").unwrap().values::<bool>().unwrap(), booleans);
    let sent: Vec<Option<String>> = booleans.iter().map(|value| Some(value.to_string())).collect();
    assert_eq!(prepared.features.texts, sent);
}

#[test]
fn what_does_not_fit_is_refused_by_row_and_column() {
    let plain = stage(MIXED, &signature(&[("x", DType::F32, Some(7))])).unwrap();
    let good = r#""age": 1, "income": 1, "colour": "red", "grade": 1, "member": true"#;
    let check = |row: &str, problem: &str| {
        let instances = format!("[{{{good}}}, {row}]");
        assert_eq!(prepare(&*plain, &instances).unwrap_err(), format!("instances[1]{problem}"), "{row}");
    };
    check("[1, 2]", ": found an array, expected an object with the columns as keys");
    check("null", ": found null, expected an object with the columns as keys");
    check(r#"{"agee": 1}"#, ": unknown column \"agee\"; the columns are: age, income, colour, grade, member");
    check(r#"{"age": 1, "age": 2}"#, ": the column \"age\" occurs twice");
    check(r#"{"age": "old"}"#, ".age: found the string \"old\", expected a number");
    check(r#"{"age": 1e999}"#, ".age: 1e999 is not a value of type float64");
    check(r#"{"income": -1}"#, ".income: found -1, which has no log1p; expected a number above -1");
    check(r#"{"age": true}"#, ".age: found true, expected a number");
    check(r#"{"age": [1]}"#, ".age: found an array, expected a number");
    check(r#"{"grade": 9}"#, ".grade: found 9, expected one of the categories 3, 1, 2");
    check(r#"{"grade": 1.5}"#, ".grade: found 1.5, expected one of the categories 3, 1, 2");
    check(r#"{"grade": {}}"#, ".grade: found an object, expected a whole number, as in the vocabulary");
    check(r#"{"member": 2}"#, ".member: found the number 2, expected true, false, 1 or 0");
    check(r#"{"member": "true"}"#, ".member: found the string \"true\", expected true, false, 1 or 0");
    check(r#"{"colour": true}"#, ".colour: found true, expected a string, as in the vocabulary");
    check("{}", ".income: the value is missing, and the model needs it");
    let whole = stage("", &signature(&[("n", DType::I8, Some(1))])).unwrap();
    let refused = |value: &str| prepare(&*whole, &format!(r#"[{{"n": {value}}}]"#)).unwrap_err();
    assert_eq!(refused("1.5"), "instances[0].n: 1.5 is not a value of type int8");
    assert_eq!(refused("128"), "instances[0].n: 128 is not a value of type int8");
}

#[test]
fn extra_columns_are_passed_over_if_that_is_asked_for() {
    let stage = stage(r#", "extra_columns": "ignore""#, &signature(&[("a", DType::F32, Some(1))])).unwrap();
    let row = r#"{"id": "x,}\"", "more": {"b": [1, {"c": "]"}]}, "a": 7, "last": [[]]}"#;
    let prepared = prepare(&*stage, &format!("[{row}, {row}]")).unwrap().inputs;
    assert_eq!(prepared.get("a").unwrap().values::<f32>().unwrap(), [7.0, 7.0]);
}

#[test]
fn settings_that_do_not_fit_say_what_to_change() {
    let check = |columns: &str, inputs: &[(&str, DType, Option<usize>)], problem: &str| {
        let error = stage(&format!(r#", "columns": [{columns}]"#), &signature(inputs)).err().unwrap().to_string();
        assert!(error.contains(problem), "{error}");
    };
    let x = [("x", DType::F32, Some(2))];
    check(r#"{"name": "a"}"#, &x, "\"x\", which is float32[?, 2], have 1 elements a row");
    check(r#"{"name": "a"}, {"name": "a"}"#, &x, "column \"a\": it occurs twice");
    check(r#"{"name": "a", "kind": "text"}"#, &x, "a text does not go into an input of type float32");
    check(r#"{"name": "a", "vocabulary": []}"#, &x, "vocabulary: list the categories");
    check(r#"{"name": "a", "vocabulary": ["b", "b"]}"#, &x, "vocabulary: b occurs twice");
    check(r#"{"name": "a", "unknown": "other"}"#, &x, "unknown: only applies to a column of kind \"category\"");
    check(r#"{"name": "a", "vocabulary": ["b"], "unknown": "ignore"}"#, &x, "only a one-hot encoding can ignore");
    check(r#"{"name": "a", "vocabulary": ["b"], "missing": "c"}"#, &x, "missing: a category of the vocabulary");
    check(r#"{"name": "a", "clip": [2, 1]}"#, &x, "clip: 2 is not below 1");
    check(r#"{"name": "a", "standardise": {"mean": 1, "deviation": 0}}"#, &x, "the deviation has to be above 0");
    check(r#"{"name": "a", "input": "y"}"#, &x, "say which of the model's inputs it is part of; one of: x");
    check(r#"{"name": "n", "missing": "nan"}"#, &[("n", DType::I64, Some(1))], "int64 has no NaN");
    check(r#"{"name": "b", "missing": "nan"}"#, &[("b", DType::Bool, Some(1))], "bool has no NaN");
    check(r#"{"name": "a", "kind": "boolean", "missing": "no"}"#, &x, "missing: true, false, \"nan\" or \"error\"");
    check(r#"{"name": "n", "missing": 300}"#, &[("n", DType::I8, Some(1))], "missing: 300 is not a value of type int8");
    check(
        r#"{"name": "n", "missing": -2, "log1p": true}"#,
        &[("n", DType::F32, Some(1))],
        "missing: -2 is not a value",
    );
    check(r#"{"name": "t", "missing": "a\u0000"}"#, &[("t", DType::Text, Some(1))], "missing: a text without a NUL");
}

/// The setting `unknown` applies to unknown values, not to values of another type.
#[test]
fn a_category_of_another_type_is_refused_whatever_unknown_says() {
    for (encoding, unknown) in [("index", "error"), ("index", "other"), ("one-hot", "other"), ("one-hot", "ignore")] {
        for (vocabulary, value, message) in [
            ("[1, 2, 3]", r#""2""#, "found the string \"2\", expected a whole number, as in the vocabulary"),
            ("[1, 2, 3]", "true", "found true, expected a whole number, as in the vocabulary"),
            ("[1, 2, 3]", "[2]", "found an array, expected a whole number, as in the vocabulary"),
            (r#"["1", "2", "3"]"#, "2.5", "found the number 2.5, expected a string, as in the vocabulary"),
            (r#"["1", "2", 3]"#, "false", "found false, expected a string or a whole number, as in the vocabulary"),
            (r#"["1", "2", "3"]"#, "2", "found the number 2, expected a string, as in the vocabulary"),
        ] {
            let width = match (encoding, unknown) {
                ("index", _) => 1,
                (_, "other") => 4,
                _ => 3,
            };
            let column = format!(
                r#", "columns": [{{"name": "code", "vocabulary": {vocabulary}, "encoding": "{encoding}", "unknown": "{unknown}"}}]"#
            );
            let stage = stage(&column, &signature(&[("x", DType::F32, Some(width))])).unwrap();
            let instances = format!(r#"[{{"code": {value}}}]"#);
            let instances: Box<RawValue> = serde_json::from_str(&instances).unwrap();
            let error = stage.transform(&instances, Deadline::never()).unwrap_err().to_string();
            assert_eq!(error, format!("instances[0].code: {message}"), "{encoding} {unknown}");
        }
    }
}

/// Double precision cannot represent all whole numbers beyond 2^53.
#[test]
fn whole_numbers_are_exact_whatever_their_size_and_spelling() {
    let of = |dtype, columns: &str| stage(columns, &signature(&[("n", dtype, Some(1))])).unwrap();
    let read = |stage: &dyn Preprocessor, value: &str| {
        let prepared = prepare(stage, &format!(r#"[{{"n": {value}}}]"#))?;
        Ok::<_, String>(prepared.inputs.at(0).unwrap().data().clone())
    };
    let (signed, unsigned) = (of(DType::I64, ""), of(DType::U64, ""));
    for value in [9_007_199_254_740_991, 9_007_199_254_740_993, i64::MAX, i64::MIN, 7] {
        for text in [format!("{value}"), format!("{value}.0"), format!("{value}0e-1")] {
            assert_eq!(read(&*signed, &text), Ok(Data::I64(vec![value])), "{text}");
        }
    }
    assert_eq!(read(&*signed, "3e2"), Ok(Data::I64(vec![300])));
    assert_eq!(read(&*unsigned, &u64::MAX.to_string()), Ok(Data::U64(vec![u64::MAX])));
    for (value, problem) in [
        ("9223372036854775808", "9223372036854775808 is not a value of type int64"),
        ("1.5", "1.5 is not a value of type int64"),
        ("1e300", "1e300 is not a value of type int64"),
        ("1e999", "1e999 is not a value of type float64"),
    ] {
        assert_eq!(read(&*signed, value), Err(format!("instances[0].n: {problem}")));
    }
    let long = read(&*signed, &"7".repeat(301)).unwrap_err();
    assert_eq!(long, format!("instances[0].n: {} is not a value of type int64", "7".repeat(64)));
    // A clip does not change values within its range. The replacement of a missing value is exact, too.
    let clipped = of(DType::I64, r#", "columns": [{"name": "n", "clip": [0, 1e18], "missing": 9007199254740993}]"#);
    for (value, expected) in [
        ("9007199254740993", 9_007_199_254_740_993),
        ("1000000000000000001", 1_000_000_000_000_000_000),
        ("-1", 0),
        ("-0.5", 0),
        ("null", 9_007_199_254_740_993),
    ] {
        assert_eq!(read(&*clipped, value), Ok(Data::I64(vec![expected])), "{value}");
    }
    let scaled = of(DType::I8, r#", "columns": [{"name": "n", "standardise": {"mean": 0, "deviation": 0.5}}]"#);
    let problem = "instances[0].n: found 1e299, which becomes 2e299, and that is not a value of type int8";
    assert_eq!(read(&*scaled, "1e299"), Err(problem.to_owned()));
    let codes = of(DType::I64, r#", "columns": [{"name": "n", "vocabulary": [7, 9007199254740993]}]"#);
    assert_eq!(read(&*codes, "9007199254740993.0"), Ok(Data::I64(vec![1])));
    assert!(read(&*codes, "9007199254740992").is_err());
}

/// ONNX Runtime's strings end at the first NUL.
#[test]
fn a_nul_in_a_string_is_refused_where_it_stands() {
    let stage = stage("", &signature(&[("a", DType::Text, Some(1)), ("b", DType::Text, Some(1))])).unwrap();
    let refused = prepare(&*stage, r#"[{"a": "x", "b": "y"}, {"a": "x", "b": "y\u0000"}]"#).unwrap_err();
    assert_eq!(refused, "instances[1].b: found a string with a NUL character, which the model cannot take");
    assert!(prepare(&*stage, r#"[{"a": "\\u0000", "b": "\u0001"}]"#).is_ok());
}

/// A body of 4,096 rows of `{}` has 12 kB, but can become millions of elements.
#[test]
fn rows_that_are_much_of_little_are_heavy() {
    let columns = |count: usize, more: &str| {
        let columns: Vec<String> = (0..count).map(|column| format!(r#"{{"name": "c{column}"{more}}}"#)).collect();
        let width = if more.contains("one-hot") { 1000 * count } else { count };
        stage(&format!(r#", "columns": [{}]"#, columns.join(",")), &signature(&[("x", DType::F32, Some(width))]))
            .unwrap()
    };
    assert!(!columns(500, "").is_heavy());
    assert!(!columns(8, r#", "missing": 0"#).is_heavy());
    assert!(columns(500, r#", "missing": 0"#).is_heavy());
    let words: Vec<String> = (0..1000).map(|word| format!(r#""w{word}""#)).collect();
    let wide = format!(r#", "vocabulary": [{}], "encoding": "one-hot""#, words.join(","));
    assert!(columns(1, &wide).is_heavy());
}

/// Made-up rows are rows that a caller could send, and the three differ.
#[test]
fn samples_are_rows_that_it_takes() {
    let columns = r#", "columns": [
            {"name": "a", "standardise": {"mean": 40, "deviation": 12}, "clip": [0, 100]}, {"name": "b", "log1p": true},
            {"name": "c", "vocabulary": ["x", "y"]}, {"name": "d", "vocabulary": [1, 2], "encoding": "one-hot"},
            {"name": "e", "kind": "boolean"}, {"name": "n", "input": "whole"}, {"name": "t", "input": "text"}]"#;
    let inputs = [("x", DType::F32, Some(6)), ("whole", DType::I8, Some(1)), ("text", DType::Text, Some(1))];
    let columns = ["a", "b", "c", "d", "e"].iter().fold(columns.to_owned(), |columns, name| {
        columns.replace(&format!(r#"{{"name": "{name}""#), &format!(r#"{{"name": "{name}", "input": "x""#))
    });
    let stage = stage(&columns, &signature(&inputs)).unwrap();
    let rows = stage.samples().unwrap().map(|sample| {
        let instances = RawValue::from_string(format!("[{sample}]")).unwrap();
        stage.transform(&instances, Deadline::never()).unwrap().inputs
    });
    assert!(rows[0] != rows[1] && rows[1] != rows[2] && rows[0] != rows[2], "{rows:?}");
}

proptest! {
    /// The value of a column is written to the column's position, in any order of the keys.
    #[test]
    fn the_order_of_keys_changes_nothing(
        rows in prop::collection::vec(prop::array::uniform5(-1e6f64..1e6), 1..6), order in Just([0usize, 1, 2, 3, 4]).prop_shuffle(),
    ) {
        let columns: Vec<String> = (0..5).map(|column| format!(r#"{{"name": "c{column}"}}"#)).collect();
        let columns = format!(r#", "columns": [{}]"#, columns.join(","));
        let stage = stage(&columns, &signature(&[("x", DType::F64, Some(5))])).unwrap();
        let row = |row: &[f64; 5]| {
            let cells: Vec<String> = order.iter().map(|&column| format!(r#""c{column}": {:?}"#, row[column])).collect();
            format!("{{{}}}", cells.join(","))
        };
        let instances = format!("[{}]", rows.iter().map(row).collect::<Vec<_>>().join(","));
        let prepared = prepare(&*stage, &instances).unwrap();
        prop_assert_eq!(prepared.inputs.get("x").unwrap().values::<f64>().unwrap(), rows.concat());
    }
}

/// The schema allows an instance exactly if the stage does.
#[test]
fn the_schema_says_what_is_accepted() {
    let stage = stage(MIXED, &signature(&[("x", DType::F32, Some(7))])).unwrap();
    let schema = stage.instance_schema();
    let row = |members: &str| format!(r#"{{"income": 0, "grade": 2, {members}}}"#);
    for (instance, expected) in [
        (row(r#""age": 3"#), true),
        (row(r#""age": null, "colour": null, "member": null"#), true),
        (row(r#""age": "3""#), false),
        (row(r#""colour": "green""#), true),
        (row(r#""colour": 3"#), false),
        (row(r#""member": 1"#), true),
        (row(r#""member": 2"#), false),
        (row(r#""size": 2"#), false),
        (r#"{"income": -0.5}"#.to_owned(), true),
        (r#"{"income": -1}"#.to_owned(), false),
        (r#"{"income": null}"#.to_owned(), false),
        (r#"{"income": 1, "grade": 4}"#.to_owned(), false),
        (r#"{"income": 1, "grade": 3.0}"#.to_owned(), true),
        ("{}".to_owned(), false),
        ("[1]".to_owned(), false),
    ] {
        assert_eq!(prepare(&*stage, &format!("[{instance}]")).is_ok(), expected, "{instance}");
        assert_eq!(jsonschema::is_valid(&schema, &serde_json::from_str(&instance).unwrap()), expected, "{instance}");
    }
    for sample in stage.samples().unwrap() {
        assert!(jsonschema::is_valid(&schema, &serde_json::from_str(&sample).unwrap()), "{sample}");
    }
}
