//! Zone and node hints (`topology.go`).
use lb_common::neg::NegKind;

use super::fixture::{ip, node, ready, service, slice, terminating, unready};
use super::*;
use crate::model::{BackendConfigs, Service, SliceEndpoint, TrafficPolicy};

/// A ready endpoint on node-b with zone and node hints.
fn hinted(address: &str, zones: &[&str], nodes: &[&str]) -> SliceEndpoint {
    let shared = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    SliceEndpoint { zone_hints: shared(zones), node_hints: shared(nodes), ..ready(address, "node-b") }
}

fn members(facts: &Service, endpoints: Vec<SliceEndpoint>, node: &NodeContext, kind: NegKind) -> Vec<String> {
    let plan = super::service(
        facts,
        &[slice("cart-1", "cart", endpoints)],
        &BackendConfigs::new(),
        node,
        &ReadinessAlone,
    );
    let service = &plan.backend_services[0];
    let members = service.neg(kind).map(|neg| neg.members.clone()).unwrap_or_default();
    members.iter().map(|index| service.endpoints[*index as usize].address.to_string()).collect()
}

/// Members of the cluster NEG on node-a in zone-1.
fn cluster(endpoints: Vec<SliceEndpoint>) -> Vec<String> {
    members(&service("cart", "10.96.0.1"), endpoints, &node(), NegKind::ClusterV4)
}

#[test]
fn endpoints_hinted_for_the_zone_are_used() {
    let endpoints = vec![
        hinted("10.1.0.1", &["zone-1", "zone-3"], &[]),
        hinted("10.1.0.2", &["zone-2"], &[]),
        hinted("10.1.0.3", &["zone-1"], &[]),
    ];
    assert_eq!(cluster(endpoints), ["10.1.0.1", "10.1.0.3"]);
}

#[test]
fn endpoints_hinted_for_the_node_go_before_those_of_the_zone() {
    let endpoints =
        vec![hinted("10.1.0.1", &["zone-1"], &["node-b"]), hinted("10.1.0.2", &["zone-2"], &["node-a"])];
    assert_eq!(cluster(endpoints), ["10.1.0.2"]);
}

#[test]
fn the_zone_decides_where_no_endpoint_is_hinted_for_the_node() {
    let endpoints =
        vec![hinted("10.1.0.1", &["zone-1"], &["node-b"]), hinted("10.1.0.2", &["zone-2"], &["node-c"])];
    assert_eq!(cluster(endpoints), ["10.1.0.1"]);
}

#[test]
fn one_ready_endpoint_without_a_hint_switches_hints_off() {
    let endpoints = vec![hinted("10.1.0.1", &["zone-1"], &["node-a"]), hinted("10.1.0.2", &[], &[])];
    assert_eq!(cluster(endpoints), ["10.1.0.1", "10.1.0.2"]);
}

#[test]
fn an_endpoint_that_is_not_ready_needs_no_hint() {
    let endpoints = vec![
        hinted("10.1.0.1", &["zone-1"], &[]),
        hinted("10.1.0.2", &["zone-2"], &[]),
        unready("10.1.0.3", "node-b"),
        terminating("10.1.0.4", "node-b"),
    ];
    assert_eq!(cluster(endpoints), ["10.1.0.1"]);
}

#[test]
fn hints_for_other_zones_alone_are_not_followed() {
    let endpoints = vec![hinted("10.1.0.1", &["zone-2"], &[]), hinted("10.1.0.2", &["zone-3"], &[])];
    assert_eq!(cluster(endpoints), ["10.1.0.1", "10.1.0.2"]);
}

#[test]
fn a_node_without_a_zone_follows_no_zone_hint() {
    let node = NodeContext { zone: None, ..node() };
    let endpoints = vec![hinted("10.1.0.1", &["zone-1"], &[]), hinted("10.1.0.2", &["zone-2"], &[])];
    let found = members(&service("cart", "10.96.0.1"), endpoints, &node, NegKind::ClusterV4);
    assert_eq!(found, ["10.1.0.1", "10.1.0.2"]);
}

#[test]
fn with_no_ready_endpoint_all_terminating_ones_serve_whatever_their_hints() {
    let leaving =
        |address, zone| SliceEndpoint { zone_hints: vec![Arc::from(zone)], ..terminating(address, "node-b") };
    assert_eq!(cluster(vec![leaving("10.1.0.1", "zone-1"), leaving("10.1.0.2", "zone-2")]).len(), 2);
}

#[test]
fn local_policy_ignores_hints() {
    let facts = Service { internal_traffic_policy: TrafficPolicy::Local, ..service("cart", "10.96.0.1") };
    let local = SliceEndpoint { node: Some("node-a".into()), ..hinted("10.1.0.1", &["zone-2"], &["node-b"]) };
    let endpoints = vec![local, hinted("10.1.0.2", &["zone-1"], &["node-a"])];
    assert_eq!(members(&facts, endpoints, &node(), NegKind::LocalV4), ["10.1.0.1"]);
}

#[test]
fn each_family_has_hints_of_its_own() {
    let mut facts = service("cart", "10.96.0.1");
    facts.cluster_ips.push(ip("2001:db8:96::1"));
    let endpoints = vec![
        hinted("10.1.0.1", &["zone-1"], &[]),
        hinted("10.1.0.2", &["zone-2"], &[]),
        hinted("2001:db8:2::1", &[], &[]),
        hinted("2001:db8:2::2", &["zone-1"], &[]),
    ];
    assert_eq!(members(&facts, endpoints.clone(), &node(), NegKind::ClusterV4), ["10.1.0.1"]);
    assert_eq!(members(&facts, endpoints, &node(), NegKind::ClusterV6).len(), 2);
}

#[test]
fn a_zone_whose_endpoints_all_weigh_nothing_is_served_by_the_others() {
    let none = SliceEndpoint { weight: Some(0), ..hinted("10.1.0.1", &["zone-1"], &[]) };
    assert_eq!(cluster(vec![none, hinted("10.1.0.2", &["zone-2"], &[])]), ["10.1.0.2"]);
}
