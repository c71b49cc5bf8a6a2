//! `cargo xtask churn|upgrade|soak`: tests of the netns tier with the release binary, for longer and at higher rates than
//! `cargo xtask test` asks for.
use anyhow::{Result, bail};

use crate::build::{self, BINARY_VARIABLE, OBJECT_VARIABLE};
use crate::privilege::Privilege;
use crate::project::{Project, run};
use crate::{setup, test_binary};

/// Options of `cargo xtask churn`.
#[derive(clap::Args)]
pub(crate) struct Churn {
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

impl Churn {
    pub(crate) fn run(&self, project: &Project) -> Result<()> {
        let Self { seconds, connections, changes } = self;
        let demand = format!("{seconds},{connections},{changes}");
        Endurance { test: "netns_churn", demand: ("PODWAY_CHURN", demand) }.run(project)
    }
}

/// Options of `cargo xtask upgrade`.
#[derive(clap::Args)]
pub(crate) struct Upgrade {
    /// Connections a second, by all clients together
    #[arg(long, default_value_t = 2_000)]
    connections: u32,
    /// Requests a second that must have been answered, over open connections and to an Ingress together
    #[arg(long, default_value_t = 20_000)]
    requests: u32,
}

impl Upgrade {
    pub(crate) fn run(&self, project: &Project) -> Result<()> {
        let demand = format!("{},{}", self.connections, self.requests);
        Endurance { test: "netns_upgrade", demand: ("PODWAY_UPGRADE", demand) }.run(project)
    }
}

/// Options of `cargo xtask soak`.
#[derive(clap::Args)]
pub(crate) struct Soak {
    /// How long it takes
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    minutes: u32,
}

impl Soak {
    pub(crate) fn run(&self, project: &Project) -> Result<()> {
        let demand = (self.minutes * 60).to_string();
        Endurance { test: "netns_soak", demand: ("PODWAY_SOAK_SECONDS", demand) }.run(project)
    }
}

/// A test, and how much is asked of it.
struct Endurance {
    test: &'static str,
    /// The variable that the test reads, and what it says.
    demand: (&'static str, String),
}

impl Endurance {
    /// Builds as the user, and runs as root.
    fn run(&self, project: &Project) -> Result<()> {
        let privilege = Privilege::find()?;
        setup::system(privilege)?;
        let binary = build::release_binary(project)?;
        let object = project.ebpf_object();
        let build = ["test", "--profile", "load", "--package", "lb-tests", "--test", self.test, "--no-run"];
        let tests = test_binary::build(project, &build, Some(&object))?;
        let Some(test) = tests.iter().find(|test| test.name == self.test) else {
            bail!("cargo built no test {}", self.test);
        };
        let mut command = privilege.command(
            &test.path,
            [
                (OBJECT_VARIABLE, object.as_os_str()),
                (BINARY_VARIABLE, binary.as_os_str()),
                (self.demand.0, self.demand.1.as_ref()),
            ],
        );
        test.set_folder(&mut command);
        run(command.args(["--nocapture", "--test-threads=1"]))
    }
}
