//! `cargo xtask churn`: a minute of endpoints that come and go under short connections, in the release
//! profile, at the rates that Podway promises.
use anyhow::{Result, bail};

use crate::build::{self, BINARY_VARIABLE, OBJECT_VARIABLE};
use crate::privilege::Privilege;
use crate::project::{Project, run};
use crate::{setup, test_binary};

/// Tells the test how much is asked for.
const DEMAND_VARIABLE: &str = "PODWAY_CHURN";

/// Options of `cargo xtask churn`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long it takes
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Connections a second, by all clients together
    #[arg(long, default_value_t = 2_000)]
    connections: u32,
    /// Changes of single endpoints a second
    #[arg(long, default_value_t = 200)]
    changes: u32,
}

/// Builds as the user, and runs as root.
pub(crate) fn run_command(project: &Project, arguments: &Arguments) -> Result<()> {
    let privilege = Privilege::find()?;
    setup::system(privilege)?;
    let binary = build::release_binary(project)?;
    let object = project.ebpf_object();
    let build = ["test", "--release", "--package", "lb-tests", "--test", "netns_churn", "--no-run"];
    let tests = test_binary::build(project, &build, Some(&object))?;
    let Some(test) = tests.iter().find(|test| test.name == "netns_churn") else {
        bail!("cargo built no test netns_churn");
    };
    let Arguments { seconds, connections, changes } = arguments;
    let demand = format!("{seconds},{connections},{changes}");
    let mut command = privilege.command(
        &test.path,
        [
            (OBJECT_VARIABLE, object.as_os_str()),
            (BINARY_VARIABLE, binary.as_os_str()),
            (DEMAND_VARIABLE, demand.as_ref()),
        ],
    );
    test.set_folder(&mut command);
    run(command.arg("--nocapture"))
}
