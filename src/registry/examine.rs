//! Examines a version with its first runs: runs it, checks its examples, compares rows that run alone and together.
//!
//! This is done in the trial (`trial.rs`), so that it disturbs no request; without a trial, when the version is loaded.

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
use crate::tensor::{DType, Tensors};

/// The shortest text that a still shorter one is padded to share a run with: 6 of 7 tokens.
const MIN_PADDED: usize = 7;

/// A run that takes this many times the budget of a request is too slow, however busy the machine is now.
const SLOWER_THAN_ANY_REQUEST: u32 = 4;

/// Runs a model.
type Run<'a> = dyn FnMut(&Tensors) -> Result<Tensors> + 'a;

impl OpenedVersion {
    /// Runs a version a few times. Comparing rows takes no longer than `longest`, and the run that goes on then.
    pub fn examine(&self, session: &mut dyn Session, longest: Duration) -> Result<Findings, Refusal> {
        rehearse(&*self.preprocessor, self.budget())?;
        let (mut warm_up, of_zeros) = self.run_zeros(session)?;
        self.check_golden(session)?;
        let mut asked = Asked::default();
        self.ask(session, longest, &mut asked);
        if let (WarmUp::Failed { .. }, Some(rows)) = (&warm_up, &asked.first_answers) {
            // What zeros of a guessed shape could not show.
            rows.iter().try_for_each(|row| self.check_outputs(row))?;
            warm_up = WarmUp::Ran;
        }
        if let Some(of_zeros) = of_zeros {
            self.look_at(&of_zeros, &mut asked);
            if let Some(names) = &asked.outputs {
                // An output of two rows is none of the two rows of zeros.
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
                    "scores: of {all} rows that were tried, the model itself names another class than its scores in {}: they are \
                     not one score for each class, in order; name another output, or export the model with probabilities",
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
            None if asked.comparisons.is_empty() => "its rows are too large to be made up".to_owned(),
            _ => "an output was the same for all rows that it was tried with".to_owned(),
        })
    }

    /// Assumptions, and things that look like mistakes.
    fn remarks(&self, doubt: Option<String>) -> Vec<String> {
        let mut remarks = self.preprocessor.assumptions();
        remarks.extend(self.postprocessor.assumptions());
        if self.preprocessor.padding().is_some() && self.padding.is_none() {
            remarks.push(
                "only texts of one length share a run: the model does not name the tokens' dimension alike in its inputs and \
                 outputs, and nowhere else"
                    .to_owned(),
            );
        }
        remarks.extend(doubt);
        remarks
    }

    /// Runs a session once on zeros, two rows where the batch is open, and reads the outputs as a request's would be:
    /// what fits together only by chance shows here and not in the first request.
    pub(super) fn warm_up(&self, session: &mut dyn Session) -> Result<WarmUp, Refusal> {
        self.run_zeros(session).map(|(warm_up, _)| warm_up)
    }

    fn run_zeros(&self, session: &mut dyn Session) -> Result<(WarmUp, Option<Tensors>), Refusal> {
        let signature = self.signature();
        let rows = self.fixed_rows().unwrap_or(2);
        let outputs = match session.run(&zeros(signature, rows)) {
            Ok(outputs) => outputs,
            // Zeros of a guessed shape need not make sense to the model.
            Err(error) if !signature.has_fixed_rows() => {
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

/// Answers to rows that differ, and what they show.
#[derive(Default)]
struct Asked {
    /// Of rows of one shape. Their answers have been looked at, and are not kept.
    comparisons: Vec<Comparison>,
    /// Of rows of which one is padded.
    padded: Vec<Comparison>,
    /// The answers of the first comparison.
    first_answers: Option<Vec<Tensors>>,
    /// The outputs that have one row per row.
    outputs: Option<Vec<Arc<str>>>,
    /// Of the classes that were answered, those that the model itself names, and all of which it names one.
    agreement: (usize, usize),
    /// The first thing that contradicts `model.toml`.
    contradiction: Option<String>,
    /// The first thing that looks as if it was not meant.
    doubt: Option<String>,
    /// The first reason why rows could not be compared.
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

    /// True if the answers so far say something about independence.
    fn is_conclusive(&self) -> bool {
        are_conclusive(&self.comparisons)
    }
}

impl OpenedVersion {
    /// Asks with the version's examples, with what the preprocessor makes up, and with inputs that are made up.
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
        // Where the preprocessor knows what rows are like, inputs that it would never make say nothing.
        if self.preprocessor.samples().is_some() && asked.is_conclusive() {
            return;
        }
        let mut conclusive_sizes = 0;
        for size in self.sizes() {
            let start = asked.comparisons.len();
            for values in Values::ALL {
                let is_conclusive = are_conclusive(&asked.comparisons[start..]);
                // Where there are whole numbers, masks of 0 and 1 are always tried.
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

    /// The lengths to try for open dimensions.
    fn sizes(&self) -> &'static [usize] {
        if self.signature().has_fixed_rows() { &SIZES[..1] } else { &SIZES }
    }

    /// Compares rows, and looks at their answers.
    fn compare(&self, rows: &[Tensors], joining: &Joining, run: &mut Run<'_>, asked: &mut Asked) {
        let answered = self.postprocessor.answered();
        // A run of as many rows as requests share takes time: one that is conclusive is enough.
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

    /// Compares texts of one length, of another one, and of lengths that are padded to share a run.
    fn compare_texts(&self, rows: &[Tensors], joining: &Joining, run: &mut Run<'_>, asked: &mut Asked) {
        let shortest = rows.iter().map(Tensors::row_length).min().unwrap_or_default();
        self.compare(&cut(rows, [shortest; 3]), joining, run, asked);
        if shortest > 8 {
            self.compare(&cut(rows, [8; 3]), joining, run, asked);
        }
        let answered = self.postprocessor.answered();
        // The shortest that can be padded, and the longest.
        for longer in [MIN_PADDED, shortest] {
            let shorter = (longer as f64 * (1.0 - MAX_PADDING)).ceil() as usize;
            if longer <= shortest && shorter < longer {
                let rows = cut(rows, [shorter, longer, longer]);
                asked.padded.extend(compare(&rows, &self.comparing(joining, answered.as_deref(), 0), run).ok());
            }
        }
    }

    /// There is nothing to compare: looks at the outputs, and which of them have rows.
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

    /// Asks the postprocessor about outputs.
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

    /// The first three of its examples that differ and have one shape; at least two.
    fn golden_rows(&self) -> Option<Vec<Tensors>> {
        let golden = self.verified.golden.as_ref()?;
        let instances = (0..golden.instances.len()).map_while(|index| golden.request(index..index + 1).ok());
        self.rows_of(instances.filter_map(|instance| self.inputs_of(&instance).ok()))
    }

    /// Rows of the instances that the preprocessor makes up.
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
