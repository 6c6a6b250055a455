//! Predictions by a running server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::predictor::{ColumnKind, KnownColumn, Predictor, Reply};
use super::rows::predictions_of;
use crate::api::models::{ModelView, VersionView};
use crate::api::tensorflow::{ModelMetadata, TensorInfo};
use crate::cli::client::{self, Client, Trust};
use crate::cli::server_address::ServerAddress;
use crate::cli::servers::secret_in;
use crate::config::{Config, Token};
use crate::identity::{ModelName, Version};
use crate::pipeline::SIGNATURE;

/// Timeout of a request. Budgets of models are an hour at most.
const TIMEOUT: Duration = Duration::from_secs(3_600);
/// Number of requests at one time: more than most servers have workers, so that none of them waits for a request.
const CONCURRENCY: usize = 4;

/// A version that a server serves.
pub(super) struct ByServer {
    client: Client,
    model: ModelName,
    version: Version,
    columns: Vec<KnownColumn>,
    request_time: Duration,
}

impl ByServer {
    /// Connects to the server, and asks it for the columns of the version, or of the stable version.
    pub(super) fn connect(
        config: &Config,
        given: Option<ServerAddress>,
        key_file: Option<&Path>,
        ca_file: Option<PathBuf>,
        (model, version): (&ModelName, Option<Version>),
    ) -> Result<ByServer> {
        let certificate = config.http.tls.files().map(|(certificate, _)| certificate.to_owned());
        let trust = match (ca_file.or(certificate.filter(|_| given.is_none())), &given) {
            (Some(file), _) => Trust::File(file),
            (None, _) => Trust::System,
        };
        let address =
            given.unwrap_or_else(|| ServerAddress::of_listener(&config.http.listen, !config.http.tls.is_off()));
        let key = key_file.map(secret_in).transpose()?;
        let client = Client::new(address, &trust, key.as_ref().map(Token::secret), TIMEOUT)?;
        let view: ModelView = asked(&client, &format!("/v1/models/{model}"))?;
        let served = match version {
            Some(version) => view.versions.iter().find(|served| served.version == version),
            None => view.versions.iter().find(|served| served.stable).or(view.versions.first()),
        };
        let Some(served) = served else {
            let loaded: Vec<String> = view.versions.iter().map(|served| served.version.to_string()).collect();
            bail!("model {model} has no such version loaded; loaded: {}", loaded.join(", "))
        };
        let metadata: ModelMetadata =
            asked(&client, &format!("/v1/models/{model}/versions/{}/metadata", served.version))?;
        let signature = metadata.metadata.signature_def.signature_def.get(SIGNATURE);
        let columns = signature.iter().flat_map(|signature| &signature.inputs);
        let columns = columns.map(|(name, input)| KnownColumn { name: name.clone(), kind: kind_of(input) }).collect();
        let (version, request_time) = (served.version, request_time(served));
        Ok(ByServer { client, model: model.clone(), version, columns, request_time })
    }
}

/// Returns the duration that a request should take: an eighth of the budget, so that some requests can wait for each other.
fn request_time(served: &VersionView) -> Duration {
    Duration::from_millis((served.budget_ms / 8).clamp(2, 500))
}

fn kind_of(input: &TensorInfo) -> ColumnKind {
    match &*input.dtype {
        "DT_STRING" => ColumnKind::Text,
        "DT_BOOL" => ColumnKind::Boolean,
        _ => ColumnKind::Number,
    }
}

/// Asks the server for something that is read as a type of its API.
fn asked<T: serde::de::DeserializeOwned>(client: &Client, path: &str) -> Result<T> {
    let reply = client.read(path)?;
    if let Some(problem) = reply.problem() {
        bail!("{}: {problem}", client.address());
    }
    serde_json::from_str(&reply.text)
        .with_context(|| format!("the server at {} is not a Leeway server", client.address()))
}

impl Predictor for ByServer {
    fn name(&self) -> String {
        format!("{} version {} at {}", self.model, self.version, self.client.address())
    }

    fn columns(&self) -> &[KnownColumn] {
        &self.columns
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn request_time(&self) -> Duration {
        self.request_time
    }

    fn predict(&self, body: &str) -> Result<Reply> {
        // Requests of people go first.
        const HEADERS: [(&str, &str); 2] = [("content-type", "application/json"), ("x-priority", "low")];
        let path = format!("/v1/models/{}/versions/{}:predict", self.model, self.version);
        let reply = match self.client.send(&path, &HEADERS, body) {
            Ok(reply) => reply,
            // A server that is restarted answers again soon.
            Err(error) => return Ok(Reply::Busy(error.to_string(), None)),
        };
        let client::Reply { status, retry_after, .. } = reply;
        let Some(problem) = reply.problem() else {
            return Ok(Reply::Predictions(predictions_of(&reply.text).context("the answer has no predictions")?));
        };
        match status {
            400 | 413 | 422 | 500 => Ok(Reply::Refused(problem)),
            503 if retry_after.is_none() => Ok(Reply::TooSlow(problem)),
            504 => Ok(Reply::TooSlow(problem)),
            408 | 429 | 502 | 503 => Ok(Reply::Busy(problem, retry_after)),
            _ => bail!("{}: {problem}", self.client.address()),
        }
    }
}
