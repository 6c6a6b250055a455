//! Tables in the output of commands, and the texts of their cells.

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use jiff::Timestamp;

use crate::identity::printable;

/// Maximum length of a text in a cell, in bytes.
const MAX_CELL_BYTES: usize = 256;

pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(header);
    table
}

/// Escapes a text for a table cell, so that its line breaks do not become rows.
pub(super) fn cell(text: &str) -> String {
    printable(text, MAX_CELL_BYTES).into_owned()
}

/// Formats a timestamp without fractions of a second.
pub(super) fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Replaces the underscores of a name such as `not_enough_data` by spaces.
pub(super) fn words(name: &str) -> String {
    name.replace('_', " ")
}
