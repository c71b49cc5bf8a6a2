//! `podway snapshot`: all that the reading commands look at, in one file.
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::maps::Pins;
use crate::snapshot::{self, NodeSnapshot};

/// Write the maps, the programs and what the agent knows to one file, for `--snapshot FILE` of the reading commands on
/// any machine. It has addresses of clients and pods, and no Secrets. Changes nothing.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  podway snapshot\n  podway snapshot -o /tmp/node-a.tar.gz\n  \
    podway get endpoints --snapshot /tmp/node-a.tar.gz -o wide")]
pub(super) struct Snapshot {
    /// The file; without, podway-NODE-SECONDS.tar.gz in the working directory.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Most entries of each map that programs fill (flows, affinities, sockets, fragments); what is cut is said.
    #[arg(long, default_value_t = FLOWS_MAX)]
    flows_max: u32,
    /// Where the agent pins its maps.
    #[arg(long, default_value = super::PIN_PATH)]
    pin_path: PathBuf,
    /// The agent's --run-dir, where it answers what the maps do not hold.
    #[arg(long, default_value = super::RUN_DIR)]
    run_dir: PathBuf,
}

/// Some 40 MB of flows before they are packed.
const FLOWS_MAX: u32 = 262_144;

/// Writes the file and says what is in it.
///
/// # Errors
/// No maps are pinned there, they cannot be read, or the file cannot be written.
pub(super) fn run(arguments: &Snapshot) -> Result<String> {
    let taken = snapshot::take(&Pins::new(&arguments.pin_path), &arguments.run_dir, arguments.flows_max)?;
    let file = arguments.output.clone().unwrap_or_else(|| {
        PathBuf::from(format!("podway-{}-{}.tar.gz", taken.header.node, taken.header.taken_unix_ms / 1_000))
    });
    taken.write(&file)?;
    Ok(format!("{}{}\n", remarks(&taken), file.display()))
}

/// What is not in the file that could be.
fn remarks(taken: &NodeSnapshot) -> String {
    let cut = taken.header.maps.iter().filter(|map| map.is_cut);
    let mut text: String =
        cut.map(|map| format!("cut: {} has more than {} entries\n", map.name, map.entries)).collect();
    for left in &taken.header.left_out {
        text.push_str(&format!("left out: {}: {}\n", left.part, left.reason));
    }
    text
}
