//! Changes of a deployment, for `leeway traffic`, `promote`, `rollback` and `shadow`. A running server makes the change, or, with
//! `--offline`, the change is written to the journal of a server that is not running.

use anyhow::{Result, bail};
use clap::Args;
use jiff::Timestamp;

use super::answer::Answer;
use super::client::Client;
use super::servers::{ServerArgs, Title};
use super::settings::{RepositoryArgs, one_thread};
use crate::api::admin::{ChangeOutcome, LaggingReplica, PromoteChange, RollbackChange, ShadowChange, TrafficChange};
use crate::config::{Config, this_user};
use crate::deploy::{ChangeNote, ChangeRequest, Transition, change_offline};
use crate::identity::ModelName;
use crate::pipeline::Object;
use crate::repository;
use crate::state;
use crate::traffic::{Shadow, Share};

/// Arguments of every change.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// Reason, for the history
    #[arg(long, default_value = "")]
    reason: String,

    /// Author, for the history (default: user@host)
    #[arg(long)]
    by: Option<String>,

    /// Make the change only if the model is at this generation
    #[arg(long, value_name = "GENERATION")]
    if_generation: Option<u64>,

    /// Change the journal directly, for a server that is not running
    #[arg(long, conflicts_with = "server")]
    offline: bool,

    /// Folder or location of the models, instead of repository.path, for --offline
    #[arg(short, long, value_name = "FOLDER", requires = "offline")]
    models: Option<String>,

    /// Wait until the change is in effect on all servers that share the state, at most this many seconds [default: 30]
    #[arg(
        long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "30",
        value_parser = clap::value_parser!(u64).range(1..=600), conflicts_with = "offline"
    )]
    wait: Option<u64>,

    #[command(flatten)]
    server: ServerArgs,
}

/// Makes a change of a deployment, and prints its outcome.
pub(super) fn make(model: ModelName, wish: Transition, args: ChangeArgs) -> Result<()> {
    let ChangeArgs { reason, by, if_generation, offline, models, wait, server } = args;
    let note = ChangeNote { by: by.unwrap_or_else(this_user), reason, at: Timestamp::now() };
    let request = ChangeRequest { model, wish, note, if_generation };
    if offline {
        let config = RepositoryArgs { config: server.connection.settings, models }.load()?;
        return show(Answer::of(&one_thread()?.block_on(in_the_journal(&config, &request))?)?, server.json);
    }
    server.each(Title::InLine, |client| {
        let answer = by_the_server(client, &request, wait)?;
        // An answer of another version of Leeway is shown as it is.
        let lagging = answer.parsed().map(|outcome| outcome.lagging).unwrap_or_default();
        show(answer, server.json)?;
        refuse_lagging(&lagging)
    })
}

/// Fails if a change is not in effect on all servers.
fn refuse_lagging(lagging: &[LaggingReplica]) -> Result<()> {
    if lagging.is_empty() {
        return Ok(());
    }
    let describe = |LaggingReplica { name, generation, problem }: &LaggingReplica| {
        let at =
            generation.map_or("does not have the model".to_owned(), |generation| format!("generation {generation}"));
        problem.as_ref().map_or_else(|| format!("{name} ({at})"), |problem| format!("{name} ({at}: {problem})"))
    };
    let lagging: Vec<String> = lagging.iter().map(describe).collect();
    bail!("the change is made, but is not in effect yet on {}", lagging.join(", "))
}

/// Prints the outcome of a change.
fn show(answer: Answer<ChangeOutcome>, as_json: bool) -> Result<()> {
    answer.show(as_json, |out, ChangeOutcome { changed, deployment, before, unwritten, lagging: _ }| {
        let (model, now) = (&deployment.model, &deployment.traffic);
        let change = if changed { format!("{before} -> {now}") } else { format!("{now} already") };
        let (stable, generation) = (deployment.stable, deployment.generation);
        let shadow =
            deployment.shadow.map(|Shadow { version, percent }| format!(", {percent} copied to version {version}"));
        let shadow = shadow.unwrap_or_default();
        writeln!(out, "{model}: {change}{shadow}, stable version {stable}, generation {generation}")?;
        if let Some(problem) = unwritten {
            writeln!(out, "NOT WRITTEN YET: {problem}")?;
        }
        Ok(())
    })
}

/// Sends a change of a deployment to a running server.
fn by_the_server(client: &Client, request: &ChangeRequest, wait: Option<u64>) -> Result<Answer<ChangeOutcome>> {
    let ChangeRequest { model, wish, note: ChangeNote { by, reason, .. }, if_generation } = request;
    let (by, reason, if_generation, wait_ms) = (by.clone(), reason.clone(), *if_generation, wait.map(|s| 1_000 * s));
    match wish {
        Transition::Traffic(split) => {
            let shares = Object(split.shares().collect());
            client
                .put(&format!("/models/{model}/traffic"), &TrafficChange { shares, by, reason, if_generation, wait_ms })
        }
        Transition::Promote(version) => {
            let version = *version;
            client.post(
                &format!("/models/{model}/promote"),
                &PromoteChange { version, by, reason, if_generation, wait_ms },
            )
        }
        Transition::Shadow(shadow) => {
            let (version, percent) = shadow.map_or((None, Share::NONE), |found| (Some(found.version), found.percent));
            client.post(
                &format!("/models/{model}/shadow"),
                &ShadowChange { version, percent, by, reason, if_generation, wait_ms },
            )
        }
        // A server applies the file that it sees.
        Transition::File(_) => bail!("a deployment.toml is applied by leeway reload"),
        Transition::Rollback => {
            client.post(&format!("/models/{model}/rollback"), &RollbackChange { by, reason, if_generation, wait_ms })
        }
    }
}

/// Writes a change of a deployment to the journal, for the next start of a server.
async fn in_the_journal(config: &Config, request: &ChangeRequest) -> Result<ChangeOutcome> {
    let journal = state::open_journal(&config.state).await?;
    let store = repository::store(&config.repository, &config.state)?;
    let keys = config.repository.trusted_keys.clone().into();
    Ok(change_offline(&*journal, (&*store, &keys), request).await?)
}
