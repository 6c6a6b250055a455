//! The log on standard error: lines for people on a terminal, JSON otherwise.

use std::fmt;
use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;

use anyhow::{Error, Result, anyhow};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{AccessLogging, LogConfig, LogFormat, LogLevel, is_colour_unwanted};

/// True if the log of this process is JSON. Set when the log is started.
static IS_JSON: OnceLock<bool> = OnceLock::new();

/// Marks an error that has been written to the log.
#[derive(Debug)]
pub(super) struct Logged;

impl fmt::Display for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the error is in the log")
    }
}

/// Writes the error that ends this process to the log, if the log is JSON: log collectors cannot read other lines.
pub(super) fn fatal(error: Error) -> Error {
    if IS_JSON.get() != Some(&true) {
        return error;
    }
    tracing::error!(fatal = true, "{error:#}");
    error.context(Logged)
}

/// Starts the log of this process.
pub(super) fn start(config: &LogConfig) -> Result<()> {
    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // At info, ONNX Runtime logs much about its own internals.
    let filter = EnvFilter::default()
        .add_directive(level.into())
        .add_directive("ort=warn".parse()?)
        .add_directive("hyper=info".parse()?);
    let filter = match config.access {
        AccessLogging::Off => filter,
        // Its lines have a setting of their own.
        AccessLogging::Errors | AccessLogging::All => filter.add_directive("leeway::access=info".parse()?),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_span_events(FmtSpan::NONE);
    let human = match config.format {
        LogFormat::Auto => stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let started = if human {
        lines.with_ansi(stderr().is_terminal() && !is_colour_unwanted()).with_target(false).try_init()
    } else {
        lines.json().flatten_event(true).try_init()
    };
    started.map_err(|error| anyhow!("the log could not be started: {error}"))?;
    let _ = IS_JSON.set(!human);
    Ok(())
}
