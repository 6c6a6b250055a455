//! The routes and layers of each listener, assembled in one place.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get, post, post_service};
use tower_http::catch_panic::CatchPanicLayer;

use super::admission::{Admission, ReadTarget, predict_target};
use super::context::Failure;
use super::error_response::{self, Format};
use super::predict::{Protocol, predict};
use super::{
    ApiKeys, HttpState, admin as operators, admin_access, api_keys, body, compression, console, cors, docs, feedback,
    grpc, invocations, models, openapi, operations, path_prefix, request_layer, tensorflow, v2,
};
use crate::api::routes::{ADMIN_API, AdminEndpoint, AliasOf, DataEndpoint, Method};
use crate::config::Route;
use crate::error::Error;

/// Patterns of the unknown paths below `/v1/`. Their errors have the format of the `/v1` routes.
const UNKNOWN_V1: [&str; 2] = ["/v1/", "/v1/{*unknown}"];

/// Patterns of the unknown paths below `/v2/`.
const UNKNOWN_V2: [&str; 2] = ["/v2/", "/v2/{*unknown}"];

/// Returns the router of the data listener: predictions, served models, health and metrics.
pub fn data(state: &Arc<HttpState>) -> Router {
    // Admission gives a prediction its deadline. Only predictions pass through it, so only they are shed or run out of
    // time, and health and metrics respond under any load.
    let predictions = |protocol: Protocol, target: ReadTarget| {
        let (state, predict) = (Arc::clone(state), move |state, request| predict(state, request, protocol));
        post_service(Admission { state, target, media_type: body::media_type, predict })
    };
    let of_default = || with_allow(Method::Post, predictions(Protocol::Leeway, predict_target));
    let invocations = predictions(Protocol::Invocations, invocations::target);
    let own = Router::new()
        .route(DataEndpoint::Predict.path(), of_default())
        .route(DataEndpoint::Invocations.path(), with_allow(Method::Post, invocations))
        .route(DataEndpoint::Feedback.path(), with_allow(Method::Post, post(feedback::take)))
        .route(DataEndpoint::Index.path(), with_allow(Method::Get, get(operations::data_index)))
        .route(DataEndpoint::OpenApi.path(), with_allow(Method::Get, get(openapi::data)))
        .route(DataEndpoint::Docs.path(), with_allow(Method::Get, get(docs::page)))
        .route(DataEndpoint::Live.path(), with_allow(Method::Get, get(operations::live)))
        .route(DataEndpoint::Ready.path(), with_allow(Method::Get, get(operations::ready)))
        .route(DataEndpoint::Ping.path(), with_allow(Method::Get, get(invocations::ping)))
        .route(DataEndpoint::Health.path(), with_allow(Method::Get, get(invocations::ping)))
        .route(DataEndpoint::ProgramVersion.path(), with_allow(Method::Get, get(invocations::version)))
        .route(DataEndpoint::Metrics.path(), with_allow(Method::Get, get(operations::metrics_for_clients)))
        .fallback(unknown_endpoint);
    let own = with_aliases(own, state, of_default);
    let tensorflow = || predictions(Protocol::TensorFlow, predict_target);
    // The paths of TensorFlow Serving and KServe, whose clients expect errors in another format.
    let v1 = Router::new()
        .route(DataEndpoint::Models.path(), with_allow(Method::Get, get(models::list)))
        // `{model}` and `{model}:predict` share a route, because a path parameter of axum is a whole segment.
        .route(DataEndpoint::Model.path(), tensorflow().get(models::show).fallback(models::unsupported_method))
        .route(
            DataEndpoint::Version.path(),
            tensorflow().get(models::show_version).fallback(models::unsupported_method),
        )
        .route(DataEndpoint::Metadata.path(), with_allow(Method::Get, get(tensorflow::metadata)))
        .route(DataEndpoint::VersionMetadata.path(), with_allow(Method::Get, get(tensorflow::version_metadata)))
        .route(DataEndpoint::ModelSchema.path(), with_allow(Method::Get, get(models::show_schema)))
        .route(DataEndpoint::VersionSchema.path(), with_allow(Method::Get, get(models::show_version_schema)))
        .route(UNKNOWN_V1[0], any(unknown_endpoint))
        .route(UNKNOWN_V1[1], any(unknown_endpoint));
    let keys = state.api_keys.as_ref();
    let own = with_layers(own, state, Format::Problem, keys);
    let v1 = with_layers(v1, state, Format::ProblemWithError, keys);
    let v2 = with_layers(v2_routes(state), state, Format::ProblemWithError, keys);
    let routes = own.merge(v1).merge(v2).merge(with_layers(grpc::routes(), state, Format::Grpc, keys));
    with_optional_layers(routes, state)
}

/// Adds the layers that are configured for all routes of the data listener, outside those that every listener has.
fn with_optional_layers(routes: Router, state: &Arc<HttpState>) -> Router {
    let routes = path_prefix::also_below(state.path_prefix.as_ref(), routes);
    // Outside the layer that renders errors, because a list of models or an error may be long, too.
    let routes = match state.compression {
        true => routes.layer(from_fn_with_state(Arc::clone(state), compression::layer)),
        false => routes,
    };
    match cors::layer(&state.cors) {
        // Outermost, so that preflight requests, which have no key, are answered, and errors can be read by web pages.
        Some(cors) => routes.layer(cors),
        None => routes,
    }
}

/// Returns the routes of the Open Inference Protocol on the data listener.
fn v2_routes(state: &Arc<HttpState>) -> Router<Arc<HttpState>> {
    let mut routes = Router::new();
    for endpoint in DataEndpoint::ALL {
        if let Some(handler) = v2::handler(*endpoint, state) {
            routes = routes.route(endpoint.path(), with_allow(endpoint.method(), handler));
        }
    }
    for (endpoint, handler) in [
        (DataEndpoint::V2RepositoryLoad, post(v2::repository::load)),
        (DataEndpoint::V2RepositoryUnload, post(v2::repository::unload)),
    ] {
        let access = from_fn_with_state(Arc::clone(state), admin_access::token_layer);
        routes = routes.route(endpoint.path(), with_allow(endpoint.method(), handler.layer(access)));
    }
    UNKNOWN_V2.into_iter().fold(routes, |routes, path| routes.route(path, any(unknown_endpoint)))
}

/// Returns the router of the admin listener, which is for operators and has its own address.
pub fn admin(state: &Arc<HttpState>) -> Router {
    let (mut api, mut v2, mut routes) = (Router::new(), Router::new(), Router::new());
    for (path, route) in admin_routes(state) {
        match path.strip_prefix(ADMIN_API) {
            Some(path) => api = api.route(path, route),
            None if path.starts_with("/v2/") => v2 = v2.route(path, route),
            None => routes = routes.route(path, route),
        }
    }
    for (path, files) in console::files() {
        routes = routes.route(path, with_allow(Method::Get, files));
    }
    let access = || from_fn_with_state(Arc::clone(state), admin_access::layer);
    // Outermost, so that unknown paths also require the token and reveal nothing about the API.
    let api = api.fallback(unknown_endpoint).layer(access());
    let own = with_layers(routes.nest(ADMIN_API, api).fallback(unknown_endpoint), state, Format::Problem, None);
    let routes = own.merge(with_layers(v2.layer(access()), state, Format::ProblemWithError, None));
    path_prefix::also_below(state.path_prefix.as_ref(), routes)
}

/// Returns the routes of the table of the admin listener's endpoints. Endpoints with different methods may share a path.
fn admin_routes(state: &Arc<HttpState>) -> BTreeMap<&'static str, MethodRouter<Arc<HttpState>>> {
    let mut handlers: BTreeMap<&str, (MethodRouter<Arc<HttpState>>, Vec<&str>)> = BTreeMap::new();
    for endpoint in AdminEndpoint::ALL {
        let mut handler = operators::handler(*endpoint, state);
        // The body of a prediction may be an image, for example. Admission checks its media type.
        if endpoint.method() != Method::Get && *endpoint != AdminEndpoint::Try {
            handler = handler.layer(from_fn(admin_access::content_layer));
        }
        let (of_path, allowed) = handlers.entry(endpoint.path()).or_default();
        *of_path = std::mem::take(of_path).merge(handler);
        allowed.push(endpoint.method().allowed());
    }
    let with_allow =
        |(path, (handler, allowed)): (_, (_, Vec<&str>))| (path, with_allowed(allowed.join(", "), handler));
    handlers.into_iter().map(with_allow).collect()
}

/// Adds the paths that the configuration names, unless they are served already.
fn with_aliases(
    routes: Router<Arc<HttpState>>,
    state: &HttpState,
    predict: impl Fn() -> MethodRouter<Arc<HttpState>>,
) -> Router<Arc<HttpState>> {
    let new = |route: &Option<Route>, alias: AliasOf| {
        let route = route.as_ref().map(Route::path)?;
        if state.path_prefix.as_ref().is_some_and(|prefix| prefix.below(route).is_some()) {
            return None;
        }
        DataEndpoint::is_new(route, alias).unwrap_or(false).then(|| route.to_owned())
    };
    let ready = || with_allow(Method::Get, get(operations::ready));
    match (new(&state.predict_route, AliasOf::Predict), new(&state.health_route, AliasOf::Ready)) {
        (Some(both), Some(health)) if both == health => routes.route(&both, predict().get(operations::ready)),
        (predict_route, health_route) => {
            let routes = match predict_route {
                Some(path) => routes.route(&path, predict()),
                None => routes,
            };
            match health_route {
                Some(path) => routes.route(&path, ready()),
                None => routes,
            }
        }
    }
}

/// Adds the layers that all routes have, and the check of API keys if there are `keys`.
fn with_layers(
    routes: Router<Arc<HttpState>>,
    state: &Arc<HttpState>,
    format: Format,
    keys: Option<&Arc<ApiKeys>>,
) -> Router {
    let routes = match keys {
        // Inside the outermost layer, which renders the refusal, and before admission, which works for known clients
        // only.
        Some(keys) => routes.layer(from_fn_with_state(Arc::clone(keys), api_keys::layer)),
        None => routes,
    };
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
    with_allowed(method.allowed().to_owned(), route)
}

/// Adds a fallback to a route that refuses all methods but those in `allowed`, with a response that names these.
fn with_allowed(allowed: String, route: MethodRouter<Arc<HttpState>>) -> MethodRouter<Arc<HttpState>> {
    route.fallback(move || async move { Failure::from(Error::UnsupportedMethod { allowed }) })
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that CatchPanicLayer asks for")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    Failure::from(error_response::of_panic(&*panic)).into_response()
}
