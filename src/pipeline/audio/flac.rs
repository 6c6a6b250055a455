//! Reading of FLAC files (RFC 9639).
//!
//! A file can hold pictures and texts beside its samples. The decoder gets only the stream's description and the
//! frames, so that the memory of a file depends on its duration only.

use std::io::Read;

use claxon::FlacReader;

use super::recording::{Recording, check_duration, check_sample_rate, check_samples_of_channels};

/// Mark at the beginning of a file.
const MARK: &[u8] = b"fLaC";
/// Length of the description of the stream, in bytes.
const DESCRIPTION: usize = 34;

/// Returns true if a file begins like a FLAC file.
pub(crate) fn is_flac(bytes: &[u8]) -> bool {
    bytes.starts_with(MARK)
}

/// Decodes a FLAC file of at most `max_seconds`. A few bytes can become many samples, and a file need not say how many,
/// so the duration is checked after each block, too.
pub(crate) fn decode(bytes: &[u8], max_seconds: f64) -> Result<Recording, String> {
    let broken = |error: claxon::Error| match error {
        claxon::Error::Unsupported(feature) => {
            format!("found a FLAC file with a feature that is not supported: {feature}")
        }
        error => format!("found a broken FLAC file: {error}"),
    };
    let (description, frames) = essentials(bytes).ok_or("found a broken FLAC file: it has no description")?;
    let header = [MARK, &[0x80, 0, 0, DESCRIPTION as u8], description].concat();
    let mut reader = FlacReader::new(header.chain(frames)).map_err(broken)?;
    let info = reader.streaminfo();
    check_sample_rate(info.sample_rate)?;
    if let Some(samples) = info.samples {
        check_duration(samples, info.sample_rate, max_seconds)?;
        check_samples_of_channels(samples, info.channels)?;
    }
    // Samples have up to 32 bits with a sign.
    let scale = 1.0 / (1u64 << info.bits_per_sample.clamp(1, 32).saturating_sub(1)) as f64;
    let (mut samples, mut buffer) = (Vec::new(), Vec::new());
    let mut blocks = reader.blocks();
    while let Some(block) = blocks.read_next_or_eof(buffer).map_err(broken)? {
        let length = block.duration() as usize;
        check_duration((samples.len() + length) as u64, info.sample_rate, max_seconds)?;
        check_samples_of_channels((samples.len() + length) as u64, info.channels)?;
        let channels = block.channels();
        samples.extend((0..block.duration()).map(|at| {
            let sum: f64 = (0..channels).map(|channel| f64::from(block.sample(channel, at))).sum();
            (sum * scale / f64::from(channels)) as f32
        }));
        buffer = block.into_buffer();
    }
    if info.samples.is_some_and(|expected| expected != samples.len() as u64) {
        return Err("found a FLAC file that ends before it is complete".to_owned());
    }
    check_duration(samples.len() as u64, info.sample_rate, max_seconds)?;
    Ok(Recording { sample_rate: info.sample_rate, samples })
}

/// Returns the description of the stream and its frames. After the mark, a file consists of blocks of a type, a length
/// and data, of which the first is the description, and frames.
fn essentials(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = MARK.len();
    let description = bytes.get(at + 4..at + 4 + DESCRIPTION)?;
    if !matches!(bytes.get(at..at + 4)?, [0x00 | 0x80, 0, 0, length] if usize::from(*length) == DESCRIPTION) {
        return None;
    }
    loop {
        let &[kind, a, b, c] = bytes.get(at..)?.first_chunk()?;
        at += 4 + u32::from_be_bytes([0, a, b, c]) as usize;
        if kind & 0x80 != 0 {
            return Some((description, bytes.get(at..)?));
        }
    }
}
