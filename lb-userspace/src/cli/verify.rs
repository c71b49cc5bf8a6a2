//! `podway verify`: nothing in the maps dangles, and they say what the plan says.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::clock::now_ms;
use crate::diff::{self, Tables};
use crate::snapshot::Reading;

use super::ReadFrom;
use super::manifests;
use super::node_negs;
use super::output::{self, Format};

/// Walk the maps: nothing refers to what is not there; with `--manifests`, nothing differs from the plan.
/// Exit status 1 if something does.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  podway verify\n  podway verify --manifests /etc/podway --node-name node-a"
)]
pub(super) struct Verify {
    /// Compare with the plan of this folder of manifests.
    #[arg(long, requires = "node_name")]
    manifests: Option<PathBuf>,
    /// This node's name, as EndpointSlices name it.
    #[arg(long)]
    node_name: Option<String>,
    /// What the node is like.
    #[command(flatten)]
    node: crate::agent::NodeFlags,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    place: ReadFrom,
}

/// Looks at the maps until what is wrong stays wrong: they are many, and an agent may change one while
/// another is read.
const LOOKS: u32 = 4;
/// Time between two looks, longer than an agent's apply.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    clean: bool,
    frontends: usize,
    backend_services: usize,
    endpoints: usize,
    violations: Vec<String>,
    differences: Vec<String>,
}

/// Prints the report.
///
/// # Errors
/// The maps cannot be read, or something is wrong with them; the report is in the message then.
pub(super) fn run(verify: &Verify) -> Result<String> {
    let reading = verify.place.open()?;
    let (mut tables, mut violations, mut differences) = look(verify, &reading)?;
    for _ in 1..LOOKS {
        if violations.is_empty() && differences.is_empty() {
            break;
        }
        std::thread::sleep(LOOK_INTERVAL);
        let (again, violations_again, differences_again) = look(verify, &reading)?;
        violations.retain(|found| violations_again.contains(found));
        differences.retain(|found| differences_again.contains(found));
        tables = again;
    }
    let report = Report {
        clean: violations.is_empty() && differences.is_empty(),
        frontends: tables.frontends().len(),
        backend_services: tables.backend_service_ids().count(),
        endpoints: tables.endpoint_ids().count(),
        violations,
        differences,
    };
    let text = match verify.output {
        Format::Json | Format::Yaml => output::value(&report, verify.output)?,
        Format::Table | Format::Wide => sentences(&report),
    };
    if report.clean {
        return Ok(text);
    }
    print!("{text}");
    bail!(
        "the maps are not clean: {} violations, {} differences",
        report.violations.len(),
        report.differences.len()
    )
}

/// One look at all maps: what they hold, and what is wrong with it.
fn look(verify: &Verify, reading: &Reading) -> Result<(Tables, Vec<String>, Vec<String>)> {
    let tables = reading.tables()?;
    let violations = tables.check().iter().map(ToString::to_string).collect();
    let differences = differences(verify, &tables)?;
    Ok((tables, violations, differences))
}

/// What an agent would still change.
fn differences(verify: &Verify, tables: &Tables) -> Result<Vec<String>> {
    let (Some(manifests), Some(node_name)) = (&verify.manifests, &verify.node_name) else {
        return Ok(Vec::new());
    };
    let facts = super::Facts {
        manifests: manifests.clone(),
        node_name: node_name.clone(),
        node: verify.node.clone(),
    };
    let planned = manifests::plan(&facts)?;
    manifests::warn(&planned.problems);
    let diff = diff::full(&planned.desired, tables, now_ms());
    let mut differences: Vec<String> = diff.ops.iter().map(ToString::to_string).collect();
    let nodes = node_negs::of_plan(&planned.desired);
    match node_negs::ask(&verify.place) {
        Ok(found) => differences.extend(node_negs::differences(&nodes, &found)),
        Err(error) if !nodes.is_empty() => eprintln!("podway: NEGs of nodes are not compared: {error:#}"),
        Err(_) => {}
    }
    Ok(differences)
}

fn sentences(report: &Report) -> String {
    let mut text = format!(
        "{} frontends, {} backend services, {} endpoints\n",
        report.frontends, report.backend_services, report.endpoints
    );
    for violation in &report.violations {
        text.push_str(&format!("violation: {violation}\n"));
    }
    for difference in &report.differences {
        text.push_str(&format!("differs from the plan; to do: {difference}\n"));
    }
    if report.clean {
        text.push_str("clean\n");
    }
    text
}
