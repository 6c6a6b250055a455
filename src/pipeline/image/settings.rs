//! The settings of `kind = "image"`, and what is checked of them without the model's shape.

use std::num::NonZeroU64;

use serde::Deserialize;

use super::decoding::Channels;
use super::resizing::Filter;
use crate::error::SetupError;
use crate::tensor::DType;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Height and width that the model takes; without it, what the model declares.
    pub(crate) size: Option<[u32; 2]>,
    /// Method of resizing an image to that size.
    pub(crate) resize: Option<Resize>,
    /// Before it is cut: the length of the shorter side; without it, as long as the longer side of `size`.
    pub(crate) shortest: Option<u32>,
    /// Value around an image that is set in a frame, 0 to 255.
    pub(crate) fill: Option<u8>,
    /// Filter of the resizing.
    pub(crate) filter: Option<Filter>,
    /// Which channels there are, in which order.
    pub(crate) colour: Option<Colour>,
    /// Factor of values of 0 to 255.
    pub(crate) scale: Option<f32>,
    /// Value that is subtracted then, per channel or for all.
    pub(crate) mean: Option<PerChannel>,
    /// Divisor after that.
    pub(crate) deviation: Option<PerChannel>,
    /// Position of the channels, before or after height and width; without it, as the model declares it.
    pub(crate) layout: Option<Layout>,
    /// The most pixels of an image: what has more is refused before it is decoded.
    #[serde(default = "max_pixels")]
    pub(crate) max_pixels: NonZeroU64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Resize {
    /// Each side by itself: the aspect changes.
    #[default]
    Stretch,
    /// The shorter side to `shortest`, and the middle is cut out.
    Crop,
    /// The whole image, set in the middle of a frame.
    Fit,
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

/// As many as a camera of 40 megapixels has, which take 120 MB, and some times that if they are 16 bits deep.
fn max_pixels() -> NonZeroU64 {
    const MAX_PIXELS: NonZeroU64 = NonZeroU64::new(40_000_000).unwrap();
    MAX_PIXELS
}

/// Result for a value of 0 to 255, of one channel.
pub(crate) type Levels = [f32; 256];

impl Colour {
    pub(crate) fn channels(self) -> Channels {
        match self {
            Colour::Rgb | Colour::Bgr => Channels::Rgb,
            Colour::Gray => Channels::Gray,
        }
    }
}

impl Settings {
    /// Returns the levels of each channel: `(value · scale − mean) ÷ deviation`.
    pub(crate) fn levels(&self, channels: usize, dtype: DType) -> Result<Vec<Levels>, SetupError> {
        let is_scaled = self.scale.is_some() || self.mean.is_some() || self.deviation.is_some();
        if dtype == DType::U8 && is_scaled {
            return Err(SetupError::Config(
                "scale, mean, deviation: the model takes uint8, which are the values as they are".to_owned(),
            ));
        }
        let mean = per_channel("mean", self.mean.as_ref(), 0.0, channels)?;
        let deviation = per_channel("deviation", self.deviation.as_ref(), 1.0, channels)?;
        let mut numbers = mean.iter().chain(&deviation).chain(&self.scale);
        if !numbers.all(|number| number.is_finite()) || deviation.contains(&0.0) {
            return Err(SetupError::Config("scale, mean, deviation: finite numbers, and no deviation of 0".to_owned()));
        }
        let level = |value: usize, channel: usize| {
            let value = value as f32;
            // v / 255 is not v · (1 / 255) to the last bit, and the former is what everybody trains with.
            let scaled = self.scale.map_or(value / 255.0, |scale| value * scale);
            (scaled - mean[channel]) / deviation[channel]
        };
        Ok((0..channels).map(|channel| std::array::from_fn(|value| level(value, channel))).collect())
    }

    /// Returns the defaults in use, all of which change the model's input.
    pub(crate) fn assumptions(&self, dtype: DType) -> Vec<String> {
        let is_scaled = dtype != DType::U8;
        let defaults = [
            (self.colour.is_none(), "colour = \"rgb\""),
            (self.resize.is_none(), "resize = \"stretch\""),
            (self.filter.is_none(), "filter = \"bilinear\" (antialiased)"),
            (is_scaled && self.scale.is_none(), "scale = 1/255"),
            (is_scaled && self.mean.is_none(), "mean = 0"),
            (is_scaled && self.deviation.is_none(), "deviation = 1"),
        ];
        let taken: Vec<&str> = defaults.iter().filter(|(is_taken, _)| *is_taken).map(|(_, default)| *default).collect();
        if taken.is_empty() {
            return Vec::new();
        }
        vec![format!("images are prepared with {}, because [preprocess] does not say otherwise", taken.join(", "))]
    }
}

fn per_channel(key: &str, value: Option<&PerChannel>, default: f32, channels: usize) -> Result<Vec<f32>, SetupError> {
    match value {
        None => Ok(vec![default; channels]),
        Some(PerChannel::All(value)) => Ok(vec![*value; channels]),
        Some(PerChannel::Each(values)) if values.len() == channels => Ok(values.clone()),
        Some(PerChannel::Each(values)) => {
            Err(SetupError::Config(format!("{key}: there are {}, and {channels} channels", values.len())))
        }
    }
}
