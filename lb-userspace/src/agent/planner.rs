//! The facts and the plan, kept up to date at the cost of what changed.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use lb_common::config::Config;

use crate::attach::PortRange;
use crate::health::Findings;
use crate::lb_pool::Held;
use crate::model::{
    Change, EndpointSlice, GatedPod, HealthPolicy, Ingress, ObjectName, Service, Snapshot, TlsSecret,
};
use crate::plan::{self, Desired, NodeContext, ServicePlan};
use crate::source;

use super::NodeFlags;
use super::node_addresses::NodeAddresses;
use super::programming::Programming;

mod addresses;
mod node_negs;
mod users;

/// Snapshot, plan, and which Services must be planned again.
#[derive(Debug)]
pub(super) struct Planner {
    node_name: Arc<str>,
    flags: NodeFlags,
    snapshot: Snapshot,
    /// Slices by the Service that they belong to, in the order of their names.
    slices: BTreeMap<ObjectName, BTreeMap<ObjectName, Arc<EndpointSlice>>>,
    dirty: BTreeSet<ObjectName>,
    pub(super) desired: Desired,
    node: NodeContext,
    /// Whether this node's addresses or the pods' prefixes changed since the last plan.
    is_node_dirty: bool,
    /// Whether something changed that a URL map is made of.
    are_url_maps_dirty: bool,
    /// Whether a node came, went or changed in what a NEG of nodes is made of.
    are_node_negs_dirty: bool,
    /// Whether a Secret changed since the last plan.
    are_secrets_dirty: bool,
    pub(super) findings: Findings,
    pub(super) node_addresses: NodeAddresses,
    pub(super) programming: Programming,
    /// Whether something changed that decides who gets which load-balancer address.
    are_pools_dirty: bool,
    /// Addresses given to the facts; only where no API server keeps statuses.
    held: Option<Held>,
}

impl Planner {
    pub(super) fn new(node_name: &str, flags: NodeFlags) -> Self {
        let node_name: Arc<str> = node_name.into();
        Self {
            node: flags.context(Arc::clone(&node_name), None),
            node_name,
            flags,
            snapshot: Snapshot::default(),
            slices: BTreeMap::new(),
            dirty: BTreeSet::new(),
            desired: Desired::default(),
            is_node_dirty: false,
            are_url_maps_dirty: false,
            are_node_negs_dirty: false,
            are_secrets_dirty: false,
            findings: Findings::default(),
            node_addresses: NodeAddresses::default(),
            programming: Programming::new(SystemTime::now()),
            are_pools_dirty: false,
            held: None,
        }
    }

    /// Takes one change of a fact and marks what it touches.
    pub(super) fn change(&mut self, change: Change) {
        self.are_pools_dirty |= self.concerns_pools(&change);
        match &change {
            Change::Service(service) => self.note_service(&service.name),
            Change::ServiceGone(name) => self.note_service(name),
            Change::EndpointSlice(slice) => {
                let former = self.snapshot.endpoint_slices.get(&slice.name);
                let service = service_of(slice);
                // What is in no plan gets into no map, so there is nothing to measure.
                if !slice.is_headless || self.desired.service(&service).is_some() {
                    self.programming.note(&service, slice, former.map(|slice| &**slice));
                }
                self.forget_slice(&slice.name);
            }
            Change::EndpointSliceGone(name) => self.forget_slice(name),
            Change::Node(node) => {
                self.note_node(&node.name, &node.pod_cidrs, &node.addresses);
                self.are_node_negs_dirty |= self.is_another_neg_member(node);
            }
            Change::NodeGone(name) => {
                self.note_node(name, &[], &[]);
                self.are_node_negs_dirty = true;
            }
            Change::ServiceCidr(_) | Change::ServiceCidrGone(_) => self.is_node_dirty = true,
            Change::BackendConfig(config) => self.note_backend_config(&config.name),
            Change::BackendConfigGone(name) => self.note_backend_config(name),
            Change::Secret(_) | Change::SecretGone(_) => self.are_secrets_dirty = true,
            Change::Ingress(_)
            | Change::IngressGone(_)
            | Change::IngressClass(_)
            | Change::IngressClassGone(_)
            | Change::FrontendConfig(_)
            | Change::FrontendConfigGone(_)
            | Change::LoadBalancerPool(_)
            | Change::LoadBalancerPoolGone(_) => self.are_url_maps_dirty = true,
            // Nothing is planned for them.
            Change::GatedPod(_) | Change::GatedPodGone(_) => {}
        }
        let is_node = matches!(&change, Change::Node(_) | Change::NodeGone(_));
        let slice = if let Change::EndpointSlice(slice) = &change { Some(slice.name.clone()) } else { None };
        source::apply(&mut self.snapshot, change);
        if let Some(name) = slice {
            self.note_slice(name);
        }
        if is_node {
            self.refresh_node();
        }
    }

    fn note_service(&mut self, name: &ObjectName) {
        self.dirty.insert(name.clone());
        self.are_url_maps_dirty |= self.desired.url_maps().names_service(name);
    }

    /// Slices are the most of all facts: the snapshot's copy is the only one.
    fn note_slice(&mut self, name: ObjectName) {
        let Some(slice) = self.snapshot.endpoint_slices.get(&name) else { return };
        let service = service_of(slice);
        self.slices.entry(service.clone()).or_default().insert(name, Arc::clone(slice));
        self.dirty.insert(service);
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

    /// Only Services of the namespace may name it.
    fn note_backend_config(&mut self, name: &ObjectName) {
        let first = ObjectName { namespace: Arc::clone(&name.namespace), name: "".into() };
        let services = self.snapshot.services.range(first..);
        let services = services.take_while(|(service, _)| service.namespace == name.namespace);
        let users = services.filter(|(_, service)| service.backend_configs.has(&name.name));
        self.dirty.extend(users.map(|(service, _)| service.clone()));
    }

    /// CONFIG has the prefixes of all nodes' pods, NODES all nodes' addresses.
    fn note_node(&mut self, node: &str, pod_cidrs: &[(IpAddr, u8)], addresses: &[IpAddr]) {
        let known = self.snapshot.nodes.get(node);
        self.is_node_dirty |= known.map_or(&[][..], |node| &node.pod_cidrs) != pod_cidrs;
        self.node_addresses.replace(known.map_or(&[][..], |node| &node.addresses), addresses);
    }

    /// Node ports stand on the node's addresses and hints name its zone, so all Services follow a change
    /// of these.
    fn refresh_node(&mut self) {
        // The Node object may be away for a while: what it said last holds.
        let Some(object) = self.snapshot.nodes.get(&self.node_name) else { return };
        let node = self.flags.context(Arc::clone(&self.node_name), Some(object));
        if node != self.node {
            self.is_node_dirty |= node.addresses != self.node.addresses;
            self.node = node;
            self.dirty.extend(self.snapshot.services.keys().cloned());
            self.are_url_maps_dirty = true;
        }
    }

    /// What a Service wants done with what is known of its endpoints' health.
    pub(super) fn health_policy(&self, service: &ObjectName) -> HealthPolicy {
        self.snapshot.services.get(service).map(|facts| facts.health_policy.clone()).unwrap_or_default()
    }

    /// Marks a Service to be planned again.
    pub(super) fn mark(&mut self, service: ObjectName) {
        self.dirty.insert(service);
    }

    /// Whether there is anything to plan, or CONFIG to write.
    pub(super) fn is_dirty(&self) -> bool {
        self.is_node_dirty
            || self.node_addresses.is_dirty()
            || self.are_url_maps_dirty
            || self.are_node_negs_dirty
            || self.are_secrets_dirty
            || (self.are_pools_dirty && self.held.is_some())
            || !self.dirty.is_empty()
    }

    /// Plans what is marked; returns the Services whose part of the desired state changed.
    pub(super) fn plan(&mut self) -> BTreeSet<ObjectName> {
        self.give();
        let mut changed = BTreeSet::new();
        if std::mem::take(&mut self.are_url_maps_dirty) {
            self.plan_url_maps();
        }
        if std::mem::take(&mut self.are_node_negs_dirty) {
            self.mark_node_negs();
        }
        for name in std::mem::take(&mut self.dirty) {
            let planned = self.plan_service(&name);
            self.findings.follow(&name, planned.as_ref());
            changed.extend(self.desired.replace(&name, planned));
        }
        self.are_secrets_dirty = false;
        changed
    }

    fn plan_service(&self, name: &ObjectName) -> Option<ServicePlan> {
        let url_maps = self.desired.url_maps();
        let service = self.snapshot.services.get(name).filter(|facts| plan::is_planned(facts, url_maps))?;
        let slices = self.slices.get(name);
        let slices: Vec<_> = slices.map(|slices| slices.values().cloned().collect()).unwrap_or_default();
        let Snapshot { backend_configs, nodes, .. } = &self.snapshot;
        let mut planned = plan::service(service, &slices, backend_configs, &self.node, &self.findings);
        if url_maps.names_service(name) {
            plan::add_node_ports(&mut planned, service, nodes, &self.node, &self.findings);
        }
        Some(planned)
    }

    /// All facts.
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Certificates by the name of their Secret.
    pub(super) fn secrets(&self) -> &BTreeMap<ObjectName, Arc<TlsSecret>> {
        &self.snapshot.secrets
    }

    /// What the plan is made for.
    pub(super) fn node(&self) -> &NodeContext {
        &self.node
    }

    /// This node's addresses.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.node.addresses
    }

    /// How many objects are known, by kind.
    pub(super) fn objects(&self) -> [(&'static str, usize); 5] {
        let Snapshot { services, endpoint_slices, nodes, service_cidrs, backend_configs, .. } =
            &self.snapshot;
        [
            ("BackendConfig", backend_configs.len()),
            ("EndpointSlice", endpoint_slices.len()),
            ("Node", nodes.len()),
            ("Service", services.len()),
            ("ServiceCIDR", service_cidrs.len()),
        ]
    }

    /// The names of all nodes.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &str> {
        self.snapshot.nodes.keys().map(|name| &**name)
    }

    /// The names of all nodes, shared.
    pub(super) fn node_names(&self) -> impl Iterator<Item = &Arc<str>> + Clone {
        self.snapshot.nodes.keys()
    }

    /// The zones of all nodes.
    pub(super) fn zones(&self) -> BTreeSet<Arc<str>> {
        self.snapshot.nodes.values().filter_map(|node| node.zone.clone()).collect()
    }

    /// The names of all Services.
    pub(super) fn service_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.snapshot.services.keys()
    }

    /// The facts, and the node that is planned for.
    pub(super) fn facts(&self) -> (&Snapshot, &NodeContext) {
        (&self.snapshot, &self.node)
    }

    /// A Service that this node serves.
    pub(super) fn served(&self, service: &ObjectName) -> Option<&Service> {
        self.snapshot
            .services
            .get(service)
            .map(|facts| &**facts)
            .filter(|facts| self.node.selection.has(facts))
    }

    /// An Ingress that is in a URL map.
    pub(super) fn served_ingress(&self, ingress: &ObjectName) -> Option<&Ingress> {
        let mut origins = self.desired.url_maps().maps().iter().flat_map(|map| &map.ingresses);
        let is_served = origins.any(|origin| origin.object == *ingress);
        self.ingress(ingress).filter(|_| is_served)
    }

    /// An Ingress, whosever it is.
    pub(super) fn ingress(&self, ingress: &ObjectName) -> Option<&Ingress> {
        self.snapshot.ingresses.get(ingress).map(|facts| &**facts)
    }

    /// The Services of a namespace that have slices.
    pub(super) fn services_with_slices(&self, namespace: &Arc<str>) -> impl Iterator<Item = &ObjectName> {
        let first = ObjectName { namespace: Arc::clone(namespace), name: "".into() };
        let services = self.slices.range(first..).map(|(service, _)| service);
        services.take_while(move |service| service.namespace == *namespace)
    }

    /// The slices of a Service.
    pub(super) fn slices(&self, service: &ObjectName) -> impl Iterator<Item = &EndpointSlice> + Clone {
        self.slices.get(service).into_iter().flat_map(BTreeMap::values).map(|slice| &**slice)
    }

    /// A pod of this node that waits for a readiness gate.
    pub(super) fn gated_pod(&self, pod: &ObjectName) -> Option<&Arc<GatedPod>> {
        self.snapshot.gated_pods.get(pod)
    }

    /// Whether CONFIG may have changed since the last call.
    pub(super) fn take_node_change(&mut self) -> bool {
        std::mem::take(&mut self.is_node_dirty)
    }

    /// The value of CONFIG.
    pub(super) fn config(&self, snat_ports: PortRange, namespace_cookie: u64) -> Config {
        self.flags.config(&self.node.addresses, &self.snapshot, snat_ports, namespace_cookie)
    }
}

fn service_of(slice: &EndpointSlice) -> ObjectName {
    ObjectName { namespace: Arc::clone(&slice.name.namespace), name: Arc::clone(&slice.service) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BackendPort, ClassChoice, Ingress, IngressBackend, Node};
    use crate::plan::fixture::{ip, ready, service, slice};

    fn planner() -> Planner {
        Planner::new("node-a", NodeFlags::default())
    }

    fn node(name: &str, address: &str, pod_cidr: &str) -> Change {
        Change::Node(Node {
            name: name.into(),
            resource_version: "1".into(),
            addresses: vec![ip(address)],
            internal_addresses: vec![ip(address)],
            takes_balanced_traffic: true,
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
        planner.change(Change::Service(service("cart", "192.0.2.1").into()));
        planner.change(Change::Service(service("web", "192.0.2.2").into()));
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
        planner.change(Change::Service(service("cart", "192.0.2.1").into()));
        planner.change(Change::Service(service("web", "192.0.2.2").into()));
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
        let flags = NodeFlags { node_ip: vec![ip("198.51.100.9")], ..NodeFlags::default() };
        let mut planner = Planner::new("node-a", flags);
        planner.change(node("node-a", "198.51.100.1", "10.244.1.0"));
        assert_eq!(planner.addresses(), [ip("198.51.100.9")]);
    }

    #[test]
    fn services_follow_the_zone_of_the_node() {
        let mut planner = planner();
        planner.change(node("node-a", "198.51.100.1", "10.244.1.0"));
        planner.change(Change::Service(service("cart", "192.0.2.1").into()));
        let endpoint = |address, zone: &str| crate::model::SliceEndpoint {
            zone_hints: vec![zone.into()],
            ..ready(address, "node-b")
        };
        let endpoints = vec![endpoint("10.4.2.8", "zone-1"), endpoint("10.4.2.9", "zone-2")];
        planner.change(Change::EndpointSlice((*slice("cart-1", "cart", endpoints)).clone()));
        planner.plan();
        let members = |planner: &Planner| {
            let service = planner.desired.backend_services().next().expect("cart");
            let members =
                service.negs[0].members.iter().map(|index| service.endpoints[*index as usize].address);
            members.map(|address| address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(members(&planner), ["10.4.2.8", "10.4.2.9"]);
        let Change::Node(facts) = node("node-a", "198.51.100.1", "10.244.1.0") else { unreachable!() };
        planner.change(Change::Node(Node { zone: Some("zone-2".into()), ..facts }));
        assert_eq!(names(&planner.plan()), ["shop/cart"]);
        assert_eq!(members(&planner), ["10.4.2.9"]);
    }

    #[test]
    fn prefixes_of_another_node_are_something_to_write() {
        let mut planner = planner();
        planner.change(node("node-a", "198.51.100.1", "10.244.1.0"));
        assert!(planner.take_node_change());
        planner.change(node("node-b", "198.51.100.2", "10.244.2.0"));
        assert!(planner.take_node_change());
        let config = planner.config(PortRange::default(), 0);
        assert!(["10.244.1.9", "10.244.2.9"].iter().all(|pod| config.is_in_cluster(&ip(pod).into())));
    }

    #[test]
    fn service_cidrs_are_something_to_write() {
        let mut planner = planner();
        let prefixes = vec![(ip("10.96.0.0"), 12)];
        let cidr =
            crate::model::ServiceCidr { name: "kubernetes".into(), resource_version: "1".into(), prefixes };
        planner.change(Change::ServiceCidr(cidr));
        assert!(planner.is_dirty());
        let config = planner.config(PortRange::default(), 0);
        assert!(config.is_service_address(&ip("10.96.0.1").into()));
    }

    #[test]
    fn a_backend_config_marks_the_services_that_name_it() {
        let mut planner = planner();
        let naming = |namespace: &str, name: &str, config: &str| {
            let mut facts = service(name, "192.0.2.1");
            facts.name = ObjectName::new(namespace, name);
            facts.backend_configs.ports = [("http".into(), config.into())].into();
            Change::Service(facts.into())
        };
        planner.change(naming("other", "web", "plain"));
        planner.change(naming("shop", "cart", "plain"));
        planner.change(naming("shop", "web", "fancy"));
        planner.change(naming("shoq", "web", "plain"));
        planner.plan();
        let drain = Some(crate::model::DrainContract { deadline_s: 7 });
        planner.change(Change::BackendConfig(crate::model::BackendConfig {
            name: ObjectName::new("shop", "plain"),
            resource_version: "1".into(),
            uid: "".into(),
            health_check: None,
            drain,
            http: Arc::default(),
        }));
        assert_eq!(names(&planner.dirty), ["shop/cart"]);
        planner.plan();
        planner.change(Change::BackendConfigGone(ObjectName::new("shop", "plain")));
        assert_eq!(names(&planner.dirty), ["shop/cart"]);
    }

    #[test]
    fn url_maps_follow_ingresses_and_the_services_that_they_name() {
        let mut planner = planner();
        planner.change(node("node-a", "198.51.100.1", "10.244.1.0"));
        planner.change(Change::Service(service("cart", "192.0.2.1").into()));
        let backend = IngressBackend::Service("web".into(), BackendPort::Number(80));
        planner.change(Change::Ingress(Arc::new(Ingress {
            class: ClassChoice::Annotation("podway".into()),
            default_backend: Some(backend),
            ..Ingress::new(ObjectName::new("shop", "a"))
        })));
        planner.plan();
        let is_served = |planner: &Planner| {
            let maps = planner.desired.url_maps();
            maps.maps().first().and_then(|map| map.map.default_target()).map(|target| target.backend.is_ok())
        };
        assert_eq!(is_served(&planner), Some(false), "the Service is missing");
        planner.change(Change::Service(service("cart", "192.0.2.3").into()));
        assert!(!planner.are_url_maps_dirty, "no rule names it");
        planner.change(Change::Service(service("web", "192.0.2.2").into()));
        planner.plan();
        assert_eq!(is_served(&planner), Some(true));
        planner.change(Change::IngressGone(ObjectName::new("shop", "a")));
        assert!(planner.is_dirty());
        planner.plan();
        assert_eq!(is_served(&planner), None);
    }

    #[test]
    fn a_label_takes_a_service_over_and_gives_it_back() {
        let flags = NodeFlags {
            service_selector: Some("proxy=podway".parse().expect("a selector")),
            ..NodeFlags::default()
        };
        let mut planner = Planner::new("node-a", flags);
        let with_label = |value: &str| {
            let labels = Arc::new([("proxy".into(), value.into())].into());
            Change::Service(Arc::new(Service { labels, ..service("cart", "192.0.2.1") }))
        };
        let frontends = |planner: &mut Planner| {
            planner.plan();
            planner.desired.frontends().count()
        };
        planner.change(with_label("other"));
        assert_eq!(frontends(&mut planner), 0);
        planner.change(with_label("podway"));
        assert_eq!(frontends(&mut planner), 1);
        planner.change(with_label("other"));
        assert_eq!(frontends(&mut planner), 0);
    }

    #[test]
    fn beside_another_proxy_no_address_counts_as_unallocated() {
        let cidr = vec![crate::attach::Cidr(ip("10.96.0.0"), 16)];
        let alone = NodeFlags { service_cidr: cidr, ..NodeFlags::default() };
        let beside = NodeFlags { only_service: vec![ObjectName::new("shop", "cart")], ..alone.clone() };
        let is_dropped = |flags: NodeFlags| {
            let config = Planner::new("node-a", flags).config(PortRange::default(), 0);
            config.is_service_address(&ip("10.96.0.9").into())
        };
        assert!(is_dropped(alone));
        assert!(!is_dropped(beside));
    }
}
