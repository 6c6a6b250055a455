//! The command line: one file per subcommand, and the exit codes.

mod check;
mod logging;
mod serve;
mod table;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Overrides};
use crate::error::Error;
use crate::model::Engine;
use crate::model::onnx::OnnxRuntime;

/// Exit code where the command line or the configuration is wrong; clap uses the same.
const USAGE: u8 = 2;

/// Serves ONNX models over HTTP.
#[derive(Debug, Parser)]
#[command(
    name = "leeway",
    disable_version_flag = true,
    subcommand_required = false,
    arg_required_else_help = true,
    after_help = "\
A repository of models is a folder:

    models/digits/model.toml      the pipeline and its settings
    models/digits/1/model.onnx    version 1
    models/digits/2/model.onnx    version 2; the highest version answers

Start with `leeway check`, which loads everything and says what it found, then `leeway serve`, then

    curl http://127.0.0.1:8080/predict -H 'content-type: application/json' -d '{\"instances\": [[...]]}'

Exit codes: 0 success, 1 failure, 2 wrong command line or configuration."
)]
struct Cli {
    /// Print the versions of Leeway and of ONNX Runtime
    #[arg(short = 'V', long)]
    version: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load the models and serve them until SIGTERM or Ctrl-C
    #[command(after_help = "\
Settings come from the configuration file, then from the environment, then from the flags above; later ones \
win. Every key has a variable: http.listen is LEEWAY_HTTP__LISTEN, repository.path is LEEWAY_REPOSITORY__PATH.

On SIGTERM the server becomes not ready, serves on for shutdown.deregistration_delay_ms, then finishes what is \
in flight. On Ctrl-C it skips the delay.")]
    Serve(SettingsArgs),
    /// Check the configuration, load every model, run each once, and print what was found
    #[command(after_help = "Nothing is bound and nothing is served. The exit code is 0 if `leeway serve` would start.")]
    Check(SettingsArgs),
}

/// Where settings come from.
#[derive(Debug, Args)]
struct SettingsArgs {
    /// Configuration file [default: config/leeway.toml, if it is there]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Address for clients: http.listen
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    /// Address for operators: admin.listen
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin_listen: Option<SocketAddr>,

    /// Folder with the models: repository.path
    #[arg(short, long, value_name = "FOLDER")]
    models: Option<PathBuf>,
}

impl SettingsArgs {
    fn load(self) -> Result<Config, Error> {
        let overrides = Overrides { listen: self.listen, admin_listen: self.admin_listen, models: self.models };
        Config::load(self.config.as_deref(), &overrides)
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        _ if cli.version => version(),
        Some(Command::Serve(settings)) => serve::run(settings),
        Some(Command::Check(settings)) => check::run(settings),
        // clap has printed the help already where nothing was asked for.
        None => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            match error.downcast_ref() {
                Some(Error::Config(_)) => ExitCode::from(USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn version() -> Result<()> {
    let settings = SettingsArgs { config: None, listen: None, admin_listen: None, models: None };
    let config = settings.load().unwrap_or_default();
    let mut out = std::io::stdout();
    writeln!(out, "leeway {}", env!("CARGO_PKG_VERSION"))?;
    match OnnxRuntime::load(&config.library_candidates()) {
        Ok(runtime) => writeln!(out, "ONNX Runtime {} ({})", runtime.version(), runtime.library().display())?,
        Err(_) => writeln!(out, "ONNX Runtime: not found (`leeway check` says where it was looked for)")?,
    }
    Ok(())
}
