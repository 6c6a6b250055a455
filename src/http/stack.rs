//! The routes and layers of each listener, assembled in one place.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post, post_service, put};
use tower_http::catch_panic::CatchPanicLayer;

use super::admission::Admission;
use super::context::Failure;
use super::error_response::Format;
use super::{HttpState, admin as operators, admin_access, feedback, models, operations, predict, request_layer};
use crate::error::Error;

/// The data listener: predictions, what is served, health and metrics.
pub fn data(state: &Arc<HttpState>) -> Router {
    // Before predictions only, so that whatever sheds load or runs out of time is a prediction: health and metrics
    // answer under any load. From here on the request has its deadline.
    let predict = || post_service(Admission { state: Arc::clone(state), predict: predict::predict });
    let own = Router::new()
        .route("/predict", with_allow("POST", predict()))
        .route("/feedback", with_allow("POST", post(feedback::take)))
        .route("/livez", with_allow("GET, HEAD", get(operations::live)))
        .route("/readyz", with_allow("GET, HEAD", get(operations::ready)))
        .route("/metrics", with_allow("GET, HEAD", get(operations::metrics_for_clients)))
        .fallback(unknown_endpoint);
    // The paths of TensorFlow Serving and KServe, whose clients read errors in a form of their own.
    let v1 = Router::new()
        .route("/v1/models", with_allow("GET, HEAD", get(models::list)))
        // One route for `{model}` and `{model}:predict`: a path parameter is a whole segment.
        .route("/v1/models/{model}", predict().get(models::show).fallback(models::unsupported_method))
        .route(
            "/v1/models/{model}/versions/{version}",
            predict().get(models::show_version).fallback(models::unsupported_method),
        )
        .route("/v1/", any(unknown_endpoint))
        .route("/v1/{*unknown}", any(unknown_endpoint));
    with_layers(own, state, Format::Problem).merge(with_layers(v1, state, Format::ProblemWithError))
}

/// The admin listener: for operators, on an address of its own.
pub fn admin(state: &Arc<HttpState>) -> Router {
    let changes = Router::new()
        .route("/models", with_allow("GET, HEAD", get(operators::list)))
        .route("/models/{model}", with_allow("GET, HEAD", get(operators::show)))
        .route("/models/{model}/drift", with_allow("GET, HEAD", get(operators::drift)))
        .route("/models/{model}/history", with_allow("GET, HEAD", get(operators::history)))
        .route("/models/{model}/traffic", with_allow("PUT", put(operators::traffic)))
        .route("/models/{model}/promote", with_allow("POST", post(operators::promote)))
        .route("/models/{model}/rollback", with_allow("POST", post(operators::rollback)))
        .route("/models/{model}/versions/{version}", with_allow("GET, HEAD", get(operators::show_version)))
        .route("/models/{model}/versions/{version}/load", with_allow("POST", post(operators::load)))
        .route("/models/{model}/versions/{version}/unload", with_allow("POST", post(operators::unload)))
        .route("/reload", with_allow("POST", post(operators::reload)))
        .fallback(unknown_endpoint)
        // Outermost, so that unknown paths also require the token, and reveal nothing about the API.
        .layer(from_fn_with_state(Arc::clone(state), admin_access::layer));
    let routes = Router::new()
        .nest("/admin/v1", changes)
        .route("/", with_allow("GET, HEAD", get(operations::index)))
        .route("/livez", with_allow("GET, HEAD", get(operations::live)))
        .route("/readyz", with_allow("GET, HEAD", get(operations::ready)))
        .route("/metrics", with_allow("GET, HEAD", get(operations::metrics)))
        .fallback(unknown_endpoint);
    with_layers(routes, state, Format::Problem)
}

fn with_layers(routes: Router<Arc<HttpState>>, state: &Arc<HttpState>, format: Format) -> Router {
    routes
        // Innermost: a handler that panics answers as any other failure, inside the layer that renders it.
        .layer(CatchPanicLayer::custom(panicked))
        // Outermost, so that every response, a panic's too, carries the request id and is counted.
        .layer(from_fn_with_state((Arc::clone(state), format), request_layer::layer))
        .with_state(Arc::clone(state))
}

async fn unknown_endpoint() -> Failure {
    Error::UnknownEndpoint.into()
}

/// A route that answers `allowed` and says so when it is asked otherwise.
fn with_allow(allowed: &'static str, route: MethodRouter<Arc<HttpState>>) -> MethodRouter<Arc<HttpState>> {
    route.fallback(move || async move { Failure::from(Error::UnsupportedMethod { allowed: allowed.to_owned() }) })
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that CatchPanicLayer asks for")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    Failure::from(Error::internal(format_args!("a handler or a stage panicked: {text}"))).into_response()
}
