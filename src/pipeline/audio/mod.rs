//! Decoding and resampling of sound.

pub(crate) mod decoding;
pub(crate) mod features;
pub(crate) mod flac;
pub(crate) mod preprocess;
pub(crate) mod recording;
pub(crate) mod resampling;
pub(crate) mod settings;
pub(crate) mod wav;
