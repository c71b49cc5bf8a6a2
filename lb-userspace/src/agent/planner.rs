//! The facts and the plan, kept up to date at the cost of what changed.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::attach::Cidr;
use crate::health::Findings;
use crate::model::{Change, EndpointSlice, ObjectName, Snapshot};
use crate::plan::{self, Desired, NodeContext};
use crate::source;

/// Snapshot, plan, and which Services must be planned again.
#[derive(Debug)]
pub(super) struct Planner {
    node_name: Arc<str>,
    /// From flags; empty means from the Node object.
    given_addresses: Vec<IpAddr>,
    given_cidrs: Vec<Cidr>,
    snapshot: Snapshot,
    /// Slices by the Service that they belong to, in the order of their names.
    slices: BTreeMap<ObjectName, BTreeMap<ObjectName, Arc<EndpointSlice>>>,
    dirty: BTreeSet<ObjectName>,
    pub(super) desired: Desired,
    node: NodeContext,
    /// Whether this node's addresses or the pods' prefixes changed since the last plan.
    is_node_dirty: bool,
    pub(super) findings: Findings,
}

impl Planner {
    pub(super) fn new(node_name: &str, addresses: Vec<IpAddr>, cidrs: Vec<Cidr>) -> Self {
        let node_name: Arc<str> = node_name.into();
        Self {
            node: NodeContext { name: Arc::clone(&node_name), addresses: addresses.clone() },
            node_name,
            given_addresses: addresses,
            given_cidrs: cidrs,
            snapshot: Snapshot::default(),
            slices: BTreeMap::new(),
            dirty: BTreeSet::new(),
            desired: Desired::default(),
            is_node_dirty: false,
            findings: Findings::default(),
        }
    }

    /// Takes one change of a fact and marks what it touches.
    pub(super) fn change(&mut self, change: Change) {
        match &change {
            Change::Service(service) => drop(self.dirty.insert(service.name.clone())),
            Change::ServiceGone(name) => drop(self.dirty.insert(name.clone())),
            Change::EndpointSlice(slice) => {
                self.forget_slice(&slice.name);
                let service = service_of(slice);
                let slices = self.slices.entry(service.clone()).or_default();
                slices.insert(slice.name.clone(), Arc::new(slice.clone()));
                self.dirty.insert(service);
            }
            Change::EndpointSliceGone(name) => self.forget_slice(name),
            Change::Node(node) => self.note_prefixes(&node.name, &node.pod_cidrs),
            Change::NodeGone(name) => self.note_prefixes(name, &[]),
        }
        let is_node = matches!(&change, Change::Node(_) | Change::NodeGone(_));
        source::apply(&mut self.snapshot, change);
        if is_node {
            self.refresh_node();
        }
    }

    /// A slice may have moved to another Service: the one that had it is planned again.
    fn forget_slice(&mut self, name: &ObjectName) {
        let Some(known) = self.snapshot.endpoint_slices.get(name) else { return };
        let service = service_of(known);
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.dirty.insert(service);
    }

    /// CONFIG has the prefixes of all nodes' pods.
    fn note_prefixes(&mut self, node: &str, pod_cidrs: &[(IpAddr, u8)]) {
        let known = self.snapshot.nodes.get(node).map_or(&[][..], |node| &node.pod_cidrs);
        self.is_node_dirty |= known != pod_cidrs;
    }

    /// Node ports stand on the node's addresses, so all Services follow a change of these.
    fn refresh_node(&mut self) {
        let addresses = match (&self.given_addresses[..], self.snapshot.nodes.get(&self.node_name)) {
            ([], Some(node)) => node.addresses.clone(),
            // The Node object may be away for a while: what it said last holds.
            ([], None) => return,
            (given, _) => given.to_vec(),
        };
        if addresses != self.node.addresses {
            self.node.addresses = addresses;
            self.is_node_dirty = true;
            self.dirty.extend(self.snapshot.services.keys().cloned());
        }
    }

    /// Marks a Service to be planned again.
    pub(super) fn mark(&mut self, service: ObjectName) {
        self.dirty.insert(service);
    }

    /// Whether there is anything to plan, or CONFIG to write.
    pub(super) fn is_dirty(&self) -> bool {
        self.is_node_dirty || !self.dirty.is_empty()
    }

    /// Plans what is marked; returns the Services whose part of the desired state changed.
    pub(super) fn plan(&mut self) -> BTreeSet<ObjectName> {
        let mut changed = BTreeSet::new();
        self.is_node_dirty = false;
        for name in std::mem::take(&mut self.dirty) {
            let planned = self.snapshot.services.get(&name).map(|service| {
                let slices: Vec<_> = self
                    .slices
                    .get(&name)
                    .map(|slices| slices.values().cloned().collect())
                    .unwrap_or_default();
                plan::service(service, &slices, &self.node, &self.findings)
            });
            changed.extend(self.desired.replace(&name, planned));
        }
        changed
    }

    /// This node's addresses.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.node.addresses
    }

    /// Prefixes of the cluster's pods.
    pub(super) fn cluster_cidrs(&self) -> Vec<Cidr> {
        if !self.given_cidrs.is_empty() {
            return self.given_cidrs.clone();
        }
        let nodes = self.snapshot.nodes.values();
        nodes.flat_map(|node| node.pod_cidrs.iter().map(|(address, bits)| Cidr(*address, *bits))).collect()
    }
}

fn service_of(slice: &EndpointSlice) -> ObjectName {
    ObjectName { namespace: Arc::clone(&slice.name.namespace), name: Arc::clone(&slice.service) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Node;
    use crate::plan::fixture::{ip, ready, service, slice};

    fn planner() -> Planner {
        Planner::new("node-a", Vec::new(), Vec::new())
    }

    fn node(name: &str, address: &str, pod_cidr: &str) -> Change {
        Change::Node(Node {
            name: name.into(),
            resource_version: "1".into(),
            addresses: vec![ip(address)],
            pod_cidrs: vec![(ip(pod_cidr), 24)],
            zone: None,
        })
    }

    fn names(changed: &BTreeSet<ObjectName>) -> Vec<String> {
        changed.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_services_that_changed_are_planned() {
        let mut planner = planner();
        planner.change(Change::Service(service("cart", "192.0.2.1")));
        planner.change(Change::Service(service("web", "192.0.2.2")));
        assert_eq!(names(&planner.plan()), ["shop/cart", "shop/web"]);
        planner.change(Change::EndpointSlice(
            (*slice("web-1", "web", vec![ready("10.4.2.9", "node-a")])).clone(),
        ));
        assert_eq!(names(&planner.plan()), ["shop/web"]);
        assert!(!planner.is_dirty());
    }

    #[test]
    fn a_slice_that_moves_marks_both_services() {
        let mut planner = planner();
        planner.change(Change::Service(service("cart", "192.0.2.1")));
        planner.change(Change::Service(service("web", "192.0.2.2")));
        let endpoints = vec![ready("10.4.2.9", "node-a")];
        planner.change(Change::EndpointSlice((*slice("s-1", "web", endpoints.clone())).clone()));
        planner.plan();
        planner.change(Change::EndpointSlice((*slice("s-1", "cart", endpoints)).clone()));
        assert_eq!(names(&planner.plan()), ["shop/cart", "shop/web"]);
    }

    #[test]
    fn addresses_come_from_the_node_object_and_stay_while_it_is_away() {
        let mut planner = planner();
        assert!(planner.addresses().is_empty());
        planner.change(node("node-b", "198.51.100.2", "10.244.2.0"));
        assert!(planner.addresses().is_empty());
        planner.change(node("node-a", "198.51.100.1", "10.244.1.0"));
        planner.change(Change::NodeGone("node-a".into()));
        assert_eq!(planner.addresses(), [ip("198.51.100.1")]);
    }

    #[test]
    fn given_addresses_go_before_those_of_the_node_object() {
        let mut planner = Planner::new("node-a", vec![ip("198.51.100.9")], Vec::new());
        planner.change(node("node-a", "198.51.100.1", "10.244.1.0"));
        assert_eq!(planner.addresses(), [ip("198.51.100.9")]);
    }

    #[test]
    fn prefixes_of_another_node_are_something_to_write() {
        let mut planner = planner();
        planner.change(node("node-a", "198.51.100.1", "10.244.1.0"));
        planner.plan();
        planner.change(node("node-b", "198.51.100.2", "10.244.2.0"));
        assert!(planner.is_dirty());
        assert_eq!(planner.cluster_cidrs(), [Cidr(ip("10.244.1.0"), 24), Cidr(ip("10.244.2.0"), 24)]);
        planner.plan();
        planner.change(node("node-b", "198.51.100.3", "10.244.2.0"));
        assert!(!planner.is_dirty(), "another node's address is in no map");
    }
}
