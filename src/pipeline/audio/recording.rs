//! A decoded recording, and the checks of its sample rate, its duration and its samples.

/// Sample rates that are accepted, in Hz.
pub(super) const SAMPLE_RATES: std::ops::RangeInclusive<u32> = 1_000..=192_000;

/// A recording with one channel.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recording {
    /// Samples per second.
    pub(crate) sample_rate: u32,
    /// Samples. Integers become numbers from −1 to 1; floating-point numbers stay as they are.
    pub(crate) samples: Vec<f32>,
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

/// Maximum number of samples of all channels of a recording: 128 MiB of float32. A compressed file of a few kilobytes can
/// hold more than memory does.
pub(super) const MAX_DECODED_SAMPLES: u64 = 1 << 25;

/// Checks the number of samples of all channels together.
pub(super) fn check_samples_of_channels(samples: u64, channels: u32) -> Result<(), String> {
    match samples.saturating_mul(channels.into()) {
        all if all > MAX_DECODED_SAMPLES => Err(format!(
            "found more than {MAX_DECODED_SAMPLES} samples in {channels} channels; send a shorter part, or a lower sample rate"
        )),
        _ => Ok(()),
    }
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
