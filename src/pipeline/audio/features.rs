//! Features of sound, for monitoring drift.

use crate::feature::FeatureSchema;

/// Names of the features of a recording.
const FEATURES: [&str; 4] = ["seconds", "level", "peak", "sample_rate"];

/// Level of digital silence, in dB. It is below that of the least sample of 16 bits.
const SILENCE: f64 = -100.0;

/// Returns the names of the features.
pub(crate) fn schema() -> FeatureSchema {
    FeatureSchema { numbers: FEATURES.map(Into::into).to_vec(), texts: Vec::new() }
}

/// Returns the duration of a recording, its level (root of the mean square, in dB below 1), its largest deviation from
/// 0, and the sample rate that it was sent with.
pub(crate) fn features_of(samples: &[f32], sent_rate: u32, sent_samples: usize) -> [f32; FEATURES.len()] {
    let squares: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    let level = 10.0 * (squares / samples.len().max(1) as f64).log10();
    let peak = samples.iter().fold(0f32, |peak, sample| peak.max(sample.abs()));
    let seconds = sent_samples as f64 / f64::from(sent_rate.max(1));
    [seconds as f32, level.max(SILENCE) as f32, peak, sent_rate as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_the_samples() {
        let [seconds, level, peak, sample_rate] = features_of(&[0.5, -0.5], 8_000, 4_000);
        assert_eq!((seconds, peak, sample_rate), (0.5, 0.5, 8_000.0));
        assert!((level + 6.0206).abs() < 1e-4, "{level}");
        assert_eq!(features_of(&[0.0; 3], 16_000, 3)[1], -100.0);
    }
}
