//! The class of each pixel of an image, and a summary of them.
//!
//! Scores are interpolated to the size of the image (bilinear), and the class is decided afterwards, as torchvision and
//! MMSegmentation do. Class numbers cannot be interpolated, so the nearest is taken. One row of pixels is made at a time,
//! so the memory does not grow with the number of classes.

use std::cmp::Reverse;

use super::pixel_scores::{Extent, PixelClass, PixelScores, Rule};
use super::sampling::{Sample, Sampling};
use crate::budget::Deadline;
use crate::error::Result;
use crate::feature::{Certainty, Observation};
use crate::pipeline::ImagePlacement;

/// Class of pixels that the model did not see, because the image was cropped: 255, as in the masks of PASCAL VOC.
pub(crate) const VOID: u8 = u8::MAX;

/// Maximum number of classes, so that each has a number below [`VOID`].
pub(crate) const MAX_CLASSES: usize = VOID as usize;

/// The class of each pixel of an image.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClassMap {
    pub(crate) width: u32,
    pub(crate) height: u32,
    /// The class of each pixel, or [`VOID`], row by row.
    pub(crate) pixels: Vec<u8>,
    /// Sums over the pixels of each class, by its number.
    pub(crate) tallies: Vec<Tally>,
    /// True if the model returned scores, so that the certainty is known.
    pub(crate) is_certainty_known: bool,
}

/// Sums over the pixels of a class.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) pixels: u64,
    pub(crate) confidence: f64,
    margin: f64,
    entropy: f64,
}

impl ClassMap {
    /// Decides the class of each pixel of the image with this placement from the scores of `classes` classes. Checks the
    /// deadline for each row of pixels.
    pub(crate) fn of_scores(
        scores: PixelScores<'_>,
        rule: Rule,
        classes: usize,
        placement: &ImagePlacement,
        deadline: Deadline,
    ) -> Result<ClassMap> {
        let channels = scores.extent.channels;
        let mut map = ClassMap::empty(placement, classes, true);
        let (columns, rows) = samplings(placement, scores.extent);
        let mut blended = vec![0.0; scores.extent.width * channels];
        let mut of_pixel = Vec::with_capacity(channels);
        for (y, &row) in rows.covered.clone().zip(&rows.samples) {
            deadline.check()?;
            blend(&scores, row, &mut blended);
            for (x, column) in columns.covered.clone().zip(&columns.samples) {
                let of_column = |x: usize| &blended[x * channels..(x + 1) * channels];
                let (low, high) = (of_column(column.low), of_column(column.high));
                of_pixel.clear();
                of_pixel.extend(low.iter().zip(high).map(|(&low, &high)| column.between(low, high)));
                map.set(x, y, rule.decide(&of_pixel));
            }
        }
        Ok(map)
    }

    /// Takes the class of each pixel of the image with this placement from the nearest of these class numbers, which are
    /// below `classes`.
    pub(crate) fn of_classes(
        numbers: &[u8],
        extent: Extent,
        classes: usize,
        placement: &ImagePlacement,
        deadline: Deadline,
    ) -> Result<ClassMap> {
        let mut map = ClassMap::empty(placement, classes, false);
        let (columns, rows) = samplings(placement, extent);
        let certainty = Certainty { confidence: 0.0, margin: 0.0, entropy: 0.0 };
        for (y, row) in rows.covered.clone().zip(&rows.samples) {
            deadline.check()?;
            let of_row = &numbers[row.nearest() * extent.width..];
            for (x, column) in columns.covered.clone().zip(&columns.samples) {
                map.set(x, y, PixelClass { class: of_row[column.nearest()], certainty });
            }
        }
        Ok(map)
    }

    fn empty(placement: &ImagePlacement, classes: usize, is_certainty_known: bool) -> ClassMap {
        let [width, height] = placement.original;
        let pixels = vec![VOID; width as usize * height as usize];
        ClassMap { width, height, pixels, tallies: vec![Tally::default(); classes], is_certainty_known }
    }

    fn set(&mut self, x: usize, y: usize, PixelClass { class, certainty }: PixelClass) {
        self.pixels[y * self.width as usize + x] = class;
        let tally = &mut self.tallies[usize::from(class)];
        tally.pixels += 1;
        tally.confidence += f64::from(certainty.confidence);
        tally.margin += f64::from(certainty.margin);
        tally.entropy += f64::from(certainty.entropy);
    }

    /// Returns the classes that occur, by number, each with its sums.
    pub(crate) fn present(&self) -> impl Iterator<Item = (usize, &Tally)> {
        self.tallies.iter().enumerate().filter(|(_, tally)| tally.pixels > 0)
    }

    /// Returns the monitored value of the map. With scores, it is the most frequent class besides class 0, which usually
    /// is the background, and the mean certainty of all pixels. Without scores, it is the share of the other classes.
    pub(crate) fn observation(&self) -> Observation {
        let sum = |value: fn(&Tally) -> f64| self.tallies.iter().map(value).sum::<f64>();
        let seen = sum(|tally| tally.pixels as f64);
        if seen == 0.0 {
            return Observation::Nothing;
        }
        if !self.is_certainty_known {
            let background = self.tallies.first().map_or(0, |tally| tally.pixels);
            return Observation::Value(1.0 - background as f64 / seen);
        }
        // Of equally frequent classes, the first.
        let others = self.present().filter(|(class, _)| *class > 0);
        let most = others.min_by_key(|(_, tally)| Reverse(tally.pixels));
        let mean = |value: fn(&Tally) -> f64| (sum(value) / seen) as f32;
        let certainty = Certainty {
            confidence: mean(|tally| tally.confidence),
            margin: mean(|tally| tally.margin),
            entropy: mean(|tally| tally.entropy),
        };
        Observation::Class { class: most.map_or(0, |(class, _)| class), certainty }
    }
}

/// Returns the samples of the image's columns and rows in an output.
fn samplings(placement: &ImagePlacement, extent: Extent) -> (Sampling, Sampling) {
    (Sampling::of(placement, 0, extent.width), Sampling::of(placement, 1, extent.height))
}

/// Interpolates between two rows of an output, for each column and channel. The channels of a column are next to each
/// other in the result.
fn blend(scores: &PixelScores<'_>, row: Sample, blended: &mut [f32]) {
    let channels = scores.extent.channels;
    for channel in 0..channels {
        for (x, into) in blended.iter_mut().skip(channel).step_by(channels).enumerate() {
            *into = row.between(scores.at(channel, row.low, x), scores.at(channel, row.high, x));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(width: u32, height: u32) -> ImagePlacement {
        ImagePlacement { original: [width, height], input: [width, height], scale: [1.0; 2], offset: [0.0; 2] }
    }

    fn of_classes(numbers: &[u8], placement: &ImagePlacement) -> ClassMap {
        let extent = Extent { channels: 1, height: 2, width: 2 };
        ClassMap::of_classes(numbers, extent, 3, placement, Deadline::never()).unwrap()
    }

    #[test]
    fn pixels_outside_of_a_crop_have_no_class() {
        let cropped = ImagePlacement { original: [4, 2], input: [2, 2], scale: [1.0; 2], offset: [-1.0, 0.0] };
        let map = of_classes(&[0, 1, 1, 0], &cropped);
        assert_eq!(map.pixels, [VOID, 0, 1, VOID, VOID, 1, 0, VOID]);
        assert_eq!(map.tallies.iter().map(|tally| tally.pixels).collect::<Vec<_>>(), [2, 2, 0]);
        assert_eq!(map.observation(), Observation::Value(0.5));
    }

    #[test]
    fn the_most_frequent_class_is_not_the_background() {
        let extent = Extent { channels: 3, height: 1, width: 4 };
        // Classes 0, 0, 2, 1.
        let values = [0.9, 0.9, 0.1, 0.1, 0.0, 0.0, 0.1, 0.9, 0.1, 0.1, 0.8, 0.0];
        let scores = PixelScores { values: &values, extent, channels_last: false };
        let map = ClassMap::of_scores(scores, Rule::HighestProbability, 3, &whole(4, 1), Deadline::never()).unwrap();
        assert_eq!(map.pixels, [0, 0, 2, 1]);
        let Observation::Class { class, certainty } = map.observation() else { panic!() };
        // Of equally frequent classes, the first.
        assert_eq!(class, 1);
        assert!((certainty.confidence - 0.875).abs() < 1e-6);
    }

    #[test]
    fn a_mask_ends_at_the_deadline() {
        let extent = Extent { channels: 1, height: 2, width: 2 };
        let expired = Deadline::from_now(std::time::Duration::ZERO);
        assert!(ClassMap::of_classes(&[0; 4], extent, 1, &whole(2, 2), expired).is_err());
    }
}
