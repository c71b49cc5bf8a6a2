//! Which Services are planned again for the sake of NEGs whose endpoints are nodes.
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

    /// URL maps decide which Services have NEGs of nodes, so these are planned after them.
    pub(super) fn plan_url_maps(&mut self) {
        let former = Arc::clone(self.desired.url_maps());
        if self.desired.replace_url_maps(plan::url_maps(&self.snapshot, &self.node)) {
            let maps = self.desired.url_maps();
            let is_new = |name: &&ObjectName| former.names_service(name) != maps.names_service(name);
            let changed = former.services().chain(maps.services()).filter(is_new);
            let marked: Vec<_> = changed.filter(|name| self.has_node_negs(name)).cloned().collect();
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

    #[test]
    fn negs_of_nodes_follow_the_nodes_and_the_url_maps() {
        let planner = &mut Planner::new("node-a", NodeFlags::default());
        planner.change(Change::Node(node("node-a", "198.51.100.1")));
        let ports = vec![ServicePort { node_port: Some(30_080), ..port("http", 80) }];
        let facts = Service { ports, neg_type: Some(NegType::NodePort), ..service("web", "192.0.2.1") };
        planned(planner, Change::Service(facts.into()));
        assert_eq!(nodes(planner), None, "no Ingress leads to it");
        let ingress = Ingress {
            class: ClassChoice::Annotation("podway".into()),
            default_backend: Some(IngressBackend::Service("web".into(), BackendPort::Number(80))),
            ..Ingress::new(ObjectName::new("shop", "a"))
        };
        assert_eq!(planned(planner, Change::Ingress(ingress.into())), 1);
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
