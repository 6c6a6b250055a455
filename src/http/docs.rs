//! The page at `/docs`, on both listeners: it shows the OpenAPI document of its listener, and sends requests to the data
//! listener. It is one file without any outside host.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::openapi_document::{entity_tag, is_known};

/// The page, with its style and its script.
const PAGE: &str = include_str!("docs.html");

const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Headers of the page.
static HEADERS: LazyLock<HeaderMap> = LazyLock::new(|| {
    let fixed = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (OPENER_POLICY, "same-origin"),
        (CACHE_CONTROL, "no-cache"),
    ];
    let mut headers: HeaderMap =
        fixed.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect();
    headers.extend(HeaderValue::try_from(policy()).ok().map(|policy| (CONTENT_SECURITY_POLICY, policy)));
    headers.insert(ETAG, entity_tag(PAGE.as_bytes()));
    headers
});

/// `GET /docs`
pub(super) async fn page(asked: HeaderMap) -> Response {
    let is_known = HEADERS.get(ETAG).is_some_and(|tag| is_known(&asked, tag));
    let mut response = match is_known {
        true => Response::new(Body::empty()),
        false => Response::new(Body::from(Bytes::from_static(PAGE.as_bytes()))),
    };
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    response.headers_mut().extend(HEADERS.clone());
    response
}

/// Returns the Content-Security-Policy of the page: only its own style and script, and requests to its own listener.
fn policy() -> String {
    let hash = |tag: &str| {
        let (start, end) = (format!("<{tag}>"), format!("</{tag}>"));
        let inner = PAGE.split_once(&start).and_then(|(_, rest)| rest.split_once(&end)).map_or("", |(inner, _)| inner);
        STANDARD.encode(Sha256::digest(inner))
    };
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_has_nothing_that_its_policy_forbids() {
        assert!(PAGE.len() <= 60_000, "{}", PAGE.len());
        for forbidden in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "http://", "https://", " style=", " onclick"]
        {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        assert_eq!(PAGE.matches("<script").count(), 1);
        assert_eq!(PAGE.matches("<style").count(), 1);
    }
}
