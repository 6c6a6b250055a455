//! A version whose model the engine has opened, with its preprocessor and postprocessor.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use super::findings::{Findings, FirstRows, WarmUp};
use super::load_order::LoadOrder;
use super::load_problem::load_problem;
use crate::budget::{Deadline, LatencyBudget};
use crate::config::{Isolation, ModelConfig, MonitoringConfig, Threads};
use crate::error::{Error, LoadFault, Result, SetupError};
use crate::feature::{FeatureSchema, Features};
use crate::identity::shown;
use crate::model::{
    ElementBounds, Engine, Independence, Joining, LoadedModel, OptimisedGraph, RowOutputs, Rows, Session, Sharing,
    can_be_padded,
};
use crate::pipeline::{
    Label, Pipeline, Postprocessor, Prediction, PredictionKind, Prepared, Preprocessor, StageContext, Stages, Table,
};
use crate::repository::Golden;
use crate::repository::Refusal;
use crate::repository::VerifiedVersion;
use crate::tensor::{DType, Dim, Padding, Signature, TensorSpec, Tensors};

/// A version whose model the engine has opened, with its stages.
pub struct OpenedVersion {
    pub(super) verified: VerifiedVersion,
    pub(super) loaded: Arc<dyn LoadedModel>,
    pub(super) preprocessor: Box<dyn Preprocessor>,
    pub(super) postprocessor: Box<dyn Postprocessor>,
    /// Padding of short rows, if the preprocessor offers it and the signature allows it.
    pub(super) padding: Option<Padding>,
    order: LoadOrder,
}

impl OpenedVersion {
    /// Opens the model, and makes the stages that `model.toml` names.
    pub fn open(
        engine: &dyn Engine,
        stages: &Stages,
        order: &LoadOrder,
        verified: VerifiedVersion,
    ) -> Result<OpenedVersion, Refusal> {
        let config = &order.config;
        let source = verified.source();
        let loaded = engine
            .load(source, &config.model)
            .map_err(|error| in_model_toml(order, LoadFault::Model, explained(error, engine, &verified)))?;
        check_batch_dimension(loaded.signature())?;
        check_size(loaded.signature())?;
        check_isolation(loaded.signature(), config.model.isolation)
            .map_err(|error| in_model_toml(order, LoadFault::Config, error))?;
        // Reports an error of a stage as a wrong `model.toml`: the stage does not fit the model.
        let misfit = |error: SetupError| in_model_toml(order, LoadFault::Config, error);
        let context = |stage| StageContext {
            config: stage,
            signature: loaded.signature(),
            classes: &verified.classes,
            files: &verified,
            max_instances: config.model.max_instances,
        };
        let preprocessor = stages.preprocessor(context(&config.preprocess)).map_err(&misfit)?;
        check_ignored(&preprocessor.features(), &config.monitoring.ignored_features).map_err(&misfit)?;
        let postprocessor = stages.postprocessor(context(&config.postprocess)).map_err(&misfit)?;
        let padding = preprocessor.padding().filter(|_| can_be_padded(loaded.signature()));
        Ok(OpenedVersion { verified, loaded, preprocessor, postprocessor, padding, order: order.clone() })
    }

    /// Opens the model again, with other numbers of workers and threads.
    pub(super) fn reopen(&mut self, engine: &dyn Engine, order: &LoadOrder) -> Result<(), Refusal> {
        let source = self.verified.source();
        let loaded = engine.load(source, &order.config.model);
        self.loaded = loaded.map_err(|error| in_model_toml(order, LoadFault::Model, error))?;
        self.order = order.clone();
        Ok(())
    }

    /// Opens the model again, on an optimised graph or on its file.
    pub(super) fn open_on(&mut self, engine: &dyn Engine, graph: Option<OptimisedGraph>) -> Result<(), Refusal> {
        self.verified.optimised = graph;
        self.reopen(engine, &self.order.clone())
    }

    /// Returns the number of workers, and of the threads of each.
    pub(super) fn threads(&self) -> Threads {
        self.order.config.model.threads()
    }

    /// Returns the latency budget of a request.
    pub(super) fn budget(&self) -> &LatencyBudget {
        &self.order.config.budget
    }

    /// Returns the content of `model.toml`.
    pub(super) fn config(&self) -> &ModelConfig {
        &self.order.config
    }

    /// Sets the examples, which give the shape of a row.
    pub fn set_examples(&mut self, golden: Golden) {
        self.verified.golden = Some(golden);
    }

    /// Converts an error about a setting of `model.toml` to a refusal.
    pub(super) fn in_model_toml(&self, error: SetupError) -> Refusal {
        in_model_toml(&self.order, LoadFault::Config, error)
    }

    /// Returns the inputs and outputs of the model.
    pub fn signature(&self) -> &Signature {
        self.loaded.signature()
    }

    /// Returns the way to join rows of several requests into one run, as far as it is known before the first run.
    pub(super) fn joining(&self) -> Joining {
        Joining::new(self.signature(), self.padding.clone()).with_outputs(self.outputs_before_a_run())
    }

    fn outputs_before_a_run(&self) -> RowOutputs {
        match self.postprocessor.takes_one_row() {
            true => RowOutputs::OfOneRow,
            false => RowOutputs::Unknown,
        }
    }

    /// Returns the rules for runs that several requests share, as the findings allow.
    pub(super) fn sharing(&self, findings: &Findings) -> Sharing {
        let padding = self.padding.clone().filter(|_| findings.may_be_padded());
        let outputs = match (self.outputs_before_a_run(), &findings.row_outputs) {
            (RowOutputs::Unknown, Some(names)) => RowOutputs::Known(names.clone()),
            (outputs, _) => outputs,
        };
        let joining = Joining::new(self.signature(), padding).with_outputs(outputs);
        let rows = Rows { independence: findings.independence.clone(), joining };
        let answered = self.postprocessor.answered();
        let bounds = findings.bounds.unwrap_or_else(|| ElementBounds::untried(self.signature()));
        let bounds = bounds.or_at_least(findings.elements_of_known_rows());
        let mut signature = self.signature().clone();
        if let (None, Some(rows)) = (self.fixed_rows(), self.rows_of_a_run(&findings.warm_up)) {
            signature.fix_rows(rows);
        }
        Sharing::new(&signature, &self.order.config.model, self.loaded.provider(), answered, rows, bounds)
    }

    /// Divides the version into its verified files, and a pipeline of its stages around a started model.
    pub(super) fn into_pipeline(self, model: crate::model::OnnxModel) -> (VerifiedVersion, Pipeline) {
        let OpenedVersion { verified, preprocessor, postprocessor, .. } = self;
        (verified, Pipeline { preprocessor, model, postprocessor })
    }

    /// Monitoring settings of `model.toml`.
    pub fn monitoring(&self) -> &MonitoringConfig {
        &self.config().monitoring
    }

    /// Returns the class names of a classifier, if they are known.
    pub fn class_names(&self) -> Option<Vec<String>> {
        Some(self.postprocessor.classes()?.iter().map(Label::to_string).collect())
    }

    /// Returns the table whose rows are the instances of requests, if the preprocessor reads one.
    pub fn table(&self) -> Option<Table> {
        self.preprocessor.table()
    }

    /// Returns true if an instance can be an image: `{"b64": "…"}`.
    pub fn takes_images(&self) -> bool {
        self.preprocessor.media_types().contains(&"image/*")
    }

    /// Returns the features that the preprocessor reads from requests.
    pub fn features(&self) -> FeatureSchema {
        self.preprocessor.features()
    }

    /// Returns the kind of the predictions.
    pub fn prediction_kind(&self) -> PredictionKind {
        self.postprocessor.prediction_kind()
    }

    /// Returns the names of the features whose drift is not measured.
    pub fn ignored_features(&self) -> &[String] {
        &self.order.config.monitoring.ignored_features
    }

    /// Returns the total latency budget of a request.
    pub(super) fn total_budget(&self) -> std::time::Duration {
        self.order.config.budget.total
    }

    /// Returns the maximum number of rows in a run that several requests share, as configured.
    pub(super) fn max_shared_rows(&self) -> usize {
        self.order.config.model.joined_batch_size().get()
    }

    /// Returns the number of rows of every run, if it is fixed.
    pub fn fixed_rows(&self) -> Option<usize> {
        match self.signature().batch_dim() {
            _ if self.postprocessor.takes_one_row() => Some(1),
            Dim::Fixed(rows) => Some(rows.max(1)),
            Dim::Dynamic(_) => None,
        }
    }

    /// Returns the number of rows of every run, if it is fixed, or if the model ran with this number only.
    pub(super) fn rows_of_a_run(&self, warm_up: &WarmUp) -> Option<usize> {
        let one_only = matches!(warm_up, WarmUp::Ran(FirstRows { count: 1, .. })).then_some(1);
        self.fixed_rows().or(one_only)
    }

    /// Returns the minimum number of rows in one run.
    pub fn fewest_rows(&self) -> usize {
        self.fixed_rows().unwrap_or(1)
    }

    /// Returns the number of rows that can share a run without changing their predictions: at most `most`, unless the
    /// model fixes the number.
    pub fn rows_at_one_time(&self, most: usize, findings: &Findings) -> usize {
        match findings.independence {
            Independence::Independent { .. } => self.sharing(findings).policy().most_rows().min(most),
            Independence::FixedBatch { .. } | Independence::Dependent(_) | Independence::Unknown { .. } => {
                self.fewest_rows()
            }
        }
    }

    /// Opens a new session of the version's model.
    pub fn session(&self) -> Result<Box<dyn Session>, Refusal> {
        self.loaded.open().map_err(Refusal::of(LoadFault::Model))
    }

    /// Returns the predictions of a session for the instances of examples, in order. Each request has as few instances
    /// as the model takes.
    pub fn predict<'a>(
        &'a self,
        session: &'a mut dyn Session,
        golden: &'a Golden,
    ) -> impl Iterator<Item = Result<Value, String>> + 'a {
        let step = self.fewest_rows();
        let starts = (0..golden.instances.len()).step_by(step);
        starts.flat_map(move |start| match self.predict_rows(session, golden, start..start + step) {
            Ok(predictions) => predictions.into_iter().map(Ok).collect(),
            Err(problem) => vec![Err(problem)],
        })
    }

    fn predict_rows(
        &self,
        session: &mut dyn Session,
        golden: &Golden,
        rows: std::ops::Range<usize>,
    ) -> Result<Vec<Value>, String> {
        if rows.end > golden.instances.len() {
            return Err(format!("the model takes {} instances at one time, but there are fewer", rows.len()));
        }
        let request = golden.request(rows.clone()).map_err(|error| error.to_string())?;
        let (_, predictions) = self.predict_request(session, &request)?;
        // Converts through JSON text, so that a number is as a client reads it: 0.9, and not 0.8999999761581421.
        let as_written = |prediction| serde_json::from_str(&serde_json::to_string(prediction)?);
        predictions.iter().map(as_written).collect::<serde_json::Result<_>>().map_err(|error| error.to_string())
    }

    /// Returns the features of a request, and the predictions of a session for it.
    pub fn predict_request(
        &self,
        session: &mut dyn Session,
        request: &RawValue,
    ) -> Result<(Features, Vec<Prediction>), String> {
        let told = |error: Error| error.for_operators();
        let Prepared { inputs, features, origin } =
            self.preprocessor.transform(request, Deadline::never()).map_err(told)?;
        let outputs = session.run(&inputs).map_err(told)?;
        let outputs = self.joining().per_row(outputs, inputs.rows()).map_err(told)?;
        let predictions = self.postprocessor.decode(&outputs, &origin).map_err(told)?;
        Ok((features, predictions))
    }

    /// Returns the model inputs of one instance.
    pub(super) fn inputs_of(&self, instances: &RawValue) -> Result<Tensors> {
        self.preprocessor.transform(instances, Deadline::never()).map(|prepared| prepared.inputs)
    }
}

impl fmt::Debug for OpenedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedVersion").field("order", &self.order).finish_non_exhaustive()
    }
}

/// Checks that the first dimensions of all inputs agree: otherwise, one of them is not the batch dimension. (A fixed
/// length of 1 agrees with a dynamic dimension.)
fn check_batch_dimension(signature: &Signature) -> Result<(), Refusal> {
    let Some(fixed) = signature.inputs.iter().find(|input| matches!(input.dims.first(), Some(Dim::Fixed(_)))) else {
        return Ok(());
    };
    let fits = |input: &&TensorSpec| match (input.dims.first(), fixed.dims.first()) {
        (Some(Dim::Dynamic(_)), one) => one == Some(&Dim::Fixed(1)),
        (other, one) => other == one,
    };
    let Some(other) = signature.inputs.iter().find(|input| !fits(input)) else { return Ok(()) };
    Err(Refusal::new(
        LoadFault::Model,
        format!(
            "the first dimension of every input must be the batch dimension, but the model's input {:?} is {} and {:?} is \
             {}; export the model with the batch dimension first in all inputs, or say in model.toml where the rows are \
             (`rows = 1` below [model.inputs.NAME]), that an input is the same for all requests (`value` there), or that a \
             request is one call of the model with whole tensors (`rows = \"none\"` below [model])",
            other.name,
            other.describe(),
            fixed.name,
            fixed.describe()
        ),
    ))
}

/// Refuses sequences of tensors in a process of its own, which gets tensors only.
fn check_isolation(signature: &Signature, isolation: Isolation) -> Result<(), SetupError> {
    let mut tensors = signature.inputs.iter().chain(&signature.outputs);
    match tensors.find(|tensor| tensor.dtype == DType::Sequence) {
        Some(sequence) if isolation != Isolation::None => Err(SetupError::Config(format!(
            "model.isolation: {:?} of the model is a sequence of tensors, which only the server's own process can run; set \
             isolation = \"none\"",
            sequence.name
        ))),
        _ => Ok(()),
    }
}

/// Maximum number of features that an error message names.
const MAX_NAMED_FEATURES: usize = 20;

/// Checks that the features that are not to be monitored exist, so that a typo is noticed.
fn check_ignored(schema: &FeatureSchema, ignored: &[String]) -> Result<(), SetupError> {
    let known = || schema.numbers.iter().chain(&schema.texts).map(|name| &**name);
    let Some(unknown) = ignored.iter().find(|name| !known().any(|known| known == **name)) else { return Ok(()) };
    let names: Vec<&str> = known().take(MAX_NAMED_FEATURES).collect();
    let more = if names.len() < schema.len() { ", …" } else { "" };
    let names = names.join(", ");
    Err(SetupError::Config(format!(
        "monitoring.ignored_features: the model has no feature {unknown:?}; its features are: {names}{more}"
    )))
}

/// Maximum number of elements of an input in the smallest run that the model takes. No request is larger.
const MAX_ELEMENTS: usize = 1 << 28;

/// Refuses inputs that are too large for any request: not even zeros of such a shape would fit into memory.
fn check_size(signature: &Signature) -> Result<(), Refusal> {
    let elements = |input: &TensorSpec| {
        let lengths = input.dims.iter().map(|dim| if let Dim::Fixed(length) = dim { *length } else { 1 });
        lengths.filter(|length| *length > 0).fold(1, usize::saturating_mul)
    };
    let mut inputs = signature.inputs.iter();
    let Some(large) = inputs.find(|input| elements(input) > MAX_ELEMENTS) else { return Ok(()) };
    Err(Refusal::new(
        LoadFault::Model,
        format!(
            "the model's input \"{}\" is {}: at most {MAX_ELEMENTS} elements can be sent at one time; export the model with smaller \
             dimensions",
            shown(&large.name),
            large.describe()
        ),
    ))
}

/// Replaces an error about a model that cannot be loaded by one that says what to do, if it is recognised.
fn explained(error: SetupError, engine: &dyn Engine, verified: &VerifiedVersion) -> SetupError {
    let message = error.to_string();
    let is_named = |input: &&String| message.contains(&format!("input {input:?} has no dimensions"));
    if let Some(input) = verified.inputs_of_unknown_rank.iter().find(is_named) {
        return SetupError::Repository(format!(
            "the rank of the model's input {input:?} is unknown: its file gives no shape; export the model with a shape for \
             its inputs, with the batch dimension first"
        ));
    }
    load_problem(&message, engine.version()).map_or(error, SetupError::Repository)
}

/// Converts an error of the model or a stage to a refusal. A message about a setting gets the location of `model.toml`.
fn in_model_toml(order: &LoadOrder, fault: LoadFault, error: SetupError) -> Refusal {
    match error {
        SetupError::Config(message) => Refusal::new(LoadFault::Config, format!("{}: {message}", order.config_place)),
        other => Refusal::of(fault)(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_that_nobody_could_send_are_refused() {
        let refusal = |dims: &[usize]| {
            let dims = std::iter::once(Dim::Dynamic(None)).chain(dims.iter().copied().map(Dim::Fixed)).collect();
            let inputs = vec![TensorSpec { name: "x".into(), dtype: DType::F32, dims }];
            check_size(&Signature { inputs, ..Signature::default() }).err()
        };
        for dims in [&[][..], &[3, 8192, 8192], &[0], &[1 << 28]] {
            assert_eq!(refusal(dims), None, "{dims:?}");
        }
        // The last shape has a dimension of length 0, but the product of its other lengths is too large.
        for dims in [&[1 << 31][..], &[1 << 62], &[1 << 62, 1 << 62], &[1 << 62, 0, 4]] {
            let refusal = refusal(dims).unwrap().message;
            assert!(refusal.contains("the model's input \"x\" is float32["), "{refusal}");
        }
    }

    #[test]
    fn inputs_have_to_agree_on_the_dimension_of_the_rows() {
        let refusal = |first: [Option<usize>; 2]| {
            let spec = |length: Option<usize>| TensorSpec {
                name: "x".into(),
                dtype: DType::F32,
                dims: vec![length.map_or(Dim::Dynamic(None), Dim::Fixed), Dim::Fixed(4)],
            };
            let inputs = first.map(spec).to_vec();
            check_batch_dimension(&Signature { inputs, ..Signature::default() }).err()
        };
        for first in [[None, None], [Some(2), Some(2)], [Some(1), None], [None, Some(1)]] {
            assert_eq!(refusal(first), None, "{first:?}");
        }
        for first in [[Some(2), None], [None, Some(2)], [Some(1), Some(2)]] {
            assert!(
                refusal(first).is_some_and(|refusal| refusal.message.contains("must be the batch dimension")),
                "{first:?}"
            );
        }
    }
}
