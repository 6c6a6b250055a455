//! Element types of tensors, and the buffers that hold the elements.

use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use super::Tensor;

/// A Rust type that can be an element of a tensor.
pub trait Element: Clone + Send + Sync + 'static {
    /// Tag of the element type.
    const DTYPE: DType;

    /// Wraps a vector of elements as a buffer.
    fn into_data(values: Vec<Self>) -> Data;

    /// Returns the elements of a buffer, if they are of this type.
    fn from_data(data: &Data) -> Option<&[Self]>;
}

/// Declares every element type once, with its tag, its ONNX name and the buffer that holds it.
macro_rules! elements {
    ($($variant:ident($type:ty) = $name:literal),* $(,)?) => {
        /// Tag of the element type of a tensor.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum DType { $(#[doc = concat!("`", $name, "`")] $variant),* }

        /// Buffer with the elements of a tensor, row-major.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Data { $(#[doc = concat!("Elements of type `", $name, "`.")] $variant(Vec<$type>)),* }

        impl DType {
            /// Returns the name of the type in messages and in `GET /v1/models/{model}`.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name),* }
            }
        }

        $(impl Element for $type {
            const DTYPE: DType = DType::$variant;

            fn into_data(values: Vec<Self>) -> Data {
                Data::$variant(values)
            }

            fn from_data(data: &Data) -> Option<&[Self]> {
                match data { Data::$variant(values) => Some(values), _ => None }
            }
        })*

        /// Evaluates an expression in which `$values` is the vector in a buffer of any element type.
        #[macro_export]
        #[doc(hidden)]
        macro_rules! for_each_element_type {
            ($data:expr, $values:ident => $body:expr) => {
                match $data { $($crate::tensor::Data::$variant($values) => $body),* }
            };
        }

        /// Evaluates an expression in which `$T` is the Rust type that belongs to a tag.
        #[macro_export]
        #[doc(hidden)]
        macro_rules! with_element_type {
            ($dtype:expr, $T:ident => $body:expr) => {
                match $dtype { $($crate::tensor::DType::$variant => { type $T = $type; $body }),* }
            };
        }
    };
}

elements! {
    F32(f32) = "float32",
    F64(f64) = "float64",
    F16(half::f16) = "float16",
    BF16(half::bf16) = "bfloat16",
    I8(i8) = "int8",
    I16(i16) = "int16",
    I32(i32) = "int32",
    I64(i64) = "int64",
    U8(u8) = "uint8",
    U16(u16) = "uint16",
    U32(u32) = "uint32",
    U64(u64) = "uint64",
    Bool(bool) = "bool",
    Text(String) = "string",
    Sequence(Vec<Tensor>) = "sequence",
}

pub use {for_each_element_type, with_element_type};

// ===== impl Data =====

impl Data {
    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        for_each_element_type!(self, values => values.len())
    }

    /// Returns true if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the tag of the element type.
    pub fn dtype(&self) -> DType {
        fn tag<T: Element>(_: &[T]) -> DType {
            T::DTYPE
        }
        for_each_element_type!(self, values => tag(values))
    }

    /// Returns the index of the first element that is infinite.
    pub fn first_infinite(&self) -> Option<usize> {
        match self {
            Data::F32(values) => values.iter().position(|v| v.is_infinite()),
            Data::F64(values) => values.iter().position(|v| v.is_infinite()),
            Data::F16(values) => values.iter().position(|v: &f16| v.is_infinite()),
            Data::BF16(values) => values.iter().position(|v: &bf16| v.is_infinite()),
            _ => None,
        }
    }

    /// Returns the index of the first element that is NaN or infinite, or a sequence with such an element.
    pub fn first_non_finite(&self) -> Option<usize> {
        match self {
            Data::F32(values) => values.iter().position(|v| !v.is_finite()),
            Data::F64(values) => values.iter().position(|v| !v.is_finite()),
            Data::F16(values) => values.iter().position(|v: &f16| !v.is_finite()),
            Data::BF16(values) => values.iter().position(|v: &bf16| !v.is_finite()),
            Data::Sequence(values) => {
                values.iter().position(|items| items.iter().any(|item| item.data().first_non_finite().is_some()))
            }
            _ => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
