//! Data that a stage is made from: its settings, the model's signature and classes, the files of the version.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use super::classify::model_classes::ModelClasses;
use super::version_files::VersionFiles;
use crate::config::{SessionConfig, StageConfig};
#[cfg(test)]
use crate::error::{Result, SetupError};
use crate::tensor::Signature;

/// Maximum number of tensor elements made from one request: 256 MiB in single precision.
const MAX_ELEMENTS: usize = 1 << 26;

/// Data that a stage is made from.
#[derive(Clone, Copy)]
pub struct StageContext<'a> {
    /// Settings of the stage: its section of `model.toml`.
    pub config: &'a StageConfig,
    /// The signature of the model before or after the stage.
    pub signature: &'a Signature,
    /// The classes of the model, according to its file.
    pub classes: &'a ModelClasses,
    /// The files of the version that the stage is part of.
    pub files: &'a dyn VersionFiles,
    /// Maximum number of instances in one request. A preprocessor that makes large tensors from small instances may set
    /// a lower limit.
    pub max_instances: NonZeroUsize,
}

impl<'a> StageContext<'a> {
    /// Creates a context with the default limit of instances, for a model whose file does not name its classes.
    pub fn new(config: &'a StageConfig, signature: &'a Signature, files: &'a dyn VersionFiles) -> StageContext<'a> {
        const NO_CLASSES: &ModelClasses =
            &ModelClasses { of_scores: BTreeMap::new(), of_metadata: Vec::new(), label_columns: None };
        let max_instances = SessionConfig::default().max_instances;
        StageContext { config, signature, classes: NO_CLASSES, files, max_instances }
    }

    /// Maximum number of instances in one request, if each becomes a row of `row_elements` elements.
    pub(super) fn most_rows(&self, row_elements: usize) -> NonZeroUsize {
        let by_elements = NonZeroUsize::new(MAX_ELEMENTS / row_elements.max(1)).unwrap_or(NonZeroUsize::MIN);
        self.max_instances.min(by_elements)
    }
}

impl std::fmt::Debug for StageContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StageContext").field("config", self.config).finish_non_exhaustive()
    }
}

/// Makes a stage from settings as JSON, without files.
#[cfg(test)]
pub(super) fn of_settings<S>(
    make: impl Fn(StageContext<'_>) -> Result<S, SetupError>,
    settings: &str,
    signature: &Signature,
) -> Result<S, SetupError> {
    of_settings_with(make, settings, signature, &BTreeMap::new())
}

/// Makes a stage from settings as JSON, with files of the version.
#[cfg(test)]
pub(super) fn of_settings_with<S>(
    make: impl Fn(StageContext<'_>) -> Result<S, SetupError>,
    settings: &str,
    signature: &Signature,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<S, SetupError> {
    let config: StageConfig = serde_json::from_str(settings).map_err(|error| SetupError::Config(error.to_string()))?;
    make(StageContext::new(&config, signature, files))
}
