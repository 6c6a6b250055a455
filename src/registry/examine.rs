//! Examines a version: runs it, checks its examples, measures its runs, and compares rows that run alone and together.
//!
//! This is done in the trial (`trial.rs`), so that it does not disturb requests. Without a trial, it is done when the
//! version is loaded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::findings::{Findings, FirstRows, GraphFinding, RowsFrom, WarmUp};
use super::first_run::{Lacking, Run, first_line};
use super::opened_version::OpenedVersion;
use super::rehearsal::rehearse;
use crate::config::Provider;
use crate::error::{Error, LoadFault, Result, is_about_memory};
use crate::machine;
use crate::model::{
    Comparing, Comparison, ElementBounds, Independence, Joining, MAX_PADDING, Precision, RARE_SIZES, RowShape, SIZES,
    Session, Stopwatch, Tried, Values, are_conclusive, compare, made_up, slow_run,
};
use crate::pipeline::Origin;
use crate::repository::{Differences, Refusal};
use crate::tensor::{DType, RowDimension, Signature, Tensors};

/// Minimum length that a text is padded to in a comparison, in tokens: a text of 6 tokens is padded to 7.
const MIN_PADDED: usize = 7;

/// A run that takes longer than this multiple of a request's budget is too slow, even on a busy machine.
const SLOWER_THAN_ANY_REQUEST: u32 = 4;

impl OpenedVersion {
    /// Runs a version a few times, and returns the findings. No run for comparing rows starts after `longest`.
    pub fn examine(&self, session: &mut dyn Session, longest: Duration) -> Result<Findings, Refusal> {
        rehearse(&*self.preprocessor, self.budget())?;
        let (warm_up, first_outputs) = self.first_run(&mut |inputs| session.run(inputs))?;
        self.check_golden(session)?;
        let slow_run = self.slow_run(session, &warm_up);
        let not_finite = first_outputs.as_ref().and_then(|outputs| self.remark_on_infinity(outputs));
        let mut asked = Asked { max_rows: self.rows_within_the_budget(slow_run), ..Asked::default() };
        self.ask(session, longest, &warm_up, &mut asked);
        if let Some(outputs) = first_outputs {
            self.look_at(&outputs, &mut asked);
            if let Some(names) = &asked.outputs {
                let has_rows = |name: &str| names.iter().any(|known| **known == *name);
                self.refuse_lacking(&asked.lacking, has_rows)?;
                // Checks only outputs that have one row per input row. Two rows of other outputs have another meaning.
                self.check_outputs(&outputs.keep(has_rows), &Origin::Unknown)?;
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
        let independence = self.independence(&warm_up, &asked);
        let mut remarks = self.remarks(&warm_up, asked.doubt.take());
        remarks.extend(not_finite);
        let example = self.find_example(session, &warm_up);
        let row_outputs = asked.outputs;
        let (bounds, sizing, graph, budget_problem) = (None, None, GraphFinding::Untried, None);
        Ok(Findings {
            warm_up,
            independence,
            padding,
            row_outputs,
            bounds,
            slow_run,
            sizing,
            graph,
            example,
            budget_problem,
            remarks,
        })
    }

    /// Measures runs of as few rows as possible, if the shape of real rows is known.
    fn slow_run(&self, session: &mut dyn Session, warm_up: &WarmUp) -> Option<Duration> {
        let WarmUp::Ran(rows) = warm_up else { return None };
        let inputs = rows.is_typical().then(|| self.inputs(rows, self.fewest_rows())).flatten()?;
        slow_run(session, &inputs, self.stopwatch())
    }

    /// Returns the maximum number of rows in a shared run that can be in time, if a run of one row takes this long.
    fn rows_within_the_budget(&self, one: Option<Duration>) -> usize {
        let by_time = one.map_or(f64::INFINITY, |one| self.budget().queue_and_run().div_duration_f64(one));
        self.max_shared_rows().min(by_time as usize)
    }

    /// Returns the clock that does not depend on other work of the machine, as far as the provider has one.
    pub(super) fn stopwatch(&self) -> Stopwatch {
        match self.loaded.provider() {
            Provider::Cpu => Stopwatch::ProcessorTime,
            Provider::Cuda => Stopwatch::WallTime,
        }
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
            let took = self.stopwatch().start();
            match session.run(inputs) {
                Ok(_) => {
                    Tried::Ran { bytes: before.map_or(0, |before| before.taken()), is_too_slow: took() > too_slow }
                }
                Err(error) if is_about_memory(&error.for_operators()) => Tried::OutOfMemory,
                Err(_) => Tried::Failed,
            }
        })
    }

    fn independence(&self, warm_up: &WarmUp, asked: &Asked) -> Independence {
        if let Some(rows) = self.rows_of_a_run(warm_up) {
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
    fn remarks(&self, warm_up: &WarmUp, doubt: Option<String>) -> Vec<String> {
        let mut remarks = self.preprocessor.assumptions();
        if let WarmUp::Ran(FirstRows { from: RowsFrom::Guess, shape, .. }) = warm_up {
            remarks.push(format!(
                "it ran on rows of guessed lengths ({}), so that the duration of a run is not known before the first \
                 request; write the lengths of a usual row in model.toml: [model] {}",
                shape.describe(self.signature()),
                RowShape::example(self.signature())
            ));
        }
        remarks.extend(self.postprocessor.assumptions());
        remarks.extend(remark_on_rows(self.signature()));
        if self.fixed_rows().is_none() && self.rows_of_a_run(warm_up) == Some(1) {
            remarks.push(
                "the model declares any number of rows, but runs with one only: each instance is a run of its own"
                    .to_owned(),
            );
        }
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

    /// Describes an output of the first run that is not finite, which may be on purpose.
    fn remark_on_infinity(&self, outputs: &Tensors) -> Option<String> {
        match self.postprocessor.decode(outputs, &Origin::Unknown) {
            Err(Error::NonFiniteOutput { output, .. }) => Some(format!(
                "the output {output:?} was NaN or infinity in the first run, on made-up values; a request with such an answer \
                 fails, unless [postprocess] has non_finite = \"null\" or \"text\" (kind = \"tensor\" or \"regressor\")"
            )),
            _ => None,
        }
    }

    /// Checks that the version predicts what its examples expect.
    pub(super) fn check_golden(&self, session: &mut dyn Session) -> Result<(), Refusal> {
        let Some(golden) = &self.verified.golden else { return Ok(()) };
        let wrong = |problem: String| Refusal::new(LoadFault::Golden, format!("golden.json: {problem}"));
        let mut differences = Differences::default();
        for (index, found) in self.predict(session, golden).enumerate() {
            let found = found.map_err(|error| wrong(format!("instances[{index}]: {error}")))?;
            golden.compare(index, &found, &mut differences);
        }
        differences.describe().map_or(Ok(()), |problem| Err(wrong(problem)))
    }
}

// ===== runs of rows that differ =====

/// Outputs of runs with different rows, and the conclusions from the outputs.
#[derive(Default)]
struct Asked {
    /// Maximum number of rows of a run.
    max_rows: usize,
    /// Comparisons of rows of one shape that run alone and together. Their outputs have been examined and are not kept.
    comparisons: Vec<Comparison>,
    /// Comparisons of texts of different lengths, where the shorter ones are padded.
    padded: Vec<Comparison>,
    /// The outputs that have one row per input row.
    outputs: Option<Vec<Arc<str>>>,
    /// Number of predicted classes that match the model's own label, and number of predicted classes compared.
    agreement: (usize, usize),
    /// First contradiction between the outputs and `model.toml`.
    contradiction: Option<String>,
    /// First sign of a mistake.
    doubt: Option<String>,
    /// Outputs that lacked rows in a run.
    lacking: Vec<Lacking>,
    /// First reason why rows could not be compared.
    problem: Option<String>,
}

impl Asked {
    fn saw(&mut self, outputs: &[Arc<str>]) {
        let seen = self.outputs.get_or_insert_with(|| outputs.to_vec());
        seen.retain(|name| outputs.contains(name));
    }

    fn failed(&mut self, error: &Error) {
        self.problem.get_or_insert_with(|| first_line(error));
    }

    /// Returns true if the comparisons so far suffice for a finding about the independence of rows.
    fn is_conclusive(&self) -> bool {
        are_conclusive(&self.comparisons)
    }
}

impl OpenedVersion {
    /// Runs the version's examples, the preprocessor's samples, and generated inputs.
    fn ask(&self, session: &mut dyn Session, longest: Duration, warm_up: &WarmUp, asked: &mut Asked) {
        let begin = Instant::now();
        let mut lacking: Vec<Lacking> = Vec::new();
        let mut run = |inputs: &Tensors| {
            if begin.elapsed() > longest {
                return Err(Error::internal("it takes too long"));
            }
            let outputs = session.run(inputs)?;
            for found in Lacking::find(inputs, &outputs) {
                if lacking.iter().all(|known| known.output != found.output) {
                    lacking.push(found);
                }
            }
            Ok(outputs)
        };
        match self.rows_of_a_run(warm_up) {
            Some(rows) => self.ask_a_fixed_batch(rows, warm_up, &mut run, asked),
            None => self.ask_rows(warm_up, &mut run, asked),
        }
        asked.lacking = lacking;
    }

    fn ask_rows(&self, warm_up: &WarmUp, run: &mut Run<'_>, asked: &mut Asked) {
        let joining = self.joining();
        for rows in [self.golden_rows(), self.sample_rows()].into_iter().flatten() {
            match self.padding {
                None => self.compare(&rows, &joining, run, asked),
                Some(_) => self.compare_texts(&rows, &joining, run, asked),
            }
        }
        // Skips generated inputs, which the preprocessor would never make, if its own samples were conclusive.
        if self.preprocessor.samples().is_some() && asked.is_conclusive() {
            return;
        }
        let mut conclusive_shapes = 0;
        for shape in self.shapes(warm_up) {
            let start = asked.comparisons.len();
            for values in Values::ALL {
                let is_conclusive = are_conclusive(&asked.comparisons[start..]);
                // If an input takes integers, masks of 0 and 1 are always tried.
                if is_conclusive && (values == Values::Large || !self.takes_whole_numbers()) {
                    break;
                }
                if let Some(rows) = made_up(self.signature(), 1, &shape, values) {
                    self.compare(&rows, &joining, run, asked);
                }
            }
            conclusive_shapes += usize::from(are_conclusive(&asked.comparisons[start..]));
            if conclusive_shapes == 2 {
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
        let precision = Precision::of(self.loaded.provider());
        Comparing { joining, precision, answered, max_rows, max_elements: None }
    }

    /// Returns the shapes of made-up rows to try: several lengths of open dimensions, and then the shape that ran, which
    /// may be large.
    fn shapes(&self, warm_up: &WarmUp) -> Vec<RowShape> {
        let signature = self.signature();
        let of_size = |size| RowShape::of_size(signature, size);
        let guessed: Vec<RowShape> = match warm_up {
            _ if signature.has_fixed_rows() => vec![of_size(1)],
            WarmUp::Ran(_) => SIZES.map(of_size).to_vec(),
            WarmUp::Failed { .. } => SIZES.into_iter().chain(RARE_SIZES).map(of_size).collect(),
        };
        match warm_up {
            WarmUp::Ran(rows) if !guessed.contains(&rows.shape) => [guessed, vec![rows.shape.clone()]].concat(),
            _ => guessed,
        }
    }

    /// Compares rows that run alone with the same rows run together, and examines their outputs.
    fn compare(&self, rows: &[Tensors], joining: &Joining, run: &mut Run<'_>, asked: &mut Asked) {
        let answered = self.postprocessor.answered();
        // A run of the maximum number of rows takes time, and is not repeated after a conclusive comparison.
        let max_rows = if asked.is_conclusive() { 0 } else { asked.max_rows };
        match compare(rows, &self.comparing(joining, answered.as_deref(), max_rows), run) {
            Ok(mut comparison) => {
                asked.saw(&comparison.outputs);
                std::mem::take(&mut comparison.alone).iter().for_each(|row| self.look_at(row, asked));
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
    fn ask_a_fixed_batch(&self, rows: usize, warm_up: &WarmUp, run: &mut Run<'_>, asked: &mut Asked) {
        if self.postprocessor.takes_one_row() {
            return;
        }
        for shape in self.shapes(warm_up) {
            let Some([inputs, ..]) = made_up(self.signature(), rows, &shape, Values::Small) else { continue };
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

/// Describes the inputs and outputs whose rows are not their first dimension.
fn remark_on_rows(signature: &Signature) -> Option<String> {
    let mut by_rows: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, rows) in &signature.row_dimensions {
        let place = match rows {
            RowDimension::At(index) => format!("dimension {index} holds the rows of"),
            RowDimension::None => "there are no rows in".to_owned(),
        };
        by_rows.entry(place).or_default().push(name);
    }
    let places: Vec<String> = by_rows.iter().map(|(place, names)| format!("{place} {}", names.join(", "))).collect();
    match &*places {
        [] => None,
        [_] if signature.row_dimensions.values().all(|rows| *rows == RowDimension::None)
            && signature.has_whole_inputs() =>
        {
            Some("each instance is one call of the model, with whole tensors".to_owned())
        }
        places => Some(places.join("; ")),
    }
}
