//! Access to the admin API: with the token, or, if none is configured, for programs on this machine. Requests that a
//! browser sends for a web page of another origin are refused.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::HttpState;
use super::context::Failure;
use crate::error::{Error, OperatorError};

/// Refuses a request without access to the admin API, with an error that names the requirement.
pub(super) async fn layer(
    State(state): State<Arc<HttpState>>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let headers = request.headers();
    match &state.admin_token {
        Some(token) => check_token(headers, token.secret())?,
        None => check_sender(headers, request.uri().authority())?,
    }
    Ok(next.run(request).await)
}

/// Refuses a change whose body is not announced as JSON.
pub(super) async fn content_layer(request: Request, next: Next) -> Result<Response, Failure> {
    check_content(request.headers())?;
    Ok(next.run(request).await)
}

/// Refuses a request without the token of operators. On the data listener, operators have no rights without a token.
pub(super) async fn token_layer(
    State(state): State<Arc<HttpState>>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    check_operator(&state, request.headers())?;
    Ok(next.run(request).await)
}

/// Fails unless a request on the data listener has the token of operators.
pub(super) fn check_operator(state: &HttpState, headers: &HeaderMap) -> Result<(), OperatorError> {
    match &state.admin_token {
        Some(token) => check_token(headers, token.secret()),
        None => {
            let problem = "models are loaded and unloaded on the admin listener, or on this one with the token that is \
                           configured as admin.token";
            Err(OperatorError::Forbidden(problem.to_owned()))
        }
    }
}

/// Checks the operator's token. Digests are compared in constant time, so that the duration reveals neither the correct
/// part of a token nor its length.
fn check_token(headers: &HeaderMap, secret: &str) -> Result<(), OperatorError> {
    let given = headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
    let (scheme, given) = given.split_at_checked("Bearer ".len()).unwrap_or_default();
    let is_right = Sha256::digest(given).ct_eq(&Sha256::digest(secret));
    if scheme.eq_ignore_ascii_case(b"Bearer ") && is_right.into() { Ok(()) } else { Err(OperatorError::Unauthorized) }
}

/// Refuses requests from web pages. A web page can make a browser send requests to this machine, also under a host name
/// of the page's owner that resolves to this machine. The headers `Origin` and `Host` reveal such requests. HTTP/2 has the
/// host in the authority of the URI. `request_layer.rs` checks that both are the same.
fn check_sender(headers: &HeaderMap, authority: Option<&Authority>) -> Result<(), OperatorError> {
    let host = match (headers.get(HOST), authority) {
        (Some(host), _) => host.to_str().unwrap_or_default(),
        (None, Some(authority)) => authority.as_str(),
        (None, None) => "",
    };
    if headers.get_all(ORIGIN).iter().any(|origin| !is_origin_of(origin.as_bytes(), host)) {
        return Err(OperatorError::Forbidden(
            "requests from web pages of other origins are not accepted without a token; configure admin.token"
                .to_owned(),
        ));
    }
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(OperatorError::Forbidden(
        "without a token, the header Host (or :authority) has to be localhost or an address; configure admin.token to use a name"
            .to_owned(),
    ))
}

/// Returns true if a page of this origin came from the host that the request is sent to. A page of the console sends such
/// requests.
fn is_origin_of(origin: &[u8], host: &str) -> bool {
    let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    authority.is_some_and(|authority| !host.is_empty() && authority.eq_ignore_ascii_case(host.as_bytes()))
}

/// Refuses a body that is not announced as JSON. A browser sends JSON to another origin only after a preflight request,
/// which is refused, too.
fn check_content(headers: &HeaderMap) -> Result<(), OperatorError> {
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let essence = content_type.split(|&b| b == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        return Ok(());
    }
    let problem = "send the header Content-Type: application/json with every change".to_owned();
    Err(Error::UnsupportedContent(problem).into())
}
