//! The stages of a prediction: `Preprocessor → OnnxModel → Postprocessor`.
//!
//! A stage is an ordinary object behind a trait: it can be tested without a server and replaced by name in
//! `model.toml`. It contains no metric, no clock and no HTTP. Built-in stages have a file each; a stage of
//! your own is registered with [`Stages`].

mod json_to_tensor;
mod postprocess_classifier;
mod postprocess_tensor;
mod prediction;
mod preprocess_tensor;
mod request_body;
mod tensor_features;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

pub use self::prediction::{Label, Prediction, Score};
pub use self::request_body::instances;
use crate::config::StageConfig;
use crate::error::{Error, Result};
use crate::feature::{FeatureSchema, Features};
use crate::model::OnnxModel;
use crate::tensor::{Signature, Tensor, Tensors};

/// Makes model inputs of a request.
pub trait Preprocessor: Send + Sync {
    /// Reads `instances` (borrowed, unparsed JSON) straight into model inputs, one row per instance.
    fn transform(&self, instances: &RawValue) -> Result<Prepared>;

    /// The features whose values [`Prepared::features`] has, so that they can be watched for drift. None, if it is not
    /// said.
    fn features(&self) -> FeatureSchema {
        FeatureSchema::default()
    }
}

/// Makes predictions of model outputs.
pub trait Postprocessor: Send + Sync {
    /// One prediction per row of the outputs, in order.
    fn decode(&self, outputs: &Tensors) -> Result<Vec<Prediction>>;

    /// The names of the classes, in the order by which predictions number them, if it is a classifier that knows them.
    fn classes(&self) -> Option<Vec<Label>> {
        None
    }

    /// Asked once, with the outputs of the warm-up run: what looks as if it was not meant, for the log.
    fn doubt(&self, _outputs: &Tensors) -> Option<String> {
        None
    }
}

/// What a preprocessor made of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The model's inputs, in the order of its signature.
    pub inputs: Tensors,
    /// What is watched of the request, in the order of [`Preprocessor::features`].
    pub features: Features,
}

impl Prepared {
    /// Inputs of which nothing is watched.
    pub fn unwatched(inputs: Tensors) -> Prepared {
        Prepared { features: Features::with_rows(inputs.rows()), inputs }
    }
}

/// The stages of one version of a model.
pub struct Pipeline {
    /// From JSON to tensors.
    pub preprocessor: Box<dyn Preprocessor>,
    /// From tensors to tensors.
    pub model: OnnxModel,
    /// From tensors to predictions.
    pub postprocessor: Box<dyn Postprocessor>,
}

/// Makes a preprocessor from its settings and the signature of the model it will feed.
pub type MakePreprocessor = fn(&StageConfig, &Signature) -> Result<Box<dyn Preprocessor>>;

/// Makes a postprocessor from its settings and the signature of the model it will follow.
pub type MakePostprocessor = fn(&StageConfig, &Signature) -> Result<Box<dyn Postprocessor>>;

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
            .with_postprocessor("tensor", postprocess_tensor::make)
            .with_postprocessor("classifier", postprocess_classifier::make)
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
    pub fn preprocessor(&self, config: &StageConfig, signature: &Signature) -> Result<Box<dyn Preprocessor>> {
        let make = find(&self.preprocessors, "preprocess", &config.kind)?;
        make(config, signature).map_err(|error| in_section("preprocess", error))
    }

    /// The postprocessor that a `model.toml` asks for.
    pub fn postprocessor(&self, config: &StageConfig, signature: &Signature) -> Result<Box<dyn Postprocessor>> {
        let make = find(&self.postprocessors, "postprocess", &config.kind)?;
        make(config, signature).map_err(|error| in_section("postprocess", error))
    }
}

fn find<M: Copy>(known: &BTreeMap<Arc<str>, M>, section: &str, kind: &str) -> Result<M> {
    known.get(kind).copied().ok_or_else(|| {
        let kinds: Vec<&str> = known.keys().map(|kind| &**kind).collect();
        Error::Config(format!("[{section}] kind: there is no {kind:?}; known kinds: {}", kinds.join(", ")))
    })
}

fn in_section(section: &str, error: Error) -> Error {
    match error {
        Error::Config(message) => Error::Config(format!("[{section}] {message}")),
        other => other,
    }
}

// ===== what postprocessors share =====

/// What to say where an output is looked for and the model has some that are no tensors; empty if it has none.
fn hint_of_other_outputs(signature: &Signature) -> String {
    match &*signature.other_outputs {
        [] => String::new(),
        names => format!(
            "; its output {} is not a tensor (scikit-learn's ZipMap: export with options={{\"zipmap\": False}})",
            names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// The declared output of this name.
fn declared_output(signature: &Signature, name: &str) -> Result<Arc<str>> {
    signature.output(name).map(|output| Arc::clone(&output.name)).ok_or_else(|| {
        let names: Vec<&str> = signature.outputs.iter().map(|output| &*output.name).collect();
        let (names, hint) = (names.join(", "), hint_of_other_outputs(signature));
        Error::Config(format!("the model has no tensor output {name:?}; it has: {names}{hint}"))
    })
}

/// The output of this name, with one row per instance.
fn output<'a>(outputs: &'a Tensors, name: &str) -> Result<&'a Tensor> {
    outputs
        .get(name)
        .ok_or_else(|| Error::internal(format_args!("the model's output {name:?} has not one row per instance")))
}

/// NaN and infinity have no place in JSON, and no meaning as a prediction.
fn refuse_non_finite(name: &str, tensor: &Tensor) -> Result<()> {
    match tensor.data().first_non_finite() {
        Some(element) => {
            Err(Error::NonFiniteOutput { output: name.to_owned(), instance: element / tensor.row_len().max(1) })
        }
        None => Ok(()),
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("model", &self.model).finish_non_exhaustive()
    }
}
