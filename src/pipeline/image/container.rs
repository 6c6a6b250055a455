//! Reading of image files: selects the parts of a file that a decoder needs, and reads the orientation.
//!
//! A file can hold far more than pixels: compressed colour profiles and texts that expand a thousandfold, and false
//! sizes. Decoders expand some of these parts, even for a small image. Therefore a decoder gets only the chunks that
//! hold pixels. The only other necessary part, the orientation, is read here.

use std::borrow::Cow;

use image::ImageFormat;
use image::metadata::Orientation;

/// Parts of an image file that are needed, and its orientation.
pub(crate) struct Essentials<'a> {
    /// The file with only the parts that hold pixels.
    pub(crate) bytes: Cow<'a, [u8]>,
    /// The rotation and flip that turn the image upright. No transform if the file has no readable orientation.
    pub(crate) orientation: Orientation,
    /// Width and height, if the container has them.
    pub(crate) size: Option<(u32, u32)>,
}

/// Returns the needed parts of a PNG, JPEG or WebP file. Most faults of a file are left to the decoder to report.
pub(crate) fn essentials(bytes: &[u8], format: ImageFormat) -> Result<Essentials<'_>, String> {
    match format {
        ImageFormat::Png => Ok(of_png(bytes)),
        ImageFormat::Jpeg => Ok(of_jpeg(bytes)),
        _ => of_webp(bytes),
    }
}

fn orientation(exif: &[u8]) -> Orientation {
    // In WebP files, Exif data may begin with the mark that JPEG uses.
    let exif = exif.strip_prefix(EXIF_MARK).unwrap_or(exif);
    Orientation::from_exif_chunk(exif).unwrap_or(Orientation::NoTransforms)
}

const EXIF_MARK: &[u8] = b"Exif\0\0";

/// Copy of a file with some parts left out. The file is copied only if a part is left out.
struct Kept<'a> {
    file: &'a [u8],
    copy: Option<Vec<u8>>,
    /// End of the processed part of the file.
    upto: usize,
}

impl<'a> Kept<'a> {
    fn new(file: &'a [u8]) -> Kept<'a> {
        Kept { file, copy: None, upto: 0 }
    }

    fn leave_out(&mut self, from: usize, to: usize) {
        let copy = self.copy.get_or_insert_with(|| Vec::with_capacity(self.file.len()));
        copy.extend_from_slice(&self.file[self.upto..from]);
        self.upto = to;
    }

    fn finish(self) -> Cow<'a, [u8]> {
        match self.copy {
            None => Cow::Borrowed(self.file),
            Some(mut copy) => {
                copy.extend_from_slice(&self.file[self.upto..]);
                Cow::Owned(copy)
            }
        }
    }
}

fn big_endian(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn little_endian(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Returns the needed parts of a PNG (ISO/IEC 15948). After eight bytes, a file consists of chunks of a length, a type,
/// data and a checksum.
fn of_png(bytes: &[u8]) -> Essentials<'_> {
    /// Needed chunks: header, palette, transparency, pixels, end. In an animation, `IDAT` is the still image.
    const NEEDED: [&[u8]; 5] = [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"];
    let mut essentials = Essentials {
        bytes: Cow::Borrowed(bytes),
        orientation: Orientation::NoTransforms,
        size: big_endian(bytes, 16).zip(big_endian(bytes, 20)).filter(|_| bytes.get(12..16) == Some(b"IHDR")),
    };
    let (mut kept, mut at) = (Kept::new(bytes), 8);
    while let (Some(length), Some(kind)) = (big_endian(bytes, at), bytes.get(at + 4..at + 8)) {
        let end = at.saturating_add(12).saturating_add(length as usize).min(bytes.len());
        if kind == b"eXIf" {
            essentials.orientation = orientation(&bytes[at + 8..end.saturating_sub(4).max(at + 8)]);
        }
        if !NEEDED.contains(&kind) {
            kept.leave_out(at, end);
        }
        at = end;
    }
    essentials.bytes = kept.finish();
    essentials
}

/// Returns the needed parts of a JPEG (ITU-T T.81, B.1.1). Up to the first scan, a file consists of segments of a
/// marker, a length and data.
fn of_jpeg(bytes: &[u8]) -> Essentials<'_> {
    let (mut kept, mut at, mut found) = (Kept::new(bytes), 2, None);
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2) {
        match marker {
            0xff => at += 1,
            0xda => break,
            // Skips markers without a segment.
            0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { break };
                let length = usize::from(u16::from_be_bytes([high, low])).max(2);
                let end = (at + 2 + length).min(bytes.len());
                let data = &bytes[at + 4..end.max(at + 4)];
                if marker == 0xe1 && found.is_none() && data.starts_with(EXIF_MARK) {
                    found = Some(orientation(data));
                }
                // Leaves out comments and the segments of applications, except those of JFIF and Adobe, which describe
                // the colours.
                if matches!(marker, 0xe1..=0xed | 0xef | 0xfe) {
                    kept.leave_out(at, end);
                }
                at = end;
            }
        }
    }
    Essentials { bytes: kept.finish(), orientation: found.unwrap_or(Orientation::NoTransforms), size: None }
}

/// Returns the needed parts of a WebP (RFC 9649, 2.3), a RIFF file with chunks of a type, a length and data. Frames
/// of an animation contain chunks themselves. The decoder skips chunks that it does not need, but it trusts the sizes
/// in the file.
fn of_webp(bytes: &[u8]) -> Result<Essentials<'_>, String> {
    let mut essentials = Essentials { bytes: Cow::Borrowed(bytes), orientation: Orientation::NoTransforms, size: None };
    let (mut at, mut canvas) = (12, None);
    while let (Some(kind), Some(length)) = (bytes.get(at..at + 4), little_endian(bytes, at + 4)) {
        let data = &bytes[at + 8..(at + 8).saturating_add(length as usize).min(bytes.len())];
        match kind {
            b"VP8X" => canvas = extended_size(data),
            b"EXIF" => essentials.orientation = orientation(data),
            b"VP8 " => check_frame(data, canvas)?,
            b"ANMF" => {
                // A frame of an animation has a header of 16 bytes.
                let mut at = 16;
                while let (Some(kind), Some(length)) = (data.get(at..at + 4), little_endian(data, at + 4)) {
                    if kind == b"VP8 " {
                        check_frame(&data[at + 8..], canvas)?;
                    }
                    at = (at + 8).saturating_add(length as usize).saturating_add(length as usize & 1);
                }
            }
            _ => {}
        }
        at = (at + 8).saturating_add(length as usize).saturating_add(length as usize & 1);
    }
    Ok(essentials)
}

/// Parses the size of a WebP canvas: width and height minus one, 24 bits each.
fn extended_size(data: &[u8]) -> Option<(u32, u32)> {
    let &[_, _, _, _, a, b, c, d, e, f] = data.first_chunk()?;
    Some((u32::from_le_bytes([a, b, c, 0]) + 1, u32::from_le_bytes([d, e, f, 0]) + 1))
}

/// Checks that a WebP frame is no larger than the canvas. The decoder would check this only after decoding the frame.
fn check_frame(data: &[u8], canvas: Option<(u32, u32)>) -> Result<(), String> {
    let Some(&[_, _, _, _, _, _, a, b, c, d]) = data.first_chunk() else { return Ok(()) };
    let [width, height] = [[a, b], [c, d]].map(|bytes| u32::from(u16::from_le_bytes(bytes) & 0x3fff));
    match canvas {
        Some((most_width, most_height)) if width > most_width || height > most_height => Err(format!(
            "found a broken WebP image: a frame of {width} x {height} pixels in an image of {most_width} x {most_height}"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn file(format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let pixels = (0..8 * 6 * 3).map(|value| value * 5 / 3).map(|value| value as u8).collect();
        image::RgbImage::from_raw(8, 6, pixels).unwrap().write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    /// Returns a PNG with an additional chunk after the header.
    fn png_with(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let mut file = file(ImageFormat::Png);
        let length = (data.len() as u32).to_be_bytes();
        file.splice(33..33, [&length[..], kind, data, &[0; 4]].concat());
        file
    }

    fn jpeg_with(marker: u8, data: &[u8]) -> Vec<u8> {
        let mut file = file(ImageFormat::Jpeg);
        let length = (data.len() as u16 + 2).to_be_bytes();
        file.splice(2..2, [&[0xff, marker][..], &length, data].concat());
        file
    }

    /// Exif data with one entry, orientation 6: a quarter turn.
    const TURNED: &[u8] = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";

    #[test]
    fn what_pixels_are_not_made_of_is_left_out() {
        for kind in [b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"fdAT", b"anyX"] {
            let with = png_with(kind, &[7; 1000]);
            assert_eq!(*essentials(&with, ImageFormat::Png).unwrap().bytes, file(ImageFormat::Png));
        }
        for marker in [0xe1, 0xe2, 0xed, 0xef, 0xfe] {
            let with = jpeg_with(marker, b"ICC_PROFILE\0 and so on");
            assert_eq!(*essentials(&with, ImageFormat::Jpeg).unwrap().bytes, file(ImageFormat::Jpeg));
        }
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let plain = file(format);
            let Cow::Borrowed(same) = essentials(&plain, format).unwrap().bytes else { panic!("{format:?}: a copy") };
            assert_eq!(same, plain);
        }
        assert_eq!(essentials(&file(ImageFormat::Png), ImageFormat::Png).unwrap().size, Some((8, 6)));
    }

    #[test]
    fn the_orientation_is_read_wherever_it_stands() {
        let marked = [EXIF_MARK, TURNED].concat();
        let mut webp = file(ImageFormat::WebP);
        webp.extend([&b"EXIF"[..], &(TURNED.len() as u32).to_le_bytes(), TURNED].concat());
        for (file, format) in [
            (png_with(b"eXIf", TURNED), ImageFormat::Png),
            (jpeg_with(0xe1, &marked), ImageFormat::Jpeg),
            (webp, ImageFormat::WebP),
        ] {
            assert_eq!(essentials(&file, format).unwrap().orientation, Orientation::Rotate90, "{format:?}");
        }
        assert_eq!(
            essentials(&png_with(b"eXIf", b"II"), ImageFormat::Png).unwrap().orientation,
            Orientation::NoTransforms
        );
    }

    /// The decoder would allocate the declared size of the chunk, and decode the frame before it checks the canvas.
    #[test]
    fn a_webp_that_says_more_than_it_has_is_not_believed() {
        let riff = |chunks: &[u8]| [b"RIFF\xff\xff\0\0WEBP", chunks].concat();
        let canvas = |flags: u8| [b"VP8X\x0a\0\0\0", &[flags, 0, 0, 0, 7, 0, 0, 5, 0, 0][..]].concat();
        let frame = b"VP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f";
        let huge = riff(&[canvas(0), b"EXIF\xff\xff\xff\xff".to_vec()].concat());
        assert_eq!(essentials(&huge, ImageFormat::WebP).unwrap().orientation, Orientation::NoTransforms);
        let animated = [&b"ANMF\x22\0\0\0"[..], &[0; 16], frame].concat();
        for chunks in [[canvas(0), frame.to_vec()].concat(), [canvas(2), animated].concat()] {
            let problem = essentials(&riff(&chunks), ImageFormat::WebP).err().unwrap();
            assert!(problem.contains("a frame of 16383 x 16383 pixels in an image of 8 x 6"), "{problem}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200, format in 0usize..3) {
            let format = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP][format];
            let mut file = file(format);
            let at = cut.min(file.len());
            file.splice(at..at, bytes.clone());
            let _ = essentials(&file, format);
            let _ = essentials(&file[..at], format);
            let _ = essentials(&bytes, format);
        }
    }
}
