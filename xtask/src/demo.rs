//! `cargo xtask demo`: builds the release binary and the demo, and runs the demo as root.
use anyhow::{Context, Result, bail};

use crate::build::{self, BINARY_VARIABLE, OBJECT_VARIABLE};
use crate::privilege::Privilege;
use crate::project::{Project, run};
use crate::setup;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave everything up until Ctrl-C, and print how to look around
    #[arg(long)]
    keep: bool,
    /// Print the results as JSON on standard output; all else goes to standard error
    #[arg(long)]
    json: bool,
}

/// The command itself.
pub(crate) fn run_command(project: &Project, arguments: &Arguments) -> Result<()> {
    let privilege = Privilege::find()?;
    setup::system(privilege)?;
    let binary = build::release_binary(project)?;
    let object = project.ebpf_object();
    run(project
        .cargo()
        .args(["build", "--locked", "--package", "lb-tests", "--bin", "podway-demo", "--bin", "lb-traffic"])
        .env(OBJECT_VARIABLE, &object))
    .context("cannot build the demo")?;
    // Ctrl-C goes to the demo as well, which takes everything down; this program waits for it.
    ctrlc::set_handler(|| {}).context("cannot take signals")?;
    let demo = project.target().join("debug/podway-demo");
    let mut command = privilege.command(&demo, [(OBJECT_VARIABLE, &object), (BINARY_VARIABLE, &binary)]);
    command.arg("--manifests").arg(project.examples());
    for (flag, is_set) in [("--keep", arguments.keep), ("--json", arguments.json)] {
        if is_set {
            command.arg(flag);
        }
    }
    let status = command.status().with_context(|| format!("cannot start {}", demo.display()))?;
    if !status.success() {
        bail!("the demo failed");
    }
    Ok(())
}
