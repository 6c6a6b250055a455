//! The distance between two answers to one row, relative to the size of the numbers in the answers to all rows.

use crate::tensor::{Data, Element, Tensor, for_each_element_type};

/// Relation between two runs whose answers to a row are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// Both runs have only this row.
    Alone,
    OfOneShape,
    OfDifferentShapes,
}

/// Usual size of the numbers in the answers to all rows, to which differences are relative.
pub(super) struct Usual {
    /// Median, over the answers, of the largest number in each.
    overall: f64,
    /// The largest number at each position of the answers; empty if the answers differ in shape.
    of_each: Vec<f64>,
}

impl Usual {
    pub(super) fn of(answers: &[&Tensor]) -> Usual {
        let mut sizes: Vec<f64> = answers.iter().map(|answer| largest(answer)).collect();
        sizes.sort_unstable_by(f64::total_cmp);
        let overall = sizes.get(sizes.len().saturating_sub(1) / 2).copied().unwrap_or_default();
        let is_alike = answers.windows(2).all(|pair| pair[0].shape() == pair[1].shape());
        let mut of_each = Vec::new();
        if let (true, Some(first)) = (is_alike, answers.first()) {
            of_each.resize(first.data().len(), 0.0);
            for numbers in answers.iter().filter_map(|answer| floats(answer)) {
                for (size, number) in of_each.iter_mut().zip(numbers).filter(|(_, number)| number.is_finite()) {
                    *size = number.abs().max(*size);
                }
            }
        }
        Usual { overall, of_each }
    }
}

/// The largest relative difference of two tensors; `None` if they differ in shape, or in the positions of finite
/// elements.
///
/// In runs of one shape, where rounding is the same, a difference is relative to the numbers at the same position, so
/// that a small number beside a large one counts. In runs of different shapes, it is relative to the largest number,
/// which may have been a term of the same sum. Elements that are not floating-point numbers have the difference 0
/// (equal) or 1 (not equal). In runs of different shapes, one in a hundred of these elements may differ, because of
/// rounding in the numbers that they were computed from.
pub(super) fn distance(one: &Tensor, other: &Tensor, usual: &Usual, runs: Runs) -> Option<f64> {
    if one.shape() != other.shape() || one.dtype() != other.dtype() {
        return None;
    }
    let (Some(ones), Some(others)) = (floats(one), floats(other)) else {
        let differing = for_each_element_type!(one.data(), values => differing(values, other));
        let allowed = match runs {
            Runs::OfDifferentShapes => one.data().len() / 100,
            Runs::Alone | Runs::OfOneShape => 0,
        };
        return Some(if differing > allowed { 1.0 } else { 0.0 });
    };
    let overall = usual.overall.max(largest(one)).max(largest(other));
    let mut furthest: f64 = 0.0;
    for (place, (a, b)) in ones.zip(others).enumerate() {
        if a == b || (a.is_nan() && b.is_nan()) {
            continue;
        }
        let apart = (a - b).abs();
        if !apart.is_finite() {
            return None;
        }
        let size = match runs {
            Runs::Alone | Runs::OfOneShape => {
                usual.of_each.get(place).copied().unwrap_or_default().max(a.abs()).max(b.abs())
            }
            Runs::OfDifferentShapes => overall,
        };
        furthest = furthest.max(apart / size);
    }
    Some(furthest)
}

fn differing<T: Element + PartialEq>(values: &[T], other: &Tensor) -> usize {
    let others = other.values::<T>().unwrap_or_default();
    values.iter().zip(others).filter(|(a, b)| a != b).count()
}

pub(super) fn floats(tensor: &Tensor) -> Option<Box<dyn Iterator<Item = f64> + '_>> {
    Some(match tensor.data() {
        Data::F32(values) => Box::new(values.iter().map(|&value| value.into())),
        Data::F64(values) => Box::new(values.iter().copied()),
        Data::F16(values) => Box::new(values.iter().map(|value| value.to_f64())),
        Data::BF16(values) => Box::new(values.iter().map(|value| value.to_f64())),
        _ => return None,
    })
}

fn largest(tensor: &Tensor) -> f64 {
    let finite = floats(tensor).into_iter().flatten().filter(|value| value.is_finite());
    finite.fold(0.0, |largest, value| largest.max(value.abs()))
}

pub(super) fn is_finite(tensor: &Tensor) -> bool {
    tensor.data().first_non_finite().is_none()
}
