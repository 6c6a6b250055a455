//! What running a version a few times found, before anybody relies on it: whether it runs, whether the answers to rows
//! depend on each other, whether its examples hold, and what it takes for granted.
//!
//! This is done in the trial (`trial.rs`), so that it disturbs no request; without a trial, when the version is loaded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::opened::OpenedVersion;
use super::refusal::Refusal;
use crate::config::Batching;
use crate::error::{Error, LoadFault, Result};
use crate::model::{
    Company, Comparison, Independence, Joining, MOST_PADDING, Precision, SIZES, Session, Values, company, compare,
    made_up, zeros,
};
use crate::pipeline::Origin;
use crate::tensor::{Dim, Tensors};

/// No further rows are compared once this has passed: a model that takes seconds for a row would else not come through its
/// trial.
const LONGEST: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Whether it has been seen to run.
    pub warm_up: WarmUp,
    /// Whether the answers to its rows depend on each other.
    pub independence: Independence,
    /// Whether they depend on how far a row is filled up, where short rows could be.
    pub padding: Option<Independence>,
    /// The outputs that have one row per row of the inputs, if it has been seen to run.
    pub row_outputs: Option<Vec<Arc<str>>>,
    /// What looks as if it was not meant, and what was taken for granted because nothing says otherwise.
    pub remarks: Vec<String>,
}

/// What came of running a version before it is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WarmUp {
    /// It ran, and its outputs could be read.
    Ran,
    /// It did not run on inputs that had to be made up; a real request may fare better.
    Failed {
        /// What ONNX Runtime said.
        reason: String,
    },
}

impl Findings {
    /// Whether requests share runs, by what `model.toml` says.
    pub fn is_batched(&self, setting: Batching) -> bool {
        let is_fixed = matches!(self.independence, Independence::FixedBatch { .. });
        !is_fixed && company(setting, &self.independence) == Company::Shared
    }

    /// Whether short rows may be filled up to share a run with longer ones.
    pub fn may_be_padded(&self) -> bool {
        matches!(self.padding, Some(Independence::Independent { .. }))
    }
}

impl OpenedVersion {
    /// Runs a version a few times.
    pub(super) fn examine(&self, session: &mut dyn Session) -> Result<Findings, Refusal> {
        let (mut warm_up, of_zeros) = self.run_zeros(session)?;
        self.check_golden(session)?;
        let mut remarks = self.preprocessor.assumptions();
        remarks.extend(self.postprocessor.assumptions());

        let Asked { comparisons, padded, outputs, problem } = self.ask(session);
        if let (WarmUp::Failed { .. }, Some(first)) = (&warm_up, comparisons.first()) {
            // What zeros of a guessed shape could not show.
            first.alone.iter().try_for_each(|row| self.check_outputs(row))?;
            warm_up = WarmUp::Ran;
        }
        if let (Some(of_zeros), Some(names)) = (of_zeros, &outputs) {
            // An output of two rows is none of the two rows of zeros.
            self.check_outputs(&of_zeros.keep(|name| names.iter().any(|known| **known == *name)))?;
        }
        for row in comparisons.iter().flat_map(|comparison| &comparison.alone) {
            if let Some(contradiction) = self.postprocessor.contradiction(row) {
                return Err(Refusal::new(LoadFault::Config, contradiction));
            }
        }
        let doubts = comparisons.iter().flat_map(|comparison| &comparison.alone);
        remarks.extend(doubts.filter_map(|row| self.postprocessor.doubt(row)).next());
        let independence = match self.signature().batch_dim() {
            _ if self.postprocessor.takes_one_row() => Independence::FixedBatch { rows: 1 },
            Dim::Fixed(rows) => Independence::FixedBatch { rows },
            Dim::Dynamic(_) => Independence::of(&comparisons.iter().collect::<Vec<_>>(), || match &problem {
                Some(problem) if comparisons.is_empty() => format!("it could not be run on several rows ({problem})"),
                None if comparisons.is_empty() => {
                    "rows of this size take too long, or too much memory, to try".to_owned()
                }
                _ => "all rows that it was tried with had the same answer".to_owned(),
            }),
        };
        let padding = self.padding.as_ref().map(|_| {
            Independence::of(&padded.iter().collect::<Vec<_>>(), || "no two texts could be compared".to_owned())
        });
        Ok(Findings { warm_up, independence, padding, row_outputs: outputs, remarks })
    }

    /// Runs a session once on zeros, two rows where the batch is open, and reads the outputs as a request's would be:
    /// what fits together only by chance shows here and not in the first request.
    pub(super) fn warm_up(&self, session: &mut dyn Session) -> Result<WarmUp, Refusal> {
        self.run_zeros(session).map(|(warm_up, _)| warm_up)
    }

    fn run_zeros(&self, session: &mut dyn Session) -> Result<(WarmUp, Option<Tensors>), Refusal> {
        let signature = self.signature();
        let rows = match signature.batch_dim() {
            _ if self.postprocessor.takes_one_row() => 1,
            Dim::Fixed(rows) => rows,
            Dim::Dynamic(_) => 2,
        };
        let outputs = match session.run(&zeros(signature, rows)) {
            Ok(outputs) => outputs,
            // Zeros of a guessed shape need not make sense to the model.
            Err(error) if !signature.has_fixed_rows() => {
                let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
                return Ok((WarmUp::Failed { reason }, None));
            }
            Err(error) => return Err(Refusal::of(LoadFault::WarmUp)(error)),
        };
        let outputs = self.joining().per_row(outputs, rows).map_err(Refusal::of(LoadFault::WarmUp))?;
        self.check_outputs(&outputs)?;
        Ok((WarmUp::Ran, Some(outputs)))
    }

    fn check_outputs(&self, outputs: &Tensors) -> Result<(), Refusal> {
        match self.postprocessor.decode(outputs, &Origin::Unknown) {
            // log(0) is the model's right; what is made up is no real input.
            Ok(_) | Err(Error::NonFiniteOutput { .. }) => Ok(()),
            Err(error) => Err(Refusal::of(LoadFault::WarmUp)(error)),
        }
    }

    /// Checks that the version predicts what its examples expect.
    pub(super) fn check_golden(&self, session: &mut dyn Session) -> Result<(), Refusal> {
        let Some(golden) = &self.verified.golden else { return Ok(()) };
        let wrong = |problem: String| Refusal::new(LoadFault::Golden, format!("golden.json: {problem}"));
        for (index, found) in self.predict(session, golden).enumerate() {
            let found = found.map_err(|error| wrong(format!("instances[{index}]: {error}")))?;
            golden.check(index, &found).map_err(|difference| {
                wrong(format!("{difference}: the model does not predict what it did when the examples were made"))
            })?;
        }
        Ok(())
    }
}

// ===== asking with rows that differ =====

/// What came of asking.
#[derive(Default)]
struct Asked {
    /// Of rows of one shape.
    comparisons: Vec<Comparison>,
    /// Of rows of which one is filled up.
    padded: Vec<Comparison>,
    /// The outputs that have one row per row.
    outputs: Option<Vec<Arc<str>>>,
    /// What the model said where it did not run.
    problem: Option<String>,
}

impl Asked {
    fn saw(&mut self, outputs: &[Arc<str>]) {
        let seen = self.outputs.get_or_insert_with(|| outputs.to_vec());
        seen.retain(|name| outputs.contains(name));
    }

    fn failed(&mut self, error: &Error) {
        let told = error.detail().map_or_else(|| error.to_string(), str::to_owned);
        self.problem.get_or_insert_with(|| told.lines().next().unwrap_or_default().to_owned());
    }
}

impl OpenedVersion {
    /// Asks with the version's examples, with what the preprocessor makes up, and with inputs that are made up.
    fn ask(&self, session: &mut dyn Session) -> Asked {
        let mut asked = Asked::default();
        if self.postprocessor.takes_one_row() {
            return asked;
        }
        if let Dim::Fixed(rows) = self.signature().batch_dim() {
            self.ask_a_fixed_batch(session, rows.max(1), &mut asked);
            return asked;
        }
        let begin = Instant::now();
        let joining = self.joining();
        let mut add = |rows: &[Tensors], joining: &Joining, asked: &mut Asked| -> bool {
            if begin.elapsed() > LONGEST {
                return false;
            }
            let precision = Precision::of(self.loaded.provider());
            match compare(rows, joining, precision, &mut |inputs| session.run(inputs)) {
                Ok(comparison) => {
                    asked.saw(&comparison.outputs);
                    let tells = comparison.tells;
                    asked.comparisons.push(comparison);
                    tells
                }
                Err(error) => {
                    asked.failed(&error);
                    false
                }
            }
        };

        let own: Vec<Vec<Tensors>> = [self.golden_rows(), self.sample_rows()].into_iter().flatten().collect();
        for rows in &own {
            match self.padding {
                None => {
                    add(rows, &joining, &mut asked);
                }
                Some(_) => {
                    let shortest = rows.iter().map(Tensors::row_length).min().unwrap_or_default();
                    for length in [shortest, shortest.min(8)] {
                        add(&cut(rows, [length; 3]), &joining, &mut asked);
                    }
                    let a_little_less = (shortest as f64 * (1.0 - MOST_PADDING)).ceil() as usize;
                    if a_little_less < shortest {
                        let mut of_padded = Asked::default();
                        add(&cut(rows, [a_little_less, shortest, shortest]), &joining, &mut of_padded);
                        asked.padded.append(&mut of_padded.comparisons);
                    }
                }
            }
        }
        // Where the preprocessor knows what rows are like, inputs that it would never make say nothing.
        if self.preprocessor.samples().is_some() && asked.comparisons.iter().any(|comparison| comparison.tells) {
            return asked;
        }
        let mut sizes_that_tell = 0;
        for size in if self.signature().has_fixed_rows() { &SIZES[..1] } else { &SIZES[..] } {
            let tells = Values::ALL.into_iter().any(|values| {
                made_up(self.signature(), 1, *size, values).is_some_and(|rows| add(&rows, &joining, &mut asked))
            });
            sizes_that_tell += usize::from(tells);
            if sizes_that_tell == 2 {
                break;
            }
        }
        asked
    }

    /// There is nothing to compare: only which outputs have rows.
    fn ask_a_fixed_batch(&self, session: &mut dyn Session, rows: usize, asked: &mut Asked) {
        for size in if self.signature().has_fixed_rows() { &SIZES[..1] } else { &SIZES[..] } {
            let Some([inputs, ..]) = made_up(self.signature(), rows, *size, Values::Small) else { continue };
            match session.run(&inputs) {
                Ok(outputs) => {
                    let of_rows = outputs.iter().filter(|(_, output)| output.rows() == rows);
                    asked.saw(&of_rows.map(|(name, _)| Arc::clone(name)).collect::<Vec<_>>());
                }
                Err(error) => asked.failed(&error),
            }
        }
    }

    /// The first three of its examples that differ and have one shape; at least two.
    fn golden_rows(&self) -> Option<Vec<Tensors>> {
        let golden = self.verified.golden.as_ref()?;
        let instances = (0..golden.instances.len()).map_while(|index| golden.request(index..index + 1).ok());
        self.rows_of(instances.filter_map(|instance| self.inputs_of(&instance).ok()))
    }

    /// What the preprocessor makes up.
    fn sample_rows(&self) -> Option<Vec<Tensors>> {
        let samples = self.preprocessor.samples()?;
        let made = samples.into_iter().filter_map(|sample| {
            let instances = serde_json::value::RawValue::from_string(format!("[{sample}]")).ok()?;
            self.inputs_of(&instances).ok()
        });
        self.rows_of(made)
    }

    fn rows_of(&self, inputs: impl Iterator<Item = Tensors>) -> Option<Vec<Tensors>> {
        let mut rows: Vec<Tensors> = Vec::with_capacity(3);
        for row in inputs {
            let fits = rows.first().is_none_or(|first| self.padding.is_some() || first.stacks_with(&row));
            if fits && !rows.contains(&row) {
                rows.push(row);
            }
            if rows.len() == 3 {
                break;
            }
        }
        (rows.len() >= 2).then_some(rows)
    }
}

/// Rows of texts, each cut to a length.
fn cut(rows: &[Tensors], lengths: [usize; 3]) -> Vec<Tensors> {
    rows.iter().zip(lengths).map(|(row, length)| row.clone().shortened(length, |_| true)).collect()
}
