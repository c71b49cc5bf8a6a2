//! A plan from a folder of manifests, without an agent.
use std::sync::Arc;

use anyhow::Result;
use lb_common::config::Config;

use crate::agent::NodeFlags;
use crate::attach::PortRange;
use crate::diff::{self, Limits, Tables};
use crate::lb_pool::{self, Held};
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
    let (mut snapshot, mut problems) = files::read_once(&facts.manifests)?;
    let own = snapshot.nodes.get(&*facts.node_name).cloned();
    let node = facts.node.context(Arc::from(&*facts.node_name), own.as_deref());
    // As an agent that starts with these manifests would.
    let mut held = Held::default();
    lb_pool::assign(&mut snapshot, &node, &mut held);
    problems.extend(held.problems);
    Ok(plan_for((snapshot, problems), &facts.node_name, &facts.node))
}

/// Plans for a node from facts, and what was wrong with them.
pub(super) fn plan_for(
    (snapshot, mut problems): (Snapshot, Vec<Problem>),
    node_name: &str,
    flags: &NodeFlags,
) -> Planned {
    let own = snapshot.nodes.get(node_name);
    let node = flags.context(Arc::from(node_name), own.map(|node| &**node));
    let config = flags.config(&node.addresses, &snapshot, PortRange::default(), 0);
    let desired = plan::plan(&snapshot, &node, &ReadinessAlone);
    problems.extend(desired.problems());
    Planned { snapshot, desired, node, config, problems }
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
