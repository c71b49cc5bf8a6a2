//! What is known of all targets, for the plan and for the user.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::Address;

use super::{
    EndpointHealth, Finding, Health, HealthEvent, HealthState, Moment, Reporter, Signal, StateReason, Target,
    may_eject,
};
use crate::model::{HealthPolicy, ObjectName, Protocol};
use crate::plan::{BackendService, BackendServiceName, HealthView, NodePorts, ServicePlan};

/// What is known of one target.
#[derive(Clone, Debug)]
struct Known {
    finding: Option<Finding>,
    health: EndpointHealth,
    /// Percent of its share of new flows, as of the last change.
    share_percent: u8,
}

impl Default for Known {
    fn default() -> Self {
        Self { finding: None, health: EndpointHealth::default(), share_percent: 100 }
    }
}

/// What came of a change.
struct Changed {
    /// Whether a plan may come out different.
    is_plan: bool,
    /// The new state and its reason, where it is another one.
    state: Option<(HealthState, StateReason)>,
}

impl Known {
    fn change(&mut self, now: Moment, change: impl FnOnce(&mut EndpointHealth)) -> Changed {
        let (before, share_before) = (self.health.health().state, self.share_percent);
        change(&mut self.health);
        self.share_percent = self.health.share_percent(now);
        let Health { state, reason, .. } = self.health.health();
        // An ejection and a failed check differ in what becomes of flows.
        let is_plan = before.is_healthy() != state.is_healthy()
            || (before != state && !state.is_healthy())
            || share_before != self.share_percent;
        Changed { is_plan, state: (before != state).then_some((state, reason)) }
    }
}

/// The sum of all that one node's agent has learnt.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    known: BTreeMap<Arc<BackendServiceName>, BTreeMap<(IpAddr, u16), Known>>,
    /// Those that time alone changes.
    timed: BTreeSet<Target>,
    /// How often states have changed, by the new one and its reason.
    changes: BTreeMap<(HealthState, StateReason), u64>,
}

impl Findings {
    /// Takes what probes add up to, from whoever says so. `true` when a plan may come out different.
    pub fn apply(
        &mut self,
        event: HealthEvent,
        reporter: Reporter,
        policy: &HealthPolicy,
        now: Moment,
    ) -> bool {
        match event {
            HealthEvent::Found(target, finding) => {
                let passes = finding.is_healthy;
                let known = self.entry(&target);
                known.finding = Some(finding);
                let changed = known.change(now, |health| health.probe(passes, reporter, policy, now));
                self.note_timed(&target);
                self.count(&changed);
                changed.is_plan
            }
            HealthEvent::Forgotten(target) => {
                let before = self.remove(&target);
                before.is_some_and(|before| {
                    !before.health.health().state.is_healthy() || before.share_percent != 100
                })
            }
        }
    }

    /// Takes how a flow or request fared, with its begin in milliseconds of the monotonic clock. `endpoints` says how
    /// many the backend service has of the target's family. `true` when a plan may come out different.
    pub fn signal(
        &mut self,
        target: &Target,
        signal: (Signal, u64, Reporter),
        policy: &HealthPolicy,
        endpoints: impl FnOnce() -> usize,
        now: Moment,
    ) -> bool {
        let Some(passive) = &policy.passive else { return false };
        let mut known = std::mem::take(self.entry(target));
        let may_eject = || may_eject(self.ejected(target), endpoints(), passive);
        let changed = known.change(now, |health| health.signal(signal, policy, passive, now, may_eject));
        *self.entry(target) = known;
        self.count(&changed);
        // Also of one that fails its check and is ejected beside: its ejection ends all the same.
        self.note_timed(target);
        changed.is_plan
    }

    /// How often states have changed, by the new one and its reason.
    #[must_use]
    pub fn changes(&self) -> &BTreeMap<(HealthState, StateReason), u64> {
        &self.changes
    }

    /// How many endpoints are ejected and nothing worse, by backend service; at the cost of those that time alone
    /// changes.
    #[must_use]
    pub fn ejected_by_service(&self) -> BTreeMap<Arc<BackendServiceName>, u32> {
        let mut ejected = BTreeMap::new();
        for target in &self.timed {
            let Target { backend_service, address, port } = target;
            if self.health(backend_service, *address, *port).state == HealthState::Ejected {
                *ejected.entry(Arc::clone(backend_service)).or_default() += 1;
            }
        }
        ejected
    }

    fn count(&mut self, changed: &Changed) {
        if let Some(change) = changed.state {
            *self.changes.entry(change).or_default() += 1;
        }
    }

    /// How many other endpoints of the target's backend service and family are ejected.
    fn ejected(&self, target: &Target) -> usize {
        let endpoints = self.known.get(&target.backend_service).into_iter().flatten();
        let of_family = endpoints.filter(|((address, _), _)| address.is_ipv4() == target.address.is_ipv4());
        of_family.filter(|(_, known)| known.health.is_ejected()).count()
    }

    /// Lets time pass; the targets for which a plan may come out different.
    pub fn tick(&mut self, policy: impl Fn(&ObjectName) -> HealthPolicy, now: Moment) -> Vec<Target> {
        let mut changed = Vec::new();
        for target in self.timed.clone() {
            let policy = policy(&target.backend_service.service);
            let ticked = self.entry(&target).change(now, |health| health.tick(&policy, now));
            self.count(&ticked);
            if ticked.is_plan {
                changed.push(target.clone());
            }
            self.note_timed(&target);
        }
        changed
    }

    /// Forgets what flows said of the endpoints of a Service that are no more, or that nobody judges any more.
    pub fn follow(&mut self, service: &ObjectName, plan: Option<&ServicePlan>) {
        let least = BackendServiceName {
            service: service.clone(),
            port_name: "".into(),
            port: 0,
            protocol: Protocol::Tcp,
        };
        let names = self.known.range::<BackendServiceName, _>(least..).map(|(name, _)| name);
        let names: Vec<_> = names.take_while(|name| name.service == *service).cloned().collect();
        for name in names {
            let judged = plan.and_then(|plan| plan.backend_service(&name));
            let judged = judged.filter(|planned| planned.health_policy.passive.is_some());
            let is_judged = |address: IpAddr, port: u16| {
                let place = |address: IpAddr, port: u16| (Address::from(address), port);
                let wanted = place(address, port);
                let find = |planned: &BackendService| {
                    let mut nodes = planned.node_ports.iter().flat_map(NodePorts::endpoints);
                    planned.endpoints.binary_search_by_key(&wanted, |e| place(e.address, e.port)).is_ok()
                        || nodes.any(|e| place(e.address, e.port) == wanted)
                };
                judged.is_some_and(find)
            };
            let endpoints = self.known.get(&name).into_iter().flatten();
            let gone = endpoints
                .filter(|((address, port), known)| known.finding.is_none() && !is_judged(*address, *port));
            let gone: Vec<(IpAddr, u16)> = gone.map(|(place, _)| *place).collect();
            for (address, port) in gone {
                self.remove(&Target { backend_service: Arc::clone(&name), address, port });
            }
        }
    }

    /// What was found; `None` while no probe has changed the state that a target begins with.
    #[must_use]
    pub fn finding(
        &self,
        backend_service: &BackendServiceName,
        address: IpAddr,
        port: u16,
    ) -> Option<&Finding> {
        self.known(backend_service, address, port)?.finding.as_ref()
    }

    /// How an endpoint is, since when, why, and who said so.
    #[must_use]
    pub fn health(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> Health {
        self.known(backend_service, address, port).map(|known| known.health.health()).unwrap_or_default()
    }

    fn known(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> Option<&Known> {
        self.known.get(backend_service)?.get(&(address, port))
    }

    fn entry(&mut self, target: &Target) -> &mut Known {
        let endpoints = self.known.entry(Arc::clone(&target.backend_service)).or_default();
        endpoints.entry((target.address, target.port)).or_default()
    }

    fn remove(&mut self, target: &Target) -> Option<Known> {
        self.timed.remove(target);
        let endpoints = self.known.get_mut(&target.backend_service)?;
        let before = endpoints.remove(&(target.address, target.port));
        if endpoints.is_empty() {
            self.known.remove(&target.backend_service);
        }
        before
    }

    fn note_timed(&mut self, target: &Target) {
        let known = self.known(&target.backend_service, target.address, target.port);
        if known.is_some_and(|known| known.health.is_timed()) {
            self.timed.insert(target.clone());
        } else {
            self.timed.remove(target);
        }
    }
}

impl HealthView for Findings {
    fn is_healthy(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> bool {
        self.health(backend_service, address, port).state.is_healthy()
    }

    fn fails_check(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> bool {
        self.health(backend_service, address, port).state == HealthState::Unhealthy
    }

    fn share_percent(&self, backend_service: &BackendServiceName, address: IpAddr, port: u16) -> u8 {
        self.known(backend_service, address, port).map_or(100, |known| known.share_percent)
    }
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
