//! Scores of classes: where a model has them, what they are, and probabilities made of them.
//!
//! The stages that read them share the settings `output`, `scores` and `labels`. Each declares them by itself: serde refuses
//! unknown keys only where all known ones are in one struct.

use std::sync::Arc;

use serde::Deserialize;

use super::labels::{Label, Labels};
use crate::error::SetupError;
use crate::pipeline::StageContext;
use crate::pipeline::outputs::float_output;

/// Kind of a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Scores {
    /// Any real number: softmax makes probabilities of those of a row, and the logistic function of one alone.
    Logits,
    /// A probability already.
    Probabilities,
}

/// Settings of the scores, as they are in `model.toml`.
pub(crate) struct ScoreSettings {
    /// The output with the scores; without it, the only floating-point output there is.
    pub(crate) output: Option<String>,
    /// Kind of the scores; required, for nothing in a model has it.
    pub(crate) scores: Option<Scores>,
    /// The labels in the order of the scores, or a file with them.
    pub(crate) labels: Option<Labels>,
}

/// The scores of a model, once the settings are found to fit it.
pub(crate) struct ScoresOfModel {
    /// The output with the scores.
    pub(crate) output: Arc<str>,
    /// Kind of the scores.
    pub(crate) scores: Scores,
    /// The labels in the order of the scores.
    pub(crate) labels: Option<Vec<Label>>,
}

impl ScoreSettings {
    /// Finds the output, and reads the labels.
    pub(crate) fn find(self, context: &StageContext<'_>) -> Result<ScoresOfModel, SetupError> {
        let scores = self.scores.ok_or_else(|| {
            SetupError::Config(
                "scores: say what they are: \"probabilities\", or \"logits\" to be made probabilities of".to_owned(),
            )
        })?;
        let labels = self.labels.map(|labels| labels.read(context.files)).transpose()?;
        let output = float_output(context.signature, self.output.as_deref(), "scores")?;
        Ok(ScoresOfModel { output, scores, labels })
    }
}

/// Error for labels that are more or fewer than the output has scores.
pub(crate) fn wrong_labels(labels: &[Label], output: &str, what: &str) -> SetupError {
    SetupError::Config(format!("labels: there are {}, but the output {output:?} has {what}", labels.len()))
}

/// Checks a threshold of probabilities.
pub(crate) fn check_threshold(threshold: f32) -> Result<(), SetupError> {
    match (0.0..=1.0).contains(&threshold) {
        true => Ok(()),
        false => Err(SetupError::Config(format!("threshold: {threshold} is not a probability, 0 to 1"))),
    }
}

/// softmax(s)_i = exp(s_i − max) / Σ_j exp(s_j − max): shifted so that no exponential overflows, in f64 so that many
/// classes do not add up to rounding errors.
pub(crate) fn softmax(scores: &[f32], temperature: f32, probabilities: &mut Vec<f64>) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let temperature = f64::from(temperature);
    probabilities.clear();
    probabilities.extend(scores.iter().map(|score| ((f64::from(*score) - f64::from(highest)) / temperature).exp()));
    let sum: f64 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|probability| *probability /= sum);
}

/// 1 / (1 + exp(−s))
pub(crate) fn logistic(score: f64) -> f64 {
    1.0 / (1.0 + (-score).exp())
}
