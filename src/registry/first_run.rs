//! The first run of a version: finds rows that the model runs on, and decodes the outputs like those of a request.
//! Stages that do not fit the model fail here, and not in the first request.
//!
//! The shape of a row is known if the model has no open dimensions, if `model.warm_up` or an example gives it, or if the
//! preprocessor makes rows of one shape only. Otherwise, several lengths are tried.

use std::fmt;
use std::sync::Arc;

use super::findings::{Attempt, FirstRows, FirstValues, RowsFrom, WarmUp};
use super::opened_version::OpenedVersion;
use crate::budget::Deadline;
use crate::error::{Error, LoadFault, Result, SetupError};
use crate::model::{RARE_SIZES, RowShape, SIZES, Session, Values, made_up, zeros};
use crate::pipeline::{Origin, Prepared};
use crate::repository::Refusal;
use crate::tensor::Tensors;

/// Maximum number of elements of a row of guessed lengths. A larger row may take gigabytes in a network for images.
const MAX_GUESSED: usize = 1 << 21;

/// Runs that failed, each with the source of its rows.
type Attempts = Vec<(RowsFrom, Attempt)>;

/// Function that runs a model on inputs.
pub(super) type Run<'a> = dyn FnMut(&Tensors) -> Result<Tensors> + 'a;

impl OpenedVersion {
    /// Runs a session on the rows of the first run that succeeded.
    pub(super) fn warm_up(&self, session: &mut dyn Session, found: &WarmUp) -> Result<(), Refusal> {
        let WarmUp::Ran(rows) = found else { return Ok(()) };
        let Some(inputs) = self.inputs(rows, rows.count) else { return Ok(()) };
        let outputs = session.run(&inputs).map_err(Refusal::of(LoadFault::WarmUp))?;
        self.decode_first(&inputs, outputs).map(drop)
    }

    /// Finds rows that the model runs on. Returns the result, and the outputs of the rows that ran.
    pub(super) fn first_run(&self, run: &mut Run<'_>) -> Result<(WarmUp, Option<Tensors>), Refusal> {
        // Two rows tell the rows from other dimensions. A model may run with one row only, whatever it declares.
        let counts = self.fixed_rows().map_or_else(|| vec![2, 1], |rows| vec![rows]);
        let mut failed = Vec::new();
        for count in counts {
            match self.run_rows(count, run)? {
                Ok((rows, outputs)) => return Ok((WarmUp::Ran(rows), Some(outputs))),
                // The attempts with two rows say more than those with one.
                Err(attempts) if failed.is_empty() => failed = attempts,
                Err(_) => {}
            }
        }
        self.did_not_run(failed).map(|warm_up| (warm_up, None))
    }

    /// Runs rows until the model runs on some. Returns these and their outputs, or the attempts that failed. Refuses the
    /// version if the outputs cannot be decoded.
    fn run_rows(&self, count: usize, run: &mut Run<'_>) -> Result<Result<(FirstRows, Tensors), Attempts>, Refusal> {
        let (mut attempts, mut misfit) = (Vec::new(), None);
        for rows in self.first_rows(count)? {
            let Some(inputs) = self.inputs(&rows, count) else { continue };
            let outputs = match run(&inputs) {
                Ok(outputs) => outputs,
                Err(error) => {
                    let attempt = Attempt { inputs: shapes(&inputs), problem: first_line(&error) };
                    attempts.push((rows.from, attempt));
                    continue;
                }
            };
            match (self.decode_first(&inputs, outputs), rows.from) {
                (Ok(outputs), _) => {
                    self.decode_a_sample(run)?;
                    return Ok(Ok((rows, outputs)));
                }
                // Rows of other lengths may have outputs that can be decoded.
                (Err(refusal), RowsFrom::Guess) => misfit = misfit.or(Some(refusal)),
                (Err(refusal), _) => return Err(refusal),
            }
        }
        misfit.map_or(Ok(Err(attempts)), Err)
    }

    /// Returns the result of a first run in which all attempts failed. Refuses the version if its real rows would fail,
    /// too.
    fn did_not_run(&self, attempts: Attempts) -> Result<WarmUp, Refusal> {
        let of = |wanted| attempts.iter().find(|(from, _)| *from == wanted).map(|(_, attempt)| attempt);
        if let Some(Attempt { inputs, problem }) = of(RowsFrom::Settings) {
            return Err(self.in_model_toml(SetupError::Config(format!(
                "model.warm_up: the model does not run on rows of these lengths ({inputs}): {problem}"
            ))));
        }
        // Whole tensors may be sizes or divisors, which cannot be made up.
        let of_signature = of(RowsFrom::Signature).filter(|_| !self.signature().has_whole_inputs());
        if let Some(Attempt { inputs, problem }) = of_signature {
            let problem = format!("the model does not run on made-up rows ({inputs}): {problem}");
            return Err(Refusal::new(LoadFault::WarmUp, problem));
        }
        let mut failed: Vec<Attempt> = Vec::new();
        for (_, attempt) in attempts {
            if failed.iter().all(|known| known.inputs != attempt.inputs) {
                failed.push(attempt);
            }
        }
        let example = (!self.signature().has_fixed_rows()).then(|| RowShape::example(self.signature()));
        Ok(WarmUp::Failed { attempts: failed, example })
    }

    /// Returns `count` rows for a run.
    pub(super) fn inputs(&self, rows: &FirstRows, count: usize) -> Option<Tensors> {
        match rows.values {
            FirstValues::Zeros => Some(zeros(self.signature(), count, &rows.shape)),
            FirstValues::MadeUp(values) => {
                made_up(self.signature(), count, &rows.shape, values).map(|[_, usual, _]| usual)
            }
            FirstValues::OfAnInstance => {
                let one = match rows.from {
                    RowsFrom::Examples => self.example_inputs()?,
                    _ => self.prepared_sample()?.inputs,
                };
                let parts = vec![(&one, 0..one.rows()); count / one.rows().max(1)];
                Tensors::gather(&parts)
            }
        }
    }

    /// Returns the rows to try, in this order.
    fn first_rows(&self, count: usize) -> Result<Vec<FirstRows>, Refusal> {
        use FirstValues::{MadeUp, OfAnInstance, Zeros};
        const MADE_UP: [FirstValues; 4] = [Zeros, MadeUp(Values::Small), MadeUp(Values::Usual), MadeUp(Values::Large)];
        let signature = self.signature();
        let mut found = Vec::new();
        let mut push = |from, shape: &RowShape, values: &[FirstValues]| {
            found.extend(values.iter().map(|&values| FirstRows { from, shape: shape.clone(), values, count }));
        };
        if let Some(shape) = self.configured_shape()? {
            push(RowsFrom::Settings, &shape, &MADE_UP);
            // Its author knows the lengths: nothing else is tried if the model does not run with them.
            return Ok(found);
        }
        if let Some(example) = self.example_inputs() {
            push(RowsFrom::Examples, &RowShape::of(&example), &[OfAnInstance]);
        }
        if signature.has_fixed_rows() {
            push(RowsFrom::Signature, &RowShape::of_size(signature, 1), &MADE_UP);
            return Ok(found);
        }
        if let Some(sample) = self.prepared_sample() {
            // A preprocessor that offers padding makes rows of several lengths.
            let from = if self.preprocessor.padding().is_some() { RowsFrom::Sample } else { RowsFrom::Preprocessor };
            push(from, &RowShape::of(&sample.inputs), &[OfAnInstance]);
        }
        for size in SIZES.into_iter().chain(RARE_SIZES) {
            let shape = RowShape::of_size(signature, size);
            if shape.elements() <= MAX_GUESSED {
                push(RowsFrom::Guess, &shape, &MADE_UP);
            }
        }
        Ok(found)
    }

    /// Returns the shape that `model.warm_up` gives.
    fn configured_shape(&self) -> Result<Option<RowShape>, Refusal> {
        let settings = &self.config().model.warm_up;
        if settings.is_empty() {
            return Ok(None);
        }
        RowShape::of_settings(self.signature(), settings).map(Some).map_err(|error| self.in_model_toml(error))
    }

    /// Returns the inputs of the first examples, as many as the model needs at least.
    fn example_inputs(&self) -> Option<Tensors> {
        let (golden, fewest) = (self.verified.golden.as_ref()?, self.fewest_rows());
        let enough = golden.instances.len() >= fewest;
        enough.then(|| self.inputs_of(&golden.request(0..fewest).ok()?).ok()).flatten()
    }

    /// Returns a made-up instance that went through the preprocessor, repeated as often as the model needs at least.
    fn prepared_sample(&self) -> Option<Prepared> {
        let [sample, ..] = self.preprocessor.samples()?;
        let instances = format!("[{}]", vec![sample; self.fewest_rows()].join(","));
        let instances = serde_json::value::RawValue::from_string(instances).ok()?;
        self.preprocessor.transform(&instances, Deadline::never()).ok()
    }

    /// Decodes the outputs of the first run, and returns those that have one row per row of the inputs.
    fn decode_first(&self, inputs: &Tensors, outputs: Tensors) -> Result<Tensors, Refusal> {
        if !self.postprocessor.takes_one_row() {
            let lacking = Lacking::find(inputs, &outputs);
            self.refuse_lacking(&lacking, |name| lacking.iter().all(|lacking| *lacking.output != *name))?;
        }
        let outputs = self.joining().per_row(outputs, inputs.rows()).map_err(Refusal::of(LoadFault::WarmUp))?;
        self.check_outputs(&outputs, &Origin::Unknown)?;
        Ok(outputs)
    }

    /// Sends an instance of the preprocessor through the whole pipeline.
    fn decode_a_sample(&self, run: &mut Run<'_>) -> Result<(), Refusal> {
        let Some(Prepared { inputs, origin, .. }) = self.prepared_sample() else { return Ok(()) };
        // The values may be wrong for the model, but if it runs, its outputs can be decoded.
        let Ok(outputs) = run(&inputs) else { return Ok(()) };
        let outputs = self.joining().per_row(outputs, inputs.rows()).map_err(Refusal::of(LoadFault::WarmUp))?;
        self.check_outputs(&outputs, &origin)
    }

    pub(super) fn check_outputs(&self, outputs: &Tensors, origin: &Origin) -> Result<(), Refusal> {
        match self.postprocessor.decode(outputs, origin) {
            // Accepts outputs that are not finite: generated inputs may lead to log(0).
            Ok(_) | Err(Error::NonFiniteOutput { .. }) => Ok(()),
            Err(error) => Err(Refusal::of(LoadFault::WarmUp)(error)),
        }
    }

    /// Refuses an output that is part of answers and lacks rows.
    pub(super) fn refuse_lacking(&self, lacking: &[Lacking], has_rows: impl Fn(&str) -> bool) -> Result<(), Refusal> {
        let answered = self.postprocessor.answered().unwrap_or_default();
        let lacks = |output: &&Lacking| answered.contains(&output.output) && !has_rows(&output.output);
        match lacking.iter().find(lacks) {
            Some(lacking) => Err(Refusal::new(LoadFault::WarmUp, lacking.to_string())),
            None => Ok(()),
        }
    }
}

/// An output that did not have one row per row of the inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lacking {
    pub(super) output: Arc<str>,
    /// Its shape.
    shape: Vec<usize>,
    /// Number of rows of the inputs.
    rows: usize,
    /// Shape of each input.
    inputs: String,
}

impl Lacking {
    /// Returns the outputs of a run that lack rows.
    pub(super) fn find(inputs: &Tensors, outputs: &Tensors) -> Vec<Lacking> {
        let rows = inputs.rows();
        let lacking = outputs.iter().filter(|(_, output)| output.rows() != rows).map(|(name, output)| Lacking {
            output: Arc::clone(name),
            shape: output.shape().to_vec(),
            rows,
            inputs: shapes(inputs),
        });
        lacking.collect()
    }
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lacking { output, shape, rows, inputs } = self;
        write!(
            f,
            "the model's output {output:?} does not have one row per instance: it has the shape {shape:?} for the inputs \
             {inputs}; name other outputs in model.toml, "
        )?;
        if let Some(dimension) = shape.iter().position(|length| length == rows) {
            write!(
                f,
                "say that dimension {dimension} holds the rows ([model.outputs.{output:?}] rows = {dimension}), "
            )?;
        }
        write!(
            f,
            "set rows = \"none\" below [model.outputs.{output:?}] if the output as a whole belongs to one instance, or export \
             the model with the batch dimension first in its outputs"
        )
    }
}

/// Describes the shapes of inputs, as in `x [2, 3, 320, 320], mask [2, 320]`.
fn shapes(inputs: &Tensors) -> String {
    inputs.iter().map(|(name, tensor)| format!("{name} {:?}", tensor.shape())).collect::<Vec<_>>().join(", ")
}

/// Returns the first line of an error's message for operators.
pub(super) fn first_line(error: &Error) -> String {
    error.for_operators().lines().next().unwrap_or_default().trim().to_owned()
}
