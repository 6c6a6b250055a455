//! `leeway outcomes`: shows how right the predictions of a model were, as far as their true outcomes are known.

use std::io::Write;

use anyhow::{Result, bail};
use clap::Args;

use super::metrics_text::Metrics;
use super::servers::ConnectionArgs;
use super::table_cells::{align_right, cell, table, text_of};
use super::terminal;
use crate::identity::{ModelName, Version};
use crate::monitor::{Difference, Interval};

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

/// Measures of predicted classes, and of predicted numbers.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Classes,
    Numbers,
}

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
    let versions: Vec<VersionOutcomes<'_>> =
        versions.iter().map(|version| VersionOutcomes { metrics, model, version }).collect();
    let of = |kind: Kind| versions.iter().copied().filter(|version| version.kind() == kind).collect::<Vec<_>>();
    for (kind, versions) in [Kind::Classes, Kind::Numbers].map(|kind| (kind, of(kind))) {
        if versions.is_empty() {
            continue;
        }
        let mut rows = match kind {
            Kind::Classes => {
                table(["version", "predicted", "known", "accuracy (95 %)", "baseline", "estimate", "Brier", "ECE"])
            }
            Kind::Numbers => table(["version", "predicted", "known", "MAE (95 %)", "baseline", "RMSE", "bias"]),
        };
        let columns = rows.column_count();
        versions.iter().for_each(|version| {
            rows.add_row(version.cells(kind));
        });
        align_right(&mut rows, 1..columns);
        writeln!(out, "{}", text_of(&rows))?;
        if let [first, others @ ..] = &*versions {
            others
                .iter()
                .filter_map(|other| first.compared_with(other, kind))
                .try_for_each(|line| writeln!(out, "{line}"))?;
        }
    }
    if versions.iter().all(|version| version.known() == 0.0) {
        return Ok(writeln!(out, "No true outcome is known yet; POST /feedback reports them.")?);
    }
    for version in versions.iter().filter(|_| with_classes) {
        write_classes(out, metrics, &version.labels())?;
    }
    Ok(())
}

/// The outcomes of a version in a scrape.
#[derive(Clone, Copy)]
struct VersionOutcomes<'a> {
    metrics: &'a Metrics,
    model: &'a str,
    version: &'a str,
}

impl<'a> VersionOutcomes<'a> {
    fn labels(&self) -> [(&'static str, &'a str); 2] {
        [("model", self.model), ("version", self.version)]
    }

    fn value(&self, name: &str) -> Option<f64> {
        self.metrics.value(name, &self.labels()).filter(|value| value.is_finite())
    }

    fn of(&self, name: &str, label: &'static str, value: &str) -> Option<f64> {
        let [model, version] = self.labels();
        self.metrics.value(name, &[model, version, (label, value)]).filter(|value| value.is_finite())
    }

    fn known(&self) -> f64 {
        self.value("outcome_labels_total").unwrap_or_default()
    }

    fn kind(&self) -> Kind {
        let is_number = self.value("outcome_absolute_error_total").is_some() || self.value("outcome_mae").is_some();
        if is_number { Kind::Numbers } else { Kind::Classes }
    }

    fn cells(&self, kind: Kind) -> Vec<String> {
        let predicted = self.value("predictions_total").unwrap_or_default();
        let bounds = |name: &str| Some((self.of(name, "bound", "lower")?, self.of(name, "bound", "upper")?));
        let percent = |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.1}%", 100.0 * share));
        let number = |number: Option<f64>| number.map_or("-".to_owned(), |number| format!("{number:.3}"));
        let mut cells = vec![self.version.to_owned(), format!("{predicted:.0}"), format!("{:.0}", self.known())];
        match kind {
            Kind::Classes => cells.extend([
                match (self.value("outcome_accuracy"), bounds("outcome_accuracy_bound")) {
                    (Some(accuracy), Some((lower, upper))) => {
                        format!("{:.1}% ({:.1}–{:.1})", 100.0 * accuracy, 100.0 * lower, 100.0 * upper)
                    }
                    (accuracy, _) => percent(accuracy),
                },
                percent(self.value("baseline_accuracy")),
                percent(self.value("outcome_accuracy_estimate")),
                number(self.value("outcome_brier_score")),
                number(self.value("outcome_ece")),
            ]),
            Kind::Numbers => cells.extend([
                match (self.value("outcome_mae"), bounds("outcome_mae_bound")) {
                    (Some(error), Some((lower, upper))) => format!("{error:.3} ({lower:.3}–{upper:.3})"),
                    (error, _) => number(error),
                },
                number(self.of("baseline_error", "measure", "mae")),
                number(self.value("outcome_rmse")),
                number(self.value("outcome_bias")),
            ]),
        }
        cells
    }

    /// Returns a sentence about the difference between this version and another; `None` if one of them has no outcomes.
    fn compared_with(&self, other: &VersionOutcomes<'_>, kind: Kind) -> Option<String> {
        let (known, of_other) = (self.known(), other.known());
        let found = match kind {
            Kind::Classes => {
                let correct =
                    |version: &VersionOutcomes<'_>| Some(version.value("outcome_accuracy")? * version.known());
                Difference::of_shares((correct(self)?.round(), known), (correct(other)?.round(), of_other))?
            }
            Kind::Numbers => {
                let moments = |version: &VersionOutcomes<'_>| {
                    Some((version.value("outcome_mae")?, version.value("outcome_rmse")?.powi(2)))
                };
                let ((one, squares), (two, squares_of_other)) = (moments(self)?, moments(other)?);
                Difference::of_means((one, squares, known), (two, squares_of_other, of_other))?
            }
        };
        Some(sentence(kind, self.version, other.version, found))
    }
}

fn sentence(kind: Kind, one: &str, other: &str, found: Difference) -> String {
    let Difference { difference, interval: Interval { lower, upper }, p_value } = found;
    let (what, factor, unit) = match kind {
        Kind::Classes => ("accuracy", 100.0, " points"),
        Kind::Numbers => ("mean absolute error", 1.0, ""),
    };
    let digits = if kind == Kind::Classes { 1 } else { 3 };
    let [difference, lower, upper] = [difference, lower, upper].map(|number| format!("{:+.digits$}", factor * number));
    let p_value = if p_value < 1e-4 { "p < 0.0001".to_owned() } else { format!("p = {p_value:.4}") };
    let verdict = if lower.starts_with('+') == upper.starts_with('+') { "" } else { ", which may be chance" };
    format!(
        "The {what} of {other} less that of {one}: {difference}{unit} (95 %: {lower} to {upper}; {p_value}){verdict}."
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(accuracy: [f64; 2], errors: [f64; 2]) -> Metrics {
        let series = |model: &str, version: usize, name: &str, value: f64| {
            format!("leeway_{name}{{model=\"{model}\",version=\"{version}\"}} {value}\n")
        };
        let of = |version: usize| {
            [
                series("churn", version, "outcome_labels_total", 4_000.0),
                series("churn", version, "outcome_accuracy", accuracy[version - 1]),
                series("rent", version, "outcome_labels_total", 400.0),
                series("rent", version, "outcome_mae", errors[version - 1]),
                series("rent", version, "outcome_rmse", 2.0 * errors[version - 1]),
            ]
            .concat()
        };
        Metrics::parse(&[of(1), of(2)].concat())
    }

    fn shown(metrics: &Metrics, model: &str) -> String {
        let mut out = Vec::new();
        write(&mut out, metrics, model, &["1".to_owned(), "2".to_owned()], false).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn versions_are_compared() {
        let metrics = metrics([0.98, 0.634], [1.0, 1.05]);
        let (churn, rent) = (shown(&metrics, "churn"), shown(&metrics, "rent"));
        let expected = "The accuracy of 2 less that of 1: -34.6 points (95 %: -36.2 to -33.0; p < 0.0001).";
        assert_eq!(churn.lines().last(), Some(expected), "{churn}");
        let expected = "The mean absolute error of 2 less that of 1: +0.050 (95 %: -0.196 to +0.296; p = 0.6909), which \
                        may be chance.";
        assert_eq!(rent.lines().last(), Some(expected), "{rent}");
    }
}
