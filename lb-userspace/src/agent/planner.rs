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
            Change::Node(_) | Change::NodeGone(_) => {}
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
            self.dirty.extend(self.snapshot.services.keys().cloned());
        }
    }

    /// Marks a Service to be planned again.
    pub(super) fn mark(&mut self, service: ObjectName) {
        self.dirty.insert(service);
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Plans what is marked; returns the Services whose part of the desired state changed.
    pub(super) fn plan(&mut self) -> BTreeSet<ObjectName> {
        let mut changed = BTreeSet::new();
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
