//! `leeway drift`: shows the distance of the last requests from the training data.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::client::ServerArgs;
use super::table_cells::{cell, table, words};
use crate::api::admin::{ModelDrift, VersionDrift};
use crate::identity::{ModelName, Version};
use crate::monitor::FeatureDrift;

#[derive(Debug, Args)]
pub(super) struct DriftArgs {
    /// The model
    model: ModelName,

    /// Show only this version
    #[arg(long)]
    version: Option<Version>,

    /// Length of the window in seconds, up to a day [default: monitoring.drift_window_ms]
    #[arg(long, value_name = "SECONDS")]
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

/// Maximum number of features that are shown without --all.
const WORST: usize = 10;
/// Width of the bar for a share of 100 %, in characters.
const BAR: f64 = 40.0;

pub(super) fn run(args: DriftArgs) -> Result<()> {
    let DriftArgs { model, version, window, feature, all, server } = args;
    let version = version.map(|version| format!("version={version}"));
    let window = window.map(|seconds| format!("window_s={seconds}"));
    let query: Vec<String> = version.into_iter().chain(window).collect();
    let answer = server.client()?.get(&format!("/models/{model}/drift?{}", query.join("&")))?;
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
    let mut rows = table(["", "feature", "status", "PSI - chance", "PSI", "z", "count"]);
    let mut hidden = 0;
    for (found, what) in [(&report.predictions, "prediction"), (&report.features, "feature")] {
        let shown = if all { found.len() } else { found.len().min(WORST) };
        hidden += found.len() - shown;
        for FeatureDrift { name, status, drift, .. } in &found[..shown] {
            rows.add_row([
                what.to_owned(),
                cell(name),
                words(status.name()),
                number(drift.psi_adjusted, 3),
                number(drift.psi, 3),
                number(drift.z, 1),
                drift.window_count.to_string(),
            ]);
        }
    }
    if !rows.is_empty() {
        writeln!(out, "{rows}")?;
    }
    if hidden > 0 {
        writeln!(out, "and {hidden} more (--all)")?;
    }
    if !report.not_watched.is_empty() {
        writeln!(out, "not watched: {}", report.not_watched.join(", "))?;
    }
    Ok(())
}

/// Formats a number with `digits` decimals. NaN, which stands for nothing to compare, is formatted as 0.
fn number(value: f64, digits: usize) -> String {
    format!("{:.digits$}", if value.is_nan() { 0.0 } else { value })
}

fn write_distributions(out: &mut dyn Write, drift: &VersionDrift, feature: &str) -> Result<()> {
    let VersionDrift { version, report, .. } = drift;
    let mut found = report.predictions.iter().chain(&report.features).filter(|found| found.name == feature).peekable();
    if found.peek().is_none() {
        bail!("version {version} watches no feature or prediction called {feature:?}; --all lists what it watches");
    }
    for FeatureDrift { name, status, bins, .. } in found {
        let mut rows = table(["up to, or value", "baseline", "", "window", ""]);
        for bin in bins {
            let bar = |share: f64| "█".repeat((share * BAR).round() as usize);
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            let (baseline, window) = (bin.baseline_ratio, bin.window_ratio);
            rows.add_row([cell(&bin.bin), percent(baseline), bar(baseline), percent(window), bar(window)]);
        }
        writeln!(out, "{name}: {}\n{rows}", words(status.name()))?;
    }
    Ok(())
}
