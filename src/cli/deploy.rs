//! `leeway status | history | traffic | promote | rollback | load | unload | reload`: what is deployed, and changing it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::client::Client;
use super::settings::{SettingsArgs, one_thread};
use super::terminal;
use crate::config::this_user;
use crate::deploy::{Appended, ChangeNote, Deployment, Journal, Transition};
use crate::identity::{ModelName, Version, printable};
use crate::repository::VerifiedVersion;
use crate::state;
use crate::traffic::{Share, TrafficSplit};

/// Maximum length of a text in a cell of a table, in bytes.
const MAX_CELL_BYTES: usize = 256;

/// Address of the server, and format of its answer.
#[derive(Debug, Args)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    pub(super) settings: SettingsArgs,

    /// Print the server's JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Only this model
    model: Option<ModelName>,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// The model
    model: ModelName,

    /// Number of deployments, the newest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,

    #[command(flatten)]
    server: ServerArgs,
}

/// Arguments of every change.
#[derive(Debug, Args)]
pub(super) struct ChangeArgs {
    /// Reason, for the history
    #[arg(long, default_value = "")]
    reason: String,

    /// Author, for the history; without it, user@host
    #[arg(long)]
    by: Option<String>,

    /// Change only if the model is at this generation
    #[arg(long, value_name = "GENERATION")]
    if_generation: Option<u64>,

    /// Change the journal itself, for a server that is not running
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
pub(super) struct TrafficArgs {
    /// The model
    model: ModelName,

    /// Versions and their shares in percent, which come to 100
    #[arg(required = true, value_name = "VERSION=PERCENT", value_parser = share)]
    shares: Vec<(Version, Share)>,

    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    /// The model
    model: ModelName,

    /// The version that is to be the stable one
    version: Version,

    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The model
    model: ModelName,

    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
pub(super) struct VersionArgs {
    /// The model
    model: ModelName,

    /// The version
    version: Version,

    #[command(flatten)]
    server: ServerArgs,
}

fn share(text: &str) -> Result<(Version, Share)> {
    let (version, percent) = text.split_once('=').ok_or_else(|| anyhow!("expected VERSION=PERCENT, as in 2=10"))?;
    let percent: f64 = percent.trim_end_matches('%').parse().map_err(|_| anyhow!("{percent:?} is not a number"))?;
    Ok((version.parse()?, Share::from_percent(percent)?))
}

// ===== looking =====

pub(super) fn status(StatusArgs { model, server }: StatusArgs) -> Result<()> {
    let client = Client::new(&server.settings.load()?);
    let answer = match &model {
        Some(model) => client.get(&format!("/models/{model}"))?,
        None => client.get("/models")?,
    };
    show(server.json, &answer, |out| {
        let one = std::slice::from_ref(&answer);
        let models = answer["models"].as_array().map_or(one, Vec::as_slice);
        for (index, model) in models.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write_model(out, model)?;
        }
        write_problems(out, &answer)?;
        Ok(())
    })
}

fn write_problems(out: &mut dyn Write, answer: &Value) -> Result<()> {
    for problem in answer["problems"].as_array().into_iter().flatten() {
        writeln!(out, "\nproblem: {}", text(problem))?;
    }
    Ok(())
}

fn write_model(out: &mut dyn Write, model: &Value) -> Result<()> {
    let deployment = &model["deployment"];
    writeln!(
        out,
        "{}: generation {}, stable version {}, {} by {} at {}",
        text(&model["model"]),
        deployment["generation"],
        deployment["stable"],
        text(&deployment["action"]),
        cell(&deployment["by"]),
        seconds(&deployment["at"])
    )?;
    let mut table =
        table(["version", "traffic", "state", "batching", "sha256", "trained", "metrics", "deployed since"]);
    for version in model["versions"].as_array().into_iter().flatten() {
        let manifest = &version["manifest"];
        let metrics: Vec<String> = manifest["metrics"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{} {value}", printable(name, MAX_CELL_BYTES)))
            .collect();
        let stable = if version["stable"] == true { " (stable)" } else { "" };
        table.add_row([
            format!("{}{stable}", version["version"]),
            format!("{}%", version["traffic_percent"]),
            state(version),
            batching(version),
            text(&version["sha256"]).chars().take(12).collect(),
            cell(&manifest["trained_at"]),
            metrics.join(", "),
            seconds(&version["deployed_at"]),
        ]);
    }
    writeln!(out, "{table}")?;
    for (member, what) in
        [("unserved", "NOT SERVED: "), ("config_problem", ""), ("deployment_problem", ""), ("unwritten", "")]
    {
        if let Some(problem) = model[member].as_str() {
            writeln!(out, "problem: {what}{problem}")?;
        }
    }
    for version in model["versions"].as_array().into_iter().flatten() {
        let problems = [
            ("problem", "refused"),
            ("reload_problem", "goes on as it was loaded; not loaded anew"),
            ("altered", "altered"),
        ];
        for (member, what) in problems {
            if version[member].is_string() {
                writeln!(out, "version {}: {what}: {}", version["version"], text(&version[member]))?;
            }
        }
        let batching = &version["batching"];
        if ["dependent", "unknown"].iter().any(|finding| batching["rows"]["finding"] == *finding) {
            let (number, explanation) = (&version["version"], text(&batching["explanation"]));
            match (batching["on"].as_bool(), batching["rows"]["finding"] == "dependent") {
                (Some(true), true) => {
                    writeln!(out, "version {number}: answers depend on who else asks: {explanation}")?;
                }
                (Some(true), false) => writeln!(out, "version {number}: requests share runs: {explanation}")?,
                _ => writeln!(out, "version {number}: each request is a run of its own: {explanation}")?,
            }
        }
        for remark in version["remarks"].as_array().into_iter().flatten() {
            writeln!(out, "version {}: note: {}", version["version"], text(remark))?;
        }
    }
    Ok(())
}

fn batching(version: &Value) -> String {
    let batching = &version["batching"];
    match batching["on"].as_bool() {
        Some(true) => "on".to_owned(),
        Some(false) => format!("off ({})", text(&batching["rows"]["finding"]).replace('_', " ")),
        None => String::new(),
    }
}

fn state(version: &Value) -> String {
    match (text(&version["state"]).as_str(), version["altered"].is_string()) {
        (_, true) => "ALTERED on disk".to_owned(),
        ("loading", _) => format!("loading ({})", text(&version["step"])),
        ("refused", _) => format!("refused ({})", text(&version["fault"])),
        (state, _) => state.to_owned(),
    }
}

pub(super) fn history(HistoryArgs { model, limit, server }: HistoryArgs) -> Result<()> {
    let answer = Client::new(&server.settings.load()?).get(&format!("/models/{model}/history?limit={limit}"))?;
    show(server.json, &answer, |out| {
        let mut table = table(["generation", "at", "action", "stable", "traffic", "by", "reason"]);
        for deployment in answer["deployments"].as_array().into_iter().flatten() {
            table.add_row([
                deployment["generation"].to_string(),
                seconds(&deployment["at"]),
                text(&deployment["action"]),
                deployment["stable"].to_string(),
                traffic_of(&deployment["traffic"]),
                cell(&deployment["by"]),
                cell(&deployment["reason"]),
            ]);
        }
        Ok(writeln!(out, "{table}")?)
    })
}

// ===== changing =====

pub(super) fn traffic(TrafficArgs { model, shares, change }: TrafficArgs) -> Result<()> {
    let mut once = BTreeSet::new();
    if let Some((version, _)) = shares.iter().find(|(version, _)| !once.insert(*version)) {
        bail!("version {version} is there twice");
    }
    let split = TrafficSplit::new(shares)?;
    let body = json!({ "shares": split });
    change.carry_out(&model, Transition::Traffic(split), |client, note| {
        client.put(&format!("/models/{model}/traffic"), &with(body, note))
    })
}

pub(super) fn promote(PromoteArgs { model, version, change }: PromoteArgs) -> Result<()> {
    change.carry_out(&model, Transition::Promote(version), |client, note| {
        client.post(&format!("/models/{model}/promote"), &with(json!({ "version": version }), note))
    })
}

pub(super) fn rollback(RollbackArgs { model, change }: RollbackArgs) -> Result<()> {
    change.carry_out(&model, Transition::Rollback, |client, note| {
        client.post(&format!("/models/{model}/rollback"), &note)
    })
}

fn with(mut body: Value, note: Value) -> Value {
    if let (Value::Object(body), Value::Object(note)) = (&mut body, note) {
        body.extend(note);
    }
    body
}

impl ChangeArgs {
    /// Asks the server, or does it to the journal itself, and says what came of it.
    fn carry_out(
        self,
        model: &ModelName,
        wish: Transition,
        ask: impl FnOnce(&Client, Value) -> Result<Value>,
    ) -> Result<()> {
        let ChangeArgs { reason, by, if_generation, offline, server } = self;
        let (config, by) = (server.settings.load()?, by.unwrap_or_else(this_user));
        let answer = if offline {
            let note = ChangeNote { by, reason, at: Timestamp::now() };
            one_thread()?.block_on(offline_change(&config, model, wish, &note, if_generation))?
        } else {
            ask(&Client::new(&config), json!({ "by": by, "reason": reason, "if_generation": if_generation }))?
        };
        show(server.json, &answer, |out| {
            let deployment = &answer["deployment"];
            let (before, now) = (traffic_of(&answer["before"]), traffic_of(&deployment["traffic"]));
            let stable = &deployment["stable"];
            let generation = &deployment["generation"];
            if answer["changed"] == true {
                writeln!(out, "{model}: {before} -> {now}, stable version {stable}, generation {generation}")?;
            } else {
                writeln!(out, "{model}: {now} already, stable version {stable}, generation {generation}")?;
            }
            if let Some(problem) = answer["unwritten"].as_str() {
                writeln!(out, "NOT WRITTEN YET: {problem}")?;
            }
            Ok(())
        })
    }
}

/// Writes to the journal what the next server to start will serve.
async fn offline_change(
    config: &crate::config::Config,
    model: &ModelName,
    wish: Transition,
    note: &ChangeNote,
    if_generation: Option<u64>,
) -> Result<Value> {
    let journal = state::open_journal(&config.state.url).await?;
    let latest = journal.history(model, u64::MAX, 1).await?;
    let present = latest.first().ok_or_else(|| anyhow!("the journal has no model {model} (state.url)"))?;
    if if_generation.is_some_and(|expected| expected != present.generation) {
        bail!("model {model} is at generation {}", present.generation);
    }
    let before: BTreeMap<Version, Share> = present.traffic.shares().collect();
    match present.after(&wish, note)? {
        None => Ok(json!({ "changed": false, "deployment": present, "before": before })),
        Some(next) => {
            for version in next.serving_versions() {
                let folder = config.repository.path.join(model.as_str()).join(version.to_string());
                VerifiedVersion::read(&folder).map_err(|refusal| {
                    anyhow!("version {version} could not be served, so nothing was changed: {refusal}")
                })?;
            }
            append(&*journal, &next, before).await
        }
    }
}

async fn append(journal: &dyn Journal, next: &Deployment, before: BTreeMap<Version, Share>) -> Result<Value> {
    match journal.append(next).await? {
        Appended::Written => Ok(json!({ "changed": true, "deployment": next, "before": before })),
        Appended::Lost(_) => bail!("model {} was changed by somebody else at the same time; look again", next.model),
    }
}

pub(super) fn load(VersionArgs { model, version, server }: VersionArgs) -> Result<()> {
    act_on_version(&model, version, &server, "load")
}

pub(super) fn unload(VersionArgs { model, version, server }: VersionArgs) -> Result<()> {
    act_on_version(&model, version, &server, "unload")
}

fn act_on_version(model: &ModelName, version: Version, server: &ServerArgs, action: &str) -> Result<()> {
    let client = Client::new(&server.settings.clone().load()?);
    let answer = client.post(&format!("/models/{model}/versions/{version}/{action}"), &json!({}))?;
    show(server.json, &answer, |out| Ok(writeln!(out, "{model} version {version}: {}", state(&answer))?))
}

pub(super) fn reload(server: ServerArgs) -> Result<()> {
    let answer = Client::new(&server.settings.load()?).post("/reload", &json!({}))?;
    show(server.json, &answer, |out| {
        for model in answer["models"].as_array().into_iter().flatten() {
            write_model(out, model)?;
        }
        write_problems(out, &answer)?;
        for loading in answer["loading"].as_array().into_iter().flatten() {
            writeln!(out, "still loading: {}", text(loading))?;
        }
        Ok(())
    })
}

// ===== showing =====

pub(super) fn show(as_json: bool, answer: &Value, for_people: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if as_json { Ok(writeln!(std::io::stdout(), "{answer:#}")?) } else { for_people(&mut terminal::stdout()) }
}

pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    table
}

/// `1=90 2=10`
fn traffic_of(shares: &Value) -> String {
    let each = shares.as_object().into_iter().flatten().map(|(version, share)| format!("{version}={share}"));
    each.collect::<Vec<_>>().join(" ")
}

/// A text without quotes; nothing for nothing.
pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The text of a cell of a table, escaped so that its line breaks do not become rows.
pub(super) fn cell(value: &Value) -> String {
    printable(value.as_str().unwrap_or_default(), MAX_CELL_BYTES).into_owned()
}

/// A timestamp without its fraction.
fn seconds(value: &Value) -> String {
    let at = value.as_str().and_then(|at| at.parse::<Timestamp>().ok());
    at.map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}
