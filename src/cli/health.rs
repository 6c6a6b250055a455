//! `leeway health`: checks that the configured server is ready, for containers without curl.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use super::client::{Place, status_of, unverified};
use super::settings::SettingsArgs;

/// Timeout of the request for the server's health.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// Check only that the server is alive, even if it is not ready
    #[arg(long)]
    live: bool,

    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(args: HealthArgs) -> Result<()> {
    let http = args.settings.load()?.http;
    let place = Place::of(&http.listen, http.tls.files().map(|_| unverified()));
    let address = &place.address;
    let path = if args.live { "/livez" } else { "/readyz" };
    let status = status_of(&place, path, TIMEOUT)
        .map_err(|error| anyhow!("no server answers at {address} (http.listen): {error}"))?;
    if status != 200 {
        bail!("the server at {address} is not ready: {path} answers {status}");
    }
    let state = if args.live { "alive" } else { "ready" };
    writeln!(std::io::stdout(), "the server at {address} is {state}")?;
    Ok(())
}
