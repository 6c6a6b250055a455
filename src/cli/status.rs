//! `leeway status`: shows the loaded versions and the deployments of a running server.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use comfy_table::Table;

use super::client::ServerArgs;
use super::table_cells::{cell, seconds, table, words};
use crate::api::admin::{ModelStatus, Overview, VersionState, VersionStatus};
use crate::identity::ModelName;
use crate::model::{BatchingStatus, Independence};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Show only this model
    model: Option<ModelName>,

    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(StatusArgs { model, server }: StatusArgs) -> Result<()> {
    let client = server.client()?;
    match model {
        Some(model) => client
            .get(&format!("/models/{model}"))?
            .show(server.json, |out, model: ModelStatus| write_model(out, &model)),
        None => client.get("/models")?.show(server.json, |out, overview: Overview| {
            for (index, model) in overview.models.iter().enumerate() {
                if index > 0 {
                    writeln!(out)?;
                }
                write_model(out, model)?;
            }
            write_problems(out, &overview)
        }),
    }
}

pub(super) fn write_problems(out: &mut dyn Write, overview: &Overview) -> Result<()> {
    for problem in &overview.problems {
        writeln!(out, "\nproblem: {problem}")?;
    }
    Ok(())
}

pub(super) fn write_model(out: &mut dyn Write, model: &ModelStatus) -> Result<()> {
    let deployment = &model.deployment;
    writeln!(
        out,
        "{}: generation {}, stable version {}, {} by {} at {}",
        model.model,
        deployment.generation,
        deployment.stable,
        deployment.change.action.name(),
        cell(&deployment.change.by),
        seconds(deployment.change.at)
    )?;
    writeln!(out, "{}", versions(model))?;
    if let Some(problem) = &model.unserved {
        writeln!(out, "problem: NOT SERVED: {problem}")?;
    }
    for problem in [&model.config_problem, &model.deployment_problem, &model.unwritten].into_iter().flatten() {
        writeln!(out, "problem: {problem}")?;
    }
    for version in &model.versions {
        write_remarks(out, version)?;
    }
    Ok(())
}

/// Returns the versions of a model as a table.
fn versions(model: &ModelStatus) -> Table {
    let mut table =
        table(["version", "traffic", "state", "batching", "sha256", "trained", "metrics", "deployed since"]);
    for version in &model.versions {
        let manifest = version.manifest.as_deref();
        let metrics = manifest.into_iter().flat_map(|manifest| &manifest.metrics);
        // `{:?}` writes 1 as 1.0, like the JSON.
        let metrics: Vec<String> = metrics.map(|(name, value)| format!("{} {value:?}", cell(name))).collect();
        let trained_at = manifest.and_then(|manifest| manifest.trained_at.as_ref());
        let stable = if version.stable { " (stable)" } else { "" };
        table.add_row([
            format!("{}{stable}", version.version),
            version.traffic_percent.to_string(),
            state(version),
            version.batching.as_ref().map(batching).unwrap_or_default(),
            version.sha256.as_ref().map(|sha256| sha256.short()).unwrap_or_default(),
            trained_at.map(|date| cell(date.as_str())).unwrap_or_default(),
            metrics.join(", "),
            version.deployed_at.map(seconds).unwrap_or_default(),
        ]);
    }
    table
}

/// Returns the state of a version as the text of a table cell.
pub(super) fn state(version: &VersionStatus) -> String {
    match &version.state {
        _ if version.altered.is_some() => "ALTERED on disk".to_owned(),
        VersionState::Available => "available".to_owned(),
        VersionState::Loading { step, .. } => format!("loading ({})", step.name()),
        VersionState::Loaded => "loaded".to_owned(),
        VersionState::Refused { fault, .. } => format!("refused ({})", fault.name()),
    }
}

fn batching(batching: &BatchingStatus) -> String {
    if batching.on { "on".to_owned() } else { format!("off ({})", words(batching.rows.name())) }
}

/// Writes the facts about a version that an operator may want to act on.
fn write_remarks(out: &mut dyn Write, version: &VersionStatus) -> Result<()> {
    let number = version.version;
    if let VersionState::Refused { problem, .. } = &version.state {
        writeln!(out, "version {number}: refused: {problem}")?;
    }
    if let Some(problem) = &version.reload_problem {
        writeln!(out, "version {number}: still served as loaded before, because a reload failed: {problem}")?;
    }
    if let Some(difference) = &version.altered {
        writeln!(out, "version {number}: altered: {difference}")?;
    }
    if let Some(BatchingStatus { on, rows, explanation, .. }) = &version.batching
        && let Some(consequence) = consequence(*on, rows)
    {
        writeln!(out, "version {number}: {consequence}: {explanation}")?;
    }
    for remark in &version.remarks {
        writeln!(out, "version {number}: note: {remark}")?;
    }
    Ok(())
}

/// Returns the consequence for requests if a version's rows are not known to be independent. An operator may then
/// change the setting `batching`.
fn consequence(shares_runs: bool, rows: &Independence) -> Option<&'static str> {
    match rows {
        Independence::Independent { .. } | Independence::FixedBatch { .. } => None,
        Independence::Dependent(_) if shares_runs => Some("answers depend on other requests"),
        Independence::Unknown { .. } if shares_runs => Some("requests share runs"),
        Independence::Dependent(_) | Independence::Unknown { .. } => Some("each request is a run of its own"),
    }
}
