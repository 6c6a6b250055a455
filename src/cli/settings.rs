//! The settings of a command, from the configuration file, the environment and flags, and the runtime of a command.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::config::{Config, Overrides, listen_address};
use crate::error::SetupError;

/// Sources of the settings.
#[derive(Debug, Clone, Args)]
pub(super) struct SettingsArgs {
    /// Configuration file [default: config/leeway.toml, if it exists]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Address for clients, instead of http.listen
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen_address)]
    pub(super) listen: Option<SocketAddr>,

    /// Address for operators, instead of admin.listen
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = listen_address)]
    pub(super) admin_listen: Option<SocketAddr>,

    /// Folder with the models, instead of repository.path
    #[arg(short, long, value_name = "FOLDER")]
    pub(super) models: Option<PathBuf>,
}

impl SettingsArgs {
    pub(super) fn load(self) -> Result<Config, SetupError> {
        let overrides = Overrides { listen: self.listen, admin_listen: self.admin_listen, models: self.models };
        Config::load(self.config.as_deref(), &overrides)
    }
}

/// Returns a single-threaded tokio runtime, for a command that does one thing at a time.
pub(super) fn one_thread() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no thread could be started")
}
