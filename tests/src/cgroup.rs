//! cgroups of simulated nodes: what socket hooks are attached to, and what makes sure that no
//! process outlives its topology.
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::wait::wait_until;

/// How long killed processes may take to leave their cgroup.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// A cgroup of version 2.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
    procs: Arc<File>,
}

impl Cgroup {
    /// Makes the cgroup `path`, and those above it.
    ///
    /// # Errors
    /// The directory cannot be made (needs root), or is not in a cgroup2 mount.
    pub fn create(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
        let procs = path.join("cgroup.procs");
        let procs = OpenOptions::new()
            .write(true)
            .open(&procs)
            .with_context(|| format!("cannot open {} for writing", procs.display()))?;
        Ok(Self { path, procs: Arc::new(procs) })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its `cgroup.procs` file, open for writing.
    #[must_use]
    pub fn procs(&self) -> Arc<File> {
        Arc::clone(&self.procs)
    }
}

/// The first cgroup2 mount of this machine.
///
/// # Errors
/// There is none.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    cgroup2_of(&mounts).context("no cgroup2 is mounted; mount one: mount -t cgroup2 none DIR")
}

/// The mount point of the first cgroup2 line of `/proc/mounts`.
fn cgroup2_of(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (directory, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(directory))
    })
}

/// Kills every process in `root` and below, and removes the cgroups. One that is gone is no error.
///
/// # Errors
/// A process does not die, or a cgroup cannot be removed.
pub fn remove_tree(root: &Path) -> Result<()> {
    if !root.exists() {
        return Ok(());
    }
    std::fs::write(root.join("cgroup.kill"), "1")
        .with_context(|| format!("cannot kill the processes of {}", root.display()))?;
    wait_until(KILL_DEADLINE, &format!("no process in {}", root.display()), || {
        let events = std::fs::read_to_string(root.join("cgroup.events")).unwrap_or_default();
        !events.contains("populated 1")
    })?;
    remove_directories(root).with_context(|| format!("cannot remove cgroup {}", root.display()))
}

/// Children first: a cgroup directory is removed only while it has none. Its files are not removed.
fn remove_directories(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_directories(&entry.path())?;
        }
    }
    std::fs::remove_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_point_is_that_of_version_two() {
        let mounts =
            "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_of(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_of("tmpfs /run tmpfs rw 0 0\n"), None);
    }
}
