//! The Open Inference Protocol, version 2, over REST.
//!
//! - `infer.rs` handles inferences; `infer_body.rs` reads their bodies.
//! - `metadata.rs` has health and metadata, `statistics.rs` the statistics of versions.
//! - `repository.rs` has the index of the repository, and loads and unloads models. Changes need the rights of operators.

mod infer;
mod infer_body;
mod metadata;
pub(super) mod repository;
mod statistics;

use std::sync::Arc;

use axum::routing::{MethodRouter, get, post, post_service};

use self::infer::{infer, target};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use self::infer_body::read_inference;
use super::HttpState;
use super::admission::Admission;
use crate::api::routes::DataEndpoint;

/// Returns the handler of an endpoint of this protocol on the data listener; `None` for an endpoint of another protocol.
pub(super) fn handler(endpoint: DataEndpoint, state: &Arc<HttpState>) -> Option<MethodRouter<Arc<HttpState>>> {
    let predict = || Admission {
        state: Arc::clone(state),
        target: |path, _| target(path),
        media_type: infer_body::media_type,
        predict: infer,
    };
    Some(match endpoint {
        DataEndpoint::V2Server => get(metadata::server),
        DataEndpoint::V2Live => get(metadata::live),
        DataEndpoint::V2Ready => get(metadata::ready),
        DataEndpoint::V2Models => get(metadata::list),
        DataEndpoint::V2AllStatistics => get(statistics::all),
        DataEndpoint::V2Model | DataEndpoint::V2Version => get(metadata::model),
        DataEndpoint::V2ModelReady | DataEndpoint::V2VersionReady => get(metadata::model_ready),
        DataEndpoint::V2ModelConfig | DataEndpoint::V2VersionConfig => get(metadata::config),
        DataEndpoint::V2ModelStatistics | DataEndpoint::V2VersionStatistics => get(statistics::of_a_model),
        DataEndpoint::V2Infer | DataEndpoint::V2InferVersion => post_service(predict()),
        DataEndpoint::V2RepositoryIndex => post(repository::index_for_callers),
        _ => return None,
    })
}
