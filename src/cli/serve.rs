//! `leeway serve`: bind, build, listen, run until a signal.

use std::time::Duration;

use anyhow::{Context, Result};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{SettingsArgs, logging, table};
use crate::app::{Addresses, App, Stop, StopSignal};
use crate::config::{Config, LogConfig, available_cores};
use crate::error::Error;
use crate::pipeline::Stages;
use crate::registry::raise_open_files_limit;

pub(super) fn run(settings: SettingsArgs, stages: Stages) -> Result<()> {
    let config = settings.load().inspect_err(|_| {
        // As it would be where nothing is configured: what is configured cannot be told.
        let _ = logging::start(&LogConfig::default());
    });
    serve(config, stages).map_err(logging::fatal)
}

fn serve(config: Result<Config, Error>, stages: Stages) -> Result<()> {
    let config = config?;
    logging::start(&config.log)?;
    raise_open_files_limit();
    let threads = config.http.threads().get();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("http")
        .enable_all()
        .build()
        .context("the HTTP threads could not be started")?;
    let served = runtime.block_on(async {
        let mut signals = Signals::listen().context("signals cannot be listened to")?;
        tracing::info!(models = %config.repository.path.display(), "starting");
        let addresses = Addresses::bind(&config)?;
        let app = tokio::select! {
            biased;
            // First: what ends this process may have ended a trial load, too, and that would look like the model's fault.
            _ = signals.next() => {
                tracing::info!("stopped while loading");
                // At once, and not in order: a model that is being loaded may take long, and its libraries must not be
                // taken down underneath it.
                signal_hook::low_level::exit(0)
            }
            app = App::build(config, stages) => app?,
        };
        let snapshot = app.snapshot();
        let bound = app.listen(addresses)?;
        table::announce(&snapshot);
        // What is unloaded later is held here no longer.
        drop(snapshot);
        tracing::info!(
            data = %bound.data_address(), admin = %bound.admin_address(), threads, cores = available_cores(),
            "ready: POST http://{}/predict", bound.data_address()
        );
        tell_systemd(NotifyState::Ready);
        bound.run(signals).await?;
        Ok(())
    });
    // Requests that outlived the grace period are not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

/// Tells whoever has started this process, if it wants to know: nothing happens without `NOTIFY_SOCKET`.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// SIGTERM, as orchestrators send it, and SIGINT, as a person does with Ctrl-C.
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
