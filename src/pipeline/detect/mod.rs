//! Detection of objects in images: boxes and their classes.

pub(crate) mod detector;
pub(crate) mod layouts;
