//! Decoding and resizing of images, and selection of their channels.

pub(crate) mod container;
pub(crate) mod decoding;
pub(crate) mod features;
pub(crate) mod input_values;
pub(crate) mod opencv_resizing;
pub(crate) mod pillow_resizing;
pub(crate) mod pixel_layout;
pub(crate) mod placing;
pub(crate) mod preprocess;
pub(crate) mod row_size;
pub(crate) mod settings;
pub(crate) mod side;
