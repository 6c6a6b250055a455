//! `leeway key`: makes a random API key for a client, and its entry in the configuration.

use std::io::Write;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;

use crate::config::ApiKeyName;
use crate::identity::Sha256;

/// Number of random bytes of a key: too many to be guessed, so that a plain digest protects it.
const RANDOM_BYTES: usize = 32;

#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    /// Name of the client that gets the key, for the metrics
    #[arg(value_name = "NAME")]
    name: ApiKeyName,
}

pub(super) fn run(args: &KeyArgs) -> Result<()> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).context("the operating system has no random numbers")?;
    let key = format!("leeway_{}", URL_SAFE_NO_PAD.encode(random));
    let (name, digest) = (args.name.as_str(), Sha256::of(key.as_bytes()));
    let mut out = std::io::stdout();
    writeln!(out, "# The key, for the client. It is not stored anywhere:")?;
    writeln!(out, "# {key}")?;
    writeln!(out, "# Its entry in the file of http.api_keys_file (in leeway.toml: [[http.api_keys]]):")?;
    writeln!(out, "[[api_keys]]\nname = \"{name}\"\nsha256 = \"{digest}\"")?;
    Ok(())
}
