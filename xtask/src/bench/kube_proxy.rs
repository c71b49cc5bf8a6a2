//! The binary of kube-proxy that is measured beside the agent.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The absolute path of a binary that says it is one of Kubernetes', as kube-proxy does.
///
/// # Errors
/// There is none, it cannot be run, or it says something else.
pub(crate) fn checked(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let absolute = std::path::absolute(path)?;
    let output = Command::new(&absolute).arg("--version").output();
    let output = output.with_context(|| format!("cannot run --kube-proxy {shown}"))?;
    let said = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    ensure!(
        output.status.success() && said.starts_with("Kubernetes v"),
        "--kube-proxy {shown} is no kube-proxy: asked for its version, it says {said:?} where `Kubernetes v…` is due"
    );
    Ok(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_is_not_there_is_told() {
        let error = format!("{:#}", checked("/nowhere/kube-proxy".as_ref()).unwrap_err());
        assert_eq!(
            error,
            "cannot run --kube-proxy /nowhere/kube-proxy: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn another_program_is_told() {
        let error = format!("{:#}", checked("/bin/true".as_ref()).unwrap_err());
        assert!(error.starts_with("--kube-proxy /bin/true is no kube-proxy"), "{error}");
    }
}
