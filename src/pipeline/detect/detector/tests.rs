//! Tests of found boxes and of suppressed boxes.

use proptest::prelude::*;

use super::*;
use crate::pipeline::ImagePlacement;
use crate::pipeline::stage_context::of_settings;
use crate::tensor::{DType, Data, Dim, Signature, Tensor, TensorSpec};

fn signature(outputs: &[&str]) -> Signature {
    let output = |name: &&str| TensorSpec {
        name: (*name).into(),
        dtype: DType::F32,
        dims: vec![Dim::Dynamic(None), Dim::Dynamic(None), Dim::Dynamic(None)],
    };
    let dims = vec![Dim::Dynamic(None), Dim::Fixed(3), Dim::Fixed(128), Dim::Fixed(128)];
    let input = TensorSpec { name: "image".into(), dtype: DType::F32, dims };
    Signature { inputs: vec![input], outputs: outputs.iter().map(output).collect(), ..Signature::default() }
}

fn detect(settings: &str, outputs: &[(&str, [usize; 3], &[f32])], origin: &Origin) -> Result<String, String> {
    let names: Vec<&str> = outputs.iter().map(|(name, ..)| *name).collect();
    let settings = format!(r#"{{"kind": "detector", {settings}}}"#);
    let stage = of_settings(make, &settings, &signature(&names)).map_err(|error| error.to_string())?;
    let tensor = |(name, shape, values): &(&str, [usize; 3], &[f32])| {
        ((*name).into(), Tensor::new(shape.to_vec(), Data::F32(values.to_vec())).unwrap())
    };
    let predictions = stage.decode(&outputs.iter().map(tensor).collect(), origin);
    Ok(serde_json::to_string(&predictions.map_err(|error| error.to_string())?[0]).unwrap())
}

/// Two boxes that share 8 of 12 columns (IoU 2/3), and a separate box of another class.
const BOXES: [f32; 12] = [0.0, 0.0, 10.0, 10.0, 2.0, 0.0, 12.0, 10.0, 50.0, 50.0, 60.0, 60.0];
const SCORES: [f32; 6] = [0.5, 0.0, 0.75, 0.0, 0.0, 0.5];

#[test]
fn the_better_of_two_that_overlap_stays() {
    let outputs = [("boxes", [1, 3, 4], &BOXES[..]), ("scores", [1, 3, 2], &SCORES[..])];
    let both = r#""format": "corners", "boxes": "boxes", "scores": "scores", "labels": ["cat", "dog"]"#;
    let cat = r#"{"label":"cat","score":0.75,"box":[2.0,0.0,12.0,10.0]}"#;
    let dog = r#"{"label":"dog","score":0.5,"box":[50.0,50.0,60.0,60.0]}"#;
    let found = |more: &str| detect(&format!("{both}{more}"), &outputs, &Origin::Unknown).unwrap();
    assert_eq!(found(""), format!(r#"{{"detections":[{cat},{dog}]}}"#));
    assert_eq!(found(r#", "most": 1"#), format!(r#"{{"detections":[{cat}]}}"#));
    assert_eq!(found(r#", "threshold": 0.8"#), r#"{"detections":[]}"#);
    assert_eq!(found(r#", "overlap": 0.7"#).matches("cat").count(), 2);
    // The worse cat is a dog now. OpenCV's NMSBoxes keeps one box, its NMSBoxesBatched keeps both.
    let outputs = [("boxes", [1, 3, 4], &BOXES[..]), ("scores", [1, 3, 2], &[0.0, 0.5, 0.75, 0.0, 0.0, 0.0][..])];
    let kept =
        |more: &str| detect(&format!("{both}{more}"), &outputs, &Origin::Unknown).unwrap().matches("label").count();
    assert_eq!((kept(""), kept(r#", "class_agnostic": true"#)), (2, 1));
}

#[test]
fn boxes_come_in_many_forms_and_are_answered_in_pixels_of_the_image() {
    let one = r#"{"detections":[{"label":"class 0","score":0.5,"box":[32.0,32.0,96.0,96.0]}]}"#;
    // 512 x 256 was resized to 128 x 64, in the middle of 128 x 128.
    let placement =
        ImagePlacement { original: [512, 256], input: [128, 128], scale: [0.25, 0.25], offset: [0.0, 32.0] };
    let origin = Origin::Images(vec![placement]);
    let corners = [8.0, 40.0, 24.0, 56.0, 0.5];
    assert_eq!(detect(r#""boxes": "b", "format": "corners""#, &[("b", [1, 1, 5], &corners)], &origin).unwrap(), one);
    let centre = [0.125, 0.375, 0.125, 0.125, 0.5];
    let settings = r#""boxes_last": true, "format": "centre", "unit": "parts""#;
    assert_eq!(detect(settings, &[("b", [1, 5, 1], &centre)], &origin).unwrap(), one);
}

#[test]
fn what_does_not_fit_is_refused() {
    let outputs = [("boxes", [1, 3, 4], &BOXES[..]), ("scores", [1, 3, 2], &SCORES[..])];
    let problem = |settings: &str| detect(settings, &outputs, &Origin::Unknown).unwrap_err();
    let corners = r#""format": "corners""#;
    assert!(problem(&format!(r#"{corners}, "scores": "scores""#)).contains("name the output with the boxes"));
    assert!(problem(&format!(r#"{corners}, "boxes": "none""#)).contains("it has: boxes, scores"));
    assert!(problem(&format!(r#"{corners}, "boxes": "boxes", "overlap": 2"#)).contains("overlap: 2 is not within"));
    assert!(problem(r#""boxes": "boxes""#).contains("layout: say how the model returns boxes"));
    assert!(problem(r#""layout": "yolov8", "boxes": "boxes", "boxes_last": true"#).contains("already determines it"));
    assert!(problem(r#""layout": "yolov10", "boxes": "boxes", "overlap": 0.5"#).contains("suppresses overlapping"));
    assert!(problem(r#""layout": "ssd""#).contains("classes: name the output; the model has: boxes, scores"));
}

/// An output that is read in a wrong layout is an error, because coordinates and class numbers are not probabilities.
#[test]
fn what_is_no_score_is_an_error_that_says_so() {
    let problem = |settings: &str, shape: [usize; 3], values: &[f32]| {
        detect(settings, &[("b", shape, values)], &Origin::Unknown).unwrap_err()
    };
    let yolov10 = [2.0, 2.0, 12.0, 12.0, 0.9, 17.0];
    assert_eq!(
        problem(r#""format": "corners""#, [1, 1, 6], &yolov10),
        "the model's output \"b\" has 17 where a score was expected, a probability from 0 to 1; is it another layout?"
    );
    let class = problem(r#""layout": "yolov10", "labels": ["cat", "dog"]"#, [1, 1, 6], &yolov10);
    assert!(class.contains("has class 17, but one from 0 to 1 (2 labels) was expected"), "{class}");
    assert!(problem(r#""layout": "yolov8""#, [1, 5, 1], &[2.0, 2.0, 9.0, 9.0, -3.0]).contains("has -3 where"));
    assert!(problem(r#""layout": "yolov5""#, [1, 1, 5], &[2.0; 5]).contains("is it another layout?"));
    assert!(problem(r#""layout": "yolox""#, [1, 1, 8], &[0.5; 8]).contains("have 336 cells for 128 x 128 pixels"));
    let labels = problem(r#""layout": "yolov5", "labels": ["cat"]"#, [1, 1, 8], &[0.5; 8]);
    assert!(labels.contains("3 of them are scores of classes, but there are 1 labels"), "{labels}");
}

proptest! {
    #[test]
    fn what_stays_does_not_overlap_and_what_goes_does(
        boxes in prop::collection::vec((0u8..20, 0u8..20, 1u8..9, 1u8..9, 0usize..2, 0u8..100), 0..30),
        is_class_agnostic in any::<bool>(),
    ) {
        let mut candidates: Vec<Candidate> = boxes.iter().map(|&(x, y, width, height, class, score)| {
            let corners = [x, y, x + width, y + height].map(f32::from);
            Candidate { class, score: f32::from(score), corners }
        }).collect();
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
        let suppression = Suppression { overlap: 0.3, is_class_agnostic };
        let kept = suppress(&candidates, suppression, 1000);
        let beats = |a: &Candidate, b: &Candidate| {
            (is_class_agnostic || a.class == b.class) && shared(a.corners, b.corners) > 0.3
        };
        for (index, one) in kept.iter().enumerate() {
            prop_assert!(kept[..index].iter().all(|better| better.score >= one.score && !beats(better, one)));
        }
        for candidate in candidates {
            prop_assert!(kept.contains(&candidate)
                || kept.iter().any(|better| better.score >= candidate.score && beats(better, &candidate)));
        }
    }
}
