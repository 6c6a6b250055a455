//! Settings of `kind = "image"`, and the checks that do not need the model's shape.

use std::num::NonZeroU64;

use serde::Deserialize;

use super::decoding::Channels;
use super::opencv_resizing::Interpolation;
use super::pillow_resizing::Filter;
use super::row_size::RowSize;
use super::side::Anchor;
use crate::error::SetupError;
use crate::tensor::DType;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Height and width of the model's input; by default, those that the model declares.
    pub(crate) size: Option<RowSize>,
    /// Method of resizing an image to `size`.
    pub(crate) resize: Option<Resize>,
    /// For cropping: length of the shorter side of the resized image; by default, the longer side of `size`.
    pub(crate) shortest: Option<u32>,
    /// For cropping, instead of `shortest`: height and width of the resized image.
    pub(crate) stretch_to: Option<[u32; 2]>,
    /// Part of the image that stays in its place if it is cropped, framed or padded.
    pub(crate) anchor: Option<Anchor>,
    /// Value of the frame or the padding around an image, 0 to 255.
    pub(crate) fill: Option<u8>,
    /// Value of the frame in the model's input, instead of `fill`.
    pub(crate) fill_scaled: Option<f32>,
    /// Filter of the resizing.
    pub(crate) filter: Option<Resampling>,
    /// Channels of the model's input, and their order.
    pub(crate) colour: Option<Colour>,
    /// Factor that a value (0 to 255) is multiplied by.
    pub(crate) scale: Option<f32>,
    /// Value that is subtracted after scaling, per channel or for all channels.
    pub(crate) mean: Option<PerChannel>,
    /// Divisor of a value after the subtraction, per channel or for all channels.
    pub(crate) deviation: Option<PerChannel>,
    /// Position of the channels, before or after height and width; by default, as the model declares it.
    pub(crate) layout: Option<Layout>,
    /// Maximum number of pixels of an image. A larger image is refused before it is decoded.
    #[serde(default = "max_pixels")]
    pub(crate) max_pixels: NonZeroU64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resize {
    /// Resizes width and height separately, which changes the aspect.
    #[default]
    Stretch,
    /// Resizes the shorter side to `shortest`, or both sides to `stretch_to`, and cuts out a part.
    Crop,
    /// Resizes the whole image to fit, and puts a frame around it.
    Fit,
    /// Pads the image to the aspect of `size`, and resizes the result.
    Pad,
}

/// Filter of the resizing, with the library that gives the same results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"bilinear\", \"bicubic\", \"lanczos\", \"nearest\", \"opencv-linear\" or \"opencv-nearest\""
)]
pub(crate) enum Resampling {
    Pillow(Filter),
    Opencv(Interpolation),
}

/// Value of the frame around an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fill {
    /// A value like those of pixels, which is scaled like them.
    Level(u8),
    /// A value of the model's input.
    Scaled(f32),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Colour {
    #[default]
    Rgb,
    Bgr,
    Gray,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a number, or one per channel")]
pub(crate) enum PerChannel {
    All(f32),
    Each(Vec<f32>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Layout {
    ChannelsFirst,
    ChannelsLast,
}

/// Default maximum number of pixels: that of a camera of 40 megapixels. The pixels take 120 MB, or several times as
/// much with 16 bits per channel.
fn max_pixels() -> NonZeroU64 {
    const MAX_PIXELS: NonZeroU64 = NonZeroU64::new(40_000_000).unwrap();
    MAX_PIXELS
}

/// Converted values of one channel, indexed by the original value from 0 to 255.
pub(crate) type Levels = [f32; 256];

impl Colour {
    pub(crate) fn channels(self) -> Channels {
        match self {
            Colour::Rgb | Colour::Bgr => Channels::Rgb,
            Colour::Gray => Channels::Gray,
        }
    }
}

impl Default for Resampling {
    fn default() -> Resampling {
        Resampling::Pillow(Filter::default())
    }
}

impl Resize {
    fn name(self) -> &'static str {
        match self {
            Resize::Stretch => "stretch",
            Resize::Crop => "crop",
            Resize::Fit => "fit",
            Resize::Pad => "pad",
        }
    }
}

impl Settings {
    /// Checks that every setting applies to the method of resizing.
    pub(crate) fn check_resize(&self) -> Result<(), SetupError> {
        use Resize::{Crop, Fit, Pad};
        let wrong = |problem: String| Err(SetupError::Config(problem));
        let resize = self.resize.unwrap_or_default();
        let keys: [(&str, bool, &[Resize]); 5] = [
            ("shortest", self.shortest.is_some(), &[Crop]),
            ("stretch_to", self.stretch_to.is_some(), &[Crop]),
            ("fill", self.fill.is_some(), &[Fit, Pad]),
            ("fill_scaled", self.fill_scaled.is_some(), &[Fit]),
            ("anchor", self.anchor.is_some(), &[Crop, Fit, Pad]),
        ];
        let misfit = keys.iter().find(|(_, is_set, applies)| *is_set && !applies.contains(&resize));
        if let Some((key, _, applies)) = misfit {
            let names: Vec<String> = applies.iter().map(|resize| format!("{:?}", resize.name())).collect();
            return wrong(format!("{key}: only applies to resize = {}", names.join(" or ")));
        }
        if self.shortest.is_some() && self.stretch_to.is_some() {
            return wrong("shortest, stretch_to: set one of them".to_owned());
        }
        match self.size {
            Some(RowSize::ByHeight(_) | RowSize::BySides(_)) if matches!(resize, Crop | Pad) => wrong(format!(
                "resize: {:?} needs one size for all images, as in size = [224, 224]; with another size, take \"stretch\" \
                 or \"fit\"",
                resize.name()
            )),
            _ => Ok(()),
        }
    }

    /// Returns the value of the frame around an image.
    pub(crate) fn fill(&self, dtype: DType) -> Result<Fill, SetupError> {
        match (self.fill, self.fill_scaled) {
            (level, None) => Ok(Fill::Level(level.unwrap_or(0))),
            (Some(_), Some(_)) => Err(SetupError::Config("fill, fill_scaled: set one of them".to_owned())),
            (None, Some(_)) if dtype == DType::U8 => Err(SetupError::Config(
                "fill_scaled: the model takes uint8, so values are not scaled; set fill".to_owned(),
            )),
            (None, Some(value)) if !value.is_finite() => {
                Err(SetupError::Config("fill_scaled: must be finite".to_owned()))
            }
            (None, Some(value)) if dtype == DType::F16 && !half::f16::from_f32(value).is_finite() => {
                Err(SetupError::Config(format!("fill_scaled: {value} is not a value of type float16")))
            }
            (None, Some(value)) => Ok(Fill::Scaled(value)),
        }
    }

    /// Returns the converted values of each channel: `(value · scale − mean) ÷ deviation`.
    pub(crate) fn levels(&self, channels: usize, dtype: DType) -> Result<Vec<Levels>, SetupError> {
        let is_scaled = self.scale.is_some() || self.mean.is_some() || self.deviation.is_some();
        if dtype == DType::U8 && is_scaled {
            return Err(SetupError::Config(
                "scale, mean, deviation: the model takes uint8, so the values are not changed".to_owned(),
            ));
        }
        let mean = per_channel("mean", self.mean.as_ref(), 0.0, channels)?;
        let deviation = per_channel("deviation", self.deviation.as_ref(), 1.0, channels)?;
        let mut numbers = mean.iter().chain(&deviation).chain(&self.scale);
        if !numbers.all(|number| number.is_finite()) || deviation.contains(&0.0) {
            return Err(SetupError::Config("scale, mean, deviation: must be finite, and deviation not 0".to_owned()));
        }
        let level = |value: usize, channel: usize| {
            let value = value as f32;
            // v / 255 differs from v · (1 / 255) in the last bit, and models are trained with the former.
            let scaled = self.scale.map_or(value / 255.0, |scale| value * scale);
            (scaled - mean[channel]) / deviation[channel]
        };
        Ok((0..channels).map(|channel| std::array::from_fn(|value| level(value, channel))).collect())
    }

    /// Describes the defaults that are used for unset settings, all of which change the model's input.
    pub(crate) fn assumptions(&self, dtype: DType) -> Vec<String> {
        let is_scaled = dtype != DType::U8;
        let defaults = [
            (self.colour.is_none(), "colour = \"rgb\""),
            (self.resize.is_none(), "resize = \"stretch\""),
            (self.anchor.is_none() && self.resize.is_some_and(|how| how != Resize::Stretch), "anchor = \"centre\""),
            (self.filter.is_none(), "filter = \"bilinear\" (antialiased)"),
            (is_scaled && self.scale.is_none(), "scale = 1/255"),
            (is_scaled && self.mean.is_none(), "mean = 0"),
            (is_scaled && self.deviation.is_none(), "deviation = 1"),
        ];
        let taken: Vec<&str> = defaults.iter().filter(|(is_taken, _)| *is_taken).map(|(_, default)| *default).collect();
        if taken.is_empty() {
            return Vec::new();
        }
        vec![format!("images are prepared with {}, because [preprocess] does not set them", taken.join(", "))]
    }
}

fn per_channel(key: &str, value: Option<&PerChannel>, default: f32, channels: usize) -> Result<Vec<f32>, SetupError> {
    match value {
        None => Ok(vec![default; channels]),
        Some(PerChannel::All(value)) => Ok(vec![*value; channels]),
        Some(PerChannel::Each(values)) if values.len() == channels => Ok(values.clone()),
        Some(PerChannel::Each(values)) => {
            Err(SetupError::Config(format!("{key}: there are {} values, but {channels} channels", values.len())))
        }
    }
}
