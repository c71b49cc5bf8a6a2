//! `cargo xtask dist`: all that a release is made of, the same bytes from the same source.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::build::OBJECT_VARIABLE;
use crate::build_ebpf;
use crate::project::{Project, run};

mod archive;
mod bill;
mod elf;

use archive::{EXECUTABLE, Entry, PLAIN};

/// What a release runs on.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The shells with a completion script, each with the name that it looks for.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "podway.bash"), ("zsh", "_podway"), ("fish", "podway.fish")];

/// Files that go into the image beside the program.
const IMAGE_TEXTS: [&str; 4] = ["LICENSE-APACHE", "LICENSE-GPL-2.0", "LICENSE-MIT", "THIRD-PARTY.json"];

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Pack this `podway` instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The folder to fill, of which all else goes; `dist` in cargo's target folder without it
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
}

/// The command itself: fills the folder and prints what is in it.
pub(crate) fn run_command(project: &Project, arguments: &Arguments) -> Result<()> {
    let binary = match &arguments.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => static_binary(project)?,
    };
    let folder = match &arguments.to {
        Some(folder) => std::path::absolute(folder)?,
        None => project.target().join("dist"),
    };
    let is_static = elf::is_static(&read(&binary)?);
    ensure!(
        is_static || arguments.binary.is_some(),
        "cannot pack {}: it needs shared libraries, which the image has not; is the C library there as an archive \
         (libc6-dev)?",
        binary.display()
    );
    if !is_static {
        eprintln!("dist: {} needs shared libraries, which the image has not", binary.display());
    }
    fill(project, &binary, &folder)?;
    print!("{}", std::fs::read_to_string(folder.join(archive::SUMS_NAME))?);
    Ok(())
}

/// Builds `podway` so that it needs no file of the system, and so that no folder of this machine is in it.
fn static_binary(project: &Project) -> Result<PathBuf> {
    let object = build_ebpf::build_object(project)?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
    flags.push(format!("--remap-path-prefix={}=podway", project.root().display()));
    if let Some(home) = home {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    let mut command = project.cargo();
    command.args(["build", "--release", "--locked", "--package", "lb-userspace", "--bin", "podway"]);
    // With a target of its own the flags do not reach the macros and build scripts, which are no programs.
    command.args(["--target", TARGET]);
    command.env(OBJECT_VARIABLE, object);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    run(&mut command).context("cannot build the static binary")?;
    Ok(project.target().join(TARGET).join("release/podway"))
}

fn fill(project: &Project, binary: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        // What is no release is not removed.
        let is_ours = folder.join(archive::SUMS_NAME).exists() || is_empty(folder)?;
        ensure!(
            is_ours,
            "cannot fill {}: it has files that are no release's; name another folder",
            folder.display()
        );
        std::fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let program = read(binary)?;
    let bill = bill::of_materials(project)?;
    archive::write(&folder.join("podway"), &program, EXECUTABLE)?;
    archive::write(&folder.join("podway.cdx.json"), bill.as_bytes(), PLAIN)?;
    archive::write(&folder.join("podway.yaml"), &read(&project.deploy().join("podway.yaml"))?, PLAIN)?;
    let profile = read(&project.deploy().join("seccomp/podway.json"))?;
    archive::write(&folder.join("seccomp-podway.json"), &profile, PLAIN)?;
    let image = image_context(project, program, &bill)?;
    archive::write(&folder.join("podway-image.tar.gz"), &archive::tar_gz(image)?, PLAIN)?;
    let chart = format!("podway-{}.tgz", env!("CARGO_PKG_VERSION"));
    archive::write(&folder.join(chart), &archive::tar_gz(chart_files(project)?)?, PLAIN)?;
    write_documents(binary, folder)?;
    archive::write_sums(folder)
}

fn is_empty(folder: &Path) -> Result<bool> {
    let mut entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.next().is_none())
}

/// What `docker build -` takes: the Dockerfile and what it copies.
fn image_context(project: &Project, program: Vec<u8>, bill: &str) -> Result<Vec<Entry>> {
    let dockerfile = read(&project.deploy().join("Dockerfile"))?;
    let mut entries = vec![
        Entry { path: "Dockerfile".into(), content: dockerfile, mode: PLAIN },
        Entry { path: "podway".into(), content: program, mode: EXECUTABLE },
    ];
    for name in IMAGE_TEXTS {
        let content = match name {
            "THIRD-PARTY.json" => bill.as_bytes().to_vec(),
            name => read(&project.root().join(name))?,
        };
        entries.push(Entry { path: name.into(), content, mode: PLAIN });
    }
    Ok(entries)
}

/// The chart in the form of `helm package`: all below a folder of the chart's name.
fn chart_files(project: &Project) -> Result<Vec<Entry>> {
    let chart = project.deploy().join("chart");
    let mut folders = vec![chart.join("podway")];
    let mut entries = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&chart)?.to_string_lossy().into_owned();
            entries.push(Entry { path: name, content: read(&path)?, mode: PLAIN });
        }
    }
    Ok(entries)
}

/// The completion scripts and manual pages, as the program itself writes them.
fn write_documents(binary: &Path, folder: &Path) -> Result<()> {
    let completions = folder.join("completions");
    std::fs::create_dir_all(&completions)?;
    for (shell, name) in COMPLETIONS {
        let output = Command::new(binary).args(["completions", shell]).output();
        let output = output.with_context(|| format!("cannot run {}", binary.display()))?;
        ensure!(
            output.status.success(),
            "`podway completions {shell}` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        archive::write(&completions.join(name), &output.stdout, PLAIN)?;
    }
    let pages = folder.join("man/man1");
    std::fs::create_dir_all(&pages)?;
    run(Command::new(binary).arg("man-pages").arg(&pages).stdout(std::process::Stdio::null()))
        .context("cannot write the manual pages")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
