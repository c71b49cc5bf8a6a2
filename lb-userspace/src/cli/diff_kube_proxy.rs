//! `podway diff-kube-proxy`: would Podway do what kube-proxy does on this node?
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use lb_common::frontend::Kind;
use serde::Serialize;

use crate::diff::Tables;
use crate::kube_proxy::live::{self, Mode};
use crate::kube_proxy::{self, Difference};
use crate::maps::{Maps, Pins};
use crate::model::ObjectName;

use super::Facts;
use super::manifests;
use super::output::{self, Format, Row};

/// Exit status where something differs.
const DIFFERENT: u8 = 1;
/// Exit status where the two sides cannot be compared.
const INCOMPARABLE: u8 = 2;

/// Compare kube-proxy's live rules on this node with what Podway does, or would do: frontends, endpoints for
/// clients inside and outside, refusals, client affinity, source ranges. Changes nothing. Exit status 0 if
/// nothing differs, 1 if something does, 2 if the two cannot be compared.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  podway diff-kube-proxy\n  \
    podway diff-kube-proxy --manifests examples --node-name node-a -o json\n  \
    podway diff-kube-proxy --only-service shop/web")]
pub(super) struct DiffKubeProxy {
    /// Compare with the plan of this folder of manifests; without, with the maps of this node's agent.
    #[arg(long, requires = "node_name")]
    manifests: Option<PathBuf>,
    /// This node's name, as EndpointSlices name it.
    #[arg(long)]
    node_name: Option<String>,
    /// This node's addresses; without, those of its Node object.
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Which rules of kube-proxy's to read.
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Compare this Service alone, NAMESPACE/NAME; may be given more than once.
    #[arg(long, value_parser = object_name)]
    only_service: Vec<ObjectName>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Where the agent pins its maps.
    #[arg(long, default_value = super::PIN_PATH)]
    pin_path: PathBuf,
}

fn object_name(text: &str) -> Result<ObjectName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(ObjectName::new(namespace, name))
        }
        _ => Err("want NAMESPACE/NAME".to_owned()),
    }
}

/// The answer; JSON field names are stable.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    equal: bool,
    kube_proxy_frontends: usize,
    podway_frontends: usize,
    differences: Vec<Difference>,
}

impl Row for Difference {
    const HEADINGS: &'static [&'static str] = &["FRONTEND", "SERVICE", "WHAT", "KUBE-PROXY", "PODWAY"];
    const WIDE_HEADINGS: &'static [&'static str] = &[];

    fn cells(&self) -> Vec<String> {
        let Self { frontend, service, what, kube_proxy, podway } = self.clone();
        vec![frontend, service, what.to_owned(), kube_proxy, podway]
    }

    fn wide_cells(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Prints the differences; what prevents a comparison goes to standard error.
///
/// # Errors
/// The result cannot be printed.
pub(super) fn run(diff: &DiffKubeProxy) -> Result<ExitCode> {
    match report(diff) {
        Ok(report) => {
            super::print(&text(&report, diff.output)?)?;
            Ok(if report.equal { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
        }
        Err(error) => {
            eprintln!("podway: {error:#}");
            Ok(ExitCode::from(INCOMPARABLE))
        }
    }
}

fn text(report: &Report, format: Format) -> Result<String> {
    match format {
        Format::Json | Format::Yaml => output::value(report, format),
        Format::Table | Format::Wide if report.equal => {
            Ok(format!("no difference in {} frontends\n", report.podway_frontends))
        }
        Format::Table | Format::Wide => output::rows(&report.differences, format),
    }
}

fn report(diff: &DiffKubeProxy) -> Result<Report> {
    let (tables, mut addresses) = tables(diff)?;
    addresses.extend(node_port_addresses(&tables));
    let theirs = live::frontends(diff.mode, &addresses)?;
    let ours = kube_proxy::podway_frontends(&tables);
    let only = diff.only_service.iter().cloned().collect();
    let differences = kube_proxy::compare(&theirs, &ours, &only);
    Ok(Report {
        equal: differences.is_empty(),
        kube_proxy_frontends: theirs.len(),
        podway_frontends: ours.len(),
        differences,
    })
}

/// Podway's tables, and this node's addresses as far as they are known.
fn tables(diff: &DiffKubeProxy) -> Result<(Tables, BTreeSet<IpAddr>)> {
    let (Some(folder), Some(node_name)) = (&diff.manifests, &diff.node_name) else {
        let maps = Maps::open(&Pins::new(&diff.pin_path))?;
        return Ok((maps.tables()?, BTreeSet::new()));
    };
    let mut planned = manifests::plan(&Facts {
        manifests: folder.clone(),
        node_name: node_name.clone(),
        node_ip: diff.node_ip.clone(),
        cluster_cidr: Vec::new(),
    })?;
    let tables = manifests::tables(&mut planned);
    manifests::warn(&planned.problems);
    Ok((tables, planned.node.addresses.into_iter().collect()))
}

fn node_port_addresses(tables: &Tables) -> impl Iterator<Item = IpAddr> + '_ {
    let node_ports = tables.frontends().iter().filter(|(_, value)| value.kind() == Some(Kind::NodePort));
    node_ports.map(|(key, _)| key.address.into())
}
