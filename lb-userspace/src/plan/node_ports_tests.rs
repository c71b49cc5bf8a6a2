use proptest::prelude::*;

use super::*;
use crate::diff::{self, Limits, Tables};
use crate::health;
use crate::model::{BackendConfigs, EndpointSlice, ServicePort, SliceEndpoint};
use crate::plan::fixture::{ip, node, port, ready, service, slice, unready};
use crate::plan::{self, BackendServiceName, Condition, Desired, NodePortAddresses, ReadinessAlone};

const NODE_PORT: u16 = 30_080;

/// A node with these addresses, all of them internal.
fn member(name: &str, addresses: &[&str]) -> Arc<Node> {
    let addresses: Vec<IpAddr> = addresses.iter().copied().map(ip).collect();
    Arc::new(Node {
        name: name.into(),
        resource_version: "1".into(),
        internal_addresses: addresses.clone(),
        addresses,
        takes_balanced_traffic: true,
        pod_cidrs: Vec::new(),
        zone: Some("zone-1".into()),
    })
}

/// node-a, node-b and node-c, at 198.51.100.1 and so on.
fn members() -> Vec<Arc<Node>> {
    let nodes = [("node-a", "198.51.100.1"), ("node-b", "198.51.100.2"), ("node-c", "198.51.100.3")];
    nodes.map(|(name, address)| member(name, &[address])).into()
}

fn by_name(nodes: Vec<Arc<Node>>) -> BTreeMap<Arc<str>, Arc<Node>> {
    nodes.into_iter().map(|node| (Arc::clone(&node.name), node)).collect()
}

/// `shop/web` with a node port and NEGs of nodes.
fn web() -> Service {
    let ports = vec![ServicePort { node_port: Some(NODE_PORT), ..port("http", 80) }];
    Service { ports, neg_type: Some(NegType::NodePort), ..service("web", "10.96.0.1") }
}

fn check() -> Arc<HealthCheck> {
    let (interval_ms, timeout_ms) = (1_000, 500);
    let kind = CheckKind::Tcp;
    Arc::new(HealthCheck {
        kind,
        port: Some(8_081),
        interval_ms,
        timeout_ms,
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    })
}

fn planned_with(
    facts: &Service,
    slices: &[Arc<EndpointSlice>],
    nodes: Vec<Arc<Node>>,
    context: &NodeContext,
    health: &dyn HealthView,
) -> ServicePlan {
    let mut planned = plan::service(facts, slices, &BackendConfigs::new(), context, health);
    add_node_ports(&mut planned, facts, &by_name(nodes), context, health);
    planned
}

fn planned(facts: &Service, nodes: Vec<Arc<Node>>) -> ServicePlan {
    planned_with(facts, &[], nodes, &node(), &ReadinessAlone)
}

/// The endpoints of the only backend service; `None` where it has no NEG of nodes.
fn places(planned: &ServicePlan) -> Option<Vec<String>> {
    let nodes = planned.backend_services[0].node_ports.as_ref()?;
    Some(nodes.endpoints().map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port)).collect())
}

fn all(places: &[&str]) -> Option<Vec<String>> {
    Some(places.iter().map(|place| format!("{place}:{NODE_PORT}")).collect())
}

/// The endpoints that requests may go to.
fn used(planned: &ServicePlan) -> Vec<String> {
    let nodes = planned.backend_services[0].node_ports.as_ref().expect("a NEG of nodes");
    nodes.used().into_iter().flat_map(NodePortNeg::members).map(|node| node.node.to_string()).collect()
}

#[test]
fn the_service_goes_before_the_flag() {
    let cases = [
        (None, NegType::Pod, false),
        (None, NegType::NodePort, true),
        (Some(NegType::Pod), NegType::NodePort, false),
        (Some(NegType::NodePort), NegType::Pod, true),
    ];
    for (own, flag, is_nodes) in cases {
        let facts = Service { neg_type: own, ..web() };
        let context = NodeContext { neg_type: flag, ..node() };
        let planned = planned_with(&facts, &[], members(), &context, &ReadinessAlone);
        assert_eq!(places(&planned).is_some(), is_nodes, "{own:?} {flag:?}");
    }
}

#[test]
fn every_node_that_takes_balanced_traffic_is_an_endpoint() {
    let mut nodes = members();
    Arc::make_mut(&mut nodes[1]).takes_balanced_traffic = false;
    assert_eq!(places(&planned(&web(), nodes)), all(&["198.51.100.1", "198.51.100.3"]));
}

#[test]
fn a_local_policy_leaves_the_nodes_with_a_ready_pod() {
    let facts = Service { external_traffic_policy: TrafficPolicy::Local, ..web() };
    let pods = vec![ready("10.4.2.1", "node-b"), unready("10.4.1.1", "node-a"), ready("10.4.9.1", "node-x")];
    let planned = planned_with(&facts, &[slice("web-1", "web", pods)], members(), &node(), &ReadinessAlone);
    assert_eq!(places(&planned), all(&["198.51.100.2"]));
}

#[test]
fn a_node_is_reached_by_its_first_internal_address_of_each_family_of_the_service() {
    let mut outside = member("node-a", &["203.0.113.1", "198.51.100.1", "198.51.100.9", "2001:db8::1"]);
    Arc::make_mut(&mut outside).internal_addresses.remove(0);
    assert_eq!(places(&planned(&web(), vec![Arc::clone(&outside)])), all(&["198.51.100.1"]));
    let both = Service { cluster_ips: vec![ip("10.96.0.1"), ip("fd00::1")], ..web() };
    assert_eq!(places(&planned(&both, vec![outside])), all(&["198.51.100.1", "2001:db8::1"]));
}

#[test]
fn node_ports_that_do_not_answer_on_an_address_are_not_dialled_there() {
    let prefixes: NodePortAddresses = "198.51.100.128/25".parse().expect("a prefix");
    let context = NodeContext { node_port_addresses: prefixes, ..node() };
    let nodes =
        vec![member("node-a", &["198.51.100.1", "198.51.100.200"]), member("node-b", &["198.51.100.2"])];
    let planned = planned_with(&web(), &[], nodes, &context, &ReadinessAlone);
    assert_eq!(places(&planned), all(&["198.51.100.200"]));
}

#[test]
fn a_port_without_a_node_port_has_no_endpoint_and_says_why() {
    let facts = Service { ports: vec![port("http", 80)], ..web() };
    let planned = planned(&facts, members());
    assert_eq!(places(&planned), Some(vec![]));
    let problems: Vec<String> = planned.problems.iter().map(ToString::to_string).collect();
    let expected = "Service shop/web: cannot serve requests by port 80: its NEG has the type GCE_VM_IP_PORT and the port has \
                    no node port; make the Service one of type NodePort or LoadBalancer, or give it podway.io/neg-type: \
                    GCE_POD; requests are answered with 503";
    assert_eq!(problems, [expected]);
    let pods = [slice("web-1", "web", vec![ready("10.4.2.1", "node-b")])];
    let planned = planned_with(&facts, &pods, members(), &node(), &ReadinessAlone);
    assert_eq!(planned.backend_services[0].condition(), Condition::NoNodePort);
}

#[test]
fn ports_over_udp_are_no_business_of_requests() {
    let udp = ServicePort { protocol: Protocol::Udp, node_port: Some(NODE_PORT), ..port("dns", 53) };
    let planned = planned(&Service { ports: vec![udp], ..web() }, members());
    assert_eq!((places(&planned), planned.problems.len()), (None, 0));
}

/// Endpoints at these addresses fail their check; one at the last takes half of its share.
struct Fail(&'static [&'static str], &'static str);

impl HealthView for Fail {
    fn is_healthy(&self, _: &BackendServiceName, address: IpAddr, port: u16) -> bool {
        assert!([NODE_PORT, 8080].contains(&port));
        !self.0.contains(&&*address.to_string())
    }

    fn share_percent(&self, _: &BackendServiceName, address: IpAddr, _: u16) -> u8 {
        if *address.to_string() == *self.1 { 50 } else { 100 }
    }
}

#[test]
fn a_node_that_fails_its_check_gets_no_requests_while_another_passes() {
    let facts = Service { health_check: Some(check()), ..web() };
    let view = Fail(&["198.51.100.1"], "198.51.100.2");
    let planned = planned_with(&facts, &[], members(), &node(), &view);
    assert_eq!(used(&planned), ["node-b", "node-c"]);
    let nodes = planned.backend_services[0].node_ports.as_ref().expect("nodes");
    let states: Vec<&str> = nodes.endpoints().map(|endpoint| endpoint.state().name()).collect();
    assert_eq!(states, ["unhealthy", "warming", "healthy"]);
    let none = Fail(&["198.51.100.1", "198.51.100.2", "198.51.100.3"], "");
    let planned = planned_with(&facts, &[], members(), &node(), &none);
    assert_eq!(used(&planned), ["node-a", "node-b", "node-c"], "all rather than none");
    let unjudged = planned_with(&web(), &[], members(), &node(), &none);
    assert!(unjudged.backend_services[0].node_ports.as_ref().is_some_and(|nodes| !nodes.negs[0].is_panic));
}

#[test]
fn below_the_panic_threshold_all_nodes_are_used() {
    let mut facts = Service { health_check: Some(check()), ..web() };
    facts.health_policy.panic_threshold_percent = 50;
    let view = Fail(&["198.51.100.1", "198.51.100.2"], "");
    assert_eq!(used(&planned_with(&facts, &[], members(), &node(), &view)), ["node-a", "node-b", "node-c"]);
    facts.health_policy.panic_threshold_percent = 33;
    assert_eq!(used(&planned_with(&facts, &[], members(), &node(), &view)), ["node-c"]);
}

#[test]
fn a_node_is_asked_at_its_node_port_or_where_it_tells_of_its_pods() {
    let targets = |facts: &Service, pods| {
        let planned =
            planned_with(facts, &[slice("web-1", "web", pods)], members(), &node(), &ReadinessAlone);
        let targets = health::targets(&planned).into_iter();
        targets.map(|(target, check)| (target.address.to_string(), target.port, check)).collect::<Vec<_>>()
    };
    let pods = vec![ready("10.4.2.1", "node-b")];
    let facts = Service { health_check: Some(check()), ..web() };
    let asked = targets(&facts, pods.clone());
    let places: Vec<(&str, u16)> = asked.iter().map(|(address, port, _)| (&**address, *port)).collect();
    let nodes = ["198.51.100.1", "198.51.100.2", "198.51.100.3"].map(|address| (address, NODE_PORT));
    assert_eq!(
        places,
        [&[("10.4.2.1", 8080)], &nodes[..]].concat(),
        "pods are for packets, nodes for requests"
    );
    assert_eq!((asked[0].2.port, asked[1].2.port), (Some(8_081), None), "the check's port is one of pods");
    let (external_traffic_policy, health_check_node_port) = (TrafficPolicy::Local, Some(32_000));
    let local = Service { external_traffic_policy, health_check_node_port, ..facts };
    let asked = targets(&local, pods);
    assert_eq!(asked.len(), 2, "{asked:?}");
    let (address, port, check) = &asked[1];
    assert_eq!((&**address, *port, check.port), ("198.51.100.2", NODE_PORT, Some(32_000)));
    assert!(matches!(&check.kind, CheckKind::Http { path, .. } if **path == *"/healthz"), "{check:?}");
}

fn facts_of_pods() -> impl Strategy<Value = Vec<SliceEndpoint>> {
    let pod = (1u8..30, 0usize..3, any::<bool>()).prop_map(|(last, node, is_ready)| {
        let (address, node) = (format!("10.4.2.{last}"), ["node-a", "node-b", "node-c"][node]);
        if is_ready { ready(&address, node) } else { unready(&address, node) }
    });
    prop::collection::vec(pod, 0..8)
}

proptest! {
    /// A frontend that led to a node port of its own Service would lead to itself, for ever.
    #[test]
    fn no_ring_of_a_frontend_ever_has_a_node_port(
        pods in facts_of_pods(),
        is_local in any::<bool>(),
        failing in prop::sample::subsequence(vec!["198.51.100.1", "198.51.100.2", "10.4.2.1", "10.4.2.2"], 0..=4),
    ) {
        struct View(Vec<&'static str>);
        impl HealthView for View {
            fn is_healthy(&self, _: &BackendServiceName, address: IpAddr, _: u16) -> bool {
                !self.0.contains(&&*address.to_string())
            }
        }
        let policy = if is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
        let facts = Service {
            external_traffic_policy: policy,
            load_balancer_ips: vec![ip("203.0.113.9")],
            health_check: Some(check()),
            ..web()
        };
        let slices = [slice("web-1", "web", pods)];
        let planned = planned_with(&facts, &slices, members(), &node(), &View(failing));
        prop_assert!(planned.backend_services[0].node_ports.is_some());
        let mut desired = Desired::default();
        desired.replace(&facts.name, Some(planned));
        let mut tables = Tables::new(Limits::default());
        for op in diff::full(&desired, &tables, 0).ops {
            tables.apply(&op, 0);
        }
        for id in tables.endpoint_ids() {
            prop_assert_eq!(tables.endpoint(id).port.get(), 8080);
        }
        prop_assert_eq!(tables.check(), []);
    }
}
