//! Tests of settings, of shapes that do not fit, and of limits. Masks of whole models are in `tests/leeway/masks.rs`.

use super::*;
use crate::pipeline::stage_context::of_settings;
use crate::tensor::{DType, Dim, Signature, TensorSpec};

fn stage(settings: &str, dtype: DType, dims: &[Dim]) -> Result<Box<dyn Postprocessor>, String> {
    let output = TensorSpec { name: "out".into(), dtype, dims: dims.to_vec() };
    let signature = Signature { outputs: vec![output], ..Signature::default() };
    let settings = format!(r#"{{"kind": "mask"{settings}}}"#);
    of_settings(make, &settings, &signature).map_err(|error| error.to_string())
}

fn decode(settings: &str, shape: &[usize], data: Data) -> Result<String, String> {
    let open = vec![Dim::Dynamic(None); shape.len()];
    let stage = stage(settings, data.dtype(), &open)?;
    let outputs = [("out".into(), Tensor::new(shape.to_vec(), data).unwrap())].into_iter().collect();
    let predictions = stage.decode(&outputs, &Origin::Unknown).map_err(|error| error.to_string())?;
    Ok(serde_json::to_string(&predictions).unwrap())
}

const LOGITS: &str = r#", "scores": "logits""#;

#[test]
fn scores_become_classes_in_the_order_of_the_rows() {
    let settings = r#", "scores": "probabilities", "labels": ["road", "car"], "format": "rle""#;
    let scores = vec![0.75, 0.25, 0.25, 0.75, 0.5, 0.5, 0.5, 0.5];
    let road = r#"{"class":0,"label":"road","share":0.5,"confidence":0.75,"rle":{"size":[1,2],"counts":[0,1,1]}}"#;
    let car = r#"{"class":1,"label":"car","share":0.5,"confidence":0.75,"rle":{"size":[1,2],"counts":[1,1]}}"#;
    let all = r#"{"class":0,"label":"road","share":1.0,"confidence":0.5,"rle":{"size":[1,2],"counts":[0,2]}}"#;
    let expected = format!(r#"[{{"size":[1,2],"classes":[{road},{car}]}},{{"size":[1,2],"classes":[{all}]}}]"#);
    assert_eq!(decode(settings, &[2, 2, 1, 2], Data::F32(scores)).unwrap(), expected);
}

#[test]
fn class_numbers_have_no_confidence() {
    let found = decode(r#", "format": "rle""#, &[1, 1, 2], Data::I64(vec![7, 7])).unwrap();
    let class = r#"{"class":7,"label":"class 7","share":1.0,"rle":{"size":[1,2],"counts":[0,2]}}"#;
    assert_eq!(found, format!(r#"[{{"size":[1,2],"classes":[{class}]}}]"#));
    assert_eq!(decode(r#", "format": "rle""#, &[1, 1, 1, 2], Data::U8(vec![7, 7])).unwrap(), found);
}

#[test]
fn settings_that_do_not_fit_the_model_are_refused() {
    let fixed = |dims: &[usize]| dims.iter().map(|dim| Dim::Fixed(*dim)).collect::<Vec<_>>();
    let check = |settings: &str, dtype, dims: &[usize], expected: &str| {
        let error = stage(settings, dtype, &fixed(dims)).err().unwrap();
        assert!(error.contains(expected), "{error}");
    };
    check("", DType::F32, &[1, 3, 8, 8], "scores: say what they are");
    check(LOGITS, DType::I64, &[1, 8, 8], "whole numbers, which are read as the numbers of classes");
    check(LOGITS, DType::F32, &[1, 8, 8, 3], "say which dimension has the classes: \"channels-first\"");
    check(
        r#", "scores": "logits", "layout": "channels-last""#,
        DType::F32,
        &[1, 8, 8],
        "has no dimension for the classes",
    );
    let open = [Dim::Dynamic(None), Dim::Dynamic(None), Dim::Dynamic(None), Dim::Fixed(3)];
    assert!(stage(LOGITS, DType::F32, &open).err().unwrap().contains("say which dimension has the classes"));
    check(LOGITS, DType::F32, &[1, 500, 500, 600], "a mask has at most 255");
    check(LOGITS, DType::F32, &[1, 10], "but a mask is made from [rows, classes, height, width]");
    check(r#", "scores": "logits", "threshold": 0.3"#, DType::F32, &[1, 3, 8, 8], "threshold: only applies");
    check(r#", "scores": "logits", "threshold": 3"#, DType::F32, &[1, 1, 8, 8], "threshold: 3 is not within 0 to 1");
    check(
        r#", "scores": "logits", "labels": ["a", "b"]"#,
        DType::F32,
        &[1, 3, 8, 8],
        r#"labels: there are 2, but the output "out" is float32[1, 3, 8, 8], which distinguishes 3 classes"#,
    );
}

#[test]
fn outputs_that_do_not_fit_are_errors_and_no_masks() {
    let check = |settings: &str, shape: &[usize], data: Data, expected: &str| {
        let error = decode(settings, shape, data).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    let labelled = r#", "scores": "logits", "labels": ["a", "b", "c"]"#;
    check(labelled, &[1, 2, 1, 1], Data::F32(vec![0.0; 2]), "with scores of 3 classes was expected");
    check(LOGITS, &[1, 2, 1, 1], Data::F32(vec![0.0, f32::NAN]), "finite");
    check(r#", "scores": "probabilities""#, &[1, 1, 1], Data::F32(vec![2.0]), "is declared as probabilities but has");
    check(
        r#", "labels": ["a", "b"]"#,
        &[1, 1, 1],
        Data::I32(vec![-1]),
        "has the value -1, where the number of a class",
    );
    check(r#", "labels": ["a", "b"]"#, &[1, 1, 1], Data::I32(vec![2]), "from 0 to 1 was expected");
    check("", &[1, 3, 1, 1], Data::I32(vec![0; 3]), "one class for each pixel");
    check(
        r#", "scores": "logits", "threshold": 0.3"#,
        &[1, 3, 1, 1],
        Data::F32(vec![0.0; 3]),
        "one score for each pixel",
    );
    check(
        r#", "scores": "logits", "max_pixels": 3"#,
        &[1, 1, 2, 2],
        Data::F32(vec![0.0; 4]),
        "4 pixels together, more than the 3",
    );
}
