//! Resizing of one side of an image, across or down: padding, scale, the part that is computed, its place in the row.
//!
//! ```text
//! image ──pad──▶ padded ──scale──▶ resized ──cut──▶ part ──frame──▶ row
//! ```

use serde::Deserialize;

/// Part of an image that stays in its place if the image is cropped, framed or padded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Anchor {
    #[default]
    Centre,
    TopLeft,
}

/// Resizing of one side of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Side {
    /// Length of the image.
    pub(crate) length: u32,
    /// Length of the image with its padding.
    pub(crate) padded: u64,
    /// Padding before the image.
    pub(crate) before: u64,
    /// Length that the padded image is resized to.
    pub(crate) resized: u64,
    /// Start of the part of the resized image that is computed.
    pub(crate) first: u64,
    /// Length of the part.
    pub(crate) part: u32,
    /// Start of the part in the row.
    pub(crate) start: u32,
    /// Length of the row.
    pub(crate) row: u32,
}

impl Side {
    /// Resizes the side to the length of the row.
    pub(crate) fn stretched(length: u32, row: u32) -> Side {
        Side::framed(length, row, row, Anchor::TopLeft)
    }

    /// Resizes the side to a length of at most the row's, and puts a frame around it.
    pub(crate) fn framed(length: u32, resized: u32, row: u32, anchor: Anchor) -> Side {
        let start = match anchor {
            Anchor::TopLeft => 0,
            Anchor::Centre => (row - resized) / 2,
        };
        let (padded, resized_length) = (length.into(), resized.into());
        Side { length, padded, before: 0, resized: resized_length, first: 0, part: resized, start, row }
    }

    /// Resizes the side to a length of at least the row's, and cuts out a part.
    pub(crate) fn cropped(length: u32, resized: u64, row: u32, anchor: Anchor) -> Side {
        let first = match anchor {
            Anchor::TopLeft => 0,
            // Rounds halves to the even number, like torchvision's CenterCrop.
            Anchor::Centre => ((resized as f64 - f64::from(row)) / 2.0).round_ties_even() as u64,
        };
        Side { length, padded: length.into(), before: 0, resized, first, part: row, start: 0, row }
    }

    /// Pads the side to a length of at least its own, and resizes the result to the length of the row.
    pub(crate) fn padded(length: u32, padded: u64, row: u32, anchor: Anchor) -> Side {
        let before = match anchor {
            Anchor::TopLeft => 0,
            Anchor::Centre => (padded - u64::from(length)) / 2,
        };
        Side { length, padded, before, resized: row.into(), first: 0, part: row, start: 0, row }
    }

    /// Pixels of the row per pixel of the image.
    pub(crate) fn scale(&self) -> f64 {
        self.resized as f64 / self.padded as f64
    }

    /// Position of the start of the image in the row; negative if it was cut off.
    pub(crate) fn offset(&self) -> f64 {
        f64::from(self.start) - self.first as f64 + self.before as f64 * self.scale()
    }

    /// Returns true if the computed part is the image as it is.
    pub(crate) fn is_unchanged(&self) -> bool {
        (self.padded, self.resized, self.part) == (self.length.into(), self.length.into(), self.length)
    }

    /// Returns the position in the image of a pixel of the padded image; `None` for a pixel of the padding.
    pub(crate) fn in_image(&self, place: u64) -> Option<usize> {
        let place = place.checked_sub(self.before).filter(|place| *place < u64::from(self.length));
        place.map(|place| place as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The image's own pixels are found in the row where the scale and the offset say.
        #[test]
        fn sides_map_the_row_onto_the_image(
            length in 1u32..200, row in 1u32..50, more in 0u32..100, is_anchored in any::<bool>(), mode in 0..4,
        ) {
            let anchor = if is_anchored { Anchor::TopLeft } else { Anchor::Centre };
            let side = match mode {
                0 => Side::stretched(length, row),
                1 => Side::framed(length, row, row + more, anchor),
                2 => Side::cropped(length, (row + more).into(), row, anchor),
                _ => Side::padded(length, (length + more).into(), row, anchor),
            };
            let [start, end] = [0.0, f64::from(length)].map(|place| place * side.scale() + side.offset());
            let (before, after) = (start, f64::from(side.row) - end);
            // A half pixel by rounding: of the row, or of the padding, which is scaled.
            let rounding = 0.5 * side.scale().max(1.0) + 1e-9;
            match (mode, anchor) {
                (0, _) => prop_assert!(before.abs() < 1e-9 && after.abs() < 1e-9),
                (_, Anchor::TopLeft) => prop_assert!(before.abs() < 1e-9),
                (_, Anchor::Centre) => prop_assert!((before - after).abs() <= 2.0 * rounding, "{} {}", before, after),
            }
            prop_assert!(side.start + side.part <= side.row);
        }
    }
}
