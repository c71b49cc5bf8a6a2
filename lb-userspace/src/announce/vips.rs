//! The load-balancer addresses that a plan has, and which nodes may take their traffic. Pure.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::lb_pool::Pool;
use crate::model::{EndpointSlice, ObjectName, Service, Snapshot, TrafficPolicy};
use crate::plan::{NodeContext, UrlMaps, VipSource};

/// The nodes that may take a VIP's traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// Each.
    All,
    /// Those with an endpoint: `externalTrafficPolicy: Local`.
    These(BTreeSet<Arc<str>>),
}

/// Where a VIP's traffic may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The nodes that may take it.
    pub nodes: Nodes,
    /// Whether an endpoint takes it anywhere.
    pub has_endpoints: bool,
}

impl Reach {
    /// Whether a node may take the traffic, and somebody answers it.
    #[must_use]
    pub fn is_served_by(&self, node: &str) -> bool {
        let may = match &self.nodes {
            Nodes::All => true,
            Nodes::These(names) => names.contains(node),
        };
        may && self.has_endpoints
    }

    /// Of an address that two Services have together: a node must be right for both.
    fn joined(self, other: Self) -> Self {
        let nodes = match (self.nodes, other.nodes) {
            (Nodes::All, nodes) | (nodes, Nodes::All) => nodes,
            (Nodes::These(some), Nodes::These(others)) => {
                Nodes::These(some.intersection(&others).cloned().collect())
            }
        };
        Self { nodes, has_endpoints: self.has_endpoints || other.has_endpoints }
    }
}

/// The addresses of pools that Services and Ingresses have.
#[must_use]
pub fn vips<'a, S: Iterator<Item = &'a EndpointSlice>>(
    snapshot: &Snapshot,
    url_maps: &UrlMaps,
    node: &NodeContext,
    pools: &[Pool],
    slices: impl Fn(&ObjectName) -> S,
) -> BTreeMap<IpAddr, Reach> {
    let mut vips: BTreeMap<IpAddr, Reach> = BTreeMap::new();
    if pools.is_empty() {
        return vips;
    }
    let is_known = |address: &IpAddr| pools.iter().any(|pool| pool.contains(*address));
    let mut add = |address: IpAddr, reach: Reach| {
        let joined = match vips.remove(&address) {
            Some(known) => known.joined(reach),
            None => reach,
        };
        vips.insert(address, joined);
    };
    for service in snapshot.services.values() {
        if service.balancer.request().is_none() || !node.selection.has(service) {
            continue;
        }
        for address in service.load_balancer_ips.iter().copied().filter(is_known) {
            add(address, reach(service, slices(&service.name), address));
        }
    }
    for map in url_maps.maps() {
        let of_pools = map.vips.iter().filter(|(vip, source)| *source != VipSource::Node && is_known(vip));
        for (vip, _) in of_pools {
            add(*vip, Reach { nodes: Nodes::All, has_endpoints: true });
        }
    }
    vips
}

/// Endpoints count that take new connections: ready ones, and those that terminate and still serve.
fn reach<'a>(service: &Service, slices: impl Iterator<Item = &'a EndpointSlice>, vip: IpAddr) -> Reach {
    let endpoints = slices.flat_map(|slice| &slice.endpoints);
    let takes = endpoints.filter(|endpoint| {
        endpoint.address.is_ipv4() == vip.is_ipv4() && (endpoint.ready || endpoint.serving)
    });
    match service.external_traffic_policy {
        TrafficPolicy::Cluster => Reach { nodes: Nodes::All, has_endpoints: takes.count() > 0 },
        TrafficPolicy::Local => {
            let nodes: BTreeSet<_> = takes.filter_map(|endpoint| endpoint.node.clone()).collect();
            Reach { has_endpoints: !nodes.is_empty(), nodes: Nodes::These(nodes) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Balancer, BalancerRequest};
    use crate::plan::fixture::{ip, node, ready, service, slice, unready};

    fn balanced(name: &str, vip: &str, policy: TrafficPolicy) -> Service {
        Service {
            balancer: Balancer::Podway(BalancerRequest::default()),
            load_balancer_ips: vec![ip(vip)],
            external_traffic_policy: policy,
            ..service(name, "192.0.2.1")
        }
    }

    fn found(services: Vec<Service>) -> BTreeMap<IpAddr, Reach> {
        let services = services.into_iter().map(|facts| (facts.name.clone(), Arc::new(facts))).collect();
        let snapshot = Snapshot { services, ..Snapshot::default() };
        let here = NodeContext { lb_pool: vec!["203.0.113.0/28".parse().expect("a range")], ..node() };
        let (pools, _) = crate::lb_pool::pools(&snapshot, &here);
        let slices = [
            slice("a-1", "a", vec![ready("10.4.1.9", "node-a"), unready("10.4.2.9", "node-b")]),
            slice("b-1", "b", vec![ready("10.4.1.8", "node-a"), ready("10.4.3.8", "node-c")]),
        ];
        vips(&snapshot, &UrlMaps::default(), &here, &pools, |service| {
            let of = |slice: &&Arc<EndpointSlice>| slice.service == service.name;
            slices.iter().filter(of).map(|slice| &**slice).collect::<Vec<_>>().into_iter()
        })
    }

    fn these(names: &[&str]) -> Nodes {
        Nodes::These(names.iter().map(|name| (*name).into()).collect())
    }

    #[test]
    fn all_nodes_or_those_with_an_endpoint_take_a_vips_traffic() {
        let vips = found(vec![
            balanced("a", "203.0.113.1", TrafficPolicy::Local),
            balanced("b", "203.0.113.2", TrafficPolicy::Cluster),
            balanced("c", "203.0.113.3", TrafficPolicy::Cluster),
        ]);
        let expected = [
            ("203.0.113.1", Reach { nodes: these(&["node-a"]), has_endpoints: true }),
            ("203.0.113.2", Reach { nodes: Nodes::All, has_endpoints: true }),
            ("203.0.113.3", Reach { nodes: Nodes::All, has_endpoints: false }),
        ];
        assert_eq!(vips, expected.map(|(vip, reach)| (ip(vip), reach)).into());
        assert!(vips[&ip("203.0.113.1")].is_served_by("node-a"));
        assert!(!vips[&ip("203.0.113.1")].is_served_by("node-b"));
        assert!(!vips[&ip("203.0.113.3")].is_served_by("node-a"), "nobody answers");
    }

    #[test]
    fn a_node_must_be_right_for_all_that_share_a_vip() {
        let vips = found(vec![
            balanced("a", "203.0.113.1", TrafficPolicy::Local),
            balanced("b", "203.0.113.1", TrafficPolicy::Local),
            balanced("c", "203.0.113.1", TrafficPolicy::Cluster),
        ]);
        assert_eq!(vips[&ip("203.0.113.1")], Reach { nodes: these(&["node-a"]), has_endpoints: true });
    }

    #[test]
    fn addresses_of_no_pool_and_of_other_balancers_are_none_of_ours() {
        let other =
            Service { balancer: Balancer::Other, ..balanced("b", "203.0.113.2", TrafficPolicy::Cluster) };
        assert_eq!(
            found(vec![balanced("a", "198.51.100.1", TrafficPolicy::Cluster), other]),
            BTreeMap::new()
        );
    }
}
