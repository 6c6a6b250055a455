//! The schemas of a served version, and an example of a request.

use crate::api::schema::{AnyJson, ModelSchema, PredictionRequest};
use crate::error::Result;
use crate::registry::{ServedVersion, Snapshot};

/// Returns the schemas of a version's instances and predictions, and an example of a request.
pub fn model_schema(snapshot: &Snapshot, served: &ServedVersion) -> Result<ModelSchema> {
    snapshot.interface_of(served, |interface| {
        let example = interface.example().and_then(|example| serde_json::from_str(example.get()).ok());
        ModelSchema {
            name: served.model.clone(),
            version: served.version,
            instance: AnyJson(interface.instance_schema()),
            prediction: AnyJson(interface.prediction_schema()),
            example: example.map(|instance| PredictionRequest { instances: vec![AnyJson(instance)] }),
        }
    })
}
