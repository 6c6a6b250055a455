//! Decoding and resizing of images, and selection of their channels.

pub(crate) mod container;
pub(crate) mod decoding;
pub(crate) mod features;
pub(crate) mod pixel_layout;
pub(crate) mod placing;
pub(crate) mod preprocess;
pub(crate) mod resizing;
pub(crate) mod settings;
