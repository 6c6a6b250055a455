//! Checks of properties that must hold when any request names tensors. For the fuzz targets of `fuzz/`.

use std::num::NonZeroUsize;

use super::input::{Input, NamedRequest};
use super::named_tensors::inputs_of;
use super::pipeline_columns::{decoded, rows_of};
use crate::error::{Error, Result};
use crate::pipeline::{InstanceForm, instances_of};
use crate::tensor::{DType, Dim, RowDimension, Signature, TensorSpec};

/// Maximum length of a message, in bytes.
const MAX_PROBLEM: usize = 2_000;
/// Maximum number of rows.
const MAX_ROWS: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Reads a request for a model with inputs of several types, and as columns of several forms.
pub(crate) fn named(input: Input<'_>) -> Result<()> {
    let Input::Named(request) = input else { return Ok(()) };
    let NamedRequest { inputs, memory, .. } = request;
    let signature = signature();
    // The names decide which model it is for, so that short requests reach far.
    let asked = signature.inputs.iter().filter(|spec| inputs.iter().any(|input| *input.name == *spec.name)).cloned();
    let asked = Signature { inputs: asked.collect(), ..signature };
    if inputs.iter().any(|input| input.name == "image") {
        let form = InstanceForm::file("image");
        let columns = decoded(inputs, &form)?;
        let instances = instances_of(&rows_of(&columns), Some(&form), MAX_ROWS, memory)?;
        let rows: Vec<serde::de::IgnoredAny> = serde_json::from_str(instances.json().get()).map_err(Error::internal)?;
        assert!((1..=MAX_ROWS.get()).contains(&rows.len()));
        return Ok(());
    }
    let read = inputs_of(inputs, &asked, MAX_ROWS)?;
    assert_eq!(read.len(), asked.inputs.len());
    for ((name, tensor), spec) in read.iter().zip(&asked.inputs) {
        assert_eq!((name, tensor.dtype(), tensor.shape().len()), (&spec.name, spec.dtype, spec.dims.len()));
        assert!((1..=MAX_ROWS.get()).contains(&tensor.rows()));
        assert_eq!(tensor.data().len(), tensor.shape().iter().product::<usize>());
    }
    Ok(())
}

/// Panics if an error is not the caller's, or its message is long.
pub(crate) fn refused(error: &Error) {
    let message = error.to_string();
    assert!(
        matches!(error, Error::InvalidInput(_) | Error::BodyMemoryFull { .. }),
        "not the caller's fault: {error:?}"
    );
    assert!(message.len() <= MAX_PROBLEM, "a message of {} bytes", message.len());
}

/// Inputs of a model, of every type, with rows in the first and in the second dimension, and a scalar.
fn signature() -> Signature {
    let spec = |name: &str, dtype, dims: &[Option<usize>]| TensorSpec {
        name: name.into(),
        dtype,
        dims: dims.iter().map(|length| length.map_or(Dim::Dynamic(None), Dim::Fixed)).collect(),
    };
    Signature {
        inputs: vec![
            spec("x", DType::F32, &[None, Some(2)]),
            spec("d", DType::F64, &[None, None]),
            spec("h", DType::F16, &[None]),
            spec("b", DType::BF16, &[None]),
            spec("i", DType::I64, &[None, None]),
            spec("u", DType::U8, &[None]),
            spec("t", DType::Text, &[None, None]),
            spec("f", DType::Bool, &[None]),
            spec("k", DType::I32, &[Some(1)]),
        ],
        row_dimensions: [("i".into(), RowDimension::At(1)), ("k".into(), RowDimension::None)].into_iter().collect(),
        ..Signature::default()
    }
}
