//! HTTP client of the commands that talk to a running server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;
use tokio_rustls::rustls::crypto::ring;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsConfigBuilder, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;

use super::answer::Answer;
use super::server_address::ServerAddress;
use super::unix_transport::UnixConnector;
use crate::api::problem::Problem;
use crate::api::routes::ADMIN_API;

/// Timeout of a connection attempt. It is short, because servers are on networks of their operators.
const CONNECTING: Duration = Duration::from_secs(5);
/// Number of connections that are kept for other requests, at least that of the requests at one time.
const KEPT_CONNECTIONS: usize = 256;
/// Maximum size of a response, enough for the drift of thousands of features.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// The certificates that a client trusts.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    /// Those in a PEM file, and those that they have issued.
    File(PathBuf),
    /// Those of the authorities that this machine trusts.
    System,
    /// All, for requests without secrets.
    Anybody,
}

/// Maximum length of a response without a problem document that is shown as it is.
const MAX_SHOWN_BYTES: usize = 200;

/// A client of one server.
pub(super) struct Client {
    agent: ureq::Agent,
    address: ServerAddress,
    /// Value of the header `Authorization`.
    authorization: Option<String>,
}

/// The response to a request: its status, some of its headers, and its body.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Value of the header `Retry-After`, in seconds.
    pub(super) retry_after: Option<Duration>,
    pub(super) text: String,
}

/// No response: the server cannot be reached, or the connection ended.
#[derive(Debug, thiserror::Error)]
#[error("no server answers at {address}: {problem}")]
pub(super) struct Unreachable {
    pub(super) address: ServerAddress,
    problem: String,
}

impl Client {
    /// Creates a client. The secret is sent with every request.
    pub(super) fn new(
        address: ServerAddress,
        trust: &Trust,
        secret: Option<&str>,
        timeout: Duration,
    ) -> Result<Client> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Proxies named in the environment are not used: the address is that of the server.
            .proxy(None)
            .max_redirects(0)
            .max_idle_connections(KEPT_CONNECTIONS)
            .max_idle_connections_per_host(KEPT_CONNECTIONS)
            .timeout_connect(Some(CONNECTING))
            .timeout_global(Some(timeout));
        let config = match address.is_encrypted() {
            true => config.tls_config(tls(trust)?),
            false => config,
        };
        let agent = match &address {
            ServerAddress::Url { .. } | ServerAddress::Dns(_) => config.build().into(),
            ServerAddress::Unix(path) => {
                ureq::Agent::with_parts(config.build(), UnixConnector(path.clone()), DefaultResolver::default())
            }
        };
        let authorization = secret.map(|secret| format!("Bearer {secret}"));
        Ok(Client { agent, address, authorization })
    }

    pub(super) fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// Sends a GET request for a path.
    pub(super) fn read(&self, path: &str) -> Result<Reply, Unreachable> {
        let mut request = self.agent.get(self.address.url(path));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.reply(request.call())
    }

    /// Sends a POST request with this body.
    pub(super) fn send(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Result<Reply, Unreachable> {
        self.send_with(self.agent.post(self.address.url(path)), headers, body)
    }

    /// Sends a GET request to the admin API.
    pub(super) fn get<T>(&self, path: &str) -> Result<Answer<T>> {
        self.answer(&self.read(&format!("{ADMIN_API}{path}"))?)
    }

    /// Sends a PUT request to the admin API.
    pub(super) fn put<T>(&self, path: &str, body: &impl Serialize) -> Result<Answer<T>> {
        let request = self.agent.put(self.address.url(&format!("{ADMIN_API}{path}")));
        self.answer(&self.send_with(request, &JSON, &serde_json::to_string(body)?)?)
    }

    /// Sends a POST request to the admin API.
    pub(super) fn post<T>(&self, path: &str, body: &impl Serialize) -> Result<Answer<T>> {
        self.answer(&self.send(&format!("{ADMIN_API}{path}"), &JSON, &serde_json::to_string(body)?)?)
    }

    /// Sends a POST request with an empty JSON object to the admin API, for actions without settings.
    pub(super) fn order<T>(&self, path: &str) -> Result<Answer<T>> {
        self.answer(&self.send(&format!("{ADMIN_API}{path}"), &JSON, "{}")?)
    }

    fn send_with(
        &self,
        mut request: ureq::RequestBuilder<ureq::typestate::WithBody>,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Reply, Unreachable> {
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.reply(request.send(body))
    }

    fn reply(&self, response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Reply, Unreachable> {
        let unreachable =
            |error: ureq::Error| Unreachable { address: self.address.clone(), problem: error.to_string() };
        let mut response = response.map_err(unreachable)?;
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let text = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string().map_err(unreachable)?;
        Ok(Reply { status: response.status().as_u16(), retry_after: retry_after.map(Duration::from_secs), text })
    }

    fn answer<T>(&self, reply: &Reply) -> Result<Answer<T>> {
        if let Some(problem) = reply.problem() {
            bail!("{problem}");
        }
        Answer::parse(&reply.text).map_err(|_| anyhow!("the server at {} is not a Leeway server", self.address))
    }
}

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

impl Reply {
    /// Returns the problem that an error is about; `None` for a response to a request that succeeded.
    pub(super) fn problem(&self) -> Option<String> {
        if (200..300).contains(&self.status) {
            return None;
        }
        Some(match serde_json::from_str::<Problem<'_>>(&self.text) {
            Ok(problem) => problem.detail.into_owned(),
            // Another server, or one that speaks TLS.
            Err(_) => match self.text.trim() {
                line if (1..=MAX_SHOWN_BYTES).contains(&line.len()) && !line.contains(['<', '\n']) => {
                    format!("the server answered {}: {line}", self.status)
                }
                _ => format!("the server answered {}", self.status),
            },
        })
    }
}

/// Returns the TLS of connections to servers that are trusted.
fn tls(trust: &Trust) -> Result<TlsConfig> {
    let builder = || -> TlsConfigBuilder {
        TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
    };
    let roots = match trust {
        Trust::Anybody => return Ok(builder().disable_verification(true).build()),
        Trust::File(file) => certificates_in(file)?,
        Trust::System => certificates_of_the_system()?,
    };
    Ok(builder().root_certs(RootCerts::new_with_certs(&roots)).build())
}

fn certificates_in(file: &Path) -> Result<Vec<Certificate<'static>>> {
    let pem = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(certificates.collect())
}

fn certificates_of_the_system() -> Result<Vec<Certificate<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    match (&*found.certs, found.errors.first()) {
        ([], Some(error)) => bail!("the certificates of this machine cannot be read: {error}; --ca-file names others"),
        ([], None) => bail!("this machine trusts no certificates; --ca-file names those to trust"),
        (certificates, _) => Ok(certificates.iter().map(|der| Certificate::from_der(der).to_owned()).collect()),
    }
}
