//! Output to a terminal. Texts of models and of callers are escaped, so that they cannot move the cursor.

use std::io::{self, Stderr, Stdout, Write};

use crate::identity::is_unprintable;

/// Maximum length of a line of output, in bytes.
const MAX_LINE_BYTES: usize = 8 << 10;

/// Writer that escapes all characters that a terminal would interpret, and cuts off long lines.
pub(super) struct Printable<W> {
    out: W,
    /// Length of the current line, in bytes.
    line: usize,
}

/// Returns a writer to standard output, for text that people read.
pub(super) fn stdout() -> Printable<Stdout> {
    Printable { out: io::stdout(), line: 0 }
}

/// Returns a writer to standard error, for text that people read.
pub(super) fn stderr() -> Printable<Stderr> {
    Printable { out: io::stderr(), line: 0 }
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
        let mut out = Printable { out: Vec::new(), line: 0 };
        writeln!(out, "Größe \u{1b}[31m\u{0}\t\u{9b}2J\u{202e}").unwrap();
        writeln!(out, "{}", "x".repeat(20_000)).unwrap();
        writeln!(out, "over").unwrap();
        let text = String::from_utf8(out.out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Größe \\u{1b}[31m\\u{0}\\t\\u{9b}2J\\u{202e}");
        assert_eq!(lines[1], format!("{}…", "x".repeat(MAX_LINE_BYTES)));
        assert_eq!((lines[2], lines.len()), ("over", 3));
    }
}
