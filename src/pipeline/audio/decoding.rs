//! Decoding of sound to samples of one channel, within limits of duration and memory.

use std::panic::catch_unwind;

use super::recording::{Recording, check_duration, check_samples};
use super::{flac, wav};

/// Format of the samples of sound without a header: little-endian, with one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pcm {
    Int16,
    Float32,
}

/// Decodes a WAV or FLAC file of at most `max_seconds`, and mixes its channels to their mean. The duration is checked
/// before more than one block of samples beyond it is decoded.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_flac_breaks_it(
            bytes in prop::collection::vec(any::<u8>(), 0..20), at in 0usize..400, file in 0usize..2, is_cut in any::<bool>(),
        ) {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/audio");
            let mut file = std::fs::read(folder.join(["stereo16.flac", "mono8.flac"][file])).unwrap();
            let at = at.min(file.len());
            file.splice(at..(at + bytes.len()).min(file.len()), bytes);
            let _ = decode(if is_cut { &file[..at] } else { &file }, 1.0);
        }
    }
}
