//! A plan from a folder of manifests, without an agent.
use std::sync::Arc;

use anyhow::Result;
use lb_common::config::Config;

use crate::attach::{self, Cidr, PortRange};
use crate::diff::{self, Limits, Tables};
use crate::model::{Problem, Snapshot};
use crate::plan::{self, Desired, NodeContext, ReadinessAlone};
use crate::source::files;

use super::Facts;

/// What a folder of manifests comes to on one node.
pub(super) struct Planned {
    pub(super) snapshot: Snapshot,
    pub(super) desired: Desired,
    pub(super) node: NodeContext,
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
}

/// Reads and plans.
pub(super) fn plan(facts: &Facts) -> Result<Planned> {
    let (snapshot, mut problems) = files::read_once(&facts.manifests)?;
    let own = snapshot.nodes.get(facts.node_name.as_str());
    let addresses = match (&facts.node_ip[..], own) {
        ([], Some(node)) => NodeContext::of_node(node).addresses,
        (given, _) => given.to_vec(),
    };
    let node = NodeContext { name: Arc::from(facts.node_name.as_str()), addresses };
    let cidrs: Vec<Cidr> = if facts.cluster_cidr.is_empty() {
        let cidrs = snapshot.nodes.values().flat_map(|node| &node.pod_cidrs);
        cidrs.map(|(address, bits)| Cidr(*address, *bits)).collect()
    } else {
        facts.cluster_cidr.clone()
    };
    let config = attach::config(&node.addresses, &cidrs, PortRange::default());
    let desired = plan::plan(&snapshot, &node, &ReadinessAlone);
    problems.extend(desired.problems());
    Ok(Planned { snapshot, desired, node, config, problems })
}

/// The tables that an agent would fill from empty ones.
pub(super) fn tables(planned: &mut Planned) -> Tables {
    let mut tables = Tables::new(Limits::default());
    let diff = diff::full(&planned.desired, &tables, 0);
    for op in &diff.ops {
        tables.apply(op, 0);
    }
    planned.problems.extend(diff.problems);
    tables
}

/// Prints problems to standard error: the result is usable without what they name.
pub(super) fn warn(problems: &[Problem]) {
    for problem in problems {
        eprintln!("warning: {problem}");
    }
}
