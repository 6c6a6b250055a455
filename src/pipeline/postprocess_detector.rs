//! `kind = "detector"`: boxes and their scores become the objects of an image, in its own pixels.
//!
//! Of boxes of one class that overlap, the one with the highest score stays (greedy non-maximum suppression; Felzenszwalb
//! et al., 2010). How much two overlap is the area they share ÷ the area they cover (Jaccard's index, "IoU").

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;

use super::labels::Labels;
use super::outputs::{declared_output, float_output, output, refuse_non_finite};
use super::{Detection, Label, Origin, Postprocessor, Prediction, StageContext};
use crate::error::{Error, Result};
use crate::tensor::{Tensor, Tensors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The output with the boxes: [rows, boxes, 4]; or, without `scores`, with the scores after them.
    boxes: Option<String>,
    /// The output with the scores, which are probabilities: [rows, boxes, classes].
    scores: Option<String>,
    /// Whether boxes and scores are the other way round: [rows, 4 + classes, boxes], as YOLOv8 has it.
    #[serde(default)]
    boxes_last: bool,
    /// What the four numbers of a box are.
    #[serde(default)]
    format: Format,
    /// What they are measured in.
    #[serde(default)]
    unit: Unit,
    /// The classes in the order of the scores, or a file with them; without it, they are numbered from 0.
    labels: Option<Labels>,
    /// Boxes with a lower score are left out.
    #[serde(default = "quarter")]
    threshold: f32,
    /// Of two boxes of a class that overlap by more than this, the worse one is left out.
    #[serde(default = "less_than_half")]
    overlap: f32,
    /// How many objects are answered, the surest first.
    #[serde(default = "hundred")]
    most: NonZeroUsize,
}

/// What the four numbers of a box are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// Left, top, right, bottom.
    #[default]
    Corners,
    /// The middle across and down, width, height.
    Centre,
}

/// What the numbers of a box are measured in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    /// Pixels of the model's input.
    #[default]
    Pixels,
    /// Parts of the width and the height of the model's input.
    Parts,
}

fn quarter() -> f32 {
    0.25
}

fn less_than_half() -> f32 {
    0.45
}

fn hundred() -> NonZeroUsize {
    const HUNDRED: NonZeroUsize = NonZeroUsize::new(100).unwrap();
    HUNDRED
}

/// So many of the surest boxes of an image are compared with each other; the time that takes grows with their square.
const MOST_COMPARED: usize = 4096;

struct Detector {
    boxes: Arc<str>,
    scores: Option<Arc<str>>,
    boxes_last: bool,
    format: Format,
    unit: Unit,
    /// Width and height of the model's input, if parts have to be made pixels of.
    input: [f64; 2],
    labels: Option<Vec<Label>>,
    threshold: f32,
    overlap: f32,
    most: NonZeroUsize,
}

/// A box that is probable enough.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    class: usize,
    score: f32,
    /// Left, top, right and bottom, in pixels of the model's input.
    corners: [f32; 4],
}

pub(super) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>> {
    let settings: Settings = context.config.settings()?;
    let Settings { boxes, scores, boxes_last, format, unit, labels, threshold, overlap, most } = settings;
    let scores = scores.map(|name| declared_output(context.signature, &name)).transpose()?;
    if scores.is_some() && boxes.is_none() {
        return Err(Error::Config("boxes: name the output with the boxes beside that with the scores".to_owned()));
    }
    let boxes = float_output(context.signature, boxes.as_deref(), "boxes")?;
    for (key, value) in [("threshold", threshold), ("overlap", overlap)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Error::Config(format!("{key}: {value} is not within 0 to 1")));
        }
    }
    for name in [Some(&boxes), scores.as_ref()].into_iter().flatten() {
        let dims = context.signature.output(name).map_or(3, |spec| spec.dims.len());
        if dims != 3 && dims != 0 {
            return Err(Error::Config(format!("{name:?} has {dims} dimensions; boxes and scores have three")));
        }
    }
    let input = input_size(context.signature);
    if unit == Unit::Parts && input.is_none() {
        return Err(Error::Config(
            "unit: the model's input has no fixed width and height that boxes could be parts of".to_owned(),
        ));
    }
    let labels = labels.map(|labels| labels.read(context.files)).transpose()?;
    let input = input.unwrap_or([1.0, 1.0]);
    Ok(Box::new(Detector { boxes, scores, boxes_last, format, unit, input, labels, threshold, overlap, most }))
}

/// Width and height of an input that is an image: [rows, 3, height, width] or [rows, height, width, 3].
fn input_size(signature: &crate::tensor::Signature) -> Option<[f64; 2]> {
    use crate::tensor::Dim::Fixed;
    let [only] = &*signature.inputs else { return None };
    match &*only.dims {
        [_, Fixed(1 | 3), Fixed(height), Fixed(width)] | [_, Fixed(height), Fixed(width), Fixed(1 | 3)] => {
            Some([*width as f64, *height as f64])
        }
        _ => None,
    }
}

impl Postprocessor for Detector {
    fn decode(&self, outputs: &Tensors, origin: &Origin) -> Result<Vec<Prediction>> {
        let boxes = Grid::of(outputs, &self.boxes, self.boxes_last)?;
        let scores = self.scores.as_deref().map(|name| Grid::of(outputs, name, self.boxes_last)).transpose()?;
        // Without an output of their own, scores stand behind the boxes.
        let (scores, first) = scores.as_ref().map_or((&boxes, 4), |scores| (scores, 0));
        let classes = scores.width.saturating_sub(first);
        let fits = scores.rows == boxes.rows && scores.boxes == boxes.boxes && classes > 0;
        let has_labels = self.labels.as_ref().is_none_or(|labels| labels.len() == classes);
        if !fits || boxes.width < 4 || !has_labels {
            return Err(Error::internal(format_args!(
                "boxes of shape {:?}, scores of shape {:?}, {:?} labels: they do not fit",
                (boxes.rows, boxes.boxes, boxes.width),
                (scores.rows, scores.boxes, classes),
                self.labels.as_ref().map(Vec::len)
            )));
        }
        let detections = |row: usize| {
            let candidate = |index: usize| {
                let scores = (0..classes).map(|class| (class, scores.at(row, index, first + class)));
                let (class, score) = scores.reduce(|best, other| if other.1 > best.1 { other } else { best })?;
                let corners = self.corners([0, 1, 2, 3].map(|place| boxes.at(row, index, place)));
                (score >= self.threshold).then_some(Candidate { class, score, corners })
            };
            let candidates = (0..boxes.boxes).filter_map(candidate).collect();
            let kept = suppress(candidates, self.overlap, self.most.get());
            Prediction::Detections(kept.into_iter().map(|kept| self.detection(kept, origin, row)).collect())
        };
        Ok((0..boxes.rows).map(detections).collect())
    }
}

impl Detector {
    /// The corners of a box, in pixels of the model's input.
    fn corners(&self, [a, b, c, d]: [f32; 4]) -> [f32; 4] {
        let [left, top, right, bottom] = match self.format {
            Format::Corners => [a, b, c, d],
            Format::Centre => [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0],
        };
        let [width, height] = match self.unit {
            Unit::Pixels => [1.0, 1.0],
            Unit::Parts => self.input.map(|length| length as f32),
        };
        [left * width, top * height, right * width, bottom * height]
    }

    fn detection(&self, kept: Candidate, origin: &Origin, row: usize) -> Detection {
        let [left, top, right, bottom] = kept.corners.map(f64::from);
        let corners = match origin {
            Origin::Images(images) => images.get(row).map(|image| {
                let ([left, top], [right, bottom]) =
                    (image.to_original([left, top]), image.to_original([right, bottom]));
                [left, top, right, bottom].map(|value| value as f32)
            }),
            Origin::Unknown | Origin::Texts(_) => None,
        };
        let label = match &self.labels {
            Some(labels) => labels[kept.class].clone(),
            None => Label::Number(kept.class as i64),
        };
        Detection { label, score: kept.score, corners: corners.unwrap_or(kept.corners) }
    }
}

/// Numbers per box, whichever way round they are.
struct Grid<'a> {
    values: std::borrow::Cow<'a, [f32]>,
    rows: usize,
    boxes: usize,
    width: usize,
    boxes_last: bool,
}

impl Grid<'_> {
    fn of<'a>(outputs: &'a Tensors, name: &str, boxes_last: bool) -> Result<Grid<'a>> {
        let tensor: &Tensor = output(outputs, name)?;
        refuse_non_finite(name, tensor)?;
        let values = tensor.to_f32().ok_or_else(|| Error::internal("a detector's outputs are not floats"))?;
        match *tensor.shape() {
            [rows, boxes, width] if !boxes_last => Ok(Grid { values, rows, boxes, width, boxes_last }),
            [rows, width, boxes] => Ok(Grid { values, rows, boxes, width, boxes_last }),
            _ => Err(Error::internal(format_args!("the output {name:?} has shape {:?}", tensor.shape()))),
        }
    }

    fn at(&self, row: usize, index: usize, place: usize) -> f32 {
        let within = if self.boxes_last { place * self.boxes + index } else { index * self.width + place };
        self.values[row * self.boxes * self.width + within]
    }
}

/// Those that no better one of their class overlaps by more than `overlap`; at most so many, the surest first.
fn suppress(mut candidates: Vec<Candidate>, overlap: f32, most: usize) -> Vec<Candidate> {
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
    candidates.truncate(MOST_COMPARED);
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if kept.len() == most {
            break;
        }
        let is_worse =
            |better: &Candidate| better.class == candidate.class && shared(better.corners, candidate.corners) > overlap;
        if !kept.iter().any(is_worse) {
            kept.push(candidate);
        }
    }
    kept
}

/// |A ∩ B| ÷ |A ∪ B|; 0 of boxes without an area.
fn shared(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |[left, top, right, bottom]: [f32; 4]| (right - left).max(0.0) * (bottom - top).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let either = area(a) + area(b) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ImagePlacement;
    use super::super::stages::of_settings;
    use super::*;
    use crate::tensor::{DType, Data, Dim, Signature, TensorSpec};

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

    /// Two boxes that share 8 of 12 columns (IoU 2/3), and one elsewhere of another class.
    const BOXES: [f32; 12] = [0.0, 0.0, 10.0, 10.0, 2.0, 0.0, 12.0, 10.0, 50.0, 50.0, 60.0, 60.0];
    const SCORES: [f32; 6] = [0.5, 0.0, 0.75, 0.0, 0.0, 0.5];

    #[test]
    fn the_better_of_two_that_overlap_stays() {
        let outputs = [("boxes", [1, 3, 4], &BOXES[..]), ("scores", [1, 3, 2], &SCORES[..])];
        let both = r#""boxes": "boxes", "scores": "scores", "labels": ["cat", "dog"]"#;
        let cat = r#"{"label":"cat","score":0.75,"box":[2.0,0.0,12.0,10.0]}"#;
        let dog = r#"{"label":"dog","score":0.5,"box":[50.0,50.0,60.0,60.0]}"#;
        let found = |more: &str| detect(&format!("{both}{more}"), &outputs, &Origin::Unknown).unwrap();
        assert_eq!(found(""), format!(r#"{{"detections":[{cat},{dog}]}}"#));
        assert_eq!(found(r#", "most": 1"#), format!(r#"{{"detections":[{cat}]}}"#));
        assert_eq!(found(r#", "threshold": 0.8"#), r#"{"detections":[]}"#);
        assert_eq!(found(r#", "overlap": 0.7"#).matches("cat").count(), 2);
    }

    #[test]
    fn boxes_come_in_many_forms_and_are_answered_in_pixels_of_the_image() {
        let one = r#"{"detections":[{"label":0,"score":0.5,"box":[32.0,32.0,96.0,96.0]}]}"#;
        // 512 x 256 was brought to 128 x 64, and set in the middle of 128 x 128.
        let placement = ImagePlacement { original: [512, 256], scale: [0.25, 0.25], offset: [0.0, 32.0] };
        let origin = Origin::Images(vec![placement]);
        let corners = [8.0, 40.0, 24.0, 56.0, 0.5];
        assert_eq!(detect(r#""boxes": "b""#, &[("b", [1, 1, 5], &corners)], &origin).unwrap(), one);
        let centre = [0.125, 0.375, 0.125, 0.125, 0.5];
        let settings = r#""boxes_last": true, "format": "centre", "unit": "parts""#;
        assert_eq!(detect(settings, &[("b", [1, 5, 1], &centre)], &origin).unwrap(), one);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let outputs = [("boxes", [1, 3, 4], &BOXES[..]), ("scores", [1, 3, 2], &SCORES[..])];
        let problem = |settings: &str| detect(settings, &outputs, &Origin::Unknown).unwrap_err();
        assert!(problem(r#""scores": "scores""#).contains("name the output with the boxes"));
        assert!(problem(r#""boxes": "none""#).contains("it has: boxes, scores"));
        assert!(problem(r#""boxes": "boxes", "overlap": 2"#).contains("overlap: 2 is not within"));
    }

    proptest! {
        #[test]
        fn what_stays_does_not_overlap_and_what_goes_does(
            boxes in prop::collection::vec((0u8..20, 0u8..20, 1u8..9, 1u8..9, 0usize..2, 0u8..100), 0..30),
        ) {
            let candidates: Vec<Candidate> = boxes.iter().map(|&(x, y, width, height, class, score)| {
                let corners = [x, y, x + width, y + height].map(f32::from);
                Candidate { class, score: f32::from(score), corners }
            }).collect();
            let kept = suppress(candidates.clone(), 0.3, 1000);
            let beats = |a: &Candidate, b: &Candidate| a.class == b.class && shared(a.corners, b.corners) > 0.3;
            for (index, one) in kept.iter().enumerate() {
                prop_assert!(kept[..index].iter().all(|better| better.score >= one.score && !beats(better, one)));
            }
            for candidate in candidates {
                prop_assert!(kept.contains(&candidate)
                    || kept.iter().any(|better| better.score >= candidate.score && beats(better, &candidate)));
            }
        }
    }
}
