//! `leeway check`: checks that `leeway serve` would start and serve all deployed versions.

use std::io::Write;
use std::sync::Arc;

use anyhow::Result;

use super::findings::write_findings;
use super::settings::{SettingsArgs, one_thread};
use super::{logging, table, terminal};
use crate::api::admin::{Overview, VersionState};
use crate::app::{App, Dependencies, isolated_engine, trial};
use crate::config::StartMode;
use crate::model::Engine;
use crate::model::onnx::OnnxRuntime;
use crate::pipeline::Stages;
use crate::registry::WarmUp;
use crate::state::{self, MemoryFleet, MemoryJournal, MemoryLedger, MemoryRollouts, PastJournal};

pub(super) fn run(settings: SettingsArgs, stages: Stages) -> Result<()> {
    let mut config = settings.load()?;
    // A problem that a server would skip is an error here.
    config.repository.start = StartMode::Strict;
    logging::start(&config.log)?;
    state::check_access(&config.state)?;
    let engine = OnnxRuntime::configured(&config)?;
    let trial = trial(&config, &engine)?;
    let isolated_engine = isolated_engine(&engine)?;
    let mut out = terminal::stdout();
    writeln!(out, "ONNX Runtime {} ({})", engine.version(), engine.library().display())?;
    one_thread()?.block_on(async {
        // Reads the deployments from the journal, and writes nothing.
        let journal = match state::past_journal(&config.state).await? {
            PastJournal::Written(journal) => MemoryJournal::with(journal.latest().await?.deployments),
            PastJournal::Empty | PastJournal::Unknown => MemoryJournal::default(),
        };
        let ledger = Arc::new(MemoryLedger::new(config.feedback.remembered));
        let parts = Dependencies {
            engine: Arc::new(engine),
            isolated_engine,
            stages,
            trial,
            journal: Arc::new(journal),
            ledger,
            rollouts: Arc::new(MemoryRollouts::default()),
            fleet: Arc::new(MemoryFleet),
        };
        let app = App::build_with(config, parts).await?;
        let snapshot = app.catalog().snapshot();
        writeln!(out, "{}", table::of_versions(&snapshot, terminal::columns()))?;
        let refused = refusals(app.deployer().overview());
        for version in snapshot.versions() {
            writeln!(out, "{} version {}:", version.model, version.version)?;
            if let Some(findings) = version.findings() {
                write_findings(&mut out, findings, version.config.model.batching)?;
            }
            if let Some(chain) = version.chain() {
                writeln!(out, "  It is {}.", chain.describe())?;
            }
        }
        let mut findings = snapshot.versions().filter_map(|version| version.findings());
        let all_ran = findings.all(|findings| matches!(findings.warm_up, WarmUp::Ran(_)));
        match &*refused {
            [] => writeln!(out, "All models load{}.", if all_ran { " and run" } else { "" })?,
            refused => writeln!(
                out,
                "The server would start, without these versions, which have no traffic:\n{}",
                refused.join("\n")
            )?,
        }
        Ok(())
    })
}

/// Returns the versions that were refused, with the reasons.
fn refusals(overview: Overview) -> Vec<String> {
    let mut refused = Vec::new();
    for model in overview.models {
        for version in model.versions {
            if let VersionState::Refused { problem, .. } = version.state {
                refused.push(format!("{} version {}: {problem}", model.model, version.version));
            }
        }
    }
    refused
}
