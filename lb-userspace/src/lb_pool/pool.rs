//! A pool, and whom it is for.
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{AddressRange, Problem, Snapshot};
use crate::plan::{Family, LabelSelector, NodeContext};

use super::{Claim, OwnerKind};

/// Addresses, and whom they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The name of its `LoadBalancerPool`; empty for `--lb-pool`.
    pub name: Arc<str>,
    /// Its addresses.
    pub ranges: Vec<AddressRange>,
    /// The Services that it is for; without one all, and Ingresses.
    pub selector: Option<LabelSelector>,
    /// Whether an object that asks for no address gets one of it.
    pub is_auto_assigned: bool,
}

impl Pool {
    /// Whether an address is of it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Whether it is for an object.
    pub(super) fn admits(&self, claim: &Claim) -> bool {
        match &self.selector {
            None => true,
            Some(selector) => claim.owner.kind == OwnerKind::Service && selector.matches(&claim.labels),
        }
    }

    /// Whether it has addresses of a family.
    pub(super) fn has_family(&self, family: Family) -> bool {
        self.ranges.iter().any(|range| Family::of(range.first) == family)
    }
}

/// The pools that there are: `--lb-pool` first, then the `LoadBalancerPools` by name; and what is wrong with them.
#[must_use]
pub fn pools(snapshot: &Snapshot, node: &NodeContext) -> (Vec<Pool>, Vec<Problem>) {
    let (mut pools, mut problems) = (Vec::new(), Vec::new());
    if !node.lb_pool.is_empty() {
        let ranges = node.lb_pool.clone();
        pools.push(Pool { name: "".into(), ranges, selector: None, is_auto_assigned: true });
    }
    for facts in snapshot.load_balancer_pools.values() {
        let selector = facts.service_selector.as_deref().filter(|text| !text.is_empty());
        match selector.map(str::parse).transpose() {
            Ok(selector) => pools.push(Pool {
                name: Arc::clone(&facts.name),
                ranges: facts.ranges.clone(),
                selector,
                is_auto_assigned: facts.is_auto_assigned,
            }),
            Err(error) => problems.push(Problem {
                kind: "LoadBalancerPool",
                object: crate::model::ObjectName::new("", &facts.name),
                message: format!(
                    "cannot use its serviceSelector: {error}; correct it; the pool gives no address"
                ),
            }),
        }
    }
    (pools, problems)
}
