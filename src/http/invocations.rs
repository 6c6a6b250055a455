//! Headers and health checks of clients of SageMaker and MLflow.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawPathParams, State};
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::Response;

use super::answer_format::AnswerFormat;
use super::context::Failure;
use super::{HttpState, operations};
use crate::error::{Error, Result};
use crate::registry::Target;

/// Name of a model's archive, which a client of a multi-model endpoint of SageMaker names.
const TARGET_MODEL: HeaderName = HeaderName::from_static("x-amzn-sagemaker-target-model");

/// Suffix of a model's archive.
const ARCHIVE: &str = ".tar.gz";

/// Returns the model that a request to `/invocations` names, or else the default model.
pub(super) fn target<'a>(_: &'a RawPathParams, headers: &'a HeaderMap) -> Result<Target<'a>> {
    Ok(target_model(headers)?.map_or(Target::Default, Target::Model))
}

/// Returns the model that the headers name.
fn target_model(headers: &HeaderMap) -> Result<Option<&str>> {
    let Some(name) = headers.get(TARGET_MODEL) else { return Ok(None) };
    let name = name.to_str().map_err(|_| {
        Error::InvalidInput("the header x-amzn-sagemaker-target-model: found characters that are not ASCII".to_owned())
    })?;
    Ok(Some(name.strip_suffix(ARCHIVE).unwrap_or(name)))
}

/// Returns the format of the answer that the header `Accept` prefers. A format that does not exist is answered with
/// JSON, as MLflow does.
pub(super) fn accepted(headers: &HeaderMap) -> AnswerFormat {
    let ranges =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    let mut best = (0.0, AnswerFormat::Json);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let Some(format) = parts.next().and_then(AnswerFormat::of_media_type) else { continue };
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        if weight > best.0 {
            best = (weight, format);
        }
    }
    best.1
}

/// `GET /ping`, `GET /health`: like `GET /readyz`, with an empty body.
pub(super) async fn ping(state: State<Arc<HttpState>>) -> Result<Response, Failure> {
    operations::ready(state).await.map(|_| Response::new(Body::empty()))
}

/// `GET /version`
pub(super) async fn version() -> Response {
    let mut response = Response::new(Body::from(env!("CARGO_PKG_VERSION")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_format_is_answered() {
        let check = |accept: &'static str, expected: AnswerFormat| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(accepted(&headers), expected, "{accept}");
        };
        assert_eq!(accepted(&HeaderMap::new()), AnswerFormat::Json);
        check("*/*", AnswerFormat::Json);
        check("text/csv", AnswerFormat::Csv);
        check("application/json, text/csv", AnswerFormat::Json);
        check("application/json; q=0.5, Text/CSV;q=0.9", AnswerFormat::Csv);
        check("text/csv;q=0, */*", AnswerFormat::Json);
        check("application/jsonlines", AnswerFormat::Lines);
        check("application/x-recordio-protobuf", AnswerFormat::Json);
        check("text/csv;q=x", AnswerFormat::Csv);
    }

    #[test]
    fn a_header_names_the_model() {
        let check = |name: &'static str, expected: &str| {
            let headers = HeaderMap::from_iter([(TARGET_MODEL, HeaderValue::from_static(name))]);
            assert_eq!(target_model(&headers), Ok(Some(expected)));
        };
        check("digits", "digits");
        check("digits.tar.gz", "digits");
        assert_eq!(target_model(&HeaderMap::new()), Ok(None));
    }
}
