//! Access to the data listener with API keys, if any are configured. Health checks need no key.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HeaderName};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::body;
use super::context::Failure;
use super::file_watch::FileWatch;
use crate::api::routes::{AliasOf, DataEndpoint};
use crate::config::{ApiKey, HttpConfig, Route, api_keys_problem, read_api_keys};
use crate::error::{Error, Result, SetupError};
use crate::monitor::ServerRecorder;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Health checks of all protocols. Probes have no key. Of the models, the answers tell only which are not served, and why.
const HEALTH_CHECKS: [DataEndpoint; 6] = [
    DataEndpoint::Live,
    DataEndpoint::Ready,
    DataEndpoint::Ping,
    DataEndpoint::Health,
    DataEndpoint::V2Live,
    DataEndpoint::V2Ready,
];
/// Prefix of the paths of the gRPC health service.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/";

/// The API keys of the data listener. Those of a file can be read again.
#[derive(Debug)]
pub struct ApiKeys {
    configured: Vec<ApiKey>,
    file: Option<PathBuf>,
    /// Watch of the file, until [`ApiKeys::watch`] takes it.
    watch: Mutex<Option<FileWatch>>,
    for_metrics: bool,
    /// Another path of readiness.
    health_route: Option<Route>,
    recorder: Arc<ServerRecorder>,
    known: ArcSwap<Vec<KnownKey>>,
}

#[derive(Debug)]
struct KnownKey {
    digest: [u8; 32],
    /// Number of requests with this key.
    requests: Arc<AtomicU64>,
}

impl ApiKeys {
    /// Returns the API keys of a configuration, with those of its file; `None` if neither is configured.
    pub fn load(config: &HttpConfig, recorder: &Arc<ServerRecorder>) -> Result<Option<Arc<ApiKeys>>, SetupError> {
        if config.api_keys.is_empty() && config.api_keys_file.is_none() {
            return Ok(None);
        }
        let keys = ApiKeys {
            configured: config.api_keys.clone(),
            file: config.api_keys_file.clone(),
            // Begins before the file is read, so that no change is missed.
            watch: Mutex::new(config.api_keys_file.clone().map(|file| FileWatch::new(vec![file]))),
            for_metrics: config.api_keys_for_metrics,
            health_route: config.health_route.clone(),
            recorder: Arc::clone(recorder),
            known: ArcSwap::default(),
        };
        keys.reload()?;
        Ok(Some(Arc::new(keys)))
    }

    /// Reads the file again whenever it changes. If it is wrong, the keys stay as they are.
    pub async fn watch(self: Arc<ApiKeys>) {
        let Some(mut watch) = self.watch.lock().take() else { return };
        loop {
            watch.changed().await;
            let keys = Arc::clone(&self);
            let reloaded = tokio::task::spawn_blocking(move || keys.reload()).await;
            match reloaded.map_err(SetupError::internal).flatten() {
                Ok(count) => tracing::info!(count, "the API keys were read again (http.api_keys_file)"),
                Err(error) => tracing::error!(%error, "the API keys stay as they are (http.api_keys_file)"),
            }
        }
    }

    /// Reads the file, and returns the number of keys. If the file is wrong, the keys stay as they are.
    fn reload(&self) -> Result<usize, SetupError> {
        let mut keys = self.configured.clone();
        if let Some(file) = &self.file {
            keys.extend(read_api_keys(file)?);
        }
        if let Some(problem) = api_keys_problem(&keys) {
            return Err(SetupError::Config(problem));
        }
        let counters = self.recorder.count_api_keys(keys.iter().map(|key| key.name.as_str()));
        let known = keys.iter().zip(counters);
        let known = known.map(|(key, requests)| KnownKey { digest: key.sha256.bytes(), requests });
        self.known.store(Arc::new(known.collect()));
        Ok(keys.len())
    }

    fn check(&self, headers: &HeaderMap) -> Result<()> {
        let Some(given) = given(headers) else { return Err(Error::ApiKeyRefused { given: false }) };
        let known = self.known.load();
        let key = find(&known, &Sha256::digest(given).into()).ok_or(Error::ApiKeyRefused { given: true })?;
        key.requests.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Returns true if this request needs no key.
    fn is_open(&self, method: &Method, path: &str) -> bool {
        if path.starts_with(GRPC_HEALTH) {
            return true;
        }
        let is_read = [Method::GET, Method::HEAD].contains(method);
        let is_health = HEALTH_CHECKS.iter().any(|endpoint| endpoint.path() == path)
            // An endpoint that exists stays closed, even if it is also configured as the health check.
            || self.health_route.as_ref().is_some_and(|route| {
                route.path() == path && DataEndpoint::is_new(path, AliasOf::Ready) == Ok(true)
            });
        // The page tells nothing about models: it asks for a key, and sends it.
        let is_page = path == DataEndpoint::Docs.path();
        is_read && (is_health || is_page || (path == DataEndpoint::Metrics.path() && !self.for_metrics))
    }
}

/// Returns the known key with this digest. All keys are compared, each in constant time, so that the duration does not
/// depend on the digests.
fn find<'a>(known: &'a [KnownKey], digest: &[u8; 32]) -> Option<&'a KnownKey> {
    let (mut found, mut place) = (Choice::from(0), 0);
    for (index, key) in known.iter().enumerate() {
        let is_same = key.digest.ct_eq(digest);
        place.conditional_assign(&(index as u64), is_same);
        found |= is_same;
    }
    bool::from(found).then(|| known.get(place as usize)).flatten()
}

/// Returns the key that a request sends: `X-Api-Key: KEY`, or else `Authorization: Bearer KEY`. The first takes
/// precedence, because a proxy may send an `Authorization` of its own.
fn given(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get(X_API_KEY) {
        return Some(key.as_bytes());
    }
    let (scheme, key) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)
}

/// Refuses a request without a known API key, unless its path is open.
pub(super) async fn layer(State(keys): State<Arc<ApiKeys>>, request: Request, next: Next) -> Result<Response, Failure> {
    if !keys.is_open(request.method(), request.uri().path())
        && let Err(error) = keys.check(request.headers())
    {
        let (head, mut body) = request.into_parts();
        // The rest of the body is read, so that a client that is still sending gets the answer.
        body::discard(&head, &mut body, &error).await;
        return Err(error.into());
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn known(keys: &[&str]) -> Vec<KnownKey> {
        let known = |key: &&str| KnownKey { digest: Sha256::digest(key).into(), requests: Arc::default() };
        keys.iter().map(known).collect()
    }

    #[test]
    fn a_key_is_found_among_all() {
        let known = known(&["a", "b", "c"]);
        for (place, key) in ["a", "b", "c"].into_iter().enumerate() {
            let found = find(&known, &Sha256::digest(key).into()).unwrap();
            assert!(std::ptr::eq(found, &raw const known[place]));
        }
        assert!(find(&known, &Sha256::digest("d").into()).is_none());
        assert!(find(&[], &Sha256::digest("a").into()).is_none());
    }

    #[test]
    fn a_key_comes_in_either_header() {
        let check = |headers: &[(&'static str, &'static str)], expected: Option<&str>| {
            let pair = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            assert_eq!(given(&headers.iter().map(pair).collect()), expected.map(str::as_bytes), "{headers:?}");
        };
        check(&[], None);
        check(&[("authorization", "Bearer k")], Some("k"));
        check(&[("authorization", "bearer k")], Some("k"));
        check(&[("authorization", "Basic dTpw")], None);
        check(&[("authorization", "Bearer")], None);
        check(&[("x-api-key", "k")], Some("k"));
        check(&[("authorization", "Bearer of the proxy"), ("x-api-key", "k")], Some("k"));
    }
}
