//! A limit on the memory of a process: a control group of its own if the bench may make one, otherwise a data limit.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Mount point of the control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The limit on the memory of a process.
pub(crate) enum Confinement {
    /// A control group, removed when this value is dropped.
    Group { folder: PathBuf, is_version_1: bool },
    /// `RLIMIT_DATA`.
    DataLimit(u64),
}

impl Confinement {
    /// Makes a limit of `bytes`.
    pub(crate) fn new(bytes: u64) -> Confinement {
        let group = groups().into_iter().find_map(|(parent, is_version_1)| group_in(&parent, is_version_1, bytes));
        group.unwrap_or(Confinement::DataLimit(bytes))
    }

    /// Returns a command that replaces itself by this program, under the limit. Added arguments are the program's.
    pub(crate) fn command(&self, program: &Path) -> Command {
        match self {
            Confinement::Group { folder, .. } => {
                let mut command = Command::new("sh");
                command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]);
                command.arg(folder.join("cgroup.procs")).arg(program);
                command
            }
            Confinement::DataLimit(bytes) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--data={bytes}")).arg("--").arg(program);
                command
            }
        }
    }

    /// Returns the number of processes in the group that the kernel has killed.
    pub(crate) fn kills(&self) -> u64 {
        let Confinement::Group { folder, is_version_1 } = self else { return 0 };
        let file = if *is_version_1 { "memory.oom_control" } else { "memory.events" };
        let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
    }

    /// Returns the peak memory of the group, including kernel memory, in mebibytes.
    pub(crate) fn peak(&self) -> Option<f64> {
        let Confinement::Group { folder, is_version_1 } = self else { return None };
        let file = if *is_version_1 { "memory.max_usage_in_bytes" } else { "memory.peak" };
        let bytes: f64 = std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()?;
        Some(bytes / f64::from(1 << 20))
    }
}

impl std::fmt::Display for Confinement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Confinement::Group { folder, .. } => write!(f, "in the control group {}", folder.display()),
            Confinement::DataLimit(_) => {
                f.write_str("bounded by RLIMIT_DATA only, because making a control group requires root")
            }
        }
    }
}

impl Drop for Confinement {
    fn drop(&mut self) {
        if let Confinement::Group { folder, .. } = self {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// Returns the control groups around this process, innermost first, each with true if it is of version 1.
fn groups() -> Vec<(PathBuf, bool)> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let paths = || text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let version_1 = paths().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory"));
    let (top, path, is_version_1) = match version_1 {
        Some((_, path)) => (Path::new(CGROUPS).join("memory"), path, true),
        None => {
            (PathBuf::from(CGROUPS), paths().find(|(names, _)| names.is_empty()).map_or("/", |(_, path)| path), false)
        }
    };
    Path::new(path.trim_start_matches('/')).ancestors().map(|path| (top.join(path), is_version_1)).collect()
}

fn group_in(parent: &Path, is_version_1: bool, bytes: u64) -> Option<Confinement> {
    let folder = parent.join(format!("leeway-attack-{}", std::process::id()));
    if !is_version_1 {
        // Fails harmlessly if the controller cannot be enabled or is enabled already.
        let _ = std::fs::write(parent.join("cgroup.subtree_control"), "+memory");
    }
    std::fs::create_dir(&folder).ok()?;
    // From here on, the folder is removed even if a step fails.
    let group = Confinement::Group { folder: folder.clone(), is_version_1 };
    let limit = if is_version_1 { "memory.limit_in_bytes" } else { "memory.max" };
    std::fs::write(folder.join(limit), bytes.to_string()).ok()?;
    if !is_version_1 {
        let _ = std::fs::write(folder.join("memory.swap.max"), "0");
    }
    Some(group)
}
