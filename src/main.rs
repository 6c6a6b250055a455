//! The `leeway` program.

use std::process::ExitCode;

/// Faster than the allocator of the system for a few dozen small pieces a request, some of them freed by another thread,
/// and it returns the memory of a peak within seconds.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    leeway::cli::main()
}
