//! Row independence: the answer to a row must not depend on the rows that share its run.
//!
//! Requests share runs. If rows depend on each other, the answer to one caller depends on the data of other callers.
//! Examples are a model that normalises over the batch, an int8 model with one scale for all inputs, and a recurrent
//! network whose first dimension is time. A model's file does not declare such a dependence. So [`compare`] runs some
//! rows alone and in several combinations, and compares the answers:
//!
//! - *In runs of one shape*: a row at the same position in two runs whose other rows differ. The same instructions
//!   compute its answer, so the answer must be the same, except for rounding on a GPU.
//! - *In runs of different shapes*: a row alone, together with other rows, and at different positions. Kernels then add
//!   in a different order, so larger rounding differences are allowed.
//! - *Alone, twice*: a difference means that the model is nondeterministic.
//!
//! Differences are relative. In runs of one shape, they are relative to the numbers at the same position, so that a
//! small number beside a large one counts. In runs of different shapes, they are relative to the largest number in the
//! answers.
//!
//! The check cannot detect a dependence that only rows other than the tried ones would show, or one that does not
//! change the answers to the tried rows, for example because the model returns only an argmax.

mod distance;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::distance::{Runs, Usual, distance, floats, is_finite};
use super::joining::{Joining, RowOutputs};
use crate::config::Provider;
use crate::error::{Error, Result, is_about_memory};
use crate::tensor::{DType, Tensor, Tensors};

/// Finding on the independence of a version's rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Independence {
    /// The answer to a row did not depend on the other rows of its run.
    Independent {
        /// The largest difference, which is due to rounding.
        difference: f64,
    },
    /// The answer to a row depended on other rows, or changed from run to run.
    Dependent(Dependence),
    /// The check was not possible, or not conclusive.
    Unknown { reason: String },
    /// The model fixes the number of rows of a run, so requests are never joined.
    FixedBatch {
        /// The number of rows.
        rows: usize,
    },
}

/// The difference that shows that rows are not independent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Dependence {
    /// The output whose answers differ.
    pub output: Arc<str>,
    /// The cause of the difference.
    pub cause: Cause,
    /// The relative difference; `None` if two answers differ in shape, or in which of their elements are finite.
    pub difference: Option<f64>,
}

/// Cause of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Other rows of the run.
    OtherRows,
    /// The model itself: the same row is answered differently from run to run.
    Nondeterminism,
}

/// Result of running the same rows alone and together.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// The dependence of the rows, if one was found.
    pub dependence: Option<Dependence>,
    /// The largest difference that was attributed to rounding.
    pub rounding: f64,
    /// The outputs that had one row per input row in every run.
    pub outputs: Vec<Arc<str>>,
    /// The outputs that have rows, are part of answers, and hold floating-point numbers.
    pub numbers: Vec<Arc<str>>,
    /// The outputs that have rows, are part of answers, and differed between rows. Only these outputs are evidence of
    /// independence.
    pub conclusive: Vec<Arc<str>>,
    /// The answers to each row alone.
    pub alone: Vec<Tensors>,
}

/// Precision of a provider, which determines the difference that is attributed to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The processor computes with the precision of the element types.
    OfTheType,
    /// The GPU multiplies float32 with a mantissa of ten bits (TF32), and chooses kernels by the number of rows.
    OfAGpu,
}

impl Precision {
    pub fn of(provider: Provider) -> Precision {
        match provider {
            Provider::Cpu => Precision::OfTheType,
            Provider::Cuda => Precision::OfAGpu,
        }
    }

    /// Relative difference between two answers to a row that is allowed in runs of one shape.
    fn of_one_shape(self, dtype: DType) -> f64 {
        match (self, dtype) {
            // The same instructions on the same numbers give the same answers.
            (Precision::OfTheType, _) => 0.0,
            // Threads may add in a different order. At least twice the distance of two neighbouring values is allowed.
            (Precision::OfAGpu, DType::F16) => 2e-3,
            (Precision::OfAGpu, DType::BF16) => 1.6e-2,
            (Precision::OfAGpu, _) => 1e-5,
        }
    }

    /// Relative difference between two answers to a row that is allowed in runs of different shapes.
    fn of_different_shapes(dtype: DType) -> f64 {
        match dtype {
            DType::BF16 => 5e-2,
            // Of 98 independent models, none differed by more than 1e-5. But normalising nearly constant rows, as
            // made-up rows can be, amplifies rounding a hundredfold. An influence of other rows is detected in runs of
            // one shape.
            _ => 1e-2,
        }
    }
}

/// Maximum size of answers that are compared, in bytes: about ten of them are in memory at one time.
const MAX_ANSWER: usize = 32 << 20;

/// Maximum number of elements of a run that is compared.
const MAX_ELEMENTS: usize = 1 << 24;

/// Parameters for comparing a model's answers to rows that run alone and together.
#[derive(Debug, Clone)]
pub struct Comparing<'a> {
    /// The way to join rows into one run of the model.
    pub joining: &'a Joining,
    /// The precision of the provider.
    pub precision: Precision,
    /// The outputs that are part of answers; `None` for all.
    pub answered: Option<&'a [Arc<str>]>,
    /// Maximum number of rows of a shared run. A run of this many rows is compared, too.
    pub max_rows: usize,
    /// Maximum number of elements of all inputs of a shared run.
    pub max_elements: Option<NonZeroUsize>,
}

/// An output of the model, and the observations of it in the runs so far.
struct ObservedOutput {
    output: Arc<str>,
    has_rows: bool,
    dependence: Option<Dependence>,
    rounding: f64,
}

/// Answers to the rows of a run, each with the index of its row among the compared rows.
type Answers = Vec<(usize, Tensors)>;

/// Runs `rows` (two or three different rows, one per element) alone and in several combinations, and compares the
/// answers. `run` runs the model. An error means that the rows could not be compared, for example because the model
/// does not run on them.
pub fn compare(
    rows: &[Tensors],
    comparing: &Comparing<'_>,
    run: &mut dyn FnMut(&Tensors) -> Result<Tensors>,
) -> Result<Comparison> {
    let [first, .., last] = rows else {
        return Err(Error::internal("there is no other row to compare with"));
    };
    let outputs = run(first)?;
    let size: usize = outputs.iter().map(|(_, output)| output.data().len() * size_of::<f64>()).sum();
    if size > MAX_ANSWER {
        let problem = format!("an answer of {} MB is too large to be compared with others", size >> 20);
        return Err(Error::internal(problem));
    }
    let mut observed = Observed::of(&outputs, rows, comparing);
    observed.alone = observed.split(outputs, &[0])?;
    for row in 1..rows.len() {
        let answers = observed.ask(&[row], run)?;
        observed.alone.extend(answers);
    }
    let again = observed.ask(&[0], run)?;
    observed.hold_against_alone(&again, Runs::Alone);

    // Runs all rows together, then replaces each row by another one in turn: a row that influences others is missing in
    // one of these runs.
    let together: Vec<usize> = (0..rows.len()).collect();
    let others: &[&[usize]] = if rows.len() > 2 { &[&[0, 1, 1], &[1, 1, 2], &[0, 0, 2]] } else { &[&[1, 1], &[0, 0]] };
    let together = observed.ask(&together, run)?;
    observed.hold_against_alone(&together, Runs::OfDifferentShapes);
    for others in others {
        let others = observed.ask(others, run)?;
        observed.hold_against(&together, &others, Runs::OfOneShape);
        observed.hold_against_alone(&others, Runs::OfDifferentShapes);
    }
    // Some dependences show only in runs of many rows, so the largest shared run is compared, too, as far as its size
    // allows.
    let elements = first.row_elements().max(last.row_elements()).max(1);
    let max_elements = comparing.max_elements.map_or(MAX_ELEMENTS, |most| most.get().min(MAX_ELEMENTS));
    let mut many = comparing.max_rows.min(MAX_ANSWER / size.max(1)).min(max_elements / elements);
    // A run of fewer rows is compared if one of so many takes more memory than there is.
    while many > rows.len() {
        let places: Vec<usize> = (0..many).map(|place| place % rows.len()).collect();
        match observed.ask(&places, run) {
            Ok(answers) => {
                observed.hold_against_alone(&answers, Runs::OfDifferentShapes);
                break;
            }
            Err(error) if is_about_memory(&error.for_operators()) => many /= 2,
            Err(error) => return Err(error),
        }
    }
    Ok(observed.conclude())
}

/// Observations of all outputs in the runs so far.
struct Observed<'a> {
    rows: &'a [Tensors],
    comparing: &'a Comparing<'a>,
    outputs: Vec<ObservedOutput>,
    /// The answers to each row alone.
    alone: Answers,
}

impl Comparing<'_> {
    fn is_answered(&self, output: &str) -> bool {
        self.answered.is_none_or(|answered| answered.iter().any(|name| **name == *output))
    }
}

impl<'a> Observed<'a> {
    /// Returns empty observations of these outputs.
    fn of(outputs: &Tensors, rows: &'a [Tensors], comparing: &'a Comparing<'a>) -> Observed<'a> {
        let output = |(name, _): (&Arc<str>, &Tensor)| ObservedOutput {
            output: Arc::clone(name),
            has_rows: true,
            dependence: None,
            rounding: 0.0,
        };
        Observed {
            rows,
            comparing,
            outputs: outputs.iter().map(output).collect(),
            alone: Vec::with_capacity(rows.len()),
        }
    }

    /// Runs these rows together, and returns the answer to each.
    fn ask(&mut self, who: &[usize], run: &mut dyn FnMut(&Tensors) -> Result<Tensors>) -> Result<Answers> {
        let parts: Vec<_> = who.iter().map(|&row| (&self.rows[row], 0..1)).collect();
        let inputs = self.comparing.joining.gather(&parts);
        let inputs = inputs.ok_or_else(|| Error::internal("the rows to compare cannot be joined"))?;
        self.split(run(&inputs)?, who)
    }

    /// Splits the answers of a run by row, and notes the outputs that lack rows.
    fn split(&mut self, answers: Tensors, who: &[usize]) -> Result<Answers> {
        for output in &mut self.outputs {
            output.has_rows &= answers.get(&output.output).map(Tensor::rows) == Some(who.len());
        }
        let with_rows = self.outputs.iter().filter(|output| output.has_rows);
        let names = with_rows.map(|output| Arc::clone(&output.output)).collect();
        let joining = self.comparing.joining.clone().with_outputs(RowOutputs::Known(names));
        let sizes: Vec<(usize, usize)> = who.iter().map(|&row| (1, self.rows[row].row_length())).collect();
        Ok(who.iter().copied().zip(joining.split(answers, &sizes)?).collect())
    }

    /// Compares the answers of a run with those to each row alone.
    fn hold_against_alone(&mut self, new: &[(usize, Tensors)], runs: Runs) {
        for output in self.outputs.iter_mut().filter(|output| output.has_rows) {
            output.hold_against(&self.alone, new, runs, &self.alone, self.comparing.precision);
        }
    }

    /// Compares the answers of two runs.
    fn hold_against(&mut self, known: &[(usize, Tensors)], new: &[(usize, Tensors)], runs: Runs) {
        for output in self.outputs.iter_mut().filter(|output| output.has_rows) {
            output.hold_against(known, new, runs, &self.alone, self.comparing.precision);
        }
    }

    fn conclude(self) -> Comparison {
        let mut comparison = Comparison::default();
        let Observed { comparing, outputs, alone, .. } = self;
        for ObservedOutput { output, dependence, rounding, .. } in outputs.into_iter().filter(|output| output.has_rows)
        {
            let answers = answers_of(&alone, &output);
            let usual = Usual::of(&answers);
            if comparing.is_answered(&output) {
                comparison.rounding = comparison.rounding.max(rounding);
                comparison.dependence = comparison.dependence.take().or(dependence);
                if floats(answers[0]).is_some() {
                    comparison.numbers.push(Arc::clone(&output));
                }
                if answers[1..].iter().any(|other| differ(answers[0], other, &usual, comparing.precision)) {
                    comparison.conclusive.push(Arc::clone(&output));
                }
            }
            comparison.outputs.push(output);
        }
        comparison.alone = alone.into_iter().map(|(_, answers)| answers).collect();
        comparison
    }
}

impl ObservedOutput {
    /// Compares the answers of a run with known answers: by position in runs of one shape, or else by row.
    fn hold_against(
        &mut self,
        known: &[(usize, Tensors)],
        new: &[(usize, Tensors)],
        runs: Runs,
        alone: &[(usize, Tensors)],
        precision: Precision,
    ) {
        let usual = Usual::of(&answers_of(alone, &self.output));
        for (place, (row, answers)) in new.iter().enumerate() {
            let known = match runs {
                Runs::OfDifferentShapes => known.get(*row),
                Runs::Alone | Runs::OfOneShape => known.get(place).filter(|(other, _)| other == row),
            };
            let known = known.and_then(|(_, answers)| answers.get(&self.output));
            let (Some(one), Some(other)) = (known, answers.get(&self.output)) else { continue };
            let allowed = match runs {
                Runs::Alone | Runs::OfOneShape => precision.of_one_shape(one.dtype()),
                Runs::OfDifferentShapes => Precision::of_different_shapes(one.dtype()),
            };
            match distance(one, other, &usual, runs) {
                Some(difference) if difference <= allowed => self.rounding = self.rounding.max(difference),
                difference => {
                    let cause = if runs == Runs::Alone { Cause::Nondeterminism } else { Cause::OtherRows };
                    let output = Arc::clone(&self.output);
                    self.dependence.get_or_insert(Dependence { output, cause, difference });
                }
            }
        }
    }
}

/// Returns the values of one output in the answers to the rows.
fn answers_of<'a>(answers: &'a [(usize, Tensors)], output: &str) -> Vec<&'a Tensor> {
    answers.iter().filter_map(|(_, row)| row.get(output)).collect()
}

/// Returns true if the answers to two rows differ by more than rounding, and are finite.
fn differ(one: &Tensor, other: &Tensor, usual: &Usual, precision: Precision) -> bool {
    let distance = distance(one, other, usual, Runs::OfOneShape);
    distance.is_none_or(|distance| distance > precision.of_one_shape(one.dtype())) && is_finite(one) && is_finite(other)
}

/// Returns true if the answers to different rows differed in every floating-point output that is part of answers or,
/// without such outputs, in any output. An output that never differed is not evidence, even if another output differed.
pub fn are_conclusive(comparisons: &[Comparison]) -> bool {
    let has_shown = |name: &Arc<str>| comparisons.iter().any(|comparison| comparison.conclusive.contains(name));
    let mut numbers = comparisons.iter().flat_map(|comparison| &comparison.numbers).peekable();
    match numbers.peek() {
        Some(_) => numbers.all(has_shown),
        None => comparisons.iter().any(|comparison| !comparison.conclusive.is_empty()),
    }
}

// ===== impl Independence =====

impl Independence {
    /// Returns the finding of several comparisons: the first dependence, or independence if the comparisons were
    /// conclusive.
    pub fn of(comparisons: &[Comparison], reason: impl FnOnce() -> String) -> Independence {
        if let Some(dependence) = comparisons.iter().find_map(|comparison| comparison.dependence.clone()) {
            return Independence::Dependent(dependence);
        }
        match are_conclusive(comparisons) {
            true => Independence::Independent {
                difference: comparisons.iter().map(|comparison| comparison.rounding).fold(0.0, f64::max),
            },
            false => Independence::Unknown { reason: reason() },
        }
    }

    /// Returns the name of the finding in metrics.
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
                write!(f, "rows are independent: answers are exactly the same, alone and with others")
            }
            Independence::Independent { difference } => write!(
                f,
                "rows are independent: answers are the same, alone and with others (largest difference {difference:.1e})"
            ),
            Independence::Dependent(dependence) => dependence.fmt(f),
            Independence::Unknown { reason } => write!(f, "it is not known if rows are independent: {reason}"),
            Independence::FixedBatch { rows } => {
                write!(f, "a run has exactly {rows} row{}, of one request", if *rows == 1 { "" } else { "s" })
            }
        }
    }
}

impl fmt::Display for Dependence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dependence { output, cause, difference } = self;
        match cause {
            Cause::OtherRows => write!(f, "rows depend on each other: the output {output:?} differs")?,
            Cause::Nondeterminism => write!(f, "the model is nondeterministic: the output {output:?} differs")?,
        }
        match difference {
            Some(difference) if *difference >= 1e-4 => write!(f, " by {:.2} %", difference * 100.0)?,
            Some(difference) => write!(f, " by {:.1e} of its largest number", difference)?,
            None => write!(f, " in its shape, or in which of its elements are finite numbers,")?,
        }
        match cause {
            Cause::OtherRows => write!(f, " when other rows are in the run"),
            Cause::Nondeterminism => write!(f, " from run to run for the same row"),
        }
    }
}

#[cfg(test)]
mod tests;
