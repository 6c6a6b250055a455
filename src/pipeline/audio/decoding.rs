//! Decoding of sound to samples of one channel, within limits of duration and memory.

use std::panic::catch_unwind;

use super::{flac, wav};

/// Sample rates that are accepted, in Hz.
pub(super) const SAMPLE_RATES: std::ops::RangeInclusive<u32> = 1_000..=192_000;

/// A recording with one channel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recording {
    /// Samples per second.
    pub(crate) sample_rate: u32,
    /// Samples from −1 to 1.
    pub(crate) samples: Vec<f32>,
}

/// Format of the samples of sound without a header: little-endian, with one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pcm {
    Int16,
    Float32,
}

/// Decodes a WAV or FLAC file of at most `max_seconds`, and mixes its channels to their mean. The duration is checked
/// before memory for the samples is allocated.
pub(crate) fn decode(bytes: &[u8], max_seconds: f64) -> Result<Recording, String> {
    if wav::is_wav(bytes) {
        return wav::decode(bytes, max_seconds);
    }
    if flac::is_flac(bytes) {
        // A precaution: the decoder counts on some properties of files that it does not check.
        return catch_unwind(|| flac::decode(bytes, max_seconds))
            .unwrap_or_else(|_| Err("found a broken FLAC file".to_owned()));
    }
    Err(match bytes {
        [b'O', b'g', b'g', b'S', ..] => "found an Ogg file, expected WAV or FLAC".to_owned(),
        [b'I', b'D', b'3', ..] | [0xff, 0xe2..=0xff, ..] => "found an MP3 file, expected WAV or FLAC".to_owned(),
        _ => "found data that is not a WAV or FLAC file".to_owned(),
    })
}

/// Reads samples without a header.
pub(crate) fn decode_pcm(bytes: &[u8], pcm: Pcm, sample_rate: u32, max_seconds: f64) -> Result<Recording, String> {
    if wav::is_wav(bytes) || flac::is_flac(bytes) {
        return Err("found a file with a header, expected samples only (preprocess.encoding)".to_owned());
    }
    let width = match pcm {
        Pcm::Int16 => 2,
        Pcm::Float32 => 4,
    };
    if !bytes.len().is_multiple_of(width) {
        return Err(format!("found {} bytes, which are not whole samples of {width} bytes", bytes.len()));
    }
    check_duration((bytes.len() / width) as u64, sample_rate, max_seconds)?;
    let samples: Vec<f32> = match pcm {
        Pcm::Int16 => {
            bytes.as_chunks().0.iter().map(|sample| f32::from(i16::from_le_bytes(*sample)) / 32768.0).collect()
        }
        Pcm::Float32 => bytes.as_chunks().0.iter().map(|sample| f32::from_le_bytes(*sample)).collect(),
    };
    check_samples(&samples)?;
    Ok(Recording { sample_rate, samples })
}

/// Checks the sample rate of a file.
pub(super) fn check_sample_rate(sample_rate: u32) -> Result<(), String> {
    if SAMPLE_RATES.contains(&sample_rate) {
        return Ok(());
    }
    Err(format!(
        "found a sample rate of {sample_rate} Hz, expected {} to {} Hz",
        SAMPLE_RATES.start(),
        SAMPLE_RATES.end()
    ))
}

/// Checks the number of samples of each channel.
pub(super) fn check_duration(samples: u64, sample_rate: u32, max_seconds: f64) -> Result<(), String> {
    let seconds = samples as f64 / f64::from(sample_rate.max(1));
    if seconds > max_seconds {
        return Err(format!(
            "found {seconds:.2} seconds of sound, at most {max_seconds} are accepted (preprocess.max_seconds); send a \
             shorter part"
        ));
    }
    if samples == 0 {
        return Err("found sound without samples".to_owned());
    }
    Ok(())
}

/// Checks that every sample is a finite number.
pub(super) fn check_samples(samples: &[f32]) -> Result<(), String> {
    match samples.iter().position(|sample| !sample.is_finite()) {
        None => Ok(()),
        Some(at) => Err(format!("sample {at} is {}, expected a finite number", samples[at])),
    }
}
