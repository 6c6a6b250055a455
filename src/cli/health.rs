//! `leeway health`: checks that the configured server is ready, for containers without curl.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::client::{Client, Trust};
use super::server_address::ServerAddress;
use super::settings::SettingsArgs;
use crate::config::ListenAddresses;

/// Timeout of the request for the server's health.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// Check only that the server is alive, even if it is not ready
    #[arg(long)]
    live: bool,

    /// Configuration file [default: config/leeway.toml, if it exists]
    #[arg(short, long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,

    /// Listener for clients of the server: http://HOST:PORT, https://HOST:PORT or unix:/PATH [default: http.listen]
    #[arg(long, value_name = "URL", value_parser = ServerAddress::parse, conflicts_with = "listen")]
    server: Option<ServerAddress>,

    /// The same, as it was called before
    #[arg(long, hide = true, value_parser = ListenAddresses::parse)]
    listen: Vec<ListenAddresses>,
}

pub(super) fn run(args: HealthArgs) -> Result<()> {
    let HealthArgs { live, config, server, listen } = args;
    let address = match server {
        Some(address) => address,
        None => {
            let http = SettingsArgs { config, listen, admin_listen: Vec::new(), models: None }.load()?.http;
            ServerAddress::of_listener(&http.listen, !http.tls.is_off())
        }
    };
    // The request and the answer hold no secrets.
    let client = Client::new(address, &Trust::Anybody, None, TIMEOUT)?;
    let address = client.address();
    let path = if live { "/livez" } else { "/readyz" };
    let status = client.read(path)?.status;
    if status != 200 {
        bail!("the server at {address} is not ready: {path} answers {status}");
    }
    let state = if live { "alive" } else { "ready" };
    writeln!(std::io::stdout(), "the server at {address} is {state}")?;
    Ok(())
}
