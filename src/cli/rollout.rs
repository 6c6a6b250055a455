//! `leeway rollout`: starts a rollout that judges itself, shows it, and handles it.

use std::io::Write;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};

use super::answer::Answer;
use super::servers::{ServerArgs, Servers};
use super::table_cells::{cell, seconds, table, text_of};
use super::terminal;
use crate::api::rollout::{Rollout, RolloutIntervention, RolloutRequest, RolloutState, Rollouts};
use crate::config::{OnTimeout, this_user};
use crate::identity::{ModelName, Version};
use crate::traffic::Share;

/// Interval of looking at a rollout with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct RolloutArgs {
    /// The model
    model: ModelName,

    /// The version to roll out; without one, the current or last rollout is shown
    version: Option<Version>,

    #[command(flatten)]
    plan: PlanArgs,

    #[command(flatten)]
    act: ActArgs,

    /// Show the past rollouts of the model
    #[arg(long, conflicts_with = "version")]
    history: bool,

    /// Print the decisions until the rollout ends; the exit code is 0 only if the version was promoted
    #[arg(long, conflicts_with_all = ["history", "json"])]
    watch: bool,

    /// Reason, for the history
    #[arg(long, default_value = "")]
    reason: String,

    /// Author, for the history (default: user@host)
    #[arg(long)]
    by: Option<String>,

    #[command(flatten)]
    server: ServerArgs,
}

/// Steps and times; what is not given is that of `[rollout]` in the `model.toml`.
#[derive(Debug, Args)]
struct PlanArgs {
    /// Shares of the version in percent; the last one is 100 [default: rollout.steps, or 1,5,25,50,100]
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', value_parser = percent, requires = "version")]
    steps: Option<Vec<Share>>,

    /// Minimum time of each step, as in 10m or 90s [default: rollout.step_ms, or 10m]
    #[arg(long, value_name = "TIME", value_parser = milliseconds, requires = "version")]
    every: Option<u64>,

    /// Maximum time of each step [default: rollout.timeout_ms, or 24h]
    #[arg(long, value_name = "TIME", value_parser = milliseconds, requires = "version")]
    timeout: Option<u64>,

    /// Action at the end of the maximum time [default: rollout.on_timeout, or hold]
    #[arg(long, value_enum, value_name = "ACTION", requires = "version")]
    on_timeout: Option<AfterTimeout>,

    /// Share of the stable version's requests that the version also gets as shadow traffic, in percent
    #[arg(long, value_name = "PERCENT", value_parser = percent, requires = "version")]
    shadow: Option<Share>,

    /// Start only if the model is at this generation
    #[arg(long, value_name = "GENERATION", requires = "version")]
    if_generation: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AfterTimeout {
    /// Pause: the share stays as it is
    Hold,
    /// Give all requests to the stable version
    RollBack,
}

/// Actions on the current rollout.
#[derive(Debug, Args)]
#[group(multiple = false, conflicts_with_all = ["version", "history"])]
struct ActArgs {
    /// Pause the rollout: the share stays as it is
    #[arg(long)]
    pause: bool,

    /// Resume the rollout
    #[arg(long)]
    resume: bool,

    /// End the rollout, and give all requests to the stable version
    #[arg(long)]
    abort: bool,

    /// Make the version stable at once
    #[arg(long)]
    promote: bool,
}

pub(super) fn run(args: &RolloutArgs) -> Result<()> {
    let servers = args.server.connection.servers()?;
    let path = format!("/models/{}", args.model);
    if args.history {
        let answer: Answer<Rollouts> = servers.get(&format!("{path}/rollouts?limit=100"))?;
        return answer.show(args.server.json, |out, Rollouts { rollouts }| show_history(out, &rollouts));
    }
    // A rollout is one of the whole fleet, so one server is enough.
    let (by, reason) = (args.by.clone().unwrap_or_else(this_user), args.reason.clone());
    let answer: Answer<Rollout> = match (args.version, args.act.name()) {
        (Some(version), _) => {
            let request = args.plan.request(version, by, reason);
            servers.first(|client| client.post(&format!("{path}/rollout"), &request))?
        }
        (None, Some(action)) => {
            let intervention = RolloutIntervention { by, reason };
            servers.first(|client| client.post(&format!("{path}/rollout/{action}"), &intervention))?
        }
        (None, None) => servers.get(&format!("{path}/rollout"))?,
    };
    match args.watch {
        true => watch(&servers, &path, &answer.parsed()?),
        false => answer.show(args.server.json, |out, rollout| show(out, &rollout)),
    }
}

impl ActArgs {
    /// Returns the last part of the path of the action.
    fn name(&self) -> Option<&'static str> {
        let all = [(self.pause, "pause"), (self.resume, "resume"), (self.abort, "abort"), (self.promote, "promote")];
        all.into_iter().find(|(is_asked, _)| *is_asked).map(|(_, name)| name)
    }
}

impl PlanArgs {
    fn request(&self, version: Version, by: String, reason: String) -> RolloutRequest {
        RolloutRequest {
            version: Some(version),
            steps: self.steps.clone(),
            step_ms: self.every,
            timeout_ms: self.timeout,
            on_timeout: self.on_timeout.map(|action| match action {
                AfterTimeout::Hold => OnTimeout::Hold,
                AfterTimeout::RollBack => OnTimeout::RollBack,
            }),
            shadow: self.shadow,
            by,
            reason,
            if_generation: self.if_generation,
        }
    }
}

/// Prints the decisions of a rollout as they are made, until it ends.
fn watch(servers: &Servers, path: &str, first: &Rollout) -> Result<()> {
    let out = &mut terminal::stdout();
    let (mut shown, mut explained) = (0, String::new());
    let mut rollout = first.clone();
    loop {
        for event in rollout.events.iter().skip(shown) {
            let (at, share) = (seconds(event.at), event.share);
            writeln!(out, "{at}  {}  {share}  {}: {}", event.action.name(), cell(&event.by), cell(&event.reason))?;
        }
        shown = rollout.events.len().max(shown);
        if !rollout.state.is_active() {
            break;
        }
        if rollout.explanation != explained && shown > 0 {
            writeln!(out, "    {}", cell(&rollout.explanation))?;
            explained.clone_from(&rollout.explanation);
        }
        thread::sleep(WATCH_INTERVAL);
        rollout = servers.get::<Rollout>(&format!("{path}/rollout"))?.parsed()?;
        if rollout.number != first.number {
            bail!("another rollout of the model was started; leeway rollout {} shows it", first.model);
        }
    }
    match rollout.state {
        RolloutState::Promoted => Ok(()),
        state => bail!("version {} of model {} was not promoted: {}", rollout.version, rollout.model, state.name()),
    }
}

fn show(out: &mut dyn Write, rollout: &Rollout) -> Result<()> {
    let Rollout { model, number, version, stable, state, explanation, plan, step, .. } = rollout;
    let share = plan.steps.get(*step).copied().unwrap_or(Share::ALL);
    let steps: Vec<String> = plan.steps.iter().map(Share::to_string).collect();
    let at = if state.is_active() { format!(" at {share}") } else { String::new() };
    writeln!(out, "{model}: version {version} instead of {stable}, rollout {number}: {}{at}", state.name())?;
    writeln!(out, "steps {}, each at least {}", steps.join(" → "), duration(plan.step_ms))?;
    writeln!(out, "{}", cell(explanation))?;
    writeln!(out)?;
    let mut guardrails = table(["guardrail", "verdict", "worse", "of", "not worse", "of", "counts"]);
    for found in &rollout.guardrails {
        guardrails.add_row([
            found.name.clone(),
            found.verdict.name().to_owned(),
            number_of(found.worse),
            number_of(found.worse_at),
            number_of(found.not_worse),
            number_of(found.not_worse_at),
            format!(
                "{}/{} (stable {}/{})",
                found.candidate.events, found.candidate.trials, found.stable.events, found.stable.trials
            ),
        ]);
    }
    writeln!(out, "{}", text_of(&guardrails))?;
    writeln!(out)?;
    let mut events = table(["at", "action", "share", "by", "reason"]);
    for event in &rollout.events {
        let (at, share) = (seconds(event.at), event.share.to_string());
        events.add_row([at, event.action.name().to_owned(), share, cell(&event.by), cell(&event.reason)]);
    }
    Ok(writeln!(out, "{}", text_of(&events))?)
}

fn show_history(out: &mut dyn Write, rollouts: &[Rollout]) -> Result<()> {
    let mut table = table(["rollout", "started", "ended", "version", "instead of", "state", "explanation"]);
    for rollout in rollouts {
        table.add_row([
            rollout.number.to_string(),
            seconds(rollout.started_at),
            rollout.ended_at.map(seconds).unwrap_or_default(),
            rollout.version.to_string(),
            rollout.stable.to_string(),
            rollout.state.name().to_owned(),
            cell(&rollout.explanation),
        ]);
    }
    Ok(writeln!(out, "{}", text_of(&table))?)
}

/// Returns evidence with few digits.
fn number_of(evidence: f64) -> String {
    if evidence >= 1e6 { format!("{evidence:.0e}") } else { format!("{evidence:.1}") }
}

/// Returns milliseconds as the shortest exact duration.
fn duration(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let unit = units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

fn percent(text: &str) -> Result<Share> {
    let number: f64 = text.trim().trim_end_matches('%').parse().map_err(|_| anyhow!("{text:?} is not a number"))?;
    Ok(Share::from_percent(number)?)
}

/// Reads a duration such as `10m`, `90s`, `500ms`, `24h` or `7d`.
fn milliseconds(text: &str) -> Result<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => bail!("expected a number and a unit (ms, s, m, h or d), as in 10m"),
    };
    let number: u64 = digits.trim().parse().map_err(|_| anyhow!("{digits:?} is not a whole number"))?;
    number.checked_mul(unit).ok_or_else(|| anyhow!("{text} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, expected) in
            [("10m", 600_000), ("90s", 90_000), ("500ms", 500), ("24h", 86_400_000), ("7d", 604_800_000)]
        {
            assert_eq!(milliseconds(text).unwrap(), expected);
            assert_eq!(milliseconds(&duration(expected)).unwrap(), expected);
        }
        for text in ["10", "m", "1.5h", "", "99999999999999999999s", "10 parsecs"] {
            assert!(milliseconds(text).is_err(), "{text}");
        }
    }
}
