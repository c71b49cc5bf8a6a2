//! `cargo xtask build`: the release binary with the eBPF object inside.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::build_ebpf;
use crate::project::{Project, run};

/// Names the eBPF object to the build script that embeds it, and to tests that load it.
pub(crate) const OBJECT_VARIABLE: &str = "PODWAY_EBPF_OBJECT";

/// Names the `podway` binary to tests and to the demo, which start it.
pub(crate) const BINARY_VARIABLE: &str = "PODWAY_BINARY";

/// The command itself: builds, then prints the path and size of the binary.
pub(crate) fn run_command(project: &Project) -> Result<()> {
    let binary = release_binary(project)?;
    let size_mib = std::fs::metadata(&binary)?.len() as f64 / f64::from(1 << 20);
    println!("{} ({size_mib:.1} MiB)", binary.display());
    Ok(())
}

/// Builds `podway` in the release profile.
pub(crate) fn release_binary(project: &Project) -> Result<PathBuf> {
    let object = build_ebpf::build_object(project)?;
    cargo_build_release(project, &object)?;
    Ok(project.target().join("release/podway"))
}

fn cargo_build_release(project: &Project, object: &Path) -> Result<()> {
    run(project
        .cargo()
        .args(["build", "--release", "--locked", "--package", "lb-userspace", "--bin", "podway"])
        .env(OBJECT_VARIABLE, object))
    .context("cannot build the release binary")
}
