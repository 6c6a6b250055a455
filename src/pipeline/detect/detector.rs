//! `kind = "detector"`: boxes and their scores become the objects of an image, in pixels of the original image. The
//! forms in which models return boxes are in `layouts.rs`.
//!
//! Of overlapping boxes of one class (or of any), only the box with the highest score is kept (greedy non-maximum suppression;
//! Felzenszwalb et al., 2010). The overlap of two boxes is the area they share ÷ the area they cover (Jaccard's index,
//! "IoU").

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Result, SetupError};
use crate::pipeline::classify::labels::Labels;
use crate::pipeline::classify::model_classes::{ChosenLabels, Scores};
use crate::pipeline::detect::layouts::{Arrangement, Form, Format, Found, Layout, Names, Reading, Unit};
use crate::pipeline::json_schema::{label, nested, object};
use crate::pipeline::outputs::{declared_output, float_output};
use crate::pipeline::{Detection, Origin, Postprocessor, Prediction, StageContext};
use crate::tensor::{Dim, Signature, TensorSpec, Tensors};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// The layout of the outputs, named after a family of models; without it, `format` is required.
    layout: Option<Layout>,
    /// Name of the output with the boxes.
    boxes: Option<String>,
    /// The output with the scores, if they are not in the output with the boxes.
    scores: Option<String>,
    /// The output with the classes of the boxes, if the model selects the boxes itself.
    classes: Option<String>,
    /// The output with the number of valid boxes of an image.
    count: Option<String>,
    /// Without a layout: true if the last two dimensions are swapped, as in [rows, 4 + classes, boxes].
    boxes_last: Option<bool>,
    /// Meaning of the four numbers of a box.
    format: Option<Format>,
    /// Unit of the numbers of a box.
    unit: Option<Unit>,
    /// The number of the first class: 1 if 0 is the background.
    first_class: Option<usize>,
    /// The classes in order, without the background, or a file with them; by default, the names in the model's file.
    labels: Option<Labels>,
    /// Minimum score of a box. Boxes with a lower score are left out.
    threshold: Option<f32>,
    /// Maximum overlap of two boxes of one class. If they overlap more, the one with the lower score is left out.
    overlap: Option<f32>,
    /// True if the overlap counts for two boxes of different classes, too.
    class_agnostic: Option<bool>,
    /// Maximum number of objects in an answer. The objects with the highest scores are kept.
    #[serde(default = "hundred")]
    most: NonZeroUsize,
}

/// Default minimum score of a box.
const QUARTER: f32 = 0.25;

/// Default maximum overlap of two boxes of one class.
const LESS_THAN_HALF: f32 = 0.45;

fn hundred() -> NonZeroUsize {
    const HUNDRED: NonZeroUsize = NonZeroUsize::new(100).unwrap();
    HUNDRED
}

/// Maximum number of boxes of an image that are compared with each other. Boxes with lower scores are left out, because
/// the time grows with the square of the number.
const MAX_COMPARED: usize = 4096;

struct Detector {
    reading: Reading,
    format: Format,
    unit: Unit,
    labels: ChosenLabels,
    /// Suppression of overlapping boxes; `None` if the model suppresses boxes itself.
    suppression: Option<Suppression>,
    most: NonZeroUsize,
    assumptions: Vec<String>,
}

/// Suppression of boxes that overlap better ones.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Suppression {
    /// Maximum overlap of two boxes.
    overlap: f32,
    /// Boxes of different classes suppress each other, too.
    is_class_agnostic: bool,
}

/// A box whose score reaches the threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    class: usize,
    score: f32,
    /// Left, top, right and bottom, in pixels of the model's input.
    corners: [f32; 4],
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    let settings: Settings = context.config.settings()?;
    let wrong = |problem: String| SetupError::Config(problem);
    let Form { arrangement, format, unit, first_class } = form(&settings)?;
    for (key, value) in [("threshold", settings.threshold), ("overlap", settings.overlap)] {
        if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
            return Err(wrong(format!("{key}: {value} is not within 0 to 1")));
        }
    }
    let names = names(&settings, arrangement, context.signature)?;
    let declared = declared_classes(&names, arrangement, context.signature)?;
    let declared = declared.map(|scores| scores.saturating_sub(first_class));
    let input = input_size(context.signature);
    let has_grid = matches!(arrangement, Arrangement::ScorePerClass { grid: true, .. });
    if (unit == Unit::Parts || has_grid) && input.is_none() {
        return Err(wrong(
            "unit, layout: boxes are relative to the model's input, which has no fixed width and height".to_owned(),
        ));
    }
    if arrangement == Arrangement::SeparateOfOneImage
        && let Some(Dim::Fixed(rows)) = context.signature.inputs.first().and_then(|input| input.dims.first())
        && *rows != 1
    {
        let input = context.signature.inputs.first().map(TensorSpec::describe).unwrap_or_default();
        return Err(wrong(format!(
            "layout: the outputs are those of one image, but the model's input is {input}; export it with a batch dimension of 1"
        )));
    }
    let labels = settings.labels.clone().map(|labels| labels.read(context.files)).transpose()?;
    if let (Some(labels), Some(declared)) = (&labels, declared)
        && labels.len() != declared
    {
        return Err(wrong(format!(
            "labels: there are {}, but by its shape the output {:?} has scores of {declared} classes; is it another layout?",
            labels.len(),
            names.scores.as_ref().unwrap_or(&names.boxes)
        )));
    }
    let of_scores = Scores { output: &names.boxes, count: declared, first_class };
    let labels = context.classes.choose(labels, of_scores)?;
    let threshold = settings.threshold.unwrap_or(QUARTER);
    let suppression = (!arrangement.is_suppressed()).then(|| Suppression {
        overlap: settings.overlap.unwrap_or(LESS_THAN_HALF),
        is_class_agnostic: settings.class_agnostic.unwrap_or(false),
    });
    let assumptions = assumptions(&settings, &labels, first_class, suppression.is_some());
    let reading = Reading { names, arrangement, first_class, classes: labels.count(), input, threshold };
    Ok(Box::new(Detector { reading, format, unit, labels, suppression, most: settings.most, assumptions }))
}

/// Returns the form of the outputs, from the layout and the other settings.
fn form(settings: &Settings) -> Result<Form, SetupError> {
    let wrong = |problem: &str| SetupError::Config(problem.to_owned());
    let of_layout = settings.layout.map(Layout::form);
    let Some(format) = settings.format.or(of_layout.map(|form| form.format)) else {
        return Err(wrong(
            "layout: say how the model returns boxes: \"yolov5\", \"yolov7\", \"yolox\", \"yolov8\", \"yolo11\", \
             \"yolov10\", \"rt-detr\", \"ssd\" or \"torchvision\"; or, for any other model, set the meaning of a box's numbers, for example \
             format = \"corners\"",
        ));
    };
    let arrangement = match of_layout {
        Some(form) => form.arrangement,
        None => {
            let boxes_last = settings.boxes_last.unwrap_or(false);
            Arrangement::ScorePerClass { boxes_last, objectness: None, grid: false }
        }
    };
    if of_layout.is_some() && settings.boxes_last.is_some() {
        return Err(wrong("boxes_last: the layout already determines it"));
    }
    if arrangement.is_suppressed() && (settings.overlap.is_some() || settings.class_agnostic.is_some()) {
        return Err(wrong("overlap, class_agnostic: a model of this layout suppresses overlapping boxes itself"));
    }
    if of_layout.is_some() && !arrangement.is_suppressed() && settings.first_class.is_some() {
        return Err(wrong("first_class: the scores of this layout do not include a background"));
    }
    let unit = settings.unit.or(of_layout.map(|form| form.unit)).unwrap_or_default();
    let first_class = settings.first_class.or(of_layout.map(|form| form.first_class)).unwrap_or(0);
    Ok(Form { arrangement, format, unit, first_class })
}

/// Describes the defaults that are used for unset settings.
fn assumptions(
    settings: &Settings,
    labels: &ChosenLabels,
    first_class: usize,
    is_suppressed_here: bool,
) -> Vec<String> {
    let mut assumptions: Vec<String> = labels.remark.clone().into_iter().collect();
    if settings.layout.is_none() && settings.scores.is_none() {
        assumptions.push(format!(
            "the numbers after the four of a box are read as scores of classes, starting with class {first_class}, \
             because layout is not set"
        ));
    }
    if settings.threshold.is_none() {
        assumptions.push(format!("boxes with a score below {QUARTER} are left out, because threshold is not set"));
    }
    if is_suppressed_here && settings.overlap.is_none() {
        let boxes = if settings.class_agnostic == Some(true) { "boxes" } else { "boxes of one class" };
        assumptions.push(format!(
            "of {boxes} that overlap by more than {LESS_THAN_HALF}, only the best is kept, because overlap is not set"
        ));
    }
    assumptions
}

/// Returns the names of the outputs that are read: those in the settings, or those with the usual names.
fn names(settings: &Settings, arrangement: Arrangement, signature: &Signature) -> Result<Names, SetupError> {
    let named = |name: &Option<String>| name.as_deref().map(|name| declared_output(signature, name)).transpose();
    let (scores, classes, count) = (named(&settings.scores)?, named(&settings.classes)?, named(&settings.count)?);
    match arrangement {
        Arrangement::Separate | Arrangement::SeparateOfOneImage => {
            let usual = |key: &str, given: Option<Arc<str>>, usual: &[&str]| {
                let found = || usual.iter().find_map(|name| usual_output(signature, name));
                given.or_else(found).ok_or_else(|| {
                    let there: Vec<&str> = signature.outputs.iter().map(|output| &*output.name).collect();
                    SetupError::Config(format!("{key}: name the output; the model has: {}", there.join(", ")))
                })
            };
            Ok(Names {
                boxes: usual("boxes", named(&settings.boxes)?, &["boxes", "bboxes", "detection_boxes"])?,
                scores: Some(usual("scores", scores, &["scores", "detection_scores"])?),
                classes: Some(usual("classes", classes, &["labels", "classes", "detection_classes"])?),
                count: count.or_else(|| usual_output(signature, "num_detections")),
            })
        }
        Arrangement::ScorePerClass { .. } | Arrangement::Columns => {
            if classes.is_some() || count.is_some() {
                return Err(SetupError::Config(
                    "classes, count: this layout has no separate outputs for them".to_owned(),
                ));
            }
            if scores.is_some() && settings.boxes.is_none() {
                return Err(SetupError::Config(
                    "boxes: name the output with the boxes, not only the one with the scores".to_owned(),
                ));
            }
            if scores.is_some() && settings.layout.is_some() {
                return Err(SetupError::Config(
                    "scores: in this layout, they are in the output with the boxes".to_owned(),
                ));
            }
            let boxes = float_output(signature, settings.boxes.as_deref(), "boxes")?;
            Ok(Names { boxes, scores, classes, count })
        }
    }
}

/// Returns the output with this name, with or without TensorFlow's suffix `:0`.
fn usual_output(signature: &Signature, name: &str) -> Option<Arc<str>> {
    let is_called_so = |output: &&TensorSpec| output.name.strip_suffix(":0").unwrap_or(&output.name) == name;
    signature.outputs.iter().find(is_called_so).map(|output| Arc::clone(&output.name))
}

/// Returns the number of classes, if the shapes of the outputs fix it. Fails if they do not fit the arrangement.
fn declared_classes(
    names: &Names,
    arrangement: Arrangement,
    signature: &Signature,
) -> Result<Option<usize>, SetupError> {
    let dims = |name: &str| signature.output(name).map_or(&[][..], |spec| &spec.dims);
    let misfit = |name: &str, expected: &str| {
        let is = signature.output(name).map(TensorSpec::describe).unwrap_or_default();
        SetupError::Config(format!("layout: the output {name:?} is {is}, but {expected} was expected"))
    };
    match (arrangement, dims(&names.boxes)) {
        // An output without declared dimensions has an unknown shape.
        (_, []) => Ok(None),
        (Arrangement::ScorePerClass { boxes_last, objectness, .. }, [_, second, third]) => {
            let of_scores = names.scores.as_deref().map(dims);
            let width = if boxes_last { second } else { third };
            let before = 4 + usize::from(objectness.is_some());
            match (of_scores, width) {
                (None, Dim::Fixed(width)) if *width <= before => {
                    Err(misfit(&names.boxes, &format!("more than {before} numbers for each box")))
                }
                (None, Dim::Fixed(width)) => Ok(Some(width - before)),
                (Some(_), Dim::Fixed(width)) if *width != 4 => Err(misfit(&names.boxes, "four numbers for each box")),
                (Some([_, second, third]), _) => match if boxes_last { second } else { third } {
                    Dim::Fixed(classes) => Ok(Some(*classes)),
                    Dim::Dynamic(_) => Ok(None),
                },
                (None, Dim::Dynamic(_)) | (Some([]), _) => Ok(None),
                (Some(_), _) => Err(misfit(names.scores.as_deref().unwrap_or_default(), "three dimensions")),
            }
        }
        (Arrangement::Columns, [_, _, Dim::Fixed(6) | Dim::Dynamic(_)]) => Ok(None),
        (Arrangement::Columns, _) => Err(misfit(&names.boxes, "[rows, boxes, 6]")),
        (Arrangement::Separate, [_, _, Dim::Fixed(4) | Dim::Dynamic(_)]) => Ok(None),
        (Arrangement::Separate, _) => Err(misfit(&names.boxes, "[rows, boxes, 4]")),
        (Arrangement::SeparateOfOneImage, [_, Dim::Fixed(4) | Dim::Dynamic(_)]) => Ok(None),
        (Arrangement::SeparateOfOneImage, _) => Err(misfit(&names.boxes, "[boxes, 4]")),
        (Arrangement::ScorePerClass { .. }, _) => Err(misfit(&names.boxes, "three dimensions")),
    }
}

/// Returns width and height of a model input that is an image: [rows, 3, height, width] or [rows, height, width, 3].
fn input_size(signature: &Signature) -> Option<[usize; 2]> {
    use Dim::Fixed;
    let [only] = &*signature.inputs else { return None };
    match &*only.dims {
        [_, Fixed(1 | 3), Fixed(height), Fixed(width)] | [_, Fixed(height), Fixed(width), Fixed(1 | 3)] => {
            Some([*width, *height])
        }
        _ => None,
    }
}

impl Postprocessor for Detector {
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        let Names { boxes, scores, classes, count } = &self.reading.names;
        Some([Some(boxes), scores.as_ref(), classes.as_ref(), count.as_ref()].into_iter().flatten().cloned().collect())
    }

    fn prediction_schema(&self) -> Value {
        let number = || json!({ "type": "number" });
        let corners = nested(&[Dim::Fixed(4)], number());
        let label = label(self.labels.labels.as_deref());
        let detection = object([("label", label), ("score", number()), ("box", corners)]);
        object([("detections", json!({ "type": "array", "maxItems": self.most, "items": detection }))])
    }

    fn decode(&self, outputs: &Tensors, origin: &Origin) -> Result<Vec<Prediction>> {
        let rows = self.reading.read(outputs)?.into_iter().enumerate();
        let detections = rows.map(|(row, found)| {
            let mut candidates: Vec<Candidate> = found.into_iter().map(|found| self.candidate(found)).collect();
            candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
            if let Some(suppression) = self.suppression {
                candidates = suppress(&candidates, suppression, self.most.get());
            }
            candidates.truncate(self.most.get());
            Prediction::Detections(candidates.into_iter().map(|kept| self.detection(kept, origin, row)).collect())
        });
        Ok(detections.collect())
    }

    fn takes_one_row(&self) -> bool {
        self.reading.arrangement == Arrangement::SeparateOfOneImage
    }

    fn assumptions(&self) -> Vec<String> {
        self.assumptions.clone()
    }
}

impl Detector {
    fn candidate(&self, Found { class, score, numbers }: Found) -> Candidate {
        Candidate { class, score, corners: self.corners(numbers) }
    }

    /// Converts the four numbers of a box to its corners, in pixels of the model's input.
    fn corners(&self, [a, b, c, d]: [f32; 4]) -> [f32; 4] {
        let [left, top, right, bottom] = match self.format {
            Format::Corners => [a, b, c, d],
            Format::CornersDownFirst => [b, a, d, c],
            Format::Centre => [a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0],
        };
        let [width, height] = match (self.unit, self.reading.input) {
            (Unit::Parts, Some(input)) => input.map(|length| length as f32),
            (Unit::Parts, None) | (Unit::Pixels, _) => [1.0, 1.0],
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
        let label = match &self.labels.labels {
            Some(_) => self.labels.of(kept.class),
            None => crate::pipeline::classify::model_classes::unnamed(kept.class + self.reading.first_class),
        };
        Detection { label, score: kept.score, corners: corners.unwrap_or(kept.corners) }
    }
}

/// Returns the first `most` candidates that do not overlap a kept candidate by too much. The candidates are in descending
/// order of their scores.
fn suppress(candidates: &[Candidate], suppression: Suppression, most: usize) -> Vec<Candidate> {
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates.iter().take(MAX_COMPARED) {
        if kept.len() == most {
            break;
        }
        let is_worse = |better: &Candidate| {
            (suppression.is_class_agnostic || better.class == candidate.class)
                && shared(better.corners, candidate.corners) > suppression.overlap
        };
        if !kept.iter().any(is_worse) {
            kept.push(*candidate);
        }
    }
    kept
}

/// Returns the overlap |A ∩ B| ÷ |A ∪ B| of two boxes; 0 for boxes without an area.
fn shared(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |[left, top, right, bottom]: [f32; 4]| (right - left).max(0.0) * (bottom - top).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let either = area(a) + area(b) - both;
    if either > 0.0 { both / either } else { 0.0 }
}

#[cfg(test)]
mod tests;
