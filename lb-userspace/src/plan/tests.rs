use std::collections::BTreeSet;

use lb_common::endpoint::state;
use lb_common::frontend::Kind;
use lb_common::neg::NegKind;

use crate::model::{
    BackendConfigs, CheckKind, DrainContract, ExternalMode, HealthCheck, Protocol, Service, SlicePort,
    TrafficPolicy,
};

use super::fixture::{ip, node, port, ready, service, slice, terminating, unready};
use super::*;

fn planned(facts: &Service, slices: &[Arc<EndpointSlice>]) -> ServicePlan {
    super::service(facts, slices, &BackendConfigs::new(), &node(), &ReadinessAlone)
}

/// A Service with every kind of frontend and one slice of these endpoints.
fn planned_local(endpoints: Vec<crate::model::SliceEndpoint>) -> ServicePlan {
    let facts = Service {
        external_traffic_policy: TrafficPolicy::Local,
        load_balancer_ips: vec![ip("203.0.113.5")],
        ..service("cart", "10.96.0.1")
    };
    planned(&facts, &[slice("cart-1", "cart", endpoints)])
}

/// Members of a NEG of the first backend service, as `address:port`.
pub(super) fn members(plan: &ServicePlan, kind: NegKind) -> Vec<String> {
    let backend_service = &plan.backend_services[0];
    let neg = backend_service.neg(kind).expect("the NEG is in use");
    let endpoints = neg.members.iter().map(|index| &backend_service.endpoints[*index as usize]);
    endpoints.map(|endpoint| socket_text(endpoint.address, endpoint.port)).collect()
}

fn frontend(plan: &ServicePlan, kind: Kind) -> &Frontend {
    plan.frontends.iter().find(|frontend| frontend.kind == kind).expect("a frontend of the kind")
}

fn texts(plan: &ServicePlan) -> Vec<String> {
    let text = |f: &Frontend| format!("{} {}", kind_name(f.kind), json::frontend_text(f));
    plan.frontends.iter().map(text).collect()
}

#[test]
fn ready_endpoints_are_used_before_terminating_ones() {
    let plan = planned_local(vec![ready("10.1.0.1", "node-b"), terminating("10.1.0.2", "node-b")]);
    assert_eq!(members(&plan, NegKind::ClusterV4), ["10.1.0.1:8080"]);
}

#[test]
fn terminating_endpoint_serves_when_none_is_ready() {
    let plan = planned_local(vec![unready("10.1.0.1", "node-b"), terminating("10.1.0.2", "node-b")]);
    assert_eq!(members(&plan, NegKind::ClusterV4), ["10.1.0.2:8080"]);
}

#[test]
fn each_scope_decides_alone_whether_it_needs_terminating_endpoints() {
    let plan = planned_local(vec![ready("10.1.0.1", "node-b"), terminating("10.1.0.2", "node-a")]);
    assert_eq!(members(&plan, NegKind::ClusterV4), ["10.1.0.1:8080"]);
    assert_eq!(members(&plan, NegKind::LocalV4), ["10.1.0.2:8080"]);
}

#[test]
fn endpoint_that_terminates_without_serving_is_not_used() {
    let gone = crate::model::SliceEndpoint { serving: false, ..terminating("10.1.0.1", "node-b") };
    let plan = planned_local(vec![gone]);
    assert_eq!(members(&plan, NegKind::ClusterV4), [""; 0]);
}

#[test]
fn endpoints_that_take_no_new_flows_stay_known_for_the_flows_they_have() {
    let plan = planned_local(vec![
        unready("10.1.0.1", "node-b"),
        terminating("10.1.0.2", "node-a"),
        ready("10.1.0.3", "node-a"),
    ]);
    let states = plan.backend_services[0].endpoints.iter().map(|e| (e.state(), e.state_bits()));
    assert_eq!(
        states.collect::<Vec<_>>(),
        [
            (EndpointState::Unhealthy, state::PRESENT),
            (EndpointState::Draining, state::PRESENT | state::HEALTHY | state::DRAINING | state::LOCAL),
            (EndpointState::Healthy, state::PRESENT | state::HEALTHY | state::LOCAL),
        ]
    );
}

#[test]
fn external_policy_local_leads_outsiders_to_this_node_and_insiders_everywhere() {
    let plan = planned_local(vec![ready("10.1.0.1", "node-b"), ready("10.1.0.2", "node-a")]);
    let balancer = frontend(&plan, Kind::LoadBalancer);
    assert_eq!((balancer.neg_internal, balancer.neg_external), (Scope::Cluster, Scope::Local));
    let cluster_ip = frontend(&plan, Kind::ClusterIp);
    assert_eq!((cluster_ip.neg_internal, cluster_ip.neg_external), (Scope::Cluster, Scope::Cluster));
}

#[test]
fn internal_policy_local_binds_the_cluster_ip_alone() {
    let facts = Service {
        internal_traffic_policy: TrafficPolicy::Local,
        external_ips: vec![ip("203.0.113.9")],
        ..service("cart", "10.96.0.1")
    };
    let plan = planned(&facts, &[slice("cart-1", "cart", vec![ready("10.1.0.1", "node-b")])]);
    let cluster_ip = frontend(&plan, Kind::ClusterIp);
    assert_eq!((cluster_ip.neg_internal, cluster_ip.neg_external), (Scope::Local, Scope::Local));
    assert_eq!(cluster_ip.empty_internal, EmptyAction::Drop);
    let external = frontend(&plan, Kind::ExternalIp);
    assert_eq!((external.neg_internal, external.neg_external), (Scope::Cluster, Scope::Cluster));
}

#[test]
fn local_policy_drops_where_other_nodes_serve_and_refuses_where_nobody_does() {
    let elsewhere = planned_local(vec![ready("10.1.0.1", "node-b")]);
    let balancer = frontend(&elsewhere, Kind::LoadBalancer);
    assert_eq!((balancer.empty_internal, balancer.empty_external), (EmptyAction::Refuse, EmptyAction::Drop));
    let nowhere = planned_local(vec![unready("10.1.0.1", "node-b")]);
    assert_eq!(frontend(&nowhere, Kind::LoadBalancer).empty_external, EmptyAction::Refuse);
}

#[test]
fn negs_that_no_frontend_uses_do_not_exist() {
    let plan = planned(&service("cart", "10.96.0.1"), &[slice("cart-1", "cart", vec![])]);
    let kinds: Vec<NegKind> = plan.backend_services[0].negs.iter().map(|neg| neg.kind).collect();
    assert_eq!(kinds, [NegKind::ClusterV4]);
    let facts =
        Service { internal_traffic_policy: TrafficPolicy::Local, ..service("cart", "2001:db8:96::1") };
    let plan = planned(&facts, &[slice("cart-1", "cart", vec![])]);
    let kinds: Vec<NegKind> = plan.backend_services[0].negs.iter().map(|neg| neg.kind).collect();
    assert_eq!(kinds, [NegKind::LocalV6]);
}

#[test]
fn every_address_of_a_service_is_a_frontend() {
    let mut facts = Service {
        cluster_ips: vec![ip("10.96.0.1"), ip("2001:db8:96::1")],
        external_ips: vec![ip("203.0.113.9")],
        load_balancer_ips: vec![ip("2001:db8:5::5")],
        ..service("cart", "10.96.0.1")
    };
    facts.ports[0].node_port = Some(30_080);
    assert_eq!(
        texts(&planned(&facts, &[])),
        [
            "ClusterIP 10.96.0.1:80/TCP",
            "ExternalIP 203.0.113.9:80/TCP",
            "NodePort 198.51.100.1:30080/TCP",
            "ClusterIP [2001:db8:96::1]:80/TCP",
            "LoadBalancer [2001:db8:5::5]:80/TCP",
            "NodePort [2001:db8:1::1]:30080/TCP",
        ]
    );
}

#[test]
fn a_family_without_cluster_ip_has_no_frontends_and_no_endpoints() {
    let mut facts = Service { external_ips: vec![ip("2001:db8:5::5")], ..service("cart", "10.96.0.1") };
    facts.ports[0].node_port = Some(30_080);
    let plan = planned(&facts, &[slice("cart-1", "cart", vec![ready("2001:db8:2::1", "node-a")])]);
    assert_eq!(texts(&plan), ["ClusterIP 10.96.0.1:80/TCP", "NodePort 198.51.100.1:30080/TCP"]);
    assert_eq!(plan.backend_services[0].endpoints, []);
}

#[test]
fn each_family_has_endpoints_of_its_own() {
    let facts =
        Service { cluster_ips: vec![ip("10.96.0.1"), ip("2001:db8:96::1")], ..service("cart", "10.96.0.1") };
    let slices = [
        slice("cart-1", "cart", vec![ready("10.1.0.1", "node-b")]),
        slice("cart-2", "cart", vec![ready("2001:db8:2::1", "node-b")]),
    ];
    let plan = planned(&facts, &slices);
    assert_eq!(members(&plan, NegKind::ClusterV4), ["10.1.0.1:8080"]);
    assert_eq!(members(&plan, NegKind::ClusterV6), ["[2001:db8:2::1]:8080"]);
}

#[test]
fn an_address_in_two_fields_is_one_frontend() {
    let facts = Service {
        external_ips: vec![ip("203.0.113.5")],
        load_balancer_ips: vec![ip("203.0.113.5")],
        ..service("cart", "10.96.0.1")
    };
    let plan = planned(&facts, &[]);
    assert_eq!(texts(&plan), ["ClusterIP 10.96.0.1:80/TCP", "ExternalIP 203.0.113.5:80/TCP"]);
    assert_eq!(plan.problems, []);
}

#[test]
fn two_ports_that_meet_on_one_frontend_are_a_problem() {
    let mut facts = Service {
        external_ips: vec![ip("198.51.100.1")],
        ports: vec![port("http", 80), port("admin", 30_080)],
        ..service("cart", "10.96.0.1")
    };
    facts.ports[0].node_port = Some(30_080);
    let plan = planned(&facts, &[]);
    assert_eq!(
        plan.problems[0].to_string(),
        "Service shop/cart: cannot give 198.51.100.1:30080/TCP to shop/cart:admin/TCP: shop/cart:http/TCP of \
         the same Service has it; change one of the two ports"
    );
}

#[test]
fn ports_match_by_name_and_protocol_in_each_slice() {
    let mut facts = service("cart", "10.96.0.1");
    facts.ports = vec![port("http", 80)];
    let other = Arc::new(EndpointSlice {
        ports: vec![
            SlicePort { name: "http".into(), protocol: Protocol::Udp, port: 1 },
            SlicePort { name: "metrics".into(), protocol: Protocol::Tcp, port: 2 },
            SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 9_090 },
        ],
        ..(*slice("cart-2", "cart", vec![ready("10.1.0.2", "node-b")])).clone()
    });
    let slices = [slice("cart-1", "cart", vec![ready("10.1.0.1", "node-b")]), other];
    assert_eq!(members(&planned(&facts, &slices), NegKind::ClusterV4), ["10.1.0.1:8080", "10.1.0.2:9090"]);
}

#[test]
fn a_port_that_no_slice_has_is_a_problem_and_refuses() {
    let facts = Service { ports: vec![port("htpp", 80)], ..service("cart", "10.96.0.1") };
    let plan = planned(&facts, &[slice("cart-1", "cart", vec![ready("10.1.0.1", "node-b")])]);
    assert_eq!(
        plan.problems[0].to_string(),
        "Service shop/cart: cannot find endpoints for port 80 (htpp, TCP): no EndpointSlice of the Service \
         has a port of that name and protocol; check targetPort and the pods' containerPort names"
    );
    assert_eq!(frontend(&plan, Kind::ClusterIp).empty_internal, EmptyAction::Refuse);
    assert_eq!(members(&plan, NegKind::ClusterV4), [""; 0]);
}

#[test]
fn a_service_whose_pods_are_all_gone_is_no_problem() {
    assert_eq!(planned(&service("cart", "10.96.0.1"), &[]).problems, []);
    let empty = [slice("cart-1", "cart", vec![])];
    let facts = Service { ports: vec![port("other", 80)], ..service("cart", "10.96.0.1") };
    assert_eq!(planned(&facts, &empty).problems, []);
}

#[test]
fn of_an_endpoint_in_two_slices_the_better_off_is_kept() {
    let slices = [
        slice("cart-1", "cart", vec![unready("10.1.0.1", "node-b"), ready("10.1.0.2", "node-b")]),
        slice("cart-2", "cart", vec![ready("10.1.0.1", "node-b"), unready("10.1.0.2", "node-a")]),
    ];
    let plan = planned(&service("cart", "10.96.0.1"), &slices);
    let kept = plan.backend_services[0].endpoints.iter();
    let kept: Vec<String> = kept.map(|e| format!("{} {}", e.address, e.origin().object)).collect();
    // The second one is not ready where it is local; kube-proxy prefers the local one all the same.
    assert_eq!(kept, ["10.1.0.1 shop/cart-2", "10.1.0.2 shop/cart-2"]);
}

/// Fails the health check of the addresses that it holds.
pub(super) struct Failing(pub(super) Vec<&'static str>);

impl HealthView for Failing {
    fn is_healthy(&self, _: &BackendServiceName, address: std::net::IpAddr, _: u16) -> bool {
        !self.0.iter().any(|failing| ip(failing) == address)
    }
}

fn planned_with_check(failing: Vec<&'static str>) -> ServicePlan {
    let check = HealthCheck {
        kind: CheckKind::Tcp,
        port: None,
        interval_ms: 1_000,
        timeout_ms: 500,
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    };
    let facts = Service { health_check: Some(check.into()), ..service("cart", "10.96.0.1") };
    let endpoints = vec![ready("10.1.0.1", "node-b"), ready("10.1.0.2", "node-b")];
    super::service(
        &facts,
        &[slice("cart-1", "cart", endpoints)],
        &BackendConfigs::new(),
        &node(),
        &Failing(failing),
    )
}

#[test]
fn endpoint_that_fails_its_health_check_leaves_the_ring() {
    let plan = planned_with_check(vec!["10.1.0.1"]);
    assert_eq!(members(&plan, NegKind::ClusterV4), ["10.1.0.2:8080"]);
    assert_eq!(plan.backend_services[0].endpoints[0].state(), EndpointState::Unhealthy);
}

#[test]
fn all_endpoints_stay_in_the_ring_when_none_is_healthy() {
    let plan = planned_with_check(vec!["10.1.0.1", "10.1.0.2"]);
    assert_eq!(members(&plan, NegKind::ClusterV4), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(plan.backend_services[0].endpoints[0].state(), EndpointState::Unhealthy);
    assert_eq!(plan.backend_services[0].endpoints[0].state_bits() & state::PANIC, state::PANIC);
}

#[test]
fn without_a_health_check_nobody_is_asked() {
    let slices = [slice("cart-1", "cart", vec![ready("10.1.0.1", "node-b")])];
    let plan = super::service(
        &service("cart", "10.96.0.1"),
        &slices,
        &BackendConfigs::new(),
        &node(),
        &Failing(vec!["10.1.0.1"]),
    );
    assert_eq!(plan.backend_services[0].endpoints[0].state(), EndpointState::Healthy);
}

#[test]
fn only_negs_of_outside_clients_have_long_rings() {
    let plan = planned_local(vec![ready("10.1.0.1", "node-a"), ready("10.1.0.2", "node-a")]);
    let lengths = plan.backend_services[0].negs.iter().map(|neg| (neg.kind, neg.ring_length));
    assert_eq!(lengths.collect::<Vec<_>>(), [(NegKind::ClusterV4, 1_024), (NegKind::LocalV4, 8_192)]);
}

#[test]
fn a_name_longer_than_a_label_is_a_problem_and_the_other_ports_go_on() {
    let long = "p".repeat(64);
    let facts = Service { ports: vec![port(&long, 80), port("http", 81)], ..service("cart", "10.96.0.1") };
    let plan = planned(&facts, &[]);
    assert_eq!(plan.backend_services.len(), 1);
    assert_eq!(
        plan.problems[0].message,
        format!(
            "cannot forward port 80: the port name {long} is longer than 63 bytes (RFC 1123); shorten it"
        )
    );
}

/// A Service that asks for 203.0.113.9:80.
fn contender(name: &str, cluster_ip: &str, created_s: Option<i64>) -> ServicePlan {
    let facts = Service { external_ips: vec![ip("203.0.113.9")], created_s, ..service(name, cluster_ip) };
    planned(&facts, &[])
}

fn owner(desired: &Desired) -> Option<String> {
    let key = contender("any", "10.96.0.1", None).frontends[1].key();
    desired.owner(&key).map(ToString::to_string)
}

fn put(desired: &mut Desired, plan: ServicePlan) -> Vec<String> {
    changed(&desired.replace(&plan.name.clone(), Some(plan)))
}

fn changed(names: &BTreeSet<ObjectName>) -> Vec<String> {
    names.iter().map(|name| name.name.to_string()).collect()
}

#[test]
fn the_older_service_keeps_a_frontend_that_two_ask_for() {
    let mut desired = Desired::default();
    assert_eq!(put(&mut desired, contender("a", "10.96.0.1", Some(200))), ["a"]);
    assert_eq!(put(&mut desired, contender("b", "10.96.0.2", Some(100))), ["a", "b"]);
    assert_eq!(owner(&desired).as_deref(), Some("shop/b"));
    let problems: Vec<String> = desired.problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "Service shop/a: cannot have 203.0.113.9:80/TCP: Service shop/b has it, being the older one or, of \
             one age, of the lesser name; change the address or the port of one of them"
        ]
    );
}

#[test]
fn the_lesser_name_keeps_it_among_services_of_one_age() {
    let mut desired = Desired::default();
    put(&mut desired, contender("b", "10.96.0.2", None));
    put(&mut desired, contender("a", "10.96.0.1", None));
    assert_eq!(owner(&desired).as_deref(), Some("shop/a"));
    assert_eq!(put(&mut desired, contender("c", "10.96.0.3", Some(5))), ["a", "c"]);
    assert_eq!(owner(&desired).as_deref(), Some("shop/c"));
}

#[test]
fn the_next_in_line_gets_a_frontend_that_its_owner_gives_up() {
    let mut desired = Desired::default();
    for (name, created_s) in [("a", 1), ("b", 2), ("c", 3)] {
        put(&mut desired, contender(name, &format!("10.96.0.{created_s}"), Some(created_s)));
    }
    assert_eq!(changed(&desired.replace(&ObjectName::new("shop", "a"), None)), ["a", "b"]);
    assert_eq!(owner(&desired).as_deref(), Some("shop/b"));
    assert_eq!(desired.problems().len(), 1);
    put(&mut desired, planned(&service("b", "10.96.0.2"), &[]));
    assert_eq!(owner(&desired).as_deref(), Some("shop/c"));
    assert_eq!(desired.problems(), []);
}

#[test]
fn the_same_plan_again_changes_nothing() {
    let mut desired = Desired::default();
    put(&mut desired, contender("a", "10.96.0.1", None));
    assert_eq!(put(&mut desired, contender("a", "10.96.0.1", None)), [""; 0]);
    assert_eq!(changed(&desired.replace(&ObjectName::new("shop", "none"), None)), [""; 0]);
}

#[test]
fn the_order_in_which_services_come_does_not_matter() {
    let plans = [("a", Some(3)), ("b", None), ("c", Some(1)), ("d", Some(1))];
    let build = |order: [usize; 4]| {
        let mut desired = Desired::default();
        for index in order {
            let (name, created_s) = plans[index];
            put(&mut desired, contender(name, &format!("10.96.0.{index}"), created_s));
        }
        desired
    };
    assert!(build([0, 1, 2, 3]) == build([3, 1, 0, 2]));
    assert!(build([0, 1, 2, 3]) == build([2, 3, 1, 0]));
}

#[test]
fn origins_name_the_object_and_its_version() {
    let mut desired = Desired::default();
    let slices = [slice("cart-1", "cart", vec![ready("10.1.0.1", "node-a")])];
    put(&mut desired, planned(&service("cart", "10.96.0.1"), &slices));
    let key = desired.frontends().next().expect("a frontend").frontend.key();
    let chain = desired.frontend(&key).expect("the frontend");
    assert_eq!(chain.service.origin().to_string(), "Service shop/cart at resourceVersion 7");
    assert_eq!(chain.backend_service.origin(), chain.service.origin());
    let endpoint = &chain.backend_service.endpoints[0];
    assert_eq!(endpoint.origin().to_string(), "EndpointSlice shop/cart-1 at resourceVersion 11");
}

#[test]
fn the_drain_contract_is_that_of_the_service() {
    let facts = Service { drain: Some(DrainContract { deadline_s: 90 }), ..service("cart", "10.96.0.1") };
    assert_eq!(planned(&facts, &[]).backend_services[0].drain, DrainContract { deadline_s: 90 });
}

/// The ready endpoints 10.1.0.1, 10.1.0.2 … of these weights.
fn weighted(weights: &[u16]) -> Arc<EndpointSlice> {
    let endpoint = |(number, weight): (usize, &u16)| crate::model::SliceEndpoint {
        weight: Some(*weight),
        ..ready(&format!("10.1.0.{}", number + 1), "node-a")
    };
    slice("cart-1", "cart", weights.iter().enumerate().map(endpoint).collect())
}

#[test]
fn weight_by_the_service_goes_before_that_by_the_slice() {
    let facts = Service { endpoint_weights: [(ip("10.1.0.2"), 7)].into(), ..service("cart", "10.96.0.1") };
    let plan = planned(&facts, &[weighted(&[3, 4])]);
    let weights = plan.backend_services[0].endpoints.iter().map(|endpoint| endpoint.weight);
    assert_eq!(weights.collect::<Vec<_>>(), [3, 7]);
}

#[test]
fn an_endpoint_that_weighs_nothing_takes_no_new_flows() {
    let plan = planned(&service("cart", "10.96.0.1"), &[weighted(&[0, 1])]);
    assert_eq!(members(&plan, NegKind::ClusterV4), ["10.1.0.2:8080"]);
    assert_eq!(plan.backend_services[0].endpoints.len(), 2, "its flows go on");
}

#[test]
fn a_health_check_node_port_counts_the_ready_pods_of_this_node() {
    let facts = Service { health_check_node_port: Some(30_999), ..service("cart", "10.96.0.1") };
    let endpoints = vec![
        ready("10.1.0.1", "node-a"),
        ready("10.1.0.2", "node-b"),
        terminating("10.1.0.3", "node-a"),
        unready("10.1.0.4", "node-a"),
    ];
    let again = slice("cart-2", "cart", vec![ready("10.1.0.1", "node-a")]);
    let plan = planned(&facts, &[slice("cart-1", "cart", endpoints), again]);
    let port = plan.health_check_node_port.expect("a port");
    assert_eq!((port.port, port.local_endpoints), (30_999, [(Family::V4, 1)].into()));
}

#[test]
fn the_external_mode_of_a_service_goes_before_that_of_the_node() {
    let mut facts = Service { external_ips: vec![ip("203.0.113.9")], ..service("cart", "10.96.0.1") };
    facts.ports[0].node_port = Some(30_080);
    let node = NodeContext { external_mode: ExternalMode::Dsr, ..node() };
    let modes = |facts: &Service| {
        let plan = super::service(facts, &[], &BackendConfigs::new(), &node, &ReadinessAlone);
        [Kind::ClusterIp, Kind::ExternalIp, Kind::NodePort].map(|kind| frontend(&plan, kind).external_mode)
    };
    let [snat, dsr] = [ExternalMode::Snat, ExternalMode::Dsr];
    assert_eq!(modes(&facts), [snat, dsr, dsr]);
    facts.external_mode = Some(snat);
    assert_eq!(modes(&facts), [snat, snat, snat]);
}
