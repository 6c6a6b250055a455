//! The `leeway` program.

use std::process::ExitCode;

/// A request allocates and frees a few dozen small pieces, and some of them on another thread: what it is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    leeway::cli::main()
}
