//! Inputs and outputs that a model declares: names, types and dimensions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::element::DType;

/// Length of one dimension of a declared tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dim {
    /// The dimension always has this length.
    Fixed(usize),
    /// The request sets the length. Holds the name of the dimension, if the model gives one.
    Dynamic(Option<String>),
}

/// Declaration of an input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name of the input or output.
    pub name: Arc<str>,
    /// Type of the elements.
    pub dtype: DType,
    /// Lengths of the dimensions, the batch first.
    pub dims: Vec<Dim>,
}

/// Dimension of a tensor in the model's file that holds the rows, one for each instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowDimension {
    /// The dimension with this index.
    At(usize),
    /// No dimension: the tensor as a whole belongs to one instance.
    None,
}

/// Inputs and outputs of a model, as requests see them: with the rows in the first dimension, and without inputs that
/// are constants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The inputs, in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// The outputs that are tensors, in the model's order.
    pub outputs: Vec<TensorSpec>,
    /// The names of the outputs that are maps, or sequences beside rows, which are not supported.
    pub other_outputs: Vec<Arc<str>>,
    /// Type of the elements of the inputs that are sequences of tensors.
    pub sequences: BTreeMap<Arc<str>, DType>,
    /// The inputs and outputs whose rows are not the first dimension in the model's file.
    pub row_dimensions: BTreeMap<Arc<str>, RowDimension>,
}

// ===== impl Signature =====

impl Signature {
    /// Returns the length of the batch dimension: `Fixed` if any input fixes it. It is 1 if there are no inputs, or if an
    /// output as a whole belongs to one row.
    pub fn batch_dim(&self) -> Dim {
        let is_whole = |output: &TensorSpec| self.row_dimensions.get(&output.name) == Some(&RowDimension::None);
        if self.inputs.is_empty() || self.outputs.iter().any(is_whole) {
            return Dim::Fixed(1);
        }
        let mut dims = self.inputs.iter().filter_map(|input| input.dims.first());
        let fixed = dims.clone().find(|dim| matches!(dim, Dim::Fixed(_)));
        fixed.or_else(|| dims.next()).cloned().unwrap_or(Dim::Dynamic(None))
    }

    /// Fixes the number of rows of every run.
    pub fn fix_rows(&mut self, rows: usize) {
        for input in &mut self.inputs {
            if let Some(first) = input.dims.first_mut() {
                *first = Dim::Fixed(rows);
            }
        }
    }

    /// Returns true if an input as a whole belongs to one row.
    pub fn has_whole_inputs(&self) -> bool {
        self.inputs.iter().any(|input| self.row_dimensions.get(&input.name) == Some(&RowDimension::None))
    }

    /// Returns true if every dimension but the batch is fixed, so that the rows of all requests have the same shape.
    pub fn has_fixed_rows(&self) -> bool {
        self.inputs.iter().all(|input| input.dims.iter().skip(1).all(|dim| matches!(dim, Dim::Fixed(_))))
    }

    /// Returns the dimension of the model's file that holds the rows of this input or output.
    pub fn rows_of(&self, name: &str) -> RowDimension {
        self.row_dimensions.get(name).copied().unwrap_or(RowDimension::At(0))
    }

    /// Returns an input or output with its dimensions in the order of the model's file.
    ///
    /// ```
    /// use leeway::tensor::{DType, Dim, RowDimension, Signature, TensorSpec};
    /// let x = TensorSpec { name: "x".into(), dtype: DType::F32, dims: vec![Dim::Dynamic(None), Dim::Fixed(3)] };
    /// let row_dimensions = [("x".into(), RowDimension::At(1))].into_iter().collect();
    /// let signature = Signature { row_dimensions, ..Signature::default() };
    /// assert_eq!(signature.in_the_file(&x).describe(), "float32[3, ?]");
    /// ```
    pub fn in_the_file(&self, spec: &TensorSpec) -> TensorSpec {
        let mut spec = spec.clone();
        match self.rows_of(&spec.name) {
            RowDimension::At(index) => {
                if let Some(moved) = spec.dims.get_mut(..=index) {
                    moved.rotate_left(1);
                }
            }
            RowDimension::None => drop(spec.dims.drain(..1)),
        }
        spec
    }

    /// Returns the declared output with this name.
    pub fn output(&self, name: &str) -> Option<&TensorSpec> {
        self.outputs.iter().find(|output| &*output.name == name)
    }
}

impl TensorSpec {
    /// Describes the type and dimensions of the tensor, as in `float32[batch, 64]`.
    ///
    /// ```
    /// use leeway::tensor::{DType, Dim, TensorSpec};
    /// let spec = TensorSpec { name: "x".into(), dtype: DType::F32, dims: vec![Dim::Dynamic(None), Dim::Fixed(64)] };
    /// assert_eq!(spec.describe(), "float32[?, 64]");
    /// ```
    pub fn describe(&self) -> String {
        let dims: Vec<String> = self.dims.iter().map(Dim::to_string).collect();
        format!("{}[{}]", self.dtype, dims.join(", "))
    }
}

impl fmt::Display for RowDimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowDimension::At(dimension) => dimension.fmt(f),
            RowDimension::None => f.write_str("none"),
        }
    }
}

impl Serialize for RowDimension {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RowDimension::At(dimension) => dimension.serialize(serializer),
            RowDimension::None => serializer.serialize_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for RowDimension {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = RowDimension;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the index of a dimension, such as 0 or 1, or \"none\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RowDimension, E> {
                match text {
                    "none" => Ok(RowDimension::None),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: serde::de::Error>(self, index: u64) -> Result<RowDimension, E> {
                let index = usize::try_from(index).ok();
                index.map(RowDimension::At).ok_or_else(|| E::custom("the index of the dimension is too large"))
            }

            fn visit_i64<E: serde::de::Error>(self, index: i64) -> Result<RowDimension, E> {
                let positive = u64::try_from(index);
                positive
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(index), &self))
                    .and_then(|index| self.visit_u64(index))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(length) => length.fmt(f),
            Dim::Dynamic(Some(name)) => f.write_str(name),
            Dim::Dynamic(None) => f.write_str("?"),
        }
    }
}
