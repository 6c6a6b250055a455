//! `leeway man`: writes the manual pages of all commands.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Folder for the pages, as in /usr/local/share/man/man1
    folder: PathBuf,
}

/// Writes the pages of this command line.
pub(super) fn run(args: &ManArgs, command_line: Command) -> Result<()> {
    let folder = &args.folder;
    let write = || {
        std::fs::create_dir_all(folder)?;
        clap_mangen::generate_to(command_line, folder)
    };
    write().with_context(|| format!("{} cannot be written", folder.display()))?;
    writeln!(std::io::stdout(), "the pages are in {}: man -l {}", folder.display(), folder.join("leeway.1").display())?;
    Ok(())
}
