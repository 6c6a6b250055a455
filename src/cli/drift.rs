//! `leeway drift`: how far the last requests are from the training data.

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use super::client::Client;
use super::deploy::{ServerArgs, cell, show, table, text};
use crate::identity::{ModelName, Version};

#[derive(Debug, Args)]
pub(super) struct DriftArgs {
    /// The model
    model: ModelName,

    /// Of this version only
    #[arg(long)]
    version: Option<Version>,

    /// Of so many seconds, up to a day [default: monitoring.drift_window_ms]
    #[arg(long, value_name = "SECONDS")]
    window: Option<u64>,

    /// Show how this feature, or part of the predictions, is distributed in the baseline and in the window
    #[arg(long, value_name = "NAME")]
    feature: Option<String>,

    /// Show all features, and not only the worst
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    server: ServerArgs,
}

/// Without --all, so many features are shown.
const WORST: usize = 10;
/// The width of a bar that is all of a distribution.
const BAR: f64 = 40.0;

pub(super) fn run(args: DriftArgs) -> Result<()> {
    let DriftArgs { model, version, window, feature, all, server } = args;
    let version = version.map(|version| format!("version={version}"));
    let window = window.map(|seconds| format!("window_s={seconds}"));
    let query: Vec<String> = version.into_iter().chain(window).collect();
    let client = Client::new(&server.settings.clone().load()?);
    let answer = client.get(&format!("/models/{model}/drift?{}", query.join("&")))?;
    show(server.json, &answer, |out| {
        if answer["enabled"] == false {
            writeln!(out, "nothing is watched: monitoring.enabled is false")?;
        }
        for version in answer["versions"].as_array().into_iter().flatten() {
            write_head(out, &model, version)?;
            match &feature {
                Some(feature) => write_distributions(out, version, feature)?,
                None => write_features(out, version, all)?,
            }
        }
        Ok(())
    })
}

fn write_head(out: &mut dyn Write, model: &ModelName, version: &Value) -> Result<()> {
    let window = Duration::from_secs_f64(version["window_s"].as_f64().unwrap_or_default().max(0.0));
    let window = Duration::from_secs(window.as_secs());
    let baseline = match version["baseline_rows"].as_u64() {
        Some(rows) => format!("a baseline of {rows} rows"),
        None => "no baseline (leeway add --baseline-data makes one)".to_owned(),
    };
    writeln!(
        out,
        "{model} version {}: {}; {} rows in the last {window:?}, {baseline}",
        version["version"],
        words(&version["status"]),
        version["rows"]
    )?;
    Ok(())
}

fn write_features(out: &mut dyn Write, version: &Value, all: bool) -> Result<()> {
    let mut rows = table(["", "feature", "status", "PSI - chance", "PSI", "z", "count"]);
    let mut hidden = 0;
    for (side, what) in [("predictions", "prediction"), ("features", "feature")] {
        for (index, found) in version[side].as_array().into_iter().flatten().enumerate() {
            if index >= WORST && !all {
                hidden += 1;
                continue;
            }
            let number = |key: &str, digits: usize| format!("{:.digits$}", found[key].as_f64().unwrap_or_default());
            rows.add_row([
                what.to_owned(),
                cell(&found["name"]),
                words(&found["status"]),
                number("psi_adjusted", 3),
                number("psi", 3),
                number("z", 1),
                found["window_count"].to_string(),
            ]);
        }
    }
    if !rows.is_empty() {
        writeln!(out, "{rows}")?;
    }
    if hidden > 0 {
        writeln!(out, "and {hidden} more (--all)")?;
    }
    let not_watched: Vec<String> = version["not_watched"].as_array().into_iter().flatten().map(text).collect();
    if !not_watched.is_empty() {
        writeln!(out, "not watched: {}", not_watched.join(", "))?;
    }
    Ok(())
}

fn write_distributions(out: &mut dyn Write, version: &Value, feature: &str) -> Result<()> {
    let sides = ["predictions", "features"].into_iter().flat_map(|side| version[side].as_array().into_iter().flatten());
    let mut found = sides.filter(|found| found["name"] == feature).peekable();
    if found.peek().is_none() {
        bail!("version {} watches nothing that is called {feature:?}; --all shows what it does", version["version"]);
    }
    for found in found {
        let mut rows = table(["up to, or value", "baseline", "", "window", ""]);
        for bin in found["bins"].as_array().into_iter().flatten() {
            let share = |key: &str| bin[key].as_f64().unwrap_or_default();
            let bar = |share: f64| "█".repeat((share * BAR).round() as usize);
            let (baseline, window) = (share("baseline_ratio"), share("window_ratio"));
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            rows.add_row([cell(&bin["bin"]), percent(baseline), bar(baseline), percent(window), bar(window)]);
        }
        writeln!(out, "{}: {}\n{rows}", text(&found["name"]), words(&found["status"]))?;
    }
    Ok(())
}

/// `not_enough_data` as it is said.
fn words(status: &Value) -> String {
    text(status).replace('_', " ")
}
