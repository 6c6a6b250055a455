//! Conversions between Leeway's tensors and signatures, and the values and types of ONNX Runtime.

use std::sync::Arc;

use ort::session::SessionInputValue;
use ort::value::{DynTensor, DynTensorValueType, DynValue, Outlet, TensorElementType, TensorRef, ValueType};

use crate::error::{Error, Result, SetupError};
use crate::model::row_layout::Declared;
use crate::tensor::{DType, Data, Dim, Element, Shape, Tensor, TensorSpec};

/// Conversions between Leeway's tensors and ONNX Runtime's values, for each element type: Leeway's tag, the Rust type,
/// ONNX Runtime's tag. Inputs borrow Leeway's buffers; only strings are copied.
macro_rules! conversions {
    ($($ours:ident($type:ty) $theirs:ident),* $(,)?) => {
        fn dtype(theirs: TensorElementType) -> Option<DType> {
            match theirs {
                $(TensorElementType::$theirs => Some(DType::$ours),)*
                TensorElementType::String => Some(DType::Text),
                _ => None,
            }
        }

        pub(super) fn to_value<'a>(shape: &'a [usize], data: &'a Data) -> ort::Result<SessionInputValue<'a>> {
            Ok(match data {
                $(Data::$ours(values) => TensorRef::from_array_view((shape, values.as_slice()))?.into(),)*
                Data::Text(values) => ort::value::Tensor::from_string_array((shape, values.as_slice()))?.into(),
                Data::Sequence(values) => to_sequence(values.first().map(Vec::as_slice).unwrap_or_default())?.into(),
            })
        }

        /// Copies an item of a sequence.
        fn to_item(item: &Tensor) -> ort::Result<DynTensor> {
            Ok(match item.data() {
                $(Data::$ours(values) => ort::value::Tensor::from_array((item.row_shape(), values.clone()))?.upcast(),)*
                Data::Text(values) => {
                    ort::value::Tensor::from_string_array((item.row_shape(), values.as_slice()))?.upcast()
                }
                Data::Sequence(_) => return Err(ort::Error::new("an item of a sequence is a tensor")),
            })
        }

        /// Copies an output; `None` if its elements have an unsupported type.
        pub(super) fn from_value(value: &DynValue) -> Result<Option<(Shape, Data)>> {
            fn copy<T: ort::value::PrimitiveTensorElementType + Element>(
                value: &DynValue,
            ) -> ort::Result<(Vec<usize>, Data)> {
                let (shape, values) = value.try_extract_tensor::<T>()?;
                Ok((lengths(shape), T::into_data(values.to_vec())))
            }
            let ty = match value.dtype() {
                ValueType::Tensor { ty, .. } => ty,
                ValueType::Sequence(items) if element_type(items).is_ok() => return from_sequence(value).map(Some),
                _ => return Ok(None),
            };
            match ty {
                $(TensorElementType::$theirs => copy::<$type>(value),)*
                TensorElementType::String => value
                    .try_extract_strings()
                    .map(|(shape, values)| (lengths(shape), Data::Text(values))),
                _ => return Ok(None),
            }
            .map(Some)
            .map_err(|error| run_failed(&error))
        }
    };
}

conversions! {
    F32(f32) Float32, F64(f64) Float64, F16(half::f16) Float16, BF16(half::bf16) Bfloat16,
    I8(i8) Int8, I16(i16) Int16, I32(i32) Int32, I64(i64) Int64,
    U8(u8) Uint8, U16(u16) Uint16, U32(u32) Uint32, U64(u64) Uint64,
    Bool(bool) Bool,
}

fn to_sequence(items: &[Tensor]) -> ort::Result<ort::value::Sequence<DynTensorValueType>> {
    if items.is_empty() {
        // An empty sequence has no type. Requests with one are refused before; made-up inputs have some.
        return Err(ort::Error::new("ONNX Runtime takes no empty sequence as an input"));
    }
    ort::value::Sequence::new(items.iter().map(to_item).collect::<ort::Result<Vec<_>>>()?)
}

/// Copies a sequence of tensors: a scalar whose element is the sequence.
fn from_sequence(value: &DynValue) -> Result<(Shape, Data)> {
    let mut items = Vec::new();
    for item in value.try_extract_sequence::<DynTensorValueType>().map_err(|error| run_failed(&error))? {
        if let Some((mut shape, data)) = from_value(&item.into_dyn())? {
            shape.insert(0, 1);
            items.push(Tensor::new(shape, data)?);
        }
    }
    Ok((Vec::new(), Data::Sequence(vec![items])))
}

fn lengths(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(0)).collect()
}

// ===== signatures =====

/// Returns the inputs and outputs as the model's file declares them.
pub(super) fn declared(session: &ort::session::Session) -> Result<Declared, SetupError> {
    let mut declared = Declared::default();
    for outlet in session.inputs() {
        let spec = tensor_spec(outlet).map_err(|problem| {
            SetupError::Repository(format!("the model's input {:?} {problem}, which is not supported", outlet.name()))
        })?;
        if let ValueType::Sequence(items) = outlet.dtype() {
            declared.sequences.extend(element_type(items).ok().map(|dtype| (Arc::clone(&spec.name), dtype)));
        }
        declared.inputs.push(spec);
    }
    for outlet in session.outputs() {
        match tensor_spec(outlet) {
            Ok(spec) => declared.outputs.push(spec),
            Err(_) => declared.other_outputs.push(outlet.name().into()),
        }
    }
    Ok(declared)
}

fn tensor_spec(outlet: &Outlet) -> Result<TensorSpec, String> {
    let name = outlet.name().into();
    let (shape, dimension_symbols) = match outlet.dtype() {
        ValueType::Tensor { shape, dimension_symbols, .. } => (shape, dimension_symbols),
        ValueType::Sequence(items) => {
            element_type(items).map_err(|problem| format!("is a sequence, and an item {problem}"))?;
            return Ok(TensorSpec { name, dtype: DType::Sequence, dims: Vec::new() });
        }
        _ => return Err("is not a tensor".to_owned()),
    };
    let dim = |(index, &length): (usize, &i64)| match usize::try_from(length) {
        Ok(length) => Dim::Fixed(length),
        Err(_) => Dim::Dynamic(dimension_symbols.get(index).filter(|symbol| !symbol.is_empty()).cloned()),
    };
    let dims = shape.iter().enumerate().map(dim).collect();
    Ok(TensorSpec { name, dtype: element_type(outlet.dtype())?, dims })
}

/// Returns the type of the elements of a tensor.
fn element_type(of: &ValueType) -> Result<DType, String> {
    match of {
        ValueType::Tensor { ty, .. } => dtype(*ty).ok_or_else(|| format!("has elements of type {ty}")),
        _ => Err("is not a tensor".to_owned()),
    }
}

pub(super) fn run_failed(error: &ort::Error) -> Error {
    Error::ModelFailed { detail: error.to_string() }
}
