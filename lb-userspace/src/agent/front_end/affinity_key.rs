//! The key that signs affinity cookies.
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Its file in the run directory, where no other is named.
const FILE: &str = "affinity.key";
/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// The key in a file that all nodes share, or the node's own, made where there is none: cookies outlive the agent.
///
/// # Errors
/// The file cannot be read or made, or is shorter than a key.
pub(super) fn read(shared: Option<&Path>, run_dir: &Path) -> Result<[u8; KEY_BYTES]> {
    let own = run_dir.join(FILE);
    let path = shared.unwrap_or(&own);
    if shared.is_none() {
        make(path).with_context(|| format!("cannot make the key of affinity cookies {}", path.display()))?;
    }
    let mut key = [0; KEY_BYTES];
    File::open(path).and_then(|mut file| file.read_exact(&mut key)).with_context(|| {
        format!("cannot read a key of {KEY_BYTES} bytes for affinity cookies from {}", path.display())
    })?;
    Ok(key)
}

/// Removes the node's own key.
pub(super) fn remove(run_dir: &Path) -> Result<()> {
    let file = run_dir.join(FILE);
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Makes one of the system's randomness, unless it is there.
fn make(path: &Path) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let aside = path.with_extension("new");
    if path.exists() {
        return Ok(());
    }
    let mut key = [0; KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut key)?;
    let _ = std::fs::remove_file(&aside);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?.write_all(&key)?;
    match std::fs::rename(&aside, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_own_key_is_made_once_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        let run_dir = dir.path().join("run");
        let first = read(None, &run_dir).expect("a key");
        assert_ne!(first, [0; KEY_BYTES]);
        assert_eq!(read(None, &run_dir).expect("the same key"), first);
        let mode = std::fs::metadata(run_dir.join(FILE)).expect("its file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_shared_key_must_be_there_and_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("key");
        let error = format!("{:#}", read(Some(&file), dir.path()).expect_err("no file"));
        assert!(error.contains("cannot read a key of 32 bytes"), "{error}");
        std::fs::write(&file, [7; 31]).expect("a file");
        assert!(read(Some(&file), dir.path()).is_err());
        std::fs::write(&file, [7; 32]).expect("a file");
        assert_eq!(read(Some(&file), dir.path()).expect("a key"), [7; 32]);
    }
}
