//! Inference: receives the body, and runs the stages, each with its part of the budget.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::admit::Admitted;
use super::input::{Content, EncodedRequest, Input, NamedInput, NamedOutput, NamedRequest, Output};
use super::named_tensors::{inputs_of, outputs_of};
use super::pipeline_columns;
use super::shadow_queue::{CopiedRequest, StableAnswer};
use super::steps::StepTimings;
use crate::budget::{BlockingThreads, Deadline, HeldBytes, StageClock};
use crate::error::{Error, Result};
use crate::feature::{Features, Observation};
use crate::model::Priority;
use crate::monitor::Delivery;
use crate::pipeline::{Origin, Pipeline, Prediction, PredictionKind, Prepared, embeddings, instances_of};
use crate::prediction_log::{LoggedInstances, SampledRequest};
use crate::registry::{ServedPipeline, ServedVersion, Work};
use crate::stage::{Stage, Timings};
use crate::tensor::Tensors;

/// The body of a request while it arrives. Passed by pinned reference: a future that is passed by value takes up memory
/// in the future of each function that passes it on.
pub type Arriving<'a, R> = Pin<&'a mut (dyn Future<Output = Result<R>> + Send)>;

/// A finished prediction.
#[derive(Debug)]
pub struct Answer<T> {
    /// The answer, encoded for its protocol.
    pub encoded: T,
    /// The version that made the prediction.
    pub version: Arc<ServedVersion>,
    /// Duration of each stage.
    pub timings: Timings,
    /// Duration of each stage of each step, if the version is a chain.
    pub steps: Vec<StepTimings>,
    /// Guard to drop when the first byte of the response is written.
    pub delivery: Delivery,
}

/// Content of an answer. It follows from the request.
#[derive(Debug)]
pub(super) enum Asked {
    /// A prediction for each instance.
    Predictions,
    /// These outputs of the model itself; empty for all.
    Outputs(Vec<String>),
}

/// A request whose input is prepared.
pub(super) struct PreparedRequest {
    pub(super) prepared: Prepared,
    pub(super) asked: Asked,
    /// Time limit in the body.
    timeout: Option<Duration>,
    /// Priority in the body.
    priority: Option<Priority>,
    /// Memory of decoded elements, held until the answer is encoded.
    held: Option<HeldBytes>,
    /// The instances, if the request is logged.
    logged: LoggedInstances,
}

impl Admitted {
    /// Makes the prediction. `encode` turns the output into the answer.
    pub async fn infer<R: EncodedRequest, T: Send + 'static>(
        self,
        request: Arriving<'_, R>,
        threads: &BlockingThreads,
        encode: impl FnOnce(Output<'_>, R::AnswerForm, &ServedVersion) -> Result<T> + Send + 'static,
    ) -> Result<Answer<T>> {
        let mut clock = self.clock();
        let recorded = self.recorded_request();
        let (mut steps, mut copied) = (Vec::new(), None);
        let done = match &self.version.work {
            Work::Pipeline(pipeline) => {
                self.run_stages(pipeline, &mut clock, request, threads, encode, &mut copied).await
            }
            Work::Chain(chain) => {
                // Boxed, so that a request to a model does not carry the memory of a chain.
                Box::pin(self.run_steps(chain, &mut clock, request, threads, encode, &mut steps)).await
            }
        };
        if let Some(notes) = &self.notes {
            notes.stages_ended(&clock);
        }
        steps.iter().for_each(|step| clock.include(&step.timings));
        if let Some(notes) = &self.notes {
            notes.ended(clock.timings());
        }
        if let Some(copied) = copied {
            CopiedRequest::hand_over(copied, &self.version, &clock.timings(), done.as_ref().err());
        }
        match done {
            Ok(encoded) => {
                let delivery = recorded.succeeded(&clock);
                Ok(Answer { encoded, timings: clock.timings(), steps, version: self.version, delivery })
            }
            Err(error) => {
                recorded.failed(&clock, &error);
                Err(error)
            }
        }
    }

    async fn run_stages<R: EncodedRequest, T: Send + 'static>(
        &self,
        ServedPipeline { stages: Pipeline { model, .. }, costs, .. }: &ServedPipeline,
        clock: &mut StageClock,
        request: Arriving<'_, R>,
        threads: &BlockingThreads,
        encode: impl FnOnce(Output<'_>, R::AnswerForm, &ServedVersion) -> Result<T> + Send + 'static,
        copied: &mut Option<Arc<CopiedRequest>>,
    ) -> Result<T> {
        let mut request = clock.receive(request).await?;
        *copied = self.shadow.as_ref().and_then(|shadow| shadow.copy(&mut request));

        let (version, size, sampled) = (Arc::clone(&self.version), request.size(), self.sampled.clone());
        let preprocess = move |deadline| request.decode(|input| prepare(&version, input, sampled.as_deref(), deadline));
        let (request, form) = clock.run(Stage::Preprocess, (&costs.preprocess, size), threads, preprocess).await?;

        let PreparedRequest { prepared, asked, timeout, priority, held, logged } = request;
        let Prepared { inputs, mut features, origin } = prepared;
        if let Some(timeout) = timeout {
            clock.end_within(timeout);
        }
        let rows = inputs.rows();
        if let Some(notes) = &self.notes {
            notes.prepared(rows);
        }
        let trace = self.notes.as_ref().and_then(|notes| notes.trace().cloned());
        let ticket = model.enqueue(inputs, clock.demand(), priority.unwrap_or(self.priority), trace)?;
        let (predicted, taken) = (ticket.predicted(), ticket.taken());
        let outputs = clock.wait(ticket, predicted, taken).await?;

        let version = Arc::clone(&self.version);
        let elements = outputs.rows() * outputs.row_elements() + features.numbers.len() + features.texts.len();
        let (request_origin, routing, sampled, copied) =
            (self.origin, self.routing, self.sampled.clone(), copied.clone());
        let postprocess = move |deadline| match asked {
            Asked::Predictions => {
                let predictions = decode(&version, &outputs, &origin, rows, deadline)?;
                let encoded =
                    encode(Output::Predictions { predictions: &predictions, made_by: &version }, form, &version)?;
                if let Some(sampled) = sampled {
                    sampled.answered(logged, &features, &predictions, &version);
                }
                if version.recorder.monitors_embeddings() {
                    features.embeddings = embeddings(&predictions);
                }
                request_origin.observe(&version, routing, features, predictions.iter().map(Prediction::observation));
                CopiedRequest::keep(copied.as_deref(), || StableAnswer::Predictions(predictions));
                Ok(encoded)
            }
            Asked::Outputs(names) => {
                let observed = observations(&version, &outputs, rows, deadline);
                let outputs = asked_outputs(&version, outputs, &names)?;
                let encoded = encode(Output::Named(&outputs), form, &version)?;
                request_origin.observe(&version, routing, features, observed.into_iter());
                CopiedRequest::keep(copied.as_deref(), || StableAnswer::Outputs(outputs));
                Ok(encoded)
            }
        };
        let encoded = clock.run(Stage::Postprocess, (&costs.postprocess, elements), threads, postprocess).await;
        drop(held);
        encoded
    }
}

/// Turns the input of a request into the inputs of the model.
pub(super) fn prepare(
    version: &ServedVersion,
    input: Input<'_>,
    sampled: Option<&SampledRequest>,
    deadline: Deadline,
) -> Result<PreparedRequest> {
    let pipeline = pipeline_of(version)?;
    let mut logged = LoggedInstances::Off;
    let mut log = |instances: &RawValue, prepared: &Prepared| {
        if let Some(sampled) = sampled {
            logged = sampled.instances(instances.get(), prepared.inputs.rows());
        }
    };
    let prepared = match input {
        Input::Instances { instances, .. } => {
            let prepared = pipeline.preprocessor.transform(instances, deadline)?;
            log(instances, &prepared);
            prepared
        }
        Input::Rows { rows, memory } => {
            let form = pipeline.preprocessor.instance_form();
            let instances = instances_of(&rows, form.as_ref(), version.config.model.max_instances, memory)?;
            let prepared = pipeline.preprocessor.transform(instances.json(), deadline)?;
            log(instances.json(), &prepared);
            prepared
        }
        Input::Media { media_type, bytes, .. } => {
            let prepared = pipeline.preprocessor.transform_raw(media_type, bytes, deadline)?;
            logged = sampled.map_or(LoggedInstances::Off, |sampled| sampled.media(bytes));
            prepared
        }
        Input::Named(named) => return prepare_named(version, named, sampled, deadline),
    };
    Ok(PreparedRequest { prepared, asked: Asked::Predictions, timeout: None, priority: None, held: None, logged })
}

/// Turns named tensors into the inputs of the model: by themselves, or as columns of the pipeline.
fn prepare_named(
    version: &ServedVersion,
    named: NamedRequest<'_>,
    sampled: Option<&SampledRequest>,
    deadline: Deadline,
) -> Result<PreparedRequest> {
    let NamedRequest { inputs, outputs, content, timeout, priority, memory } = named;
    let Pipeline { preprocessor, model, .. } = pipeline_of(version)?;
    let signature = model.signature();
    let held = Some(memory.hold(inputs.iter().map(NamedInput::decoded_bytes).fold(0, usize::saturating_add))?);
    let form = match content {
        Content::Model => None,
        Content::Pipeline => Some(preprocessor.instance_form().ok_or_else(without_columns)?),
        Content::ByNames => pipeline_columns::form_by_names(&inputs, signature, preprocessor.instance_form()),
    };
    let max_rows = version.config.model.max_instances;
    let mut logged = LoggedInstances::Off;
    let (prepared, asked) = match form {
        Some(form) => {
            let columns = pipeline_columns::decoded(inputs, &form)?;
            let rows = pipeline_columns::rows_of(&columns);
            let instances = instances_of(&rows, Some(&form), max_rows, memory)?;
            let prepared = preprocessor.transform(instances.json(), deadline)?;
            if let Some(sampled) = sampled {
                logged = sampled.instances(instances.json().get(), prepared.inputs.rows());
            }
            (prepared, Asked::Predictions)
        }
        None => {
            let inputs = inputs_of(inputs, signature, max_rows)?;
            let features = match version.recorder.monitors_inputs() {
                true => preprocessor.features_of(&inputs),
                false => Features::with_rows(inputs.rows()),
            };
            let asked = Asked::Outputs(outputs.into_iter().map(Cow::into_owned).collect());
            (Prepared { features, inputs, origin: Origin::Unknown }, asked)
        }
    };
    Ok(PreparedRequest { prepared, asked, timeout, priority, held, logged })
}

fn without_columns() -> Error {
    Error::InvalidInput("the instances of this model have no columns; send the inputs of the model itself".to_owned())
}

/// Returns the stages of a version that is not a chain.
pub(super) fn pipeline_of(version: &ServedVersion) -> Result<&Pipeline> {
    version.pipeline().ok_or_else(|| Error::internal("the stages of a chain"))
}

/// Turns the outputs of the model into predictions, one for each row.
pub(super) fn decode(
    version: &ServedVersion,
    outputs: &Tensors,
    origin: &Origin,
    rows: usize,
    deadline: Deadline,
) -> Result<Vec<Prediction>> {
    let predictions = pipeline_of(version)?.postprocessor.decode_until(outputs, origin, deadline)?;
    match predictions.len() {
        made if made == rows => Ok(predictions),
        made => Err(Error::internal(format_args!("the postprocessor made {made} predictions for {rows} instances"))),
    }
}

/// Returns what is monitored of the outputs of a request for tensors: the same as of a prediction, where it is one class or a
/// few numbers. Outputs that are no prediction, such as scores that are NaN, are not counted.
fn observations(version: &ServedVersion, outputs: &Tensors, rows: usize, deadline: Deadline) -> Vec<Observation> {
    match version.prediction_kind() {
        // Their predictions are not monitored, or copy the outputs.
        PredictionKind::Other | PredictionKind::Embedding => Vec::new(),
        PredictionKind::Class(_) | PredictionKind::Value | PredictionKind::Values(_) | PredictionKind::Anomaly => {
            let decoded = decode(version, outputs, &Origin::Unknown, rows, deadline);
            decoded.map(|all| all.iter().map(Prediction::observation).collect()).unwrap_or_default()
        }
    }
}

/// Returns the outputs that were asked for.
pub(super) fn asked_outputs(version: &ServedVersion, outputs: Tensors, names: &[String]) -> Result<Vec<NamedOutput>> {
    outputs_of(answered(version, outputs)?, names, pipeline_of(version)?.model.signature())
}

/// Keeps the outputs that answers are made of. Only their rows are known to be independent of the other rows of a run.
fn answered(version: &ServedVersion, outputs: Tensors) -> Result<Tensors> {
    Ok(match pipeline_of(version)?.postprocessor.answered() {
        Some(names) => outputs.keep(|name| names.iter().any(|answered| **answered == *name)),
        None => outputs,
    })
}
