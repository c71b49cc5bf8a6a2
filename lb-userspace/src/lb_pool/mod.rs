//! Addresses of pools for Services of type LoadBalancer and for Ingresses.
//!
//! [`allocate`] decides, and is pure: from the pools and from what all objects ask for and have. What an object has
//! stays; so the statuses are the only memory, and whoever writes them may change. In a cluster that is one agent
//! ([`run`]); from manifests, each agent gives the addresses to the facts themselves ([`assign`]).
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{Ingress, ObjectName, Problem, Snapshot};
use crate::plan::NodeContext;

mod allocate;
mod assign;
mod claim;
mod correction;
mod pool;
mod writer;

pub use allocate::allocate;
pub use assign::{Held, assign};
pub use claim::{Claim, Claims, claims};
pub use correction::{Correction, corrections};
pub use pool::{Pool, pools};
pub use writer::{EVENT_REASON, Notice, Task, run};

/// Most objects that have addresses of pools; the youngest ones beyond get none.
pub const CLAIMS_MAX: usize = 65_536;

/// A kind of object that has load-balancer addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OwnerKind {
    /// A Service.
    Service,
    /// An Ingress.
    Ingress,
}

impl OwnerKind {
    /// As in its manifest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Ingress => "Ingress",
        }
    }
}

/// An object that has load-balancer addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Its kind.
    pub kind: OwnerKind,
    /// Its name.
    pub object: ObjectName,
}

impl Owner {
    /// Something that is wrong with it.
    fn problem(&self, message: String) -> Problem {
        Problem { kind: self.kind.name(), object: self.object.clone(), message }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.object)
    }
}

/// Who gets what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// The addresses of every object that asks for some, IPv4 first; none where there is none for it.
    pub addresses: BTreeMap<Owner, Vec<IpAddr>>,
    /// What could not be given.
    pub problems: BTreeSet<Problem>,
}

/// Whether an Ingress that has no address yet waits for one of a pool: until then it is served nowhere.
#[must_use]
pub fn awaits_address(ingress: &Ingress, snapshot: &Snapshot, node: &NodeContext) -> bool {
    if !ingress.vips.is_empty() || !ingress.load_balancer_ips.is_empty() || ingress.has_load_balancer_hosts {
        return false;
    }
    let mut pools = snapshot.load_balancer_pools.values();
    match ingress.balancer.wanted.is_empty() {
        true => {
            !node.lb_pool.is_empty()
                || pools.any(|pool| {
                    pool.is_auto_assigned && pool.service_selector.is_none() && !pool.ranges.is_empty()
                })
        }
        false => !node.lb_pool.is_empty() || pools.len() > 0,
    }
}
