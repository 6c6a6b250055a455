//! `leeway outcomes`: shows how right the predictions of a model were, as far as their true outcomes are known.

use std::io::Write;

use anyhow::{Result, bail};
use clap::Args;

use super::metrics_text::Metrics;
use super::servers::ConnectionArgs;
use super::table_cells::{align_right, cell, table, text_of};
use super::terminal;
use crate::identity::{ModelName, Version};

#[derive(Debug, Args)]
pub(super) struct OutcomesArgs {
    /// The model
    model: ModelName,

    /// Show only this version, with its classes
    #[arg(long)]
    version: Option<Version>,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Maximum number of classes that are shown.
const MAX_CLASSES: usize = 20;

/// Measures of the predictions of a version: the header, the metric, and the factor and unit of its value.
const MEASURES: [(&str, &str, f64, &str); 6] = [
    ("accuracy", "outcome_accuracy", 100.0, "%"),
    ("estimate", "outcome_accuracy_estimate", 100.0, "%"),
    ("Brier", "outcome_brier_score", 1.0, ""),
    ("ECE", "outcome_ece", 1.0, ""),
    ("MAE", "outcome_mae", 1.0, ""),
    ("bias", "outcome_bias", 1.0, ""),
];

pub(super) fn run(args: OutcomesArgs) -> Result<()> {
    let OutcomesArgs { model, version, connection } = args;
    let scraped = connection.servers()?.first(|client| Ok(client.read("/metrics")?))?;
    if let Some(problem) = scraped.problem() {
        bail!("{problem}");
    }
    let metrics = Metrics::parse(&scraped.text);
    let all = metrics.versions().into_iter().filter(|(found, _)| found == model.as_str()).map(|(_, version)| version);
    let wanted = version.map(|version| version.to_string());
    let versions: Vec<String> = all.filter(|found| wanted.as_ref().is_none_or(|wanted| found == wanted)).collect();
    match (&*versions, &wanted) {
        ([], Some(wanted)) => {
            bail!("version {wanted} of model {model} is not loaded; leeway status {model} lists the versions")
        }
        ([], None) => bail!("no version of a model {model} is loaded; leeway status lists the models"),
        _ => write(&mut terminal::stdout(), &metrics, model.as_str(), &versions, wanted.is_some()),
    }
}

fn write(out: &mut dyn Write, metrics: &Metrics, model: &str, versions: &[String], with_classes: bool) -> Result<()> {
    let names = MEASURES.map(|(name, ..)| name);
    let mut rows =
        table(["version", "predictions", "known", names[0], names[1], names[2], names[3], names[4], names[5]]);
    let mut known = 0.0;
    for version in versions {
        let labels = [("model", model), ("version", &**version)];
        let count = |name| metrics.value(name, &labels).unwrap_or_default();
        let labelled = count("outcome_labels_total");
        known += labelled;
        let measures = MEASURES.map(|(_, metric, factor, unit)| match metrics.value(metric, &labels) {
            Some(value) if value.is_finite() => {
                format!("{:.*}{unit}", if unit.is_empty() { 3 } else { 1 }, factor * value)
            }
            _ => "-".to_owned(),
        });
        let counts = [version.clone(), format!("{:.0}", count("predictions_total")), format!("{labelled:.0}")];
        rows.add_row(counts.into_iter().chain(measures));
    }
    align_right(&mut rows, 1..9);
    writeln!(out, "{}", text_of(&rows))?;
    if known == 0.0 {
        return Ok(writeln!(out, "No true outcome is known yet; POST /feedback reports them.")?);
    }
    for version in versions.iter().filter(|_| with_classes) {
        write_classes(out, metrics, &[("model", model), ("version", version)])?;
    }
    Ok(())
}

/// Writes precision and recall of the classes of a version.
fn write_classes(out: &mut dyn Write, metrics: &Metrics, labels: &[(&str, &str); 2]) -> Result<()> {
    let percent = |name: &str, class: &str| {
        let ratio = metrics.value(name, &[labels[0], labels[1], ("class", class)]);
        ratio.filter(|ratio| ratio.is_finite()).map_or_else(|| "-".to_owned(), |ratio| format!("{:.1}%", 100.0 * ratio))
    };
    let actual = [labels[0], labels[1], ("of", "actual")];
    let classes: Vec<_> = metrics.of("outcome_class_total", &actual).collect();
    if classes.is_empty() {
        return Ok(());
    }
    let mut rows = table(["class", "known", "precision", "recall"]);
    for class in classes.iter().take(MAX_CLASSES) {
        let name = class.label("class").unwrap_or_default();
        rows.add_row([
            cell(name),
            format!("{:.0}", class.value),
            percent("outcome_precision", name),
            percent("outcome_recall", name),
        ]);
    }
    align_right(&mut rows, 1..4);
    writeln!(out, "\n{}", text_of(&rows))?;
    if classes.len() > MAX_CLASSES {
        writeln!(out, "and {} more classes", classes.len() - MAX_CLASSES)?;
    }
    Ok(())
}
