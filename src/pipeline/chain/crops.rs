//! Boxes of a detector, cut out of the images that it was given. A crop is an instance like any image: a PNG in base64.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ImageEncoder, RgbImage, imageops};
use serde_json::value::RawValue;

use super::instance_array::{ChainInstances, InstanceArray};
use crate::budget::{Deadline, MemoryBudget};
use crate::error::{Error, Result};
use crate::pipeline::Detection;
use crate::pipeline::image::decoding::{Channels, decode};
use crate::pipeline::json::encoded_file::encoded_file;
use crate::pipeline::json::reader::Reader;

/// Maximum number of pixels of an image. The detector has its own limit (`preprocess.max_pixels`), which is lower in most
/// models.
const MAX_PIXELS: u64 = 1 << 26;

/// Maximum number of pixels of all crops of a request together.
const MAX_CROPPED_PIXELS: u64 = 1 << 24;

/// Distance at which a side of a box lies on the edge of a pixel. It covers the rounding of boxes.
const ON_EDGE: f32 = 1e-3;

/// Bytes of a pixel while it is encoded: as pixel, in the file and as base64 text.
const BYTES_PER_PIXEL: usize = 3 + 3 + 4;

/// Cuts the boxes of each image out of it. Returns an instance for each box, in order.
pub(super) fn crops(
    images: &RawValue,
    boxes: &[Vec<Detection>],
    margin: f32,
    (memory, deadline): (&MemoryBudget, Deadline),
) -> Result<ChainInstances> {
    let images: Vec<&RawValue> = serde_json::from_str(images.get()).map_err(Error::internal)?;
    let mut crops = InstanceArray::new(memory)?;
    let mut pixels = 0;
    for (index, (image, boxes)) in images.iter().zip(boxes).enumerate() {
        if boxes.is_empty() {
            continue;
        }
        deadline.check()?;
        let wrong = |problem: String| Error::InvalidInput(format!("instances[{index}]: {problem}"));
        let bytes = encoded_file(&mut Reader::new(image.get()), "an object with an image")
            .map_err(|misfit| wrong(misfit.problem))?;
        // The detector was the first to decode the image, and has checked its size.
        let decoded = decode(&bytes, MAX_PIXELS, Channels::Rgb).map_err(wrong)?;
        let _held = memory.hold(decoded.values.len())?;
        let image = RgbImage::from_raw(decoded.width, decoded.height, decoded.values)
            .ok_or_else(|| Error::internal("an image without its pixels"))?;
        let size = [image.width(), image.height()];
        let parts: Vec<[u32; 4]> = boxes.iter().map(|found| part(found.corners, size, margin)).collect();
        pixels += parts.iter().map(|[_, _, width, height]| u64::from(*width) * u64::from(*height)).sum::<u64>();
        if pixels > MAX_CROPPED_PIXELS {
            return Err(wrong(format!(
                "the crops up to this image have {pixels} pixels together, more than {MAX_CROPPED_PIXELS}; send fewer images in a \
                 request, or smaller ones"
            )));
        }
        for [left, top, width, height] in parts {
            deadline.check()?;
            let _held = memory.hold(width as usize * height as usize * BYTES_PER_PIXEL)?;
            crops.begin_instance()?;
            crops.add(&encoded(&imageops::crop_imm(&image, left, top, width, height).to_image())?)?;
        }
    }
    crops.finish()
}

/// Returns left, top, width and height of a box with its margin, in whole pixels of the image: at least one pixel, and all
/// pixels that the box touches.
fn part([left, top, right, bottom]: [f32; 4], size: [u32; 2], margin: f32) -> [u32; 4] {
    let axis = |from: f32, to: f32, length: u32| {
        let margin = (to - from).max(0.0) * margin;
        let last = length.max(1) - 1;
        // The conversion of floats saturates, and NaN becomes 0.
        let from = ((from - margin + ON_EDGE).floor() as u32).min(last);
        let to = ((to + margin - ON_EDGE).ceil() as u32).clamp(from + 1, length.max(1));
        [from, to - from]
    };
    let ([left, width], [top, height]) = (axis(left, right, size[0]), axis(top, bottom, size[1]));
    [left, top, width, height]
}

/// Returns an instance with this image. A PNG is exact; it is compressed little, because it is decoded at once.
fn encoded(image: &RgbImage) -> Result<String> {
    let mut file = Cursor::new(Vec::new());
    PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::NoFilter)
        .write_image(image.as_raw(), image.width(), image.height(), image::ExtendedColorType::Rgb8)
        .map_err(Error::internal)?;
    Ok(format!(r#"{{"b64":"{}"}}"#, STANDARD.encode(file.into_inner())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_all_pixels_that_its_box_touches_and_lies_in_the_image() {
        for (corners, margin, expected) in [
            ([1.2, 2.0, 3.1, 4.0], 0.0, [1, 2, 3, 2]),
            ([2.0, 2.0, 6.0, 4.0], 0.5, [0, 1, 8, 4]),
            ([-3.0, -2.0, 90.0, 90.0], 0.0, [0, 0, 10, 8]),
            ([4.0, 4.0, 4.0, 4.0], 1.0, [4, 4, 1, 1]),
            ([50.0, 60.0, 70.0, 80.0], 0.0, [9, 7, 1, 1]),
            ([f32::NAN, f32::NEG_INFINITY, f32::INFINITY, f32::NAN], 0.1, [0, 0, 10, 1]),
        ] {
            assert_eq!(part(corners, [10, 8], margin), expected, "{corners:?}");
        }
    }
}
