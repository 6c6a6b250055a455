//! The routes and layers of each listener, assembled in one place.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post, post_service};
use tower_http::catch_panic::CatchPanicLayer;

use super::admission::{Admission, predict_target};
use super::context::Failure;
use super::error_response::Format;
use super::{
    HttpState, admin as operators, admin_access, body, feedback, grpc, models, operations, predict, request_layer, v2,
};
use crate::api::routes::{ADMIN_API, AdminEndpoint, DataEndpoint, Method};
use crate::error::Error;

/// Patterns of the unknown paths below `/v1/`. Their errors have the format of the `/v1` routes.
const UNKNOWN_V1: [&str; 2] = ["/v1/", "/v1/{*unknown}"];

/// Patterns of the unknown paths below `/v2/`.
const UNKNOWN_V2: [&str; 2] = ["/v2/", "/v2/{*unknown}"];

/// Returns the router of the data listener: predictions, served models, health and metrics.
pub fn data(state: &Arc<HttpState>) -> Router {
    // Admission gives a prediction its deadline. Only predictions pass through it, so only they are shed or run out of
    // time, and health and metrics respond under any load.
    let predict = || {
        let (state, target, predict) = (Arc::clone(state), predict_target, predict::predict);
        post_service(Admission { state, target, media_type: body::media_type, predict })
    };
    let own = Router::new()
        .route(DataEndpoint::Predict.path(), with_allow(Method::Post, predict()))
        .route(DataEndpoint::Feedback.path(), with_allow(Method::Post, post(feedback::take)))
        .route(DataEndpoint::Live.path(), with_allow(Method::Get, get(operations::live)))
        .route(DataEndpoint::Ready.path(), with_allow(Method::Get, get(operations::ready)))
        .route(DataEndpoint::Metrics.path(), with_allow(Method::Get, get(operations::metrics_for_clients)))
        .fallback(unknown_endpoint);
    // The paths of TensorFlow Serving and KServe, whose clients expect errors in another format.
    let v1 = Router::new()
        .route(DataEndpoint::Models.path(), with_allow(Method::Get, get(models::list)))
        // `{model}` and `{model}:predict` share a route, because a path parameter of axum is a whole segment.
        .route(DataEndpoint::Model.path(), predict().get(models::show).fallback(models::unsupported_method))
        .route(DataEndpoint::Version.path(), predict().get(models::show_version).fallback(models::unsupported_method))
        .route(UNKNOWN_V1[0], any(unknown_endpoint))
        .route(UNKNOWN_V1[1], any(unknown_endpoint));
    with_layers(own, state, Format::Problem)
        .merge(with_layers(v1, state, Format::ProblemWithError))
        .merge(with_layers(v2_routes(state), state, Format::ProblemWithError))
        .merge(with_layers(grpc::routes(), state, Format::Grpc))
}

/// Returns the routes of the Open Inference Protocol on the data listener.
fn v2_routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    let mut routes = Router::new();
    for endpoint in DataEndpoint::ALL {
        if let Some(handler) = v2::handler(*endpoint, state) {
            routes = routes.route(endpoint.path(), with_allow(endpoint.method(), handler));
        }
    }
    let mut changes = Router::new();
    for (endpoint, handler) in [
        (DataEndpoint::V2RepositoryLoad, post(v2::repository::load)),
        (DataEndpoint::V2RepositoryUnload, post(v2::repository::unload)),
    ] {
        changes = changes.route(endpoint.path(), with_allow(endpoint.method(), handler));
    }
    // Outermost, so that a caller without the token learns nothing about the models.
    let changes = changes.layer(from_fn_with_state(Arc::clone(state), admin_access::token_layer));
    UNKNOWN_V2.into_iter().fold(routes.merge(changes), |routes, path| routes.route(path, any(unknown_endpoint)))
}

/// Returns the router of the admin listener, which is for operators and has its own address.
pub fn admin(state: &Arc<HttpState>) -> Router {
    let (mut api, mut v2, mut routes) = (Router::new(), Router::new(), Router::new());
    for endpoint in AdminEndpoint::ALL {
        let route = with_allow(endpoint.method(), operators::handler(*endpoint));
        let path = endpoint.path();
        match path.strip_prefix(ADMIN_API) {
            Some(path) => api = api.route(path, route),
            None if path.starts_with("/v2/") => v2 = v2.route(path, route),
            None => routes = routes.route(path, route),
        }
    }
    let access = || from_fn_with_state(Arc::clone(state), admin_access::layer);
    // Outermost, so that unknown paths also require the token and reveal nothing about the API.
    let api = api.fallback(unknown_endpoint).layer(access());
    let own = with_layers(routes.nest(ADMIN_API, api).fallback(unknown_endpoint), state, Format::Problem);
    own.merge(with_layers(v2.layer(access()), state, Format::ProblemWithError))
}

fn with_layers(routes: Router<Arc<HttpState>>, state: &Arc<HttpState>, format: Format) -> Router {
    routes
        // Innermost, so that a panic of a handler becomes a failure, which the outer layer renders.
        .layer(CatchPanicLayer::custom(panicked))
        // Outermost, so that every response, even after a panic, has the request id, and every failure is counted.
        .layer(from_fn_with_state((Arc::clone(state), format), request_layer::layer))
        .with_state(Arc::clone(state))
}

async fn unknown_endpoint() -> Failure {
    Error::UnknownEndpoint.into()
}

/// Adds a fallback to a route that refuses all methods except `method`, with a response that names `method`.
fn with_allow(method: Method, route: MethodRouter<Arc<HttpState>>) -> MethodRouter<Arc<HttpState>> {
    route.fallback(
        move || async move { Failure::from(Error::UnsupportedMethod { allowed: method.allowed().to_owned() }) },
    )
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that CatchPanicLayer asks for")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    Failure::from(Error::internal(format_args!("a handler or a stage panicked: {text}"))).into_response()
}
