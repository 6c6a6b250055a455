//! `kind = "mask"`: an output with numbers for each pixel becomes a mask, the class of each pixel of the image that was
//! sent (semantic segmentation).

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::class_map::{ClassMap, MAX_CLASSES, Tally};
use super::encoding::{png, run_lengths};
use super::pixel_scores::{Extent, PixelScores, Rule};
use super::settings::{Format, HALF, Settings, declared_channels};
use crate::budget::Deadline;
use crate::error::{Error, Result, SetupError};
use crate::pipeline::classify::model_classes::{ChosenLabels, Scores};
use crate::pipeline::classify::scores::Scores as ScoreKind;
use crate::pipeline::json_schema::{label, nested, object};
use crate::pipeline::outputs::{output, refuse_improbable, refuse_non_finite, unexpected_shape};
use crate::pipeline::{
    ImagePlacement, Label, Mask, MaskClass, Origin, Postprocessor, Prediction, RunLengths, StageContext,
};
use crate::tensor::{Data, Dim, Tensor, Tensors};

struct MaskStage {
    output: Arc<str>,
    /// Kind of the scores; `None` if the output has the number of the class of each pixel.
    scores: Option<ScoreKind>,
    channels_last: bool,
    /// Lowest probability of class 1, if it is set.
    threshold: Option<f32>,
    labels: ChosenLabels,
    format: Format,
    max_pixels: u64,
    assumptions: Vec<String>,
}

pub(crate) fn make(context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
    let settings: Settings = context.config.settings()?;
    let spec = settings.output(context.signature)?;
    let scores = settings.score_kind(spec)?;
    let channels_last = settings.channels_last(spec)?;
    let channels = declared_channels(spec, channels_last)?;
    let threshold = settings.threshold(scores, channels)?;
    let classes = scores.and(channels).map(classes_of);
    let labels = settings.labels.map(|labels| labels.read(context.files)).transpose()?;
    if let (Some(labels), Some(classes)) = (&labels, classes)
        && labels.len() != classes
    {
        return Err(SetupError::Config(format!(
            "labels: there are {}, but the output {:?} is {}, which distinguishes {classes} classes",
            labels.len(),
            spec.name,
            spec.describe()
        )));
    }
    let labels = context.classes.choose(labels, Scores { output: &spec.name, count: classes, first_class: 0 })?;
    if labels.count().is_some_and(|count| count > MAX_CLASSES) {
        return Err(SetupError::Config(format!("labels: a mask has at most {MAX_CLASSES} classes")));
    }
    let mut assumptions: Vec<String> = labels.remark.clone().into_iter().collect();
    if scores.is_some() && channels == Some(1) && threshold.is_none() {
        assumptions.push(format!(
            "pixels with a probability of at least {HALF} are class 1, the others class 0, because threshold is not set"
        ));
    }
    if channels.is_none() && settings.layout.is_none() {
        assumptions
            .push("the classes are read as the second dimension of the output, because layout is not set".to_owned());
    }
    let (format, max_pixels) = (settings.format, settings.max_pixels.get());
    let output = Arc::clone(&spec.name);
    Ok(Box::new(MaskStage { output, scores, channels_last, threshold, labels, format, max_pixels, assumptions }))
}

/// Returns the number of classes that scores in this number of channels distinguish: one score is that of class 1.
fn classes_of(channels: usize) -> usize {
    channels.max(2)
}

impl Postprocessor for MaskStage {
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        Some(vec![Arc::clone(&self.output)])
    }

    fn prediction_schema(&self) -> Value {
        let whole = || json!({ "type": "integer", "minimum": 0 });
        let size = || nested(&[Dim::Fixed(2)], whole());
        let number = json!({ "type": "number" });
        let mut class = vec![("class", whole()), ("label", label(self.labels.labels.as_deref())), ("share", number)];
        if self.scores.is_some() {
            class.push(("confidence", json!({ "type": "number" })));
        }
        let mut mask = vec![("size", size())];
        match self.format {
            Format::Png => {
                let png = json!({ "type": "string", "contentEncoding": "base64", "contentMediaType": "image/png" });
                mask.push(("png", png));
            }
            Format::Rle => {
                let counts = json!({ "type": "array", "items": whole() });
                class.push(("rle", object([("size", size()), ("counts", counts)])));
            }
        }
        mask.push(("classes", json!({ "type": "array", "items": object(class) })));
        object(mask)
    }

    fn classes(&self) -> Option<Vec<Label>> {
        self.scores.and(self.labels.labels.clone())
    }

    /// Returns true, because a small output can belong to a large image.
    fn is_heavy(&self) -> bool {
        true
    }

    fn assumptions(&self) -> Vec<String> {
        self.assumptions.clone()
    }

    fn decode(&self, outputs: &Tensors, origin: &Origin) -> Result<Vec<Prediction>> {
        self.decode_until(outputs, origin, Deadline::never())
    }

    fn decode_until(&self, outputs: &Tensors, origin: &Origin, deadline: Deadline) -> Result<Vec<Prediction>> {
        let tensor = output(outputs, &self.output)?;
        let extent = self.extent(tensor)?;
        let placements: Vec<ImagePlacement> = (0..tensor.rows()).map(|row| placement(origin, row, extent)).collect();
        self.check_size(&placements)?;
        let numbers = self.numbers(tensor)?;
        let mask = |(row, placement): (usize, &ImagePlacement)| {
            let map = self.map(&numbers, extent, row, placement, deadline)?;
            Ok(Prediction::Mask(Box::new(self.mask(&map)?)))
        };
        placements.iter().enumerate().map(mask).collect()
    }
}

/// The numbers of an output, in the form in which masks are made from them.
enum Numbers<'a> {
    Scores(Cow<'a, [f32]>),
    /// Numbers of classes, and the number of classes.
    Classes(Vec<u8>, usize),
}

impl MaskStage {
    /// Returns the lengths of the output's sides. Fails if they do not fit the settings.
    fn extent(&self, tensor: &Tensor) -> Result<Extent> {
        let expected =
            if self.channels_last { "[rows, height, width, classes]" } else { "[rows, classes, height, width]" };
        let unexpected = |expected: &str| unexpected_shape(&self.output, tensor, expected);
        let extent = Extent::of(tensor.row_shape(), self.channels_last).ok_or_else(|| unexpected(expected))?;
        let channels = extent.channels;
        if self.scores.is_none() {
            return match channels {
                1 => Ok(extent),
                _ => Err(unexpected("one class for each pixel, because its elements are whole numbers,")),
            };
        }
        if let Some(count) = self.labels.count().filter(|count| *count != classes_of(channels)) {
            return Err(unexpected(&format!("{expected} with scores of {count} classes")));
        }
        if channels > MAX_CLASSES {
            return Err(unexpected(&format!("{expected} with scores of at most {MAX_CLASSES} classes")));
        }
        if channels > 1 && self.threshold.is_some() {
            return Err(unexpected("one score for each pixel, because threshold is set,"));
        }
        Ok(extent)
    }

    /// Refuses masks with too many pixels.
    fn check_size(&self, placements: &[ImagePlacement]) -> Result<()> {
        let pixels = |placement: &ImagePlacement| placement.original.map(u64::from).iter().product::<u64>();
        let pixels: u64 = placements.iter().map(pixels).sum();
        if pixels > self.max_pixels {
            return Err(Error::InvalidInput(format!(
                "the masks would have {pixels} pixels together, more than the {} that are allowed; send fewer or smaller \
                 images",
                self.max_pixels
            )));
        }
        Ok(())
    }

    /// Reads and checks the numbers of an output.
    fn numbers<'a>(&self, tensor: &'a Tensor) -> Result<Numbers<'a>> {
        let Some(scores) = self.scores else {
            let classes = self.labels.count().unwrap_or(MAX_CLASSES);
            let numbers = class_numbers(tensor.data(), classes).map_err(|number| Error::UnusableOutput {
                output: self.output.to_string(),
                problem: format!(
                    "has the value {number}, where the number of a class from 0 to {} was expected",
                    classes - 1
                ),
            })?;
            return Ok(Numbers::Classes(numbers, classes));
        };
        refuse_non_finite(&self.output, tensor)?;
        let values = tensor.to_f32().ok_or_else(|| unexpected_shape(&self.output, tensor, "an output of numbers"))?;
        if scores == ScoreKind::Probabilities {
            refuse_improbable(&self.output, &values)?;
        }
        Ok(Numbers::Scores(values))
    }

    /// Makes the map of one row.
    fn map(
        &self,
        numbers: &Numbers<'_>,
        extent: Extent,
        row: usize,
        placement: &ImagePlacement,
        deadline: Deadline,
    ) -> Result<ClassMap> {
        let length = extent.channels * extent.height * extent.width;
        let of_row = row * length..(row + 1) * length;
        match numbers {
            Numbers::Classes(numbers, classes) => {
                ClassMap::of_classes(&numbers[of_row], extent, *classes, placement, deadline)
            }
            Numbers::Scores(values) => {
                let scores = PixelScores { values: &values[of_row], extent, channels_last: self.channels_last };
                let is_logit = self.scores == Some(ScoreKind::Logits);
                let rule = match (extent.channels, is_logit) {
                    (1, is_logit) => Rule::Threshold { is_logit, threshold: self.threshold.unwrap_or(HALF) },
                    (_, true) => Rule::HighestLogit,
                    (_, false) => Rule::HighestProbability,
                };
                ClassMap::of_scores(scores, rule, classes_of(extent.channels), placement, deadline)
            }
        }
    }

    /// Encodes a map, and describes its classes.
    fn mask(&self, map: &ClassMap) -> Result<Mask> {
        let (png, mut rle) = match self.format {
            Format::Png => (Some(png(map)?), Vec::new()),
            Format::Rle => (None, run_lengths(map)),
        };
        let mut runs = rle.drain(..);
        let classes = map.present().map(|(class, tally)| self.class(class, tally, map, runs.next())).collect();
        Ok(Mask { size: [map.height, map.width], png, classes, observation: map.observation() })
    }

    fn class(&self, class: usize, tally: &Tally, map: &ClassMap, rle: Option<RunLengths>) -> MaskClass {
        let pixels = tally.pixels as f64;
        MaskClass {
            class,
            label: self.labels.of(class),
            share: (pixels / map.pixels.len() as f64) as f32,
            confidence: map.is_certainty_known.then(|| (tally.confidence / pixels) as f32),
            rle,
        }
    }
}

/// Returns the placement of the image of a row. Without an image, the mask has the size of the output.
fn placement(origin: &Origin, row: usize, extent: Extent) -> ImagePlacement {
    let of_image = match origin {
        Origin::Images(images) => images.get(row).copied(),
        Origin::Unknown | Origin::Texts(_) => None,
    };
    of_image.unwrap_or_else(|| {
        let size = [extent.width, extent.height].map(|length| u32::try_from(length).unwrap_or(u32::MAX));
        ImagePlacement { original: size, input: size, scale: [1.0, 1.0], offset: [0.0, 0.0] }
    })
}

/// Converts the elements of an output to numbers below `classes`. Returns the first element that is no such number.
fn class_numbers(data: &Data, classes: usize) -> std::result::Result<Vec<u8>, String> {
    fn converted<T: Copy + TryInto<u8> + std::fmt::Display>(
        values: &[T],
        classes: usize,
    ) -> std::result::Result<Vec<u8>, String> {
        let number = |&value: &T| match value.try_into() {
            Ok(number) if usize::from(number) < classes => Ok(number),
            _ => Err(value.to_string()),
        };
        values.iter().map(number).collect()
    }
    match data {
        Data::I8(values) => converted(values, classes),
        Data::I16(values) => converted(values, classes),
        Data::I32(values) => converted(values, classes),
        Data::I64(values) => converted(values, classes),
        Data::U8(values) => converted(values, classes),
        Data::U16(values) => converted(values, classes),
        Data::U32(values) => converted(values, classes),
        Data::U64(values) => converted(values, classes),
        Data::Bool(values) => converted(values, classes),
        Data::F32(_) | Data::F64(_) | Data::F16(_) | Data::BF16(_) | Data::Text(_) | Data::Sequence(_) => {
            Err(data.dtype().to_string())
        }
    }
}

#[cfg(test)]
mod tests;
