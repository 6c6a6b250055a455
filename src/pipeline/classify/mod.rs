//! Conversion of the scores of a classifier to labels.

pub(crate) mod class_lookup;
mod classifier;
pub(crate) mod labels;
pub(crate) mod model_classes;
mod plausibility;
mod score_rows;
pub(crate) mod scores;
pub(crate) mod settings;
mod several_targets;
