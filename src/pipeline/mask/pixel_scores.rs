//! From the scores of a pixel to its class and the certainty of the model.

use crate::feature::Certainty;

/// Scores below the highest by more than this add less than rounding to the sum of a softmax: exp(−20) = 2e-9.
const NEGLIGIBLE: f32 = -20.0;

/// Rule by which the scores of a pixel become its class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    /// The class with the highest logit; its probability is the softmax of the logits.
    HighestLogit,
    /// The class with the highest probability.
    HighestProbability,
    /// Class 1 if its probability, the only score, reaches the threshold; otherwise class 0.
    Threshold {
        /// True if the score is a logit, which the logistic function converts to a probability.
        is_logit: bool,
        threshold: f32,
    },
}

/// The scores of the pixels of one row of a batch, as the model returned them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PixelScores<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) extent: Extent,
    /// True if the values are in the order [height, width, channels], false if [channels, height, width].
    pub(crate) channels_last: bool,
}

/// Lengths of the sides of an output for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// Class of a pixel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PixelClass {
    pub(crate) class: u8,
    pub(crate) certainty: Certainty,
}

impl Extent {
    /// Reads [height, width], [channels, height, width] or [height, width, channels]. `None` for another number of
    /// dimensions, or without a pixel.
    pub(crate) fn of(row: &[usize], channels_last: bool) -> Option<Extent> {
        let extent = match (row, channels_last) {
            (&[height, width], _) => Extent { channels: 1, height, width },
            (&[channels, height, width], false) | (&[height, width, channels], true) => {
                Extent { channels, height, width }
            }
            _ => return None,
        };
        (extent.channels * extent.height * extent.width > 0).then_some(extent)
    }
}

impl PixelScores<'_> {
    /// Returns the value of a channel at a pixel.
    pub(crate) fn at(&self, channel: usize, y: usize, x: usize) -> f32 {
        let Extent { channels, height, width } = self.extent;
        match self.channels_last {
            true => self.values[(y * width + x) * channels + channel],
            false => self.values[(channel * height + y) * width + x],
        }
    }
}

impl Rule {
    /// Decides the class of a pixel. The first of equal scores wins, as in NumPy's `argmax`.
    pub(crate) fn decide(self, scores: &[f32]) -> PixelClass {
        match self {
            Rule::Threshold { is_logit, threshold } => {
                let score = scores.first().copied().unwrap_or_default();
                let probability = if is_logit { 1.0 / (1.0 + (-score).exp()) } else { score };
                of_two(probability.clamp(0.0, 1.0), threshold)
            }
            Rule::HighestLogit => of_logits(scores),
            Rule::HighestProbability => of_probabilities(scores),
        }
    }
}

fn of_two(probability: f32, threshold: f32) -> PixelClass {
    let is_first = probability < threshold;
    let part = |p: f32| if p > 0.0 { -p * p.log2() } else { 0.0 };
    let certainty = Certainty {
        confidence: if is_first { 1.0 - probability } else { probability },
        margin: (2.0 * probability - 1.0).abs(),
        entropy: part(probability) + part(1.0 - probability),
    };
    PixelClass { class: u8::from(!is_first), certainty }
}

/// Softmax(s)ᵢ = exp(sᵢ − max s) ÷ Z, with Z = Σⱼ exp(sⱼ − max s). So −Σ p ln p = ln Z − Σ p (s − max s).
fn of_logits(scores: &[f32]) -> PixelClass {
    let (best, highest, second) = highest_two(scores);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for score in scores {
        let below = score - highest;
        if below > NEGLIGIBLE {
            let part = below.exp();
            sum += part;
            weighted += part * below;
        }
    }
    let certainty = Certainty {
        confidence: 1.0 / sum,
        margin: (1.0 - (second - highest).exp()) / sum,
        entropy: normalised(sum.ln() - weighted / sum, scores.len()),
    };
    PixelClass { class: best, certainty }
}

fn of_probabilities(scores: &[f32]) -> PixelClass {
    let (best, highest, second) = highest_two(scores);
    let entropy = scores.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
    let certainty = Certainty {
        confidence: highest.clamp(0.0, 1.0),
        margin: (highest - second).clamp(0.0, 1.0),
        entropy: normalised(entropy, scores.len()),
    };
    PixelClass { class: best, certainty }
}

/// Divides an entropy by that of equally likely classes.
fn normalised(entropy: f32, classes: usize) -> f32 {
    (entropy / (classes as f32).ln()).clamp(0.0, 1.0)
}

/// Returns the index of the highest score, and the two highest scores. There are at most 255 scores.
fn highest_two(scores: &[f32]) -> (u8, f32, f32) {
    let (mut best, mut highest, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (class, &score) in (0..=u8::MAX).zip(scores) {
        if score > highest {
            (best, highest, second) = (class, score, highest);
        } else if score > second {
            second = score;
        }
    }
    (best, highest, second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: Rule, scores: &[f32], expected: (u8, [f32; 3])) {
        let PixelClass { class, certainty: Certainty { confidence, margin, entropy } } = rule.decide(scores);
        let (expected_class, expected) = expected;
        assert_eq!(class, expected_class);
        for (is, expected) in [confidence, margin, entropy].into_iter().zip(expected) {
            assert!((is - expected).abs() < 1e-5, "{is}, not {expected}: {rule:?} {scores:?}");
        }
    }

    /// The numbers are NumPy's.
    #[test]
    fn scores_of_classes() {
        check(Rule::HighestLogit, &[1.0, 3.0, 2.0], (1, [0.665_241, 0.420_512, 0.757_679]));
        check(Rule::HighestLogit, &[90.0, -90.0, -90.0], (0, [1.0, 1.0, 0.0]));
        check(Rule::HighestProbability, &[0.2, 0.3, 0.5], (2, [0.5, 0.2, 0.937_231]));
        // The first of equal scores.
        check(Rule::HighestLogit, &[0.0, 0.0], (0, [0.5, 0.0, 1.0]));
    }

    #[test]
    fn one_score_is_that_of_the_second_class() {
        let probability = Rule::Threshold { is_logit: false, threshold: 0.5 };
        check(probability, &[0.75], (1, [0.75, 0.5, 0.811_278]));
        check(probability, &[0.25], (0, [0.75, 0.5, 0.811_278]));
        check(probability, &[0.5], (1, [0.5, 0.0, 1.0]));
        check(Rule::Threshold { is_logit: true, threshold: 0.9 }, &[1.0], (0, [0.268_941, 0.462_117, 0.839_942]));
    }

    #[test]
    fn both_orders_of_an_output_are_read() {
        let channels = 2;
        let extent = Extent { channels, height: 1, width: 3 };
        assert_eq!(Extent::of(&[2, 1, 3], false), Some(extent));
        assert_eq!(Extent::of(&[1, 3, 2], true), Some(extent));
        assert_eq!(Extent::of(&[1, 3], false), Some(Extent { channels: 1, ..extent }));
        assert_eq!(Extent::of(&[0, 3], false), None);
        let first = PixelScores { values: &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0], extent, channels_last: false };
        let last = PixelScores { values: &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0], extent, channels_last: true };
        for (channel, x) in (0..channels).flat_map(|channel| (0..3).map(move |x| (channel, x))) {
            assert_eq!(first.at(channel, 0, x), last.at(channel, 0, x));
        }
    }
}
