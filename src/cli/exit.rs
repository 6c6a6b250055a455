//! The end of a command with an exit code of its own.

use std::fmt;

/// An error that ends the program with this exit code. Nothing is printed for an empty message.
#[derive(Debug)]
pub(super) struct Exit {
    pub(super) code: u8,
    pub(super) message: String,
}

impl Exit {
    /// Ends the program with this exit code, after the command has said everything.
    pub(super) fn silently(code: u8) -> anyhow::Error {
        Exit { code, message: String::new() }.into()
    }

    /// Ends the program with this exit code, and prints an error.
    pub(super) fn with(code: u8, error: &anyhow::Error) -> anyhow::Error {
        Exit { code, message: format!("{error:#}") }.into()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Exit {}
