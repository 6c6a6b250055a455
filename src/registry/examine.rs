//! Examines a version with its first runs: runs it, checks its examples, and compares rows that run alone and together.
//!
//! This is done in the trial (`trial.rs`), so that it does not disturb requests. Without a trial, it is done when the
//! version is loaded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::findings::{Findings, WarmUp};
use super::opened_version::OpenedVersion;
use super::rehearsal::rehearse;
use crate::error::{Error, LoadFault, Result};
use crate::machine;
use crate::model::{
    Comparing, Comparison, ElementBounds, Independence, Joining, MAX_PADDING, Precision, SIZES, Session, Tried, Values,
    are_conclusive, compare, made_up, zeros,
};
use crate::pipeline::Origin;
use crate::repository::{Refusal, is_about_memory};
use crate::tensor::{DType, RowDimension, Signature, Tensors};

/// Minimum length that a text is padded to in a comparison, in tokens: a text of 6 tokens is padded to 7.
const MIN_PADDED: usize = 7;

/// A run that takes longer than this multiple of a request's budget is too slow, even on a busy machine.
const SLOWER_THAN_ANY_REQUEST: u32 = 4;

/// Function that runs a model on inputs.
type Run<'a> = dyn FnMut(&Tensors) -> Result<Tensors> + 'a;

impl OpenedVersion {
    /// Runs a version a few times, and returns the findings. No run for comparing rows starts after `longest`.
    pub fn examine(&self, session: &mut dyn Session, longest: Duration) -> Result<Findings, Refusal> {
        rehearse(&*self.preprocessor, self.budget())?;
        let (mut warm_up, of_zeros) = self.run_zeros(session)?;
        self.check_golden(session)?;
        let mut asked = Asked::default();
        self.ask(session, longest, &mut asked);
        if let (WarmUp::Failed { .. }, Some(rows)) = (&warm_up, &asked.first_answers) {
            // Checks the outputs of real rows, because zeros of a guessed shape did not run.
            rows.iter().try_for_each(|row| self.check_outputs(row))?;
            warm_up = WarmUp::Ran;
        }
        if let Some(of_zeros) = of_zeros {
            self.look_at(&of_zeros, &mut asked);
            if let Some(names) = &asked.outputs {
                // Checks only outputs that have one row per input row. Two rows of other outputs have another meaning.
                self.check_outputs(&of_zeros.keep(|name| names.iter().any(|known| **known == *name)))?;
            }
        }
        if let Some(contradiction) = asked.contradiction.take() {
            return Err(Refusal::new(LoadFault::Config, contradiction));
        }
        let (same, all) = asked.agreement;
        if 2 * same < all {
            return Err(Refusal::new(
                LoadFault::Config,
                format!(
                    "scores: in {} of {all} rows that were tried, the model's own label is not the class with the highest \
                     score: the output does not have one score for each class, in order; name another output, or export the \
                     model with probabilities",
                    all - same
                ),
            ));
        }
        let padding = self
            .padding
            .as_ref()
            .map(|_| Independence::of(&asked.padded, || "no two texts could be compared".to_owned()));
        Ok(Findings {
            warm_up,
            independence: self.independence(&asked),
            padding,
            remarks: self.remarks(asked.doubt.take()),
            row_outputs: asked.outputs,
            bounds: None,
        })
    }

    /// Finds the maximum length of rows for which a run takes at most `max_bytes`. Use it only in a separate process: a
    /// run may take all memory.
    pub(super) fn find_bounds(&self, session: &mut dyn Session, max_bytes: u64, longest: Duration) -> ElementBounds {
        let begin = Instant::now();
        let too_slow = SLOWER_THAN_ANY_REQUEST * self.total_budget();
        ElementBounds::find(self.signature(), max_bytes, self.max_shared_rows(), |inputs| {
            if begin.elapsed() > longest {
                return Tried::NoTime;
            }
            let before = machine::reset_peak_memory();
            let start = Instant::now();
            match session.run(inputs) {
                Ok(_) => Tried::Ran {
                    bytes: before.map_or(0, |before| before.taken()),
                    is_too_slow: start.elapsed() > too_slow,
                },
                Err(error) if is_about_memory(&error.for_operators()) => Tried::OutOfMemory,
                Err(_) => Tried::Failed,
            }
        })
    }

    fn independence(&self, asked: &Asked) -> Independence {
        if let Some(rows) = self.fixed_rows() {
            return Independence::FixedBatch { rows };
        }
        Independence::of(&asked.comparisons, || match &asked.problem {
            Some(problem) if asked.comparisons.is_empty() => {
                format!("several rows could not be run and compared ({problem})")
            }
            None if asked.comparisons.is_empty() => "its rows are too large to be generated".to_owned(),
            _ => "an output was the same for all rows that were tried".to_owned(),
        })
    }

    /// Returns the assumptions of the stages, and signs of mistakes, for the person who adds the version.
    fn remarks(&self, doubt: Option<String>) -> Vec<String> {
        let mut remarks = self.preprocessor.assumptions();
        remarks.extend(self.postprocessor.assumptions());
        remarks.extend(remark_on_rows(self.signature()));
        if self.preprocessor.padding().is_some() && self.padding.is_none() {
            remarks.push(
                "only texts of one length share a run: the dimension of the tokens must have the same name in all inputs \
                 and outputs of the model, and no other dimension may have it"
                    .to_owned(),
            );
        }
        remarks.extend(doubt);
        remarks
    }

    /// Runs a session once on zeros (two rows if the batch dimension is dynamic), and decodes the outputs like those of
    /// a request. Stages that do not fit the model fail here, and not in the first request.
    pub(super) fn warm_up(&self, session: &mut dyn Session) -> Result<WarmUp, Refusal> {
        self.run_zeros(session).map(|(warm_up, _)| warm_up)
    }

    fn run_zeros(&self, session: &mut dyn Session) -> Result<(WarmUp, Option<Tensors>), Refusal> {
        let signature = self.signature();
        let rows = self.fixed_rows().unwrap_or(2);
        let outputs = match session.run(&zeros(signature, rows)) {
            Ok(outputs) => outputs,
            // Not a refusal: the model may reject zeros of a guessed shape, or zeros that stand for sizes or divisors
            // among whole tensors, but accept real requests.
            Err(error) if !signature.has_fixed_rows() || takes_whole_tensors(signature) => {
                let reason = error.for_operators();
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
            // Accepts outputs that are not finite: generated inputs may lead to log(0).
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

// ===== runs of rows that differ =====

/// Outputs of runs with different rows, and the conclusions from the outputs.
#[derive(Default)]
struct Asked {
    /// Comparisons of rows of one shape that run alone and together. Their outputs have been examined and are not kept.
    comparisons: Vec<Comparison>,
    /// Comparisons of texts of different lengths, where the shorter ones are padded.
    padded: Vec<Comparison>,
    /// Outputs of the rows of the first comparison, each run alone.
    first_answers: Option<Vec<Tensors>>,
    /// The outputs that have one row per input row.
    outputs: Option<Vec<Arc<str>>>,
    /// Number of predicted classes that match the model's own label, and number of predicted classes compared.
    agreement: (usize, usize),
    /// First contradiction between the outputs and `model.toml`.
    contradiction: Option<String>,
    /// First sign of a mistake.
    doubt: Option<String>,
    /// First reason why rows could not be compared.
    problem: Option<String>,
}

impl Asked {
    fn saw(&mut self, outputs: &[Arc<str>]) {
        let seen = self.outputs.get_or_insert_with(|| outputs.to_vec());
        seen.retain(|name| outputs.contains(name));
    }

    fn failed(&mut self, error: &Error) {
        let told = error.for_operators();
        self.problem.get_or_insert_with(|| told.lines().next().unwrap_or_default().to_owned());
    }

    /// Returns true if the comparisons so far suffice for a finding about the independence of rows.
    fn is_conclusive(&self) -> bool {
        are_conclusive(&self.comparisons)
    }
}

impl OpenedVersion {
    /// Runs the version's examples, the preprocessor's samples, and generated inputs.
    fn ask(&self, session: &mut dyn Session, longest: Duration, asked: &mut Asked) {
        let begin = Instant::now();
        let mut run = |inputs: &Tensors| match begin.elapsed() > longest {
            true => Err(Error::internal("it takes too long")),
            false => session.run(inputs),
        };
        if let Some(rows) = self.fixed_rows() {
            return self.ask_a_fixed_batch(rows, &mut run, asked);
        }
        let joining = self.joining();
        for rows in [self.golden_rows(), self.sample_rows()].into_iter().flatten() {
            match self.padding {
                None => self.compare(&rows, &joining, &mut run, asked),
                Some(_) => self.compare_texts(&rows, &joining, &mut run, asked),
            }
        }
        // Skips generated inputs, which the preprocessor would never make, if its own samples were conclusive.
        if self.preprocessor.samples().is_some() && asked.is_conclusive() {
            return;
        }
        let mut conclusive_sizes = 0;
        for size in self.sizes() {
            let start = asked.comparisons.len();
            for values in Values::ALL {
                let is_conclusive = are_conclusive(&asked.comparisons[start..]);
                // If an input takes integers, masks of 0 and 1 are always tried.
                if is_conclusive && (values == Values::Large || !self.takes_whole_numbers()) {
                    break;
                }
                if let Some(rows) = made_up(self.signature(), 1, *size, values) {
                    self.compare(&rows, &joining, &mut run, asked);
                }
            }
            conclusive_sizes += usize::from(are_conclusive(&asked.comparisons[start..]));
            if conclusive_sizes == 2 {
                break;
            }
        }
    }

    fn takes_whole_numbers(&self) -> bool {
        let is_whole =
            |dtype: DType| !matches!(dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16 | DType::Text);
        self.signature().inputs.iter().any(|input| is_whole(input.dtype))
    }

    fn comparing<'a>(&self, joining: &'a Joining, answered: Option<&'a [Arc<str>]>, max_rows: usize) -> Comparing<'a> {
        Comparing { joining, precision: Precision::of(self.loaded.provider()), answered, max_rows }
    }

    /// Returns the lengths to try for dynamic dimensions.
    fn sizes(&self) -> &'static [usize] {
        if self.signature().has_fixed_rows() { &SIZES[..1] } else { &SIZES }
    }

    /// Compares rows that run alone with the same rows run together, and examines their outputs.
    fn compare(&self, rows: &[Tensors], joining: &Joining, run: &mut Run<'_>, asked: &mut Asked) {
        let answered = self.postprocessor.answered();
        // A run of the maximum number of rows takes time, and is not repeated after a conclusive comparison.
        let max_rows = if asked.is_conclusive() { 0 } else { self.max_shared_rows() };
        match compare(rows, &self.comparing(joining, answered.as_deref(), max_rows), run) {
            Ok(mut comparison) => {
                asked.saw(&comparison.outputs);
                let answers = std::mem::take(&mut comparison.alone);
                answers.iter().for_each(|row| self.look_at(row, asked));
                asked.first_answers.get_or_insert(answers);
                asked.comparisons.push(comparison);
            }
            Err(error) => asked.failed(&error),
        }
    }

    /// Compares texts of equal length (one or two lengths), and texts of different lengths that are padded.
    fn compare_texts(&self, rows: &[Tensors], joining: &Joining, run: &mut Run<'_>, asked: &mut Asked) {
        let shortest = rows.iter().map(Tensors::row_length).min().unwrap_or_default();
        self.compare(&cut(rows, [shortest; 3]), joining, run, asked);
        if shortest > 8 {
            self.compare(&cut(rows, [8; 3]), joining, run, asked);
        }
        let answered = self.postprocessor.answered();
        // The shortest and the longest length that texts are padded to here.
        for longer in [MIN_PADDED, shortest] {
            let shorter = (longer as f64 * (1.0 - MAX_PADDING)).ceil() as usize;
            if longer <= shortest && shorter < longer {
                let rows = cut(rows, [shorter, longer, longer]);
                asked.padded.extend(compare(&rows, &self.comparing(joining, answered.as_deref(), 0), run).ok());
            }
        }
    }

    /// Examines the outputs of a fixed batch, which allows no comparison, and finds those with one row per input row.
    fn ask_a_fixed_batch(&self, rows: usize, run: &mut Run<'_>, asked: &mut Asked) {
        if self.postprocessor.takes_one_row() {
            return;
        }
        for size in self.sizes() {
            let Some([inputs, ..]) = made_up(self.signature(), rows, *size, Values::Small) else { continue };
            match run(&inputs) {
                Ok(outputs) => {
                    let of_rows = outputs.keep_rows(rows);
                    asked.saw(&of_rows.iter().map(|(name, _)| Arc::clone(name)).collect::<Vec<_>>());
                    self.look_at(&of_rows, asked);
                }
                Err(error) => asked.failed(&error),
            }
        }
    }

    /// Records the postprocessor's findings about outputs: agreement with the label, contradictions, doubts.
    fn look_at(&self, outputs: &Tensors, asked: &mut Asked) {
        let (same, all) = self.postprocessor.agreement(outputs);
        asked.agreement = (asked.agreement.0 + same, asked.agreement.1 + all);
        if asked.contradiction.is_none() {
            asked.contradiction = self.postprocessor.contradiction(outputs);
        }
        if asked.doubt.is_none() {
            asked.doubt = self.postprocessor.doubt(outputs);
        }
    }

    /// Returns the model inputs of the first two or three golden examples that differ and have one shape.
    fn golden_rows(&self) -> Option<Vec<Tensors>> {
        let golden = self.verified.golden.as_ref()?;
        let instances = (0..golden.instances.len()).map_while(|index| golden.request(index..index + 1).ok());
        self.rows_of(instances.filter_map(|instance| self.inputs_of(&instance).ok()))
    }

    /// Returns the model inputs of the preprocessor's samples.
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

/// Returns the model inputs of three texts, each cut to its length in `lengths`.
fn cut(rows: &[Tensors], lengths: [usize; 3]) -> Vec<Tensors> {
    rows.iter().zip(lengths).map(|(row, length)| row.clone().shortened(length, |_| true)).collect()
}

/// Returns true if an input belongs to one instance as a whole.
fn takes_whole_tensors(signature: &Signature) -> bool {
    signature.inputs.iter().any(|input| signature.row_dimensions.get(&input.name) == Some(&RowDimension::None))
}

/// Describes the inputs and outputs whose rows are not their first dimension.
fn remark_on_rows(signature: &Signature) -> Option<String> {
    let place = |(name, rows): (&Arc<str>, &RowDimension)| match rows {
        RowDimension::At(index) => format!("dimension {index} of {name:?} holds the rows"),
        RowDimension::None => format!("{name:?} has no rows"),
    };
    let places: Vec<String> = signature.row_dimensions.iter().map(place).collect();
    (!places.is_empty()).then(|| places.join(", "))
}
