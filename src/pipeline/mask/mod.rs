//! Semantic segmentation: the class of each pixel of an image.
//!
//! - `postprocess.rs`: the stage `kind = "mask"`.
//! - `settings.rs`: its settings, and the checks against the shape that a model declares.
//! - `sampling.rs`: the pixels of the model's output that belong to each pixel of the image.
//! - `pixel_scores.rs`: from the scores of a pixel to its class.
//! - `class_map.rs`: the classes of all pixels of an image, and their summary.
//! - `encoding.rs`: PNG and run lengths.

pub(crate) mod class_map;
pub(crate) mod encoding;
pub(crate) mod pixel_scores;
pub(crate) mod postprocess;
pub(crate) mod sampling;
pub(crate) mod settings;
