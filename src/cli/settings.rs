//! The settings of a command, from the configuration file, the environment and flags, and the runtime of a command.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::config::{Config, ListenAddresses, Overrides, RepositoryLocation};
use crate::error::SetupError;

/// Sources of the settings.
#[derive(Debug, Clone, Args)]
pub(super) struct SettingsArgs {
    /// Configuration file [default: config/leeway.toml, if it exists]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Address for clients, instead of http.listen; can be repeated
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = ListenAddresses::parse)]
    pub(super) listen: Vec<ListenAddresses>,

    /// Address for operators, instead of admin.listen; can be repeated
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = ListenAddresses::parse)]
    pub(super) admin_listen: Vec<ListenAddresses>,

    /// Folder or location of the models (s3://bucket/prefix), instead of repository.path
    #[arg(short, long, value_name = "FOLDER")]
    pub(super) models: Option<String>,
}

/// The configuration file of a command that needs no other settings.
#[derive(Debug, Clone, Args)]
pub(super) struct ConfigArgs {
    /// Configuration file [default: config/leeway.toml, if it exists]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

/// The settings of a command that reads the repository.
#[derive(Debug, Clone, Args)]
pub(super) struct RepositoryArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,

    /// Folder or location of the models (s3://bucket/prefix), instead of repository.path
    #[arg(short, long, value_name = "FOLDER")]
    pub(super) models: Option<String>,
}

impl ConfigArgs {
    pub(super) fn load(&self) -> Result<Config, SetupError> {
        Config::load(self.config.as_deref(), &Overrides::default())
    }
}

impl RepositoryArgs {
    pub(super) fn load(&self) -> Result<Config, SetupError> {
        let models = self.models.as_deref().map(models_location).transpose()?;
        let overrides = Overrides { models, ..Overrides::default() };
        Config::load(self.config.config.as_deref(), &overrides)
    }
}

impl SettingsArgs {
    pub(super) fn load(self) -> Result<Config, SetupError> {
        let overrides = Overrides {
            listen: joined("--listen", self.listen)?,
            admin_listen: joined("--admin-listen", self.admin_listen)?,
            models: self.models.as_deref().map(models_location).transpose()?,
        };
        Config::load(self.config.as_deref(), &overrides)
    }
}

/// Reads the value of `--models`. The error does not quote it, because it may hold a password.
pub(super) fn models_location(text: &str) -> Result<RepositoryLocation, SetupError> {
    text.parse().map_err(|problem| SetupError::Config(format!("--models: {problem}")))
}

/// Returns the addresses of a flag that can be repeated; `None` if it was not given.
fn joined(flag: &str, given: Vec<ListenAddresses>) -> Result<Option<ListenAddresses>, SetupError> {
    if given.is_empty() {
        return Ok(None);
    }
    ListenAddresses::join(given).map(Some).map_err(|problem| SetupError::Config(format!("{flag}: {problem}")))
}

/// Returns a single-threaded tokio runtime, for a command that does one thing at a time.
pub(super) fn one_thread() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("no thread could be started")
}
