//! Settings of outputs with scores of classes, and the conversion of scores to probabilities.
//!
//! The stages that read scores share the settings `output`, `scores` and `labels`. Each stage declares these settings
//! itself, because serde refuses unknown keys only if all known keys are in one struct.

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
    /// Any real number. Softmax converts the scores of a row to probabilities; the logistic function converts a single
    /// score.
    Logits,
    /// A probability.
    Probabilities,
}

/// Settings that describe the scores of a model, as they are in `model.toml`.
pub(crate) struct ScoreSettings {
    /// The output with the scores; by default, the only floating-point output.
    pub(crate) output: Option<String>,
    /// Kind of the scores; required, because a model does not declare it.
    pub(crate) scores: Option<Scores>,
    /// The labels in the order of the scores, or a file with them.
    pub(crate) labels: Option<Labels>,
}

/// Description of the scores of a model, made from checked settings.
pub(crate) struct ScoresOfModel {
    /// The output with the scores.
    pub(crate) output: Arc<str>,
    /// Kind of the scores.
    pub(crate) scores: Scores,
    /// The labels in the order of the scores.
    pub(crate) labels: Option<Vec<Label>>,
}

impl ScoreSettings {
    /// Finds the output with the scores, and reads the labels.
    pub(crate) fn find(self, context: &StageContext<'_>) -> Result<ScoresOfModel, SetupError> {
        let scores = self.scores.ok_or_else(|| {
            SetupError::Config(
                "scores: say what they are: \"probabilities\", or \"logits\", which are converted to probabilities"
                    .to_owned(),
            )
        })?;
        let labels = self.labels.map(|labels| labels.read(context.files)).transpose()?;
        let output = float_output(context.signature, self.output.as_deref(), "scores")?;
        Ok(ScoresOfModel { output, scores, labels })
    }
}

/// Returns the error for a number of labels that differs from the number of scores in the output.
pub(crate) fn wrong_labels(labels: &[Label], output: &str, what: &str) -> SetupError {
    SetupError::Config(format!("labels: there are {}, but the output {output:?} has {what}", labels.len()))
}

/// Checks that a threshold is a probability.
pub(crate) fn check_threshold(threshold: f32) -> Result<(), SetupError> {
    match (0.0..=1.0).contains(&threshold) {
        true => Ok(()),
        false => Err(SetupError::Config(format!("threshold: {threshold} is not a probability from 0 to 1"))),
    }
}

/// Converts the scores of a row to probabilities: softmax(s)_i = exp(s_i − max) / Σ_j exp(s_j − max). The shift by the
/// maximum prevents an overflow. f64 keeps the rounding errors of many classes small.
pub(crate) fn softmax(scores: &[f32], temperature: f32, probabilities: &mut Vec<f64>) {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let temperature = f64::from(temperature);
    probabilities.clear();
    probabilities.extend(scores.iter().map(|score| ((f64::from(*score) - f64::from(highest)) / temperature).exp()));
    let sum: f64 = probabilities.iter().sum();
    probabilities.iter_mut().for_each(|probability| *probability /= sum);
}

/// Logistic function of a score, 1 / (1 + exp(−s)).
pub(crate) fn logistic(score: f64) -> f64 {
    1.0 / (1.0 + (-score).exp())
}
