//! The layer before predictions. From the head of a request alone, it finds the version and the deadline, and decides
//! whether the request can be answered in time. A refusal here costs microseconds.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::HeaderMap;
use axum::http::header::HeaderName;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use tower_service::Service;
use uuid::Uuid;

use super::HttpState;
use super::activity::AboveLimit;
use super::body::{self, RowFormat, discard};
use super::content_coding::Coding;
use super::context::{Failure, RequestContext};
use crate::error::{Error, Result};
use crate::model::Priority;
use crate::registry::Target;
use crate::serve::{self, Admitted, Head, RequestOrigin};

/// Timeout of the caller, in milliseconds.
const X_REQUEST_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");
/// Timeout of the caller in milliseconds, as Envoy sends it to the server behind it; 0 means no timeout.
const X_ENVOY_EXPECTED_RQ_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
/// Priority of the request: `high`, `normal` or `low`.
const X_PRIORITY: HeaderName = HeaderName::from_static("x-priority");

/// Key that chooses a version, such as the id of a user. Requests with the same key go to the same version.
const X_ROUTING_KEY: HeaderName = HeaderName::from_static("x-routing-key");
/// `true` if the request is made up, as by a probe or a load test.
pub(super) const X_LEEWAY_SYNTHETIC: HeaderName = HeaderName::from_static("x-leeway-synthetic");
/// Maximum length of a routing key, in bytes.
const MAX_KEY: usize = 256;

/// Suffix of a model's or a version's name in the path of a prediction.
const PREDICT: &str = ":predict";

/// A prediction request that can be answered in time, judging by its head.
pub(super) struct AdmittedRequest {
    pub(super) admitted: Admitted,
    /// Format of the body, if it has rows and is not one JSON object.
    pub(super) rows: Option<RowFormat>,
    /// Id of the request, from which the ids of its predictions are derived.
    pub(super) unique: Uuid,
    pub(super) head: Parts,
    pub(super) content: Body,
}

/// Function that reads the requested model or version from the parameters of a path, or from the headers.
pub(super) type ReadTarget = for<'a> fn(&'a RawPathParams, &'a HeaderMap) -> Result<Target<'a>>;

/// Function that reads the media type of a body from its headers; `None` if the body has the usual encoding.
pub(super) type ReadMediaType = fn(&HeaderMap) -> Result<Option<Cow<'_, str>>>;

/// The tower service before predictions. It gives a request its deadline, and either calls `predict` or responds with
/// the reason for the refusal. `predict` takes an [`AdmittedRequest`], so no prediction can bypass this service.
#[derive(Debug, Clone)]
pub(super) struct Admission<P> {
    pub(super) state: Arc<HttpState>,
    pub(super) target: ReadTarget,
    pub(super) media_type: ReadMediaType,
    pub(super) predict: P,
}

impl<P, F> Service<Request> for Admission<P>
where
    P: FnOnce(Arc<HttpState>, AdmittedRequest) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response, Failure>> + Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    /// Returns ready in all cases: `call` checks the capacity, because this needs the head of the request.
    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Admission { state, target, media_type, predict } = self.clone();
        Box::pin(async move {
            let (mut head, mut content) = request.into_parts();
            let path = RawPathParams::from_request_parts(&mut head, &()).await;
            let answered = match admit(&state, (target, media_type), path, &head) {
                Ok(Found { admitted, rows, unique, coding }) => {
                    match body::decoded(&mut head, content, coding, state.body_limit, &state.body_memory) {
                        Ok(content) => predict(state, AdmittedRequest { admitted, rows, unique, head, content }).await,
                        Err(error) => Err(admitted.refused(error).into()),
                    }
                }
                Err(error) => {
                    // The rest of the body is read, so that the connection can be reused, and a client that is still
                    // sending gets the response.
                    discard(&head, &mut content, &error).await;
                    Err(error.into())
                }
            };
            Ok(answered.into_response())
        })
    }
}

/// The facts in the head of an admitted request.
struct Found {
    admitted: Admitted,
    rows: Option<RowFormat>,
    unique: Uuid,
    coding: Option<Coding>,
}

fn admit(
    state: &HttpState,
    (target, media_type): (ReadTarget, ReadMediaType),
    path: Result<RawPathParams, RawPathParamsRejection>,
    head: &Parts,
) -> Result<Found> {
    let path = path.map_err(|_| Error::UnknownEndpoint)?;
    let context = RequestContext::of(head)?;
    let (media_type, coding) = (media_type(&head.headers)?, body::coding(&head.headers)?);
    let rows = media_type.as_deref().and_then(|media_type| RowFormat::of(media_type, &head.headers));
    let asked = Head {
        target: target(&path, &head.headers)?,
        routing_key: routing_key(&head.headers)?.unwrap_or(context.id.as_bytes()),
        read_at: context.started,
        client_timeout: client_timeout(&head.headers)?,
        priority: priority(&head.headers)?,
        media_type: media_type.as_deref().filter(|_| rows.is_none()),
        origin: origin(&head.headers)?,
        notes: context.notes.as_ref(),
        to_log: context.to_log(state.prediction_log.as_ref(), context.unique),
        shadows: Some(&state.shadows),
    };
    let admitted = serve::admit(&state.catalog, asked)?;
    match context.above_limit {
        Some(AboveLimit { limit }) => Err(admitted.refused(Error::TooManyConnections { limit: limit.get() })),
        None => Ok(Found { admitted, rows, unique: context.unique, coding }),
    }
}

/// Returns the model or version that the parameters of a path name: `{model}:predict`, or `{model}` and
/// `{version}:predict`. A path without parameters stands for the default model.
pub(super) fn predict_target<'a>(path: &'a RawPathParams, _: &'a HeaderMap) -> Result<Target<'a>> {
    let (mut model, mut version) = (None, None);
    for (name, value) in path {
        match name {
            "model" => model = Some(value),
            _ => version = Some(value),
        }
    }
    Ok(match (model, version) {
        (None, _) => Target::Default,
        (Some(model), None) => Target::Model(before_predict(model)?),
        (Some(model), Some(version)) => Target::Version(model, before_predict(version)?),
    })
}

/// Removes `:predict` from a path segment. A segment without this suffix is an error: the request is a POST to a
/// read-only resource, most likely because the suffix was forgotten or misspelt.
fn before_predict(segment: &str) -> Result<&str> {
    segment.strip_suffix(PREDICT).ok_or_else(|| match segment.split_once(':') {
        None => Error::UnsupportedMethod { allowed: "GET, HEAD".to_owned() },
        Some((_, action)) => Error::UnknownAction { action: action.chars().take(32).collect() },
    })
}

/// Returns the shortest timeout that the caller or a proxy has set.
fn client_timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let mut shortest: Option<Duration> = None;
    for (name, zero_is_none) in [(X_REQUEST_TIMEOUT_MS, false), (X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, true)] {
        for value in headers.get_all(&name) {
            let ms = whole_milliseconds(value.as_bytes());
            match ms {
                Some(0) if zero_is_none => {}
                None | Some(0) => {
                    return Err(Error::InvalidInput(format!(
                        "the header {name}: found {:?}, expected whole milliseconds, at least 1",
                        shown(value.as_bytes())
                    )));
                }
                Some(ms) => {
                    let asked = Duration::from_millis(ms);
                    shortest = Some(shortest.map_or(asked, |shortest| shortest.min(asked)));
                }
            }
        }
    }
    Ok(shortest)
}

/// Parses a whole number of milliseconds. A number that does not fit into `u64` counts as the largest `u64`.
fn whole_milliseconds(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value.trim_ascii()).ok()?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

pub(super) fn priority(headers: &HeaderMap) -> Result<Priority> {
    let Some(value) = headers.get(X_PRIORITY) else { return Ok(Priority::default()) };
    let named =
        Priority::ALL.into_iter().find(|priority| value.as_bytes().eq_ignore_ascii_case(priority.name().as_bytes()));
    named.ok_or_else(|| {
        Error::InvalidInput(format!(
            "the header x-priority: found {:?}, expected high, normal or low",
            shown(value.as_bytes())
        ))
    })
}

/// Returns the routing key, which may have any bytes that are valid in a header.
pub(super) fn routing_key(headers: &HeaderMap) -> Result<Option<&[u8]>> {
    let mut keys = headers.get_all(&X_ROUTING_KEY).iter().map(|value| value.as_bytes());
    match (keys.next(), keys.next()) {
        (None, _) => Ok(None),
        (Some(key), None) if (1..=MAX_KEY).contains(&key.len()) => Ok(Some(key)),
        (Some(key), None) => Err(Error::InvalidInput(format!(
            "the header x-routing-key: found {} bytes, expected 1 to {MAX_KEY}",
            key.len()
        ))),
        (Some(_), Some(_)) => {
            Err(Error::InvalidInput("the header x-routing-key occurs twice; send it once".to_owned()))
        }
    }
}

/// Returns the origin of a request.
pub(super) fn origin(headers: &HeaderMap) -> Result<RequestOrigin> {
    match headers.get(&X_LEEWAY_SYNTHETIC).map(|value| value.as_bytes()) {
        None => Ok(RequestOrigin::Real),
        Some(value) if value.eq_ignore_ascii_case(b"true") => Ok(RequestOrigin::Synthetic),
        Some(value) if value.eq_ignore_ascii_case(b"false") => Ok(RequestOrigin::Real),
        Some(value) => Err(Error::InvalidInput(format!(
            "the header x-leeway-synthetic: found {:?}, expected true or false",
            shown(value)
        ))),
    }
}

/// Formats the first bytes of a header for an error message.
fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(&value[..value.len().min(32)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &'static str)], expected: Result<Option<u64>, &str>) {
        let pair = |&(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), axum::http::HeaderValue::from_static(value))
        };
        let found = client_timeout(&headers.iter().map(pair).collect());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected.map(Duration::from_millis)),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn the_shortest_timeout_counts() {
        check(&[], Ok(None));
        check(&[("x-request-timeout-ms", "70")], Ok(Some(70)));
        check(&[("x-request-timeout-ms", "70"), ("x-envoy-expected-rq-timeout-ms", "60")], Ok(Some(60)));
        check(&[("x-request-timeout-ms", "70"), ("x-envoy-expected-rq-timeout-ms", "0")], Ok(Some(70)));
        check(&[("x-request-timeout-ms", "99999999999999999999999")], Ok(Some(u64::MAX)));
        check(&[("x-request-timeout-ms", "+80")], Err("found \"+80\""));
        check(&[("x-request-timeout-ms", "0")], Err("x-request-timeout-ms: found \"0\""));
        check(&[("x-request-timeout-ms", "1.5")], Err("expected whole milliseconds"));
        check(&[("x-envoy-expected-rq-timeout-ms", "-1")], Err("x-envoy-expected-rq-timeout-ms"));
    }
}
