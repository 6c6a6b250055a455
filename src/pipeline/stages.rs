//! The kinds of stages that a `model.toml` can name, and making one of its settings.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::{
    ModelClasses, Postprocessor, Preprocessor, postprocess_classifier, postprocess_detector, postprocess_embedding,
    postprocess_regressor, postprocess_tensor, postprocess_token_classifier, preprocess_image, preprocess_tabular,
    preprocess_tensor, preprocess_text,
};
use crate::config::{SessionConfig, StageConfig};
use crate::error::{Error, Result};
use crate::identity::shown;
use crate::tensor::Signature;

/// What a stage is made of.
#[derive(Clone, Copy)]
pub struct StageContext<'a> {
    /// Its section of `model.toml`.
    pub config: &'a StageConfig,
    /// The signature of the model that it feeds or follows.
    pub signature: &'a Signature,
    /// The classes, by the model's file.
    pub classes: &'a ModelClasses,
    /// The files of the version that it is part of.
    pub files: &'a dyn VersionFiles,
    /// The most instances of one request: a preprocessor that makes much of little has to refuse more.
    pub max_instances: NonZeroUsize,
}

/// Maximum length of the name of an input or an output, in bytes.
const LONGEST_NAME: usize = 512;

/// The most elements that are made of one request: 256 MiB of single precision.
const MOST_ELEMENTS: usize = 1 << 26;

impl<'a> StageContext<'a> {
    /// With the usual limit of instances, for a model whose file says nothing of its classes.
    pub fn new(config: &'a StageConfig, signature: &'a Signature, files: &'a dyn VersionFiles) -> StageContext<'a> {
        const NO_CLASSES: &ModelClasses = &ModelClasses { of_scores: BTreeMap::new(), of_metadata: Vec::new() };
        let max_instances = SessionConfig::default().max_instances;
        StageContext { config, signature, classes: NO_CLASSES, files, max_instances }
    }

    /// The most instances of one request, if each becomes a row of so many elements.
    pub(super) fn most_rows(&self, row_elements: usize) -> NonZeroUsize {
        let by_elements = NonZeroUsize::new(MOST_ELEMENTS / row_elements.max(1)).unwrap_or(NonZeroUsize::MIN);
        self.max_instances.min(by_elements)
    }
}

/// The files of a version, for stages that need one: a tokenizer, labels.
pub trait VersionFiles {
    /// The content of a file of the version, exactly as it was added.
    fn read(&self, name: &str) -> Result<Arc<[u8]>>;
}

/// Makes a preprocessor.
pub type MakePreprocessor = fn(StageContext<'_>) -> Result<Box<dyn Preprocessor>>;

/// Makes a postprocessor.
pub type MakePostprocessor = fn(StageContext<'_>) -> Result<Box<dyn Postprocessor>>;

/// The kinds of stages that a `model.toml` can name.
#[derive(Debug, Clone)]
pub struct Stages {
    preprocessors: BTreeMap<Arc<str>, MakePreprocessor>,
    postprocessors: BTreeMap<Arc<str>, MakePostprocessor>,
}

impl Default for Stages {
    /// The built-in kinds.
    fn default() -> Self {
        let none = Stages { preprocessors: BTreeMap::new(), postprocessors: BTreeMap::new() };
        none.with_preprocessor("tensor", preprocess_tensor::make)
            .with_preprocessor("tabular", preprocess_tabular::make)
            .with_preprocessor("text", preprocess_text::make)
            .with_preprocessor("image", preprocess_image::make)
            .with_postprocessor("tensor", postprocess_tensor::make)
            .with_postprocessor("classifier", postprocess_classifier::make)
            .with_postprocessor("regressor", postprocess_regressor::make)
            .with_postprocessor("embedding", postprocess_embedding::make)
            .with_postprocessor("token-classifier", postprocess_token_classifier::make)
            .with_postprocessor("detector", postprocess_detector::make)
    }
}

impl Stages {
    /// Adds a kind of preprocessor, or replaces the one of that name.
    pub fn with_preprocessor(mut self, kind: &str, make: MakePreprocessor) -> Stages {
        self.preprocessors.insert(kind.into(), make);
        self
    }

    /// Adds a kind of postprocessor, or replaces the one of that name.
    pub fn with_postprocessor(mut self, kind: &str, make: MakePostprocessor) -> Stages {
        self.postprocessors.insert(kind.into(), make);
        self
    }

    /// The preprocessor that a `model.toml` asks for.
    pub fn preprocessor(&self, context: StageContext<'_>) -> Result<Box<dyn Preprocessor>> {
        check_names(context.signature)?;
        let make = find(&self.preprocessors, "preprocess", &context.config.kind)?;
        make(context).map_err(|error| in_section("preprocess", error))
    }

    /// The postprocessor that a `model.toml` asks for.
    pub fn postprocessor(&self, context: StageContext<'_>) -> Result<Box<dyn Postprocessor>> {
        let make = find(&self.postprocessors, "postprocess", &context.config.kind)?;
        make(context).map_err(|error| in_section("postprocess", error))
    }
}

/// Checks the names of inputs and outputs, which are in answers and messages.
fn check_names(signature: &Signature) -> Result<()> {
    let names = signature.inputs.iter().chain(&signature.outputs).map(|spec| &*spec.name);
    let is_name = |name: &str| name.len() <= LONGEST_NAME && !name.contains(|c: char| c.is_control());
    match { names }.find(|name| !is_name(name)) {
        None => Ok(()),
        Some(name) => Err(Error::Config(format!(
            "the model has an input or output called \"{}\", which is not a name: at most {LONGEST_NAME} bytes, without \
             control characters; export it with another one",
            shown(name)
        ))),
    }
}

fn find<M: Copy>(known: &BTreeMap<Arc<str>, M>, section: &str, kind: &str) -> Result<M> {
    known.get(kind).copied().ok_or_else(|| {
        let kinds: Vec<&str> = known.keys().map(|kind| &**kind).collect();
        Error::Config(format!("[{section}] kind: there is no \"{}\"; known kinds: {}", shown(kind), kinds.join(", ")))
    })
}

fn in_section(section: &str, error: Error) -> Error {
    match error {
        Error::Config(message) => Error::Config(format!("[{section}] {message}")),
        other => other,
    }
}

/// Files that are held in memory.
impl VersionFiles for BTreeMap<String, Vec<u8>> {
    fn read(&self, name: &str) -> Result<Arc<[u8]>> {
        self.get(name)
            .map(|content| content.as_slice().into())
            .ok_or_else(|| Error::Config(format!("the version has no file {name:?}; add it with `leeway add --file`")))
    }
}

impl std::fmt::Debug for StageContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StageContext").field("config", self.config).finish_non_exhaustive()
    }
}

/// A stage made of settings as JSON, without files.
#[cfg(test)]
pub(super) fn of_settings<S>(
    make: impl Fn(StageContext<'_>) -> Result<S>,
    settings: &str,
    signature: &Signature,
) -> Result<S> {
    of_settings_with(make, settings, signature, &BTreeMap::new())
}

/// The same, with files.
#[cfg(test)]
pub(super) fn of_settings_with<S>(
    make: impl Fn(StageContext<'_>) -> Result<S>,
    settings: &str,
    signature: &Signature,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<S> {
    let config: StageConfig = serde_json::from_str(settings).map_err(|error| Error::Config(error.to_string()))?;
    make(StageContext::new(&config, signature, files))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{DType, Dim, TensorSpec};

    #[test]
    fn names_of_inputs_and_outputs_are_bounded() {
        let spec = |name: &str| TensorSpec { name: name.into(), dtype: DType::F32, dims: vec![Dim::Dynamic(None)] };
        let config = StageConfig::of_kind("tensor");
        let make = |name: &str, is_input: bool| {
            let (mut signature, named) = (Signature::default(), vec![spec(name)]);
            let good = vec![spec("x")];
            (signature.inputs, signature.outputs) = if is_input { (named, good) } else { (good, named) };
            let files = BTreeMap::new();
            let made = Stages::default().preprocessor(StageContext::new(&config, &signature, &files));
            made.err().map(|error| error.to_string()).unwrap_or_default()
        };
        for name in ["x".repeat(1_000_000), "\u{1b}[31m".to_owned(), "a\0b".to_owned(), "a\nb".to_owned()] {
            for is_input in [true, false] {
                let message = make(&name, is_input);
                assert!(message.contains("which is not a name: at most 512 bytes"), "{message:.1000}");
                assert!(message.len() < 1_000 && !message.contains(|c: char| c.is_control()), "{message:?}");
            }
        }
        assert!(!make(&"x".repeat(LONGEST_NAME), true).contains("not a name"));
    }
}
