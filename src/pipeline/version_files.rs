//! Access of stages to the files of a version.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Result, SetupError};

/// The files of a version, such as a tokenizer or labels, for the stages that need them.
pub trait VersionFiles {
    /// Returns the content of a file of the version, exactly as it was added.
    fn read(&self, name: &str) -> Result<Arc<[u8]>, SetupError>;
}

/// Files of a version that are held in memory, by name.
impl VersionFiles for BTreeMap<String, Vec<u8>> {
    fn read(&self, name: &str) -> Result<Arc<[u8]>, SetupError> {
        self.get(name).map(|content| content.as_slice().into()).ok_or_else(|| {
            SetupError::Config(format!("the version has no file {name:?}; add it with `leeway add --file`"))
        })
    }
}
