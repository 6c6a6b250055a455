//! The handlers that describe the served models and versions.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::Response;

use super::HttpState;
use super::context::Failure;
use super::json_answer::held_json;
use crate::api::models::{
    ModelVersionView, ModelView, Models, StepView, TensorFlowStatus, TensorFlowVersion, TensorView, VersionView,
};
use crate::api::routes::Method;
use crate::config::ChainStep;
use crate::error::Error;
use crate::identity::ModelName;
use crate::model::OnnxModel;
use crate::openapi::model_schema;
use crate::registry::{ServedModel, ServedVersion, Snapshot, Target, Work};
use crate::tensor::{Dim, Signature, TensorSpec};
use crate::traffic::Share;

/// `GET /v1/models`
pub(super) async fn list(State(state): State<Arc<HttpState>>) -> Result<Response, Failure> {
    let snapshot = state.catalog.snapshot();
    let served = snapshot.models().iter().map(|(name, model)| view(&state, &snapshot, name, model));
    let unserved = snapshot.unserved().iter().map(|(name, reason)| unserved_view(&snapshot, name, reason));
    Ok(held_json(&Models { models: served.chain(unserved).collect() }, &state.body_memory)?)
}

/// `GET /v1/models/{model}`
pub(super) async fn show(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let Path(name) = path.map_err(|_| Error::UnknownEndpoint)?;
    if name.contains(':') {
        return Err(Error::UnsupportedMethod { allowed: Method::Post.allowed().to_owned() }.into());
    }
    let snapshot = state.catalog.snapshot();
    if let Some((name, reason)) = snapshot.unserved().get_key_value(name.as_str()) {
        return Ok(held_json(&unserved_view(&snapshot, name, reason), &state.body_memory)?);
    }
    let (name, model) = snapshot.model(&name)?;
    Ok(held_json(&view(&state, &snapshot, name, model), &state.body_memory)?)
}

/// `GET /v1/models/{model}/versions/{version}`
pub(super) async fn show_version(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Failure> {
    let Path((name, version)) = path.map_err(|_| Error::UnknownEndpoint)?;
    if version.contains(':') {
        return Err(Error::UnsupportedMethod { allowed: Method::Post.allowed().to_owned() }.into());
    }
    let snapshot = state.catalog.snapshot();
    let served = snapshot.resolve(Target::Version(&name, &version), b"")?;
    let (_, model) = snapshot.model(&name)?;
    let view =
        ModelVersionView { model_version_status: [tensor_flow_view(served)], version: version_view(served, model) };
    Ok(held_json(&view, &state.body_memory)?)
}

/// `GET /v1/models/{model}/schema`: the schemas of the stable version.
pub(super) async fn show_schema(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let Path(name) = path.map_err(|_| Error::UnknownEndpoint)?;
    let snapshot = state.catalog.snapshot();
    Ok(held_json(&model_schema(&snapshot, snapshot.stable_or_newest(&name)?)?, &state.body_memory)?)
}

/// `GET /v1/models/{model}/versions/{version}/schema`
pub(super) async fn show_version_schema(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, Failure> {
    let Path((name, version)) = path.map_err(|_| Error::UnknownEndpoint)?;
    let snapshot = state.catalog.snapshot();
    let served = snapshot.resolve(Target::Version(&name, &version), b"")?;
    Ok(held_json(&model_schema(&snapshot, served)?, &state.body_memory)?)
}

/// Refuses an unsupported method on the path of a model or version. Only POST is accepted on paths of predictions, and
/// only GET on the other paths.
pub(super) async fn unsupported_method(uri: Uri) -> Failure {
    let method = if uri.path().ends_with(":predict") { Method::Post } else { Method::Get };
    Error::UnsupportedMethod { allowed: method.allowed().to_owned() }.into()
}

/// Returns a version with traffic whose workers are all stuck, if there is one.
pub(super) fn stuck_version<'a>(state: &HttpState, model: &'a ServedModel) -> Option<&'a Arc<ServedVersion>> {
    let mut with_traffic = model.versions.values().filter(|served| model.split.share(served.version) != Share::NONE);
    with_traffic.find(|served| served.is_stuck(state.health.stuck_after(served.budget.total)))
}

/// Returns the description of a served model for a response.
fn view(state: &HttpState, snapshot: &Snapshot, name: &ModelName, model: &ServedModel) -> ModelView {
    let stuck = stuck_version(state, model);
    let newest_first = || model.versions.values().rev();
    ModelView {
        name: name.clone(),
        ready: stuck.is_none(),
        reason: stuck.map(|stuck| format!("all workers of version {} are in runs that do not end", stuck.version)),
        description: model.description.clone(),
        default: snapshot.default_model() == Some(name),
        model_version_status: newest_first().map(|served| tensor_flow_view(served)).collect(),
        versions: newest_first().map(|served| version_view(served, model)).collect(),
    }
}

/// Returns the description of a model that is known but not served, for a response.
fn unserved_view(snapshot: &Snapshot, name: &ModelName, reason: &str) -> ModelView {
    ModelView {
        name: name.clone(),
        ready: false,
        reason: Some(reason.to_owned()),
        description: None,
        default: snapshot.default_model() == Some(name),
        model_version_status: Vec::new(),
        versions: Vec::new(),
    }
}

fn tensor_flow_view(served: &ServedVersion) -> TensorFlowVersion {
    TensorFlowVersion {
        version: served.version.to_string(),
        state: "AVAILABLE".to_owned(),
        status: TensorFlowStatus { error_code: "OK".to_owned(), error_message: String::new() },
    }
}

/// Returns the description of a loaded version for a response.
fn version_view(served: &ServedVersion, of: &ServedModel) -> VersionView {
    let (model, chain) = (served.pipeline().map(|pipeline| &pipeline.model), served.chain());
    let (intra_op_threads, sizing) = match &served.work {
        Work::Pipeline(pipeline) => (Some(pipeline.intra_op_threads), pipeline.findings.sizing.as_ref()),
        Work::Chain(_) => (None, None),
    };
    let tensors = |of: fn(&Signature) -> &[TensorSpec]| {
        model.map(|model| of(model.signature()).iter().map(tensor_view).collect()).unwrap_or_default()
    };
    VersionView {
        version: served.version,
        stable: served.version == of.stable,
        traffic_percent: of.split.share(served.version),
        sha256: served.sha256,
        provider: model.map(OnnxModel::provider),
        workers: model.map(OnnxModel::workers),
        intra_op_threads,
        sizing: sizing.map(|sizing| sizing.reason.clone()),
        budget_ms: u64::try_from(served.budget.total.as_millis()).unwrap_or(u64::MAX),
        batching: model.map(|model| model.sharing().status()),
        steps: chain.into_iter().flat_map(|chain| &chain.steps).map(step_view).collect(),
        inputs: tensors(|signature| &signature.inputs),
        outputs: tensors(|signature| &signature.outputs),
    }
}

fn step_view(step: &ChainStep) -> StepView {
    StepView { name: step.name.to_string(), model: step.model.clone(), version: step.version }
}

fn tensor_view(spec: &TensorSpec) -> TensorView {
    let length = |dim: &Dim| match dim {
        Dim::Fixed(length) => i64::try_from(*length).unwrap_or(i64::MAX),
        Dim::Dynamic(_) => -1,
    };
    TensorView {
        name: spec.name.to_string(),
        datatype: spec.dtype.name().to_owned(),
        shape: spec.dims.iter().map(length).collect(),
    }
}
