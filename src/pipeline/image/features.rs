//! Features of an image, for monitoring drift.

use super::decoding::{Channels, Pixels};
use crate::feature::FeatureSchema;

/// Names of the features of an image. The mean of each channel follows them.
const FEATURES: [&str; 5] = ["brightness", "contrast", "width", "height", "aspect"];

/// Returns the names of the features of images with these channels.
pub(crate) fn schema(channels: Channels) -> FeatureSchema {
    let of_channels: &[&str] = match channels {
        Channels::Rgb => &["red", "green", "blue"],
        Channels::Gray => &[],
    };
    FeatureSchema {
        numbers: FEATURES.iter().chain(of_channels).map(|name| (*name).into()).collect(),
        texts: Vec::new(),
    }
}

/// Pixels of one gray value, around an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) pixels: u64,
    pub(crate) level: u8,
}

/// Returns the mean and standard deviation of the luminance (0 to 1) of the resized image and its frame, the size and
/// aspect of the original, and the means of the channels.
pub(crate) fn features_of(
    image: &Pixels,
    frame: Frame,
    channels: Channels,
    [width, height]: [u32; 2],
) -> impl Iterator<Item = f32> + use<> {
    let channels = channels.count();
    let level = u64::from(frame.level);
    let of_frame = frame.pixels * level;
    let (mut sums, mut luminance, mut squares) = ([of_frame; 3], of_frame, of_frame * level);
    for pixel in image.values.chunks_exact(channels) {
        let level = match *pixel {
            [red, green, blue] => {
                let [red, green, blue] = [red, green, blue].map(u64::from);
                sums = [sums[0] + red, sums[1] + green, sums[2] + blue];
                (red * 299 + green * 587 + blue * 114 + 500) / 1000
            }
            [gray, ..] => u64::from(gray),
            [] => 0,
        };
        luminance += level;
        squares += level * level;
    }
    let count = ((image.values.len() / channels) as u64 + frame.pixels).max(1) as f64;
    let mean = luminance as f64 / count;
    let deviation = (squares as f64 / count - mean * mean).max(0.0).sqrt();
    let [width, height] = [width, height].map(f64::from);
    let of_channels = sums.map(|sum| sum as f64 / count / 255.0).into_iter().take(if channels == 3 { 3 } else { 0 });
    let all = [mean / 255.0, deviation / 255.0, width, height, width / height].into_iter().chain(of_channels);
    all.map(|value| value as f32)
}
