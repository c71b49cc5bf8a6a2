//! Files and archives whose bytes depend on nothing but their content: no time, no user, one order.
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use ring::digest::{SHA256, digest};

/// Mode of a file that is read.
pub(super) const PLAIN: u32 = 0o644;
/// Mode of a program.
pub(super) const EXECUTABLE: u32 = 0o755;

/// The file with the SHA-256 of all others, as `sha256sum --check` takes it.
pub(super) const SUMS_NAME: &str = "SHA256SUMS";

/// A file of an archive.
pub(super) struct Entry {
    /// Where it is in the archive.
    pub(super) path: String,
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
}

/// Writes a file with a mode.
pub(super) fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    std::fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// A gzipped tar of these files, in the order of their paths.
pub(super) fn tar_gz(mut entries: Vec<Entry>) -> Result<Vec<u8>> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    let mut archive = tar::Builder::new(gzip);
    for Entry { path, content, mode } in &entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        archive
            .append_data(&mut header, path, content.as_slice())
            .with_context(|| format!("cannot put {path} into an archive"))?;
    }
    Ok(archive.into_inner()?.finish()?)
}

/// Writes [`SUMS_NAME`] for all files of a folder.
pub(super) fn write_sums(folder: &Path) -> Result<()> {
    let mut paths = files(folder)?;
    paths.sort();
    let mut sums = String::new();
    for path in paths {
        let content = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for byte in digest(&SHA256, &content).as_ref() {
            sums += &format!("{byte:02x}");
        }
        sums += &format!("  {}\n", path.strip_prefix(folder)?.display());
    }
    write(&folder.join(SUMS_NAME), sums.as_bytes(), PLAIN)
}

/// All files below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(self::files(&path)?),
            false => files.push(path),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry { path: path.into(), content: path.as_bytes().to_vec(), mode: PLAIN }
    }

    #[test]
    fn an_archive_does_not_depend_on_the_order_in_which_its_files_are_found() {
        let one = tar_gz(vec![entry("a/b"), entry("a/a"), entry("c")]).unwrap();
        let other = tar_gz(vec![entry("c"), entry("a/a"), entry("a/b")]).unwrap();
        assert_eq!(one, other);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(one.as_slice()));
        let paths =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        assert_eq!(paths.collect::<Vec<_>>(), ["a/a", "a/b", "c"]);
    }
}
