//! `[http]` and `[admin]`: the listener for clients, and the listener for operators.

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api_keys::{ApiKey, api_keys_problem};
use super::cors::CorsConfig;
use super::count::{Count, available_cores, non_zero};
use super::listen::{ListenAddresses, SocketMode};
use super::path_prefix::PathPrefix;
use super::route::Route;
use super::tls::TlsConfig;
use crate::machine;

/// `[http]`: the listener for clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address or addresses. Port 0 chooses a free port.
    pub listen: ListenAddresses,
    /// Permissions of the Unix sockets in [`HttpConfig::listen`].
    pub unix_socket_mode: SocketMode,
    /// Certificate of the IP addresses in [`HttpConfig::listen`].
    #[serde(skip_serializing_if = "TlsConfig::is_off")]
    pub tls: TlsConfig,
    /// Another path of predictions of the default model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predict_route: Option<Route>,
    /// Another path of readiness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_route: Option<Route>,
    /// Number of threads that serve connections: they read and parse requests, make short runs, and write responses.
    pub threads: Count,
    /// Maximum number of open connections on which predictions are served.
    pub connection_limit: NonZeroUsize,
    /// Time for a new connection to send the head of its first request.
    pub first_request_timeout_ms: NonZeroU64,
    /// Maximum time from a response until the head of the next request on the same connection has been read.
    pub header_timeout_ms: NonZeroU64,
    /// Maximum time without progress while a response is written to a client.
    pub write_timeout_ms: NonZeroU64,
    /// Maximum size of the body of a prediction request.
    pub body_limit_bytes: NonZeroUsize,
    /// Maximum size of the body of a request with feedback.
    pub feedback_body_limit_bytes: NonZeroUsize,
    /// Maximum memory for all bodies and unread responses together. Default: an eighth of the available memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_memory_bytes: Option<NonZeroUsize>,
    /// True if the listener for clients also answers `GET /metrics`.
    pub metrics: bool,
    /// Maximum age of the metrics when they are served.
    pub metrics_max_age_ms: u64,
    /// True if answers are compressed for clients that accept it.
    pub compression: bool,
    /// Path below which all paths exist, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<PathPrefix>,
    /// API keys, of which each request needs one if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_keys: Vec<ApiKey>,
    /// File with more API keys, which is read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys_file: Option<PathBuf>,
    /// True if `GET /metrics` needs an API key, too.
    pub api_keys_for_metrics: bool,
    /// Web pages of other origins.
    pub cors: CorsConfig,
}

/// `[admin]`: the listener for operators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address or addresses. Port 0 chooses a free port.
    pub listen: ListenAddresses,
    /// Permissions of the Unix sockets in [`AdminConfig::listen`].
    pub unix_socket_mode: SocketMode,
    /// Certificate of the IP addresses in [`AdminConfig::listen`].
    #[serde(skip_serializing_if = "TlsConfig::is_off")]
    pub tls: TlsConfig,
    /// Token for the admin API. If it is not set, anyone who can reach the address can change the deployments.
    #[serde(skip_serializing)]
    pub token: Option<Token>,
}

/// A secret. It is hidden when the configuration is shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Token(String);

impl Default for HttpConfig {
    fn default() -> Self {
        HttpConfig {
            listen: ([127, 0, 0, 1], 8080).into(),
            unix_socket_mode: SocketMode::GROUP,
            tls: TlsConfig::default(),
            predict_route: None,
            health_route: None,
            threads: Count::Auto,
            connection_limit: non_zero(1024),
            first_request_timeout_ms: NonZeroU64::MIN.saturating_add(9_999),
            header_timeout_ms: NonZeroU64::MIN.saturating_add(74_999),
            write_timeout_ms: NonZeroU64::MIN.saturating_add(29_999),
            body_limit_bytes: non_zero(8 << 20),
            // Enough for 10,000 items with an id, a label and a metric.
            feedback_body_limit_bytes: non_zero(3 << 20),
            body_memory_bytes: None,
            metrics: true,
            metrics_max_age_ms: 1_000,
            // On a fast network, compressing takes longer than sending, and many clients ask for it without need.
            compression: false,
            path_prefix: None,
            api_keys: Vec::new(),
            api_keys_file: None,
            api_keys_for_metrics: false,
            cors: CorsConfig::default(),
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        AdminConfig {
            listen: ([127, 0, 0, 1], 8081).into(),
            unix_socket_mode: SocketMode::OWNER,
            tls: TlsConfig::default(),
            token: None,
        }
    }
}

impl HttpConfig {
    /// Returns the first problem with who may ask: web pages, API keys or the certificate.
    pub(super) fn problem(&self) -> Option<String> {
        let keys = || api_keys_problem(&self.api_keys);
        self.cors.problem().or_else(keys).or_else(|| self.tls.problem("http"))
    }

    /// Returns [`HttpConfig::threads`], or the number of cores if it is `auto`. With a single core, there are two threads:
    /// one can serve its connections while the other runs a model.
    pub fn threads(&self) -> NonZeroUsize {
        self.threads.or(available_cores().max(NonZeroUsize::MIN.saturating_add(1)))
    }

    /// [`HttpConfig::first_request_timeout_ms`] as a duration.
    pub fn first_request_timeout(&self) -> Duration {
        Duration::from_millis(self.first_request_timeout_ms.get())
    }

    /// Returns [`HttpConfig::body_memory_bytes`], or its default: an eighth of the memory that this process may use.
    /// Tensors made from a body may take four times its size, and models need the rest.
    pub fn body_memory(&self) -> usize {
        let least = self.least_body_memory();
        let eighth = |bytes: u64| usize::try_from(bytes / 8).unwrap_or(usize::MAX);
        let suited = || machine::memory_limit().map_or(usize::MAX, |bytes| eighth(bytes).max(least));
        self.body_memory_bytes.map_or_else(suited, NonZeroUsize::get)
    }

    /// Returns the minimum of [`HttpConfig::body_memory_bytes`]: three times the largest body, because one body may
    /// take somewhat less than half of this memory.
    pub(super) fn least_body_memory(&self) -> usize {
        self.body_limit_bytes.max(self.feedback_body_limit_bytes).get().saturating_mul(3)
    }

    /// [`HttpConfig::metrics_max_age_ms`] as a duration.
    pub fn metrics_max_age(&self) -> Duration {
        Duration::from_millis(self.metrics_max_age_ms)
    }

    /// [`HttpConfig::header_timeout_ms`] as a duration.
    pub fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms.get())
    }

    /// [`HttpConfig::write_timeout_ms`] as a duration.
    pub fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms.get())
    }
}

impl Token {
    /// Returns the secret itself.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(text: String) -> Result<Token, String> {
        if text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Token(text))
        } else {
            Err("a token is at least 16 visible ASCII characters, without spaces".to_owned())
        }
    }
}
