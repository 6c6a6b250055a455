//! The schemas of a served version, and an example of a request.

use crate::api::schema::{AnyJson, JsonText, ModelSchema, PredictionRequest};
use crate::error::Result;
use crate::registry::{ServedVersion, Snapshot};

/// Returns the schemas of a version's instances and predictions, and an example of a request.
pub fn model_schema(snapshot: &Snapshot, served: &ServedVersion) -> Result<ModelSchema> {
    snapshot.interface_of(served, |interface| {
        let instances = |instance| vec![JsonText(instance); interface.fewest_instances()];
        ModelSchema {
            name: served.model.clone(),
            version: served.version,
            instance: AnyJson(interface.instance_schema()),
            prediction: AnyJson(interface.prediction_schema()),
            example: interface
                .example()
                .map(|instance| PredictionRequest { instances: instances(instance.to_owned()) }),
        }
    })
}
