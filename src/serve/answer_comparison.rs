//! Comparison of the answers of two versions to one request. Pure.
//!
//! | predictions | agree if | distance |
//! |---|---|---|
//! | a class, an anomaly | the labels are the same | difference of the scores of the label that the stable version answered |
//! | several classes, entities, detections | the labels are the same, in any order | largest difference of the scores of a label |
//! | numbers, tensors | they differ by at most 5 % | the relative difference |
//! | embeddings | their distance is at most 5 % | 1 − their cosine |
//! | masks | the same classes occur | half of the sum of the differences of their areas |
//! | anything else | they are equal | none |

use crate::pipeline::{Label, Prediction};
use crate::serve::input::NamedOutput;
use crate::tensor::{Data, Tensors};

/// Largest distance of numbers and embeddings that agree.
const TOLERANCE: f64 = 0.05;

/// Comparison of two predictions for the same instance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pair {
    /// True if the predictions agree.
    pub(super) agrees: bool,
    /// Distance of the predictions, from 0; `None` if they have none.
    pub(super) distance: Option<f64>,
}

impl Pair {
    pub(super) const EQUAL: Pair = Pair { agrees: true, distance: None };
    pub(super) const DIFFERENT: Pair = Pair { agrees: false, distance: None };

    fn of(is_equal: bool) -> Pair {
        if is_equal { Pair::EQUAL } else { Pair::DIFFERENT }
    }

    fn within_tolerance(distance: Option<f64>) -> Pair {
        Pair { agrees: distance.is_some_and(|distance| distance <= TOLERANCE), distance }
    }

    /// Agrees if both agree; the larger distance.
    fn and(self, other: Pair) -> Pair {
        let distance = [self.distance, other.distance].into_iter().flatten().reduce(f64::max);
        Pair { agrees: self.agrees && other.agrees, distance }
    }
}

/// Compares the predictions of two versions, in order. Predictions that only one of them made differ.
pub(super) fn compare_predictions(stable: &[Prediction], shadow: &[Prediction]) -> Vec<Pair> {
    let both = stable.iter().zip(shadow).map(|(stable, shadow)| compare(stable, shadow));
    let alone = stable.len().abs_diff(shadow.len());
    both.chain(std::iter::repeat_n(Pair::DIFFERENT, alone)).collect()
}

/// Compares named outputs, as one pair.
pub(super) fn compare_outputs(stable: &[NamedOutput], shadow: &[NamedOutput]) -> Pair {
    let shadow_of = |name: &str| shadow.iter().find(|output| *output.name == *name);
    let compared = stable.iter().map(|output| match shadow_of(&output.name) {
        Some(other) if other.shape == output.shape => compare_data(&output.data, &other.data),
        _ => Pair::DIFFERENT,
    });
    let has_others = Pair::of(stable.len() == shadow.len());
    compared.fold(has_others, Pair::and)
}

fn compare(stable: &Prediction, shadow: &Prediction) -> Pair {
    use Prediction as P;
    match (stable, shadow) {
        (P::Class { label, certainty, .. }, P::Class { label: other, certainty: its, top, .. }) => {
            let its_score = match label == other {
                true => its.confidence,
                false => top.iter().find(|score| score.label == *label).map_or(0.0, |score| score.score),
            };
            Pair { agrees: label == other, distance: finite(f64::from(certainty.confidence) - f64::from(its_score)) }
        }
        (P::Classes { labels, .. }, P::Classes { labels: others, .. }) => {
            let scores = |scores: &[crate::pipeline::Score]| {
                scores.iter().map(|score| (score.label.clone(), score.score)).collect()
            };
            compare_labels(scores(labels), scores(others))
        }
        (P::Entities(found), P::Entities(others)) => compare_labels(
            found.iter().map(|entity| (entity.label.clone(), entity.score)).collect(),
            others.iter().map(|entity| (entity.label.clone(), entity.score)).collect(),
        ),
        (P::Detections(found), P::Detections(others)) => compare_labels(
            found.iter().map(|object| (object.label.clone(), object.score)).collect(),
            others.iter().map(|object| (object.label.clone(), object.score)).collect(),
        ),
        (P::Value(value), P::Value(other)) => compare_numbers(&[*value], &[*other]),
        (P::Values { names, values, .. }, P::Values { names: others, values: other, .. }) if names == others => values
            .iter()
            .zip(other)
            .map(|(one, other)| compare_numbers(&[*one], &[*other]))
            .fold(Pair::EQUAL, Pair::and),
        (P::Targets { names, predictions, .. }, P::Targets { names: others, predictions: other, .. })
            if names == others =>
        {
            predictions.iter().zip(other).map(|(one, other)| compare(one, other)).fold(Pair::EQUAL, Pair::and)
        }
        (P::Anomaly { label, score }, P::Anomaly { label: other, score: its }) => {
            Pair { agrees: label == other, distance: relative_difference(&[*score], &[*its]) }
        }
        (P::Embedding(vector), P::Embedding(other)) => Pair::within_tolerance(cosine_distance(vector, other)),
        (P::Mask(mask), P::Mask(other)) => {
            let areas = |mask: &crate::pipeline::Mask| {
                mask.classes.iter().map(|class| (class.label.clone(), class.share)).collect::<Vec<_>>()
            };
            let (areas, others) = (areas(mask), areas(other));
            let is_same = areas.len() == others.len() && areas.iter().all(|(label, _)| share(&others, label).is_some());
            let all = areas.iter().chain(others.iter().filter(|(label, _)| share(&areas, label).is_none()));
            let area = |areas: &[(Label, f32)], label: &Label| f64::from(share(areas, label).unwrap_or(0.0));
            let sum: f64 = all.map(|(label, _)| (area(&areas, label) - area(&others, label)).abs()).sum();
            Pair { agrees: is_same, distance: finite(sum / 2.0) }
        }
        (P::Outputs(outputs), P::Outputs(others)) => compare_tensors(outputs, others),
        (P::NonFiniteAsText(one), P::NonFiniteAsText(other)) => compare(one, other),
        (one, other) => Pair::of(one == other),
    }
}

/// Compares labels in any order, each with its score.
fn compare_labels(mut one: Vec<(Label, f32)>, mut other: Vec<(Label, f32)>) -> Pair {
    let by_name = |(label, score): &(Label, f32), (other, its): &(Label, f32)| {
        label.to_string().cmp(&other.to_string()).then(its.total_cmp(score))
    };
    one.sort_by(by_name);
    other.sort_by(by_name);
    let is_same = one.iter().map(|(label, _)| label).eq(other.iter().map(|(label, _)| label));
    let difference = |((_, score), (_, its)): (&(Label, f32), &(Label, f32))| f64::from(*score) - f64::from(*its);
    let differences = one.iter().zip(&other).map(difference).filter_map(finite);
    Pair { agrees: is_same, distance: differences.reduce(f64::max).filter(|_| is_same) }
}

fn share(areas: &[(Label, f32)], label: &Label) -> Option<f32> {
    areas.iter().find(|(other, _)| other == label).map(|(_, share)| *share)
}

fn compare_tensors(one: &Tensors, other: &Tensors) -> Pair {
    let (mut others, mut pair) = (other.iter(), Pair::of(one.len() == other.len()));
    for (name, tensor) in one.iter() {
        let compared = match others.next() {
            Some((other, its)) if name == other && tensor.shape() == its.shape() => {
                compare_data(tensor.data(), its.data())
            }
            _ => Pair::DIFFERENT,
        };
        pair = pair.and(compared);
    }
    pair
}

fn compare_data(one: &Data, other: &Data) -> Pair {
    match (numbers(one), numbers(other)) {
        (Some(one), Some(other)) => compare_numbers(&one, &other),
        _ => Pair::of(one == other),
    }
}

fn compare_numbers(one: &[f64], other: &[f64]) -> Pair {
    let same = |(one, other): (&f64, &f64)| one == other || (one.is_nan() && other.is_nan());
    match one.len() == other.len() && one.iter().zip(other).all(same) {
        true => Pair { agrees: true, distance: Some(0.0) },
        false => Pair::within_tolerance(relative_difference(one, other)),
    }
}

/// The length of the difference of two vectors, divided by the length of the longer one; `None` if a number is not finite.
fn relative_difference(one: &[f64], other: &[f64]) -> Option<f64> {
    let length = |numbers: &[f64]| numbers.iter().map(|number| number * number).sum::<f64>().sqrt();
    let difference: Vec<f64> = one.iter().zip(other).map(|(one, other)| one - other).collect();
    match length(one).max(length(other)) {
        0.0 => Some(0.0),
        longer => finite(length(&difference) / longer).filter(|_| one.len() == other.len()),
    }
}

fn cosine_distance(one: &[f32], other: &[f32]) -> Option<f64> {
    let dot = |one: &[f32], other: &[f32]| -> f64 {
        one.iter().zip(other).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum()
    };
    let lengths = (dot(one, one) * dot(other, other)).sqrt();
    match lengths {
        0.0 => (dot(one, one) == dot(other, other)).then_some(0.0),
        lengths => finite(1.0 - dot(one, other) / lengths).filter(|_| one.len() == other.len()),
    }
}

/// Returns the size of a number, if it is finite.
fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number.abs())
}

fn numbers(data: &Data) -> Option<Vec<f64>> {
    fn all<T: Copy + Into<f64>>(values: &[T]) -> Option<Vec<f64>> {
        Some(values.iter().map(|value| (*value).into()).collect())
    }
    match data {
        Data::F32(values) => all(values),
        Data::F64(values) => all(values),
        Data::F16(values) => all(values),
        Data::BF16(values) => all(values),
        Data::I8(values) => all(values),
        Data::I16(values) => all(values),
        Data::I32(values) => all(values),
        Data::U8(values) => all(values),
        Data::U16(values) => all(values),
        Data::U32(values) => all(values),
        Data::I64(values) => Some(values.iter().map(|value| *value as f64).collect()),
        Data::U64(values) => Some(values.iter().map(|value| *value as f64).collect()),
        Data::Bool(_) | Data::Text(_) | Data::Sequence(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feature::Certainty;
    use crate::pipeline::Score;
    use crate::tensor::Tensor;

    fn class(label: i64, confidence: f32, top: &[(i64, f32)]) -> Prediction {
        let top = top.iter().map(|&(label, score)| Score { label: Label::Number(label), score }).collect();
        let certainty = Certainty { confidence, margin: 0.0, entropy: 0.0 };
        Prediction::Class { class: label as usize, label: Label::Number(label), certainty, top }
    }

    fn check(one: &Prediction, other: &Prediction, agrees: bool, distance: Option<f64>) {
        let found = compare(one, other);
        let is_close = match (found.distance, distance) {
            (Some(found), Some(distance)) => (found - distance).abs() < 1e-6,
            (found, distance) => found == distance,
        };
        assert!(found.agrees == agrees && is_close, "{one:?} and {other:?}: {found:?}");
        assert_eq!(compare(one, one), Pair { agrees: true, ..compare(one, one) });
    }

    #[test]
    fn classes_agree_by_their_labels() {
        let six = class(6, 0.9, &[(6, 0.9), (8, 0.1)]);
        check(&six, &class(6, 0.7, &[(6, 0.7)]), true, Some(0.2));
        check(&six, &class(8, 0.6, &[(8, 0.6), (6, 0.4)]), false, Some(0.5));
        check(&six, &class(8, 0.6, &[(8, 0.6)]), false, Some(0.9));
        check(&six, &Prediction::Value(6.0), false, None);
        let several = |labels: &[(i64, f32)]| {
            let labels = labels.iter().map(|&(label, score)| Score { label: Label::Number(label), score }).collect();
            Prediction::Classes {
                class: 1,
                certainty: Certainty { confidence: 0.9, margin: 0.0, entropy: 0.0 },
                labels,
            }
        };
        check(&several(&[(1, 0.9), (2, 0.8)]), &several(&[(2, 0.85), (1, 0.9)]), true, Some(0.05));
        check(&several(&[(1, 0.9), (2, 0.8)]), &several(&[(1, 0.9)]), false, None);
    }

    #[test]
    fn numbers_agree_within_a_tolerance() {
        check(&Prediction::Value(100.0), &Prediction::Value(96.0), true, Some(0.04));
        check(&Prediction::Value(100.0), &Prediction::Value(90.0), false, Some(0.1));
        check(&Prediction::Value(0.0), &Prediction::Value(0.0), true, Some(0.0));
        check(&Prediction::Value(f64::NAN), &Prediction::Value(1.0), false, None);
        check(&Prediction::Value(f64::NAN), &Prediction::Value(f64::NAN), true, Some(0.0));
        check(&Prediction::Embedding(vec![1.0, 0.0]), &Prediction::Embedding(vec![0.0, 2.0]), false, Some(1.0));
        check(&Prediction::Embedding(vec![1.0, 0.0]), &Prediction::Embedding(vec![3.0, 0.0]), true, Some(0.0));
        let outputs = |values: Vec<f32>| {
            let tensor = Tensor::new(vec![1, values.len()], Data::F32(values)).unwrap();
            Prediction::Outputs([("y".into(), tensor)].into_iter().collect())
        };
        check(&outputs(vec![3.0, 4.0]), &outputs(vec![3.0, 3.9]), true, Some(0.02));
        check(&outputs(vec![3.0, 4.0]), &outputs(vec![4.0, 3.0]), false, Some(2f64.sqrt() / 5.0));
        check(&outputs(vec![3.0, 4.0]), &outputs(vec![3.0]), false, None);
    }

    #[test]
    fn what_only_one_version_predicted_differs() {
        let (one, two) = (Prediction::Value(1.0), Prediction::Value(2.0));
        let pairs = compare_predictions(&[one.clone(), two], &[one]);
        assert_eq!(pairs.iter().map(|pair| pair.agrees).collect::<Vec<_>>(), [true, false]);
    }
}
