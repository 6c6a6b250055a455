//! Stages of tensors: rows of numbers or texts, passed through unchanged.

pub(crate) mod features;
pub(crate) mod postprocess;
pub(crate) mod preprocess;
