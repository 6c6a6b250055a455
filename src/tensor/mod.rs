//! Tensors that pass between the stages, and the signature that a model declares for them.
//!
//! Tensors are plain row-major buffers with a shape. The first dimension is always the batch: one *row* per instance.
//! A sequence of tensors is an element of a tensor, too. Each item of a sequence has one row: the whole item.
//! This module does not depend on ONNX Runtime or JSON.

#![warn(missing_docs)]

mod element;
mod halves;
mod raw_bytes;
mod signature;
mod tensors;

use std::ops::Range;

pub use self::element::{DType, Data, Element, for_each_element_type, with_element_type};
pub use self::halves::{bf16_of, f16_of};
pub use self::raw_bytes::{RawBytes, raw_texts};
pub use self::signature::{Dim, RowDimension, Signature, TensorSpec};
pub use self::tensors::{Padding, Tensors};
use crate::error::{Error, Result};

/// Lengths of the dimensions of a tensor. The first is the number of rows.
pub type Shape = Vec<usize>;

/// A tensor: a shape and the elements that fill it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Shape,
    data: Data,
}

impl Tensor {
    /// Creates a tensor of `shape`. Fails if the elements do not fill it exactly, or if it does not have a batch
    /// dimension.
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

    /// Returns the lengths of the dimensions, the batch first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the lengths of the dimensions of one row.
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

    /// Number of elements of one row, or of the items of its sequences.
    fn row_elements(&self) -> usize {
        match &self.data {
            Data::Sequence(sequences) => {
                let elements = |items: &Vec<Tensor>| items.iter().map(|item| item.data.len()).sum();
                sequences.iter().map(elements).max().unwrap_or(0)
            }
            _ => self.row_len(),
        }
    }

    /// Returns the buffer with the elements.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// Returns the tag of the element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Takes the tensor apart.
    pub fn into_parts(self) -> (Shape, Data) {
        (self.shape, self.data)
    }

    /// Returns the elements as a slice, if they are of type `T`.
    pub fn values<T: Element>(&self) -> Option<&[T]> {
        T::from_data(&self.data)
    }

    /// Returns the elements as `f32`, if they are floating-point numbers; borrowed if their type is `f32` already.
    pub fn to_f32(&self) -> Option<std::borrow::Cow<'_, [f32]>> {
        match &self.data {
            Data::F32(values) => Some(values.into()),
            Data::F64(values) => Some(values.iter().map(|&v| v as f32).collect()),
            Data::F16(values) => Some(values.iter().map(|v| v.to_f32()).collect()),
            Data::BF16(values) => Some(values.iter().map(|v| v.to_f32()).collect()),
            _ => None,
        }
    }

    /// Returns the only element of the tensor, if there is exactly one and it is a number.
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
            Data::Bool(_) | Data::Text(_) | Data::Sequence(_) => None,
            Data::F32(_) | Data::F16(_) | Data::BF16(_) => self.to_f32()?.first().map(|&v| v.into()),
        }
    }

    /// Turns the whole tensor into a tensor of one row.
    pub fn into_row(mut self) -> Tensor {
        self.shape.insert(0, 1);
        self
    }

    /// Moves the dimension with this index to the front. `None` if the tensor does not have it.
    ///
    /// ```
    /// use leeway::tensor::{Data, Tensor};
    /// let columns = Tensor::new(vec![2, 3], Data::I32(vec![1, 2, 3, 4, 5, 6])).unwrap();
    /// let rows = columns.clone().with_dimension_first(1).unwrap();
    /// assert_eq!(rows, Tensor::new(vec![3, 2], Data::I32(vec![1, 4, 2, 5, 3, 6])).unwrap());
    /// assert_eq!(rows.with_first_dimension_at(1), Some(columns));
    /// ```
    pub fn with_dimension_first(self, index: usize) -> Option<Tensor> {
        if index == 0 {
            return Some(self);
        }
        let (&length, inner) = (self.shape.get(index)?, self.shape[index + 1..].iter().product());
        let outer = self.shape[..index].iter().product();
        let mut shape = self.shape;
        shape[..=index].rotate_right(1);
        Some(Tensor { shape, data: with_blocks_swapped(&self.data, outer, length, inner) })
    }

    /// Moves the first dimension behind `index` others. `None` if the tensor has too few.
    pub fn with_first_dimension_at(&self, index: usize) -> Option<Tensor> {
        let inner = self.shape.get(index + 1..)?.iter().product();
        let (length, outer) = (self.shape[0], self.shape[1..=index].iter().product());
        let mut shape = self.shape.clone();
        shape[..=index].rotate_left(1);
        Some(Tensor { shape, data: with_blocks_swapped(&self.data, length, outer, inner) })
    }

    /// Returns a copy of a range of rows.
    pub fn slice_rows(&self, rows: Range<usize>) -> Tensor {
        let elements = rows.start * self.row_len()..rows.end * self.row_len();
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        let data = for_each_element_type!(&self.data, values => Element::into_data(values[elements].to_vec()));
        Tensor { shape, data }
    }

    /// Pads rows to a length with the number `with`. `None` if the rows are longer, empty or not one-dimensional, or if
    /// their elements cannot be padded with a whole number.
    pub(super) fn lengthened(&self, length: usize, with: i64) -> Option<Tensor> {
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

    /// Cuts rows to at most this length along their first dimension.
    pub(super) fn with_row_length(&self, length: usize) -> Tensor {
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

    /// Stacks ranges of rows of several tensors; `None` if the tensors differ in row shape or type, or lack one of
    /// these rows.
    pub(super) fn gather(parts: &[(&Tensor, Range<usize>)]) -> Option<Tensor> {
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

/// Transposes a matrix of `rows` × `columns` blocks of this many elements.
fn with_blocks_swapped(data: &Data, rows: usize, columns: usize, block: usize) -> Data {
    fn swapped<T: Element>(values: &[T], rows: usize, columns: usize, block: usize) -> Data {
        let mut swapped = Vec::with_capacity(values.len());
        for column in 0..columns {
            for row in 0..rows {
                let start = (row * columns + column) * block;
                swapped.extend_from_slice(&values[start..start + block]);
            }
        }
        T::into_data(swapped)
    }
    for_each_element_type!(data, values => swapped(values, rows, columns, block))
}
