//! `leeway compare`: compares two versions of a model by what a running server has counted.

use std::io::Write;

use anyhow::Result;
use clap::Args;

use super::servers::{ServerArgs, Title};
use super::table_cells::{align_right, cell, table, text_of, words};
use crate::api::admin::Comparison;
use crate::identity::{ModelName, Version};
use crate::monitor::{ComparedFinding, ComparedMeasure, MeasureKind, MeasuredDifference, MeasuredValue, Outcome};

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// The model
    model: ModelName,

    /// The first version
    one: Version,

    /// The second version, which the findings are about
    other: Version,

    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(CompareArgs { model, one, other, server }: CompareArgs) -> Result<()> {
    server.each(Title::Above, |client| {
        let answer = client.get(&format!("/models/{model}/compare?one={one}&other={other}"))?;
        answer.show(server.json, |out, comparison: Comparison| write_comparison(out, &comparison))
    })
}

fn write_comparison(out: &mut dyn Write, comparison: &Comparison) -> Result<()> {
    let Comparison { model, one, other, measures } = comparison;
    writeln!(out, "{model}: version {} compared with version {}", other.version, one.version)?;
    for version in [one, other] {
        let of = |outcome: &Outcome| version.requests.get(outcome).copied().unwrap_or_default();
        let named = version.requests.keys().filter(|outcome| of(outcome) > 0);
        let counts: Vec<String> = named.map(|outcome| format!("{} {}", of(outcome), words(outcome.name()))).collect();
        let counts = if counts.is_empty() { "none".to_owned() } else { counts.join(", ") };
        writeln!(out, "requests to version {}: {counts}", version.version)?;
    }
    let [first, second] = [one, other].map(|version| format!("version {}", version.version));
    let mut rows = table(["measure", &first, &second, "difference (95 %)", "p", "finding"]);
    for measure in measures {
        rows.add_row(cells(measure));
    }
    align_right(&mut rows, 1..5);
    writeln!(out, "{}", text_of(&rows))?;
    for measure in measures {
        writeln!(out, "{}: {}", cell(&words(&measure.name)), cell(&measure.explanation))?;
    }
    Ok(writeln!(
        out,
        "The intervals and p-values hold however often you look, as long as both versions serve side by side with the same \
         split."
    )?)
}

fn cells(measure: &ComparedMeasure) -> [String; 6] {
    let ComparedMeasure { name, kind, one, other, difference, finding, .. } = measure;
    let value = |found: &MeasuredValue| found.value.map_or("-".to_owned(), |value| shown(*kind, value));
    let bound = |bound: Option<f64>| bound.map_or("?".to_owned(), |bound| signed(*kind, bound));
    let change = |found: &MeasuredDifference| {
        format!("{} ({} to {})", signed(*kind, found.difference), bound(found.lower), bound(found.upper))
    };
    let p = |found: &MeasuredDifference| match found.p_value {
        0.001.. => format!("{:.3}", found.p_value),
        _ => "< 0.001".to_owned(),
    };
    let finding = match finding {
        ComparedFinding::NoData => "too little data",
        ComparedFinding::Undecided => "undecided",
        ComparedFinding::Better => "better",
        ComparedFinding::Worse => "WORSE",
        ComparedFinding::Higher => "higher",
        ComparedFinding::Lower => "lower",
    };
    [
        cell(&words(name)).to_string(),
        value(one),
        value(other),
        difference.as_ref().map_or("-".to_owned(), change),
        difference.as_ref().map_or("-".to_owned(), p),
        finding.to_owned(),
    ]
}

fn shown(kind: MeasureKind, value: f64) -> String {
    match kind {
        MeasureKind::Share => format!("{:.2}%", 100.0 * value),
        MeasureKind::Mean => format!("{value:.4}"),
        MeasureKind::Seconds => format!("{:.2} ms", 1e3 * value),
    }
}

fn signed(kind: MeasureKind, change: f64) -> String {
    match kind {
        MeasureKind::Share => format!("{:+.2}", 100.0 * change),
        MeasureKind::Mean => format!("{change:+.4}"),
        MeasureKind::Seconds => format!("{:+.2}", 1e3 * change),
    }
}
