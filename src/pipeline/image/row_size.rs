//! Height and width of the rows that images become: the same for all, or according to each image.
//!
//! The roundings are those of PaddleOCR (`DetResizeForTest`, `resize_norm_img`), whose models read text of any width and
//! find it in images of any size.

use serde::Deserialize;

/// Maximum number of pixels of a resized image: 64 Mi.
pub(crate) const MAX_RESIZED_PIXELS: u64 = 1 << 26;

/// Height and width of rows, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "expected height and width, as in [224, 224], or a table with either max_side, and perhaps min_side and \
                 multiple, or height and max_width, and perhaps min_width and multiple"
)]
pub(crate) enum RowSize {
    /// This height and width.
    Fixed([u32; 2]),
    /// This height, and a width according to the image.
    ByHeight(ByHeight),
    /// Height and width according to the image.
    BySides(BySides),
}

/// A fixed height; the width keeps the aspect, within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ByHeight {
    pub(crate) height: u32,
    #[serde(default = "one")]
    pub(crate) min_width: u32,
    pub(crate) max_width: u32,
    /// Number that the width is a multiple of.
    #[serde(default = "one")]
    pub(crate) multiple: u32,
}

/// Sides in the size of the image, unless they are too short or too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BySides {
    /// Length that the shorter side is enlarged to.
    #[serde(default = "one")]
    pub(crate) min_side: u32,
    /// Length that the longer side is reduced to.
    pub(crate) max_side: u32,
    /// Number that both sides are multiples of.
    #[serde(default = "one")]
    pub(crate) multiple: u32,
}

fn one() -> u32 {
    1
}

/// Width and height of a resized image, and of the row around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framed {
    pub(crate) resized: [u32; 2],
    pub(crate) row: [u32; 2],
}

impl RowSize {
    /// Checks the settings. The number of pixels of the largest row is bounded, because its tensor is kept in memory.
    pub(crate) fn check(self) -> Result<(), &'static str> {
        let [width, height] = self.largest();
        let (least, most, multiple) = match self {
            RowSize::Fixed(_) => (1, width, 1),
            RowSize::ByHeight(ByHeight { min_width, max_width, multiple, .. }) => (min_width, max_width, multiple),
            RowSize::BySides(BySides { min_side, max_side, multiple }) => (min_side, max_side, multiple),
        };
        if width == 0 || height == 0 || u64::from(width) * u64::from(height) > MAX_RESIZED_PIXELS {
            return Err("size: between 1 and 67,108,864 pixels in all");
        }
        if multiple == 0 || most % multiple != 0 {
            return Err("size: max_width or max_side must be a multiple of the number in multiple");
        }
        if least > most {
            return Err("size: the minimum is more than the maximum");
        }
        Ok(())
    }

    /// Width and height of the largest row.
    pub(crate) fn largest(self) -> [u32; 2] {
        match self {
            RowSize::Fixed([height, width]) => [width, height],
            RowSize::ByHeight(ByHeight { height, max_width, .. }) => [max_width, height],
            RowSize::BySides(BySides { max_side, .. }) => [max_side, max_side],
        }
    }

    /// Returns width and height of the row for an image that may be stretched.
    ///
    /// Sides are rounded to the nearest multiple, halves to the even one.
    pub(crate) fn stretched(self, image: [u32; 2]) -> [u32; 2] {
        let nearest = |length: f64, multiple: u32, most: u32| {
            let multiples = (length / f64::from(multiple)).round_ties_even() as u32;
            multiples.max(1).saturating_mul(multiple).min(most)
        };
        match self {
            RowSize::Fixed([height, width]) => [width, height],
            RowSize::ByHeight(ByHeight { height, min_width, max_width, multiple }) => {
                let width = width_at(height, image).max(f64::from(min_width));
                [nearest(width, multiple, max_width), height]
            }
            RowSize::BySides(sides) => {
                sides.resized(image).map(|length| nearest(f64::from(length), sides.multiple, sides.max_side))
            }
        }
    }

    /// Returns width and height of an image that keeps its aspect, and of the row for it.
    ///
    /// With a fixed height, the width of the image is rounded up. An image that is too wide becomes narrower. Rows are
    /// rounded up to a multiple.
    pub(crate) fn framed(self, image: [u32; 2]) -> Framed {
        let up = |length: u32, multiple: u32| length.div_ceil(multiple).saturating_mul(multiple);
        match self {
            RowSize::Fixed([height, width]) => Framed { resized: within(image, [width, height]), row: [width, height] },
            RowSize::ByHeight(ByHeight { height, min_width, max_width, multiple }) => {
                let width = width_at(height, image);
                // Rounded down, unless the image is less than a pixel wide.
                let row = up((width as u32).clamp(min_width.max(1), max_width), multiple).min(max_width);
                Framed { resized: [(width.ceil() as u32).clamp(1, row), height], row: [row, height] }
            }
            RowSize::BySides(sides) => {
                let resized = sides.resized(image);
                Framed { resized, row: resized.map(|length| up(length, sides.multiple).min(sides.max_side)) }
            }
        }
    }
}

impl BySides {
    /// Returns width and height of an image whose shorter side is at least, and whose longer side is at most as
    /// configured. The latter takes precedence.
    fn resized(self, [width, height]: [u32; 2]) -> [u32; 2] {
        let [shorter, longer] = [width.min(height), width.max(height)].map(f64::from);
        let enlarged = if shorter < f64::from(self.min_side) { f64::from(self.min_side) / shorter } else { 1.0 };
        let most = f64::from(self.max_side);
        let ratio = if longer * enlarged > most { most / longer } else { enlarged };
        [width, height].map(|length| ((f64::from(length) * ratio) as u32).clamp(1, self.max_side))
    }
}

/// Returns the width of an image that is resized to this height and keeps its aspect.
fn width_at(height: u32, [width, original]: [u32; 2]) -> f64 {
    f64::from(height) * (f64::from(width) / f64::from(original))
}

/// Returns the largest width and height that fit into a frame without a change of the aspect.
fn within([width, height]: [u32; 2], [most_wide, most_high]: [u32; 2]) -> [u32; 2] {
    let scale = (f64::from(most_wide) / f64::from(width)).min(f64::from(most_high) / f64::from(height));
    let side = |length: u32, most: u32| ((f64::from(length) * scale).round() as u32).clamp(1, most);
    [side(width, most_wide), side(height, most_high)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows_follow_the_image_within_bounds() {
        let sides = RowSize::BySides(BySides { min_side: 736, max_side: 1984, multiple: 32 });
        // The numbers are those of `DetPreProcess(736, "min").resize` of rapidocr 3.10.0.
        assert_eq!(sides.stretched([640, 480]), [992, 736]);
        assert_eq!(sides.stretched([1000, 1000]), [992, 992]);
        assert_eq!(sides.stretched([1520, 816]), [1536, 832]);
        assert_eq!(sides.stretched([700, 736]), [736, 768]);
        // 10 x 1 cannot have both sides within the bounds.
        assert_eq!(sides.stretched([1000, 100]), [1984, 192]);
        let padded = RowSize::BySides(BySides { min_side: 1, max_side: 1024, multiple: 32 });
        assert_eq!(padded.framed([500, 333]), Framed { resized: [500, 333], row: [512, 352] });
        assert_eq!(padded.framed([4096, 1]), Framed { resized: [1024, 1], row: [1024, 32] });
        let line = RowSize::ByHeight(ByHeight { height: 48, min_width: 320, max_width: 3200, multiple: 1 });
        assert_eq!(line.framed([100, 30]), Framed { resized: [160, 48], row: [320, 48] });
        assert_eq!(line.framed([301, 32]), Framed { resized: [451, 48], row: [451, 48] });
        assert_eq!(line.framed([9000, 30]), Framed { resized: [3200, 48], row: [3200, 48] });
        assert_eq!(line.framed([1, 9000]), Framed { resized: [1, 48], row: [320, 48] });
    }

    #[test]
    fn sizes_that_contradict_themselves_are_refused() {
        let check = |settings: &str, problem: &str| {
            let size: RowSize = serde_json::from_str(settings).unwrap();
            let error = size.check().unwrap_err();
            assert!(error.contains(problem), "{settings}: {error}");
        };
        check("[0, 8]", "between 1 and 67,108,864 pixels");
        check("[10000, 10000]", "between 1 and 67,108,864 pixels");
        check(r#"{"max_side": 10000}"#, "between 1 and 67,108,864 pixels");
        check(r#"{"max_side": 100, "multiple": 32}"#, "must be a multiple of the number in multiple");
        check(r#"{"max_side": 64, "multiple": 0}"#, "must be a multiple of the number in multiple");
        check(r#"{"max_side": 64, "min_side": 65}"#, "the minimum is more than the maximum");
        check(r#"{"height": 48, "max_width": 100, "multiple": 32}"#, "must be a multiple of");
        check(r#"{"height": 48, "max_width": 64, "min_width": 65}"#, "the minimum is more");
    }

    proptest! {
        #[test]
        fn every_row_is_within_its_bounds(
            image in prop::array::uniform2(1u32..70_000), multiple in 1u32..40, most in 1u32..60, least in 1u32..2_000,
        ) {
            let (max_side, min_side) = (most * multiple, least.min(most * multiple));
            let sides = RowSize::BySides(BySides { min_side, max_side, multiple });
            let line = RowSize::ByHeight(ByHeight { height: 48, min_width: min_side, max_width: max_side, multiple });
            let fits = |length: u32| (1..=max_side).contains(&length) && length.is_multiple_of(multiple);
            for size in [sides, line] {
                let Framed { resized, row } = size.framed(image);
                for [width, height] in [row, size.stretched(image)] {
                    let is_high_enough = if size == line { height == 48 } else { fits(height) };
                    prop_assert!(fits(width) && is_high_enough, "{} x {}", width, height);
                }
                prop_assert!(resized[0] > 0 && resized[0] <= row[0] && resized[1] > 0 && resized[1] <= row[1]);
            }
        }
    }
}
