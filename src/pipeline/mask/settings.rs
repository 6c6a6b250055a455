//! The settings of `kind = "mask"`, and the checks against the shape that a model declares.

use std::num::NonZeroU64;

use serde::Deserialize;

use super::class_map::MAX_CLASSES;
use crate::error::{Result, SetupError};
use crate::pipeline::classify::labels::Labels;
use crate::pipeline::classify::scores::Scores as ScoreKind;
use crate::pipeline::image::settings::Layout;
use crate::pipeline::outputs::{declared_output, float_output};
use crate::tensor::{DType, Dim, Signature, TensorSpec};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The output with the numbers; by default, the only output, or the only floating-point output.
    pub(crate) output: Option<String>,
    /// Kind of floating-point numbers, which a model does not declare.
    pub(crate) scores: Option<ScoreKind>,
    /// Position of the classes among the dimensions.
    pub(crate) layout: Option<Layout>,
    /// The classes in order, or a file with them; by default, the names in the model's file.
    pub(crate) labels: Option<Labels>,
    /// Lowest probability of class 1, if there is only its score.
    pub(crate) threshold: Option<f32>,
    /// Form of the mask in an answer.
    #[serde(default)]
    pub(crate) format: Format,
    /// Maximum number of pixels of the masks of a request together.
    #[serde(default = "max_pixels")]
    pub(crate) max_pixels: NonZeroU64,
}

/// Form of a mask in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// An image, which every language can read.
    #[default]
    Png,
    /// Run lengths of each class, as in COCO.
    Rle,
}

/// Default maximum number of pixels of the masks of a request: the same as for one image that is sent.
fn max_pixels() -> NonZeroU64 {
    const MAX_PIXELS: NonZeroU64 = NonZeroU64::new(40_000_000).unwrap();
    MAX_PIXELS
}

/// Default lowest probability of class 1, if there is only its score.
pub(crate) const HALF: f32 = 0.5;

impl Settings {
    /// Returns the output with this name, or the only output, or the only floating-point output.
    pub(crate) fn output<'a>(&self, signature: &'a Signature) -> Result<&'a TensorSpec, SetupError> {
        let name = match (&self.output, &*signature.outputs) {
            (Some(name), _) => declared_output(signature, name)?,
            (None, [only]) => return Ok(only),
            (None, _) => float_output(signature, None, "numbers of the pixels")?,
        };
        signature.output(&name).ok_or_else(|| SetupError::internal("an output has vanished from the signature"))
    }

    /// Returns the kind of the scores; `None` if the output has class numbers.
    pub(crate) fn score_kind(&self, spec: &TensorSpec) -> Result<Option<ScoreKind>, SetupError> {
        let is_float = matches!(spec.dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
        match (is_float, self.scores) {
            _ if spec.dtype == DType::Text => {
                Err(SetupError::Config(format!("output: {:?} has texts; a mask is made of numbers", spec.name)))
            }
            (true, Some(scores)) => Ok(Some(scores)),
            (true, None) => Err(SetupError::Config(
                "scores: say what they are: \"probabilities\", or \"logits\", which are converted to probabilities"
                    .to_owned(),
            )),
            (false, None) => Ok(None),
            (false, Some(_)) => Err(SetupError::Config(format!(
                "scores: the output {:?} is {}, whole numbers, which are read as the numbers of classes",
                spec.name,
                spec.describe()
            ))),
        }
    }

    /// Returns true if the classes are the last dimension. Fails if the settings do not say it, and the shape looks like that.
    pub(crate) fn channels_last(&self, spec: &TensorSpec) -> Result<bool, SetupError> {
        match (self.layout, &*spec.dims) {
            (Some(_), [_, _, _]) => Err(SetupError::Config(format!(
                "layout: the output {:?} is {}, which has no dimension for the classes",
                spec.name,
                spec.describe()
            ))),
            (Some(layout), _) => Ok(layout == Layout::ChannelsLast),
            (None, dims) if may_be_channels_last(dims) => Err(SetupError::Config(format!(
                "layout: the output {:?} is {}; say which dimension has the classes: \"channels-first\" for the second, or \
                 \"channels-last\" for the last",
                spec.name,
                spec.describe()
            ))),
            (None, _) => Ok(false),
        }
    }

    /// Returns the threshold, if it is set and applies.
    pub(crate) fn threshold(
        &self,
        scores: Option<ScoreKind>,
        channels: Option<usize>,
    ) -> Result<Option<f32>, SetupError> {
        match self.threshold {
            Some(threshold) if !(0.0..=1.0).contains(&threshold) => {
                Err(SetupError::Config(format!("threshold: {threshold} is not within 0 to 1")))
            }
            Some(_) if scores.is_none() || channels.is_some_and(|channels| channels > 1) => {
                Err(SetupError::Config("threshold: only applies to an output with one score for each pixel".to_owned()))
            }
            threshold => Ok(threshold),
        }
    }
}

/// Returns true if the last dimension looks like that of the classes: it is the shortest, or the only fixed one.
fn may_be_channels_last(dims: &[Dim]) -> bool {
    match dims {
        [_, Dim::Fixed(second), Dim::Fixed(third), Dim::Fixed(last)] => last < second && last < third,
        [_, Dim::Fixed(second), Dim::Dynamic(_), Dim::Fixed(last)] => last < second,
        [_, Dim::Dynamic(_), Dim::Dynamic(_), Dim::Fixed(_)] => true,
        _ => false,
    }
}

/// Returns the number of channels, if the shape fixes it. Fails if the output cannot be read as a mask.
pub(crate) fn declared_channels(spec: &TensorSpec, channels_last: bool) -> Result<Option<usize>, SetupError> {
    let channels = match (&*spec.dims, channels_last) {
        // An output without declared dimensions has an unknown shape.
        ([], _) => return Ok(None),
        ([_, _, _], _) => &Dim::Fixed(1),
        ([_, channels, _, _], false) | ([_, _, _, channels], true) => channels,
        _ => {
            return Err(SetupError::Config(format!(
                "output: {:?} is {}, but a mask is made from [rows, classes, height, width] or [rows, height, width]",
                spec.name,
                spec.describe()
            )));
        }
    };
    match channels {
        Dim::Dynamic(_) => Ok(None),
        Dim::Fixed(channels) if *channels > MAX_CLASSES => Err(SetupError::Config(format!(
            "output: {:?} is {}, which would be {channels} classes; a mask has at most {MAX_CLASSES}. Is the layout another \
             one?",
            spec.name,
            spec.describe()
        ))),
        Dim::Fixed(channels) => Ok(Some(*channels)),
    }
}
