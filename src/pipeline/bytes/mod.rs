//! Preprocessing of files as plain bytes, for models of file types and of malware.

pub(crate) mod features;
pub(crate) mod preprocess;
pub(crate) mod selection;
