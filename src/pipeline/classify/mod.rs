//! Conversion of the scores of a classifier to labels.

pub(crate) mod classifier;
pub(crate) mod labels;
pub(crate) mod model_classes;
pub(crate) mod scores;
