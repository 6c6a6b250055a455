//! The path prefix under which a proxy publishes a listener.
//!
//! If the proxy passes it on, `http.path_prefix` makes all paths exist below it, too. If the proxy strips it, the proxy
//! says so in the header `X-Forwarded-Prefix`. Only links in answers need it.

use axum::Router;
use axum::http::HeaderMap;
use axum::http::header::HeaderName;

use crate::api::routes::{AdminEndpoint, DataEndpoint};
use crate::config::{HttpConfig, PathPrefix, Route};
use crate::error::{Result, SetupError};

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Refuses a prefix that begins like a route of either listener.
pub fn check(config: &HttpConfig) -> Result<(), SetupError> {
    let Some(prefix) = &config.path_prefix else { return Ok(()) };
    let first = |path: &str| path.split('/').nth(1).unwrap_or_default().to_owned();
    let of_platform = [&config.predict_route, &config.health_route].into_iter().flatten().map(Route::path);
    let of_operators = AdminEndpoint::ALL.iter().map(|endpoint| endpoint.path());
    let of_clients = DataEndpoint::ALL.iter().map(|endpoint| endpoint.path());
    let mut routes = of_clients.chain(of_operators).chain(of_platform);
    if routes.any(|route| first(route) == first(prefix.as_str())) {
        let taken = prefix.as_str();
        return Err(SetupError::Config(format!("http.path_prefix: {taken} is a path of the server; choose another")));
    }
    Ok(())
}

/// Makes all routes exist below the prefix, too, which is removed before routing.
pub(super) fn also_below(prefix: Option<&PathPrefix>, routes: Router) -> Router {
    match prefix {
        Some(prefix) => routes.clone().nest(prefix.as_str(), routes),
        None => routes,
    }
}

/// Returns the prefix of the paths in links for the client of a request: that of `X-Forwarded-Prefix`, or else the
/// configured one, or else nothing. It begins with a slash and does not end with one. A header that is not a plain path
/// is ignored, because a link with it could lead anywhere, or contain a script.
pub(super) fn external_prefix(headers: &HeaderMap, configured: Option<&PathPrefix>) -> String {
    let mut forwarded = headers.get_all(X_FORWARDED_PREFIX).iter();
    // With several headers, nobody knows which one the client sent.
    let forwarded = forwarded.next().filter(|_| forwarded.next().is_none());
    let forwarded = forwarded.and_then(|value| value.to_str().ok()?.trim_end_matches('/').parse::<PathPrefix>().ok());
    let prefix = forwarded.as_ref().or(configured);
    prefix.map(|prefix| prefix.as_str().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_forwarded_prefix_is_a_plain_path_or_nothing() {
        let configured = "/models".parse().unwrap();
        let check = |values: &[&'static str], expected: &str| {
            let pair = |value: &&'static str| (X_FORWARDED_PREFIX, HeaderValue::from_static(value));
            let headers = values.iter().map(pair).collect();
            assert_eq!(external_prefix(&headers, Some(&configured)), expected, "{values:?}");
        };
        check(&[], "/models");
        check(&["/leeway"], "/leeway");
        check(&["/a/b-1.0_~/"], "/a/b-1.0_~");
        for value in
            ["//evil.example", "https://evil.example", "/a//b", "/../b", "/.", "a", "/<b>", "/a?b", "/\"", "/", ""]
        {
            check(&[value], "/models");
        }
        check(&["/a", "/b"], "/models");
        assert_eq!(external_prefix(&HeaderMap::new(), None), "");
    }
}
