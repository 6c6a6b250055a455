//! The `leeway` command; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    leeway::cli::main()
}
