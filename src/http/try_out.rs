//! Predictions on the admin listener, for the console: a page may send requests only to its own origin. They are answered as
//! those on the data listener are, and count as synthetic, so that they are not monitored for drift and not logged.

use std::sync::Arc;

use axum::extract::{RawPathParams, Request};
use axum::http::HeaderMap;
use axum::http::header::HeaderValue;
use axum::middleware::map_request;
use axum::routing::{MethodRouter, post_service};

use super::admission::{Admission, X_LEEWAY_SYNTHETIC};
use super::predict::{Protocol, predict};
use super::{HttpState, body};
use crate::error::{Error, Result};
use crate::registry::Target;

/// Returns the handler of `POST /admin/v1/models/{model}/versions/{version}/try`.
pub(super) fn handler(state: &Arc<HttpState>) -> MethodRouter<Arc<HttpState>> {
    let predict = |state, request| predict(state, request, Protocol::Leeway);
    let admission = Admission { state: Arc::clone(state), target, media_type: body::media_type, predict };
    post_service(admission).layer(map_request(mark_synthetic))
}

async fn mark_synthetic(mut request: Request) -> Request {
    request.headers_mut().insert(X_LEEWAY_SYNTHETIC, HeaderValue::from_static("true"));
    request
}

/// Returns the version that the parameters of the path name.
fn target<'a>(path: &'a RawPathParams, _: &'a HeaderMap) -> Result<Target<'a>> {
    let parameter = |wanted| path.iter().find_map(|(name, value)| (name == wanted).then_some(value));
    match (parameter("model"), parameter("version")) {
        (Some(model), Some(version)) => Ok(Target::Version(model, version)),
        _ => Err(Error::UnknownEndpoint),
    }
}
