//! `podway remove`: leave the node as if Podway had never been there.
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::maps::Pins;

/// Step back from this node: remove the programs, the maps, their pins and the files of the run directory. The
/// agent must have ended. Flows that kube-proxy, or another proxy, can carry go on through that one; translated
/// ones end.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  podway remove\n  podway remove --pin-path /sys/fs/bpf/other --run-dir /run/other"
)]
pub(super) struct Remove {
    /// Where the agent pinned its maps.
    #[arg(long, default_value = super::PIN_PATH)]
    pin_path: PathBuf,
    /// The agent's --run-dir.
    #[arg(long, default_value = super::RUN_DIR)]
    run_dir: PathBuf,
}

/// Removes, and says so; the second time there is nothing left to remove, which is no error.
///
/// # Errors
/// An agent runs, or something cannot be removed.
pub(super) fn run(remove: &Remove) -> Result<String> {
    let pins = Pins::new(&remove.pin_path);
    let was_there = pins.root().exists() || remove.run_dir.exists();
    crate::agent::remove(&pins, &remove.run_dir)?;
    Ok(if was_there {
        format!("removed what was in {} and {}\n", remove.pin_path.display(), remove.run_dir.display())
    } else {
        "nothing to remove\n".to_owned()
    })
}
