//! Memory and threads that the machine leaves to this process, according to its control groups (`cgroup` 1 and 2) and
//! the kernel.
//!
//! A limit that cannot be read is ignored. Also describes the processor.

use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Mount point of the control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Describes the processor: its model and its instructions. Machines with the same description run the same code of ONNX
/// Runtime. `None` if the system does not tell.
pub fn processor() -> Option<String> {
    const TELLING: [&str; 12] = [
        "vendor_id",
        "cpu family",
        "model",
        "model name",
        "stepping",
        "cache size",
        "flags",
        "CPU implementer",
        "CPU architecture",
        "CPU variant",
        "CPU part",
        "Features",
    ];
    let told = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let of_first = told.split("\n\n").next()?.lines().filter_map(|line| line.split_once(':'));
    let telling = of_first.filter(|(name, _)| TELLING.contains(&name.trim()));
    let lines: Vec<String> = telling.map(|(name, value)| format!("{}: {}", name.trim(), value.trim())).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Returns the bytes that are free for this process in the file system of a folder.
pub fn free_disk(folder: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Returns the memory limit of this process: the smaller of its control group's limit and the machine's memory.
pub fn memory_limit() -> Option<u64> {
    let of_group = Group::of_this_process("memory").and_then(|group| group.memory_limit());
    smaller(of_group, of_meminfo("MemTotal"))
}

/// Returns the memory that is free, plus the memory that the kernel can free by dropping cached files.
pub fn available_memory() -> Option<u64> {
    let of_group = Group::of_this_process("memory").and_then(|group| group.memory_left());
    smaller(of_group, of_meminfo("MemAvailable"))
}

/// Returns the number of threads that this process may still start: the smaller remainder of its control group's limit
/// and its user's limit. The threads of the user's other processes are not counted.
pub fn threads_left() -> Option<u64> {
    let of_group = Group::of_this_process("pids").and_then(|group| group.threads_left());
    let of_user = getrlimit(Resource::Nproc).current.map(|most| most.saturating_sub(own_threads()));
    smaller(of_group, of_user)
}

/// Returns the memory that is left in the control group of this process; `None` if the group has no limit.
pub fn memory_left_in_group() -> Option<u64> {
    Group::of_this_process("memory").and_then(|group| group.memory_left())
}

/// Limits the data of this process to its current size plus `available` bytes. An allocation then fails before the
/// kernel kills the process, and a failed allocation in ONNX Runtime costs only one request.
pub fn limit_data(available: u64) -> io::Result<()> {
    let Some(data) = own_data() else { return Ok(()) };
    let maximum = getrlimit(Resource::Data).maximum;
    let most = data.saturating_add(available);
    let current = maximum.map_or(most, |maximum| most.min(maximum));
    Ok(setrlimit(Resource::Data, Rlimit { current: Some(current), maximum })?)
}

/// Memory of this process at the start of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct MemoryBefore {
    resident: u64,
    peak: u64,
}

/// Starts to measure the peak memory of this process; `None` if the system does not support this.
pub fn reset_peak_memory() -> Option<MemoryBefore> {
    // Resets `VmHWM`. If this fails, only a peak above the earlier one is measured.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(MemoryBefore { resident: of_status(&status, "VmRSS")?, peak: of_status(&status, "VmHWM")? })
}

impl MemoryBefore {
    /// Returns the growth from the start of the measurement to the peak, in bytes.
    pub fn taken(self) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = of_status(&status, "VmHWM").filter(|peak| *peak > self.peak);
        peak.map_or(0, |peak| peak.saturating_sub(self.resident))
    }
}

fn smaller(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

fn own_threads() -> u64 {
    std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count() as u64)
}

/// Returns the writable private memory that is mapped in this process, touched or not: the amount that `RLIMIT_DATA`
/// limits.
fn own_data() -> Option<u64> {
    of_status(&std::fs::read_to_string("/proc/self/status").ok()?, "VmData")
}

/// Returns the value of this name in `/proc/meminfo`, in bytes.
fn of_meminfo(name: &str) -> Option<u64> {
    of_status(&std::fs::read_to_string("/proc/meminfo").ok()?, name)
}

/// Returns the value of this name in a text with lines like `MemTotal:  24593 kB`, in bytes.
fn of_status(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A control group and its parents, innermost first.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    folders: Vec<PathBuf>,
}

impl Group {
    fn of_this_process(controller: &str) -> Option<Group> {
        Group::of(&std::fs::read_to_string("/proc/self/cgroup").ok()?, controller, Path::new(CGROUPS))
    }

    /// Parses the text of `/proc/self/cgroup`: lines of `number:controllers:path`. In version 2, the controllers are
    /// empty.
    fn of(text: &str, controller: &str, mounted: &Path) -> Option<Group> {
        let paths = || text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let version_1 = paths().find(|(controllers, _)| controllers.split(',').any(|name| name == controller));
        let (top, path) = match version_1 {
            Some((_, path)) => (mounted.join(controller), path),
            None => (mounted.to_owned(), paths().find(|(controllers, _)| controllers.is_empty())?.1),
        };
        let inner = Path::new(path.trim_start_matches('/'));
        // In a container, the path may be the path on the host, although only the container's own group is mounted.
        Some(Group { folders: inner.ancestors().map(|path| top.join(path)).collect() })
    }

    /// Returns the smallest value that is found in the folders of these groups.
    fn smallest(&self, value: impl Fn(&Path) -> Option<u64>) -> Option<u64> {
        self.folders.iter().filter_map(|folder| value(folder)).min()
    }

    fn memory_limit(&self) -> Option<u64> {
        self.smallest(|folder| memory_of(folder).map(|(limit, _)| limit))
    }

    fn memory_left(&self) -> Option<u64> {
        self.smallest(|folder| {
            let (limit, taken) = memory_of(folder)?;
            let statistics = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
            let reclaimable = |name: &str| {
                let value = |prefix: String| {
                    let rest = statistics.lines().find_map(|line| line.strip_prefix(&prefix)?.strip_prefix(' '))?;
                    rest.trim().parse::<u64>().ok()
                };
                // In version 1, only the totals include nested groups.
                value(format!("total_{name}")).or_else(|| value(name.to_owned())).unwrap_or(0)
            };
            let cached: u64 = ["inactive_file", "active_file", "slab_reclaimable"].map(reclaimable).iter().sum();
            Some(limit.saturating_sub(taken.saturating_sub(cached)))
        })
    }

    fn threads_left(&self) -> Option<u64> {
        self.smallest(|folder| {
            let limit = number_in(&folder.join("pids.max"))?;
            Some(limit.saturating_sub(number_in(&folder.join("pids.current")).unwrap_or(0)))
        })
    }
}

/// Returns the memory limit of a control group, and the memory that the group uses.
fn memory_of(folder: &Path) -> Option<(u64, u64)> {
    // The value for "no limit" in version 1.
    const NO_LIMIT: u64 = i64::MAX as u64 >> 12 << 12;
    let pair = |limit: &str, taken: &str| {
        let limit = number_in(&folder.join(limit)).filter(|limit| *limit < NO_LIMIT)?;
        Some((limit, number_in(&folder.join(taken)).unwrap_or(0)))
    };
    pair("memory.max", "memory.current").or_else(|| pair("memory.limit_in_bytes", "memory.usage_in_bytes"))
}

/// Reads a file that contains one number; `None` for `max`.
fn number_in(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_smallest_limit_of_all_groups_around_counts() {
        let mounted = tempfile::tempdir().unwrap();
        let pod = mounted.path().join("kubepods/pod");
        write(
            &pod,
            &[
                ("memory.max", "1000\n"),
                ("memory.current", "300\n"),
                ("memory.stat", "anon 1\ninactive_file 30\nactive_file 15\nslab_reclaimable 5\n"),
            ],
        );
        write(&pod.join("container"), &[("memory.max", "max\n"), ("pids.max", "100\n"), ("pids.current", "40\n")]);
        let group = Group::of("0::/kubepods/pod/container\n", "memory", mounted.path()).unwrap();
        assert_eq!(group.memory_limit(), Some(1000));
        assert_eq!(group.memory_left(), Some(1000 - (300 - 50)));
        assert_eq!(group.threads_left(), Some(60));
    }

    #[test]
    fn version_1_is_read_as_well() {
        let mounted = tempfile::tempdir().unwrap();
        let inner = mounted.path().join("memory/docker/abc");
        write(&inner, &[("memory.limit_in_bytes", "5000\n"), ("memory.usage_in_bytes", "1200\n")]);
        write(&mounted.path().join("memory"), &[("memory.limit_in_bytes", "9223372036854771712\n")]);
        let text = "9:cpu,cpuacct:/docker/abc\n8:memory:/docker/abc\n0::/\n";
        let group = Group::of(text, "memory", mounted.path()).unwrap();
        assert_eq!((group.memory_limit(), group.memory_left()), (Some(5000), Some(3800)));
        let none = Group::of("8:memory:/\n", "memory", mounted.path()).unwrap();
        assert_eq!(none.memory_limit(), None);
    }

    #[test]
    fn this_machine_has_memory() {
        let (limit, available) = (memory_limit().unwrap(), available_memory().unwrap());
        assert!(available <= limit, "{available} {limit}");
        assert!(own_data().unwrap() > 0);
    }
}
