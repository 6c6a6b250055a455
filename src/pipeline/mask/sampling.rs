//! The pixels of a model's output that belong to each pixel of the image that was sent, along one side.
//!
//! A pixel is a point in the middle of a unit square, as in `align_corners=False` of PyTorch. The point is moved into the
//! model's input by the placement of the image, and from there into the output by the ratio of their lengths. A frame
//! around the image is not read: positions are moved to the nearest pixel of the image's part of the output.

use std::ops::Range;

use crate::pipeline::ImagePlacement;

/// Two neighbouring pixels of an output, and the weight of the second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) low: usize,
    pub(crate) high: usize,
    /// Weight of `high`, from 0 to 1. The weight of `low` is the rest.
    pub(crate) weight: f32,
}

/// The samples of the pixels of an image, along one side.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sampling {
    /// Pixels of the image that the model saw: all, unless the image was cropped.
    pub(crate) covered: Range<usize>,
    /// One sample for each covered pixel.
    pub(crate) samples: Vec<Sample>,
}

impl Sample {
    /// Returns the nearer of the two pixels.
    pub(crate) fn nearest(self) -> usize {
        if self.weight < 0.5 { self.low } else { self.high }
    }

    /// Interpolates between the values of the two pixels.
    pub(crate) fn between(self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.weight
    }
}

impl Sampling {
    /// Creates the samples of an image in an output of this length, across (axis 0) or down (axis 1).
    pub(crate) fn of(placement: &ImagePlacement, axis: usize, length: usize) -> Sampling {
        let (original, input) = (placement.original[axis], f64::from(placement.input[axis]));
        let (scale, offset) = (placement.scale[axis], placement.offset[axis]);
        let ratio = length as f64 / input;
        let middle = |pixel: u32| (f64::from(pixel) + 0.5) * scale + offset;
        let is_covered = |pixel: &u32| (0.0..input).contains(&middle(*pixel));
        let start = (0..original).find(is_covered).unwrap_or(original);
        let end = (start..original).find(|pixel| !is_covered(pixel)).unwrap_or(original);
        let last = length.saturating_sub(1);
        // The first and the last pixel of the output that show the image.
        let begins = (offset * ratio).clamp(0.0, last as f64);
        let ends = ((offset + f64::from(original) * scale) * ratio - 1.0).clamp(begins, (last as f64).max(begins));
        let sample = |pixel: u32| {
            let position = (middle(pixel) * ratio - 0.5).clamp(begins, ends);
            let low = (position.floor() as usize).min(last);
            Sample { low, high: (low + 1).min(last), weight: (position - low as f64) as f32 }
        };
        Sampling { covered: start as usize..end as usize, samples: (start..end).map(sample).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(placement: ImagePlacement, length: usize) -> (Range<usize>, Vec<f32>) {
        let Sampling { covered, samples } = Sampling::of(&placement, 0, length);
        (covered, samples.iter().map(|sample| sample.low as f32 + sample.weight).collect())
    }

    /// The positions are those of `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`.
    #[test]
    fn a_stretched_image_is_read_as_pytorch_interpolates() {
        let stretched = ImagePlacement { original: [8, 1], input: [4, 1], scale: [0.5, 1.0], offset: [0.0, 0.0] };
        assert_eq!(positions(stretched, 4), (0..8, vec![0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]));
        // The output has half the length of the input.
        assert_eq!(positions(stretched, 2), (0..8, vec![0.0, 0.0, 0.125, 0.375, 0.625, 0.875, 1.0, 1.0]));
    }

    #[test]
    fn a_frame_is_not_read() {
        let framed = ImagePlacement { original: [4, 1], input: [8, 1], scale: [1.0, 1.0], offset: [2.0, 0.0] };
        assert_eq!(positions(framed, 8), (0..4, vec![2.0, 3.0, 4.0, 5.0]));
        let enlarged = ImagePlacement { original: [2, 1], input: [8, 1], scale: [2.0, 1.0], offset: [2.0, 0.0] };
        assert_eq!(positions(enlarged, 8), (0..2, vec![2.5, 4.5]));
    }

    #[test]
    fn pixels_that_were_cropped_have_no_sample() {
        let cropped = ImagePlacement { original: [8, 1], input: [4, 1], scale: [1.0, 1.0], offset: [-3.0, 0.0] };
        assert_eq!(positions(cropped, 4), (3..7, vec![0.0, 1.0, 2.0, 3.0]));
    }

    #[test]
    fn the_nearer_pixel_is_that_whose_square_has_the_point() {
        let near = |weight| Sample { low: 3, high: 4, weight }.nearest();
        assert_eq!([near(0.0), near(0.49), near(0.5), near(1.0)], [3, 3, 4, 4]);
    }
}
