//! Inputs and outputs that a model declares: names, types and dimensions.

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

/// Declared inputs and outputs of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The inputs, in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// The outputs that are tensors, in the model's order.
    pub outputs: Vec<TensorSpec>,
    /// The names of the outputs that are sequences or maps, which are not supported.
    pub other_outputs: Vec<Arc<str>>,
}

// ===== impl Signature =====

impl Signature {
    /// Returns the length of the batch dimension: `Fixed` if any input fixes it.
    pub fn batch_dim(&self) -> Dim {
        let mut dims = self.inputs.iter().filter_map(|input| input.dims.first());
        let fixed = dims.clone().find(|dim| matches!(dim, Dim::Fixed(_)));
        fixed.or_else(|| dims.next()).cloned().unwrap_or(Dim::Dynamic(None))
    }

    /// Returns true if every dimension but the batch is fixed, so that the rows of all requests have the same shape.
    pub fn has_fixed_rows(&self) -> bool {
        self.inputs.iter().all(|input| input.dims.iter().skip(1).all(|dim| matches!(dim, Dim::Fixed(_))))
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

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(length) => length.fmt(f),
            Dim::Dynamic(Some(name)) => f.write_str(name),
            Dim::Dynamic(None) => f.write_str("?"),
        }
    }
}
