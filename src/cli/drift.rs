//! `leeway drift`: shows the distance of the last requests from the training data.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use super::answer::Answer;
use super::drift_change::change;
use super::servers::{ServerArgs, Servers};
use super::table_cells::{align_right, cell, seconds, table, text_of, words};
use crate::api::admin::{ModelDrift, ModelDriftCounts, VersionDrift, VersionDriftCounts};
use crate::identity::{ModelName, Version};
use crate::monitor::{DayKinds, Drift, DriftVerdict, FeatureDrift, ProfileInUse, ProfileOrigin, VerdictReason};

#[derive(Debug, Args)]
pub(super) struct DriftArgs {
    /// The model
    model: ModelName,

    /// Show only this version
    #[arg(long)]
    version: Option<Version>,

    /// Length of the window, as in 1h, 30m, 7d or 3600 (seconds), up to a week [default: monitoring.drift_window_ms]
    #[arg(long, value_name = "DURATION", value_parser = seconds_of)]
    window: Option<u64>,

    /// Show the distributions of one feature, or of one part of the predictions, in the baseline and in the window
    #[arg(long, value_name = "NAME")]
    feature: Option<String>,

    /// Measure the drift of all servers together: their counts are added
    #[arg(long)]
    fleet: bool,

    /// Show all features, not only those that drift most
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    server: ServerArgs,
}

/// Parses a duration: a number of seconds, or of another unit.
fn seconds_of(text: &str) -> Result<u64> {
    let (number, factor) = match text.trim_end_matches(|c: char| c.is_ascii_digit()).is_empty() {
        true => (text, 1),
        false => {
            let (number, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
            let factor = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3_600,
                "d" => 86_400,
                _ => bail!("expected a number with s, m, h or d behind it, as in 1h"),
            };
            (number, factor)
        }
    };
    let number: u64 = number.parse().map_err(|_| anyhow!("expected a number with s, m, h or d behind it, as in 1h"))?;
    number.checked_mul(factor).ok_or_else(|| anyhow!("the window is a week at most"))
}

/// Maximum number of features that are shown without --all.
const WORST: usize = 10;
/// Width of the bar for a share of 100 %, in characters.
const BAR: f64 = 15.0;

pub(super) fn run(args: DriftArgs) -> Result<()> {
    let DriftArgs { model, version, window, feature, fleet, all, server } = args;
    let version = version.map(|version| format!("version={version}"));
    let window = window.map(|seconds| format!("window_s={seconds}"));
    let query: Vec<String> = version.into_iter().chain(window).collect();
    let (servers, query) = (server.connection.servers()?, query.join("&"));
    let answer = match fleet {
        true => Answer::of(&drift_of_fleet(&servers, &model, &query)?)?,
        false => servers.get(&format!("/models/{model}/drift?{query}"))?,
    };
    answer.show(server.json, |out, ModelDrift { enabled, versions, .. }| {
        if !enabled {
            writeln!(out, "nothing is watched: monitoring.enabled is false")?;
        }
        for version in &versions {
            write_head(out, &model, version)?;
            match &feature {
                Some(feature) => write_distributions(out, version, feature)?,
                None => write_features(out, version, all)?,
            }
        }
        Ok(())
    })
}

/// Asks all servers for their counts, and returns the drift of the sums.
fn drift_of_fleet(servers: &Servers, model: &ModelName, query: &str) -> Result<ModelDrift> {
    let mut sums: BTreeMap<Version, VersionDriftCounts> = BTreeMap::new();
    let mut enabled = false;
    for client in servers.all() {
        let counted: ModelDriftCounts = client.get(&format!("/models/{model}/drift/counts?{query}"))?.parsed()?;
        enabled |= counted.enabled;
        for version in counted.versions {
            match sums.entry(version.version) {
                Entry::Vacant(entry) => drop(entry.insert(version)),
                Entry::Occupied(mut entry) => {
                    let added = entry.get_mut().counts.add(&version.counts);
                    added.map_err(|problem| {
                        anyhow!("{}: {model} version {} has other files: {problem}", client.address(), version.version)
                    })?;
                }
            }
        }
    }
    let report = |VersionDriftCounts { version, baseline_rows, counts }: VersionDriftCounts| VersionDrift {
        version,
        baseline_rows,
        report: counts.report(),
    };
    Ok(ModelDrift { model: model.clone(), enabled, versions: sums.into_values().rev().map(report).collect() })
}

fn write_head(out: &mut dyn Write, model: &ModelName, drift: &VersionDrift) -> Result<()> {
    let VersionDrift { version, baseline_rows, report } = drift;
    let window = rounded_duration(report.window_s);
    let baseline = match baseline_rows {
        Some(rows) => format!("a baseline of {rows} rows"),
        None => "no baseline (leeway add --baseline-data makes one)".to_owned(),
    };
    let (status, rows) = (words(report.status.name()), report.rows);
    writeln!(out, "{model} version {version}: {status}; {rows} rows in the last {window}, {baseline}")?;
    if let Some(profile) = &report.profile {
        writeln!(out, "{}", profile_of(profile))?;
    }
    if let Some(verdict) = verdict_of(&report.verdict) {
        writeln!(out, "{verdict}")?;
    }
    Ok(())
}

/// Describes the profile that alerts are based on.
fn profile_of(profile: &ProfileInUse) -> String {
    let hours = match profile.days {
        DayKinds::All => "all hours together".to_owned(),
        _ => format!("{} of {} hours known, {}", profile.hours_known, profile.hours, cell(&profile.time_zone)),
    };
    let origin = match &profile.learned {
        None => "the training data".to_owned(),
        Some(ProfileOrigin { since, until, by, reason, .. }) => {
            let reason = if reason.is_empty() { String::new() } else { format!(" ({})", cell(reason)) };
            format!("{} to {}, accepted by {}{reason}", seconds(*since), seconds(*until), cell(by))
        }
    };
    format!("alerts are based on a profile of {} rows from {origin}: {hours}", profile.rows)
}

/// Returns a verdict in words; `None` if nothing was found.
fn verdict_of(DriftVerdict { status, reason, features }: &DriftVerdict) -> Option<String> {
    let compared = match reason.as_ref()? {
        VerdictReason::Shares => "more values are missing, unknown or out of range",
        VerdictReason::SinceLastWeek => "unlike the training data, and unlike the same hours last week",
        VerdictReason::TimeOfDay => "unlike what is usual at these hours",
        VerdictReason::WholeDays => "the last whole days are unlike the training data, or unlike what is usual",
        VerdictReason::RecentWindow => {
            "unlike the training data; less than a day is known, so it may be the time of day"
        }
    };
    let names: Vec<_> = features.iter().map(|name| cell(name)).collect();
    Some(format!("verdict for alerts: {}, {compared}: {}", words(status.name()), names.join(", ")))
}

/// Formats a duration in its largest unit: `45 s`, `30 min`, `6.5 h`.
fn rounded_duration(seconds: f64) -> String {
    let tenths = |number: f64| format!("{number:.1}").trim_end_matches(".0").to_owned();
    match seconds {
        _ if seconds < 60.0 => format!("{} s", seconds.round()),
        _ if seconds < 3_600.0 => format!("{} min", (seconds / 60.0).round()),
        _ if seconds < 86_400.0 => format!("{} h", tenths(seconds / 3_600.0)),
        _ => format!("{} d", tenths(seconds / 86_400.0)),
    }
}

fn write_features(out: &mut dyn Write, VersionDrift { report, .. }: &VersionDrift, all: bool) -> Result<()> {
    let mut rows = table(["", "feature", "status", "PSI - chance", "values", "change"]);
    let mut hidden = 0;
    for (found, what) in [(&report.predictions, "prediction"), (&report.features, "feature")] {
        let shown = if all { found.len() } else { found.len().min(WORST) };
        hidden += found.len() - shown;
        for feature in &found[..shown] {
            rows.add_row([
                what.to_owned(),
                cell(&feature.name),
                words(feature.status.name()),
                number(feature.drift.psi_adjusted),
                feature.bins.iter().map(|bin| bin.window_count).sum::<u64>().to_string(),
                change(feature),
            ]);
        }
    }
    align_right(&mut rows, 3..5);
    if !rows.is_empty() {
        writeln!(out, "{}", text_of(&rows))?;
    }
    if hidden > 0 {
        writeln!(out, "and {hidden} more (--all)")?;
    }
    if !report.not_watched.is_empty() {
        writeln!(out, "not watched: {}", report.not_watched.join(", "))?;
    }
    Ok(())
}

/// Formats a measure. NaN stands for nothing to compare.
fn number(value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.3}") }
}

fn write_distributions(out: &mut dyn Write, drift: &VersionDrift, feature: &str) -> Result<()> {
    let VersionDrift { version, report, .. } = drift;
    let mut found = report.predictions.iter().chain(&report.features).filter(|found| found.name == feature).peekable();
    if found.peek().is_none() {
        bail!("version {version} watches no feature or prediction called {feature:?}; --all lists what it watches");
    }
    for feature in found {
        let FeatureDrift { name, status, drift, bins, .. } = feature;
        let mut rows = table(["up to, or value", "baseline", "", "", "window", "", ""]);
        for bin in bins {
            let bar = |share: f64| "█".repeat((share * BAR).round() as usize);
            let percent = |share: f64| if share.is_nan() { "-".to_owned() } else { format!("{:.1} %", 100.0 * share) };
            rows.add_row([
                cell(&bin.bin),
                bin.baseline_count.to_string(),
                percent(bin.baseline_ratio),
                bar(bin.baseline_ratio),
                bin.window_count.to_string(),
                percent(bin.window_ratio),
                bar(bin.window_ratio),
            ]);
        }
        align_right(&mut rows, [1, 2, 4, 5]);
        let change = Some(change(feature)).filter(|change| !change.is_empty());
        let change = change.map_or_else(String::new, |change| format!("; {change}"));
        writeln!(out, "{name}: {}{change}\n{}", words(status.name()), text_of(&rows))?;
        write_measures(out, drift)?;
    }
    Ok(())
}

/// Writes the distances of one feature.
fn write_measures(out: &mut dyn Write, drift: &Drift) -> Result<()> {
    let ordered = [("Kolmogorov-Smirnov", drift.kolmogorov_smirnov), ("Wasserstein", drift.wasserstein)];
    let ordered = ordered.into_iter().filter_map(|(name, distance)| Some((name, distance?)));
    let all = [("PSI", drift.psi), ("PSI - chance", drift.psi_adjusted), ("Jensen-Shannon", drift.jensen_shannon)];
    let distances: Vec<String> =
        all.into_iter().chain(ordered).map(|(name, distance)| format!("{name} {}", number(distance))).collect();
    Ok(writeln!(out, "{}; z {}", distances.join(", "), number(drift.z))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_a_unit() {
        let seconds = |text| seconds_of(text).ok();
        assert_eq!(["3600", "45s", "30m", "1h", "1d"].map(seconds), [3_600, 45, 1_800, 3_600, 86_400].map(Some));
        assert_eq!(
            [0.2, 59.0, 61.0, 3_600.0, 23_400.0, 86_400.0].map(rounded_duration),
            ["0 s", "59 s", "1 min", "1 h", "6.5 h", "1 d"]
        );
        assert_eq!(["", "h", "1w", "-1", "1 h", "1hh", "99999999999999999999d", "1ü"].map(seconds), [None; 8]);
    }
}
