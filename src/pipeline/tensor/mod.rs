//! Rows of numbers or texts, as they are.

pub(crate) mod features;
pub(crate) mod postprocess;
pub(crate) mod preprocess;
