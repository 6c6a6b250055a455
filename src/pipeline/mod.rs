//! The stages of a prediction: `Preprocessor → OnnxModel → Postprocessor`.
//!
//! A stage is an ordinary object behind a trait: it can be tested without a server and replaced by name in
//! `model.toml`. It contains no metric, no HTTP, and no clock but the deadline that it is handed. Built-in stages have a file each; a stage of
//! your own is registered with [`Stages`].

mod base64_text;
mod detector_layouts;
mod hard_texts;
mod image_container;
mod image_decoding;
mod image_resizing;
mod json;
mod json_object;
mod json_to_tensor;
mod labels;
mod model_classes;
mod origin;
mod outputs;
mod postprocess_classifier;
mod postprocess_detector;
mod postprocess_embedding;
mod postprocess_regressor;
mod postprocess_tensor;
mod postprocess_token_classifier;
mod prediction;
mod preprocess_image;
mod preprocess_tabular;
mod preprocess_tensor;
mod preprocess_text;
mod request_body;
mod stages;
mod tabular_columns;
mod tensor_features;
mod tokenizing;
mod whole_numbers;

use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

pub use self::json_object::Object;
pub use self::labels::Label;
pub use self::model_classes::{ModelClasses, NamedClasses, OutputClasses};
pub use self::origin::{ImagePlacement, Origin, TokenisedText};
pub use self::prediction::{Detection, Entity, Prediction, Score};
pub use self::request_body::instances;
pub use self::stages::{MakePostprocessor, MakePreprocessor, StageContext, Stages, VersionFiles};
use crate::budget::Deadline;
use crate::error::{Error, Result};
use crate::feature::{FeatureSchema, Features};
use crate::model::OnnxModel;
use crate::tensor::{Padding, Tensors};

/// Makes model inputs of a request.
pub trait Preprocessor: Send + Sync {
    /// Reads `instances` (borrowed, unparsed JSON) straight into model inputs, one row per instance. Slow work calls
    /// [`Deadline::check`] between its parts, and returns its error.
    fn transform(&self, instances: &RawValue, deadline: Deadline) -> Result<Prepared>;

    /// Media types of bodies that are one instance, such as an image. They are accepted besides JSON. `image/*` is a
    /// family.
    fn media_types(&self) -> &'static [&'static str] {
        &[]
    }

    /// Reads a body of one of [`Preprocessor::media_types`].
    fn transform_raw(&self, media_type: &str, _body: &[u8], _deadline: Deadline) -> Result<Prepared> {
        Err(Error::internal(format_args!("a body of type {media_type}, which no stage has asked for")))
    }

    /// Whether it can take long however small a body is, so that it never runs on a thread that serves connections.
    fn is_heavy(&self) -> bool {
        false
    }

    /// Returns runs on made-up instances that are hard on this preprocessor. A version whose preprocessor is slower
    /// than a request may be, or takes too much memory, is refused before it serves.
    fn rehearsals(&self) -> Vec<Rehearsal<'_>> {
        Vec::new()
    }

    /// The table that it reads, if an instance is a row of one.
    fn table(&self) -> Option<Table> {
        None
    }

    /// Three instances that differ, made up, as JSON: rows as they could be sent. `None` if any inputs that fit the model's
    /// signature could be.
    fn samples(&self) -> Option<[String; 3]> {
        None
    }

    /// Assumptions that `model.toml` does not confirm: sentences for whoever adds a version.
    fn assumptions(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the rows of short inputs may be filled up with, so that they can be run with longer ones. `None` if only
    /// inputs of one shape can be run together.
    fn padding(&self) -> Option<Padding> {
        None
    }

    /// The features whose values [`Prepared::features`] has, so that they can be watched for drift. None, if it is not
    /// said.
    fn features(&self) -> FeatureSchema {
        FeatureSchema::default()
    }
}

/// Makes predictions of model outputs.
pub trait Postprocessor: Send + Sync {
    /// One prediction per row of the outputs, in order. `origin` tells what the rows were made of.
    fn decode(&self, outputs: &Tensors, origin: &Origin) -> Result<Vec<Prediction>>;

    /// The names of the classes, in the order by which predictions number them, if it is a classifier that knows them.
    fn classes(&self) -> Option<Vec<Label>> {
        None
    }

    /// Compares the classes that are answered with those that the model itself names: how many are the same, of how many.
    fn agreement(&self, _outputs: &Tensors) -> (usize, usize) {
        (0, 0)
    }

    /// The outputs that answers are made of; `None` for all.
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        None
    }

    /// Returns true if all outputs, as a whole, belong to one row, as those of a detector with a varying number of boxes.
    fn takes_one_row(&self) -> bool {
        false
    }

    /// Asked with outputs of rows that are made up: what looks as if it was not meant, for whoever adds a version.
    fn doubt(&self, _outputs: &Tensors) -> Option<String> {
        None
    }

    /// Asked with outputs of rows that are made up: how they contradict what `model.toml` says, which refuses a version.
    fn contradiction(&self, _outputs: &Tensors) -> Option<String> {
        None
    }

    /// Assumptions that `model.toml` does not confirm: sentences for whoever adds a version.
    fn assumptions(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A run of a preprocessor on a kind of made-up instances that are hard on it.
pub struct Rehearsal<'a> {
    /// Kind of the instance, as in `letters without a blank`.
    pub instance: String,
    /// Largest size of an instance.
    pub largest: usize,
    /// Unit of the size, as in `characters`.
    pub unit: &'static str,
    /// Setting of `model.toml` that bounds the size.
    pub setting: &'static str,
    /// Prepares an instance of this size. Fails if a request may not have such an instance.
    pub run: Box<dyn Fn(usize, Deadline) -> Result<()> + 'a>,
}

/// What a preprocessor made of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The model's inputs, in the order of its signature.
    pub inputs: Tensors,
    /// What is watched of the request, in the order of [`Preprocessor::features`].
    pub features: Features,
    /// What the rows were made of.
    pub origin: Origin,
}

/// A table that a preprocessor reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its columns; in this order, where a row is an array.
    pub columns: Vec<TableColumn>,
    /// Form of a row.
    pub rows: TableRows,
}

/// Form of a row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableRows {
    /// An object with the columns' names as keys.
    Objects,
    /// An array of the columns' values, in order.
    Arrays,
}

/// A column of a table that a preprocessor reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableColumn {
    /// Its name, which is the key in an instance.
    pub name: String,
    /// Whether it is a text, even where it looks like a number.
    pub is_text: bool,
}

impl Prepared {
    /// Inputs of which nothing is watched.
    pub fn unwatched(inputs: Tensors) -> Prepared {
        Prepared { features: Features::with_rows(inputs.rows()), inputs, origin: Origin::Unknown }
    }
}

/// Some of many names, for a message.
///
/// ```
/// use leeway::pipeline::some_of;
/// assert_eq!(some_of(&["a", "b"]), "a, b");
/// assert!(some_of(&["x"; 500]).ends_with("x, x and 490 more"));
/// ```
pub fn some_of<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> =
        names.iter().take(SHOWN).map(|name| name.as_ref().chars().take(64).collect::<String>()).collect();
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{}{more}", shown.join(", "))
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

impl fmt::Debug for Rehearsal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rehearsal").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("model", &self.model).finish_non_exhaustive()
    }
}
