//! Output to a terminal. Texts of models and of callers are escaped, so that they cannot move the cursor.

use std::io::{self, IsTerminal, Stderr, Stdout, Write};

use crate::config::{columns_of_environment, is_colour_unwanted};
use crate::identity::is_unprintable;

/// Maximum length of a line of output, in bytes.
const MAX_LINE_BYTES: usize = 8 << 10;

/// Words that call for attention. On a terminal, they are red.
const ALARMING: [&str; 9] =
    ["ALTERED", "NOT READY", "NOT SERVED", "NOT WRITTEN YET", "WARNING", "drifted", "error:", "problem:", "refused"];
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// Writer that escapes all characters that a terminal would interpret, and cuts off long lines.
pub(super) struct Printable<W> {
    out: W,
    has_colours: bool,
    /// Length of the current line, in bytes.
    line: usize,
}

/// Returns a writer to standard output, for text that people read.
pub(super) fn stdout() -> Printable<Stdout> {
    let has_colours = io::stdout().is_terminal() && !is_colour_unwanted();
    Printable { out: io::stdout(), has_colours, line: 0 }
}

/// Returns a writer to standard error, for text that people read.
pub(super) fn stderr() -> Printable<Stderr> {
    let has_colours = io::stderr().is_terminal() && !is_colour_unwanted();
    Printable { out: io::stderr(), has_colours, line: 0 }
}

/// Returns the width of standard output in columns: that of the variable `COLUMNS`, or else that of the terminal. `None` if
/// there is neither.
pub(super) fn columns() -> Option<u16> {
    let of_terminal = || io::stdout().is_terminal().then(crossterm::terminal::size)?.ok().map(|(columns, _)| columns);
    columns_of_environment().or_else(of_terminal)
}

impl<W: Write> Write for Printable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut shown = String::with_capacity(bytes.len());
        for c in String::from_utf8_lossy(bytes).chars() {
            if c == '\n' {
                self.line = 0;
                shown.push(c);
                continue;
            }
            if self.line < MAX_LINE_BYTES {
                let before = shown.len();
                if is_unprintable(c) {
                    shown.extend(c.escape_default())
                } else {
                    shown.push(c)
                }
                self.line += shown.len() - before;
                if self.line >= MAX_LINE_BYTES {
                    shown.push('…');
                }
            }
        }
        if self.has_colours {
            for word in ALARMING {
                shown = shown.replace(word, &format!("{RED}{word}{PLAIN}"));
            }
        }
        self.out.write_all(shown.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_escaped() {
        let mut out = Printable { out: Vec::new(), has_colours: false, line: 0 };
        writeln!(out, "Größe \u{1b}[31m\u{0}\t\u{9b}2J\u{202e}").unwrap();
        writeln!(out, "{}", "x".repeat(20_000)).unwrap();
        writeln!(out, "over").unwrap();
        let text = String::from_utf8(out.out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Größe \\u{1b}[31m\\u{0}\\t\\u{9b}2J\\u{202e}");
        assert_eq!(lines[1], format!("{}…", "x".repeat(MAX_LINE_BYTES)));
        assert_eq!((lines[2], lines.len()), ("over", 3));
    }

    #[test]
    fn alarming_words_are_red_on_a_terminal() {
        let mut out = Printable { out: Vec::new(), has_colours: true, line: 0 };
        out.write_all(b"1  refused (model)").unwrap();
        assert_eq!(String::from_utf8(out.out).unwrap(), "1  \u{1b}[31mrefused\u{1b}[0m (model)");
    }
}
