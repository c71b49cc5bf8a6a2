//! `spec.loadBalancerSourceRanges`: whom the load-balancer IPs of a Service let in.
use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::frontend::Kind;

use crate::model::Service;

use super::{Family, NodeContext};

/// Whether a frontend of a Service checks its clients. Load-balancer IPs do, also where the address
/// stands in `externalIPs` too; cluster IPs and node ports do not (`nftables/proxier.go`,
/// `firewall-ips`). A family without a range is open as in kube-proxy, which looks at the ranges of one
/// family at a time (`serviceport.go`), unless a range is unreadable: that one may have been for it.
pub(super) fn checks_source(service: &Service, kind: Kind, address: IpAddr) -> bool {
    let is_balanced = kind != Kind::NodePort && service.load_balancer_ips.contains(&address);
    is_balanced && is_restricted(service, Family::of(address))
}

fn is_restricted(service: &Service, family: Family) -> bool {
    let facts = &service.source_ranges;
    facts.has_unreadable || facts.ranges.iter().any(|(network, _)| Family::of(*network) == family)
}

/// The ranges that frontends of the Service check.
pub(super) fn ranges(service: &Service, node: &NodeContext) -> Vec<(IpAddr, u8)> {
    let mut ranges = BTreeSet::new();
    for vip in &service.load_balancer_ips {
        let family = Family::of(*vip);
        let of_family = || service.source_ranges.ranges.iter().filter(|(ip, _)| Family::of(*ip) == family);
        ranges.extend(of_family());
        // "For VIP-like LBs, the VIP is often added as a local address": what this node sends there has
        // the VIP as its source, and comes in if the node may (`nftables/proxier.go`, `allowFromNode`).
        let own = node.addresses.iter().find(|address| Family::of(**address) == family);
        let covers = |own: &IpAddr| {
            of_family().any(|(ip, bits)| lb_common::Prefix::new(*ip, *bits).contains(&(*own).into()))
        };
        if own.is_some_and(covers) {
            ranges.insert((*vip, if vip.is_ipv4() { 32 } else { 128 }));
        }
    }
    ranges.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BackendConfigs, SourceRanges};
    use crate::plan::fixture::{ip, node, service};
    use crate::plan::{ReadinessAlone, ServicePlan};

    /// A dual-stack Service with two load-balancer IPs, an external IP and a node port.
    fn facts(ranges: &[(&str, u8)]) -> Service {
        let mut facts = Service {
            cluster_ips: vec![ip("10.96.0.1"), ip("2001:db8:96::1")],
            external_ips: vec![ip("203.0.113.9")],
            load_balancer_ips: vec![ip("203.0.113.5"), ip("2001:db8:5::5")],
            source_ranges: SourceRanges {
                ranges: ranges.iter().map(|(network, bits)| (ip(network), *bits)).collect(),
                has_unreadable: false,
            },
            ..service("cart", "10.96.0.1")
        };
        facts.ports[0].node_port = Some(30_080);
        facts
    }

    fn planned(facts: &Service) -> ServicePlan {
        crate::plan::service(facts, &[], &BackendConfigs::new(), &node(), &ReadinessAlone)
    }

    fn checking(plan: &ServicePlan) -> Vec<String> {
        let checking = plan.frontends.iter().filter(|frontend| frontend.checks_source);
        checking.map(|frontend| frontend.address.to_string()).collect()
    }

    #[test]
    fn load_balancer_ips_of_a_family_with_ranges_check_their_clients() {
        let plan = planned(&facts(&[("192.0.2.0", 24)]));
        assert_eq!(checking(&plan), ["203.0.113.5"]);
        assert_eq!(plan.backend_services[0].source_ranges, [(ip("192.0.2.0"), 24)]);
    }

    #[test]
    fn without_ranges_nobody_checks() {
        let plan = planned(&facts(&[]));
        assert_eq!(checking(&plan), [""; 0]);
        assert_eq!(plan.backend_services[0].source_ranges, []);
    }

    #[test]
    fn an_unreadable_range_closes_both_families() {
        let mut facts = facts(&[("192.0.2.0", 24)]);
        facts.source_ranges.has_unreadable = true;
        assert_eq!(checking(&planned(&facts)), ["203.0.113.5", "2001:db8:5::5"]);
    }

    #[test]
    fn an_external_ip_that_is_a_load_balancer_ip_checks_too() {
        let mut facts = facts(&[("192.0.2.0", 24)]);
        facts.external_ips = vec![ip("203.0.113.5")];
        assert_eq!(checking(&planned(&facts)), ["203.0.113.5"]);
    }

    #[test]
    fn ranges_without_a_load_balancer_ip_are_in_no_map() {
        let mut facts = facts(&[("192.0.2.0", 24)]);
        facts.load_balancer_ips.clear();
        let plan = planned(&facts);
        assert_eq!((checking(&plan), &*plan.backend_services[0].source_ranges), (vec![], &[][..]));
    }

    #[test]
    fn a_range_with_this_node_lets_the_vip_itself_in() {
        let plan = planned(&facts(&[("198.51.100.0", 24)]));
        let expected = [(ip("198.51.100.0"), 24), (ip("203.0.113.5"), 32)];
        assert_eq!(plan.backend_services[0].source_ranges, expected);
    }
}
