//! Sets of named tensors: joins rows to a batch, and takes rows out of a batch.

use std::ops::Range;
use std::sync::Arc;

use super::Tensor;

/// Set of named tensors, in the order of a signature.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tensors(Vec<(Arc<str>, Tensor)>);

/// Values that pad short rows to the length of the longest row of a batch, one value for each tensor in order. The
/// length of a row is the length of its first dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padding(pub Vec<i64>);

// ===== impl Tensors =====

impl Tensors {
    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the tensor with this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.iter().find_map(|(known, tensor)| (&**known == name).then_some(tensor))
    }

    /// Returns the tensor at this position in the signature.
    pub fn at(&self, index: usize) -> Option<&Tensor> {
        self.0.get(index).map(|(_, tensor)| tensor)
    }

    /// Iterates over names and tensors, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Tensor)> + Clone {
        self.0.iter().map(|(name, tensor)| (name, tensor))
    }

    /// Keeps only the tensors for whose names `wanted` returns true.
    pub fn keep(mut self, mut wanted: impl FnMut(&str) -> bool) -> Tensors {
        self.0.retain(|(name, _)| wanted(name));
        self
    }

    /// Keeps only the tensors that have this many rows.
    pub fn keep_rows(mut self, rows: usize) -> Tensors {
        self.0.retain(|(_, tensor)| tensor.rows() == rows);
        self
    }

    /// Number of rows of the first tensor; 1 if there are no tensors, which are the inputs of one call of a model without
    /// inputs.
    pub fn rows(&self) -> usize {
        self.0.first().map_or(1, |(_, tensor)| tensor.rows())
    }

    /// Number of elements of one row, of all tensors together. Those of a sequence are the elements of its items.
    pub fn row_elements(&self) -> usize {
        self.iter().map(|(_, tensor)| tensor.row_elements()).sum()
    }

    /// Returns a copy of a range of rows of every tensor.
    pub fn slice_rows(&self, rows: Range<usize>) -> Tensors {
        self.iter().map(|(name, tensor)| (Arc::clone(name), tensor.slice_rows(rows.clone()))).collect()
    }

    /// Stacks the rows of several sets of tensors; `None` if the sets do not match in names, types and row shapes.
    pub fn stack(parts: &[&Tensors]) -> Option<Tensors> {
        Tensors::gather(&parts.iter().map(|part| (*part, 0..part.rows())).collect::<Vec<_>>())
    }

    /// Stacks ranges of rows of several sets of tensors; `None` if the sets do not match in names, types and row
    /// shapes, or lack one of these rows.
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

    /// Stacks rows like [`Tensors::gather`], but pads short rows to the length of the longest row. Padded rows have one
    /// dimension.
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

    /// Returns the length of the first tensor's rows along their first dimension; 1 if a row is a single element.
    pub fn row_length(&self) -> usize {
        self.at(0).and_then(|tensor| tensor.row_shape().first().copied()).unwrap_or(1)
    }

    /// Cuts rows to a length, in the tensors for whose names `is_long` returns true.
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

impl IntoIterator for Tensors {
    type Item = (Arc<str>, Tensor);
    type IntoIter = std::vec::IntoIter<(Arc<str>, Tensor)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<(Arc<str>, Tensor)> for Tensors {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Tensor)>>(iter: I) -> Self {
        Tensors(iter.into_iter().collect())
    }
}
