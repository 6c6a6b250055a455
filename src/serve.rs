//! A prediction, from a request's body to the predictions: the whole request path on one screen.

use std::sync::Arc;
use std::time::Duration;

use crate::budget::StageClock;
use crate::error::{Error, Result};
use crate::pipeline::{Prediction, instances};
use crate::registry::{Catalog, ServedVersion, Target};
use crate::stage::{Stage, Timings};

/// A finished prediction.
#[derive(Debug)]
pub struct Answer {
    /// One prediction per instance, in order.
    pub predictions: Vec<Prediction>,
    /// The version that made them.
    pub version: Arc<ServedVersion>,
    /// How long each stage took.
    pub timings: Timings,
    /// How long all of it took, from the request's head on.
    pub total: Duration,
}

/// Answers one request: `{"instances": […]}` for the model that `target` names.
pub async fn predict(catalog: &Catalog, target: Target<'_>, body: &[u8], mut clock: StageClock) -> Result<Answer> {
    let version = catalog.resolve(target)?;
    let request = version.recorder.request();
    match run_stages(&version, body, &mut clock).await {
        Ok(predictions) => {
            let (timings, total) = (clock.timings(), clock.total());
            request.succeeded(&timings, total);
            Ok(Answer { predictions, version, timings, total })
        }
        Err(error) => {
            request.failed(&error);
            Err(error)
        }
    }
}

async fn run_stages(version: &ServedVersion, body: &[u8], clock: &mut StageClock) -> Result<Vec<Prediction>> {
    let pipeline = &version.pipeline;
    let prepared = clock.run(Stage::Preprocess, || pipeline.preprocessor.transform(instances(body)?))?;

    let rows = prepared.inputs.rows();
    let ticket = pipeline.model.enqueue(prepared.inputs, clock.deadline())?;
    let taken = ticket.taken();
    let outputs = clock.wait(ticket, taken).await?;

    let predictions = clock.run(Stage::Postprocess, || pipeline.postprocessor.decode(&outputs))?;
    if predictions.len() != rows {
        let made = predictions.len();
        return Err(Error::internal(format_args!("the postprocessor made {made} predictions for {rows} instances")));
    }
    Ok(predictions)
}
