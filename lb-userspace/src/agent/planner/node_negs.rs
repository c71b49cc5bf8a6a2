//! Which Services are planned again for the sake of NEGs that URL maps alone have: those whose endpoints are nodes, and
//! those of headless Services.
use std::sync::Arc;

use crate::model::{NegType, Node, ObjectName};
use crate::plan;

use super::Planner;

impl Planner {
    /// Whether a NEG of nodes may come out different by a node.
    pub(super) fn is_another_neg_member(&self, node: &Node) -> bool {
        let of_neg = |node: &Node| {
            (
                node.takes_balanced_traffic,
                node.addresses.clone(),
                node.internal_addresses.clone(),
                node.zone.clone(),
            )
        };
        self.snapshot.nodes.get(&node.name).is_none_or(|known| of_neg(known) != of_neg(node))
    }

    /// Whether Ingresses send the requests to a Service to nodes.
    fn has_node_negs(&self, service: &ObjectName) -> bool {
        let facts = self.snapshot.services.get(service);
        facts.is_some_and(|facts| plan::neg_type(facts, &self.node) == NegType::NodePort)
    }

    fn is_headless(&self, service: &ObjectName) -> bool {
        self.snapshot.services.get(service).is_some_and(|facts| facts.is_headless)
    }

    /// URL maps decide which Services have NEGs of nodes, and which headless ones have any, so these are planned after
    /// them.
    pub(super) fn plan_url_maps(&mut self) {
        let former = Arc::clone(self.desired.url_maps());
        if self.desired.replace_url_maps(plan::url_maps(&self.snapshot, &self.node)) {
            let maps = self.desired.url_maps();
            let is_new = |name: &&ObjectName| former.names_service(name) != maps.names_service(name);
            let changed = former.services().chain(maps.services()).filter(is_new);
            let marked: Vec<_> =
                changed.filter(|name| self.has_node_negs(name) || self.is_headless(name)).cloned().collect();
            self.dirty.extend(marked);
        }
    }

    /// The nodes of a NEG are those of the cluster.
    pub(super) fn mark_node_negs(&mut self) {
        let named = self.desired.url_maps().services();
        let marked: Vec<_> = named.filter(|name| self.has_node_negs(name)).cloned().collect();
        self.dirty.extend(marked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::NodeFlags;
    use crate::model::{BackendPort, Change, ClassChoice, Ingress, IngressBackend, Service, ServicePort};
    use crate::plan::fixture::{ip, port, service};

    fn node(name: &str, address: &str) -> Node {
        Node {
            name: name.into(),
            resource_version: "1".into(),
            addresses: vec![ip(address)],
            internal_addresses: vec![ip(address)],
            takes_balanced_traffic: true,
            pod_cidrs: Vec::new(),
            zone: None,
        }
    }

    /// Of the only Service.
    fn nodes(planner: &Planner) -> Option<Vec<&str>> {
        let service = planner.desired.backend_services().next().expect("a backend service");
        service.node_ports.as_ref().map(|nodes| nodes.endpoints().map(|endpoint| &*endpoint.node).collect())
    }

    /// How many Services a change has planned anew.
    fn planned(planner: &mut Planner, change: Change) -> usize {
        planner.change(change);
        planner.plan().len()
    }

    fn ingress(to: &str) -> Change {
        let ingress = Ingress {
            class: ClassChoice::Annotation("podway".into()),
            default_backend: Some(IngressBackend::Service(to.into(), BackendPort::Number(80))),
            ..Ingress::new(ObjectName::new("shop", "a"))
        };
        Change::Ingress(ingress.into())
    }

    #[test]
    fn headless_services_are_planned_while_an_ingress_leads_to_them() {
        let planner = &mut Planner::new("node-a", NodeFlags::default());
        planner.change(Change::Node(node("node-a", "198.51.100.1")));
        let pods = ObjectName::new("shop", "pods");
        let facts =
            Service { ports: vec![port("http", 80)], is_headless: true, ..Service::new(pods.clone()) };
        assert_eq!(planned(planner, Change::Service(facts.into())), 0);
        assert_eq!(planned(planner, ingress("pods")), 1);
        assert!(planner.desired.service(&pods).is_some());
        assert_eq!(planned(planner, ingress("other")), 1);
        assert!(planner.desired.service(&pods).is_none());
    }

    #[test]
    fn negs_of_nodes_follow_the_nodes_and_the_url_maps() {
        let planner = &mut Planner::new("node-a", NodeFlags::default());
        planner.change(Change::Node(node("node-a", "198.51.100.1")));
        let ports = vec![ServicePort { node_port: Some(30_080), ..port("http", 80) }];
        let facts = Service { ports, neg_type: Some(NegType::NodePort), ..service("web", "192.0.2.1") };
        planned(planner, Change::Service(facts.into()));
        assert_eq!(nodes(planner), None, "no Ingress leads to it");
        assert_eq!(planned(planner, ingress("web")), 1);
        assert_eq!(nodes(planner), Some(vec!["node-a"]));
        let other = node("node-b", "198.51.100.2");
        assert_eq!(planned(planner, Change::Node(other.clone())), 1);
        assert_eq!(nodes(planner), Some(vec!["node-a", "node-b"]));
        assert_eq!(planned(planner, Change::Node(Node { resource_version: "2".into(), ..other.clone() })), 0);
        assert_eq!(
            planned(planner, Change::Node(Node { takes_balanced_traffic: false, ..other.clone() })),
            1
        );
        assert_eq!(nodes(planner), Some(vec!["node-a"]));
        assert_eq!(planned(planner, Change::Node(other)), 1);
        assert_eq!(planned(planner, Change::NodeGone("node-b".into())), 1);
        assert_eq!(nodes(planner), Some(vec!["node-a"]));
        assert_eq!(planned(planner, Change::IngressGone(ObjectName::new("shop", "a"))), 1);
        assert_eq!(nodes(planner), None);
    }
}
