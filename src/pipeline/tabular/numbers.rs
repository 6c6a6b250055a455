//! Conversion of the numbers of a table, and writing of them to tensors.

use serde::Deserialize;

use crate::tensor::{Data, bf16_of, f16_of};

/// Conversion of the numbers of a column.
#[derive(Debug)]
pub(crate) struct Number {
    /// Replacement of a missing value; NaN if the model handles missing values itself.
    pub(crate) missing: Option<Quantity>,
    pub(crate) clip: Option<[f64; 2]>,
    pub(crate) log1p: bool,
    pub(crate) standardise: Option<Standardise>,
}

/// The setting `standardise` of a column of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Standardise {
    pub(crate) mean: f64,
    pub(crate) deviation: f64,
}

/// A number before it becomes an element of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Quantity {
    /// An exact whole number.
    Integer(i128),
    /// Any number, in double precision.
    Float(f64),
}

impl Number {
    /// Returns true if the conversion does not change any number.
    pub(crate) fn leaves_as_is(&self) -> bool {
        self.clip.is_none() && !self.log1p && self.standardise.is_none()
    }

    /// Returns the number after clip, logarithm and standardisation, in this order. Steps that are not configured are
    /// skipped. `None` if the logarithm is undefined. A whole number that is only clipped stays exact.
    pub(crate) fn transformed(&self, value: Quantity) -> Option<Quantity> {
        if let (Quantity::Integer(value), false, None) = (value, self.log1p, self.standardise) {
            return Some(match self.clip {
                Some([least, _]) if value < least.ceil() as i128 => Quantity::Float(least),
                Some([_, most]) if value > most.floor() as i128 => Quantity::Float(most),
                _ => Quantity::Integer(value),
            });
        }
        let value = value.as_f64();
        let value = self.clip.map_or(value, |[least, most]| value.clamp(least, most));
        if self.log1p && value <= -1.0 {
            return None;
        }
        let value = if self.log1p { value.ln_1p() } else { value };
        Some(Quantity::Float(self.standardise.map_or(value, |by| (value - by.mean) / by.deviation)))
    }
}

impl Quantity {
    pub(crate) fn as_f64(self) -> f64 {
        match self {
            Quantity::Integer(value) => value as f64,
            Quantity::Float(value) => value,
        }
    }

    /// Returns the number as an integer, if it is a whole number.
    fn as_integer(self) -> Option<i128> {
        match self {
            Quantity::Integer(value) => Some(value),
            // The cast is exact within ±2^126, which includes all tensor types.
            Quantity::Float(value) if value.fract() == 0.0 && value.abs() < 2f64.powi(126) => Some(value as i128),
            Quantity::Float(_) => None,
        }
    }
}

/// Writes a number in its shortest form: 1e300, not three hundred zeros.
impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Quantity::Integer(value) => write!(f, "{value}"),
            Quantity::Float(value) => write!(f, "{value:?}"),
        }
    }
}

/// Writes a number to a position of a tensor. Returns false if the tensor's type cannot represent the number.
pub(crate) fn put(data: &mut Data, index: usize, value: Quantity) -> bool {
    macro_rules! whole {
        ($values:expr) => {{
            let fits = value.as_integer().and_then(|value| value.try_into().ok());
            fits.map(|value| $values[index] = value).is_some()
        }};
    }
    match data {
        Data::F32(values) => {
            values[index] = value.as_f64() as f32;
            values[index].is_finite() || !value.as_f64().is_finite()
        }
        Data::F64(values) => {
            values[index] = value.as_f64();
            true
        }
        Data::F16(values) => {
            values[index] = f16_of(value.as_f64());
            values[index].is_finite() || !value.as_f64().is_finite()
        }
        Data::BF16(values) => {
            values[index] = bf16_of(value.as_f64());
            values[index].is_finite() || !value.as_f64().is_finite()
        }
        Data::I8(values) => whole!(values),
        Data::I16(values) => whole!(values),
        Data::I32(values) => whole!(values),
        Data::I64(values) => whole!(values),
        Data::U8(values) => whole!(values),
        Data::U16(values) => whole!(values),
        Data::U32(values) => whole!(values),
        Data::U64(values) => whole!(values),
        Data::Bool(values) => {
            values[index] = value.as_f64() != 0.0;
            value.as_f64() == 0.0 || value.as_f64() == 1.0
        }
        Data::Text(_) | Data::Sequence(_) => false,
    }
}
