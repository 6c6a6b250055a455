//! Conversion of sound to another sample rate, with the results of torchaudio's `resample` and its defaults.
//!
//! Models of sound are trained on recordings that torchaudio or a similar library resampled. A sinc filter under a Hann
//! window removes the frequencies that the lower of the two rates cannot hold. For rates without a common divisor:
//!
//! ```text
//! out(m) = Σ_i in(i) · h(i/from − m/to),   h(s) = w(r s) · sinc(r s) · r/from,   r = rolloff · min(from, to),
//! w(t) = cos²(π t / 2 width) for |t| < width, else 0
//! ```

use std::f64::consts::PI;

use crate::budget::Deadline;
use crate::error::Result;

/// Number of zero crossings of the sinc to either side.
const WIDTH: f64 = 6.0;
/// Cutoff as a part of the highest frequency that the lower rate can hold.
const ROLLOFF: f64 = 0.99;
/// Number of multiplications between two checks of the deadline: about a millisecond.
const PRODUCTS_BETWEEN_CHECKS: usize = 1 << 20;

/// Converts samples from one rate to another, in Hz. The result has ⌈length · to / from⌉ samples.
pub(crate) fn resample(samples: Vec<f32>, from: u32, to: u32, deadline: Deadline) -> Result<Vec<f32>> {
    if from == to || samples.is_empty() {
        return Ok(samples);
    }
    let divisor = greatest_common_divisor(from, to);
    let (from, to) = ((from / divisor) as usize, (to / divisor) as usize);
    let mut resampled = vec![0f32; (samples.len() * to).div_ceil(from)];
    let phases = to.min(resampled.len());
    let mut since_check = 0;
    // Results that are `to` places apart have the same weights.
    for phase in 0..phases {
        let (first, weights) = weights(phase, from, to);
        for (index, result) in resampled.iter_mut().skip(phase).step_by(to).enumerate() {
            let start = first + (index * from) as isize;
            let skipped = start.min(0).unsigned_abs().min(weights.len());
            let inputs = samples.get(start.max(0) as usize..).unwrap_or_default();
            *result = inputs.iter().zip(&weights[skipped..]).map(|(sample, weight)| sample * weight).sum();
            since_check += weights.len();
            if since_check >= PRODUCTS_BETWEEN_CHECKS {
                since_check = 0;
                deadline.check()?;
            }
        }
    }
    Ok(resampled)
}

/// Returns the index of the first sample that result `phase` is computed from, and the weights of it and the samples
/// that follow.
fn weights(phase: usize, from: usize, to: usize) -> (isize, Vec<f32>) {
    let rate = from.min(to) as f64 * ROLLOFF;
    let (from, place) = (from as f64, phase as f64 / to as f64);
    let reach = WIDTH / rate;
    let first = ((place - reach) * from).ceil();
    let last = ((place + reach) * from).floor();
    let weight = |index: usize| {
        let t = (((first + index as f64) / from - place) * rate).clamp(-WIDTH, WIDTH);
        let sinc = if t == 0.0 { 1.0 } else { (t * PI).sin() / (t * PI) };
        ((t * PI / WIDTH / 2.0).cos().powi(2) * sinc * rate / from) as f32
    };
    (first as isize, (0..=(last - first) as usize).map(weight).collect())
}

fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tone_stays_the_same_tone() {
        let tone = |rate: u32, count: usize| -> Vec<f32> {
            (0..count).map(|at| (at as f64 / f64::from(rate) * 440.0 * 2.0 * PI).sin() as f32).collect()
        };
        for (from, to) in [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000), (22_050, 24_000)] {
            let count = from as usize / 10;
            let resampled = resample(tone(from, count), from, to, Deadline::never()).unwrap();
            assert_eq!(resampled.len(), (count * to as usize).div_ceil(from as usize));
            // The filter sees silence beyond both ends.
            for (ours, exact) in resampled.iter().zip(tone(to, resampled.len())).skip(50).take(resampled.len() - 100) {
                assert!((ours - exact).abs() < 5e-3, "{from} to {to}: {ours}, {exact}");
            }
        }
    }

    #[test]
    fn a_deadline_ends_it() {
        let expired = Deadline::from_now(std::time::Duration::ZERO);
        assert!(resample(vec![0.0; 96_000], 48_000, 16_001, expired).is_err());
        // All results have the same weights.
        assert!(resample(vec![0.0; 96_000], 48_000, 16_000, expired).is_err());
    }

    proptest! {
        #[test]
        fn any_rates_and_lengths_go_together(count in 1usize..300, from in 1_000u32..9_000, to in 1_000u32..9_000) {
            let resampled = resample(vec![1.0; count], from, to, Deadline::never()).unwrap();
            prop_assert_eq!(resampled.len(), (count * to as usize).div_ceil(from as usize));
            prop_assert!(resampled.iter().all(|value| value.is_finite()));
        }
    }
}
