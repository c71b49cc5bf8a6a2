//! `cargo xtask build-ebpf`: the kernel programs, as an object file.
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::project::{Project, run};
use crate::setup;

const PROFILE: &str = "bpf";
const TARGET: &str = "bpfel-unknown-none";

/// The binaries of `lb-ebpf`, with the names of the objects that they become: the programs of a node,
/// and the one that measures them.
const OBJECTS: [(&str, &str); 2] = [("podway-ebpf", "podway.o"), ("podway-bench-ebpf", "podway-bench.o")];

/// Builds the objects; gives the path of the one that nodes run.
pub(crate) fn build_object(project: &Project) -> Result<PathBuf> {
    let toolchain = setup::ebpf_toolchain(project)?;
    // A folder of its own: other flags and another toolchain would make cargo build everything anew
    // each time the two take turns.
    let folder = project.target().join("bpf-build");
    run(project
        .command("rustup")
        .args(["run", toolchain, "cargo", "build", "--quiet", "--locked"])
        .args(["--package", "lb-ebpf", "--features", "kernel", "--bins"])
        .args(["--profile", PROFILE, "-Z", "build-std=core", "--target", TARGET])
        .arg("--target-dir")
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&project.bpf_linker()))
        // Cargo sets these for what it runs; here they would name the stable toolchain.
        .env_remove("CARGO")
        .env_remove("RUSTC")
        .env_remove("RUSTUP_TOOLCHAIN"))
    .context("cannot build the eBPF object")?;
    let object = project.ebpf_object();
    for (binary, name) in OBJECTS {
        copy_if_changed(&folder.join(TARGET).join(PROFILE).join(binary), &object.with_file_name(name))?;
    }
    Ok(object)
}

/// The command itself.
pub(crate) fn run_command(project: &Project) -> Result<()> {
    let object = build_object(project)?;
    let size_bytes = std::fs::metadata(&object)?.len();
    println!("{} ({size_bytes} bytes)", object.display());
    Ok(())
}

/// The compiler's flags, separated by the byte that cargo asks for.
fn flags(linker: &Path) -> String {
    [
        format!("-Clinker={}", linker.display()),
        "-Cpanic=abort".into(),
        // The kernel's BTF, and line numbers in the verifier's log.
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // BPF has unaligned loads and stores; without these the compiler reads headers byte by byte.
        "-Ctarget-cpu=v3".into(),
        "-Ctarget-feature=+allows-misaligned-mem-access".into(),
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    ]
    .join("\u{1f}")
}

/// Leaves a file that has the same bytes already, so that cargo does not build what embeds it anew.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}
