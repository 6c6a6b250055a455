//! Features of files, for monitoring drift.

use super::selection::Selected;
use crate::feature::FeatureSchema;

/// Names of the features of a file.
const FEATURES: [&str; 3] = ["length", "entropy", "printable"];

/// Returns the names of the features.
pub(crate) fn schema() -> FeatureSchema {
    FeatureSchema { numbers: FEATURES.map(Into::into).to_vec(), texts: Vec::new() }
}

/// Returns the length of a file in bytes and, of the selected bytes, the entropy in bits per byte (−Σ p log₂ p, which
/// is near 8 if they are compressed or encrypted) and the share of printable characters of ASCII.
pub(crate) fn features_of(length: usize, selected: Selected<'_>) -> [f32; FEATURES.len()] {
    let mut counts = [0u32; 256];
    selected.beginning.iter().chain(selected.end).for_each(|byte| counts[usize::from(*byte)] += 1);
    let all = (selected.beginning.len() + selected.end.len()).max(1) as f64;
    let shares = counts.map(|count| f64::from(count) / all);
    let entropy: f64 = shares.iter().filter(|share| **share > 0.0).map(|share| -share * share.log2()).sum();
    let is_printable = |byte: u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    let printable: f64 =
        (0..=u8::MAX).zip(shares).filter(|(byte, _)| is_printable(*byte)).map(|(_, share)| share).sum();
    [length as f32, entropy as f32, printable as f32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_of_the_selected_bytes() {
        let selected = |beginning, end| Selected { beginning, end, available: 9 };
        assert_eq!(features_of(1000, selected(b"ab", b"\x00\xff")), [1000.0, 2.0, 0.5]);
        assert_eq!(features_of(0, selected(b"", b"")), [0.0, 0.0, 0.0]);
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(features_of(256, selected(&every, b""))[1], 8.0);
    }
}
