//! The loaded versions, as a table for people.

use std::io::{IsTerminal, Write};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};

use super::terminal;
use crate::model::OnnxModel;
use crate::pipeline::Pipeline;
use crate::registry::{ServedChain, ServedPipeline, Snapshot, Work};
use crate::tensor::TensorSpec;

/// Returns the loaded versions as a table.
pub(super) fn of_versions(snapshot: &Snapshot) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "model",
        "version",
        "traffic",
        "sha256",
        "provider",
        "workers × threads",
        "budget",
        "a run takes",
        "inputs",
        "outputs",
    ]);
    for served in snapshot.versions() {
        let traffic = snapshot.model(served.model.as_str()).map(|(_, model)| model.split.share(served.version));
        let [provider, threads, runs, inputs, outputs] = match &served.work {
            Work::Pipeline(ServedPipeline { stages: Pipeline { model, .. }, intra_op_threads, .. }) => [
                model.provider().name().to_owned(),
                format!("{} × {intra_op_threads}", model.workers()),
                run_times(model),
                describe(&model.signature().inputs),
                describe(&model.signature().outputs),
            ],
            Work::Chain(ServedChain { chain, .. }) => {
                let models: Vec<&str> = chain.steps.iter().map(|step| step.model.as_str()).collect();
                let of_steps = || "of its steps".to_owned();
                [of_steps(), of_steps(), models.join(" → "), String::new(), String::new()]
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
            runs,
            inputs,
            outputs,
        ]);
    }
    if let Some(budget) = table.column_mut(6) {
        budget.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Writes the table of the loaded versions to standard error, if it is a terminal. Machines read the `loaded` lines of
/// the log instead.
pub(super) fn announce(snapshot: &Snapshot) {
    if std::io::stderr().is_terminal() {
        let _ = writeln!(terminal::stderr(), "{}", of_versions(snapshot));
    }
}

/// Formats the durations of a version's smallest and largest run, if they were measured before the start.
fn run_times(model: &OnnxModel) -> String {
    let (fewest, most) = (model.policy().fewest_rows(), model.policy().most_rows());
    let shown = |rows: usize| {
        let takes = model.typical_run(rows)?;
        let rows = if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
        Some(format!("{rows}: {takes:.1?}"))
    };
    let mut times: Vec<String> = [fewest, most].into_iter().filter_map(shown).collect();
    times.dedup();
    if times.is_empty() { "not known yet".to_owned() } else { times.join("\n") }
}

fn describe(tensors: &[TensorSpec]) -> String {
    let each: Vec<String> = tensors.iter().map(|spec| format!("{}: {}", spec.name, spec.describe())).collect();
    each.join("\n")
}
