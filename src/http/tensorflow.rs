//! The handlers for clients of TensorFlow Serving that are not predictions.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;

use super::HttpState;
use super::context::Failure;
use super::json_answer::held_json;
use crate::api::tensorflow::{Metadata, ModelMetadata, ModelSpec, SignatureDef, SignatureDefMap};
use crate::error::{Error, Result};
use crate::pipeline::SIGNATURE;
use crate::registry::{ServedVersion, Snapshot, Target};

/// `GET /v1/models/{model}/metadata`: the stable version.
pub(super) async fn metadata(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let Path(name) = path.map_err(|_| Error::UnknownEndpoint)?;
    let snapshot = state.catalog.snapshot();
    let served = snapshot.stable_or_newest(&name)?;
    Ok(held_json(&described(&snapshot, served)?, &state.body_memory)?)
}

/// `GET /v1/models/{model}/versions/{version}/metadata`
pub(super) async fn version_metadata(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Failure> {
    let Path((name, version)) = path.map_err(|_| Error::UnknownEndpoint)?;
    let snapshot = state.catalog.snapshot();
    let served = snapshot.resolve(Target::Version(&name, &version), b"")?;
    Ok(held_json(&described(&snapshot, served)?, &state.body_memory)?)
}

/// Describes a version: as inputs the columns that `inputs` names in a request, and the outputs of the model.
fn described(snapshot: &Snapshot, served: &ServedVersion) -> Result<ModelMetadata> {
    // A chain has no tensors of its own.
    let (inputs, outputs) = served.pipeline().map_or((&[][..], &[][..]), |pipeline| {
        let signature = pipeline.model.signature();
        (&*signature.inputs, &*signature.outputs)
    });
    let signature = match snapshot.interface_of(served, |interface| interface.instance_form())? {
        Some(form) => SignatureDef::new(form.columns().iter().map(|column| &column.spec), outputs),
        None => SignatureDef::new(inputs, outputs),
    };
    Ok(ModelMetadata {
        model_spec: ModelSpec {
            name: served.model.to_string(),
            signature_name: String::new(),
            version: served.version.to_string(),
        },
        metadata: Metadata {
            signature_def: SignatureDefMap { signature_def: BTreeMap::from([(SIGNATURE.to_owned(), signature)]) },
        },
    })
}
