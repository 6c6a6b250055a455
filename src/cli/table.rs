//! The loaded versions, as a table for people.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::table_cells::{align_right, cell, table_of_width, text_of};
use super::terminal;
use crate::model::{Lengths, OnnxModel};
use crate::pipeline::Pipeline;
use crate::registry::{ServedChain, ServedPipeline, Snapshot, Work};
use crate::tensor::TensorSpec;

/// Returns the loaded versions as a table of this width in columns, and lines about what does not fit into it.
pub(super) fn of_versions(snapshot: &Snapshot, columns: Option<u16>) -> String {
    let header = ["model", "version", "traffic", "sha256", "provider", "threads", "budget"];
    let mut table = table_of_width(header, columns);
    let mut lines = Vec::new();
    for served in snapshot.versions() {
        let traffic = snapshot.model(served.model.as_str()).map(|(_, model)| model.split.share(served.version));
        let (provider, threads, details) = match &served.work {
            Work::Pipeline(ServedPipeline { stages: Pipeline { model, .. }, intra_op_threads, findings, .. }) => {
                let mut details = vec![
                    format!("  inputs: {}", describe(&model.signature().inputs)),
                    format!("  outputs: {}", describe(&model.signature().outputs)),
                    format!("  a run takes: {}", run_times(model)),
                ];
                details.extend(findings.sizing.iter().map(|sizing| format!("  chosen: {}", sizing.reason)));
                (model.provider().name().to_owned(), format!("{} × {intra_op_threads}", model.workers()), details)
            }
            Work::Chain(ServedChain { chain, .. }) => {
                let models: Vec<&str> = chain.steps.iter().map(|step| step.model.as_str()).collect();
                let of_steps = || "of its steps".to_owned();
                (of_steps(), of_steps(), vec![format!("  steps: {}", models.join(" → "))])
            }
        };
        table.add_row([
            served.model.to_string(),
            served.version.to_string(),
            traffic.unwrap_or_default().to_string(),
            served.sha256.short(),
            provider,
            threads,
            format!("{} ms", served.budget.total.as_millis()),
        ]);
        lines.push(format!("{} version {}:", served.model, served.version));
        lines.extend(details);
    }
    align_right(&mut table, [1, 2, 6]);
    format!("{}\n\n{}", text_of(&table), lines.join("\n"))
}

/// Writes the table of the loaded versions to standard error, if it is a terminal. Machines read the `loaded` lines of
/// the log instead.
pub(super) fn announce(snapshot: &Snapshot) {
    if std::io::stderr().is_terminal() {
        let columns = crossterm::terminal::size().ok().map(|(columns, _)| columns);
        let _ = writeln!(terminal::stderr(), "{}", of_versions(snapshot, columns));
    }
}

/// Formats the durations of a version's smallest and largest run, or the duration by its size where rows differ in length, if
/// they were measured before the start.
fn run_times(model: &OnnxModel) -> String {
    let policy = model.policy();
    let of_size = |unit: &str| {
        let line = model.typical_line()?;
        let (run, more) = (Duration::from_secs_f64(line.b), Duration::from_secs_f64(1000.0 * line.a));
        Some(format!("{run:.1?}, and {more:.1?} for each 1000 {unit}"))
    };
    let of_rows = || {
        let shown = |rows: usize| {
            let takes = model.typical_run(rows)?;
            let rows = if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
            Some(format!("{rows}: {takes:.1?}"))
        };
        let mut times: Vec<String> = [policy.fewest_rows(), policy.most_rows()].into_iter().filter_map(shown).collect();
        times.dedup();
        (!times.is_empty()).then(|| times.join(", "))
    };
    let times = match policy.lengths {
        Lengths::Alike => of_rows(),
        Lengths::Padded => of_size("tokens"),
        Lengths::Varied => of_size("elements"),
    };
    times.unwrap_or_else(|| "not known yet".to_owned())
}

fn describe(tensors: &[TensorSpec]) -> String {
    let each: Vec<String> = tensors.iter().map(|spec| format!("{} {}", cell(&spec.name), spec.describe())).collect();
    each.join(", ")
}
