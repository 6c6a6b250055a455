//! `[http]` and `[admin]`: the listener for clients, and the listener for operators.

use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::count::{Count, available_cores, non_zero};
use super::listen;
use super::route::Route;
use crate::machine;

/// `[http]`: the listener for clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address and port. Port 0 chooses a free port.
    #[serde(deserialize_with = "listen::deserialize")]
    pub listen: SocketAddr,
    /// Another path of predictions of the default model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predict_route: Option<Route>,
    /// Another path of readiness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_route: Option<Route>,
    /// Number of threads that read and parse requests, and write responses.
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
}

/// `[admin]`: the listener for operators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address and port. Port 0 chooses a free port.
    #[serde(deserialize_with = "listen::deserialize")]
    pub listen: SocketAddr,
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
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
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
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        AdminConfig { listen: SocketAddr::from(([127, 0, 0, 1], 8081)), token: None }
    }
}

impl HttpConfig {
    /// Returns [`HttpConfig::threads`], or the number of cores if it is `auto`.
    pub fn threads(&self) -> NonZeroUsize {
        self.threads.or(available_cores())
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
