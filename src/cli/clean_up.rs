//! Removal of an unfinished version when a command is interrupted.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use super::settings::one_thread;

/// Removes the unfinished version with `clean_up` and ends this process when a signal arrives.
pub(super) fn clean_up_at_signals(clean_up: impl FnOnce() + Send + 'static) -> Result<()> {
    let (sender, listening) = std::sync::mpsc::channel();
    let listen = move || -> Result<()> {
        one_thread()?.block_on(async {
            let [mut hang_up, mut interrupt, mut terminate] =
                [signal(SignalKind::hangup())?, signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
            let _ = sender.send(());
            let number = tokio::select! {
                _ = hang_up.recv() => SignalKind::hangup(),
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
            };
            clean_up();
            // The exit code that shells use for a process that a signal has ended.
            signal_hook::low_level::exit(128 + number.as_raw_value())
        })
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).context("no thread could be started")?;
    listening.recv().context("the signal handlers could not be installed")
}
