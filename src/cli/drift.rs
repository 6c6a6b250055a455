//! `leeway drift`: shows the distance of the last requests from the training data.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;

use super::servers::ServerArgs;
use super::table_cells::{align_right, cell, table, text_of, words};
use crate::api::admin::{ModelDrift, VersionDrift};
use crate::identity::{ModelName, Version};
use crate::monitor::{Drift, DriftStatus, FeatureDrift};

#[derive(Debug, Args)]
pub(super) struct DriftArgs {
    /// The model
    model: ModelName,

    /// Show only this version
    #[arg(long)]
    version: Option<Version>,

    /// Length of the window, as in 1h, 30m or 3600 (seconds), up to a day [default: monitoring.drift_window_ms]
    #[arg(long, value_name = "DURATION", value_parser = seconds_of)]
    window: Option<u64>,

    /// Show the distributions of one feature, or of one part of the predictions, in the baseline and in the window
    #[arg(long, value_name = "NAME")]
    feature: Option<String>,

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
    number.checked_mul(factor).ok_or_else(|| anyhow!("the window is a day at most"))
}

/// Maximum number of features that are shown without --all.
const WORST: usize = 10;
/// Width of the bar for a share of 100 %, in characters.
const BAR: f64 = 15.0;

pub(super) fn run(args: DriftArgs) -> Result<()> {
    let DriftArgs { model, version, window, feature, all, server } = args;
    let version = version.map(|version| format!("version={version}"));
    let window = window.map(|seconds| format!("window_s={seconds}"));
    let query: Vec<String> = version.into_iter().chain(window).collect();
    let answer = server.connection.servers()?.get(&format!("/models/{model}/drift?{}", query.join("&")))?;
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

fn write_head(out: &mut dyn Write, model: &ModelName, drift: &VersionDrift) -> Result<()> {
    let VersionDrift { version, baseline_rows, report } = drift;
    let window = Duration::try_from_secs_f64(report.window_s).unwrap_or_default();
    let window = Duration::from_secs(window.as_secs());
    let baseline = match baseline_rows {
        Some(rows) => format!("a baseline of {rows} rows"),
        None => "no baseline (leeway add --baseline-data makes one)".to_owned(),
    };
    let (status, rows) = (words(report.status.name()), report.rows);
    writeln!(out, "{model} version {version}: {status}; {rows} rows in the last {window:?}, {baseline}")?;
    Ok(())
}

fn write_features(out: &mut dyn Write, VersionDrift { report, .. }: &VersionDrift, all: bool) -> Result<()> {
    let mut rows = table(["", "feature", "status", "PSI - chance", "PSI", "z", "values"]);
    let mut hidden = 0;
    for (found, what) in [(&report.predictions, "prediction"), (&report.features, "feature")] {
        let shown = if all { found.len() } else { found.len().min(WORST) };
        hidden += found.len() - shown;
        for FeatureDrift { name, status, drift, bins } in &found[..shown] {
            rows.add_row([
                what.to_owned(),
                cell(name),
                words(status.name()),
                number(drift.psi_adjusted, 3),
                number(drift.psi, 3),
                number(drift.z, 1),
                values(*status, drift, bins.len()),
            ]);
        }
    }
    align_right(&mut rows, 3..7);
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

/// Returns the number of values in the window, and the number that a verdict needs, if it is larger.
fn values(status: DriftStatus, drift: &Drift, bins: usize) -> String {
    match status {
        DriftStatus::NotEnoughData => format!("{} of {}", drift.window_count, Drift::needed_values(bins)),
        _ => drift.window_count.to_string(),
    }
}

/// Formats a number with `digits` decimals. NaN, which stands for nothing to compare, is formatted as 0.
fn number(value: f64, digits: usize) -> String {
    format!("{:.digits$}", if value.is_nan() { 0.0 } else { value })
}

/// Returns the name of a bin. The largest number below 0 is the edge of the bin of all negative numbers.
fn name_of(bin: &str) -> String {
    match bin.parse::<f64>() {
        Ok(edge) if edge < 0.0 && (edge as f32 == 0.0 || edge as f32 == -f32::from_bits(1)) => "< 0".to_owned(),
        _ => cell(bin),
    }
}

fn write_distributions(out: &mut dyn Write, drift: &VersionDrift, feature: &str) -> Result<()> {
    let VersionDrift { version, report, .. } = drift;
    let mut found = report.predictions.iter().chain(&report.features).filter(|found| found.name == feature).peekable();
    if found.peek().is_none() {
        bail!("version {version} watches no feature or prediction called {feature:?}; --all lists what it watches");
    }
    for FeatureDrift { name, status, bins, .. } in found {
        let mut rows = table(["up to, or value", "baseline", "", "", "window", "", ""]);
        let in_baseline: u64 = bins.iter().map(|bin| bin.baseline_count).sum();
        let in_window: u64 = bins.iter().map(|bin| bin.window_count).sum();
        for bin in bins {
            let bar = |share: f64| "█".repeat((share * BAR).round() as usize);
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            let share = |count: u64, all: u64| if all == 0 { 0.0 } else { count as f64 / all as f64 };
            let (baseline, window) = (share(bin.baseline_count, in_baseline), share(bin.window_count, in_window));
            rows.add_row([
                name_of(&bin.bin),
                bin.baseline_count.to_string(),
                percent(baseline),
                bar(baseline),
                bin.window_count.to_string(),
                percent(window),
                bar(window),
            ]);
        }
        align_right(&mut rows, [1, 2, 4, 5]);
        writeln!(out, "{name}: {}\n{}", words(status.name()), text_of(&rows))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_a_unit() {
        let seconds = |text| seconds_of(text).ok();
        assert_eq!(["3600", "45s", "30m", "1h", "1d"].map(seconds), [3_600, 45, 1_800, 3_600, 86_400].map(Some));
        assert_eq!(["", "h", "1w", "-1", "1 h", "1hh", "99999999999999999999d", "1ü"].map(seconds), [None; 8]);
    }

    #[test]
    fn the_bin_of_negative_numbers_is_named() {
        assert_eq!(["-5e-324", "-1e-45", "-1.5", "0", "NL"].map(name_of), ["< 0", "< 0", "-1.5", "0", "NL"]);
    }
}
