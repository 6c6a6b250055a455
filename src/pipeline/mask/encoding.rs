//! Encodings of a class map: a grayscale PNG whose values are the classes, or run lengths as in COCO.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder as _};

use super::class_map::{ClassMap, VOID};
use crate::error::{Error, Result};
use crate::pipeline::RunLengths;

/// Width of the blocks in which a map is turned, so that both of its orders stay in the processor's cache.
const BLOCK: usize = 64;

/// Returns the map as a PNG in base64. A pixel's value of 0–255 is its class; it is not a colour.
pub(crate) fn png(map: &ClassMap) -> Result<String> {
    let mut file = Vec::new();
    PngEncoder::new_with_quality(&mut file, CompressionType::Fast, FilterType::Up)
        .write_image(&map.pixels, map.width, map.height, ExtendedColorType::L8)
        .map_err(Error::internal)?;
    Ok(STANDARD.encode(file))
}

/// Returns the run lengths of each class that occurs, by number: down the columns, lengths of runs without and with the
/// class in turn, as in COCO's uncompressed RLE.
pub(crate) fn run_lengths(map: &ClassMap) -> Vec<RunLengths> {
    let columns = by_columns(map);
    let mut runs = vec![(Vec::new(), 0); map.tallies.len()];
    let mut start = 0;
    for run in columns.chunk_by(|a, b| a == b) {
        let (class, length) = (run[0], run.len() as u32);
        if class != VOID {
            let (counts, end) = &mut runs[usize::from(class)];
            counts.extend([start - *end, length]);
            *end = start + length;
        }
        start += length;
    }
    let (size, pixels) = ([map.height, map.width], start);
    let finish = |(mut counts, end): (Vec<u32>, u32)| {
        if end < pixels {
            counts.push(pixels - end);
        }
        RunLengths { size, counts }
    };
    runs.into_iter().filter(|(counts, _)| !counts.is_empty()).map(finish).collect()
}

/// Returns the classes in the order of the columns, each from top to bottom.
fn by_columns(map: &ClassMap) -> Vec<u8> {
    let (width, height) = (map.width as usize, map.height as usize);
    let mut columns = vec![VOID; map.pixels.len()];
    for left in (0..width).step_by(BLOCK) {
        let right = width.min(left + BLOCK);
        for (y, row) in map.pixels.chunks_exact(width).enumerate() {
            for (x, &class) in (left..right).zip(&row[left..right]) {
                columns[x * height + y] = class;
            }
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Deadline;
    use crate::pipeline::ImagePlacement;
    use crate::pipeline::mask::pixel_scores::Extent;

    /// A map of 3 x 2 pixels, with one that has no class.
    fn map() -> ClassMap {
        let extent = Extent { channels: 1, height: 2, width: 3 };
        let placement = ImagePlacement { original: [3, 2], input: [3, 2], scale: [1.0; 2], offset: [0.0; 2] };
        let map = ClassMap::of_classes(&[0, 0, 2, 2, 0, 2], extent, 4, &placement, Deadline::never());
        let mut map = map.unwrap();
        map.pixels[4] = VOID;
        map
    }

    /// The columns are 0 2, 0 -, 2 2.
    #[test]
    fn runs_go_down_the_columns_and_begin_without_the_class() {
        let counts: Vec<Vec<u32>> = run_lengths(&map()).into_iter().map(|runs| runs.counts).collect();
        assert_eq!(counts, [vec![0, 1, 1, 1, 3], vec![1, 1, 2, 2]]);
    }

    #[test]
    fn the_values_of_the_png_are_the_classes() {
        let file = STANDARD.decode(png(&map()).unwrap()).unwrap();
        let image = image::load_from_memory(&file).unwrap();
        assert_eq!(image.color(), image::ColorType::L8);
        assert_eq!(image.into_luma8().into_raw(), [0, 0, 2, 2, VOID, 2]);
    }
}
