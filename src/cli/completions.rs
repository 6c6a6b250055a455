//! `leeway completions`: prints the completions of the command line for a shell.

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the completions of this command line.
pub(super) fn run(args: &CompletionsArgs, mut command_line: Command) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command_line, "leeway", &mut script);
    Ok(std::io::Write::write_all(&mut std::io::stdout(), &script)?)
}
