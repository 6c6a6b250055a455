//! Evidence of the purpose of a model: its signature, the facts in its file, the files beside it, and training data.

use serde_json::Value;

use super::model_files::ModelFiles;
use crate::authoring::table_columns::TableColumn;
use crate::pipeline::ModelClasses;
use crate::repository::ModelFacts;
use crate::tensor::{DType, Dim, Signature, TensorSpec};

/// Everything that a proposal rests on.
#[derive(Debug, Clone)]
pub(super) struct Evidence<'a> {
    /// Inputs and outputs as the file declares them.
    pub(super) signature: &'a Signature,
    pub(super) classes: &'a ModelClasses,
    pub(super) facts: &'a ModelFacts,
    pub(super) files: &'a ModelFiles,
    /// Columns of the training data that are features, if data were given.
    pub(super) columns: Option<&'a [TableColumn]>,
}

/// An image as an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageInput {
    pub(super) height: Option<usize>,
    pub(super) width: Option<usize>,
}

/// Entries of Ultralytics in the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ultralytics {
    /// `detect`, `classify`, `segment`, `pose` or `obb`; `detect` for YOLOv5, which does not write it.
    pub(super) task: String,
    /// Height and width of the training.
    pub(super) size: Option<[usize; 2]>,
}

impl Evidence<'_> {
    /// Returns the only input, if it looks like images: four dimensions, of which one has 1 or 3 channels.
    pub(super) fn image_input(&self) -> Option<ImageInput> {
        let [input] = &*self.signature.inputs else { return None };
        let is_number = matches!(input.dtype, DType::F32 | DType::F16 | DType::U8);
        let side = |dim: &Dim| if let Dim::Fixed(side) = dim { Some(*side) } else { None };
        let is_side = |dim: &Dim| side(dim).is_none_or(|side| side >= 8);
        let channels = |dim: &Dim| matches!(dim, Dim::Fixed(1 | 3));
        let [_, first, second, third] = &*input.dims else { return None };
        let (height, width) = match (channels(first), channels(third)) {
            (true, _) if is_side(second) && is_side(third) => (second, third),
            (_, true) if is_side(first) && is_side(second) => (first, second),
            _ => return None,
        };
        is_number.then(|| ImageInput { height: side(height), width: side(width) })
    }

    /// Returns the outputs of floating-point numbers.
    pub(super) fn float_outputs(&self) -> Vec<&TensorSpec> {
        self.signature.outputs.iter().filter(|output| is_float(output.dtype)).collect()
    }

    /// Returns the last operator before an output.
    pub(super) fn last_operator(&self, output: &str) -> Option<&str> {
        const COPIES: [&str; 5] = ["Identity", "Cast", "Reshape", "Squeeze", "Flatten"];
        let before = self.facts.before_output.get(output)?;
        before.iter().map(String::as_str).find(|operator| !COPIES.contains(operator))
    }

    /// Returns the metadata of Ultralytics: class names and the stride of the network.
    pub(super) fn ultralytics(&self) -> Option<Ultralytics> {
        let of = |key: &str| self.facts.metadata.get(key).map(String::as_str);
        if of("stride").is_none() || of("names").is_none() {
            return None;
        }
        let sides: Option<Vec<usize>> = of("imgsz").and_then(|text| serde_json::from_str(text).ok());
        let size = sides.and_then(|sides| <[usize; 2]>::try_from(sides).ok());
        Some(Ultralytics { task: of("task").unwrap_or("detect").to_owned(), size })
    }

    /// Returns the names of the classes in the metadata.
    pub(super) fn named_classes(&self) -> Option<usize> {
        self.classes.of_metadata.first().map(|classes| classes.labels.len())
    }

    /// Returns the names of the columns of a row, and their source: from training data or from MLflow's signature.
    pub(super) fn column_names(&self) -> Option<(Vec<String>, &'static str)> {
        let of_data = self.columns.map(|columns| columns.iter().map(|column| column.name.clone()).collect());
        let of_mlflow = self.files.mlflow.as_ref().and_then(|mlflow| mlflow.columns.clone());
        of_data.map(|names| (names, "the header of --data")).or_else(|| Some((of_mlflow?, "the signature in MLmodel")))
    }
}

pub(super) fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
}

/// Returns the lengths of a row of an input or output.
pub(super) fn row(spec: &TensorSpec) -> &[Dim] {
    spec.dims.get(1..).unwrap_or_default()
}

/// Returns true if a row has exactly one element.
pub(super) fn is_one_element(spec: &TensorSpec) -> bool {
    !spec.dims.is_empty() && row(spec).iter().all(|dim| *dim == Dim::Fixed(1))
}

/// Returns the number of elements of a row with one dimension; `None` if it is open.
pub(super) fn width(spec: &TensorSpec) -> Option<Option<usize>> {
    match row(spec) {
        [Dim::Fixed(width)] => Some(Some(*width)),
        [Dim::Dynamic(_)] => Some(None),
        _ => None,
    }
}

/// Returns a list of texts as a value of a setting.
pub(super) fn texts(texts: &[&str]) -> Value {
    texts.iter().copied().map(Value::from).collect()
}
