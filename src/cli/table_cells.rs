//! Tables in the output of commands, and the texts of their cells.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width};
use jiff::Timestamp;

use super::terminal;
use crate::identity::printable;

/// Maximum length of a text in a cell, in bytes.
const MAX_CELL_BYTES: usize = 256;

/// Spaces on the left and on the right of a cell, beside the one between columns.
const PADDING: (u16, u16) = (0, 1);

/// A rule below the header, and none between the rows.
const STYLE: TableStyle = NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));

/// Returns an empty table for standard output, as wide as the terminal.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    table_of_width(header, terminal::columns())
}

/// Returns an empty table of this width in columns. Without a width, each row has a line of its own.
pub(super) fn table_of_width<const N: usize>(header: [&str; N], columns: Option<u16>) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(header);
    fit(&mut table, columns);
    for (column, name) in table.column_iter_mut().zip(header) {
        column.set_padding(PADDING);
        // The words of the header are not broken.
        let longest = name.split(' ').map(|word| word.chars().count() as u16).max().unwrap_or_default();
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(longest + PADDING.0 + PADDING.1)));
    }
    table
}

/// Breaks the texts of cells, so that the table is as wide as the terminal.
pub(super) fn fit(table: &mut Table, columns: Option<u16>) {
    if let Some(columns) = columns {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(columns);
    }
}

/// Aligns the numbers of these columns.
pub(super) fn align_right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Returns a table as text, without the spaces at the ends of its lines.
pub(super) fn text_of(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
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

/// Formats a duration in milliseconds; nothing for one that is not known.
pub(super) fn milliseconds(seconds: Option<f64>) -> String {
    match seconds.filter(|seconds| seconds.is_finite()).map(|seconds| seconds * 1_000.0) {
        None => "-".to_owned(),
        Some(ms) if ms < 9.95 => format!("{ms:.2}"),
        Some(ms) if ms < 99.5 => format!("{ms:.1}"),
        Some(ms) => format!("{ms:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_the_terminal() {
        let mut table = table_of_width(["version", "problem"], Some(40));
        table.add_row(["1", "the model's input \"x\" is float32[batch, 64], expected int64[batch, 64]"]);
        table.add_row(["2", ""]);
        let text = text_of(&table);
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert_eq!(text.matches('─').count(), text.lines().nth(1).unwrap().chars().count(), "{text}");
    }

    #[test]
    fn durations_have_three_digits() {
        let shown =
            [Some(0.000_123), Some(0.012_34), Some(0.123_4), Some(12.0), None, Some(f64::NAN)].map(milliseconds);
        assert_eq!(shown, ["0.12", "12.3", "123", "12000", "-", "-"]);
    }
}
