//! The calls about the server, its models and its repository, and the health check.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;

use super::call::Call;
use super::messages::unary;
use crate::api::v2::Statistics;
use crate::error::{Error, Result};
use crate::grpc;
use crate::grpc::proto::health::health_check_response::ServingStatus;
use crate::grpc::proto::health::{HealthCheckRequest, HealthCheckResponse};
use crate::grpc::proto::inference::model_repository_parameter::ParameterChoice;
use crate::grpc::proto::inference::{
    ModelConfigRequest, ModelMetadataRequest, ModelReadyRequest, ModelReadyResponse, ModelRepositoryParameter,
    ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveResponse, ServerReadyResponse,
};
use crate::http::context::Failure;
use crate::http::{HttpState, admin_access, operations};
use crate::identity::{ModelName, Version, shown};
use crate::registry::{ServedVersion, Snapshot, Target};
use crate::serve::{self, Reasons};

/// The calls about the server, its models and its repository.
///
/// Length: a table.
pub(super) async fn inference_call(
    State(state): State<Arc<HttpState>>,
    uri: Uri,
    request: Request,
) -> Result<Response, Failure> {
    let (call, body) = Call::of(request)?;
    let message = call.question(&state, body).await?;
    let snapshot = state.catalog.snapshot();
    let frame = match uri.path().rsplit('/').next().unwrap_or_default() {
        "ServerLive" => grpc::encode(&ServerLiveResponse { live: operations::check_live(&state).is_ok() }),
        "ServerReady" => grpc::encode(&ServerReadyResponse { ready: operations::check_ready(&state).is_ok() }),
        "ModelReady" => {
            let ModelReadyRequest { name, version } = grpc::decode(&message)?;
            let target = grpc::target(&name, &version)?;
            let found = serve::check_ready(&snapshot, target, |served| state.health.stuck_after(served.budget.total));
            grpc::encode(&ModelReadyResponse { ready: state.readiness.is_ready() && found.is_ok() })
        }
        "ServerMetadata" => grpc::encode(&grpc::server_metadata()),
        "ModelMetadata" => {
            let ModelMetadataRequest { name, version } = grpc::decode(&message)?;
            grpc::encode(&grpc::model_metadata(serve::model_metadata(&snapshot, grpc::target(&name, &version)?)?))
        }
        "ModelConfig" => {
            let ModelConfigRequest { name, version } = grpc::decode(&message)?;
            grpc::encode(&grpc::model_config(serve::model_config(&snapshot, grpc::target(&name, &version)?)?))
        }
        "ModelStatistics" => {
            let ModelStatisticsRequest { name, version } = grpc::decode(&message)?;
            grpc::encode(&grpc::model_statistics(statistics(&state, &snapshot, &name, &version)?))
        }
        "RepositoryIndex" => {
            let RepositoryIndexRequest { repository_name: _, ready } = grpc::decode(&message)?;
            let models = state.deployer.overview().models;
            let entries = serve::repository_index(&models, snapshot.unserved(), ready, Reasons::ForCallers);
            grpc::encode(&grpc::repository_index(entries))
        }
        "RepositoryModelLoad" => {
            admin_access::check_operator(&state, &call.headers)?;
            let RepositoryModelLoadRequest { model_name, parameters, .. } = grpc::decode(&message)?;
            let (model, version) = (named(&model_name)?, version_in(parameters, &[])?);
            match version {
                Some(version) => state.deployer.hold_loaded(&model, version).await?,
                None => state.deployer.load_model(&model).await?,
            }
            grpc::encode(&RepositoryModelLoadResponse {})
        }
        "RepositoryModelUnload" => {
            admin_access::check_operator(&state, &call.headers)?;
            let RepositoryModelUnloadRequest { model_name, parameters, .. } = grpc::decode(&message)?;
            let (model, version) = (named(&model_name)?, version_in(parameters, &["unload_dependents"])?);
            match version {
                Some(version) => state.deployer.hold_unloaded(&model, version).await?,
                None => state.deployer.unload_model(&model).await?,
            }
            grpc::encode(&RepositoryModelUnloadResponse {})
        }
        name => return Err(Error::UnknownCall(unknown_call(name)).into()),
    };
    Ok(unary(state.body_memory.hold(frame.capacity())?.of(frame)))
}

/// Returns the statistics of a version, of all versions of a model, or of all models.
fn statistics(state: &HttpState, snapshot: &Snapshot, name: &str, version: &str) -> Result<Statistics> {
    let now = state.monitor.now();
    Ok(match grpc::target(name, version)? {
        Target::Default => serve::statistics(snapshot.versions(), now),
        Target::Model(name) => serve::statistics(snapshot.model(name)?.1.versions.values(), now),
        target @ Target::Version(..) => serve::statistics(std::iter::once(snapshot.resolve(target, b"")?), now),
    })
}

fn named(name: &str) -> Result<ModelName> {
    name.parse().map_err(|error| Error::InvalidInput(format!("model_name: {error}")))
}

/// Returns the version in the parameters of a load or unload; `None` for the whole model. Other parameters are refused,
/// except the `ignored` ones, because they would change what is loaded.
fn version_in(parameters: HashMap<String, ModelRepositoryParameter>, ignored: &[&str]) -> Result<Option<Version>> {
    let mut version = None;
    for (name, ModelRepositoryParameter { parameter_choice }) in parameters {
        match (&*name, parameter_choice) {
            ("version", Some(ParameterChoice::StringParam(text))) => {
                let parsed =
                    text.parse().map_err(|error| Error::InvalidInput(format!("parameters.version: {error}")))?;
                version = Some(parsed);
            }
            (name, _) if ignored.contains(&name) => {}
            (name, _) => {
                return Err(Error::InvalidInput(format!(
                    "parameters: found \"{}\", expected \"version\" with a string",
                    shown(name)
                )));
            }
        }
    }
    Ok(version)
}

/// Returns the message about a call that does not exist, or not here.
fn unknown_call(name: &str) -> String {
    let shown = shown(name);
    match name {
        name if name.contains("SharedMemory") => {
            format!("{shown}: shared memory is not supported; send the elements in the message")
        }
        "TraceSetting" | "LogSettings" => {
            format!("{shown}: traces and logs are configured when the server starts")
        }
        _ => format!("{shown}: inference.GRPCInferenceService has no such call here; reflection lists the calls"),
    }
}

/// `grpc.health.v1.Health/Check`
pub(super) async fn check_health(State(state): State<Arc<HttpState>>, request: Request) -> Result<Response, Failure> {
    let (call, body) = Call::of(request)?;
    let HealthCheckRequest { service } = grpc::decode(&call.question(&state, body).await?)?;
    let snapshot = state.catalog.snapshot();
    let status = health(&state, &snapshot, &service).ok_or_else(|| {
        // A health check needs no API key, so it does not tell the names of models.
        Error::UnknownModel { model: service.chars().take(64).collect(), known: Vec::new() }
    })?;
    let frame = grpc::encode(&HealthCheckResponse { status: status.into() });
    Ok(unary(state.body_memory.hold_anyway(frame.capacity()).of(frame)))
}

/// Returns the health of the server or of a model.
pub(super) fn health(state: &HttpState, snapshot: &Snapshot, service: &str) -> Option<ServingStatus> {
    let stuck_after = |served: &ServedVersion| state.health.stuck_after(served.budget.total);
    grpc::health_of(snapshot, state.readiness.is_ready(), service, stuck_after)
}
