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
use super::{HttpState, admin as operators, admin_access, feedback, models, operations, predict, request_layer};
use crate::api::routes::{ADMIN_API, AdminEndpoint, DataEndpoint, Method};
use crate::error::Error;

/// Patterns of the unknown paths below `/v1/`. Their errors have the format of the `/v1` routes.
const UNKNOWN_V1: [&str; 2] = ["/v1/", "/v1/{*unknown}"];

/// Returns the router of the data listener: predictions, served models, health and metrics.
pub fn data(state: &Arc<HttpState>) -> Router {
    // Admission gives a prediction its deadline. Only predictions pass through it, so only they are shed or run out of
    // time, and health and metrics respond under any load.
    let predict =
        || post_service(Admission { state: Arc::clone(state), target: predict_target, predict: predict::predict });
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
    with_layers(own, state, Format::Problem).merge(with_layers(v1, state, Format::ProblemWithError))
}

/// Returns the router of the admin listener, which is for operators and has its own address.
pub fn admin(state: &Arc<HttpState>) -> Router {
    let (mut api, mut routes) = (Router::new(), Router::new());
    for endpoint in AdminEndpoint::ALL {
        let route = with_allow(endpoint.method(), operators::handler(*endpoint));
        match endpoint.path().strip_prefix(ADMIN_API) {
            Some(path) => api = api.route(path, route),
            None => routes = routes.route(endpoint.path(), route),
        }
    }
    let api = api
        .fallback(unknown_endpoint)
        // Outermost, so that unknown paths also require the token and reveal nothing about the API.
        .layer(from_fn_with_state(Arc::clone(state), admin_access::layer));
    with_layers(routes.nest(ADMIN_API, api).fallback(unknown_endpoint), state, Format::Problem)
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
