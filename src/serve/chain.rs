//! Inference of a chain: runs the steps in order, each in the queue of its own version, under one deadline.
//!
//! A step is recorded as a request to its version. The stages of the chain have the times of all steps together, and those of
//! reading the request and writing the answer.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use super::admit::{Admitted, RequestOrigin};
use super::infer::{Arriving, decode};
use super::input::{Content, EncodedRequest, Input, NamedInput, NamedRequest, Output};
use super::pipeline_columns;
use super::request_notes::RequestNotes;
use super::steps::{StepTimings, StepVersions, in_step, later_runs};
use crate::budget::{BlockingThreads, MemoryBudget, StageClock, TimeLimits};
use crate::config::Chain;
use crate::error::{Error, Result};
use crate::feature::{Features, Observation};
use crate::model::Priority;
use crate::monitor::Routing;
use crate::pipeline::chain::{
    ChainInstances, FinishedStep, chain_predictions, count_of, has_instances, instances_of_step,
};
use crate::pipeline::{Pipeline, Prediction, Prepared, instances_of};
use crate::prediction_log::SampledRequest;
use crate::registry::{ChainInterface, ServedChain, ServedVersion, Work};
use crate::stage::{Stage, Timings};
use crate::telemetry::{FinishedSpan, KeyValue, RequestTrace, SpanFailure};

/// The request of a chain.
struct ChainRequest {
    instances: ChainInstances,
    /// Number of the instances.
    count: usize,
    /// Time limit in the body.
    timeout: Option<Duration>,
    /// Priority in the body.
    priority: Option<Priority>,
    /// Memory that later instances are charged to.
    memory: MemoryBudget,
}

/// A chain that runs. Clones share what the steps have made.
#[derive(Clone)]
struct RunningChain {
    version: Arc<ServedVersion>,
    steps: StepVersions,
    request: ChainInstances,
    priority: Priority,
    origin: RequestOrigin,
    memory: MemoryBudget,
    /// Notes of the request to the chain.
    notes: Option<Arc<RequestNotes>>,
    done: Vec<FinishedStep>,
}

impl Admitted {
    /// Runs the steps of a chain. Adds the durations of each step to `timed`, even if the chain fails.
    pub(super) async fn run_steps<R: EncodedRequest, T: Send + 'static>(
        &self,
        served: &ServedChain,
        clock: &mut StageClock,
        request: Arriving<'_, R>,
        threads: &BlockingThreads,
        encode: impl FnOnce(Output<'_>, R::AnswerForm, &ServedVersion) -> Result<T> + Send + 'static,
        timed: &mut Vec<StepTimings>,
    ) -> Result<T> {
        let Some(steps) = &self.steps else { return Err(Error::internal("a chain without versions of its steps")) };
        let request = clock.receive(request).await?;

        let (version, versions, size) = (Arc::clone(&self.version), Arc::clone(steps), request.size());
        let read = move |_| request.decode(|input| read(&version, &versions, input));
        let (request, form) = clock.run(Stage::Preprocess, (&served.costs.preprocess, size), threads, read).await?;
        let ChainRequest { instances, count, timeout, priority, memory } = request;
        if let Some(timeout) = timeout {
            clock.end_within(timeout);
        }
        if let Some(notes) = &self.notes {
            notes.prepared(count);
        }
        let mut running = RunningChain {
            version: Arc::clone(&self.version),
            steps: Arc::clone(steps),
            request: instances,
            priority: priority.unwrap_or(self.priority),
            origin: self.origin,
            memory,
            notes: self.notes.clone(),
            done: Vec::with_capacity(steps.len()),
        };
        for (index, (step, version)) in served.chain.steps.iter().zip(steps.iter()).enumerate() {
            let has_instances = has_instances(&served.chain, index, &running.done);
            let (timings, finished) = match has_instances {
                true => running.run_step(served, index, clock, threads).await,
                false => (Timings::default(), Ok(FinishedStep::without_instances())),
            };
            timed.push(StepTimings { name: Arc::clone(&step.name), version: version.version, timings });
            if has_instances {
                self.version.recorder.step(index, &timings, finished.is_ok());
            }
            running.done.push(finished.map_err(|error| in_step(&served.chain, index, error))?);
        }

        let RunningChain { version, steps, done, request, .. } = running;
        let (request_origin, routing, sampled) = (self.origin, self.routing, self.sampled.clone());
        let answer = move |_| {
            let chain = version.chain().ok_or_else(not_a_chain)?;
            let predictions = chain_predictions(chain, done, count)?;
            let made_by = ChainInterface::new(chain, &steps).answering().unwrap_or(&version);
            let encoded = encode(Output::Predictions { predictions: &predictions, made_by }, form, &version)?;
            // The predictions are monitored in the versions that made them.
            let features = Features::with_rows(count);
            log(sampled.as_deref(), &request, &features, &predictions, made_by);
            request_origin.observe(&version, routing, features, predictions.iter().map(|_| Observation::Nothing));
            Ok(encoded)
        };
        clock.run(Stage::Postprocess, (&served.costs.postprocess, count), threads, answer).await
    }
}

impl RunningChain {
    /// Returns the origin of a step's version.
    fn routing_of(&self, served: &ServedChain, step: usize) -> Routing {
        match (self.origin, served.chain.steps.get(step).and_then(|step| step.version)) {
            (RequestOrigin::Real, None) => Routing::BySplit,
            (RequestOrigin::Synthetic, _) | (RequestOrigin::Real, Some(_)) => Routing::ByName,
        }
    }

    /// Runs a step, and records it as a request to its version. Returns the durations of its stages.
    async fn run_step(
        &self,
        served: &ServedChain,
        index: usize,
        chain_clock: &StageClock,
        threads: &BlockingThreads,
    ) -> (Timings, Result<FinishedStep>) {
        let Some(version) = self.steps.get(index) else {
            return (Timings::default(), Err(Error::internal("a step without its version")));
        };
        let mut clock = chain_clock.of_step(&version.budget);
        if let Some(limit) = served.chain.steps.get(index).and_then(|step| step.budget) {
            clock.end_within(limit);
        }
        // Time for the later steps and for writing the answer has to be left.
        let finish_by = chain_clock.finish_by(later_runs(&self.steps, index));
        let recorded = version.recorder.request(self.routing_of(served, index));
        let trace = self.notes.as_ref().and_then(|notes| notes.trace()).map(|trace| trace.child());
        let traced = trace.clone();
        let finished = self.run_stages((served, index), version, &mut clock, finish_by, threads, traced).await;
        if let (Some(notes), Some(trace)) = (&self.notes, trace) {
            notes.step_ended(step_span(trace, &served.chain, index, version, &clock, finished.as_ref().err()));
        }
        match &finished {
            // The answer of a step goes to the next step at once.
            Ok(_) => drop(recorded.succeeded(&clock)),
            Err(error) => recorded.failed(&clock, error),
        }
        (clock.timings(), finished)
    }

    async fn run_stages(
        &self,
        (served, index): (&ServedChain, usize),
        version: &Arc<ServedVersion>,
        clock: &mut StageClock,
        finish_by: std::time::Instant,
        threads: &BlockingThreads,
        trace: Option<Arc<RequestTrace>>,
    ) -> Result<FinishedStep> {
        let (Work::Pipeline(pipeline), Some(step_costs)) = (&version.work, served.step_costs.get(index)) else {
            return Err(Error::internal("a step that is a chain"));
        };
        let model = &pipeline.stages.model;
        let demand = |clock: &StageClock| {
            let TimeLimits { deadline, finish_by: of_step } = clock.demand();
            TimeLimits { deadline, finish_by: of_step.min(finish_by) }
        };
        model.admit(demand(clock), self.priority)?;

        let is_heavy = pipeline.stages.preprocessor.is_heavy();
        let cost = if is_heavy { &pipeline.costs.preprocess } else { &step_costs.preprocess };
        let (this, taker) = (self.clone(), Arc::clone(version));
        let preprocess = move |deadline| {
            let chain = this.version.chain().ok_or_else(not_a_chain)?;
            let (memory, done) = (&this.memory, &this.done);
            let made = instances_of_step(chain, index, &this.request, done, (memory, deadline))?;
            let prepared = pipeline_of(&taker)?.preprocessor.transform(&made.instances, deadline);
            let prepared = prepared.map_err(|error| not_accepted(chain, index, error))?;
            // The text is freed before the run, unless boxes are cut out of it later.
            let instances = chain.is_cut(index).then_some(made.instances);
            Ok((instances, made.rows, prepared))
        };
        let units = self.request.get().len() + self.done.iter().map(FinishedStep::units).sum::<usize>();
        let (instances, step_rows, prepared) = clock.run(Stage::Preprocess, (cost, units), threads, preprocess).await?;

        let Prepared { inputs, features, origin } = prepared;
        let rows = inputs.rows();
        let ticket = model.enqueue(inputs, demand(clock), self.priority, trace)?;
        let (predicted, taken) = (ticket.predicted(), ticket.taken());
        let outputs = clock.wait(ticket, predicted, taken).await?;

        let (version, request_origin, routing) = (Arc::clone(version), self.origin, self.routing_of(served, index));
        let elements = outputs.rows() * outputs.row_elements() + features.numbers.len() + features.texts.len();
        let postprocess = move |deadline| {
            let predictions = decode(&version, &outputs, &origin, rows, deadline)?;
            request_origin.observe(&version, routing, features, predictions.iter().map(Prediction::observation));
            Ok(predictions)
        };
        let cost = (&pipeline.costs.postprocess, elements);
        let predictions = clock.run(Stage::Postprocess, cost, threads, postprocess).await?;
        Ok(FinishedStep { instances, predictions: Arc::new(predictions), rows: step_rows })
    }
}

/// Returns the span of a step that has ended.
fn step_span(
    trace: Arc<RequestTrace>,
    chain: &Chain,
    index: usize,
    version: &ServedVersion,
    clock: &StageClock,
    error: Option<&Error>,
) -> FinishedSpan {
    let name = chain.steps.get(index).map(|step| step.name.to_string()).unwrap_or_default();
    FinishedSpan {
        trace,
        attributes: vec![
            KeyValue::new("leeway.step", name.clone()),
            KeyValue::new("leeway.model", version.model.to_string()),
            KeyValue::new("leeway.version", version.version.to_string()),
        ],
        name: format!("step {name}").into(),
        times: (clock.started(), clock.started() + clock.total()),
        failure: error.map(|error| SpanFailure::of(error.code(), error.fault())),
        stages: clock.stage_times(),
        steps: Vec::new(),
    }
}

/// Logs an answered request, if it belongs to the sample.
fn log(
    sampled: Option<&SampledRequest>,
    request: &RawValue,
    features: &Features,
    predictions: &[Prediction],
    made_by: &ServedVersion,
) {
    if let Some(sampled) = sampled {
        sampled.answered(sampled.instances(request.get(), predictions.len()), features, predictions, made_by);
    }
}

/// Reads the input of a request as instances, which several steps may take.
fn read(version: &ServedVersion, steps: &[Arc<ServedVersion>], input: Input<'_>) -> Result<ChainRequest> {
    let interface = ChainInterface::new(version.chain().ok_or_else(not_a_chain)?, steps);
    let form = || interface.preprocessor().and_then(|preprocessor| preprocessor.instance_form());
    let most = interface.max_instances();
    let request = |instances: &RawValue, memory: &MemoryBudget| owned(instances, most, memory);
    match input {
        Input::Instances { instances, memory } => request(instances, memory),
        Input::Rows { rows, memory } => request(instances_of(&rows, form().as_ref(), most, memory)?.json(), memory),
        Input::Media { bytes, memory, .. } => {
            let length = bytes.len().div_ceil(3) * 4 + r#"[{"b64":""}]"#.len();
            let held = memory.hold(length)?;
            let mut text = String::with_capacity(length);
            text.push_str(r#"[{"b64":""#);
            STANDARD.encode_string(bytes, &mut text);
            text.push_str(r#""}]"#);
            let instances = RawValue::from_string(text).map_err(Error::internal)?;
            Ok(ChainRequest {
                instances: Arc::new(held.of(instances)),
                count: 1,
                timeout: None,
                priority: None,
                memory: memory.clone(),
            })
        }
        Input::Named(NamedRequest { inputs, outputs: _, content, timeout, priority, memory }) => {
            let form = form().filter(|_| content != Content::Model).ok_or_else(without_inputs)?;
            let _held = memory.hold(inputs.iter().map(NamedInput::decoded_bytes).fold(0, usize::saturating_add))?;
            let columns = pipeline_columns::decoded(inputs, &form)?;
            let rows = pipeline_columns::rows_of(&columns);
            let read = request(instances_of(&rows, Some(&form), most, memory)?.json(), memory)?;
            Ok(ChainRequest { timeout, priority, ..read })
        }
    }
}

/// Copies instances, because steps read them after the body is given back.
fn owned(instances: &RawValue, most: NonZeroUsize, memory: &MemoryBudget) -> Result<ChainRequest> {
    let count = count_of(instances, most)?;
    let held = memory.hold(instances.get().len())?;
    let instances = Arc::new(held.of(instances.to_owned()));
    Ok(ChainRequest { instances, count, timeout: None, priority: None, memory: memory.clone() })
}

/// Returns the error of a step that refuses its instances. If they were made of predictions alone, the caller is not at fault.
fn not_accepted(chain: &Chain, step: usize, error: Error) -> Error {
    let instances = chain.steps.get(step).map(|step| &step.instances).filter(|instances| instances.is_predictions());
    let output = instances.and_then(|instances| chain.described(instances.references().next()?));
    match (error, output) {
        (Error::InvalidInput(problem), Some(output)) => {
            Error::UnusableOutput { output, problem: format!("is not an instance of this step: {problem}") }
        }
        (error, _) => error,
    }
}

fn pipeline_of(version: &ServedVersion) -> Result<&Pipeline> {
    version.pipeline().ok_or_else(|| Error::internal("a step that is a chain"))
}

fn not_a_chain() -> Error {
    Error::internal("a version without steps")
}

fn without_inputs() -> Error {
    Error::InvalidInput(
        "a chain has no inputs of its own, and its instances have no columns here; send {\"instances\": [...]} to \
         /v1/models/{model}:predict"
            .to_owned(),
    )
}
