//! Reading of WAV files (RIFF WAVE, Microsoft and IBM 1991, and `WAVE_FORMAT_EXTENSIBLE`): integers of 8 to 32 bits and
//! floating-point numbers, not compressed.

use super::recording::{Recording, check_duration, check_sample_rate, check_samples};

/// Format tags of uncompressed samples, and of a header with a longer tag.
const INTEGERS: u16 = 1;
const FLOATS: u16 = 3;
const EXTENSIBLE: u16 = 0xfffe;

/// Smallest length that stands for an unknown length: programs that write to a pipe do not know it.
const UNKNOWN_LENGTH: usize = 0x7fff_f000;

/// Returns true if a file begins like a WAV file.
pub(crate) fn is_wav(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WAVE")
}

/// Header of the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    encoding: Encoding,
    channels: usize,
    sample_rate: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    U8,
    I16,
    I24,
    I32,
    F32,
    F64,
}

impl Encoding {
    /// Number of bytes of a sample.
    fn width(self) -> usize {
        match self {
            Encoding::U8 => 1,
            Encoding::I16 => 2,
            Encoding::I24 => 3,
            Encoding::I32 | Encoding::F32 => 4,
            Encoding::F64 => 8,
        }
    }

    /// Converts a sample of this width: an integer to a number from −1 to 1, a floating-point number to itself.
    fn number(self, sample: &[u8]) -> f64 {
        match (self, sample) {
            (Encoding::U8, [a]) => (f64::from(*a) - 128.0) / 128.0,
            (Encoding::I16, [a, b]) => f64::from(i16::from_le_bytes([*a, *b])) / 32_768.0,
            (Encoding::I24, [a, b, c]) => f64::from(i32::from_le_bytes([0, *a, *b, *c])) / 2_147_483_648.0,
            (Encoding::I32, [a, b, c, d]) => f64::from(i32::from_le_bytes([*a, *b, *c, *d])) / 2_147_483_648.0,
            (Encoding::F32, [a, b, c, d]) => f64::from(f32::from_le_bytes([*a, *b, *c, *d])),
            (Encoding::F64, sample) => sample.first_chunk().map_or(0.0, |bytes| f64::from_le_bytes(*bytes)),
            _ => 0.0,
        }
    }
}

/// Decodes a WAV file of at most `max_seconds`.
pub(crate) fn decode(bytes: &[u8], max_seconds: f64) -> Result<Recording, String> {
    let (format, data) = chunks(bytes)?;
    let frame = format.channels * format.encoding.width();
    check_duration((data.len() / frame) as u64, format.sample_rate, max_seconds)?;
    let mean = |frame: &[u8]| {
        let sum: f64 = frame.chunks_exact(format.encoding.width()).map(|sample| format.encoding.number(sample)).sum();
        (sum / format.channels as f64) as f32
    };
    let samples: Vec<f32> = data.chunks_exact(frame).map(mean).collect();
    check_samples(&samples)?;
    Ok(Recording { sample_rate: format.sample_rate, samples })
}

/// Finds the header and the samples. After twelve bytes, a file consists of chunks of a name, a length and data.
fn chunks(bytes: &[u8]) -> Result<(Format, &[u8]), String> {
    let (mut at, mut format) = (12, None);
    while let (Some(name), Some(length)) = (bytes.get(at..at + 4), little_endian(bytes, at + 4)) {
        let (start, length) = (at + 8, length as usize);
        let rest = &bytes[start..];
        let data = rest.get(..length);
        match (name, format) {
            (b"fmt ", _) => format = Some(of_header(data.ok_or("found a broken WAV file: its header is cut off")?)?),
            (b"data", None) => return Err("found a broken WAV file: its samples have no header".to_owned()),
            (b"data", Some(format)) => {
                return match data {
                    Some(data) => Ok((format, data)),
                    None if length >= UNKNOWN_LENGTH => Ok((format, rest)),
                    None => Err("found a WAV file that ends before it is complete".to_owned()),
                };
            }
            _ => {}
        }
        // A chunk of an odd length is followed by a byte of padding.
        at = start.saturating_add(length).saturating_add(length & 1);
    }
    Err("found a broken WAV file: it has no samples".to_owned())
}

fn of_header(header: &[u8]) -> Result<Format, String> {
    let short = |at: usize| header.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes));
    let cut_off = || "found a broken WAV file: its header is cut off".to_owned();
    let channels = usize::from(short(2).ok_or_else(cut_off)?);
    let sample_rate = little_endian(header, 4).ok_or_else(cut_off)?;
    let (frame, bits) = (short(12).ok_or_else(cut_off)?, short(14).ok_or_else(cut_off)?);
    let tag = match short(0).ok_or_else(cut_off)? {
        // The first two bytes of the identifier of the format are a tag.
        EXTENSIBLE => short(24).ok_or_else(cut_off)?,
        tag => tag,
    };
    let encoding = match (tag, bits) {
        (INTEGERS, 8) => Encoding::U8,
        (INTEGERS, 16) => Encoding::I16,
        (INTEGERS, 24) => Encoding::I24,
        (INTEGERS, 32) => Encoding::I32,
        (FLOATS, 32) => Encoding::F32,
        (FLOATS, 64) => Encoding::F64,
        _ => {
            return Err(format!(
                "found a WAV file with samples of format {tag} and {bits} bits, expected integers of 8, 16, 24 or 32 \
                 bits, or floating-point numbers of 32 or 64 bits"
            ));
        }
    };
    if channels == 0 || usize::from(frame) != channels * encoding.width() {
        return Err(format!("found a broken WAV file: {channels} channels of {bits} bits in {frame} bytes"));
    }
    check_sample_rate(sample_rate)?;
    Ok(Format { encoding, channels, sample_rate })
}

fn little_endian(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Returns a WAV file of 16-bit samples with one channel, for made-up instances and tests.
pub(crate) fn encoded(samples: impl ExactSizeIterator<Item = i16>, sample_rate: u32) -> Vec<u8> {
    let length = 2 * samples.len() as u32;
    let mut file = Vec::with_capacity(44 + length as usize);
    file.extend(b"RIFF");
    file.extend((36 + length).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(sample_rate.to_le_bytes());
    file.extend((2 * sample_rate).to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(length.to_le_bytes());
    file.extend(samples.flat_map(i16::to_le_bytes));
    file
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file() -> Vec<u8> {
        encoded([0i16, 16384, -32768].into_iter(), 16_000)
    }

    /// Returns the file with other bytes at a position.
    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut file = file();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    }

    #[test]
    fn samples_are_numbers_from_minus_one_to_one() {
        assert_eq!(decode(&file(), 1.0).unwrap(), Recording { sample_rate: 16_000, samples: vec![0.0, 0.5, -1.0] });
        // Chunks before the samples are skipped, with the padding of an odd length.
        let mut other = file();
        other.splice(36..36, *b"LIST\x01\0\0\0xy");
        assert_eq!(decode(&other, 1.0), decode(&file(), 1.0));
        // Written to a pipe: the length is not known.
        assert_eq!(decode(&with(40, &[0xff; 4]), 1.0), decode(&file(), 1.0));
    }

    #[test]
    fn what_is_not_sound_is_refused() {
        for (file, problem) in [
            (with(40, &[7, 0, 0, 0]), "found a WAV file that ends before it is complete"),
            (with(40, &[0, 0, 0, 0]), "found sound without samples"),
            (with(20, &[7, 0]), "found a WAV file with samples of format 7 and 16 bits, expected integers"),
            (with(22, &[2, 0]), "found a broken WAV file: 2 channels of 16 bits in 2 bytes"),
            (with(24, &[1, 0, 0, 0]), "found a sample rate of 1 Hz, expected 1000 to 192000 Hz"),
            (with(12, b"xxxx"), "found a broken WAV file: its samples have no header"),
            (with(36, b"xxxx"), "found a broken WAV file: it has no samples"),
            (file()[..30].to_vec(), "found a broken WAV file: its header is cut off"),
        ] {
            let error = decode(&file, 1.0).unwrap_err();
            assert!(error.starts_with(problem), "{error}");
        }
        let error = decode(&file(), 0.0001).unwrap_err();
        assert!(error.contains("at most 0.0001 are accepted (preprocess.max_seconds)"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..60), at in 0usize..50) {
            let mut file = file();
            let at = at.min(file.len());
            file.splice(at..at, bytes.clone());
            let _ = decode(&file, 1.0);
            let _ = decode(&file[..at.max(12)], 1.0);
            let replaced = at.max(12)..(at.max(12) + bytes.len()).min(50);
            let mut file = self::file();
            let count = replaced.len();
            file[replaced].copy_from_slice(&bytes[..count]);
            let _ = decode(&file, 1.0);
        }
    }
}
