//! Calls to the operating system: rights, lower priority, and limits for a process that may misbehave.

use std::path::Path;

use rustix::fs::{Access, access};
use rustix::process::{Resource, Rlimit};

use crate::machine;

/// The lowest priority: this thread, and those that it starts, run when nobody else wants to.
const NICEST: i32 = 19;

/// Lowers the priority of this thread for good (on Linux; elsewhere that of the process, so it is left alone there).
pub fn lower_priority_of_this_thread() {
    #[cfg(target_os = "linux")]
    lower_priority_of_this_process();
}

/// Checks that this process may change a file, or the contents of a folder, by its rights and the file system.
pub fn may_be_written(path: &Path) -> std::io::Result<()> {
    let search = if path.is_dir() { Access::EXEC_OK } else { Access::READ_OK };
    Ok(access(path, Access::WRITE_OK | search)?)
}

/// Returns the maximum number of open files, including sockets, of this process; `None` if there is no limit.
pub fn open_files_limit() -> Option<u64> {
    rustix::process::getrlimit(Resource::Nofile).current
}

/// Raises the limit of open files to the hard limit.
pub fn raise_open_files_limit() {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files could not be raised");
    }
}

/// Lowers the priority of this process, which has one thread yet.
fn lower_priority_of_this_process() {
    if let Err(error) = rustix::process::setpriority_process(None, NICEST) {
        tracing::debug!(%error, "the priority could not be lowered");
    }
}

/// Makes this process one that is only there to try something: at the lowest priority, with at most so much memory, the
/// first to be ended when there is none left (where a container is not ended as a whole), without a core dump, and gone when
/// its parent is.
pub(super) fn confine_this_process(memory: Option<u64>) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    machine::prefer_to_end_this_process();
    lower_priority_of_this_process();
    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    machine::forbid_core_dumps()?;
    if let Some(bytes) = memory {
        // What is written to; address space that is only reserved is not counted.
        rustix::process::setrlimit(Resource::Data, limit(bytes))?;
    }
    Ok(())
}
