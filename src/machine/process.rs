//! Priority, limits and end of this process, and commands that start the same program again.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use rustix::fs::{Access, access};
use rustix::process::{
    Resource, Rlimit, Signal, getpid, getpriority_process, getrlimit, getuid, kill_process,
    set_parent_process_death_signal, setpriority_process, setrlimit,
};

/// Environment variable that turns ONNX Runtime's telemetry off. From version 1.31 on, ONNX Runtime collects usage data
/// before its API can turn this off, so only the variable takes effect early enough.
const TELEMETRY_IS_OFF: &str = "ORT_DISABLE_TELEMETRY";

/// The lowest priority: a thread with it, and the threads that it starts, run when no other thread needs the core.
const NICEST: i32 = 19;

/// Lowers the priority of this thread permanently. Does so only on Linux: on other systems, it would affect the whole
/// process.
pub fn lower_priority_of_this_thread() {
    #[cfg(target_os = "linux")]
    lower_priority_of_this_process();
}

/// Checks that the permissions and the file system allow this process to change a file, or the contents of a folder.
pub fn may_be_written(path: &Path) -> io::Result<()> {
    let search = if path.is_dir() { Access::EXEC_OK } else { Access::READ_OK };
    Ok(access(path, Access::WRITE_OK | search)?)
}

/// Returns the id of the user of this process.
pub fn user_id() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Returns the name of the user of this process, if the system has one in `/etc/passwd`.
pub fn user_name() -> Option<String> {
    let id = getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let of_user = |line: &str| {
        let mut fields = line.split(':');
        let (name, _password, found) = (fields.next()?, fields.next()?, fields.next()?);
        (found == id && !name.is_empty()).then(|| name.to_owned())
    };
    users.lines().find_map(of_user)
}

/// Returns the maximum number of open files, including sockets, of this process; `None` if there is no limit.
pub fn open_files_limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the limit of open files to the hard limit.
pub fn raise_open_files_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files could not be raised");
    }
}

/// Lowers the priority of this process. On Linux, this affects only the calling thread and the threads that it starts
/// later.
fn lower_priority_of_this_process() {
    if let Err(error) = setpriority_process(None, NICEST) {
        tracing::debug!(%error, "the priority could not be lowered");
    }
}

/// Confines this process, which runs a trial: lowest priority, limited memory, no core dumps. The kernel kills it when
/// its parent ends. When memory runs out, the kernel kills it before other processes (unless it kills the container as
/// a whole).
pub fn confine_this_process(memory: Option<u64>) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    set_parent_process_death_signal(Some(Signal::KILL))?;
    prefer_to_end_this_process();
    lower_priority_of_this_process();
    let limit = |bytes| Rlimit { current: Some(bytes), maximum: Some(bytes) };
    forbid_core_dumps()?;
    if let Some(bytes) = memory {
        // Limits writable memory. Address space that is only reserved is not counted.
        setrlimit(Resource::Data, limit(bytes))?;
    }
    Ok(())
}

/// Returns a command that runs a subcommand of this program in another process, without the environment variables in
/// `hidden`.
pub fn part_of_this_program(program: &Path, subcommand: &str, hidden: &[OsString]) -> Command {
    let mut command = Command::new(program);
    command.arg(subcommand).env(TELEMETRY_IS_OFF, "1");
    hidden.iter().for_each(|name| {
        command.env_remove(name);
    });
    command
}

/// Runs `program`, the current program, again in this process, with ONNX Runtime's telemetry off. Does nothing if the
/// environment variable is already set. Must be called before other threads exist.
pub fn turn_telemetry_off(program: io::Result<PathBuf>) {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(TELEMETRY_IS_OFF).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "leeway".into());
    let error = match program {
        Ok(program) => Command::new(program).arg0(name).args(arguments).env(TELEMETRY_IS_OFF, "1").exec(),
        Err(error) => error,
    };
    let _ = writeln!(
        io::stderr(),
        "warning: ONNX Runtime's telemetry may be on ({error}); set {TELEMETRY_IS_OFF}=1 in the environment"
    );
}

/// Describes the end of a process, as in `ended with signal 11`.
pub fn describe_end(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("ended with signal {signal}"),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Forbids core dumps of this process: they would contain the weights and the callers' data.
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Makes the kernel kill this process first when memory is short (unless it kills the container as a whole).
pub fn prefer_to_end_this_process() {
    /// Highest score of the OOM killer: the process with it is killed first.
    const FIRST_TO_GO: &str = "1000";
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", FIRST_TO_GO) {
        tracing::debug!(%error, "the kernel could not be told to end this process first");
    }
}

/// Lowers the priority of the calling thread permanently. If there are too few cores, threads that serve connections or
/// run models go first.
pub fn give_way() {
    /// Increase of the nice value. It leaves the thread a third of the time that a thread of normal priority gets.
    const STEPS: i32 = 5;
    thread_local! {
        static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
    }
    // On other systems, this would lower the priority of the whole process.
    if cfg!(target_os = "linux")
        && !GIVES_WAY.replace(true)
        && let Err(error) = getpriority_process(None).and_then(|own| setpriority_process(None, own + STEPS))
    {
        tracing::debug!(%error, "the priority of a thread could not be lowered");
    }
}

/// Kills this process at once, even if its threads do not respond.
pub fn end_this_process() {
    // A process is always allowed to kill itself.
    let _ = kill_process(getpid(), Signal::KILL);
}
