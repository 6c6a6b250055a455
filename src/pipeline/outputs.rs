//! Access of postprocessors to model outputs: finds an output, and refuses values that cannot be in a response.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::json_schema::{nullable, or_non_finite_text};
use super::prediction::Prediction;
use crate::error::{Error, Result, SetupError};
use crate::tensor::{DType, Data, Signature, Tensor, Tensors};

/// Returns a hint for a missing output if the model has outputs that are not tensors; empty if all are tensors.
pub(super) fn hint_of_other_outputs(signature: &Signature) -> String {
    match &*signature.other_outputs {
        [] => String::new(),
        names => format!(
            "; its output {} is not a tensor but a sequence or a map: export the model with tensors as outputs, or, for a \
             sequence of tensors, set rows = \"none\" below [model]",
            names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
        ),
    }
}

/// Returns the name of a declared output, or an error.
pub(super) fn declared_output(signature: &Signature, name: &str) -> Result<Arc<str>, SetupError> {
    signature.output(name).map(|output| Arc::clone(&output.name)).ok_or_else(|| {
        let names: Vec<&str> = signature.outputs.iter().map(|output| &*output.name).collect();
        let (names, hint) = (names.join(", "), hint_of_other_outputs(signature));
        SetupError::Config(format!("the model has no tensor output {name:?}; it has: {names}{hint}"))
    })
}

/// Returns the output with this name. Fails if it is missing, because it does not have one row per instance.
pub(super) fn output<'a>(outputs: &'a Tensors, name: &str) -> Result<&'a Tensor> {
    outputs.get(name).ok_or_else(|| Error::UnusableOutput {
        output: name.to_owned(),
        problem: format!(
            "does not have one row per instance; name other outputs in model.toml, set rows = \"none\" below \
             [model.outputs.{name:?}] if the output as a whole belongs to one instance, or export the model with the batch \
             dimension first in its outputs"
        ),
    })
}

/// Returns the error for an output whose shape a stage cannot read.
pub(super) fn unexpected_shape(name: &str, tensor: &Tensor, expected: &str) -> Error {
    let problem = format!("has the shape {:?}, but {expected} was expected", tensor.shape());
    Error::UnusableOutput { output: name.to_owned(), problem }
}

/// Treatment of NaN and infinity in an output (`non_finite`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum NonFinite {
    /// The request is answered with an error: in most models such a value is a fault.
    #[default]
    Error,
    /// `null` in the place of the number: the model has them on purpose, such as the logarithm of a probability of 0.
    Null,
    /// The strings "NaN", "Infinity" and "-Infinity" in the place of the number.
    Text,
}

impl NonFinite {
    /// Refuses NaN and infinity, unless they are answered as `null` or as text.
    pub(super) fn check(self, name: &str, tensor: &Tensor) -> Result<()> {
        match self {
            NonFinite::Error => refuse_non_finite(name, tensor),
            NonFinite::Null | NonFinite::Text => Ok(()),
        }
    }

    /// Returns the schema of a number that may be NaN or infinite, from the schema of finite ones.
    pub(super) fn schema(self, number: Value) -> Value {
        match self {
            NonFinite::Error => number,
            NonFinite::Null => nullable(number),
            NonFinite::Text => or_non_finite_text(&number),
        }
    }

    /// Marks a prediction if NaN and infinity are answered as text.
    pub(super) fn mark(self, prediction: Prediction) -> Prediction {
        match self {
            NonFinite::Text => Prediction::NonFiniteAsText(Box::new(prediction)),
            NonFinite::Error | NonFinite::Null => prediction,
        }
    }
}

/// Refuses outputs with NaN or infinity, which JSON cannot represent and which are meaningless as predictions.
pub(super) fn refuse_non_finite(name: &str, tensor: &Tensor) -> Result<()> {
    match tensor.data().first_non_finite() {
        Some(element) => {
            Err(Error::NonFiniteOutput { output: name.to_owned(), instance: element / tensor.row_len().max(1) })
        }
        None => Ok(()),
    }
}

/// Tolerance for probabilities slightly outside of \[0, 1\] because of rounding.
pub(super) const ROUNDING: f32 = 1e-3;

/// Refuses scores that are declared as probabilities but are not between 0 and 1.
pub(super) fn refuse_improbable(name: &str, scores: &[f32]) -> Result<()> {
    match scores.iter().find(|score| !(-ROUNDING..=1.0 + ROUNDING).contains(*score)) {
        Some(bad) => Err(Error::UnusableOutput {
            output: name.to_owned(),
            problem: format!("is declared as probabilities but has the value {bad}; set scores = \"logits\""),
        }),
        None => Ok(()),
    }
}

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16)
}

/// Converts the elements to double precision by their decimal notation: 0.1 in single precision becomes 0.1, not
/// 0.10000000149011612. `None` if they are not floating-point numbers.
pub(super) fn as_written(tensor: &Tensor) -> Option<Vec<f64>> {
    match tensor.data() {
        Data::F64(values) => Some(values.clone()),
        _ => tensor.to_f32()?.iter().map(|value| value.to_string().parse().ok()).collect(),
    }
}

/// Returns the names of the floating-point outputs.
pub(super) fn float_outputs(signature: &Signature) -> impl Iterator<Item = &Arc<str>> {
    signature.outputs.iter().filter(|output| is_float(output.dtype)).map(|output| &output.name)
}

/// Returns the output with this name, or the only floating-point output; `what` names its content, for messages.
pub(super) fn float_output(signature: &Signature, name: Option<&str>, what: &str) -> Result<Arc<str>, SetupError> {
    if let Some(name) = name {
        let name = declared_output(signature, name)?;
        let dtype = signature.output(&name).map(|output| output.dtype);
        return match dtype {
            Some(dtype) if !is_float(dtype) => {
                Err(SetupError::Config(format!("output: {name:?} is {dtype}; the {what} are floating-point numbers")))
            }
            _ => Ok(name),
        };
    }
    let floats: Vec<&Arc<str>> = float_outputs(signature).collect();
    match &*floats {
        [only] => Ok(Arc::clone(only)),
        [] => {
            let hint = hint_of_other_outputs(signature);
            Err(SetupError::Config(format!("output: the model has no floating-point tensor output{hint}")))
        }
        several => Err(SetupError::Config(format!(
            "output: name the one with the {what}; the model's floating-point outputs are {}",
            several.iter().map(|name| &***name).collect::<Vec<_>>().join(", ")
        ))),
    }
}
