//! Who probes what, where the agents of a large cluster share the probing. Pure.
//!
//! Each endpoint has a few probers of all live agents, by rendezvous hashing (Thaler and Ravishankar 1998): whoever
//! knows the agents knows the probers of every endpoint without a word, an agent that comes or goes moves its own share
//! alone, and no endpoint is without a prober while there is an agent.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Resolved, Target, Targets};
use crate::model::{HealthCheck, ObjectName};
use crate::stable_hash;

/// Agents that probe an endpoint, unless told otherwise: one may err or be away, and two still agree.
pub const PROBERS_DEFAULT: usize = 3;

/// A target's name on the way between agents: 64 bits, the same from all of them. Of 100,000 targets two have one
/// key with a chance of three in ten billion.
#[must_use]
pub fn target_key(target: &Target) -> u64 {
    let name = &target.backend_service;
    let text = format!(
        "{}/{}/{}/{}/{}/{}",
        name.service, name.port_name, name.port, name.protocol, target.address, target.port
    );
    stable_hash::of(&text)
}

/// How well a node suits a key.
const fn score(node: u64, key: u64) -> u64 {
    stable_hash::mixed(node ^ key.rotate_left(32))
}

/// The agents that may probe, and how many of them probe each endpoint.
#[derive(Clone, Debug)]
pub struct Electorate<'a> {
    nodes: Vec<(u64, &'a str)>,
    probers: usize,
}

impl<'a> Electorate<'a> {
    /// Of the nodes' names.
    #[must_use]
    pub fn new(nodes: impl Iterator<Item = &'a str>, probers: usize) -> Self {
        Self { nodes: nodes.map(|name| (stable_hash::of(name), name)).collect(), probers }
    }

    /// The probers of a key; all nodes where there are no more of them.
    #[must_use]
    pub fn probers(&self, key: u64) -> Vec<&'a str> {
        let mut best: Vec<(u64, &str)> = Vec::with_capacity(self.probers + 1);
        for (node, name) in &self.nodes {
            let candidate = (score(*node, key), *name);
            let place = best.partition_point(|better| *better > candidate);
            if place < self.probers {
                best.insert(place, candidate);
                best.truncate(self.probers);
            }
        }
        best.into_iter().map(|(_, name)| name).collect()
    }

    /// Whether most of a key's probers are among `voters`.
    #[must_use]
    pub fn is_carried(&self, key: u64, voters: &[&str]) -> bool {
        let probers = self.probers(key);
        let votes = probers.iter().filter(|prober| voters.contains(prober)).count();
        votes * 2 > probers.len()
    }
}

/// A target, and how many nodes suit it better than this one.
#[derive(Clone, Debug)]
struct Place {
    key: u64,
    check: Arc<HealthCheck>,
    above: usize,
}

/// The part of all targets that one agent probes. A change of a Service costs its targets times the nodes, a node
/// that comes or goes one step for each target.
#[derive(Clone, Debug)]
pub struct Share {
    own: (u64, Arc<str>),
    probers: usize,
    /// All other live agents; none where each probes for itself.
    others: BTreeMap<Arc<str>, u64>,
    services: BTreeMap<ObjectName, BTreeMap<Target, Place>>,
}

impl Share {
    /// Of an agent that is alone as yet.
    #[must_use]
    pub fn new(node: &Arc<str>, probers: usize) -> Self {
        let own = (stable_hash::of(node), Arc::clone(node));
        Self { own, probers, others: BTreeMap::new(), services: BTreeMap::new() }
    }

    /// Takes the targets of a Service; the part of them that is this agent's.
    pub fn replace(&mut self, service: &ObjectName, targets: Targets) -> Targets {
        let places: BTreeMap<Target, Place> = targets
            .into_iter()
            .map(|(target, check)| {
                let key = target_key(&target);
                let above = self.others.iter().filter(|(name, node)| self.is_above(name, **node, key));
                let above = above.count();
                (target, Place { key, check, above })
            })
            .collect();
        self.services.remove(service);
        if !places.is_empty() {
            self.services.insert(service.clone(), places);
        }
        self.of(service)
    }

    /// The part of a Service's targets that is this agent's.
    #[must_use]
    pub fn of(&self, service: &ObjectName) -> Targets {
        let places = self.services.get(service).into_iter().flatten();
        let ours = places.filter(|(_, place)| place.above < self.probers);
        ours.map(|(target, place)| (target.clone(), Arc::clone(&place.check))).collect()
    }

    /// The targets of keys, as far as they are there.
    #[must_use]
    pub fn resolve(&self, keys: &BTreeSet<u64>) -> BTreeMap<u64, Resolved> {
        let places = self.services.values().flatten().filter(|(_, place)| keys.contains(&place.key));
        let resolved = places.map(|(target, place)| {
            let settles_ms = (place.above < self.probers).then(|| settles_ms(&place.check));
            (place.key, Resolved { target: target.clone(), settles_ms })
        });
        resolved.collect()
    }

    /// Takes the nodes of the other live agents; the Services of which this agent's part has changed.
    pub fn set_others(&mut self, nodes: &BTreeSet<Arc<str>>) -> BTreeSet<ObjectName> {
        let gone: Vec<_> = self.others.iter().filter(|(name, _)| !nodes.contains(*name)).collect();
        let gone: Vec<_> = gone.into_iter().map(|(name, node)| (Arc::clone(name), *node)).collect();
        let is_new = |name: &&Arc<str>| !self.others.contains_key(*name) && **name != self.own.1;
        let new: Vec<_> =
            nodes.iter().filter(is_new).map(|name| (Arc::clone(name), stable_hash::of(name))).collect();
        let mut changed = BTreeSet::new();
        if gone.is_empty() && new.is_empty() {
            return changed;
        }
        let mut services = std::mem::take(&mut self.services);
        for (service, places) in &mut services {
            for place in places.values_mut() {
                let was_ours = place.above < self.probers;
                let is_above = |(name, node): &&(Arc<str>, u64)| self.is_above(name, *node, place.key);
                let (less, more) =
                    (gone.iter().filter(is_above).count(), new.iter().filter(is_above).count());
                place.above = place.above - less + more;
                if was_ours != (place.above < self.probers) {
                    changed.insert(service.clone());
                }
            }
        }
        self.services = services;
        for (name, _) in &gone {
            self.others.remove(name);
        }
        self.others.extend(new);
        changed
    }

    /// Whether another node suits a key better than this one.
    fn is_above(&self, name: &str, node: u64, key: u64) -> bool {
        (score(node, key), name) > (score(self.own.0, key), &*self.own.1)
    }
}

/// How long probes take to find out how an endpoint is, milliseconds: the first is due within an interval.
fn settles_ms(check: &HealthCheck) -> u64 {
    let probes = check.healthy_threshold.max(check.unhealthy_threshold) + 1;
    u64::from(check.interval_ms) * u64::from(probes) + u64::from(check.timeout_ms)
}

#[cfg(test)]
#[path = "sharing_tests.rs"]
mod tests;
