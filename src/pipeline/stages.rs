//! Registry of the kinds of stages that a `model.toml` can name; makes stages from their settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::stage_context::StageContext;
use super::{Postprocessor, Preprocessor, anomaly, classify, detect, image, regressor, tabular, tensor, text};
use crate::error::{Result, SetupError};
use crate::identity::shown;
use crate::tensor::Signature;

/// Maximum length of the name of an input or an output, in bytes.
const MAX_NAME: usize = 512;

/// Function that makes a preprocessor from its [`StageContext`].
pub type MakePreprocessor = fn(StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError>;

/// Function that makes a postprocessor from its [`StageContext`].
pub type MakePostprocessor = fn(StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError>;

/// Registry of the kinds of stages that a `model.toml` can name.
#[derive(Debug, Clone)]
pub struct Stages {
    preprocessors: BTreeMap<Arc<str>, MakePreprocessor>,
    postprocessors: BTreeMap<Arc<str>, MakePostprocessor>,
}

impl Default for Stages {
    /// Returns the built-in kinds of stages.
    fn default() -> Self {
        let none = Stages { preprocessors: BTreeMap::new(), postprocessors: BTreeMap::new() };
        none.with_preprocessor("tensor", tensor::preprocess::make)
            .with_preprocessor("tabular", tabular::preprocess::make)
            .with_preprocessor("text", text::preprocess::make)
            .with_preprocessor("image", image::preprocess::make)
            .with_postprocessor("tensor", tensor::postprocess::make)
            .with_postprocessor("classifier", classify::settings::make)
            .with_postprocessor("regressor", regressor::make)
            .with_postprocessor("anomaly", anomaly::make)
            .with_postprocessor("embedding", text::embedding::make)
            .with_postprocessor("token-classifier", text::token_classifier::make)
            .with_postprocessor("detector", detect::detector::make)
    }
}

impl Stages {
    /// Adds a kind of preprocessor, or replaces the kind with this name.
    pub fn with_preprocessor(mut self, kind: &str, make: MakePreprocessor) -> Stages {
        self.preprocessors.insert(kind.into(), make);
        self
    }

    /// Adds a kind of postprocessor, or replaces the kind with this name.
    pub fn with_postprocessor(mut self, kind: &str, make: MakePostprocessor) -> Stages {
        self.postprocessors.insert(kind.into(), make);
        self
    }

    /// Makes the preprocessor that a `model.toml` names.
    pub fn preprocessor(&self, context: StageContext<'_>) -> Result<Box<dyn Preprocessor>, SetupError> {
        check_names(context.signature)?;
        let make = find(&self.preprocessors, "preprocess", &context.config.kind)?;
        make(context).map_err(|error| in_section("preprocess", error))
    }

    /// Makes the postprocessor that a `model.toml` names.
    pub fn postprocessor(&self, context: StageContext<'_>) -> Result<Box<dyn Postprocessor>, SetupError> {
        let make = find(&self.postprocessors, "postprocess", &context.config.kind)?;
        make(context).map_err(|error| in_section("postprocess", error))
    }
}

/// Checks the names of a model's inputs and outputs, because they appear in responses and messages.
fn check_names(signature: &Signature) -> Result<(), SetupError> {
    let names = signature.inputs.iter().chain(&signature.outputs).map(|spec| &*spec.name);
    let is_name = |name: &str| name.len() <= MAX_NAME && !name.contains(|c: char| c.is_control());
    match { names }.find(|name| !is_name(name)) {
        None => Ok(()),
        Some(name) => Err(SetupError::Config(format!(
            "the model has an input or output called \"{}\", which is not a name: at most {MAX_NAME} bytes, without \
             control characters; export it with another one",
            shown(name)
        ))),
    }
}

fn find<M: Copy>(known: &BTreeMap<Arc<str>, M>, section: &str, kind: &str) -> Result<M, SetupError> {
    known.get(kind).copied().ok_or_else(|| {
        let kinds: Vec<&str> = known.keys().map(|kind| &**kind).collect();
        SetupError::Config(format!(
            "[{section}] kind: there is no \"{}\"; known kinds: {}",
            shown(kind),
            kinds.join(", ")
        ))
    })
}

fn in_section(section: &str, error: SetupError) -> SetupError {
    match error {
        SetupError::Config(message) => SetupError::Config(format!("[{section}] {message}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StageConfig;
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
        assert!(!make(&"x".repeat(MAX_NAME), true).contains("not a name"));
    }
}
