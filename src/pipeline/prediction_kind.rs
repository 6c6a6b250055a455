//! Kinds of predictions, which are known before any prediction is made.

use std::sync::Arc;

use super::classify::labels::Label;

/// Kind of the predictions of a postprocessor. Protocols of tables and tensors derive their columns from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PredictionKind {
    /// [`Prediction::Class`](super::Prediction::Class).
    Class(LabelKind),
    /// [`Prediction::Value`](super::Prediction::Value).
    Value,
    /// [`Prediction::Values`](super::Prediction::Values) of targets with these names.
    Values(Vec<Arc<str>>),
    /// [`Prediction::Anomaly`](super::Prediction::Anomaly).
    Anomaly,
    /// [`Prediction::Embedding`](super::Prediction::Embedding).
    Embedding,
    /// Predictions without a fixed set of columns, such as the objects in an image.
    #[default]
    Other,
}

/// Kind of the labels of classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelKind {
    /// All labels are whole numbers.
    Numbers,
    /// Some labels are texts.
    Texts,
}

impl LabelKind {
    /// Returns the kind of these labels. Without labels, a class is its number.
    pub(super) fn of(labels: Option<&[Label]>) -> LabelKind {
        match labels.is_none_or(|labels| labels.iter().all(|label| matches!(label, Label::Number(_)))) {
            true => LabelKind::Numbers,
            false => LabelKind::Texts,
        }
    }
}
