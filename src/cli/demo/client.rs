//! The HTTP client of the demo. It sends what any client of Leeway would send.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ureq::http::Response;

use super::folder::MODEL;
use super::penguins::Penguin;
use crate::api::feedback::{Outcome, Report, Taken};
use crate::api::routes::ADMIN_API;
use crate::cli::metrics_text::Metrics;
use crate::config::ListenAddress;

/// Timeout of a request. It is long, because a change may have to load a version first.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A client of the demo's server.
pub(super) struct Client {
    agent: ureq::Agent,
    /// Address for clients.
    pub(super) data: String,
    /// Address for operators.
    pub(super) admin: String,
}

#[derive(Serialize)]
struct Instances<'a> {
    instances: [&'a Penguin; 1],
}

/// The members of an answer to a prediction that the demo needs.
#[derive(Deserialize)]
struct Predicted {
    prediction_ids: Vec<String>,
}

impl Client {
    /// Returns a client of the server at these addresses.
    pub(super) fn new(data: &[ListenAddress], admin: &[ListenAddress]) -> Result<Client> {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.timeout_global(Some(TIMEOUT)).build().into();
        let first = |addresses: &[ListenAddress]| addresses.first().map(ListenAddress::to_string);
        let (data, admin) = first(data).zip(first(admin)).context("the server has no address")?;
        Ok(Client { agent, data, admin })
    }

    /// Asks for the species of a penguin. Returns the id of the prediction; `None` if the request was refused.
    pub(super) fn predict(&self, penguin: &Penguin) -> Result<Option<String>> {
        let url = format!("http://{}/v1/models/{MODEL}:predict", self.data);
        let body = serde_json::to_string(&Instances { instances: [penguin] })?;
        let mut response = self.agent.post(url).header("content-type", "application/json").send(body)?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let Predicted { prediction_ids } = serde_json::from_str(&response.body_mut().read_to_string()?)?;
        Ok(prediction_ids.into_iter().next())
    }

    /// Sends the true outcomes of predictions.
    pub(super) fn report(&self, feedback: Vec<Outcome>) -> Result<()> {
        let url = format!("http://{}/feedback", self.data);
        let body = serde_json::to_string(&Report { feedback })?;
        let response = self.agent.post(url).header("content-type", "application/json").send(body)?;
        read::<Taken>(response).map(drop)
    }

    /// Reads the metrics.
    pub(super) fn metrics(&self) -> Result<Metrics> {
        let mut response = self.agent.get(format!("http://{}/metrics", self.data)).call()?;
        Ok(Metrics::parse(&response.body_mut().read_to_string()?))
    }

    /// Reads from the admin API.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(self.agent.get(self.admin_url(path)).call()?)
    }

    /// Posts to the admin API.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let request = self.agent.post(self.admin_url(path)).header("content-type", "application/json");
        read(request.send(serde_json::to_string(body)?)?)
    }

    /// Replaces a resource of the admin API.
    pub(super) fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let request = self.agent.put(self.admin_url(path)).header("content-type", "application/json");
        read(request.send(serde_json::to_string(body)?)?)
    }

    fn admin_url(&self, path: &str) -> String {
        format!("http://{}{ADMIN_API}{path}", self.admin)
    }
}

fn read<T: DeserializeOwned>(mut response: Response<ureq::Body>) -> Result<T> {
    let text = response.body_mut().read_to_string()?;
    if !response.status().is_success() {
        bail!("the server answered {}: {text}", response.status());
    }
    Ok(serde_json::from_str(&text)?)
}
