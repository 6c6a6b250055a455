//! The `leeway` program.

use std::process::ExitCode;

/// jemalloc is faster than the system's allocator for the few dozen small allocations of a request, some of which
/// another thread frees, and it returns the memory of a peak within seconds.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    leeway::cli::main()
}
