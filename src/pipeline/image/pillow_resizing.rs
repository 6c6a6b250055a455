//! Resizing of images with the same results as Pillow, except near rounding ties. The filter widens with the
//! downscaling factor, rows are resized before columns, and both results are rounded to whole values.
//!
//! Models were trained on images that Pillow resized, or torchvision through Pillow. Faster libraries use weights of 14
//! bits, and their values (0 to 255) are off by up to 5 at sharp edges (measured). This code is off by 1, and only if a
//! sum is within a millionth of a rounding tie.
//!
//! ```text
//! out(x) = Σ_i in(i) · f((i + ½ − c) / s) / Σ_i f((i + ½ − c) / s),   c = (x + ½) · in/out,   s = max(in/out, 1)
//! ```

use std::f64::consts::PI;

use serde::Deserialize;

use crate::pipeline::image::decoding::Pixels;
use crate::pipeline::image::side::Side;

/// Interpolation filter of Pillow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Filter {
    /// A triangle over two source pixels.
    #[default]
    Bilinear,
    /// Keys' cubic over four source pixels, with a = −½.
    Bicubic,
    /// A windowed sinc over six source pixels.
    Lanczos,
    /// The nearest source pixel.
    Nearest,
}

/// Range of source pixels, with their weights, that make one pixel of the resized image along one side.
struct Window {
    start: usize,
    weights: Vec<f32>,
    /// Weight of the padding.
    padding: f32,
}

/// Number of rows that are resized at a time, chosen to fill the vector registers of the processor.
const LANES: usize = 8;

/// Resizes an image with this many channels. `fill` is the value of the padding.
pub(crate) fn resize(image: Pixels, [across, down]: [Side; 2], channels: usize, filter: Filter, fill: u8) -> Pixels {
    let (width, height) = (across.part, down.part);
    let values =
        if across.is_unchanged() { image.values } else { rows(&image, &windows(&across, filter), channels, fill) };
    let values = if down.is_unchanged() {
        values
    } else {
        columns(&values, width as usize * channels, &windows(&down, filter), fill)
    };
    Pixels { width, height, values }
}

impl Filter {
    /// Extent of the filter to either side, in source pixels.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
            Filter::Nearest => 0.5,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Filter::Lanczos if x < 3.0 => sinc(x) * sinc(x / 3.0),
            Filter::Bicubic | Filter::Lanczos => 0.0,
            Filter::Nearest => 1.0,
        }
    }
}

/// Returns the windows of the computed part of a side.
fn windows(side: &Side, filter: Filter) -> Vec<Window> {
    let scale = side.padded as f64 / side.resized as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let window = |place: u64| {
        let centre = (place as f64 + 0.5) * scale;
        if filter == Filter::Nearest {
            return match side.in_image((centre as u64).min(side.padded - 1)) {
                Some(start) => Window { start, weights: vec![1.0], padding: 0.0 },
                None => Window { start: 0, weights: Vec::new(), padding: 1.0 },
            };
        }
        let start = (centre - support + 0.5).max(0.0) as u64;
        let end = ((centre + support + 0.5) as u64).min(side.padded);
        let weight = |at: u64| filter.at((at as f64 - centre + 0.5) / stretch);
        let sum: f64 = (start..end).map(weight).sum();
        let (first, last) = (side.before.clamp(start, end), (side.before + u64::from(side.length)).clamp(start, end));
        Window {
            // If the window has only padding, no pixel is read.
            start: first.saturating_sub(side.before).min(u64::from(side.length) - 1) as usize,
            weights: (first..last).map(|at| (weight(at) / sum) as f32).collect(),
            padding: (start..first).chain(last..end).map(|at| (weight(at) / sum) as f32).sum(),
        }
    };
    (side.first..side.first + u64::from(side.part)).map(window).collect()
}

/// Rounds to the nearest whole value from 0 to 255, ties upwards.
fn rounded(value: f32) -> u8 {
    // The cast saturates.
    (value + 0.5) as u8
}

/// Resizes every row to another width.
fn rows(image: &Pixels, windows: &[Window], channels: usize, fill: u8) -> Vec<u8> {
    let (before, after) = (image.width as usize * channels, windows.len() * channels);
    let mut resized = vec![0; after * image.height as usize];
    // Values at one position of `LANES` rows, side by side.
    let mut together = vec![[0f32; LANES]; before];
    for (some, resized) in image.values.chunks(before * LANES).zip(resized.chunks_mut(after * LANES)) {
        for (lane, row) in some.chunks_exact(before).enumerate() {
            together.iter_mut().zip(row).for_each(|(lanes, value)| lanes[lane] = f32::from(*value));
        }
        for (x, window) in windows.iter().enumerate() {
            for channel in 0..channels {
                let mut sums = [window.padding * f32::from(fill); LANES];
                let places = together[window.start * channels + channel..].iter().step_by(channels);
                for (weight, lanes) in window.weights.iter().zip(places) {
                    sums.iter_mut().zip(lanes).for_each(|(sum, value)| *sum += weight * value);
                }
                for (row, sum) in resized.chunks_exact_mut(after).zip(sums) {
                    row[x * channels + channel] = rounded(sum);
                }
            }
        }
    }
    resized
}

/// Resizes every column to another height. `width` is the number of values in a row.
fn columns(values: &[u8], width: usize, windows: &[Window], fill: u8) -> Vec<u8> {
    let mut resized = Vec::with_capacity(width * windows.len());
    let mut sums = vec![0f32; width];
    for window in windows {
        sums.fill(window.padding * f32::from(fill));
        for (weight, row) in window.weights.iter().zip(values[window.start * width..].chunks_exact(width)) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * f32::from(*value));
        }
        resized.extend(sums.iter().map(|sum| rounded(*sum)));
    }
    resized
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILTERS: [Filter; 4] = [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos, Filter::Nearest];

    proptest! {
        #[test]
        fn an_image_of_one_colour_stays_one(
            size in (1u32..40, 1u32..40), to in (1u32..40, 1u32..40), colour in any::<[u8; 3]>(), filter in 0usize..4,
        ) {
            let values = colour.repeat((size.0 * size.1) as usize);
            let image = Pixels { width: size.0, height: size.1, values };
            let resized = resize(image, [Side::stretched(size.0, to.0), Side::stretched(size.1, to.1)], 3, FILTERS[filter], 0);
            prop_assert_eq!(resized.values, colour.repeat((to.0 * to.1) as usize));
        }

        /// Compares with resizing row by row, as in the formula of the module's documentation.
        #[test]
        fn rows_are_resized_alike_however_many_there_are(
            values in prop::collection::vec(any::<u8>(), 9..200), to in 1u32..30, filter in 0usize..4,
        ) {
            let height = (values.len() / 9) as u32;
            let values = values[..9 * height as usize].to_vec();
            let across = Side::stretched(9, to);
            let all = Pixels { width: 9, height, values: values.clone() };
            let all = resize(all, [across, Side::stretched(height, height)], 1, FILTERS[filter], 0);
            for (row, resized) in values.chunks(9).zip(all.values.chunks(to as usize)) {
                let alone = Pixels { width: 9, height: 1, values: row.to_vec() };
                let alone = resize(alone, [across, Side::stretched(1, 1)], 1, FILTERS[filter], 0);
                prop_assert_eq!(&alone.values, resized);
            }
        }
    }
}
