//! `cargo xtask soak`: half an hour of traffic, changes, kills and failing health checks, in the release profile.
use anyhow::{Result, bail};

use crate::build::{self, BINARY_VARIABLE, OBJECT_VARIABLE};
use crate::privilege::Privilege;
use crate::project::{Project, run};
use crate::{setup, test_binary};

/// Tells the test how long it is to take.
const SECONDS_VARIABLE: &str = "PODWAY_SOAK_SECONDS";
/// The test.
const TEST: &str = "netns_soak";

/// Options of `cargo xtask soak`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long it takes
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    minutes: u32,
}

/// Builds as the user, and runs as root.
pub(crate) fn run_command(project: &Project, arguments: &Arguments) -> Result<()> {
    let privilege = Privilege::find()?;
    setup::system(privilege)?;
    let binary = build::release_binary(project)?;
    let object = project.ebpf_object();
    let build = ["test", "--release", "--package", "lb-tests", "--test", TEST, "--no-run"];
    let tests = test_binary::build(project, &build, Some(&object))?;
    let Some(test) = tests.iter().find(|test| test.name == TEST) else {
        bail!("cargo built no test {TEST}");
    };
    let seconds = (arguments.minutes * 60).to_string();
    let mut command = privilege.command(
        &test.path,
        [
            (OBJECT_VARIABLE, object.as_os_str()),
            (BINARY_VARIABLE, binary.as_os_str()),
            (SECONDS_VARIABLE, seconds.as_ref()),
        ],
    );
    test.set_folder(&mut command);
    run(command.arg("--nocapture"))
}
