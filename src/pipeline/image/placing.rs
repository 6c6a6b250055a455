//! Resizing an image to the size of its row: stretched, cropped, framed or padded.

use super::decoding::Pixels;
use super::row_size::{Framed, MAX_RESIZED_PIXELS, RowSize};
use super::settings::{Fill, Resampling, Resize, Settings};
use super::side::{Anchor, Side};
use super::{opencv_resizing, pillow_resizing};
use crate::error::SetupError;
use crate::pipeline::ImagePlacement;

/// Maximum length of a side of an image with its padding.
const MAX_PADDED_SIDE: u64 = 1 << 20;

/// Resizing of images to the size of their rows, as configured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placing {
    size: RowSize,
    channels: usize,
    resize: Resize,
    before_crop: BeforeCrop,
    anchor: Anchor,
    fill: Fill,
    filter: Resampling,
}

/// Size of the resized image, before cropping.
#[derive(Debug, Clone, Copy)]
enum BeforeCrop {
    /// The shorter side has this length, and the aspect stays.
    Shortest(u32),
    /// Width and height are these.
    Stretched([u32; 2]),
}

impl Placing {
    /// Creates the resizing to this size, as configured.
    pub(crate) fn new(size: RowSize, channels: usize, fill: Fill, settings: &Settings) -> Result<Placing, SetupError> {
        settings.check_resize()?;
        Ok(Placing {
            size,
            channels,
            resize: settings.resize.unwrap_or_default(),
            before_crop: BeforeCrop::of(size.largest(), settings).map_err(SetupError::Config)?,
            anchor: settings.anchor.unwrap_or_default(),
            fill,
            filter: settings.filter.unwrap_or_default(),
        })
    }

    /// Returns the resizing of an image of this width and height, across and down.
    pub(crate) fn sides(&self, image: [u32; 2]) -> Result<[Side; 2], String> {
        let anchor = self.anchor;
        let sides = match self.resize {
            Resize::Stretch => {
                let row = self.size.stretched(image);
                [0, 1].map(|axis| Side::stretched(image[axis], row[axis]))
            }
            Resize::Fit => {
                let Framed { resized, row } = self.size.framed(image);
                [0, 1].map(|axis| Side::framed(image[axis], resized[axis], row[axis], anchor))
            }
            Resize::Crop => {
                let (resized, row) = (self.before_crop.size(image), self.size.largest());
                [0, 1].map(|axis| Side::cropped(image[axis], resized[axis], row[axis], anchor))
            }
            Resize::Pad => {
                let row = self.size.largest();
                let padded = padded(image, row);
                if padded.iter().any(|length| *length > MAX_PADDED_SIDE) {
                    return Err(too_long(image));
                }
                [0, 1].map(|axis| Side::padded(image[axis], padded[axis], row[axis], anchor))
            }
        };
        // Pillow resizes rows before columns, so the intermediate image has the original number of rows.
        let intermediate = u64::from(sides[0].part) * u64::from(image[1]);
        match self.filter {
            Resampling::Pillow(_) if intermediate > MAX_RESIZED_PIXELS => Err(too_long(image)),
            Resampling::Pillow(_) | Resampling::Opencv(_) => Ok(sides),
        }
    }

    /// Returns the part of the resized image that is in its row.
    pub(crate) fn resized(&self, image: Pixels, sides: [Side; 2]) -> Pixels {
        let fill = match self.fill {
            Fill::Level(level) => level,
            Fill::Scaled(_) => 0,
        };
        match self.filter {
            Resampling::Pillow(filter) => pillow_resizing::resize(image, sides, self.channels, filter, fill),
            Resampling::Opencv(interpolation) => {
                opencv_resizing::resize(&image, sides, self.channels, interpolation, fill)
            }
        }
    }
}

impl BeforeCrop {
    /// Returns the configured size for rows of this width and height; by default, the shorter side becomes as long as the
    /// longer side of a row.
    fn of([width, height]: [u32; 2], settings: &Settings) -> Result<BeforeCrop, String> {
        if let Some([stretched_height, stretched_width]) = settings.stretch_to {
            if stretched_width < width || stretched_height < height {
                return Err(format!(
                    "stretch_to: [{stretched_height}, {stretched_width}] is less than the [{height}, {width}] that are \
                     cut out"
                ));
            }
            if u64::from(stretched_width) * u64::from(stretched_height) > MAX_RESIZED_PIXELS {
                return Err("stretch_to: at most 67,108,864 pixels in all".to_owned());
            }
            return Ok(BeforeCrop::Stretched([stretched_width, stretched_height]));
        }
        let least = height.max(width);
        let shortest = settings.shortest.unwrap_or(least);
        if u64::from(shortest).pow(2) > MAX_RESIZED_PIXELS && settings.resize == Some(Resize::Crop) {
            return Err(format!("shortest: {shortest} pixels are too many"));
        }
        if shortest < least {
            return Err(format!("shortest: {shortest} pixels are fewer than the {least} that are cut out"));
        }
        Ok(BeforeCrop::Shortest(shortest))
    }

    fn size(self, image: [u32; 2]) -> [u64; 2] {
        match self {
            BeforeCrop::Shortest(shortest) => with_shortest(image, shortest),
            BeforeCrop::Stretched(size) => size.map(u64::from),
        }
    }
}

/// Returns the placement of an image in its row, for postprocessors.
pub(crate) fn placement(sides: &[Side; 2]) -> ImagePlacement {
    ImagePlacement {
        original: sides.map(|side| side.length),
        input: sides.map(|side| side.row),
        scale: sides.map(|side| side.scale()),
        offset: sides.map(|side| side.offset()),
    }
}

/// Returns width and height of an image resized so that its shorter side has this length. The longer side is rounded
/// down, as in torchvision.
fn with_shortest([width, height]: [u32; 2], shortest: u32) -> [u64; 2] {
    let shortest = u64::from(shortest);
    let longer = shortest * u64::from(width.max(height)) / u64::from(width.min(height)).max(1);
    if width <= height { [shortest, longer] } else { [longer, shortest] }
}

/// Returns width and height of the smallest image around this one that has the aspect of the row.
fn padded(image: [u32; 2], row: [u32; 2]) -> [u64; 2] {
    let ([width, height], [row_width, row_height]) = (image.map(u64::from), row.map(u64::from));
    let rounded = |product: u64, divisor: u64| (product + divisor / 2) / divisor;
    if width * row_height >= height * row_width {
        [width, rounded(width * row_height, row_width).max(height)]
    } else {
        [rounded(height * row_width, row_height).max(width), height]
    }
}

fn too_long([width, height]: [u32; 2]) -> String {
    format!("found an image of {width} x {height} pixels, which is too long for the shape of the model's input")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pipeline::image::opencv_resizing::Interpolation;
    use crate::pipeline::image::pillow_resizing::Filter;

    proptest! {
        /// The padding is not made, but the result is as if it had been.
        #[test]
        fn a_padded_image_is_what_an_image_with_the_padding_is(
            (width, height, values) in (1u32..12, 1u32..12).prop_flat_map(|(width, height)| {
                (Just(width), Just(height), prop::collection::vec(any::<u8>(), (width * height) as usize))
            }),
            row in prop::array::uniform2(1u32..20), fill in any::<u8>(), is_anchored in any::<bool>(),
        ) {
            let anchor = if is_anchored { Anchor::TopLeft } else { Anchor::Centre };
            let padded = padded([width, height], row);
            let image = Pixels { width, height, values };
            let sides = [Side::padded(width, padded[0], row[0], anchor), Side::padded(height, padded[1], row[1], anchor)];
            let mut whole = vec![fill; (padded[0] * padded[1]) as usize];
            for (y, line) in image.values.chunks(width as usize).enumerate() {
                let start = (y + sides[1].before as usize) * padded[0] as usize + sides[0].before as usize;
                whole[start..start + line.len()].copy_from_slice(line);
            }
            let [padded_width, padded_height] = padded.map(|length| length as u32);
            let whole = Pixels { width: padded_width, height: padded_height, values: whole };
            let stretched = [Side::stretched(padded_width, row[0]), Side::stretched(padded_height, row[1])];
            for by in [Interpolation::Linear, Interpolation::Nearest] {
                let ours = opencv_resizing::resize(&image, sides, 1, by, fill);
                prop_assert_eq!(ours.values, opencv_resizing::resize(&whole, stretched, 1, by, fill).values);
            }
            for filter in [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos, Filter::Nearest] {
                let copy = |image: &Pixels| Pixels { values: image.values.clone(), ..*image };
                let ours = pillow_resizing::resize(copy(&image), sides, 1, filter, fill).values;
                let theirs = pillow_resizing::resize(copy(&whole), stretched, 1, filter, fill).values;
                // The weights of the padding are added in another order, so a tie may be rounded differently in each of the two
                // passes. The weights of the second one add up to less than 2, each taken without its sign.
                prop_assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| ours.abs_diff(*theirs) <= 2));
            }
        }
    }
}
