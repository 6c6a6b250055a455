//! The schemas of a served version, and an example of a request.

use crate::api::schema::{AnyJson, ModelSchema, PredictionRequest};
use crate::registry::ServedVersion;

/// Returns the schemas of a version's instances and predictions, and an example of a request.
pub fn model_schema(served: &ServedVersion) -> ModelSchema {
    let example = served.example.as_ref().and_then(|example| serde_json::from_str(example.get()).ok());
    ModelSchema {
        name: served.model.clone(),
        version: served.version,
        instance: AnyJson(served.pipeline.preprocessor.instance_schema()),
        prediction: AnyJson(served.pipeline.postprocessor.prediction_schema()),
        example: example.map(|instance| PredictionRequest { instances: vec![AnyJson(instance)] }),
    }
}
