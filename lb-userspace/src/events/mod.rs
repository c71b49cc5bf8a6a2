//! Events on Services whose backend services have no endpoint left or use such as fail their check, and on
//! those that are well again ([`Ledger`]); and on objects of which something cannot be used ([`FaultLedger`]). The
//! ledgers decide, and are pure; [`run`] writes.
//!
//! Every agent sees the same, so few of them write: [`is_writer`]. They write one object for all
//! (`writer`), so that more agents or a condition that comes and goes do not mean more objects.
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::lb_pool;
use crate::model::ObjectName;
use crate::plan::{BackendServiceName, Condition, ServicePlan};

mod allowance;
mod fault;
mod writer;

use allowance::Allowance;
pub use fault::{Fault, FaultLedger, FaultyKind};
pub use writer::run;

/// How long a condition must last to be told: what comes and goes within it is not.
const SETTLE: Duration = Duration::from_secs(5);

/// An event of one kind about one thing is one object in so many seconds, for as long as an API server keeps an event
/// unless told otherwise (`--event-ttl`).
const PERIOD_S: u64 = 3_600;

/// How many of the cluster's nodes write an event: where one is away, others are there.
const WRITERS: usize = 3;

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Of a backend service.
    Condition {
        /// The backend service.
        backend_service: Arc<BackendServiceName>,
        /// `metadata.uid` of its Service; empty from a manifest without one.
        uid: Arc<str>,
        /// How it is now.
        condition: Condition,
    },
    /// Of an object.
    Fault {
        /// What of it cannot be used.
        fault: Fault,
        /// `metadata.uid` of the object; empty where it is unknown.
        uid: Arc<str>,
    },
}

/// The reasons of all Events that agents write.
pub fn reasons() -> impl Iterator<Item = &'static str> {
    let conditions = [Condition::Empty, Condition::NoNodePort, Condition::Panic, Condition::Well];
    let faults = FaultyKind::ALL.into_iter().map(FaultyKind::reason);
    conditions.map(writer::reason).into_iter().chain(faults).chain([lb_pool::EVENT_REASON])
}

/// The period that a time lies in.
#[must_use]
pub fn period(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / PERIOD_S
}

/// What is known of one backend service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    condition: Condition,
    since: Instant,
    told: Condition,
    /// Whether it has been well: one that begins without endpoints is no event.
    has_been_well: bool,
}

/// The conditions of all backend services, and what was told of them.
#[derive(Debug)]
pub struct Ledger {
    services: BTreeMap<ObjectName, BTreeMap<Arc<BackendServiceName>, Entry>>,
    /// Services with something that may have to be told.
    unsettled: BTreeSet<ObjectName>,
    allowance: Allowance,
}

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let (services, unsettled) = (BTreeMap::new(), BTreeSet::new());
        Self { services, unsettled, allowance: Allowance::full(now) }
    }

    /// Takes the plan of a Service; none where it is gone.
    pub fn note(&mut self, service: &ObjectName, plan: Option<&ServicePlan>, now: Instant) {
        let former = self.services.remove(service).unwrap_or_default();
        let backend_services = plan.iter().flat_map(|plan| &plan.backend_services);
        let entries: BTreeMap<_, _> = backend_services
            .map(|planned| {
                let entry = Entry::next(former.get(&planned.name), planned.condition(), now);
                (Arc::clone(&planned.name), entry)
            })
            .collect();
        if entries.values().any(Entry::is_untold) {
            self.unsettled.insert(service.clone());
        }
        if !entries.is_empty() {
            self.services.insert(service.clone(), entries);
        }
    }

    /// What is to be told now by this agent, where `is_ours` says that it writes for a Service. What others write
    /// counts as told.
    pub fn due(
        &mut self,
        now: Instant,
        is_ours: impl Fn(&ObjectName) -> bool,
    ) -> Vec<(Arc<BackendServiceName>, Condition)> {
        self.allowance.grow(now);
        let mut due = Vec::new();
        for service in std::mem::take(&mut self.unsettled) {
            let Some(entries) = self.services.get_mut(&service) else { continue };
            let is_ours = is_ours(&service);
            for (name, entry) in entries.iter_mut().filter(|(_, entry)| entry.is_untold()) {
                if now.saturating_duration_since(entry.since) < SETTLE || is_ours && self.allowance.is_spent()
                {
                    self.unsettled.insert(service.clone());
                    continue;
                }
                entry.told = entry.condition;
                if is_ours {
                    self.allowance.spend();
                    due.push((Arc::clone(name), entry.condition));
                }
            }
        }
        due
    }
}

impl Entry {
    fn next(former: Option<&Self>, condition: Condition, now: Instant) -> Self {
        let is_well = condition == Condition::Well;
        match former {
            None => Self { condition, since: now, told: Condition::Well, has_been_well: is_well },
            Some(former) if former.condition == condition => former.clone(),
            Some(former) => {
                let has_been_well = former.has_been_well || is_well;
                Self { condition, since: now, told: former.told, has_been_well }
            }
        }
    }

    fn is_untold(&self) -> bool {
        // What nobody has set up as it must be does not come by itself.
        let is_fault = self.condition == Condition::NoNodePort;
        self.condition != self.told && (self.has_been_well || is_fault)
    }
}

/// Whether a node writes for a Service.
pub fn is_writer<'a>(service: &ObjectName, node: &str, nodes: impl Iterator<Item = &'a str>) -> bool {
    writer_rank(service, node, nodes).is_some()
}

/// The place of a node among those that write for a Service, from zero: the first few of all by rendezvous hashing
/// (Thaler and Ravishankar 1998), so that the load spreads and all nodes agree. `nodes` are those of the cluster.
pub fn writer_rank<'a>(
    service: &ObjectName,
    node: &str,
    nodes: impl Iterator<Item = &'a str>,
) -> Option<usize> {
    let score = |node: &str| {
        let mut hasher = DefaultHasher::new();
        (service, node).hash(&mut hasher);
        (hasher.finish(), node.to_owned())
    };
    let own = score(node);
    let rank = nodes.filter(|other| score(other) > own).take(WRITERS).count();
    (rank < WRITERS).then_some(rank)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
