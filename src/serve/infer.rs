//! Inference: receives the body, and runs the stages, each with its part of the budget.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::admit::Admitted;
use super::input::{EncodedRequest, Input, Output};
use super::named_tensors::inputs_of;
use crate::budget::{BlockingThreads, Deadline, StageClock};
use crate::error::{Error, Result};
use crate::monitor::Delivery;
use crate::pipeline::{Origin, Prediction, Prepared};
use crate::registry::ServedVersion;
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
    /// Guard to drop when the first byte of the response is written.
    pub delivery: Delivery,
}

/// Form of an answer: predictions or tensors. It follows from the form of the request.
#[derive(Debug, Clone, Copy)]
enum Form {
    Predictions,
    Tensors,
}

impl Admitted {
    /// Makes the prediction. `encode` turns the output into the answer.
    pub async fn infer<R: EncodedRequest, T: Send + 'static>(
        self,
        request: Arriving<'_, R>,
        threads: &BlockingThreads,
        encode: impl FnOnce(Output<'_>, &ServedVersion) -> Result<T> + Send + 'static,
    ) -> Result<Answer<T>> {
        let mut clock = self.clock();
        let recorded = self.version.recorder.request();
        match self.run_stages(&mut clock, request, threads, encode).await {
            Ok(encoded) => {
                let delivery = recorded.succeeded(&clock);
                Ok(Answer { encoded, timings: clock.timings(), version: self.version, delivery })
            }
            Err(error) => {
                recorded.failed(&clock, &error);
                Err(error)
            }
        }
    }

    async fn run_stages<R: EncodedRequest, T: Send + 'static>(
        &self,
        clock: &mut StageClock,
        request: Arriving<'_, R>,
        threads: &BlockingThreads,
        encode: impl FnOnce(Output<'_>, &ServedVersion) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (model, costs) = (&self.version.pipeline.model, &self.version.costs);
        let request = clock.receive(request).await?;

        let (version, size) = (Arc::clone(&self.version), request.size());
        let preprocess = move |deadline| request.decode(|input| prepare(&version, input, deadline));
        let prepared = clock.run(Stage::Preprocess, (&costs.preprocess, size), threads, preprocess).await?;

        let (form, Prepared { inputs, features, origin }) = prepared;
        let rows = inputs.rows();
        let ticket = model.enqueue(inputs, clock.demand(), self.priority)?;
        let (predicted, taken) = (ticket.predicted(), ticket.taken());
        let outputs = clock.wait(ticket, predicted, taken).await?;

        let version = Arc::clone(&self.version);
        let elements = outputs.rows() * outputs.row_elements() + features.numbers.len() + features.texts.len();
        let postprocess = move |deadline| match form {
            Form::Predictions => {
                let predictions = decode(&version, &outputs, &origin, rows, deadline)?;
                let encoded = encode(Output::Predictions(&predictions), &version)?;
                version.recorder.observe(features, predictions.iter().map(Prediction::observation));
                Ok(encoded)
            }
            Form::Tensors => {
                let encoded = encode(Output::Tensors(&answered(&version, outputs)), &version)?;
                version.recorder.observe(features, std::iter::empty());
                Ok(encoded)
            }
        };
        clock.run(Stage::Postprocess, (&costs.postprocess, elements), threads, postprocess).await
    }
}

/// Turns the input of a request into the inputs of the model.
fn prepare(version: &ServedVersion, input: Input<'_>, deadline: Deadline) -> Result<(Form, Prepared)> {
    let pipeline = &version.pipeline;
    match input {
        Input::Instances(instances) => Ok((Form::Predictions, pipeline.preprocessor.transform(instances, deadline)?)),
        Input::Media { media_type, bytes } => {
            Ok((Form::Predictions, pipeline.preprocessor.transform_raw(media_type, bytes, deadline)?))
        }
        Input::Tensors(named) => {
            let inputs = inputs_of(named, pipeline.model.signature(), version.config.model.max_instances)?;
            let features = pipeline.preprocessor.features_of(&inputs);
            Ok((Form::Tensors, Prepared { inputs, features, origin: Origin::Unknown }))
        }
    }
}

/// Turns the outputs of the model into predictions, one for each row.
fn decode(
    version: &ServedVersion,
    outputs: &Tensors,
    origin: &Origin,
    rows: usize,
    deadline: Deadline,
) -> Result<Vec<Prediction>> {
    let predictions = version.pipeline.postprocessor.decode_until(outputs, origin, deadline)?;
    match predictions.len() {
        made if made == rows => Ok(predictions),
        made => Err(Error::internal(format_args!("the postprocessor made {made} predictions for {rows} instances"))),
    }
}

/// Keeps the outputs that answers are made of. Only their rows are known to be independent of the other rows of a run.
fn answered(version: &ServedVersion, outputs: Tensors) -> Tensors {
    match version.pipeline.postprocessor.answered() {
        Some(names) => outputs.keep(|name| names.iter().any(|answered| **answered == *name)),
        None => outputs,
    }
}
