//! `leeway status`: shows the loaded versions, the deployments and the numbers of a running server.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use comfy_table::Table;

use super::client::{Client, Unreachable};
use super::exit::Exit;
use super::metrics_text::Metrics;
use super::replicas::{problems_of_replicas, write_replicas};
use super::servers::{ServerArgs, Servers, Title};
use super::table_cells::{align_right, cell, milliseconds, seconds, table, text_of, words};
use super::terminal;
use super::version_numbers::{ShadowNumbers, VersionNumbers};
use crate::api::admin::{ModelStatus, Overview, VersionState, VersionStatus};
use crate::identity::ModelName;
use crate::model::{BatchingStatus, Independence};
use crate::traffic::Shadow;

/// Timeout of a request of `--check`.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Exit code of `--check` if something is wrong.
const WRONG: u8 = 1;
/// Exit code of `--check` if the server cannot be asked.
const NOT_ASKED: u8 = 2;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Show only this model
    model: Option<ModelName>,

    /// Print one line for each problem, and exit with 0 if there is none, 1 if something is refused, altered, not served, not
    /// ready or has drifted, and 2 if the server cannot be asked
    #[arg(long, conflicts_with = "json")]
    check: bool,

    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(StatusArgs { model, check, server }: StatusArgs) -> Result<()> {
    if check {
        let servers = server.connection.servers_within(CHECK_TIMEOUT).map_err(|error| Exit::with(NOT_ASKED, &error))?;
        return check_all(&servers, model.as_ref());
    }
    server.each(Title::Above, |client| match &model {
        Some(model) => {
            let (answer, numbers) = (client.get(&format!("/models/{model}"))?, numbers_of(client)?);
            answer.show(server.json, |out, model: ModelStatus| write_model(out, &model, Some(&numbers)))
        }
        None => {
            let (answer, numbers) = (client.get("/models")?, numbers_of(client)?);
            answer.show(server.json, |out, overview: Overview| {
                for (index, model) in overview.models.iter().enumerate() {
                    if index > 0 {
                        writeln!(out)?;
                    }
                    write_model(out, model, Some(&numbers))?;
                }
                write_replicas(out, &overview.replicas)?;
                write_problems(out, &overview)
            })
        }
    })
}

/// Asks a server for the numbers of its versions.
fn numbers_of(client: &Client) -> Result<Vec<VersionNumbers>, Unreachable> {
    Ok(VersionNumbers::all(&Metrics::parse(&client.read("/metrics")?.text)))
}

// ===== --check =====

/// Checks all servers, and prints their problems.
fn check_all(servers: &Servers, only: Option<&ModelName>) -> Result<()> {
    let (mut out, mut code) = (terminal::stdout(), None);
    for client in servers.all() {
        let server = if servers.all().len() > 1 { format!("{}: ", client.address()) } else { String::new() };
        match problems(client, only) {
            Ok(Checked { models, versions, problems }) if problems.is_empty() => {
                writeln!(out, "{server}ok: {}, {}", counted(models, "model"), counted(versions, "version"))?;
            }
            Ok(Checked { problems, .. }) => {
                for problem in problems {
                    writeln!(out, "{server}problem: {problem}")?;
                }
                code = code.max(Some(WRONG));
            }
            Err(error) => {
                writeln!(out, "{server}problem: {error:#}")?;
                code = code.max(Some(NOT_ASKED));
            }
        }
    }
    code.map_or(Ok(()), |code| Err(Exit::silently(code)))
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// State of a server, for `--check`.
struct Checked {
    models: usize,
    versions: usize,
    problems: Vec<String>,
}

/// Asks a server for everything that is wrong.
fn problems(client: &Client, only: Option<&ModelName>) -> Result<Checked> {
    let mut problems: Vec<String> = client.read("/readyz")?.problem().into_iter().collect();
    let overview: Overview = client.get("/models")?.parsed()?;
    let numbers = numbers_of(client)?;
    let models: Vec<&ModelStatus> =
        overview.models.iter().filter(|model| only.is_none_or(|only| model.model == *only)).collect();
    match only {
        Some(only) if models.is_empty() => problems.push(format!("there is no model {only}")),
        Some(_) => {}
        None => {
            problems.extend(overview.problems.iter().cloned());
            problems.extend(problems_of_replicas(&overview.replicas));
        }
    }
    for model in &models {
        problems.extend(problems_of(model));
        let of_model = numbers.iter().filter(|version| version.model == model.model.as_str());
        problems.extend(of_model.filter(|version| !version.drifted.is_empty()).map(|found| {
            format!(
                "{} version {}: the requests have drifted: {}",
                found.model,
                found.version,
                found.drifted.join(", ")
            )
        }));
    }
    let versions = models.iter().map(|model| model.versions.len()).sum();
    Ok(Checked { models: models.len(), versions, problems })
}

/// Returns everything that is wrong with a model.
fn problems_of(model: &ModelStatus) -> Vec<String> {
    let name = &model.model;
    let unserved = model.unserved.as_ref().map(|problem| format!("{name} is not served: {problem}"));
    let of_model = [&model.config_problem, &model.deployment_problem, &model.unwritten];
    let of_model = of_model.into_iter().flatten().map(|problem| format!("{name}: {problem}"));
    let of_versions = model.versions.iter().flat_map(|version| {
        let refused = match &version.state {
            VersionState::Refused { problem, .. } => Some(format!("refused: {problem}")),
            _ => None,
        };
        let altered = version.altered.as_ref().map(|difference| format!("altered on disk: {difference}"));
        let reload = version.reload_problem.as_ref().map(|problem| format!("a reload failed: {problem}"));
        let number = version.version;
        [refused, altered, reload]
            .into_iter()
            .flatten()
            .map(move |problem| format!("{name} version {number}: {problem}"))
    });
    unserved.into_iter().chain(of_model).chain(of_versions).collect()
}

// ===== tables =====

pub(super) fn write_problems(out: &mut dyn Write, overview: &Overview) -> Result<()> {
    for problem in &overview.problems {
        writeln!(out, "\nproblem: {problem}")?;
    }
    Ok(())
}

/// Writes a model and its versions, with their numbers if they are known.
pub(super) fn write_model(out: &mut dyn Write, model: &ModelStatus, numbers: Option<&[VersionNumbers]>) -> Result<()> {
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
    writeln!(out, "{}", text_of(&versions(model, numbers.unwrap_or_default())))?;
    write_shadow(out, model, numbers.unwrap_or_default())?;
    if let Some(problem) = &model.unserved {
        writeln!(out, "problem: NOT SERVED: {problem}")?;
    }
    for problem in [&model.config_problem, &model.deployment_problem, &model.unwritten].into_iter().flatten() {
        writeln!(out, "problem: {problem}")?;
    }
    for version in &model.versions {
        write_facts(out, version)?;
        write_remarks(out, version)?;
    }
    Ok(())
}

/// Writes a line about shadow traffic, if there is any.
fn write_shadow(out: &mut dyn Write, model: &ModelStatus, numbers: &[VersionNumbers]) -> Result<()> {
    let Some(Shadow { version, percent }) = model.deployment.shadow else { return Ok(()) };
    write!(out, "shadow: version {version} gets copies of {percent} of the requests")?;
    let is_it = |found: &&VersionNumbers| found.model == model.model.as_str() && found.version == version.to_string();
    match numbers.iter().find(is_it).map(|found| &found.shadow) {
        None => write!(out, ", but is not loaded")?,
        Some(ShadowNumbers { agreed, disagreed, .. }) if agreed + disagreed == 0.0 => {
            write!(out, "; nothing is compared yet")?;
        }
        Some(ShadowNumbers { agreed, disagreed, only_it_failed, not_run }) => {
            let (compared, share) = (agreed + disagreed, 100.0 * agreed / (agreed + disagreed));
            write!(
                out,
                "; {share:.2}% of {compared:.0} predictions agree, {only_it_failed:.0} requests failed only there"
            )?;
            if *not_run > 0.0 {
                write!(out, ", {not_run:.0} copies were not run")?;
            }
        }
    }
    Ok(writeln!(out)?)
}

/// Returns the versions of a model as a table.
fn versions(model: &ModelStatus, numbers: &[VersionNumbers]) -> Table {
    let header = ["version", "traffic", "state", "requests", "errors", "shed", "P95 ms", "drift", "accuracy"];
    let mut table = table(header);
    for version in &model.versions {
        let number = version.version.to_string();
        let numbers = numbers.iter().find(|found| found.model == model.model.as_str() && found.version == number);
        let count = |count: fn(&VersionNumbers) -> f64| {
            numbers.map_or_else(String::new, |found| format!("{:.0}", count(found)))
        };
        table.add_row([
            number,
            version.traffic_percent.to_string(),
            state(version),
            count(|found| found.requests),
            count(|found| found.errors),
            count(|found| found.shed),
            numbers.map_or_else(String::new, |found| milliseconds(found.p95_of_requests())),
            numbers.map_or_else(String::new, |found| found.drift.shown()),
            numbers.map_or_else(String::new, VersionNumbers::quality),
        ]);
    }
    align_right(&mut table, [0, 1, 3, 4, 5, 6, 8]);
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

/// Writes a line about the files, the origin and the deployment of a version.
fn write_facts(out: &mut dyn Write, version: &VersionStatus) -> Result<()> {
    let manifest = version.manifest.as_deref();
    let metrics = manifest.into_iter().flat_map(|manifest| &manifest.metrics);
    // `{:?}` writes 1 as 1.0, like the JSON.
    let metrics = metrics.map(|(name, value)| format!("{} {value:?}", cell(name)));
    let facts = [
        version.sha256.as_ref().map(|sha256| format!("sha256 {}", sha256.short())),
        manifest
            .and_then(|manifest| manifest.trained_at.as_ref())
            .map(|date| format!("trained {}", cell(date.as_str()))),
        version.batching.as_ref().map(|found| format!("batching {}", batching(found))),
        version.deployed_at.map(|at| format!("deployed since {}", seconds(at))),
    ];
    let facts: Vec<String> = facts.into_iter().flatten().chain(metrics).collect();
    if !facts.is_empty() {
        writeln!(out, "version {}: {}", version.version, facts.join(", "))?;
    }
    Ok(())
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
