//! HTTP client of the commands that talk to a running server. All of them except `leeway health` use the admin API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::Serialize;
use tokio_rustls::rustls::crypto::ring;
use ureq::tls::{PemItem, RootCerts, TlsConfig, TlsConfigBuilder, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;

use super::answer::Answer;
use super::settings::SettingsArgs;
use super::unix_transport::UnixConnector;
use crate::api::problem::Problem;
use crate::api::routes::ADMIN_API;
use crate::config::{Config, ListenAddress, ListenAddresses};

/// Timeout of a request to the admin API. It is long, because a change may have to load a version first.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Timeout of a connection attempt. It is short, because the admin API is on the local network.
const CONNECTING: Duration = Duration::from_secs(5);
/// Maximum size of a response, enough for the drift of thousands of features.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// The server that a command sends its request to, and the format of the output.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    pub(super) settings: SettingsArgs,

    /// Print the server's answer as JSON
    #[arg(long)]
    pub(super) json: bool,

    /// PEM file with the certificates to trust, if the server speaks TLS [default: admin.tls.certificate]
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
}

/// The server that a command sends its requests to.
pub(super) struct Place {
    pub(super) address: ListenAddress,
    /// TLS of the connection; `None` for plain HTTP.
    tls: Option<TlsConfig>,
}

/// A client of the admin API of the configured server.
pub(super) struct Client {
    agent: ureq::Agent,
    place: Place,
    token: Option<String>,
}

impl ServerArgs {
    pub(super) fn client(&self) -> Result<Client> {
        Client::new(&self.settings.clone().load()?, self.ca_file.as_deref())
    }
}

impl Client {
    /// Returns a client of the configured server. If the server speaks TLS, its certificate has to be in `ca_file`, or
    /// issued by one of those; without `ca_file`, it has to be the configured one.
    pub(super) fn new(config: &Config, ca_file: Option<&Path>) -> Result<Client> {
        let files = config.admin.tls.files();
        let tls = files.map(|(certificate, _)| trusting(ca_file.unwrap_or(certificate))).transpose()?;
        let token = config.admin.token.as_ref().map(|token| format!("Bearer {}", token.secret()));
        let place = Place::of(&config.admin.listen, tls);
        Ok(Client { agent: place.agent(TIMEOUT), place, token })
    }

    pub(super) fn get<T>(&self, path: &str) -> Result<Answer<T>> {
        let mut request = self.agent.get(self.url(path));
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        self.answer(request.call())
    }

    pub(super) fn put<T>(&self, path: &str, body: &impl Serialize) -> Result<Answer<T>> {
        self.send(self.agent.put(self.url(path)), serde_json::to_string(body)?)
    }

    pub(super) fn post<T>(&self, path: &str, body: &impl Serialize) -> Result<Answer<T>> {
        self.send(self.agent.post(self.url(path)), serde_json::to_string(body)?)
    }

    /// Sends a POST request with an empty JSON object, for actions without settings.
    pub(super) fn order<T>(&self, path: &str) -> Result<Answer<T>> {
        self.send(self.agent.post(self.url(path)), "{}".to_owned())
    }

    fn send<T>(&self, mut request: ureq::RequestBuilder<ureq::typestate::WithBody>, body: String) -> Result<Answer<T>> {
        if let Some(token) = &self.token {
            request = request.header("authorization", token);
        }
        self.answer(request.header("content-type", "application/json").send(body))
    }

    fn url(&self, path: &str) -> String {
        self.place.url(&format!("{ADMIN_API}{path}"))
    }

    fn answer<T>(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer<T>> {
        let mut response = answer.map_err(|error| {
            anyhow!(
                "no server answers at {} (admin.listen): {error}; is it running, and with the same configuration?",
                self.place.address
            )
        })?;
        let text = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string()?;
        let answer = Answer::parse(&text)
            .map_err(|_| anyhow!("the server at {} (admin.listen) is not a Leeway server", self.place.address))?;
        if response.status().is_success() {
            return Ok(answer);
        }
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => bail!("{}", problem.detail),
            Err(_) => bail!("the server at {} answered {}", self.place.address, response.status()),
        }
    }
}

/// Sends a GET request for a path, and returns the HTTP status of the response.
pub(super) fn status_of(place: &Place, path: &str, timeout: Duration) -> Result<u16> {
    Ok(place.agent(timeout).get(place.url(path)).call()?.status().as_u16())
}

/// Returns the TLS of connections to servers whose certificates are in this file, or are issued by them.
fn trusting(file: &Path) -> Result<TlsConfig> {
    let pem = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    Ok(tls().root_certs(RootCerts::new_with_certs(&certificates.collect::<Vec<_>>())).build())
}

/// Returns the TLS of connections to any server, for requests without secrets.
pub(super) fn unverified() -> TlsConfig {
    tls().disable_verification(true).build()
}

fn tls() -> TlsConfigBuilder {
    TlsConfig::builder().unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
}

// ===== impl Place =====

impl Place {
    /// Returns the address of a server to connect to: an IP address, or else a Unix socket. With `tls`, a Unix socket
    /// comes first, because it needs none.
    pub(super) fn of(addresses: &ListenAddresses, tls: Option<TlsConfig>) -> Place {
        let is_tcp = |address: &ListenAddress| matches!(address, ListenAddress::Tcp(_));
        let preferred = addresses.iter().find(|address| is_tcp(address) == tls.is_none());
        match preferred.unwrap_or(addresses.first()) {
            ListenAddress::Tcp(address) => Place { address: ListenAddress::Tcp(or_loopback(*address)), tls },
            unix => Place { address: unix.clone(), tls: None },
        }
    }

    /// Returns the URL of a path. For a Unix socket, the host of the URL is not used to connect.
    fn url(&self, path: &str) -> String {
        match (&self.address, &self.tls) {
            (ListenAddress::Tcp(address), None) => format!("http://{address}{path}"),
            (ListenAddress::Tcp(address), Some(_)) => format!("https://{address}{path}"),
            (ListenAddress::Unix(_), _) => format!("http://127.0.0.1{path}"),
        }
    }

    fn agent(&self, timeout: Duration) -> ureq::Agent {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Proxies named in the environment are not used: the configuration has the server's address.
            .proxy(None)
            .tls_config(self.tls.clone().unwrap_or_default())
            .timeout_connect(Some(CONNECTING))
            .timeout_global(Some(timeout))
            .build();
        match &self.address {
            ListenAddress::Tcp(_) => config.into(),
            ListenAddress::Unix(path) => {
                ureq::Agent::with_parts(config, UnixConnector(path.clone()), DefaultResolver::default())
            }
        }
    }
}

/// Returns the address to connect to: loopback for a server that listens on all addresses.
fn or_loopback(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
