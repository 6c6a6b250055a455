//! Cross-origin requests: which web pages may send requests to the data listener, and what they may read of the answers
//! (the Fetch standard, "CORS protocol").

use std::time::Duration;

use axum::http::Method;
use axum::http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::config::CorsConfig;

/// Headers of a request that a web page may set.
const ALLOWED_HEADERS: [HeaderName; 12] = [
    AUTHORIZATION,
    CONTENT_ENCODING,
    CONTENT_TYPE,
    HeaderName::from_static("inference-header-content-length"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-leeway-synthetic"),
    HeaderName::from_static("x-priority"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-request-timeout-ms"),
    HeaderName::from_static("x-routing-key"),
];

/// Headers of an answer that a web page may read, besides those that are always readable.
const EXPOSED_HEADERS: [HeaderName; 7] = [
    RETRY_AFTER,
    WWW_AUTHENTICATE,
    HeaderName::from_static("inference-header-content-length"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("traceresponse"),
    HeaderName::from_static("x-model-version"),
    HeaderName::from_static("x-request-id"),
];

/// Returns the layer for cross-origin requests; `None` if no origin is configured. It answers preflight requests itself,
/// and adds headers to all other answers, also to errors.
pub(super) fn layer(config: &CorsConfig) -> Option<CorsLayer> {
    if config.origins.is_empty() {
        return None;
    }
    let origins = if config.is_for_all() {
        AllowOrigin::any()
    } else {
        // The configuration was validated, so every origin is a valid header.
        AllowOrigin::list(config.origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
    };
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers(ALLOWED_HEADERS)
        .expose_headers(EXPOSED_HEADERS)
        .allow_credentials(config.credentials)
        .max_age(Duration::from_secs(config.max_age_s.into()));
    Some(layer)
}
