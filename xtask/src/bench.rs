//! `cargo xtask bench`: the cost of a packet in the loaded programs, by test run.
use anyhow::Result;

use crate::build::OBJECT_VARIABLE;
use crate::privilege::Privilege;
use crate::project::{Project, run};
use crate::{build_ebpf, setup, test_binary};

/// Builds all that is measured as the user, and measures as root.
pub(crate) fn run_command(project: &Project) -> Result<()> {
    let privilege = Privilege::find()?;
    setup::system(privilege)?;
    let object = build_ebpf::build_object(project)?;
    let benches = test_binary::build(
        project,
        &["bench", "--package", "lb-tests", "--benches", "--no-run"],
        Some(&object),
    )?;
    for bench in benches.iter().filter(|bench| bench.kind == test_binary::Kind::Bench) {
        println!("bench: {}", bench.name);
        let mut command = privilege.command(&bench.path, [(OBJECT_VARIABLE, &object)]);
        bench.set_folder(&mut command);
        run(&mut command)?;
    }
    Ok(())
}
