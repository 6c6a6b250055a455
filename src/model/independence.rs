//! Row independence: the answer to a row must not depend on the rows that share its run.
//!
//! Requests are run together, so a model whose rows depend on each other would answer a caller with what strangers sent:
//! one that normalises over the batch, an int8 model whose scale is that of all inputs, a recurrent network whose first
//! dimension is time. Nothing in a model's file says so. So [`compare`] runs some rows alone, together and among others, and
//! compares the answers:
//!
//! - *In runs of one shape*: the second row of two runs whose other rows differ. The same instructions are run on it, so that
//!   its answer must be the same, but for rounding on a GPU.
//! - *In runs of different shapes*: alone and together, and in another place. Kernels add in another order there, so that more
//!   is allowed for rounding.
//! - *Alone, twice*: a difference means that the model is nondeterministic.
//!
//! Differences are relative. In runs of one shape, a number is held against those in its own place, so that a small one
//! beside a large one counts; in runs of different shapes, against the largest in the answers.
//!
//! The check cannot see a dependence that shows only with other rows, or one that changes no answer to these, as where an
//! argmax is all that is answered.

mod distance;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::distance::{Runs, Usual, distance, floats, is_finite};
use super::joining::{Joining, RowOutputs};
use crate::config::Provider;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor, Tensors};

/// Finding about the rows of a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
pub enum Independence {
    /// The answer to a row was the same, whatever else was in its run.
    Independent {
        /// The largest difference, which is that of rounding.
        difference: f64,
    },
    /// It was not.
    Dependent(Dependence),
    /// It could not be found out.
    Unknown { reason: String },
    /// The model fixes how many rows a run has, so that requests are never joined.
    FixedBatch {
        /// The number of rows.
        rows: usize,
    },
}

/// Dependence of the answers to rows on each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dependence {
    /// The output that differs.
    pub output: Arc<str>,
    /// The cause of the difference.
    pub cause: Cause,
    /// The relative difference; `None` if two answers differ in shape, or in which of their elements are finite.
    pub difference: Option<f64>,
}

/// Cause of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The rows that share its run.
    OtherRows,
    /// The model itself: the same row is answered differently from run to run.
    Nondeterminism,
}

/// Result of running rows alone and together.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    /// Their dependence on each other, if there is one.
    pub dependence: Option<Dependence>,
    /// The largest difference that was put down to rounding.
    pub rounding: f64,
    /// The outputs that had one row per row in every run.
    pub outputs: Vec<Arc<str>>,
    /// Those of them that are answered and hold floating-point numbers.
    pub numbers: Vec<Arc<str>>,
    /// Those of them that are answered, and whose answers to different rows differed, without which nothing follows.
    pub conclusive: Vec<Arc<str>>,
    /// The answers to each row alone.
    pub alone: Vec<Tensors>,
}

/// Precision of a provider, which says how much may be put down to rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// The processor computes with the precision that the types have.
    OfTheType,
    /// The GPU multiplies float32 with ten bits (TF32), and chooses kernels by the number of rows.
    OfAGpu,
}

impl Precision {
    pub fn of(provider: Provider) -> Precision {
        match provider {
            Provider::Cpu => Precision::OfTheType,
            Provider::Cuda => Precision::OfAGpu,
        }
    }

    /// The relative difference that is allowed in runs of one shape.
    fn of_one_shape(self, dtype: DType) -> f64 {
        match (self, dtype) {
            // The same instructions on the same numbers.
            (Precision::OfTheType, _) => 0.0,
            // Threads may add in another order. Twice the distance of two neighbours, or more.
            (Precision::OfAGpu, DType::F16) => 2e-3,
            (Precision::OfAGpu, DType::BF16) => 1.6e-2,
            (Precision::OfAGpu, _) => 1e-5,
        }
    }

    /// The relative difference that is allowed in runs of different shapes.
    fn of_different_shapes(dtype: DType) -> f64 {
        match dtype {
            DType::BF16 => 5e-2,
            // Of 98 independent models, none differed by more than 1e-5; but normalising rows that are nearly constant,
            // as made-up ones can be, makes a hundred times more of rounding. What other rows change shows in runs of one
            // shape.
            _ => 1e-2,
        }
    }
}

/// Answers of more bytes than this are not compared: some ten of them are in memory at one time.
const MAX_ANSWER: usize = 32 << 20;

/// A run to compare has no more elements than this.
const MAX_ELEMENTS: usize = 1 << 24;

/// The way to compare the rows of a model.
#[derive(Debug, Clone)]
pub struct Comparing<'a> {
    /// The way to join them.
    pub joining: &'a Joining,
    /// The precision of the provider.
    pub precision: Precision,
    /// The outputs that are part of answers; `None` for all.
    pub answered: Option<&'a [Arc<str>]>,
    /// The most rows that requests share: a run of so many is compared, too.
    pub max_rows: usize,
}

/// An output, and what was observed of it so far.
struct ObservedOutput {
    output: Arc<str>,
    has_rows: bool,
    dependence: Option<Dependence>,
    rounding: f64,
}

/// Answers to the rows of a run, with their places among all rows.
type Answers = Vec<(usize, Tensors)>;

/// Runs `rows` (two or three of one row each, which differ) alone, together and among others, and compares the
/// answers. `run` runs the model. An error is one of the model: it does not run on these rows.
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

    // All together, and then with another one in the place of each: whichever has an influence, it is gone from one of
    // these.
    let together: Vec<usize> = (0..rows.len()).collect();
    let others: &[&[usize]] = if rows.len() > 2 { &[&[0, 1, 1], &[1, 1, 2], &[0, 0, 2]] } else { &[&[1, 1], &[0, 0]] };
    let together = observed.ask(&together, run)?;
    observed.hold_against_alone(&together, Runs::OfDifferentShapes);
    for others in others {
        let others = observed.ask(others, run)?;
        observed.hold_against(&together, &others, Runs::OfOneShape);
        observed.hold_against_alone(&others, Runs::OfDifferentShapes);
    }
    // What shows only in many rows: as many as requests share, as far as there is memory for them.
    let elements = first.row_elements().max(last.row_elements()).max(1);
    let many = comparing.max_rows.min(MAX_ANSWER / size.max(1)).min(MAX_ELEMENTS / elements);
    if many > rows.len() {
        let many: Vec<usize> = (0..many).map(|place| place % rows.len()).collect();
        let answers = observed.ask(&many, run)?;
        observed.hold_against_alone(&answers, Runs::OfDifferentShapes);
    }
    Ok(observed.conclude())
}

/// What was observed of the runs so far.
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
    /// Nothing yet, of these outputs.
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

    /// Runs these rows together.
    fn ask(&mut self, who: &[usize], run: &mut dyn FnMut(&Tensors) -> Result<Tensors>) -> Result<Answers> {
        let parts: Vec<_> = who.iter().map(|&row| (&self.rows[row], 0..1)).collect();
        let inputs = self.comparing.joining.gather(&parts);
        let inputs = inputs.ok_or_else(|| Error::internal("the rows to compare cannot be joined"))?;
        self.split(run(&inputs)?, who)
    }

    /// Gives each row of a run its answers, and notes which outputs lack rows.
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
    /// Compares the answers of a run with those that are known: in runs of one shape place by place, else row by row.
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

/// Returns what an output answers to each row.
fn answers_of<'a>(answers: &'a [(usize, Tensors)], output: &str) -> Vec<&'a Tensor> {
    answers.iter().filter_map(|(_, row)| row.get(output)).collect()
}

/// Returns true if the answers to two rows differ by more than rounding, and are numbers.
fn differ(one: &Tensor, other: &Tensor, usual: &Usual, precision: Precision) -> bool {
    let distance = distance(one, other, usual, Runs::OfOneShape);
    distance.is_none_or(|distance| distance > precision.of_one_shape(one.dtype())) && is_finite(one) && is_finite(other)
}

/// Returns true if different rows had different answers, in every output of numbers that is answered, or, where there is
/// none, in any output. One that was always the same says nothing, whatever others do.
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
    /// The finding of several comparisons: the first dependence, or independence if they were conclusive.
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
