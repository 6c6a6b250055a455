//! Whether the rows of a model are independent: whether the answer to one depends on those that share its run.
//!
//! Requests are run together, so a model whose rows depend on each other would answer a caller with what strangers sent:
//! one that normalises over the batch, an int8 model whose scale is that of all inputs, a recurrent network whose first
//! dimension is time. Nothing in a model's file says so. So some rows are run alone, together, and in other company, and
//! the answers are compared ([`compare`]):
//!
//! - *Other company, same place*: the second row of two runs of one shape. The same instructions are run on it, so that its
//!   answer must be the same, but for what a GPU adds in another order.
//! - *Alone or together, and in another place*: kernels add in another order there, so that more is allowed for rounding.
//! - *The same row twice, alone*: what differs then is made by chance.
//!
//! A difference is relative to the largest number in the two answers, or to that in the middle one of all rows' answers, if
//! that is larger: what is nearly 0 by chance is not to look far apart, nor what is large to hide what is not. What cannot be
//! seen: a dependence that shows in
//! other rows only, or one that changes no answer in these, as where an argmax is all that is answered.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::joining::{Joining, RowOutputs};
use crate::config::Provider;
use crate::error::{Error, Result};
use crate::tensor::{DType, Data, Tensor, Tensors, for_each_element_type};

/// What was found of the rows of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Independence {
    /// The answer to a row was the same alone and in company.
    Independent {
        /// The largest difference, which is that of rounding.
        difference: f64,
    },
    /// It was not.
    Dependent(Dependence),
    /// It could not be found out.
    Unknown {
        /// Why not.
        reason: String,
    },
    /// The model fixes how many rows a run has, so that requests are never joined.
    FixedBatch {
        /// How many.
        rows: usize,
    },
}

/// How the answers to rows depend on each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dependence {
    /// The output that differs.
    pub output: Arc<str>,
    /// What makes it differ.
    pub cause: Cause,
    /// By how much, relative to the largest number in it; `None` if one of both is no number, or of another shape.
    pub difference: Option<f64>,
}

/// What makes an answer differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The rows that share its run.
    Company,
    /// Chance: it differs from run to run.
    Chance,
}

/// What came of running rows alone and together.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// How they depend on each other, if they do.
    pub dependence: Option<Dependence>,
    /// The largest difference that was put down to rounding.
    pub rounding: f64,
    /// Whether different rows had different answers, without which nothing follows.
    pub tells: bool,
    /// The outputs that had one row per row in every run.
    pub outputs: Vec<Arc<str>>,
    /// What each row was answered alone.
    pub alone: Vec<Tensors>,
}

/// How much may be put down to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The processor computes with the precision that the types have.
    OfTheType,
    /// The GPU multiplies float32 with ten bits (TF32), and chooses kernels by the number of rows.
    OfAGpu,
}

impl Precision {
    /// That of a provider.
    pub fn of(provider: Provider) -> Precision {
        match provider {
            Provider::Cpu => Precision::OfTheType,
            Provider::Cuda => Precision::OfAGpu,
        }
    }

    /// What may differ in runs of one shape, relative to the largest number.
    fn of_one_shape(self, dtype: DType) -> f64 {
        match dtype {
            // Twice the distance of two neighbours.
            DType::F16 => 2e-3,
            DType::BF16 => 1.6e-2,
            _ => 1e-5,
        }
    }

    /// What may differ in runs of different shapes.
    fn of_different_shapes(self, dtype: DType) -> f64 {
        match (dtype, self) {
            (DType::BF16, _) => 5e-2,
            (DType::F16, _) | (_, Precision::OfAGpu) => 1e-2,
            // Of 98 independent models, none differed by more than 1e-5; of 16 dependent ones, none by less than 9e-3.
            (_, Precision::OfTheType) => 1e-3,
        }
    }
}

/// Which two runs two answers to a row come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runs {
    /// Both alone.
    Alone,
    OfOneShape,
    OfDifferentShapes,
}

/// What a run answered, and to which rows, by their places among all.
struct Answered {
    rows: Vec<usize>,
    outputs: Tensors,
}

/// Runs `rows` (two or three of one row each, which differ) alone, together, and in other company, and compares what each
/// is answered. `run` runs the model. An error is one of the model: it does not run on these rows.
pub fn compare(
    rows: &[Tensors],
    joining: &Joining,
    precision: Precision,
    run: &mut dyn FnMut(&Tensors) -> Result<Tensors>,
) -> Result<Comparison> {
    if rows.len() < 2 {
        return Err(Error::internal("one row alone has no company"));
    }
    let mut ask = |who: &[usize]| -> Result<Answered> {
        let joined = joining.gather(&who.iter().map(|&row| (&rows[row], 0..1)).collect::<Vec<_>>());
        let inputs = joined.ok_or_else(|| Error::internal("the rows to compare cannot be joined"))?;
        Ok(Answered { rows: who.to_vec(), outputs: run(&inputs)? })
    };
    let mut alone = Vec::with_capacity(rows.len());
    for row in 0..rows.len() {
        alone.push(ask(&[row])?);
    }
    let again = ask(&[0])?;
    let together = ask(&(0..rows.len()).collect::<Vec<_>>())?;
    // The second row stays where it is, and the last one, which is the largest of rows that are made up, goes.
    let in_other_company = ask(if rows.len() > 2 { &[1, 1, 0] } else { &[1, 1] })?;

    let runs: Vec<&Answered> = alone.iter().chain([&again, &together, &in_other_company]).collect();
    let outputs = outputs_of_rows(&runs);
    let joining = joining.clone().with_outputs(RowOutputs::Known(outputs.clone()));
    // The rows of a run, each with its answers.
    let split = |answered: &Answered| -> Result<Vec<(usize, Tensors)>> {
        let sizes: Vec<(usize, usize)> = answered.rows.iter().map(|&row| (1, rows[row].row_length())).collect();
        let parts = joining.split(answered.outputs.clone(), &sizes)?;
        Ok(answered.rows.iter().copied().zip(parts).collect())
    };
    let alone: Vec<Tensors> = alone.iter().map(|answered| Ok(split(answered)?.remove(0).1)).collect::<Result<_>>()?;
    let (again, together, in_other_company) = (split(&again)?, split(&together)?, split(&in_other_company)?);

    let mut pairs =
        vec![(&alone[0], &again[0].1, Runs::Alone), (&together[1].1, &in_other_company[1].1, Runs::OfOneShape)];
    let in_company = together.iter().chain(&in_other_company);
    pairs.extend(in_company.map(|(row, answers)| (&alone[*row], answers, Runs::OfDifferentShapes)));
    let (mut dependence, mut rounding, mut tells) = (None, 0.0_f64, false);
    for name in &outputs {
        let usual = usual_size(&alone, name);
        for (one, other, runs) in &pairs {
            let (Some(one), Some(other)) = (one.get(name), other.get(name)) else { continue };
            let allowed = match runs {
                Runs::Alone | Runs::OfOneShape => precision.of_one_shape(one.dtype()),
                Runs::OfDifferentShapes => precision.of_different_shapes(one.dtype()),
            };
            match distance(one, other, usual, *runs) {
                Some(difference) if difference <= allowed => rounding = rounding.max(difference),
                difference => {
                    let cause = if *runs == Runs::Alone { Cause::Chance } else { Cause::Company };
                    dependence.get_or_insert(Dependence { output: Arc::clone(name), cause, difference });
                }
            }
        }
        tells |= alone[1..].iter().any(|other| differ(alone[0].get(name), other.get(name), usual, precision));
    }
    Ok(Comparison { dependence, rounding, tells, outputs, alone })
}

/// The outputs that had one row per row in every run: only these are answers of rows.
fn outputs_of_rows(runs: &[&Answered]) -> Vec<Arc<str>> {
    let Some(first) = runs.first() else { return Vec::new() };
    let has_rows = |name: &str| runs.iter().all(|run| run.outputs.get(name).map(Tensor::rows) == Some(run.rows.len()));
    first.outputs.iter().map(|(name, _)| name).filter(|name| has_rows(name)).cloned().collect()
}

/// The largest number in the middle one of the rows' answers.
fn usual_size(alone: &[Tensors], output: &str) -> f64 {
    let mut sizes: Vec<f64> = alone.iter().filter_map(|row| row.get(output)).map(largest).collect();
    sizes.sort_unstable_by(f64::total_cmp);
    sizes.get(sizes.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

/// Whether the answers to two rows differ by more than rounding, and are numbers.
fn differ(one: Option<&Tensor>, other: Option<&Tensor>, usual: f64, precision: Precision) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return false };
    let distance = distance(one, other, usual, Runs::OfOneShape);
    distance.is_none_or(|distance| distance > precision.of_one_shape(one.dtype())) && is_finite(one) && is_finite(other)
}

/// How far two tensors are apart, relative to the largest number in them or the `usual` one, if that is larger; `None` if one of two elements is no number and the other
/// is one, or if they differ in shape. Elements that are no floating-point numbers are the same or not: 0 or 1. Of those of
/// runs of different shapes, one in a hundred may be another one: the rounding of what they were made of.
fn distance(one: &Tensor, other: &Tensor, usual: f64, runs: Runs) -> Option<f64> {
    if one.shape() != other.shape() || one.dtype() != other.dtype() {
        return None;
    }
    if let (Some(one), Some(other)) = (floats(one), floats(other)) {
        let (mut furthest, mut scale): (f64, f64) = (0.0, usual);
        for (a, b) in one.zip(other) {
            for number in [a, b].into_iter().filter(|number| number.is_finite()) {
                scale = scale.max(number.abs());
            }
            if a == b || (a.is_nan() && b.is_nan()) {
                continue;
            }
            let apart = (a - b).abs();
            if !apart.is_finite() {
                return None;
            }
            furthest = furthest.max(apart);
        }
        return Some(if furthest > 0.0 { furthest / scale } else { 0.0 });
    }
    let differing = for_each_element_type!(one.data(), values => differing(values, other));
    let allowed = match runs {
        Runs::OfDifferentShapes => one.data().len() / 100,
        Runs::Alone | Runs::OfOneShape => 0,
    };
    Some(if differing > allowed { 1.0 } else { 0.0 })
}

fn differing<T: crate::tensor::Element + PartialEq>(values: &[T], other: &Tensor) -> usize {
    let others = other.values::<T>().unwrap_or_default();
    values.iter().zip(others).filter(|(a, b)| a != b).count()
}

fn floats(tensor: &Tensor) -> Option<Box<dyn Iterator<Item = f64> + '_>> {
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

fn is_finite(tensor: &Tensor) -> bool {
    tensor.data().first_non_finite().is_none()
}

// ===== impl Independence =====

impl Independence {
    /// What follows of several comparisons: what one of them found, or that all found nothing.
    pub fn of(comparisons: &[&Comparison], reason: impl FnOnce() -> String) -> Independence {
        if let Some(dependence) = comparisons.iter().find_map(|comparison| comparison.dependence.clone()) {
            return Independence::Dependent(dependence);
        }
        match comparisons
            .iter()
            .filter(|comparison| comparison.tells)
            .map(|comparison| comparison.rounding)
            .reduce(f64::max)
        {
            Some(difference) => Independence::Independent { difference },
            None => Independence::Unknown { reason: reason() },
        }
    }

    /// The name in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Independence::Independent { .. } => "independent",
            Independence::Dependent(_) => "dependent",
            Independence::Unknown { .. } => "unknown",
            Independence::FixedBatch { .. } => "fixed_batch",
        }
    }
}

impl fmt::Display for Independence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Independence::Independent { difference: 0.0 } => {
                write!(f, "rows are independent: answers alone and in company are exactly the same")
            }
            Independence::Independent { difference } => write!(
                f,
                "rows are independent: answers alone and in company are the same (largest difference {difference:.1e})"
            ),
            Independence::Dependent(dependence) => dependence.fmt(f),
            Independence::Unknown { reason } => write!(f, "it is not known whether rows are independent: {reason}"),
            Independence::FixedBatch { rows } => {
                write!(f, "the model fixes its batch dimension at {rows}, so that requests never share a run")
            }
        }
    }
}

impl fmt::Display for Dependence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dependence { output, cause, difference } = self;
        match cause {
            Cause::Company => write!(f, "rows depend on each other: the output {output:?} differs")?,
            Cause::Chance => write!(f, "answers are made by chance: the output {output:?} differs")?,
        }
        match difference {
            Some(difference) if *difference >= 1e-4 => write!(f, " by {:.2} %", difference * 100.0)?,
            Some(difference) => write!(f, " by {:.1e} of its largest number", difference)?,
            None => write!(f, " in what is a number, or in its shape,")?,
        }
        match cause {
            Cause::Company => write!(f, " when other rows are in the run"),
            Cause::Chance => write!(f, " from run to run for the same row"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of all rows of a run, of one number each.
    type Model = fn(&[f32]) -> Vec<f32>;

    fn row(values: &[f32]) -> Tensors {
        let tensor = Tensor::new(vec![1, values.len()], Data::F32(values.to_vec())).unwrap();
        [("x".into(), tensor)].into_iter().collect()
    }

    /// Compares rows of one number for a model that is this function of all rows' numbers.
    fn check(model: impl Fn(&[f32]) -> Vec<f32>) -> Independence {
        let rows = [row(&[0.1]), row(&[-1.0]), row(&[10.0])];
        let mut run = |inputs: &Tensors| {
            let y = model(inputs.at(0).unwrap().values::<f32>().unwrap());
            Ok([("y".into(), Tensor::new(vec![y.len()], Data::F32(y)).unwrap())].into_iter().collect())
        };
        let comparison = compare(&rows, &Joining::default(), Precision::OfTheType, &mut run).unwrap();
        Independence::of(&[&comparison], || "all are alike".to_owned())
    }

    #[test]
    fn what_other_rows_change_is_found() {
        let max = |x: &[f32]| x.iter().copied().fold(f32::MIN, f32::max);
        let dependent: [Model; 8] = [
            |x| {
                x.iter()
                    .scan(0.0, |sum, x| {
                        *sum += x;
                        Some(*sum)
                    })
                    .collect()
            },
            |x| {
                let mut x = x.to_vec();
                x.sort_unstable_by(f32::total_cmp);
                x
            },
            |x| x.iter().map(|v| v / x.len() as f32).collect(),
            |x| x.iter().enumerate().map(|(place, v)| v + 0.1 * place as f32).collect(),
            // Alone, nothing is left.
            |x| x.iter().map(|v| v - x.iter().sum::<f32>() / x.len() as f32).collect(),
            // Small beside what another row is answered.
            |x| x.iter().map(|v| v.exp() + 0.01 * x[0]).collect(),
            // Small beside the numbers, and large beside what tells rows apart.
            |x| x.iter().map(|v| 1000.0 + 0.1 * (v - x.iter().sum::<f32>() / x.len() as f32)).collect(),
            |x| vec![f32::NAN; x.len()].iter().zip(x).map(|(nan, v)| if x.len() > 1 { *nan } else { *v }).collect(),
        ];
        for (index, model) in dependent.into_iter().enumerate() {
            assert!(
                matches!(check(model), Independence::Dependent(Dependence { cause: Cause::Company, .. })),
                "{index}"
            );
        }
        assert!(matches!(check(|x| x.iter().map(|v| v / max(x)).collect()), Independence::Dependent(_)));
    }

    #[test]
    fn what_differs_by_rounding_is_independent() {
        let shifted = |x: &[f32]| x.iter().map(|v| v * (1.0 + 1e-6 * x.len() as f32)).collect();
        let Independence::Independent { difference } = check(shifted) else { panic!("not independent") };
        assert!(difference > 1e-7 && difference < 1e-5, "{difference}");
    }

    #[test]
    fn what_tells_nothing_is_unknown() {
        assert!(matches!(check(|x| vec![1.0; x.len()]), Independence::Unknown { .. }));
        // An output that has not one row per row is no answer.
        assert!(matches!(check(|x| x[..1].to_vec()), Independence::Unknown { .. }));
        assert!(matches!(check(|x| vec![f32::NAN; x.len()]), Independence::Unknown { .. }));
    }

    #[test]
    fn what_is_made_by_chance_is_said_to_be() {
        let calls = std::cell::Cell::new(0.0);
        let chance = |x: &[f32]| {
            calls.set(calls.get() + 0.1);
            x.iter().map(|v| v + calls.get()).collect()
        };
        assert!(matches!(check(chance), Independence::Dependent(Dependence { cause: Cause::Chance, .. })));
    }

    /// A mean over all tokens, and one that passes over those that were filled up with 0.
    #[test]
    fn what_filling_up_changes_is_found() {
        let joining = Joining::new(&crate::tensor::Signature::default(), Some(crate::tensor::Padding(vec![0])));
        let rows = [row(&[1.0; 7]), row(&[2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]), row(&[5.0; 8])];
        for (is_masked, is_found) in [(true, false), (false, true)] {
            let mut run = |inputs: &Tensors| {
                let x = inputs.at(0).unwrap();
                let mean = |row: &[f32]| {
                    let count = row.iter().filter(|v| !is_masked || **v != 0.0).count();
                    row.iter().sum::<f32>() / count as f32
                };
                let y: Vec<f32> = x.values::<f32>().unwrap().chunks(x.row_len()).map(mean).collect();
                Ok([("y".into(), Tensor::new(vec![y.len()], Data::F32(y)).unwrap())].into_iter().collect())
            };
            let comparison = compare(&rows, &joining, Precision::OfTheType, &mut run).unwrap();
            assert_eq!(comparison.dependence.is_some(), is_found);
        }
    }
}
