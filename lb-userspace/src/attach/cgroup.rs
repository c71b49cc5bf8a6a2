//! The cgroup whose processes the socket hooks serve.
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// An open cgroup.
#[derive(Debug)]
pub(super) struct Cgroup {
    pub(super) dir: File,
    pub(super) inode: u64,
    pub(super) path: PathBuf,
}

impl Cgroup {
    /// Opens a cgroup2 directory: the given one, else the root of the hierarchy.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => mount_point()?.context(
                "cannot attach the socket hooks: no cgroup2 file system is mounted; mount one (mount -t \
                     cgroup2 none /sys/fs/cgroup) or give --no-socket-hooks",
            )?,
        };
        let dir = File::open(&path);
        let dir = dir.with_context(|| format!("cannot open cgroup {}; see --cgroup", path.display()))?;
        let inode = dir.metadata().with_context(|| format!("cannot look at {}", path.display()))?.ino();
        Ok(Self { dir, inode, path })
    }
}

/// Where the hierarchy is mounted, if it is.
///
/// # Errors
/// The mounts cannot be read.
pub fn mount_point() -> Result<Option<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    Ok(mount_point_in(&mounts))
}

/// Where `/proc/mounts` says that the hierarchy is.
fn mount_point_in(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cgroup2_mount_is_taken() {
        let mounts = "tmpfs /run tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point_in(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point_in("tmpfs /run tmpfs rw 0 0\n"), None);
    }
}
