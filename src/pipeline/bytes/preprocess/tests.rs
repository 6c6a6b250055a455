//! Tests of the whole bytes preprocessor: settings, element types, limits.

use super::*;
use crate::pipeline::stage_context::of_settings;
use crate::tensor::Signature;

fn stage(settings: &str, dtype: DType, length: Option<usize>) -> Result<Box<dyn Preprocessor>, SetupError> {
    let dims = vec![Dim::Dynamic(None), length.map_or(Dim::Dynamic(None), Dim::Fixed)];
    let inputs = vec![TensorSpec { name: "x".into(), dtype, dims }];
    let settings = format!(r#"{{"kind": "bytes"{settings}}}"#);
    of_settings(make, &settings, &Signature { inputs, ..Signature::default() })
}

fn prepared(settings: &str, dtype: DType, length: Option<usize>, file: &[u8]) -> Result<Data, String> {
    let stage = stage(settings, dtype, length).unwrap();
    let prepared = stage.transform_raw("application/octet-stream", file, Deadline::never());
    prepared.map(|prepared| prepared.inputs.get("x").unwrap().data().clone()).map_err(|error| error.to_string())
}

#[test]
fn bytes_become_the_numbers_of_the_model() {
    let check = |settings: &str, dtype, file: &[u8], expected: Data| {
        assert_eq!(prepared(settings, dtype, Some(4), file), Ok(expected), "{settings}");
    };
    check(r#", "padding": 256"#, DType::I32, b"ab", Data::I32(vec![97, 98, 256, 256]));
    check(r#", "padding": 0, "offset": 1"#, DType::I64, b"\xff", Data::I64(vec![256, 0, 0, 0]));
    check("", DType::U8, b"abcdef", Data::U8(b"abcd".to_vec()));
    check(r#", "end": 4"#, DType::F32, b"abcdef", Data::F32(vec![99.0, 100.0, 101.0, 102.0]));
    check(r#", "beginning": 1, "end": 3"#, DType::U16, b"abcdef", Data::U16(vec![97, 100, 101, 102]));
    let open = prepared(r#", "beginning": 2, "padding": 7"#, DType::I32, None, b"a");
    assert_eq!(open, Ok(Data::I32(vec![97, 7])));
}

#[test]
fn files_of_an_unexpected_length_are_refused() {
    let check = |settings: &str, file: &[u8], problem: &str| {
        let error = prepared(settings, DType::I32, Some(4), file).unwrap_err();
        assert_eq!(error, format!("the body: {problem}"), "{settings}");
    };
    check("", b"abc", "found a file of 3 bytes, expected at least 4, because preprocess.padding is not set");
    check(r#", "padding": 256"#, b"", "found a file of 0 bytes, expected at least 1 (preprocess.min_bytes)");
    check(
        r#", "padding": 256, "strip_whitespace": true, "min_bytes": 3"#,
        b"  ab",
        "found a file of 4 bytes, 2 of them in its first block after white space, expected at least 3 (preprocess.min_bytes)",
    );
    check(r#", "max_bytes": 4"#, b"abcde", "found a file of 5 bytes, at most 4 are accepted (preprocess.max_bytes)");
}

#[test]
fn settings_that_do_not_fit_say_what_to_change() {
    let check = |settings: &str, dtype, length, problem: &str| {
        let error = stage(settings, dtype, length).err().unwrap().to_string();
        assert!(error.contains(problem), "{settings}: {error}");
    };
    check("", DType::I32, None, "beginning: the model leaves the number of bytes open");
    check(r#", "beginning": 3"#, DType::I32, Some(4), "they are 3 and 0, but the model takes 4 bytes");
    check(r#", "end": 5"#, DType::I32, Some(4), "they are 0 and 5, but the model takes 4 bytes");
    check(r#", "block_size": 9"#, DType::I32, Some(4), "only applies to strip_whitespace = true");
    check(r#", "block_size": 3, "strip_whitespace": true"#, DType::I32, Some(4), "fewer than the 4");
    check(r#", "padding": 256"#, DType::U8, Some(4), "does not hold the numbers up to 256");
    check("", DType::I8, Some(4), "does not hold the numbers up to 255");
    check("", DType::Text, Some(4), "bytes become whole numbers, float32 or float64");
    check(r#", "max_bytes": 4, "min_bytes": 5"#, DType::I32, Some(4), "4 bytes are fewer than the 5 that a file needs");
    check(r#", "beginning": 20000000"#, DType::I32, None, "expected 1 to 16777216");
}

/// The model is tried with the samples, so they are of the files that it accepts.
#[test]
fn samples_are_files_that_are_accepted() {
    for settings in [
        "",
        r#", "padding": 256, "strip_whitespace": true, "min_bytes": 3"#,
        r#", "beginning": 1, "end": 3, "max_bytes": 3"#,
    ] {
        let stage = stage(settings, DType::I32, Some(4)).unwrap();
        for sample in stage.samples().unwrap() {
            let instances = RawValue::from_string(format!("[{sample}]")).unwrap();
            stage.transform(&instances, Deadline::never()).unwrap();
        }
    }
}
