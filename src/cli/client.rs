//! HTTP client of the commands that talk to a running server. All of them except `leeway health` use the admin API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use serde::Serialize;

use super::answer::Answer;
use super::settings::SettingsArgs;
use crate::api::problem::Problem;
use crate::api::routes::ADMIN_API;
use crate::config::Config;

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
}

/// A client of the admin API of the configured server.
pub(super) struct Client {
    agent: ureq::Agent,
    address: SocketAddr,
    token: Option<String>,
}

impl ServerArgs {
    pub(super) fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.settings.clone().load()?))
    }
}

impl Client {
    pub(super) fn new(config: &Config) -> Client {
        let token = config.admin.token.as_ref().map(|token| format!("Bearer {}", token.secret()));
        Client { agent: agent(TIMEOUT), address: reachable(config.admin.listen), token }
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
        format!("http://{}{ADMIN_API}{path}", self.address)
    }

    fn answer<T>(&self, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer<T>> {
        let mut response = answer.map_err(|error| {
            anyhow!(
                "no server answers at {} (admin.listen): {error}; is it running, and with the same configuration?",
                self.address
            )
        })?;
        let text = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_string()?;
        let answer = Answer::parse(&text)
            .map_err(|_| anyhow!("the server at {} (admin.listen) is not a Leeway server", self.address))?;
        if response.status().is_success() {
            return Ok(answer);
        }
        match serde_json::from_str::<Problem>(&text) {
            Ok(problem) => bail!("{}", problem.detail),
            Err(_) => bail!("the server at {} answered {}", self.address, response.status()),
        }
    }
}

/// Sends a GET request for a path, and returns the HTTP status of the response.
pub(super) fn status_of(address: SocketAddr, path: &str, timeout: Duration) -> Result<u16> {
    Ok(agent(timeout).get(format!("http://{address}{path}")).call()?.status().as_u16())
}

fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        // Proxies named in the environment are not used: the configuration has the server's address.
        .proxy(None)
        .timeout_connect(Some(CONNECTING))
        .timeout_global(Some(timeout))
        .build()
        .into()
}

/// Returns the address to connect to: loopback for a server that listens on all addresses.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
