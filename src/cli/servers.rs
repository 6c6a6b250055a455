//! The servers that a command asks: `--server`, `LEEWAY_SERVER`, or the admin listener of the configuration.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;

use super::answer::Answer;
use super::client::{Client, Trust, Unreachable};
use super::server_address::ServerAddress;
use super::settings::ConfigArgs;
use super::terminal;
use crate::config::{Config, ListenAddresses, Token, server_of_environment};
use crate::error::SetupError;

/// Timeout of a request to the admin API. It is long, because a change may have to load a version first.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Advice behind the message that no server answers.
const ADVICE: &str =
    "; is it running, and is this the address of its admin listener (--server, LEEWAY_SERVER, admin.listen)?";

/// The servers of a command, and how to reach them.
#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    #[command(flatten)]
    pub(super) settings: ConfigArgs,

    /// Admin listener of the server: http://HOST:PORT, https://HOST:PORT, unix:/PATH, or dns:HOST:PORT for all addresses
    /// of a name; several are separated by commas
    /// [default: LEEWAY_SERVER, or else admin.listen]
    #[arg(long, value_name = "URL", value_delimiter = ',', value_parser = ServerAddress::parse)]
    server: Vec<ServerAddress>,

    /// The same, as it was called before
    #[arg(long, hide = true, value_parser = ListenAddresses::parse, conflicts_with = "server")]
    admin_listen: Vec<ListenAddresses>,

    /// File with the token of the admin API [default: admin.token]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// PEM file with the certificates to trust, if the server speaks TLS [default: admin.tls.certificate of the
    /// configured server, and those of this machine for others]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// The servers of a command, and the format of its output.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    pub(super) connection: ConnectionArgs,

    /// Print the server's answer as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Clients of all servers of a command, at least one.
pub(super) struct Servers(Vec<Client>);

/// The address of a server before its output, if a command has several servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Title {
    /// Before the only line.
    InLine,
    /// On a line of its own.
    Above,
    /// Not at all, before JSON.
    None,
}

impl ServerArgs {
    /// Does something with every server, as [`Servers::each`].
    pub(super) fn each(&self, title: Title, act: impl FnMut(&Client) -> Result<()>) -> Result<()> {
        let title = if self.json { Title::None } else { title };
        self.connection.servers()?.each(title, act)
    }
}

impl ConnectionArgs {
    /// Returns clients of the servers, for requests that may have to load a version.
    pub(super) fn servers(&self) -> Result<Servers> {
        self.servers_within(TIMEOUT)
    }

    /// Returns clients of the servers, with this timeout of a request.
    pub(super) fn servers_within(&self, timeout: Duration) -> Result<Servers> {
        let config = &self.settings.load()?;
        let token = match &self.token_file {
            Some(file) => Some(secret_in(file)?),
            None => config.admin.token.clone(),
        };
        let secret = token.as_ref().map(Token::secret);
        let certificate = config.admin.tls.files().map(|(certificate, _)| certificate.to_owned());
        let (addresses, configured) = self.addresses(config, certificate.is_some())?;
        let trust = match (&self.ca_file, certificate) {
            (Some(file), _) => Trust::File(file.clone()),
            (None, Some(certificate)) if configured => Trust::File(certificate),
            (None, _) => Trust::System,
        };
        let mut single = Vec::new();
        for address in addresses {
            single.extend(address.resolve().map_err(|problem| anyhow!("--server: {problem}"))?);
        }
        let clients = single.into_iter().map(|address| Client::new(address, &trust, secret, timeout));
        Ok(Servers(clients.collect::<Result<_>>()?))
    }

    /// Returns the addresses of the servers, and true if they come from the configuration.
    fn addresses(&self, config: &Config, is_encrypted: bool) -> Result<(Vec<ServerAddress>, bool), SetupError> {
        if !self.server.is_empty() {
            return Ok((self.server.clone(), false));
        }
        if !self.admin_listen.is_empty() {
            let given = ListenAddresses::join(self.admin_listen.clone()).map_err(SetupError::Config)?;
            return Ok((vec![ServerAddress::of_listener(&given, is_encrypted)], true));
        }
        match server_of_environment() {
            Some(given) => {
                let addresses = ServerAddress::parse_list(&given);
                let wrong = |problem| SetupError::Config(format!("environment variable LEEWAY_SERVER: {problem}"));
                Ok((addresses.map_err(wrong)?, false))
            }
            None => Ok((vec![ServerAddress::of_listener(&config.admin.listen, is_encrypted)], true)),
        }
    }
}

/// Reads a token or an API key from a file, without the line break at its end.
pub(super) fn secret_in(file: &Path) -> Result<Token> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Token::try_from(text.trim().to_owned()).map_err(|problem| anyhow!("{}: {problem}", file.display()))
}

impl Servers {
    /// Does something with the first server that answers.
    pub(super) fn first<T>(&self, ask: impl Fn(&Client) -> Result<T>) -> Result<T> {
        let mut silent = Vec::new();
        for client in &self.0 {
            match ask(client) {
                Err(error) if error.downcast_ref::<Unreachable>().is_some() => silent.push(error.to_string()),
                answered => return answered,
            }
        }
        bail!("{}{ADVICE}", silent.join("; "))
    }

    /// Returns the clients of all servers.
    pub(super) fn all(&self) -> &[Client] {
        &self.0
    }

    /// Sends a GET request to the first server that answers.
    pub(super) fn get<T>(&self, path: &str) -> Result<Answer<T>> {
        self.first(|client| client.get(path))
    }

    /// Does something with every server. If some of several refuse or do not answer, the others do it all the same, and
    /// the error lists those that did not.
    pub(super) fn each(&self, title: Title, mut act: impl FnMut(&Client) -> Result<()>) -> Result<()> {
        if let [only] = &*self.0 {
            return act(only).map_err(|error| match error.downcast_ref::<Unreachable>() {
                Some(_) => anyhow!("{error}{ADVICE}"),
                None => error,
            });
        }
        let mut failed = Vec::new();
        for (index, client) in self.0.iter().enumerate() {
            let address = client.address();
            match title {
                Title::InLine => write!(terminal::stdout(), "{address}: ")?,
                Title::Above => writeln!(terminal::stdout(), "{}server {address}", if index > 0 { "\n" } else { "" })?,
                Title::None => {}
            }
            if let Err(error) = act(client) {
                if title == Title::None {
                    writeln!(terminal::stderr(), "{address}: error: {error:#}")?;
                } else {
                    writeln!(terminal::stdout(), "error: {error:#}")?;
                }
                failed.push(address.to_string());
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        bail!("{} of {} servers failed: {}", failed.len(), self.0.len(), failed.join(", "))
    }
}
