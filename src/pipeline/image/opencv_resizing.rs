//! Resizing of images with the same results as OpenCV's `resize` of 8-bit images, to the bit: `INTER_LINEAR` and
//! `INTER_NEAREST`. Neither is antialiased: the result depends on four or one source pixels, however small it is.
//!
//! ```text
//! linear:   x' = (x + ½) · in/out − ½,   out(x) = (1 − f) · in(⌊x'⌋) + f · in(⌊x'⌋ + 1),   f = x' − ⌊x'⌋
//! nearest:  out(x) = in(⌊x · in/out⌋)
//! ```
//!
//! Weights have 11 fractional bits. Positions beyond the first or last pixel are those of this pixel. The order of the
//! roundings is that of `resize.cpp` (`HResizeLinear`, `VResizeLinear`; OpenCV 4.14 and 5.0 give the same).

use serde::Deserialize;

use crate::pipeline::image::decoding::Pixels;
use crate::pipeline::image::side::Side;

/// Interpolation of OpenCV.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Interpolation {
    /// `INTER_LINEAR`.
    #[serde(rename = "opencv-linear")]
    Linear,
    /// `INTER_NEAREST`.
    #[serde(rename = "opencv-nearest")]
    Nearest,
}

/// Weight 1 of a source pixel.
const ONE: f32 = 2048.0;

/// Two source pixels, with their weights, that make one pixel of the result along one side. A source pixel is `None` in
/// the padding.
#[derive(Debug, Clone, Copy)]
struct Tap {
    places: [Option<usize>; 2],
    weights: [i32; 2],
}

/// Weights at the ends of a side, where both source pixels are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// The first or last pixel has weight 1, as across an image.
    Whole,
    /// The weights stay as they are, as down an image. Their products are rounded separately.
    Divided,
}

/// Resizes an image with this many channels. `fill` is the value of the padding.
pub(crate) fn resize(image: &Pixels, sides: [Side; 2], channels: usize, by: Interpolation, fill: u8) -> Pixels {
    let [width, height] = sides.map(|side| side.part);
    let values = match by {
        Interpolation::Linear => linear(image, sides, channels, fill),
        Interpolation::Nearest => nearest(image, sides, channels, fill),
    };
    Pixels { width, height, values }
}

/// Source pixels per pixel of the result. OpenCV divides twice, which differs in the last bit.
fn step(side: &Side) -> f64 {
    1.0 / (side.resized as f64 / side.padded as f64)
}

fn taps(side: &Side, ends: Ends) -> Vec<Tap> {
    let step = step(side);
    let last = side.padded as i64 - 1;
    let tap = |place: u64| {
        let place = ((place as f64 + 0.5) * step - 0.5) as f32;
        let (mut first, mut share) = (place.floor() as i64, place - place.floor());
        if ends == Ends::Whole && !(0..last).contains(&first) {
            (first, share) = (first.clamp(0, last), 0.0);
        }
        let places = [first, first + 1].map(|place| side.in_image(place.clamp(0, last) as u64));
        Tap { places, weights: [1.0 - share, share].map(|weight| (weight * ONE).round_ties_even() as i32) }
    };
    (side.first..side.first + u64::from(side.part)).map(tap).collect()
}

/// A row of the image, resized to the width of the result, with 7 fractional bits.
struct ResizedRow {
    /// Position of the row in the image, or in the padding; `None` before the first row.
    place: Option<Option<usize>>,
    values: Vec<i32>,
}

impl ResizedRow {
    fn read(&mut self, place: Option<usize>, image: &Pixels, across: &[Tap], channels: usize, fill: u8) {
        if self.place.replace(place) == Some(place) {
            return;
        }
        let length = image.width as usize * channels;
        let row = place.map(|place| &image.values[place * length..][..length]);
        self.values.clear();
        for Tap { places, weights } in across {
            let [first, second] = places.map(|place| row.zip(place).map(|(row, place)| &row[place * channels..]));
            let value = |pixel: Option<&[u8]>, channel: usize| i32::from(pixel.map_or(fill, |pixel| pixel[channel]));
            self.values.extend(
                (0..channels)
                    .map(|channel| (weights[0] * value(first, channel) + weights[1] * value(second, channel)) >> 4),
            );
        }
    }
}

fn linear(image: &Pixels, [across, down]: [Side; 2], channels: usize, fill: u8) -> Vec<u8> {
    let width = across.part as usize * channels;
    let (across, down) = (taps(&across, Ends::Whole), taps(&down, Ends::Divided));
    let mut resized = Vec::with_capacity(width * down.len());
    let [mut upper, mut lower] = [(); 2].map(|()| ResizedRow { place: None, values: Vec::with_capacity(width) });
    for Tap { places, weights } in down {
        if lower.place == Some(places[0]) {
            std::mem::swap(&mut upper, &mut lower);
        }
        upper.read(places[0], image, &across, channels, fill);
        lower.read(places[1], image, &across, channels, fill);
        let values = upper.values.iter().zip(&lower.values);
        resized.extend(
            values.map(|(upper, lower)| ((((weights[0] * upper) >> 16) + ((weights[1] * lower) >> 16) + 2) >> 2) as u8),
        );
    }
    resized
}

fn nearest(image: &Pixels, sides: [Side; 2], channels: usize, fill: u8) -> Vec<u8> {
    let [across, down] = sides.map(|side| {
        let step = step(&side);
        let place = move |place: u64| side.in_image(((place as f64 * step) as u64).min(side.padded - 1));
        (side.first..side.first + u64::from(side.part)).map(place).collect::<Vec<_>>()
    });
    let length = image.width as usize * channels;
    let mut resized = Vec::with_capacity(across.len() * channels * down.len());
    for place in down {
        let row = place.map(|place| &image.values[place * length..][..length]);
        for place in &across {
            match row.zip(*place) {
                Some((row, place)) => resized.extend_from_slice(&row[place * channels..][..channels]),
                None => resized.extend(std::iter::repeat_n(fill, channels)),
            }
        }
    }
    resized
}
