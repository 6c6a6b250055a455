//! `leeway baseline learn`: learns what is usual by time of day from the prediction log, for an operator to accept.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use jiff::{SignedDuration, Timestamp, Unit};

use super::log::without_path;
use super::log_window::moment;
use super::settings::RepositoryArgs;
use super::table_cells::{align_right, cell, table, text_of, words};
use super::terminal;
use crate::authoring::LogWindow;
use crate::config::{Config, ModelConfig, this_user};
use crate::identity::{ModelName, Version};
use crate::monitor::{
    Comparison, DayKinds, HourlyCounters, LearnedProfile, MIN_SLOT_VALUES, Profile, ProfileOrigin, RECONSTRUCTION_ERROR,
};
use crate::prediction_log::LogReader;
use crate::repository::{CONFIG_FILE, VerifiedVersion, model_in_folder, take_back_profile, write_profile};

#[derive(Debug, Args)]
pub(super) struct LearnArgs {
    /// Name or folder of the model
    model: PathBuf,

    /// The version [default: the highest]
    version: Option<Version>,

    /// Window of the prediction log to learn from: last-week or last-day, up to the last full hour, or START..END, as in
    /// 2026-11-20..2026-11-27 (UTC) or 14d..7d (before now)
    #[arg(long, value_name = "WINDOW", required_unless_present = "undo")]
    from: Option<String>,

    /// Folder of the prediction log [default: prediction_log.path]
    #[arg(long, value_name = "FOLDER")]
    log: Option<PathBuf>,

    /// Time zone of the hours: UTC, an offset as in +01:00, or a name as in Europe/Amsterdam
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    time_zone: String,

    /// Learn only the shares over all hours, not by time of day
    #[arg(long)]
    shares_only: bool,

    /// Accept without being asked, for scripts
    #[arg(long)]
    yes: bool,

    /// Take back the learned profile: the one before is used again, or else that of the training data
    #[arg(long, conflicts_with_all = ["from", "shares_only", "log"])]
    undo: bool,

    /// Reason, which is kept with the profile
    #[arg(long, default_value = "")]
    reason: String,

    /// Author, who is kept with the profile (default: user@host)
    #[arg(long)]
    by: Option<String>,

    #[command(flatten)]
    settings: RepositoryArgs,
}

/// Maximum number of features that are listed.
const MOST_DIFFERENT: usize = 10;
/// Number of hours of a day.
const HOURS: usize = 24;

/// A version whose profile is learned.
struct Target {
    /// The folder of the model.
    folder: PathBuf,
    name: ModelName,
    version: Version,
}

pub(super) fn run(args: LearnArgs) -> Result<()> {
    let config = args.settings.load()?;
    let target = Target::find(&args, &config)?;
    let Target { folder, name, version } = &target;
    let mut out = terminal::stdout();
    if args.undo {
        let (kept, former) = take_back_profile(folder, *version, Timestamp::now())?;
        let now = if former.is_some() { "the one before is used again" } else { "there was none before" };
        writeln!(out, "{name} {version}: the learned profile is taken back; {now}. It is kept as {}.", kept.display())?;
        return after_a_change(&mut out);
    }
    let refused = |refusal| anyhow!("{}: {refusal}", folder.join(version.to_string()).display());
    let verified = VerifiedVersion::read(&folder.join(version.to_string())).map_err(refused)?;
    let window = window_of(args.from.as_deref().unwrap_or_default(), Timestamp::now())?;
    let log = args.log.clone().or(config.prediction_log.path).ok_or_else(without_path)?;
    let log = LogReader::open(&log, name, Some(*version), window)?;
    let (counters, absent) = target.count(&args, &verified, &log)?;
    let (rows, _) = counters.rows();
    let (since, until) = (show(window.since), show(window.until));
    if rows == 0 {
        bail!("the log has no predictions of {name} {version} from {since} to {until}");
    }
    let profile = profile_without(&counters, &absent, &verified, args.shares_only);

    writeln!(out, "{name} {version}: {rows} rows in the log from {since} to {until}")?;
    write_hours(&mut out, &profile)?;
    let mut differences = counters.differences();
    differences.retain(|(name, _)| !absent.contains(name));
    write_differences(&mut out, &profile, &differences)?;
    if !absent.is_empty() {
        let names: Vec<_> = absent.iter().map(|name| cell(name)).collect();
        writeln!(out, "Not in the log, and judged as before: {}.", names.join(", "))?;
    }
    accept(&mut out, args.yes)?;
    let origin = ProfileOrigin {
        since: window.since.unwrap_or_default(),
        until: window.until.unwrap_or_default(),
        rows,
        by: args.by.unwrap_or_else(this_user),
        reason: args.reason,
        at: Timestamp::now(),
    };
    let learned = LearnedProfile::new(verified.identity.to_string(), origin, profile);
    let former = write_profile(folder, *version, &learned)?;
    writeln!(out, "The profile is accepted.")?;
    if let Some(former) = former {
        writeln!(out, "The former one is kept as {}.", former.display())?;
    }
    after_a_change(&mut out)
}

impl Target {
    fn find(args: &LearnArgs, config: &Config) -> Result<Target> {
        let remedy = "a profile is kept beside the model.toml of a repository in a folder; for one in an object store, give the times of \
                      the training data: `leeway add --timestamp-column`";
        let folder = match args.model.is_dir() {
            true => args.model.clone(),
            false => config.repository.path.folder(remedy)?.join(&args.model),
        };
        let folder = folder.canonicalize().map_err(|error| anyhow!("{}: {error}", folder.display()))?;
        let name: ModelName = folder.file_name().unwrap_or_default().to_string_lossy().parse()?;
        let versions = model_in_folder(&folder)?.versions;
        match args.version.or_else(|| versions.last().copied()) {
            Some(version) if versions.contains(&version) => Ok(Target { folder, name, version }),
            Some(version) => {
                let known: Vec<String> = versions.iter().map(Version::to_string).collect();
                bail!("{}: there is no version {version}; versions: {}", folder.display(), known.join(", "))
            }
            None => bail!("{}: there is no version", folder.display()),
        }
    }

    /// Counts the rows of the log. Also returns the features that the log does not have.
    fn count(
        &self,
        args: &LearnArgs,
        verified: &VerifiedVersion,
        log: &LogReader,
    ) -> Result<(HourlyCounters, BTreeSet<String>)> {
        let Some(baseline) = &verified.baseline else {
            let Target { name, version, .. } = self;
            bail!("{name} {version} has no baseline, whose bins are used; leeway add --baseline-data makes one");
        };
        let settings = ModelConfig::read(&self.folder.join(CONFIG_FILE))?.monitoring;
        let zone = |problem| anyhow!("--time-zone: {problem}");
        let mut counters = HourlyCounters::new(Arc::clone(baseline), settings, &args.time_zone).map_err(zone)?;
        let absent = log.count_by_hour(&mut counters)?;
        Ok((counters, absent))
    }
}

/// Returns the profile of counted rows, without the features that the log does not have.
fn profile_without(
    counters: &HourlyCounters,
    absent: &BTreeSet<String>,
    verified: &VerifiedVersion,
    shares_only: bool,
) -> Profile {
    let mut profile = counters.finish(shares_only.then_some(DayKinds::All));
    let reconstruction = verified.baseline.as_ref().and_then(|baseline| baseline.reconstruction.as_ref());
    let mut inputs = reconstruction.iter().flat_map(|of| &of.projection.inputs);
    let lacks_inputs = inputs.any(|input| absent.contains(&input.name));
    profile
        .features
        .retain(|feature| !(absent.contains(&feature.name) || lacks_inputs && feature.name == RECONSTRUCTION_ERROR));
    profile
}

fn after_a_change(out: &mut impl Write) -> Result<()> {
    Ok(writeln!(out, "A server takes it over at its next sync, or at once with leeway reload.")?)
}

fn show(moment: Option<Timestamp>) -> String {
    moment.map(|moment| moment.to_string()).unwrap_or_default()
}

/// Returns the window that a text means.
fn window_of(text: &str, now: Timestamp) -> Result<LogWindow> {
    let hour = now.round(jiff::TimestampRound::new().smallest(Unit::Hour).mode(jiff::RoundMode::Floor))?;
    let before = |hours: i64| LogWindow { since: Some(hour - SignedDuration::from_hours(hours)), until: Some(hour) };
    match text.split_once("..") {
        None if text == "last-week" => Ok(before(7 * 24)),
        None if text == "last-day" => Ok(before(24)),
        Some((start, end)) => {
            let read = |text: &str| moment(text, now).map_err(|problem| anyhow!("--from: {problem}"));
            let (since, until) = (read(start)?, read(end)?);
            if since >= until {
                bail!("--from: the window ends before it starts: {since}..{until}");
            }
            Ok(LogWindow { since: Some(since), until: Some(until) })
        }
        None => bail!("--from: found {text:?}, expected last-week, last-day, or START..END"),
    }
}

/// Writes the rows per hour, and how many hours are not known.
fn write_hours(out: &mut impl Write, profile: &Profile) -> Result<()> {
    if profile.days == DayKinds::All {
        return Ok(writeln!(out, "It has only the shares over all hours: it does not explain the time of day.")?);
    }
    let kinds = profile.rows.len() / HOURS;
    let mut hours = match profile.days {
        DayKinds::Weekdays => table(["hour", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]),
        DayKinds::All | DayKinds::Weekend => table(["hour", "weekday", "weekend"]),
    };
    align_right(&mut hours, 1..=kinds);
    for hour in 0..HOURS {
        let rows = (0..kinds).map(|kind| profile.rows[kind * HOURS + hour].to_string());
        hours.add_row([format!("{hour:02}:00")].into_iter().chain(rows));
    }
    writeln!(out, "Rows per hour ({}):\n{}", profile.time_zone, text_of(&hours))?;
    let few = profile.rows.len() - profile.known_slots();
    if few > 0 {
        writeln!(
            out,
            "{few} of {} hours have fewer than {MIN_SLOT_VALUES} rows; at these hours, requests are judged as before.",
            profile.rows.len()
        )?;
    }
    Ok(())
}

/// Writes the features that differ most from the training data.
fn write_differences(out: &mut impl Write, profile: &Profile, all: &[(String, Comparison)]) -> Result<()> {
    let known = profile.features.len() + profile.predictions.len();
    let mut rows = table(["feature", "status", "PSI - chance", "share"]);
    align_right(&mut rows, [2]);
    for (name, found) in all.iter().take(MOST_DIFFERENT) {
        let shares = found.shares.iter().filter(|share| share.increase() > 0.001);
        let shares: Vec<String> =
            shares.map(|share| format!("{} +{:.1} points", share.of.name(), 100.0 * share.increase())).collect();
        let psi = format!("{:.3}", found.drift.psi_adjusted);
        rows.add_row([cell(name), words(found.status.name()), psi, shares.join(", ")]);
    }
    writeln!(
        out,
        "Compared with the training data ({known} features and parts of the predictions):\n{}",
        text_of(&rows)
    )?;
    writeln!(
        out,
        "What is usual in this profile is no alert any more. leeway drift still shows the difference from the training data."
    )?;
    Ok(())
}

/// Asks whether the profile is accepted.
fn accept(out: &mut impl Write, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("nothing was changed: accept the profile with --yes");
    }
    write!(out, "Accept it? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_at_a_full_hour_or_is_given() {
        let now: Timestamp = "2026-11-27T12:34:56Z".parse().unwrap();
        for (text, since, until) in [
            ("last-week", "2026-11-20T12:00:00Z", "2026-11-27T12:00:00Z"),
            ("last-day", "2026-11-26T12:00:00Z", "2026-11-27T12:00:00Z"),
            ("2026-11-20..2026-11-27", "2026-11-20T00:00:00Z", "2026-11-27T00:00:00Z"),
            ("14d..7d", "2026-11-13T12:34:56Z", "2026-11-20T12:34:56Z"),
        ] {
            let found = window_of(text, now).unwrap();
            assert_eq!((show(found.since), show(found.until)), (since.to_owned(), until.to_owned()), "{text}");
        }
        for text in ["", "last-year", "7d..14d", "x..y"] {
            assert!(window_of(text, now).unwrap_err().to_string().starts_with("--from: "), "{text}");
        }
    }
}
