//! `podway doctor`: what of this node stands in the way.
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::attach::Pattern;
use crate::doctor::{self, Facts, Finding, Grade, Place};
use crate::maps::Pins;

use super::output::{self, Format, Row};

/// Look for what stands in the way on this node: kernel, rights, interfaces, sysctls, programs and rules of others,
/// full maps; each with what was seen and the remedy. Before an agent runs as well as beside one. Changes nothing.
/// Exit status 1 if a check fails.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  podway doctor\n  podway doctor --uplink eth0 --pod-interface 'cali*'\n  \
    podway doctor --json | jq '.[] | select(.result != \"ok\")'"
)]
pub(super) struct Doctor {
    /// Interfaces that lead out of the node; without, those of the agent, else those of the default routes.
    #[arg(long, value_delimiter = ',')]
    uplink: Vec<String>,
    /// Names of the pods' interfaces on the node's side; without, those of the agent.
    #[arg(long, value_delimiter = ',')]
    pod_interface: Vec<Pattern>,
    /// Cgroup of the socket hooks; without, the root of cgroup2.
    #[arg(long)]
    cgroup: Option<PathBuf>,
    /// Print JSON in place of a table.
    #[arg(long)]
    json: bool,
    /// Where the agent pins its maps.
    #[arg(long, default_value = super::PIN_PATH)]
    pin_path: PathBuf,
    /// The agent's --run-dir.
    #[arg(long, default_value = super::RUN_DIR)]
    run_dir: PathBuf,
}

impl Row for Finding {
    const HEADINGS: &'static [&'static str] = &["RESULT", "CHECK", "ABOUT", "SEEN", "REMEDY"];
    const WIDE_HEADINGS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        vec![
            self.result.to_string(),
            self.check.to_owned(),
            self.subject.clone().unwrap_or_else(|| "-".to_owned()),
            self.seen.clone(),
            self.remedy.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Prints the findings.
///
/// # Errors
/// The interfaces cannot be listed, or the result cannot be printed.
pub(super) fn run(doctor: &Doctor) -> Result<ExitCode> {
    let pins = Pins::new(&doctor.pin_path);
    let facts = Facts::read(&Place {
        pins: &pins,
        run_dir: &doctor.run_dir,
        cgroup: doctor.cgroup.as_deref(),
        uplinks: &doctor.uplink,
        pod_interfaces: &doctor.pod_interface,
    })?;
    let findings = doctor::examine(&facts);
    let format = if doctor.json { Format::Json } else { Format::Table };
    super::print(&output::rows(&findings, format)?)?;
    let has_failed = findings.iter().any(|finding| finding.result == Grade::Fail);
    Ok(if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
