//! Decodes an image file to its pixels: upright, with 8 bits per channel, and within limits of size and memory.

use std::io::Cursor;
use std::panic::catch_unwind;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use crate::pipeline::image::container::{Essentials, essentials};

/// Image formats that are accepted.
const FORMATS: [ImageFormat; 3] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP];

/// Maximum length of a side of an image, as in JPEG.
const MAX_SIDE: u32 = 65_535;

/// Memory that a decoder may use in addition to the pixels, in bytes.
const DECODERS_OWN: u64 = 1 << 20;

/// Maximum number of bytes in a pixel: four channels of 16 bits.
const BYTES_PER_PIXEL: u64 = 8;

/// Channels of a decoded pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Luminance.
    Gray,
}

impl Channels {
    pub(crate) fn count(self) -> usize {
        match self {
            Channels::Rgb => 3,
            Channels::Gray => 1,
        }
    }
}

/// Decoded image: its pixels row by row from the upper left corner, with interleaved channels.
#[derive(Debug)]
pub(crate) struct Pixels {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) values: Vec<u8>,
}

/// Decodes an image of at most `max_pixels`. The size is checked before memory for the pixels is allocated.
pub(crate) fn decode(bytes: &[u8], max_pixels: u64, channels: Channels) -> Result<Pixels, String> {
    let guessed = image::guess_format(bytes).ok();
    let format = guessed.filter(|format| FORMATS.contains(format));
    let format = format.ok_or_else(|| match guessed {
        Some(other) => {
            format!("found a {} image, expected PNG, JPEG or WebP", other.extensions_str()[0].to_uppercase())
        }
        None => "found data that is not a PNG, JPEG or WebP image".to_owned(),
    })?;
    if format == ImageFormat::Jpeg && !has_end(bytes) {
        // Refused, because the decoder would make up the missing pixels.
        return Err("found a JPEG image that ends before it is complete".to_owned());
    }
    let essentials = essentials(bytes, format)?;
    if let Some((width, height)) = essentials.size {
        check_size(width, height, max_pixels)?;
    }
    // The decoders of some formats panic on some broken images.
    let read = catch_unwind(|| read(&essentials, format, max_pixels));
    let mut image = read.unwrap_or_else(|_| Err(format!("found a broken {} image", name(format))))?;
    image.apply_orientation(essentials.orientation);
    let (width, height) = (image.width(), image.height());
    let rgb = |image: DynamicImage| image.into_rgb8().into_raw();
    let values = match (channels, image) {
        (Channels::Rgb, image) => rgb(image),
        (Channels::Gray, DynamicImage::ImageLuma8(image)) => image.into_raw(),
        (Channels::Gray, image @ (DynamicImage::ImageLuma16(_) | DynamicImage::ImageLumaA8(_))) => {
            image.into_luma8().into_raw()
        }
        (Channels::Gray, image) => rgb(image).as_chunks().0.iter().map(luminance).collect(),
    };
    Ok(Pixels { width, height, values })
}

/// Reads the pixels of an image with the decoder of its format.
fn read(essentials: &Essentials<'_>, format: ImageFormat, max_pixels: u64) -> Result<DynamicImage, String> {
    let broken = |error: image::ImageError| format!("found a broken {} image: {error}", name(format));
    let limits = |(width, height)| {
        let pixels = u64::from(width) * u64::from(height);
        let mut limits = Limits::default();
        limits.max_alloc = Some(pixels.saturating_mul(BYTES_PER_PIXEL).saturating_add(DECODERS_OWN));
        limits
    };
    let mut reader = ImageReader::with_format(Cursor::new(&*essentials.bytes), format);
    // Until the size of the image is known, the limit does not allow any memory for pixels.
    reader.limits(limits(essentials.size.unwrap_or((0, 0))));
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, max_pixels)?;
    decoder.set_limits(limits((width, height))).map_err(broken)?;
    DynamicImage::from_decoder(decoder).map_err(broken)
}

fn check_size(width: u32, height: u32, max_pixels: u64) -> Result<(), String> {
    if u64::from(width) * u64::from(height) > max_pixels {
        return Err(format!(
            "found an image of {width} x {height} pixels, at most {max_pixels} in all (preprocess.max_pixels); send a \
             smaller one"
        ));
    }
    if width.max(height) > MAX_SIDE {
        return Err(format!(
            "found an image of {width} x {height} pixels, at most {MAX_SIDE} each way; send a smaller one"
        ));
    }
    match width == 0 || height == 0 {
        true => Err("found an image without pixels".to_owned()),
        false => Ok(()),
    }
}

/// Luminance of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, with 16 fractional bits, as in Pillow's `convert("L")`.
fn luminance(&[red, green, blue]: &[u8; 3]) -> u8 {
    let [red, green, blue] = [red, green, blue].map(u32::from);
    ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        _ => "WebP",
    }
}

/// Returns true if a JPEG has its end marker after its first scan (ITU-T T.81, B.1.1.2). The data of a scan cannot
/// contain this marker. The marker of a thumbnail, in a segment before the scan, does not count.
fn has_end(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2) {
        match marker {
            0xff => at += 1,
            0xda => return memchr::memmem::rfind(&bytes[at..], &[0xff, 0xd9]).is_some(),
            // Skips markers without a segment.
            0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
    // Without a scan, returns false only if the file ends too early. The decoder reports any other fault.
    bytes.len() > at
}
