//! `podway diff-kube-proxy`: would Podway do what kube-proxy does on this node?
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use lb_common::frontend::Kind;
use serde::Serialize;

use crate::diff::Tables;
use crate::kube_proxy::live::{self, Mode};
use crate::kube_proxy::{self, Difference};
use crate::maps::{Maps, Pins};
use crate::model::{ObjectName, Problem, Snapshot};
use crate::source::{files, kube};

use super::manifests;
use super::output::{self, Format, Row};

/// Exit status where something differs.
const DIFFERENT: u8 = 1;
/// Exit status where the two sides cannot be compared.
const INCOMPARABLE: u8 = 2;
/// How long the API server may take to list the objects.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(60);

/// Compare kube-proxy's live rules on this node with what Podway does, or would do: frontends, endpoints for
/// clients inside and outside, refusals, client affinity, source ranges. Changes nothing. Exit status 0 if
/// nothing differs, 1 if something does, 2 if the two cannot be compared.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  podway diff-kube-proxy\n  \
    podway diff-kube-proxy --manifests examples --node-name node-a -o json\n  \
    podway diff-kube-proxy --only-service shop/web")]
pub(super) struct DiffKubeProxy {
    /// Compare with the plan of this folder of manifests; without, with the maps of this node's agent.
    #[arg(long, requires = "node_name", conflicts_with = "kubeconfig")]
    manifests: Option<PathBuf>,
    /// Compare with the plan of the cluster that this kubeconfig's current context names.
    #[arg(long, requires = "node_name")]
    kubeconfig: Option<PathBuf>,
    /// This node's name, as EndpointSlices name it.
    #[arg(long)]
    node_name: Option<String>,
    /// What the node is like. With --only-service or --service-selector, those Services alone are compared.
    #[command(flatten)]
    node: crate::agent::NodeFlags,
    /// Which rules of kube-proxy's to read.
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Where the agent pins its maps.
    #[arg(long, default_value = super::PIN_PATH)]
    pin_path: PathBuf,
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
    let side = side(diff)?;
    let theirs = live::frontends(diff.mode, &side.addresses)?;
    let ours = kube_proxy::podway_frontends(&side.tables);
    let differences = kube_proxy::compare(&theirs, &ours, &side.only);
    Ok(Report {
        equal: differences.is_empty(),
        kube_proxy_frontends: theirs.len(),
        podway_frontends: ours.len(),
        differences,
    })
}

/// Podway's side.
struct Side {
    tables: Tables,
    /// This node's addresses, as far as they are known.
    addresses: BTreeSet<IpAddr>,
    /// The Services to compare; none means all.
    only: BTreeSet<ObjectName>,
}

fn side(diff: &DiffKubeProxy) -> Result<Side> {
    let node_name = diff.node_name.as_deref().unwrap_or_default();
    let mut side = match (&diff.manifests, &diff.kubeconfig) {
        (Some(folder), _) => planned_side(diff, files::read_once(folder)?, node_name),
        (None, Some(file)) => planned_side(diff, read_cluster(file)?, node_name),
        (None, None) => live_side(diff)?,
    };
    side.addresses.extend(node_port_addresses(&side.tables));
    Ok(side)
}

fn read_cluster(kubeconfig: &Path) -> Result<(Snapshot, Vec<Problem>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = kube::config(Some(kubeconfig)).await?;
        kube::read_once(config, kube::Settings::default(), CLUSTER_PATIENCE).await
    })
}

fn live_side(diff: &DiffKubeProxy) -> Result<Side> {
    ensure!(
        diff.node.service_selector.is_none(),
        "cannot choose Services by label: the maps hold no labels; name them with --only-service, or give \
         --manifests or --kubeconfig"
    );
    let tables = Maps::open(&Pins::new(&diff.pin_path))?.tables()?;
    let only = diff.node.only_service.iter().cloned().collect();
    Ok(Side { tables, addresses: BTreeSet::new(), only })
}

fn planned_side(diff: &DiffKubeProxy, read: (Snapshot, Vec<Problem>), node_name: &str) -> Side {
    let mut planned = manifests::plan_for(read, node_name, &diff.node);
    let tables = manifests::tables(&mut planned);
    manifests::warn(&planned.problems);
    let selection = &planned.node.selection;
    let services = planned.snapshot.services.values();
    let chosen = services.filter(|service| !selection.is_all() && selection.has(service));
    let only = chosen.map(|service| service.name.clone()).collect();
    Side { tables, addresses: planned.node.addresses.iter().copied().collect(), only }
}

fn node_port_addresses(tables: &Tables) -> impl Iterator<Item = IpAddr> + '_ {
    let node_ports = tables.frontends().iter().filter(|(_, value)| value.kind() == Some(Kind::NodePort));
    node_ports.map(|(key, _)| key.address.into())
}
