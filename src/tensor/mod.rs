//! Tensors as they travel between the stages, and the signature a model declares for them.
//!
//! Plain row-major buffers with a shape. The first dimension is always the batch: one *row* per instance.
//! This room knows neither ONNX Runtime nor JSON.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The lengths of a tensor's dimensions; the first is the number of rows.
pub type Shape = Vec<usize>;

/// A type that can be an element of a tensor.
pub trait Element: Clone + Send + Sync + 'static {
    /// The type's tag.
    const DTYPE: DType;

    /// Wraps a buffer.
    fn into_data(values: Vec<Self>) -> Data;

    /// The buffer, if it has elements of this type.
    fn from_data(data: &Data) -> Option<&[Self]>;
}

/// Declares the element types once: the tag, its ONNX name, the buffer that holds it.
macro_rules! elements {
    ($($variant:ident($type:ty) = $name:literal),* $(,)?) => {
        /// The type of a tensor's elements.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum DType { $(#[doc = concat!("`", $name, "`")] $variant),* }

        /// A tensor's elements, row-major.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Data { $(#[doc = concat!("Elements of type `", $name, "`.")] $variant(Vec<$type>)),* }

        impl DType {
            /// The name in messages and in `GET /v1/models/{model}`.
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

        /// Evaluates an expression with the buffer bound to a name, whatever its element type.
        #[macro_export]
        #[doc(hidden)]
        macro_rules! for_each_element_type {
            ($data:expr, $values:ident => $body:expr) => {
                match $data { $($crate::tensor::Data::$variant($values) => $body),* }
            };
        }

        /// Evaluates an expression with `$T` naming the element type that a tag stands for.
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
}

pub use {for_each_element_type, with_element_type};

/// A shape and the elements that fill it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Shape,
    data: Data,
}

/// Named tensors in the order of a signature.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensors(Vec<(Arc<str>, Tensor)>);

/// Values that short rows are padded with, up to the length of the longest: one for each tensor, in order. The length of a
/// row is that of its first dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padding(pub Vec<i64>);

/// One dimension of a declared tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dim {
    /// Always this long.
    Fixed(usize),
    /// As long as the request makes it; the name, if the model gives one.
    Dynamic(Option<String>),
}

/// A tensor that a model declares as input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// The name.
    pub name: Arc<str>,
    /// The type of the elements.
    pub dtype: DType,
    /// The dimensions, the batch first.
    pub dims: Vec<Dim>,
}

/// Inputs and outputs of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The inputs, in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// The outputs that are tensors, in the model's order.
    pub outputs: Vec<TensorSpec>,
    /// The names of the outputs that are sequences or maps, which nothing here can read.
    pub other_outputs: Vec<Arc<str>>,
}

// ===== impl Data =====

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        for_each_element_type!(self, values => values.len())
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tag of the element type.
    pub fn dtype(&self) -> DType {
        fn tag<T: Element>(_: &[T]) -> DType {
            T::DTYPE
        }
        for_each_element_type!(self, values => tag(values))
    }

    /// The index of the first element that is NaN or infinite.
    pub fn first_non_finite(&self) -> Option<usize> {
        match self {
            Data::F32(values) => values.iter().position(|v| !v.is_finite()),
            Data::F64(values) => values.iter().position(|v| !v.is_finite()),
            Data::F16(values) => values.iter().position(|v: &f16| !v.is_finite()),
            Data::BF16(values) => values.iter().position(|v: &bf16| !v.is_finite()),
            _ => None,
        }
    }
}

// ===== impl Tensor =====

impl Tensor {
    /// A tensor of `shape`; an error if the elements do not fill it exactly, or it has no batch dimension.
    ///
    /// ```
    /// use leeway::tensor::{Data, Tensor};
    /// let tensor = Tensor::new(vec![2, 3], Data::F32(vec![0.0; 6])).unwrap();
    /// assert_eq!((tensor.rows(), tensor.row_len()), (2, 3));
    /// assert!(Tensor::new(vec![2, 3], Data::F32(vec![0.0; 5])).is_err());
    /// ```
    pub fn new(shape: Shape, data: Data) -> Result<Tensor> {
        let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        if elements == Some(data.len()) && !shape.is_empty() {
            Ok(Tensor { shape, data })
        } else {
            Err(Error::internal(format_args!("{} elements do not fill a tensor of shape {shape:?}", data.len())))
        }
    }

    /// The shape, the batch first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The shape of one row.
    pub fn row_shape(&self) -> &[usize] {
        &self.shape[1..]
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Number of elements of one row.
    pub fn row_len(&self) -> usize {
        self.row_shape().iter().product()
    }

    /// The elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// The elements as a slice, if they are of type `T`.
    pub fn values<T: Element>(&self) -> Option<&[T]> {
        T::from_data(&self.data)
    }

    /// The elements as `f32`, if they are floating-point numbers: borrowed where they already are.
    pub fn to_f32(&self) -> Option<std::borrow::Cow<'_, [f32]>> {
        match &self.data {
            Data::F32(values) => Some(values.into()),
            Data::F64(values) => Some(values.iter().map(|&v| v as f32).collect()),
            Data::F16(values) => Some(values.iter().map(|v| v.to_f32()).collect()),
            Data::BF16(values) => Some(values.iter().map(|v| v.to_f32()).collect()),
            _ => None,
        }
    }

    /// The element, if there is one only and it is a number.
    pub fn only_number(&self) -> Option<f64> {
        if self.data.len() != 1 {
            return None;
        }
        match &self.data {
            Data::F64(values) => values.first().copied(),
            Data::I8(values) => values.first().map(|&v| v.into()),
            Data::I16(values) => values.first().map(|&v| v.into()),
            Data::I32(values) => values.first().map(|&v| v.into()),
            Data::I64(values) => values.first().map(|&v| v as f64),
            Data::U8(values) => values.first().map(|&v| v.into()),
            Data::U16(values) => values.first().map(|&v| v.into()),
            Data::U32(values) => values.first().map(|&v| v.into()),
            Data::U64(values) => values.first().map(|&v| v as f64),
            Data::Bool(_) | Data::Text(_) => None,
            Data::F32(_) | Data::F16(_) | Data::BF16(_) => self.to_f32()?.first().map(|&v| v.into()),
        }
    }

    /// The whole tensor as the only row of another one.
    pub fn into_row(mut self) -> Tensor {
        self.shape.insert(0, 1);
        self
    }

    /// A copy of some rows.
    pub fn slice_rows(&self, rows: Range<usize>) -> Tensor {
        let elements = rows.start * self.row_len()..rows.end * self.row_len();
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        let data = for_each_element_type!(&self.data, values => Element::into_data(values[elements].to_vec()));
        Tensor { shape, data }
    }

    /// Rows of one dimension, filled up to a length; `None` if they are longer already, have other dimensions, or hold
    /// something that cannot be filled up with a whole number.
    fn lengthened(&self, length: usize, with: i64) -> Option<Tensor> {
        let &[rows, before] = &*self.shape else { return None };
        fn fill<T: Clone>(values: &[T], before: usize, length: usize, with: T) -> Vec<T> {
            let mut filled = Vec::with_capacity(values.len() / before.max(1) * length);
            for row in values.chunks_exact(before.max(1)) {
                filled.extend_from_slice(row);
                filled.resize(filled.len() + length - before, with.clone());
            }
            filled
        }
        if before > length || before == 0 {
            return None;
        }
        let data = match &self.data {
            Data::I64(values) => Data::I64(fill(values, before, length, with)),
            Data::I32(values) => Data::I32(fill(values, before, length, i32::try_from(with).ok()?)),
            Data::F32(values) => Data::F32(fill(values, before, length, with as f32)),
            _ => return None,
        };
        Some(Tensor { shape: vec![rows, length], data })
    }

    /// Every row cut to a length along its first dimension, if it is longer.
    fn with_row_length(&self, length: usize) -> Tensor {
        let Some(&before) = self.shape.get(1).filter(|before| **before > length) else { return self.clone() };
        let step: usize = self.shape[2..].iter().product();
        let mut shape = self.shape.clone();
        shape[1] = length;
        let data = for_each_element_type!(&self.data, values => {
            let rows = values.chunks_exact((before * step).max(1));
            Element::into_data(rows.flat_map(|row| row[..length * step].iter().cloned()).collect())
        });
        Tensor { shape, data }
    }

    /// Rows of tensors of one row shape and type, one below the other; `None` if they are not of one, or do not have
    /// these rows.
    fn gather(parts: &[(&Tensor, Range<usize>)]) -> Option<Tensor> {
        fn gather<T: Element>(parts: &[(&Tensor, Range<usize>)], row_len: usize) -> Option<Data> {
            let mut all: Vec<T> = Vec::with_capacity(parts.iter().map(|(_, rows)| rows.len() * row_len).sum());
            for (part, rows) in parts {
                all.extend_from_slice(part.values::<T>()?.get(rows.start * row_len..rows.end * row_len)?);
            }
            Some(T::into_data(all))
        }
        let (first, _) = parts.first()?;
        if parts.iter().any(|(part, _)| part.row_shape() != first.row_shape()) {
            return None;
        }
        let row_len = first.row_len();
        let mut shape = first.shape.clone();
        shape[0] = parts.iter().map(|(_, rows)| rows.len()).sum();
        let data = with_element_type!(first.dtype(), T => gather::<T>(parts, row_len)?);
        Some(Tensor { shape, data })
    }
}

// ===== impl Tensors =====

impl Tensors {
    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.iter().find_map(|(known, tensor)| (&**known == name).then_some(tensor))
    }

    /// The tensor at this place in the signature.
    pub fn at(&self, index: usize) -> Option<&Tensor> {
        self.0.get(index).map(|(_, tensor)| tensor)
    }

    /// Names and tensors, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Tensor)> + Clone {
        self.0.iter().map(|(name, tensor)| (name, tensor))
    }

    /// The tensors whose names are wanted.
    pub fn keep(mut self, mut wanted: impl FnMut(&str) -> bool) -> Tensors {
        self.0.retain(|(name, _)| wanted(name));
        self
    }

    /// The tensors that have this many rows.
    pub fn keep_rows(mut self, rows: usize) -> Tensors {
        self.0.retain(|(_, tensor)| tensor.rows() == rows);
        self
    }

    /// Number of rows: that of the first tensor.
    pub fn rows(&self) -> usize {
        self.0.first().map_or(0, |(_, tensor)| tensor.rows())
    }

    /// Number of elements of one row, over all tensors.
    pub fn row_elements(&self) -> usize {
        self.iter().map(|(_, tensor)| tensor.row_len()).sum()
    }

    /// A copy of some rows of every tensor.
    pub fn slice_rows(&self, rows: Range<usize>) -> Tensors {
        self.iter().map(|(name, tensor)| (Arc::clone(name), tensor.slice_rows(rows.clone()))).collect()
    }

    /// Several sets of the same tensors, one below the other; `None` if they do not match in names, types and
    /// row shapes.
    pub fn stack(parts: &[&Tensors]) -> Option<Tensors> {
        Tensors::gather(&parts.iter().map(|part| (*part, 0..part.rows())).collect::<Vec<_>>())
    }

    /// Some rows of several sets of the same tensors, one below the other; `None` if the sets do not match in names,
    /// types and row shapes, or do not have these rows.
    ///
    /// ```
    /// use leeway::tensor::{Data, Tensor, Tensors};
    /// let rows = |values: Vec<f32>| -> Tensors {
    ///     [("x".into(), Tensor::new(vec![values.len()], Data::F32(values)).unwrap())].into_iter().collect()
    /// };
    /// let (one, two) = (rows(vec![1.0, 2.0]), rows(vec![3.0, 4.0, 5.0]));
    /// assert_eq!(Tensors::gather(&[(&one, 1..2), (&two, 0..2)]).unwrap(), rows(vec![2.0, 3.0, 4.0]));
    /// assert_eq!(Tensors::gather(&[(&one, 1..3)]), None);
    /// ```
    pub fn gather(parts: &[(&Tensors, Range<usize>)]) -> Option<Tensors> {
        let column = |name: &Arc<str>| {
            let column = parts.iter().map(|(part, rows)| Some((part.get(name)?, rows.clone())));
            Some((Arc::clone(name), Tensor::gather(&column.collect::<Option<Vec<_>>>()?)?))
        };
        parts.first()?.0.iter().map(|(name, _)| column(name)).collect()
    }

    /// As [`Tensors::gather`], of rows that differ in length: short ones are filled up. Every row has one dimension.
    ///
    /// ```
    /// use leeway::tensor::{Data, Padding, Tensor, Tensors};
    /// let row = |tokens: &[i64]| -> Tensors {
    ///     [("ids".into(), Tensor::new(vec![1, tokens.len()], Data::I64(tokens.to_vec())).unwrap())].into_iter().collect()
    /// };
    /// let (short, long) = (row(&[5]), row(&[6, 7, 8]));
    /// let both = Tensors::gather_padded(&[(&short, 0..1), (&long, 0..1)], &Padding(vec![0])).unwrap();
    /// let both = both.get("ids").unwrap();
    /// assert_eq!((both.shape(), both.values::<i64>().unwrap()), (&[2, 3][..], &[5, 0, 0, 6, 7, 8][..]));
    /// ```
    pub fn gather_padded(parts: &[(&Tensors, Range<usize>)], padding: &Padding) -> Option<Tensors> {
        let length = parts.iter().map(|(part, _)| part.row_length()).max()?;
        if parts.iter().all(|(part, _)| part.row_length() == length) {
            return Tensors::gather(parts);
        }
        let longer: Vec<Tensors> = parts
            .iter()
            .map(|(part, rows)| {
                let tensors = part.slice_rows(rows.clone()).0.into_iter().zip(&padding.0);
                tensors.map(|((name, tensor), &with)| Some((name, tensor.lengthened(length, with)?))).collect()
            })
            .collect::<Option<_>>()?;
        Tensors::stack(&longer.iter().collect::<Vec<_>>())
    }

    /// The length of a row: the first dimension of the first tensor's rows, and 1 if they have none.
    pub fn row_length(&self) -> usize {
        self.at(0).and_then(|tensor| tensor.row_shape().first().copied()).unwrap_or(1)
    }

    /// The same tensors; those of which `is_long` says so with their rows cut to a length.
    pub fn shortened(self, length: usize, is_long: impl Fn(&str) -> bool) -> Tensors {
        let tensors = self.0.into_iter().map(|(name, tensor)| match is_long(&name) {
            true => (name, tensor.with_row_length(length)),
            false => (name, tensor),
        });
        tensors.collect()
    }

    /// Returns true if `other` has the same row shapes, so that the two can go into one batch.
    pub fn stacks_with(&self, other: &Tensors) -> bool {
        self.len() == other.len() && self.0.iter().zip(&other.0).all(|((_, a), (_, b))| a.row_shape() == b.row_shape())
    }
}

impl FromIterator<(Arc<str>, Tensor)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Tensor)>>(iter: I) -> Self {
        Tensors(iter.into_iter().collect())
    }
}

// ===== impl Signature =====

impl Signature {
    /// The length of the batch dimension: `Fixed` if any input fixes it.
    pub fn batch_dim(&self) -> Dim {
        let mut dims = self.inputs.iter().filter_map(|input| input.dims.first());
        let fixed = dims.clone().find(|dim| matches!(dim, Dim::Fixed(_)));
        fixed.or_else(|| dims.next()).cloned().unwrap_or(Dim::Dynamic(None))
    }

    /// Returns true if every dimension but the batch is fixed, so that any request has the one shape there is.
    pub fn has_fixed_rows(&self) -> bool {
        self.inputs.iter().all(|input| input.dims.iter().skip(1).all(|dim| matches!(dim, Dim::Fixed(_))))
    }

    /// The declared output of this name.
    pub fn output(&self, name: &str) -> Option<&TensorSpec> {
        self.outputs.iter().find(|output| &*output.name == name)
    }
}

impl TensorSpec {
    /// Type and dimensions as in `float32[batch, 64]`.
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

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
