//! The handlers of gRPC: the Open Inference Protocol, and the health checks of gRPC.
//!
//! Every call passes the same layers as a request over HTTP, and an inference the same admission, queue and budgets.
//! Messages are read here and not by `tonic`, which would buffer a message before its memory is reserved.
//!
//! - `call.rs` reads the head of a call, and `messages.rs` has its messages: those that arrive, and those that are sent.
//! - `infer.rs` handles inferences, `questions.rs` the calls about the server, its models and its repository, and
//!   `streams.rs` the calls that answer with several messages.

mod call;
mod infer;
mod messages;
mod questions;
mod streams;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::post;

use super::HttpState;
use crate::grpc;

/// Returns the routes of gRPC.
pub(super) fn routes() -> Router<Arc<HttpState>> {
    let routes = Router::new()
        .route(grpc::MODEL_INFER, post(infer::infer))
        .route(grpc::MODEL_STREAM_INFER, post(streams::infer))
        .route(grpc::INFERENCE_CALLS, post(questions::inference_call))
        .route(grpc::HEALTH_CHECK, post(questions::check_health))
        .route(grpc::HEALTH_WATCH, post(streams::watch_health));
    match (grpc::reflection(), grpc::reflection_alpha()) {
        (Ok(reflection), Ok(alpha)) => {
            let reflections = Router::new()
                .route_service(grpc::REFLECTION_CALLS, reflection)
                .route_service(grpc::REFLECTION_ALPHA_CALLS, alpha)
                .route_layer(from_fn(call::refuse_above_limit));
            routes.merge(reflections)
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "reflection of gRPC is not available");
            routes
        }
    }
}
