//! Where facts come from: a folder of manifests or the Kubernetes API. A source turns objects into
//! [`crate::model`] facts and sends them as [`SourceEvent`]s; it decides nothing.
//!
//! The rule that every source keeps: what it cannot read it does not take away. A typing error in a
//! manifest, an API server that is away and an object that does not decode leave the last good fact
//! in place, with a [`Problem`] beside it. Only a deletion that the source has seen, or a complete
//! list without the object, takes a fact away.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Change, ObjectName, Problem, Snapshot};

pub mod files;
pub mod kube;
pub mod objects;

/// What a source reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// One fact changed.
    Change(Change),
    /// Every fact that the source had when it started is now sent. Sent once. Before it, a missing
    /// fact means nothing.
    Synced,
    /// Every change of EndpointSlices up to this resourceVersion is sent. Numbers that rise; a source without
    /// versions sends none.
    Followed(u64),
    /// A watch of this kind of objects failed, and is tried again: what is known stays.
    Interrupted(&'static str),
    /// What is wrong with one subject now. Replaces what was said of the subject before.
    Problems(Problems),
}

/// What is wrong with one subject; empty when it is in order (again).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// Kind of the subject: that of an object as in its manifest, or `File`.
    pub kind: &'static str,
    /// Its name; for a file the namespace is empty.
    pub subject: ObjectName,
    /// One for each fault.
    pub found: Vec<Problem>,
}

/// What is wrong now with all subjects of a source.
#[derive(Clone, Debug, Default)]
pub struct ProblemList(BTreeMap<(&'static str, ObjectName), Vec<Problem>>);

impl ProblemList {
    /// Replaces what is known of one subject. `true` when that changed the list.
    pub fn update(&mut self, problems: Problems) -> bool {
        let key = (problems.kind, problems.subject);
        if problems.found.is_empty() {
            return self.0.remove(&key).is_some();
        }
        if self.0.get(&key) == Some(&problems.found) {
            return false;
        }
        self.0.insert(key, problems.found);
        true
    }

    /// All problems, ordered by kind and subject.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.values().flatten()
    }
}

/// Applies one change to a snapshot.
pub fn apply(snapshot: &mut Snapshot, change: Change) {
    match change {
        Change::Service(service) => {
            snapshot.services.insert(service.name.clone(), service);
        }
        Change::ServiceGone(name) => {
            snapshot.services.remove(&name);
        }
        Change::EndpointSlice(slice) => {
            snapshot.endpoint_slices.insert(slice.name.clone(), Arc::new(slice));
        }
        Change::EndpointSliceGone(name) => {
            snapshot.endpoint_slices.remove(&name);
        }
        Change::Node(node) => {
            snapshot.nodes.insert(Arc::clone(&node.name), Arc::new(node));
        }
        Change::NodeGone(name) => {
            snapshot.nodes.remove(&name);
        }
        Change::ServiceCidr(cidr) => {
            snapshot.service_cidrs.insert(Arc::clone(&cidr.name), Arc::new(cidr));
        }
        Change::ServiceCidrGone(name) => {
            snapshot.service_cidrs.remove(&name);
        }
        Change::BackendConfig(config) => {
            snapshot.backend_configs.insert(config.name.clone(), Arc::new(config));
        }
        Change::BackendConfigGone(name) => {
            snapshot.backend_configs.remove(&name);
        }
        Change::Secret(secret) => {
            snapshot.secrets.insert(secret.name.clone(), Arc::new(secret));
        }
        Change::SecretGone(name) => {
            snapshot.secrets.remove(&name);
        }
        Change::Ingress(ingress) => {
            snapshot.ingresses.insert(ingress.name.clone(), ingress);
        }
        Change::IngressGone(name) => {
            snapshot.ingresses.remove(&name);
        }
        Change::IngressClass(class) => {
            snapshot.ingress_classes.insert(Arc::clone(&class.name), Arc::new(class));
        }
        Change::IngressClassGone(name) => {
            snapshot.ingress_classes.remove(&name);
        }
        Change::FrontendConfig(config) => {
            snapshot.frontend_configs.insert(config.name.clone(), Arc::new(config));
        }
        Change::FrontendConfigGone(name) => {
            snapshot.frontend_configs.remove(&name);
        }
        Change::LoadBalancerPool(pool) => {
            snapshot.load_balancer_pools.insert(Arc::clone(&pool.name), Arc::new(pool));
        }
        Change::LoadBalancerPoolGone(name) => {
            snapshot.load_balancer_pools.remove(&name);
        }
        Change::GatedPod(pod) => {
            snapshot.gated_pods.insert(pod.name.clone(), Arc::new(pod));
        }
        Change::GatedPodGone(name) => {
            snapshot.gated_pods.remove(&name);
        }
    }
}

/// Strings that many facts share (node and zone names), each kept once.
///
/// It holds every string until [`Interner::forget_unused`]; a cluster has few of them.
#[derive(Debug, Default)]
pub struct Interner(BTreeSet<Arc<str>>);

impl Interner {
    /// The shared copy of `text`.
    pub fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(Arc::clone(&new));
        new
    }

    /// Drops the strings that no fact holds any more.
    pub fn forget_unused(&mut self) {
        self.0.retain(|text| Arc::strong_count(text) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_shared_and_unused_ones_go() {
        let mut interner = Interner::default();
        let first = interner.shared("node-a");
        assert!(Arc::ptr_eq(&first, &interner.shared("node-a")));
        let _ = interner.shared("node-b");
        interner.forget_unused();
        assert_eq!(interner.0.iter().map(|text| &**text).collect::<Vec<_>>(), ["node-a"]);
    }

    #[test]
    fn problems_of_a_subject_are_replaced() {
        let subject = ObjectName::new("default", "web");
        let problem = Problem { kind: "Service", object: subject.clone(), message: "odd".into() };
        let report = |found| Problems { kind: "Service", subject: subject.clone(), found };
        let mut list = ProblemList::default();
        assert!(list.update(report(vec![problem.clone()])));
        assert!(!list.update(report(vec![problem.clone()])), "the same again changes nothing");
        assert_eq!(list.iter().collect::<Vec<_>>(), [&problem]);
        assert!(list.update(report(vec![])));
        assert_eq!(list.iter().count(), 0);
    }
}
