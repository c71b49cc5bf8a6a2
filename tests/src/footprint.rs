//! What a topology makes in the kernel and in file systems, by name: namespaces, cgroups,
//! pins and run directories.
//! Every name has the pid of its maker in it, so that a later run can remove what a process that
//! was killed has left behind.
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::{cgroup, netns};

/// Beginning of the names of namespaces; the maker's pid and a hyphen follow.
const NAMESPACE_PREFIX: &str = "pw";
/// Beginning of the names of cgroups and pin directories; the maker's pid and a hyphen follow.
const DIRECTORY_PREFIX: &str = "podway-";
/// Where pin directories are.
const BPFFS: &str = "/sys/fs/bpf";
/// Where agents' run directories are.
const RUN_DIR: &str = "/run";

/// Footprints of this process so far: parallel topologies differ in their number.
static FOOTPRINTS: AtomicU32 = AtomicU32::new(0);

/// The names of one topology. Dropping it kills the processes in its cgroup and removes all that has
/// one of the names.
#[derive(Debug)]
pub struct Footprint {
    /// The maker's pid and the number of the footprint.
    id: String,
    cgroup: PathBuf,
    is_removed: bool,
}

impl Footprint {
    /// New names; nothing is made yet. Removes what dead processes have left.
    ///
    /// # Errors
    /// No cgroup2 is mounted.
    pub fn new() -> Result<Self> {
        remove_orphans();
        let number = FOOTPRINTS.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}-{number}", std::process::id());
        let cgroup = cgroup::mount_point()?.join(format!("{DIRECTORY_PREFIX}{id}"));
        Ok(Self { id, cgroup, is_removed: false })
    }

    /// Name of a host's network namespace.
    #[must_use]
    pub fn namespace(&self, host: &str) -> String {
        format!("{NAMESPACE_PREFIX}{}-{host}", self.id)
    }

    /// A cgroup of the topology.
    #[must_use]
    pub fn cgroup(&self, group: &str) -> PathBuf {
        self.cgroup.join(group)
    }

    /// The directory on bpffs for the pins of a node.
    #[must_use]
    pub fn pins(&self, node: &str) -> PathBuf {
        Path::new(BPFFS).join(format!("{DIRECTORY_PREFIX}{}-{node}", self.id))
    }

    /// The directory for `--run-dir` of a node's agent.
    #[must_use]
    pub fn run_dir(&self, node: &str) -> PathBuf {
        Path::new(RUN_DIR).join(format!("{DIRECTORY_PREFIX}{}-{node}", self.id))
    }

    /// Kills the processes and removes everything; the second time it does nothing.
    ///
    /// # Errors
    /// Something stays; the rest is removed all the same.
    pub fn remove(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_removed, true) {
            return Ok(());
        }
        let processes = cgroup::remove_tree(&self.cgroup);
        let prefix = format!("{DIRECTORY_PREFIX}{}-", self.id);
        let pins = remove_directories(BPFFS, &prefix).and(remove_directories(RUN_DIR, &prefix));
        let prefix = self.namespace("");
        let namespaces = remove_namespaces(|name| name.starts_with(&prefix));
        processes.and(pins).and(namespaces)
    }
}

impl Drop for Footprint {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("harness: {error:#}; the next run tries again");
        }
    }
}

/// Removes the namespaces whose name is `wanted`.
fn remove_namespaces(wanted: impl Fn(&str) -> bool) -> Result<()> {
    let names = netns::namespace_names();
    let deletions: String =
        names.iter().filter(|name| wanted(name)).map(|name| format!("netns del {name}\n")).collect();
    if deletions.is_empty() { Ok(()) } else { netns::ip_batch(&["-force"], &deletions) }
}

/// Removes the directories right below `parent` whose name starts with `prefix`.
fn remove_directories(parent: &str, prefix: &str) -> Result<()> {
    for directory in directories(Path::new(parent), |name| name.starts_with(prefix)) {
        std::fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

/// Removes what makers that are dead have left. What cannot be removed stays for the next run:
/// another process may be at it too.
fn remove_orphans() {
    let is_orphan = |name: &str| is_orphan(name, DIRECTORY_PREFIX);
    if let Ok(mount) = cgroup::mount_point() {
        for group in directories(&mount, is_orphan) {
            let _ = cgroup::remove_tree(&group);
        }
    }
    for parent in [BPFFS, RUN_DIR] {
        for directory in directories(Path::new(parent), is_orphan) {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
    let _ = remove_namespaces(|name| self::is_orphan(name, NAMESPACE_PREFIX));
}

/// Directories right below `parent` whose name is `wanted`; none where `parent` cannot be read.
fn directories(parent: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .collect()
}

/// Whether the name is one of the harness's and its maker is dead.
fn is_orphan(name: &str, prefix: &str) -> bool {
    maker(name, prefix).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The pid in a name of the harness.
fn maker(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maker_is_read_from_names_of_the_harness_only() {
        assert_eq!(maker("pw4711-0-node-a", NAMESPACE_PREFIX), Some(4711));
        assert_eq!(maker("podway-12-1", DIRECTORY_PREFIX), Some(12));
        assert_eq!(maker("podway", DIRECTORY_PREFIX), None);
        assert_eq!(maker("pwx-1", NAMESPACE_PREFIX), None);
    }

    #[test]
    fn living_makers_leave_no_orphans() {
        let own = format!("pw{}-0-client", std::process::id());
        assert!(!is_orphan(&own, NAMESPACE_PREFIX));
        // One above the kernel's bound on pids (2^22).
        assert!(is_orphan("pw4194305-0-client", NAMESPACE_PREFIX));
    }
}
