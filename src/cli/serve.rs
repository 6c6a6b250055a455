//! `leeway serve`: binds the addresses, loads the models, listens, and serves until a signal arrives.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::one_model::OneModel;
use super::settings::SettingsArgs;
use super::{logging, table};
use crate::app::{Addresses, App, Stop, StopSignal};
use crate::config::{Config, ListenAddress, LogConfig, RepositoryLocation, available_cores};
use crate::error::SetupError;
use crate::identity::ModelName;
use crate::machine;
use crate::machine::raise_open_files_limit;
use crate::model::Engine;
use crate::model::onnx::OnnxRuntime;
use crate::pipeline::Stages;
use crate::registry::Snapshot;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Serve only this model: its ONNX file, the folder of an export by Hugging Face, MLflow or Ultralytics, or a model's own
    /// folder, with a model.toml
    #[arg(value_name = "FILE|FOLDER", conflicts_with = "models")]
    model: Option<PathBuf>,

    /// Name of this model [default: that of the file or folder]
    #[arg(long, requires = "model")]
    name: Option<ModelName>,

    #[command(flatten)]
    settings: SettingsArgs,
}

pub(super) fn run(args: ServeArgs, stages: Stages) -> Result<()> {
    let ServeArgs { model, name, settings } = args;
    let file = Config::file(settings.config.as_deref()).map(Path::to_owned);
    let config = settings.load().inspect_err(|_| {
        // The log starts with its default settings, because the configuration could not be read.
        let _ = logging::start(&LogConfig::default());
    });
    serve(config, file.as_deref(), model.map(|model| (model, name)), stages).map_err(logging::fatal)
}

/// Number of threads that accept connections, and load and deploy versions. Other threads serve the connections.
const SERVER_THREADS: usize = 2;

/// Lifetime of an idle thread for heavy stages. Every second, one of these threads advances the windows of the metrics.
/// With a longer lifetime, this work would keep alive all threads that were started during a peak.
const IDLE_THREAD: Duration = Duration::from_millis(500);

fn serve(
    config: Result<Config, SetupError>,
    file: Option<&Path>,
    model: Option<(PathBuf, Option<ModelName>)>,
    stages: Stages,
) -> Result<()> {
    let config = config?;
    logging::start(&config.log)?;
    let one_model = model.map(|(given, name)| OneModel::new(given, name)).transpose()?;
    let config = match &one_model {
        Some(one) => one.configured(config)?,
        None => config,
    };
    raise_open_files_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVER_THREADS)
        .thread_name("server")
        .thread_keep_alive(IDLE_THREAD)
        .enable_all()
        .build()
        .context("the threads of the server could not be started")?;
    let served = runtime.block_on(until_stopped(config, file, one_model.as_ref(), stages));
    // Does not wait for stages that still run after the grace period.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

/// Serves until a signal arrives.
async fn until_stopped(
    mut config: Config,
    file: Option<&Path>,
    one_model: Option<&OneModel>,
    stages: Stages,
) -> Result<()> {
    let mut signals = Signals::listen().context("the signal handlers could not be installed")?;
    log_start(&config, file);
    let addresses = Addresses::bind(&config)?;
    if let Some(one) = one_model
        && one.make(&config, &stages, &mut signals).await?
    {
        // The version has just been tried out.
        config.loading.trial = false;
    }
    let (threads, is_encrypted) = (config.http.threads().get(), !config.http.tls.is_off());
    let app = tokio::select! {
        biased;
        // Polled first: the signal may have ended a trial load, too, which would look like the model's fault.
        _ = signals.next() => {
            tracing::info!("stopped while loading");
            one_model.into_iter().for_each(OneModel::remove);
            // Exits at once, without an orderly shutdown: a load may take long, and must not lose its libraries.
            signal_hook::low_level::exit(0)
        }
        app = App::build(config, stages) => app?,
    };
    let (snapshot, deployer) = (app.catalog().snapshot(), Arc::clone(app.deployer()));
    let bound = app.listen(addresses)?;
    table::announce(&snapshot);
    let (data, admin) = (shown(bound.data_addresses()), shown(bound.admin_addresses()));
    let cores = available_cores();
    if snapshot.models().is_empty() {
        tracing::error!(data, admin, threads, %cores, "not ready: no model is served; leeway status says why");
    } else {
        let first = predict_url(bound.data_addresses(), is_encrypted, &snapshot);
        tracing::info!(data, admin, threads, %cores, "ready: POST {first}");
    }
    if let Some(one) = one_model {
        one.announce(&snapshot, bound.data_addresses(), is_encrypted);
    }
    // As long as the snapshot exists, its versions stay in memory, even if they are unloaded.
    drop(snapshot);
    let limiter = std::thread::Builder::new().name("memory-limit".to_owned());
    limiter.spawn(keep_below_the_memory_limit).context("no thread could be started")?;
    tell_systemd(NotifyState::Ready);
    bound.run(signals).await?;
    if deployer.is_loading() {
        tracing::info!("stopped without waiting for a load that is still running");
        one_model.into_iter().for_each(OneModel::remove);
        // A load still uses the libraries, so they must not be unloaded.
        signal_hook::low_level::exit(0)
    }
    Ok(())
}

/// Returns all addresses of a listener as a text.
fn shown(addresses: &[ListenAddress]) -> String {
    addresses.iter().map(ListenAddress::to_string).collect::<Vec<_>>().join(", ")
}

/// Writes the first line of the log: the versions of the programs, and the places of settings, models and state.
fn log_start(config: &Config, file: Option<&Path>) {
    // A library that cannot be loaded is reported where it is needed.
    let runtime = OnnxRuntime::load(&config.library_candidates()).ok();
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        onnxruntime = runtime.as_ref().map_or("not found", |runtime| runtime.version()),
        library = runtime.as_ref().map(|runtime| absolute(runtime.library())),
        configuration = file.map_or("none: defaults, environment and flags".to_owned(), absolute),
        models = match &config.repository.path {
            RepositoryLocation::Folder(folder) => absolute(folder),
            other => other.to_string(),
        },
        state = String::from(config.state.url.clone()),
        "starting"
    );
}

/// Returns the URL for predictions of the default model, or else of the first one.
fn predict_url(addresses: &[ListenAddress], is_encrypted: bool, snapshot: &Snapshot) -> String {
    let tcp = addresses.iter().find_map(|address| match address {
        ListenAddress::Tcp(address) => Some(address),
        ListenAddress::Unix(_) => None,
    });
    let scheme = if is_encrypted { "https" } else { "http" };
    let path = match (snapshot.default_model(), snapshot.models().keys().next()) {
        (None, Some(first)) => format!("/v1/models/{first}:predict"),
        _ => "/predict".to_owned(),
    };
    tcp.map_or_else(|| path.clone(), |address| format!("{scheme}://{address}{path}"))
}

/// Keeps the data limit of this process (`RLIMIT_DATA`) a little below the memory that its control group has left. A
/// run that would take all of that memory then fails, and the server continues. Other processes in the group use
/// memory, too, so the limit is adjusted every second. Runs on a thread of its own, because it reads files.
fn keep_below_the_memory_limit() {
    const RESERVE: u64 = 64 << 20;
    const INTERVAL: Duration = Duration::from_secs(1);
    let mut is_limited = false;
    loop {
        let left = machine::memory_left_in_group();
        // If the group no longer has a limit, the limit of this process is lifted.
        let available = match left {
            Some(left) => Some(left.saturating_sub(RESERVE)),
            None => is_limited.then_some(u64::MAX),
        };
        if let Some(available) = available
            && let Err(error) = machine::limit_data(available)
        {
            tracing::warn!(%error, "the data limit of this process (RLIMIT_DATA) cannot be set");
            return;
        }
        is_limited = left.is_some();
        std::thread::sleep(INTERVAL);
    }
}

/// Notifies systemd of a state of the server. Does nothing without the environment variable `NOTIFY_SOCKET`.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}

/// Signals that end the server: SIGTERM, which orchestrators send, and SIGINT, which Ctrl-C sends.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
}

impl StopSignal for Signals {
    async fn next(&mut self) -> Stop {
        let stop = tokio::select! {
            _ = self.terminate.recv() => Stop::Deregister,
            _ = self.interrupt.recv() => Stop::AtOnce,
        };
        tell_systemd(NotifyState::Stopping);
        stop
    }
}
