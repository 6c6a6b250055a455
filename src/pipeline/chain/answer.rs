//! The predictions of a chain: those of its last step, or of all steps.

use std::sync::Arc;

use serde_json::{Value, json};

use super::instances::{FinishedStep, StepRow};
use crate::config::{Chain, ChainAnswer};
use crate::error::{Error, Result};
use crate::pipeline::json_schema::{object, with};
use crate::pipeline::{Crop, Prediction};

/// Returns the predictions of a chain, one for each of `instances` instances.
pub fn chain_predictions(chain: &Chain, mut done: Vec<FinishedStep>, instances: usize) -> Result<Vec<Prediction>> {
    match chain.answer {
        ChainAnswer::Last => {
            let last = done.pop().ok_or_else(|| Error::internal("a chain without steps"))?;
            of_step(last, instances)
        }
        ChainAnswer::All => {
            let names: Arc<[Arc<str>]> = chain.steps.iter().map(|step| Arc::clone(&step.name)).collect();
            let of_steps = done.into_iter().map(|step| Ok(of_step(step, instances)?.into_iter()));
            let mut of_steps = of_steps.collect::<Result<Vec<_>>>()?;
            let mut of_instance = || {
                let predictions = of_steps.iter_mut().filter_map(Iterator::next).collect();
                Prediction::Steps { names: Arc::clone(&names), predictions }
            };
            Ok((0..instances).map(|_| of_instance()).collect())
        }
    }
}

/// Returns the predictions of a step, one for each of `instances` instances.
fn of_step(step: FinishedStep, instances: usize) -> Result<Vec<Prediction>> {
    let predictions = Arc::unwrap_or_clone(step.predictions);
    match step.rows {
        Some(rows) => Ok(with_crops(&rows, predictions, instances)),
        None if predictions.len() == instances => Ok(predictions),
        None => Err(Error::internal("a step with another number of predictions than instances")),
    }
}

/// Returns the objects of each image, with the predictions for their crops.
fn with_crops(rows: &[StepRow], predictions: Vec<Prediction>, instances: usize) -> Vec<Prediction> {
    let mut of_images: Vec<Vec<Crop>> = (0..instances).map(|_| Vec::new()).collect();
    for (StepRow { instance, detection }, prediction) in rows.iter().zip(predictions) {
        if let Some(crops) = of_images.get_mut(*instance) {
            crops.push(Crop { detection: detection.clone(), prediction });
        }
    }
    of_images.into_iter().map(Prediction::Crops).collect()
}

/// Returns the schema of the objects of an image with the predictions for their crops, from the schemas of a prediction of the
/// detector and of a prediction for a crop.
pub fn crops_schema(detector: &Value, prediction: Value) -> Value {
    let detection = detector.pointer("/properties/detections/items/properties");
    let known = detection.and_then(Value::as_object).cloned().unwrap_or_default();
    let items = object(known.into_iter().chain([("prediction".to_owned(), prediction)]));
    let detections = with(json!({ "type": "array" }), "items", items);
    object([("detections", detections)])
}
