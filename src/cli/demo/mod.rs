//! `leeway demo`: a server with a shipped model, and the story of a canary that is worse and of inputs that drift, told on
//! the terminal within a minute.
//!
//! - `story.rs` tells it, step by step. All numbers in it are the server's own: from its metrics and its admin API.
//! - `penguins.rs` has the labelled rows, and `traffic.rs` sends them at a steady rate.
//! - `client.rs` sends the requests.
//! - `folder.rs` has the temporary folder with the models and the state of the server.
//!
//! The model, the canary and the rows are part of the program: some 60 kB, so that the demo is the same whether Leeway comes
//! from a wheel, an image, an archive or a checkout.

mod client;
mod folder;
mod penguins;
mod story;
mod traffic;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::client::Client;
use self::folder::DemoFolder;
use self::story::Story;
use crate::app::{App, Stop};
use crate::config::{Config, Overrides};
use crate::pipeline::Stages;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Duration of the demo, about
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Keep the folder with the models and the state, and say how to serve it
    #[arg(long)]
    keep: bool,
}

pub(super) fn run(DemoArgs { seconds, keep }: DemoArgs, stages: Stages) -> Result<()> {
    let folder = DemoFolder::make()?;
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = threads.context("the threads of the server could not be started")?;
    let told = runtime.block_on(async {
        tokio::select! {
            told = serve_and_tell(&folder, Duration::from_secs(seconds), stages) => told,
            signal = first_signal() => {
                signal?;
                bail!("stopped by a signal");
            }
        }
    });
    // Ends a load that is still running, so that it writes nothing into the folder after its removal.
    runtime.shutdown_timeout(Duration::from_secs(2));
    let kept = folder.end(keep && told.is_ok())?;
    story::end(kept.as_deref(), told)
}

/// Waits for Ctrl-C or SIGTERM.
async fn first_signal() -> Result<()> {
    let handlers = || Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?));
    let (mut interrupt, mut terminate) = handlers().context("the signal handlers could not be installed")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Sets a mark when it is dropped.
struct MarkOnDrop(Arc<AtomicBool>);

impl Drop for MarkOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Runs the server while the story is told.
async fn serve_and_tell(folder: &DemoFolder, length: Duration, stages: Stages) -> Result<()> {
    let config = folder.config(user_config())?;
    let server = App::build(config, stages).await?.bind().await?;
    let client = Client::new(server.data_addresses(), server.admin_addresses())?;
    let (stop, stopped) = mpsc::channel(1);
    let running = tokio::spawn(server.run(stopped));
    // The thread that tells the story ends when this future does.
    let is_over = Arc::new(AtomicBool::new(false));
    let mut story = Story::new(client, folder, length, Arc::clone(&is_over));
    let _mark = MarkOnDrop(is_over);
    let told = tokio::task::spawn_blocking(move || story.tell()).await;
    stop.send(Stop::AtOnce).await.map_err(|_| anyhow!("the server has ended"))?;
    running.await??;
    told?
}

/// Returns the user's own configuration, of which the demo takes only the location of ONNX Runtime.
fn user_config() -> Config {
    Config::load(None, &Overrides::default()).unwrap_or_default()
}
