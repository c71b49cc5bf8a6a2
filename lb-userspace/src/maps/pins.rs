//! Where maps and links are pinned: under a path that carries the layout version.
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lb_common::maps::LAYOUT_VERSION;

/// Where pins are when nothing else is said.
pub const PIN_PATH_DEFAULT: &str = "/sys/fs/bpf/podway";

/// The pin paths of one node.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Pins below `root`, a directory on a BPF file system, which need not exist.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The path that was given.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    /// The directory of the maps.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// The pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The directory of the links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// Whether the path, or what is there of it, is on a BPF file system.
    #[must_use]
    pub fn is_on_bpf_file_system(&self) -> bool {
        let nearest = self.root.ancestors().find(|path| path.exists());
        nearest.is_some_and(|path| is_bpf_file_system(path).unwrap_or(false))
    }

    /// The layout versions other than this one's that have pins below the path.
    ///
    /// # Errors
    /// The path cannot be read.
    pub fn other_layouts(&self) -> Result<Vec<u32>> {
        let mut others: Vec<u32> = self.versions()?.into_iter().map(|(version, _)| version).collect();
        others.retain(|version| *version != LAYOUT_VERSION);
        others.sort_unstable();
        Ok(others)
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// The path is not on a BPF file system, or the process may not write there.
    pub fn create(&self) -> Result<()> {
        for dir in [self.maps(), self.links()] {
            std::fs::create_dir_all(&dir).with_context(|| self.cannot_make(&dir))?;
        }
        anyhow::ensure!(
            is_bpf_file_system(&self.root).with_context(|| self.cannot_make(&self.root))?,
            "cannot pin maps in {}: it is not on a BPF file system; mount one (mount -t bpf bpf /sys/fs/bpf), \
             and note that `ip netns exec` hides it: use `nsenter --net=` instead",
            self.root.display()
        );
        Ok(())
    }

    fn cannot_make(&self, dir: &Path) -> String {
        format!(
            "cannot make {}: run as root with a BPF file system at the pin path (--pin-path {})",
            dir.display(),
            self.root.display()
        )
    }

    /// Removes all pins and directories, those of other layout versions too: links first, so that no
    /// program runs on half of its maps.
    ///
    /// # Errors
    /// A pin that cannot be removed.
    pub fn remove(&self) -> Result<()> {
        self.versions()?.iter().try_for_each(|(_, dir)| self.remove_version(dir))?;
        removed(&self.root)
    }

    /// Removes the pins of one layout version: links first.
    pub(super) fn remove_version(&self, dir: &Path) -> Result<()> {
        removed(&dir.join("links"))?;
        removed(&dir.join("maps"))?;
        removed(dir)
    }

    /// The directories of older layout versions, the newest last.
    pub(super) fn older(&self) -> Result<Vec<(u32, PathBuf)>> {
        Ok(self.versions()?.into_iter().filter(|(version, _)| *version < LAYOUT_VERSION).collect())
    }

    /// The directories of newer layout versions.
    pub(super) fn newer(&self) -> Result<Vec<(u32, PathBuf)>> {
        Ok(self.versions()?.into_iter().filter(|(version, _)| *version > LAYOUT_VERSION).collect())
    }

    /// The directories of all layout versions, in their order.
    fn versions(&self) -> Result<Vec<(u32, PathBuf)>> {
        let cannot = || format!("cannot read {}", self.root.display());
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(cannot)?,
        };
        let mut versions = Vec::new();
        for entry in entries {
            let path = entry.with_context(cannot)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.strip_prefix('v')?.parse().ok());
            versions.extend(number.map(|number| (number, path.clone())));
        }
        versions.sort_unstable();
        Ok(versions)
    }
}

fn removed(dir: &Path) -> Result<()> {
    remove_dir(dir).with_context(|| format!("cannot remove the pins in {}", dir.display()))
}

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

fn is_bpf_file_system(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type == BPF_FS_MAGIC)
}

/// Removes a directory and the pins in it; one that still has directories stays.
fn remove_dir(dir: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            std::fs::remove_file(entry.path())?;
        }
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_other_folders_and_are_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["v10", "v2", "v9", &format!("v{LAYOUT_VERSION}"), "var", "2"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let pins = Pins::new(dir.path());
        let numbers =
            |found: Vec<(u32, PathBuf)>| found.into_iter().map(|(number, _)| number).collect::<Vec<_>>();
        assert_eq!(numbers(pins.older().unwrap()), [2]);
        assert_eq!(numbers(pins.newer().unwrap()), [9, 10]);
    }
}
