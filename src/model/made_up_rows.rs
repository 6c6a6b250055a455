//! Inputs that are made up from a signature: zeros for a first run, and different rows whose answers are compared.

use std::sync::Arc;

use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::row_shape::RowShape;
use crate::tensor::{
    DType, Data, Dim, Element, Shape, Signature, Tensor, TensorSpec, Tensors, bf16_of, f16_of, with_element_type,
};

/// Lengths that are tried for open dimensions, in this order, where nothing is known about them.
pub(crate) const SIZES: [usize; 5] = [8, 32, 64, 320, 1];

/// Lengths that are tried if the model does not run with any of `SIZES`: windows of audio, images in multiples of 128, a
/// second of audio at 16 kHz.
pub(crate) const RARE_SIZES: [usize; 4] = [512, 640, 1024, 16_000];

/// Maximum number of elements of made-up inputs.
const MAX_ELEMENTS: usize = 1 << 22;

/// Kind of the numbers in made-up rows. The kinds are tried one after the other, until answers are conclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// Numbers around 0, each row of another magnitude (0.1, 1, 10); whole numbers from 0 to 3, 9 or 19.
    Usual,
    /// Numbers from 0 to 1, or ten times that; whole numbers 0 and 1, like masks or small vocabularies.
    Small,
    /// Numbers from 0 to 255, or ten times that; whole numbers from 1 to 19, 49 or 99, like pixels or measurements.
    Large,
}

impl Values {
    /// All kinds, in the order in which they are tried.
    pub(crate) const ALL: [Values; 3] = [Values::Usual, Values::Small, Values::Large];
}

/// Inputs of zeros, `false` or empty strings of this shape, for a warm-up.
pub(crate) fn zeros(signature: &Signature, rows: usize, shape: &RowShape) -> Tensors {
    fn fill<T: Element + Default>(elements: usize) -> Data {
        T::into_data(vec![T::default(); elements])
    }
    of_shape(signature, rows, shape, |spec, elements| with_element_type!(spec.dtype, T => fill::<T>(elements)))
}

/// Returns the names of the open dimensions of rows. A dimension without a name is named by its input and index.
pub(super) fn open_dimensions(signature: &Signature) -> Vec<String> {
    let mut found = Vec::new();
    for spec in &signature.inputs {
        for (place, dim) in spec.dims.iter().enumerate().skip(1) {
            let name = dimension_name(spec, place, dim).filter(|name| !found.contains(name));
            found.extend(name);
        }
    }
    found
}

fn dimension_name(spec: &TensorSpec, place: usize, dim: &Dim) -> Option<String> {
    match dim {
        Dim::Fixed(_) => None,
        Dim::Dynamic(Some(name)) => Some(name.clone()),
        Dim::Dynamic(None) => Some(format!("{}[{place}]", spec.name)),
    }
}

/// Returns the number of elements of a row whose open dimensions have these lengths.
pub(super) fn row_elements(signature: &Signature, length: impl Fn(&String) -> usize) -> usize {
    let elements = |spec: &TensorSpec| {
        let lengths = spec.dims.iter().enumerate().skip(1).map(|(place, dim)| match dim {
            Dim::Fixed(length) => *length,
            Dim::Dynamic(_) => dimension_name(spec, place, dim).map_or(1, |name| length(&name)),
        });
        lengths.fold(1, usize::saturating_mul)
    };
    signature.inputs.iter().map(elements).fold(0, usize::saturating_add)
}

/// Returns the inputs of one row (or of the number of rows that the model fixes) whose open dimensions have these
/// lengths.
pub(super) fn rows_of_lengths(signature: &Signature, length: impl Fn(&String) -> usize) -> Tensors {
    let rows = match signature.batch_dim() {
        Dim::Fixed(rows) => rows.max(1),
        Dim::Dynamic(_) => 1,
    };
    let mut random = Rng::with_seed(0x5ef5);
    let mut input = |spec: &TensorSpec| {
        let lengths = spec.dims.iter().enumerate().map(|(place, dim)| match dim {
            Dim::Fixed(length) => *length,
            Dim::Dynamic(_) if place == 0 => rows,
            Dim::Dynamic(_) => dimension_name(spec, place, dim).map_or(1, |name| length(&name)),
        });
        let shape: Shape = lengths.collect();
        let data = filled(spec.dtype, shape.iter().product(), Values::Small, 1.0, &mut random);
        Tensor::new(shape, data).ok().map(|tensor| (Arc::clone(&spec.name), tensor))
    };
    signature.inputs.iter().filter_map(&mut input).collect()
}

/// Returns different inputs for three runs, with `rows` rows of this shape each. `None` if the inputs would be too
/// large.
pub(crate) fn made_up(signature: &Signature, rows: usize, shape: &RowShape, values: Values) -> Option<[Tensors; 3]> {
    if shape.elements().saturating_mul(rows) > MAX_ELEMENTS {
        return None;
    }
    // Always the same rows, so that the finding is reproducible.
    let mut random = Rng::with_seed(0x5ef5);
    let scales = [0.1, 1.0, 10.0];
    Some(scales.map(|scale| {
        of_shape(signature, rows, shape, |spec, elements| filled(spec.dtype, elements, values, scale, &mut random))
    }))
}

/// Makes made-up inputs an example for people: numbers with one decimal place, and booleans that are all true, because
/// a boolean is usually a mask of the elements that count.
pub(crate) fn for_an_example(inputs: &Tensors) -> Tensors {
    let simple = |data: Data| match data {
        Data::F32(values) => Data::F32(values.into_iter().map(|value| (value * 10.0).round() / 10.0).collect()),
        Data::F64(values) => Data::F64(values.into_iter().map(|value| (value * 10.0).round() / 10.0).collect()),
        Data::Bool(values) => Data::Bool(vec![true; values.len()]),
        other => other,
    };
    let input = |(name, tensor): (&Arc<str>, &Tensor)| {
        let (shape, data) = tensor.clone().into_parts();
        Tensor::new(shape, simple(data)).ok().map(|tensor| (Arc::clone(name), tensor))
    };
    inputs.iter().filter_map(input).collect()
}

fn filled(dtype: DType, elements: usize, values: Values, scale: f64, random: &mut Rng) -> Data {
    let mut number = || match values {
        Values::Usual => (random.f64() * 2.0 - 1.0) * scale,
        Values::Small => random.f64() * scale.max(1.0),
        Values::Large => random.f64() * 255.0 * scale.max(1.0),
    };
    macro_rules! floats {
        ($variant:ident, $from:expr) => {
            return Data::$variant((0..elements).map(|_| $from(number())).collect())
        };
    }
    match dtype {
        DType::F32 => floats!(F32, |value| value as f32),
        DType::F64 => floats!(F64, |value| value),
        DType::F16 => floats!(F16, f16_of),
        DType::BF16 => floats!(BF16, bf16_of),
        _ => {}
    }
    // Each row has a different range: 4 or 20, 10 or 50, 20 or 100.
    let range = if scale < 1.0 {
        4
    } else if scale > 1.0 {
        20
    } else {
        10
    };
    let mut whole = || match values {
        Values::Usual => random.u8(0..range),
        Values::Small => random.u8(0..2),
        Values::Large => random.u8(1..5 * range),
    };
    macro_rules! integers {
        ($($variant:ident($type:ty)),*) => {
            match dtype {
                $(DType::$variant => Data::$variant((0..elements).map(|_| whole() as $type).collect()),)*
                DType::Bool => Data::Bool((0..elements).map(|_| whole() % 2 == 1).collect()),
                DType::Sequence => Data::Sequence(vec![Vec::new(); elements]),
                _ => Data::Text((0..elements).map(|_| format!("w{}", whole())).collect()),
            }
        };
    }
    integers!(I8(i8), I16(i16), I32(i32), I64(i64), U8(u8), U16(u16), U32(u32), U64(u64))
}

fn of_shape(
    signature: &Signature,
    rows: usize,
    row: &RowShape,
    mut fill: impl FnMut(&TensorSpec, usize) -> Data,
) -> Tensors {
    let mut input = |(index, spec): (usize, &TensorSpec)| {
        let rows = if let Some(Dim::Fixed(rows)) = spec.dims.first() { *rows } else { rows };
        let shape: Shape = std::iter::once(rows).chain(row.at(index).iter().copied()).collect();
        let elements = shape.iter().product();
        Tensor::new(shape, fill(spec, elements)).ok().map(|tensor| (Arc::clone(&spec.name), tensor))
    };
    signature.inputs.iter().enumerate().filter_map(&mut input).collect()
}
