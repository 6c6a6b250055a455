//! The stages of a prediction: `Preprocessor → OnnxModel → Postprocessor`.
//!
//! A stage is an ordinary object behind a trait: it can be tested without a server and replaced by name in
//! `model.toml`. It contains no metrics, no HTTP, and no clock except the deadline passed to it. Each built-in stage
//! has its own file, in the folder of its kind of data. Custom stages are registered with [`Stages`].
//!
//! | place | content |
//! |---|---|
//! | `tensor/`, `tabular/`, `text/`, `image/`, `audio/`, `bytes/` | preprocessors, and the postprocessors that belong to them |
//! | `classify/`, `detect/`, `mask/`, `regressor.rs`, `anomaly.rs` | postprocessors |
//! | `chain/` | instances of a step made from the request and from earlier predictions |
//! | `json/` | reading requests and instances, without a tree of values |
//! | `named_rows/` | rows of named values, such as columns or CSV, as instances |
//! | `json_schema.rs` | parts of the schemas of instances and predictions |
//! | `stages.rs`, `stage_context.rs`, `version_files.rs` | the kinds of stages, and the data a stage is made from |
//! | `row_origin.rs`, `outputs.rs`, `target_names.rs`, `prediction.rs`, `prediction_kind.rs` | shared by postprocessors: origin of rows, outputs, names of several targets, predictions and their kinds |

#![warn(missing_docs)]

mod anomaly;
mod audio;
mod bytes;
pub mod chain;
mod classify;
mod detect;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    pub(crate) use super::json::base64_text::fuzzed as base64;
}
mod image;
mod json;
mod json_schema;
mod mask;
mod named_rows;
mod outputs;
mod prediction;
mod prediction_kind;
mod regressor;
mod row_origin;
mod stage_context;
mod stages;
mod tabular;
mod target_names;
mod tensor;
mod text;
mod version_files;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

pub use self::classify::class_lookup::{class_named, class_numbered, unknown_class};
pub use self::classify::labels::Label;
pub use self::classify::model_classes::{LabelColumns, ModelClasses, NamedClasses, OutputClasses};
pub use self::json::members::Members;
pub use self::json::object::Object;
pub use self::json::request_body::{RequestBody, SIGNATURE, instances, null_for_nan, request_body, unreadable};
pub use self::json::tensor_elements::tensor_elements;
pub use self::named_rows::{
    CellKind, Cells, CsvHeader, Elements, FormColumn, InstanceForm, Instances, JsonSeparator, NamedColumn, NamedRows,
    instances_of,
};
pub use self::prediction::{
    Crop, Detection, Entity, FlatElements, Mask, MaskClass, Prediction, RunLengths, Score, embeddings,
};
pub use self::prediction_kind::{LabelKind, PredictionKind};
pub use self::row_origin::{ImagePlacement, Origin, TokenisedText};
pub use self::stage_context::StageContext;
pub use self::stages::{MakePostprocessor, MakePreprocessor, Stages};
pub use self::version_files::VersionFiles;
use crate::budget::Deadline;
use crate::error::{Error, Result};
use crate::feature::{FeatureSchema, Features};
use crate::model::OnnxModel;
use crate::tensor::{Padding, Tensors};

/// First stage of a prediction, which makes model inputs from a request.
pub trait Preprocessor: Send + Sync {
    /// Reads `instances` (borrowed, unparsed JSON) straight into model inputs, one row per instance. Slow
    /// implementations call [`Deadline::check`] between their steps, and return its error.
    fn transform(&self, instances: &RawValue, deadline: Deadline) -> Result<Prepared>;

    /// Media types of request bodies that are one instance, such as an image. They are accepted in addition to JSON.
    /// `image/*` matches every image type.
    fn media_types(&self) -> &'static [&'static str] {
        &[]
    }

    /// Makes model inputs from a body that has one of the [`Preprocessor::media_types`].
    fn transform_raw(&self, media_type: &str, _body: &[u8], _deadline: Deadline) -> Result<Prepared> {
        Err(Error::internal(format_args!("a body of type {media_type}, which no stage has asked for")))
    }

    /// Returns true if even a small body can take long to preprocess. The stage then never runs on a thread that serves
    /// connections.
    fn is_heavy(&self) -> bool {
        false
    }

    /// Returns test runs on made-up instances that take this preprocessor much time or memory. A version is refused
    /// before it serves if such a run exceeds the maximum time of a request, or takes too much memory.
    fn rehearsals(&self) -> Vec<Rehearsal<'_>> {
        Vec::new()
    }

    /// Describes the table that the preprocessor reads, if an instance is a row of a table.
    fn table(&self) -> Option<Table> {
        None
    }

    /// Describes an instance for requests that name the values of a row. `None` if the values have no names.
    fn instance_form(&self) -> Option<InstanceForm> {
        None
    }

    /// Returns three different made-up instances as JSON, as a caller could send them. `None` if any inputs that fit
    /// the model's signature will do.
    fn samples(&self) -> Option<[String; 3]> {
        None
    }

    /// Returns the JSON Schema (draft 2020-12) of an instance. By default, it allows any value.
    fn instance_schema(&self) -> Value {
        Value::Object(serde_json::Map::new())
    }

    /// Returns an instance as JSON that a caller can send as it is: an example for people. By default, it is the first of
    /// [`Preprocessor::samples`].
    fn example(&self) -> Option<String> {
        self.samples().map(|[first, ..]| first)
    }

    /// Returns the instance that becomes the first row of these inputs, as JSON. `None` unless instances have the form of
    /// the model's inputs.
    fn instance_of(&self, _inputs: &Tensors) -> Option<String> {
        None
    }

    /// Describes the preprocessor's assumptions that `model.toml` does not confirm, in sentences for the person who
    /// adds a version.
    fn assumptions(&self) -> Vec<String> {
        Vec::new()
    }

    /// Padding with which short rows can share a run with longer ones. `None` if only inputs of one shape can be run
    /// together.
    fn padding(&self) -> Option<Padding> {
        None
    }

    /// Names of the features whose values are in [`Prepared::features`], which are monitored for drift. By default,
    /// there are none.
    fn features(&self) -> FeatureSchema {
        FeatureSchema::default()
    }

    /// Returns the features of model inputs that a caller has sent as tensors, in the order of
    /// [`Preprocessor::features`]. Empty if they cannot be derived from tensors.
    fn features_of(&self, _inputs: &Tensors) -> Features {
        Features::default()
    }
}

/// Last stage of a prediction, which makes predictions from model outputs.
pub trait Postprocessor: Send + Sync {
    /// Returns one prediction per row of the outputs, in order. `origin` has the texts or images that the rows were
    /// made from.
    fn decode(&self, outputs: &Tensors, origin: &Origin) -> Result<Vec<Prediction>>;

    /// Returns the predictions like [`Postprocessor::decode`]. Slow implementations call [`Deadline::check`] between their
    /// steps, and return its error.
    fn decode_until(&self, outputs: &Tensors, origin: &Origin, _deadline: Deadline) -> Result<Vec<Prediction>> {
        self.decode(outputs, origin)
    }

    /// Returns the kind of the predictions, which all have the same columns.
    fn prediction_kind(&self) -> PredictionKind {
        PredictionKind::Other
    }

    /// Returns true if even small outputs can take long to decode. The stage then never runs on a thread that serves
    /// connections.
    fn is_heavy(&self) -> bool {
        false
    }

    /// Names of the classes, in the order of their indices in predictions. `None` if the stage is not a classifier, or
    /// does not know the names.
    fn classes(&self) -> Option<Vec<Label>> {
        None
    }

    /// Compares the predicted classes with the classes that the model itself returns. Returns the number of equal
    /// classes and the number of compared rows.
    fn agreement(&self, _outputs: &Tensors) -> (usize, usize) {
        (0, 0)
    }

    /// Returns the JSON Schema (draft 2020-12) of a prediction. By default, it allows any value.
    fn prediction_schema(&self) -> Value {
        Value::Object(serde_json::Map::new())
    }

    /// Names of the outputs that predictions are made from; `None` for all outputs.
    fn answered(&self) -> Option<Vec<Arc<str>>> {
        None
    }

    /// Returns true if the outputs of a run belong to a single row, as for a detector with a varying number of boxes.
    fn takes_one_row(&self) -> bool {
        false
    }

    /// Describes a likely mistake in the settings, from the outputs of made-up rows, for the person who adds a version.
    fn doubt(&self, _outputs: &Tensors) -> Option<String> {
        None
    }

    /// Describes a contradiction between the outputs of made-up rows and `model.toml`. Such a version is refused.
    fn contradiction(&self, _outputs: &Tensors) -> Option<String> {
        None
    }

    /// Describes the postprocessor's assumptions that `model.toml` does not confirm, in sentences for the person who
    /// adds a version.
    fn assumptions(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A test run of a preprocessor on one kind of made-up instances that take it much time or memory.
pub struct Rehearsal<'a> {
    /// Kind of the made-up instances, as in `letters without a blank`.
    pub instance: String,
    /// Largest size of an instance, in `unit`.
    pub largest: usize,
    /// Unit of the size, as in `characters`.
    pub unit: &'static str,
    /// Setting of `model.toml` that bounds the size.
    pub setting: &'static str,
    /// Prepares an instance of this size. Fails if such an instance would be refused in a request.
    pub run: Box<dyn Fn(usize, Deadline) -> Result<()> + 'a>,
}

/// Result of a preprocessor for one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The model's inputs, in the order of its signature.
    pub inputs: Tensors,
    /// The features of the request, in the order of [`Preprocessor::features`].
    pub features: Features,
    /// Origin of the rows, for the postprocessor.
    pub origin: Origin,
}

/// Description of a table whose rows are the instances of a preprocessor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Columns of the table, in the order of the values if a row is an array.
    pub columns: Vec<TableColumn>,
    /// Form in which an instance contains a row.
    pub rows: TableRows,
}

/// Form in which an instance contains a row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableRows {
    /// An object with the names of the columns as keys.
    Objects,
    /// An array of the values of the columns, in order.
    Arrays,
}

/// A column of a table that a preprocessor reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableColumn {
    /// Name of the column, which is its key in an instance.
    pub name: String,
    /// True if the values of the column are texts, even where they look like numbers.
    pub is_text: bool,
}

impl Prepared {
    /// Creates a result of these inputs, without monitored features.
    pub fn unwatched(inputs: Tensors) -> Prepared {
        Prepared { features: Features::with_rows(inputs.rows()), inputs, origin: Origin::Unknown }
    }
}

/// Lists the first few of many names, for a message.
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
