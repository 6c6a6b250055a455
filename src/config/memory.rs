//! The memory that this process may have: its cgroup's, or the machine's.

use std::path::{Path, PathBuf};

/// Where control groups are, by version: the folder, and the file with the limit.
const VERSION_2: (&str, &str) = ("/sys/fs/cgroup", "memory.max");
const VERSION_1: (&str, &str) = ("/sys/fs/cgroup/memory", "memory.limit_in_bytes");

/// The most memory that this process may have, in bytes: the least of what its control groups and the machine have.
/// `None` where neither can be told.
pub fn available_memory() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let of_groups = read(Path::new("/proc/self/cgroup")).and_then(|groups| limit_of_groups(&groups, &read));
    let of_machine = read(Path::new("/proc/meminfo")).and_then(|text| total_of_machine(&text));
    of_groups.into_iter().chain(of_machine).min()
}

/// The least limit of the groups in `groups` (`/proc/self/cgroup`) and of those above them.
fn limit_of_groups(groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut files: Vec<PathBuf> = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => VERSION_2,
            _ if controllers.split(',').any(|controller| controller == "memory") => VERSION_1,
            _ => continue,
        };
        // In a container the path may be that of the host, which is not there; its own group is at the root.
        let ancestors = Path::new(path.trim_start_matches('/')).ancestors();
        files.extend(ancestors.map(|group| Path::new(root).join(group).join(file)));
    }
    files.iter().filter_map(|file| read(file)?.trim().parse().ok()).min()
}

/// The memory of the machine, from `/proc/meminfo`.
fn total_of_machine(text: &str) -> Option<u64> {
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim();
    kib.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(groups: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let read =
            |path: &Path| files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| format!("{text}\n"));
        assert_eq!(limit_of_groups(groups, &read), expected, "{groups}");
    }

    #[test]
    fn the_least_limit_of_all_groups_above_counts() {
        let two = ("/sys/fs/cgroup/a/b/memory.max", "max");
        let above = ("/sys/fs/cgroup/a/memory.max", "2147483648");
        check("0::/a/b\n", &[two, above], Some(2 << 30));
        check("0::/\n", &[("/sys/fs/cgroup/memory.max", "1024")], Some(1024));
        check("0::/\n", &[], None);
        // Version 1, in a container that sees the host's path.
        let own = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096");
        check("5:cpu,memory:/docker/x\n0::/\n", &[own], Some(4096));
        check("4:cpu:/a\n", &[own], None);
    }

    #[test]
    fn the_machine_says_what_it_has() {
        assert_eq!(total_of_machine("MemTotal:       24000 kB\nMemFree: 1 kB\n"), Some(24000 * 1024));
        assert_eq!(total_of_machine(""), None);
    }
}
