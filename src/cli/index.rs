//! `leeway index`: writes the list of files with which a static web server shows a repository.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::terminal;
use crate::repository::{INDEX_FILE, write_index};

#[derive(Debug, Args)]
pub(super) struct IndexArgs {
    /// Folder with the models
    folder: PathBuf,
}

pub(super) fn run(args: &IndexArgs) -> Result<()> {
    let (models, files) = write_index(&args.folder)?;
    let path = args.folder.join(INDEX_FILE);
    writeln!(terminal::stdout(), "Wrote {}: {models} models, {files} files.", path.display())?;
    Ok(())
}
