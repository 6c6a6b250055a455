//! What was loaded, as a table for people or as lines for machines.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};

use crate::registry::{Snapshot, Target};
use crate::tensor::TensorSpec;

/// The loaded versions as a table.
pub(super) fn of_versions(snapshot: &Snapshot) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["model", "version", "sha256", "provider", "workers", "threads", "inputs", "outputs"]);
    for served in snapshot.versions() {
        let model = &served.pipeline.model;
        let default = snapshot.resolve(Target::Default).is_ok_and(|default| Arc::ptr_eq(default, served));
        table.add_row([
            served.model.to_string(),
            format!("{}{}", served.version, if default { " (default)" } else { "" }),
            served.sha256.short(),
            model.provider().name().to_owned(),
            model.workers().to_string(),
            served.intra_op_threads.to_string(),
            describe(&model.signature().inputs),
            describe(&model.signature().outputs),
        ]);
    }
    for column in [4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Shows the table where a person looks on. A machine has the `loaded` lines of the log.
pub(super) fn announce(snapshot: &Snapshot) {
    let mut err = std::io::stderr();
    if err.is_terminal() {
        let _ = writeln!(err, "{}", of_versions(snapshot));
    }
}

fn describe(tensors: &[TensorSpec]) -> String {
    let each: Vec<String> = tensors.iter().map(|spec| format!("{}: {}", spec.name, spec.describe())).collect();
    each.join("\n")
}
