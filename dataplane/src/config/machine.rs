//! Memory size of the machine, or of the process's cgroup if that is lower.

use std::path::{Path, PathBuf};

/// Returns the bytes available to this process.
pub(super) fn memory_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    let machine = (system.totalram as u64).saturating_mul(u64::from(system.mem_unit));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup_limit(Path::new("/sys/fs/cgroup"), &groups).map_or(machine, |limit| limit.min(machine))
}

/// Returns the lowest limit on the path from the process's cgroup to the root. A container's own root may hide the
/// groups above it.
fn cgroup_limit(root: &Path, groups: &str) -> Option<u64> {
    let files = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (base, name) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            "memory" => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return Vec::new(),
        };
        limit_files(&base, path, name)
    });
    // "max" and a missing file both mean no limit.
    files.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

fn limit_files(base: &Path, group: &str, name: &str) -> Vec<PathBuf> {
    let group = Path::new(group.trim_start_matches('/'));
    group.ancestors().map(|ancestor| base.join(ancestor).join(name)).collect()
}

/// Returns the host name, the default of the node's id.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    }

    #[test]
    fn lowest_cgroup_ancestor_limit_applies() {
        let folder = tempfile::tempdir().expect("folder");
        let root = folder.path();
        write(root.join("a/memory.max"), "1000\n");
        write(root.join("a/b/memory.max"), "max\n");
        assert_eq!(cgroup_limit(root, "0::/a/b\n"), Some(1000));
        assert_eq!(cgroup_limit(root, "0::/c\n"), None);
        write(root.join("memory/d/memory.limit_in_bytes"), "500\n");
        write(root.join("memory/memory.limit_in_bytes"), "9223372036854771712\n");
        assert_eq!(cgroup_limit(root, "5:cpu:/d\n4:memory:/d\n"), Some(500));
    }

    #[test]
    fn memory_and_host_name_are_known() {
        assert!(memory_bytes() > 1024 * 1024);
        assert!(!host_name().is_empty());
    }
}
