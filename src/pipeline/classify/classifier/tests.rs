//! Tests of `classifier.rs`.

use proptest::prelude::*;

use super::*;
use crate::pipeline::classify::settings::make;
use crate::pipeline::stage_context::of_settings;
use crate::tensor::{DType, Data, Dim, Signature, Tensor, TensorSpec};

fn check(settings: &str, shape: [usize; 2], scores: &[f32], expected: std::result::Result<&[&str], &str>) {
    let dims = vec![Dim::Dynamic(None), Dim::Fixed(shape[1])];
    let output = TensorSpec { name: "p".into(), dtype: DType::F32, dims };
    let signature = Signature { outputs: vec![output], ..Signature::default() };
    let tensor = Tensor::new(shape.to_vec(), Data::F32(scores.to_vec())).unwrap();
    let outputs: Tensors = [("p".into(), tensor)].into_iter().collect();
    let decoded =
        of_settings(make, settings, &signature).and_then(|stage| Ok(stage.decode(&outputs, &Origin::Unknown)?));
    let decoded = decoded
        .map(|predictions| predictions.iter().map(|p| serde_json::to_string(p).unwrap()).collect::<Vec<_>>())
        .map_err(|error| error.to_string());
    let expected =
        expected.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>()).map_err(str::to_owned);
    assert_eq!(decoded, expected);
}

#[test]
fn probabilities_are_ranked() {
    check(
        r#"{"kind": "classifier", "scores": "probabilities", "labels": ["a", "b", "c"], "top_k": 2}"#,
        [2, 3],
        &[0.25, 0.5, 0.25, 1.0, 0.0, 0.0],
        Ok(&[
            r#"{"label":"b","confidence":0.5,"top":[{"label":"b","score":0.5},{"label":"a","score":0.25}]}"#,
            r#"{"label":"a","confidence":1.0,"top":[{"label":"a","score":1.0},{"label":"b","score":0.0}]}"#,
        ]),
    );
}

/// By definition, softmax(ln 1, ln 3) = (1/4, 3/4). It must not overflow.
#[test]
fn logits_go_through_softmax() {
    check(
        r#"{"kind": "classifier", "scores": "logits", "top_k": 1}"#,
        [2, 2],
        &[0.0, 3f32.ln(), 1000.0, 1000.0],
        Ok(&[
            r#"{"label":"class 1","confidence":0.75,"top":[{"label":"class 1","score":0.75}]}"#,
            r#"{"label":"class 0","confidence":0.5,"top":[{"label":"class 0","score":0.5}]}"#,
        ]),
    );
}

/// By definition, the logistic function of ln 3 is 3/4. At temperature 2, 2 ln 3 gives the same.
#[test]
fn one_score_decides_between_two_classes() {
    let three = 3f32.ln();
    let answer =
        r#"{"label":"yes","confidence":0.75,"top":[{"label":"yes","score":0.75},{"label":"no","score":0.25}]}"#;
    let settings =
        |more: &str| format!(r#"{{"kind": "classifier", "scores": "logits", "labels": ["no", "yes"]{more}}}"#);
    check(&settings(""), [1, 1], &[three], Ok(&[answer]));
    check(&settings(r#", "temperature": 2"#), [1, 1], &[2.0 * three], Ok(&[answer]));
    let cautious =
        r#"{"label":"no","confidence":0.25,"top":[{"label":"yes","score":0.75},{"label":"no","score":0.25}]}"#;
    check(&settings(r#", "threshold": 0.8"#), [1, 1], &[three], Ok(&[cautious]));
    check(&settings(r#", "threshold": 0.75"#), [1, 1], &[three], Ok(&[answer]));
    // Softmax of the two scores 0 and ln 3 gives the same.
    check(&settings(r#", "threshold": 0.8"#), [1, 2], &[0.0, three], Ok(&[cautious]));
}

#[test]
fn any_number_of_labels_can_be_right() {
    let three = 3f32.ln();
    let settings = r#"{"kind": "classifier", "scores": "logits", "multi_label": true, "labels": ["a", "b", "c"]}"#;
    check(
        settings,
        [2, 3],
        &[0.0, three, -three, -9.0, -9.0, -9.0],
        Ok(&[r#"{"labels":[{"label":"b","score":0.75},{"label":"a","score":0.5}]}"#, r#"{"labels":[]}"#]),
    );
}

#[test]
fn probabilities_that_are_declared_as_logits_raise_a_doubt() {
    let outputs = |row: [f32; 2]| -> Tensors {
        [("p".into(), Tensor::new(vec![1, 2], Data::F32(row.to_vec())).unwrap())].into_iter().collect()
    };
    let stage = |settings: &str| {
        let settings = format!(r#"{{"kind": "classifier", {settings}}}"#);
        let dims = vec![Dim::Dynamic(None), Dim::Fixed(2)];
        let output = TensorSpec { name: "p".into(), dtype: DType::F32, dims };
        let signature = Signature { outputs: vec![output], ..Signature::default() };
        of_settings(make, &settings, &signature).unwrap()
    };
    let (logits, probabilities) = (stage(r#""scores": "logits""#), stage(r#""scores": "probabilities""#));
    assert!(logits.doubt(&outputs([0.25, 0.75])).is_some());
    assert!(logits.doubt(&outputs([-0.25, 1.25])).is_none());
    assert!(probabilities.doubt(&outputs([0.25, 0.75])).is_none());
    // A contradiction, because the probabilities of exclusive classes add up to one, unlike those of independent classes.
    assert!(probabilities.contradiction(&outputs([0.25, 0.75])).is_none());
    let problem = probabilities.contradiction(&outputs([0.75, 0.75])).unwrap();
    assert!(problem.contains("add up to 1.5, not to 1. If several classes can be right at once"), "{problem}");
    for settings in
        [r#""scores": "probabilities", "multi_label": false"#, r#""scores": "probabilities", "multi_label": true"#]
    {
        assert!(stage(settings).contradiction(&outputs([0.75, 0.75])).is_none());
    }
    assert!(logits.contradiction(&outputs([0.75, 0.75])).is_none());
}

#[test]
fn what_does_not_fit_is_refused() {
    let probabilities = r#"{"kind": "classifier", "scores": "probabilities", "labels": [1, 2]}"#;
    check(probabilities, [1, 3], &[0.0; 3], Err("labels: there are 2, but the output \"p\" has 3 scores a row"));
    check(
        probabilities,
        [1, 2],
        &[-4.0, 7.0],
        Err("the model's output \"p\" is declared as probabilities but has the value -4; set scores = \"logits\""),
    );
    check(
        probabilities,
        [2, 2],
        &[0.5, 0.5, f32::INFINITY, 0.0],
        Err("the model's output \"p\" is not a finite number for instances[1]"),
    );
    for (more, problem) in [
        (
            r#""threshold": 0.5"#,
            "threshold: it applies to two classes, or, with multi_label = true, to each of several",
        ),
        (r#""temperature": 0"#, "temperature: 0 is not a positive number"),
        (r#""temperature": 2"#, "temperature: only logits have one; these scores are probabilities"),
        (r#""threshold": 2"#, "threshold: 2 is not a probability from 0 to 1"),
    ] {
        let settings = format!(r#"{{"kind": "classifier", "scores": "probabilities", {more}}}"#);
        check(&settings, [1, 3], &[0.0; 3], Err(problem));
    }
    check(
        r#"{"kind": "classifier"}"#,
        [1, 2],
        &[0.0; 2],
        Err("scores: say what they are: \"probabilities\", or \"logits\", which are converted to probabilities"),
    );
}

proptest! {
    #[test]
    fn top_is_a_sorted_prefix(scores in prop::collection::vec(-4i8..4, 1..100), k in 1usize..90) {
        let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
        let mut sorted: Vec<usize> = (0..scores.len()).collect();
        sorted.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        sorted.truncate(k);
        prop_assert_eq!(top(&scores, k), sorted);
    }
}
