//! What an agent's metrics say after real traffic, probes and changes: exact numbers, in a text that is read strictly.
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use lb_tests::agent::{Agent, Options, Podway};
use lb_tests::cluster::{self, Cluster, TCP_PORT};
use lb_tests::manifests::{LOAD_BALANCER_IPS, Service};
use lb_tests::need;
use lb_tests::open_metrics::Metrics;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::traffic::{self, Dial, Server};
use lb_tests::wait::wait_until;
use lb_userspace::metrics::{FAMILIES, Kind};
use lb_userspace::model::{CheckKind, HealthCheck, Protocol};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);
const HEALTH_PORT: u16 = 9_000;
/// The backend service of `near` over TCP.
const NEAR_TCP: [(&str, &str); 4] =
    [("namespace", "shop"), ("service", "near"), ("port", "tcp"), ("protocol", "TCP")];
/// The one over UDP.
const NEAR_UDP: [(&str, &str); 4] =
    [("namespace", "shop"), ("service", "near"), ("port", "udp"), ("protocol", "UDP")];

fn podway() -> Option<Podway> {
    let need = need::netns()?;
    Some(Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) })
}

fn scrape(agent: &Agent) -> Metrics {
    agent.metrics("/metrics").unwrap_or_else(|error| panic!("{error:#}; log:\n{}", agent.log()))
}

/// Scrapes until it is so.
fn wait_for(agent: &Agent, what: &str, mut holds: impl FnMut(&Metrics) -> bool) -> Metrics {
    let mut last = Metrics::default();
    let waited = wait_until(DEADLINE, what, || {
        last = scrape(agent);
        holds(&last)
    });
    waited.unwrap_or_else(|error| panic!("{error}; log:\n{}", agent.log()));
    last
}

/// Requests from outside, of which each datagram is one packet.
fn dial(cluster: &Cluster, count: u32, protocol: Protocol, to: SocketAddr) {
    let dial = Dial { timeout: Duration::from_millis(300), ..Dial::times(count, protocol, to) };
    traffic::dial(cluster.topology.client(), &dial).unwrap();
}

fn address(cluster: &Cluster, service: &str, protocol: Protocol) -> SocketAddr {
    cluster.load_balancer_addresses(service, protocol)[0]
}

/// A row of `podway get`.
fn row(agent: &Agent, what: &str, name: &str, is: &str) -> Value {
    let rows = agent.get(what).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row[name] == is);
    row.unwrap_or_else(|| panic!("no {is} in {rows}")).clone()
}

#[test]
fn traffic_is_told_exactly() {
    let Some(podway) = podway() else { return };
    let options = Options { further: &["--sweep-interval-seconds", "1"], ..Options::default() };
    let mut cluster = Cluster::start(&podway, options).unwrap();
    let ranged = cluster::service("ranged", 86).backed_by_all(&cluster.topology);
    let ranged = ranged.with_spec("loadBalancerSourceRanges", json!(["203.0.113.0/24"]));
    cluster.manifests.put(ranged).unwrap();
    cluster.wait_for_frontends().unwrap();

    dial(&cluster, 10, Protocol::Tcp, address(&cluster, "near", Protocol::Tcp));
    dial(&cluster, 7, Protocol::Udp, address(&cluster, "near", Protocol::Udp));
    dial(&cluster, 5, Protocol::Udp, address(&cluster, "ranged", Protocol::Udp));
    dial(&cluster, 3, Protocol::Udp, address(&cluster, "empty", Protocol::Udp));

    let agent = &cluster.agents[0];
    // The last packet of a connection may come after its client has ended.
    let metrics = wait_for(agent, "metrics and maps to agree", |metrics| {
        let row = row(agent, "backend-services", "name", "shop/near:tcp/TCP");
        let of = |metric: &str| metrics.value(&format!("podway_backend_service_{metric}_total"), &NEAR_TCP);
        let pressure = row_of_conntrack(agent);
        (of("packets"), of("bytes")) == (row["packets"].as_f64(), row["bytes"].as_f64())
            && metrics.value("podway_map_entries", &[("map", "CONNTRACK")]) == pressure
    });
    let of = |metric: &str, labels: &[(&str, &str)]| metrics.value(metric, labels);
    assert_eq!(of("podway_backend_service_new_flows_total", &NEAR_TCP), Some(10.0));
    assert_eq!(of("podway_backend_service_new_flows_total", &NEAR_UDP), Some(7.0));
    assert_eq!(of("podway_backend_service_packets_total", &NEAR_UDP), Some(7.0));
    // Two directions of 17 flows.
    assert_eq!(of("podway_map_entries", &[("map", "CONNTRACK")]), Some(34.0));
    let packets = |outcome, reason| of("podway_packets_total", &[("outcome", outcome), ("reason", reason)]);
    assert_eq!(packets("drop", "source-range"), Some(5.0));
    assert_eq!(packets("refuse", "no-endpoint"), Some(3.0));
    assert_eq!(packets("forward", "new-flow"), Some(17.0));
    assert_eq!(packets("note", "panic"), Some(0.0));

    let other = scrape(&cluster.agents[1]);
    assert_eq!(
        other.value("podway_backend_service_new_flows_total", &NEAR_TCP),
        Some(0.0),
        "not its traffic"
    );
    let endpoints = agent.metrics("/metrics/endpoints").unwrap();
    assert_eq!(endpoints.sum("podway_endpoint_new_flows_total", &NEAR_TCP), 10.0);
    assert_eq!(endpoints.sum("podway_endpoint_new_flows_total", &NEAR_UDP), 7.0);
    assert_eq!(endpoints.sum("podway_endpoint_packets_total", &NEAR_UDP), 7.0);
    assert_names(&metrics, &endpoints);
}

fn row_of_conntrack(agent: &Agent) -> Option<f64> {
    row(agent, "pressure", "map", "CONNTRACK")["entries"].as_f64()
}

/// Both pages together have every family of the list, in its order.
fn assert_names(node: &Metrics, endpoints: &Metrics) {
    let seen = node.families.iter().chain(&endpoints.families);
    let seen: Vec<_> = seen.map(|(name, kind)| (name.clone(), kind.as_str())).collect();
    let expected = FAMILIES.map(|family| {
        let name = family.name();
        let ending = match family.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        (name.strip_suffix(ending).unwrap().to_owned(), family.kind.name())
    });
    assert_eq!(seen, expected);
}

#[test]
fn agent_tells_what_it_knows_and_does() {
    let Some(podway) = podway() else { return };
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    let mut cluster = Cluster::start(&podway, Options::default()).unwrap();
    let kind = |kind| [("kind", kind)];
    let metrics = wait_for(&cluster.agents[0], "the objects", |metrics| {
        metrics.value("podway_objects", &kind("EndpointSlice")) == Some(12.0)
    });
    let of = |metric: &str| metrics.value(metric, &[]).unwrap();
    assert_eq!(metrics.value("podway_objects", &kind("Service")), Some(6.0));
    assert_eq!(metrics.value("podway_objects", &kind("Node")), Some(2.0));
    assert_eq!(metrics.sum("podway_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    assert_eq!((of("podway_facts_synced"), of("podway_services_pending")), (1.0, 0.0));
    assert_eq!(of("podway_apply_failures_total"), 0.0);
    assert!(of("podway_start_time_seconds") >= before);
    assert!(of("podway_last_apply_timestamp_seconds") >= of("podway_start_time_seconds"));
    assert!(of("podway_apply_duration_seconds_count") >= 1.0);
    assert_eq!(of("podway_backend_services"), 12.0);
    let near = [&NEAR_TCP[..], &[("state", "healthy")]].concat();
    assert_eq!(metrics.value("podway_backend_service_endpoints", &near), Some(4.0));
    let map = |name, map| metrics.value(name, &[("map", map)]);
    assert_eq!(map("podway_map_entries", "BACKEND_SERVICES"), Some(12.0));
    assert_eq!(map("podway_map_entries", "NODES"), Some(4.0));
    assert_eq!(map("podway_map_entries_max", "BACKEND_SERVICES"), Some(16_384.0));
    assert_eq!(map("podway_map_entries", "ENDPOINTS"), {
        let rows = cluster.agents[0].get("endpoints").unwrap();
        rows.as_array().map(|rows| rows.len() as f64)
    });

    let with_problem = |near: &mut Service| *near = near.clone().annotated("podway.io/drain", "never");
    cluster.manifests.edit("near", with_problem).unwrap();
    wait_for(&cluster.agents[0], "one problem", |metrics| {
        metrics.value("podway_problems", &kind("Service")) == Some(1.0)
    });
}

#[test]
fn network_programming_latency_counts_changes_of_slices_once() {
    let Some(podway) = podway() else { return };
    let mut cluster = Cluster::start(&podway, Options::default()).unwrap();
    let count = |metrics: &Metrics| {
        metrics.value("kubeproxy_network_programming_duration_seconds_count", &[]).unwrap()
    };
    let now = || Some(k8s_openapi::jiff::Timestamp::now().to_string());
    let endpoints_of_near = |metrics: &Metrics| {
        let healthy = [&NEAR_TCP[..], &[("state", "healthy")]].concat();
        metrics.value("podway_backend_service_endpoints", &healthy).unwrap()
    };
    assert_eq!(count(&scrape(&cluster.agents[0])), 0.0, "no slice says when it changed");
    let without_one = |near: &mut Service| {
        near.change_trigger = now();
        near.endpoints.truncate(1);
    };
    cluster.manifests.edit("near", without_one).unwrap();
    // The maps are read by another thread than the one that notes how long it took to write them.
    let is_told = |metrics: &Metrics| endpoints_of_near(metrics) == 2.0 && count(metrics) > 0.0;
    let metrics = wait_for(&cluster.agents[0], "the change", is_told);
    // A slice for each family.
    assert_eq!(count(&metrics), 2.0);
    let sum = metrics.value("kubeproxy_network_programming_duration_seconds_sum", &[]).unwrap();
    assert!(sum > 0.0 && sum < 2.0 * DEADLINE.as_secs_f64(), "{sum}");

    // The same endpoints with another trigger, and then others with one from before the agent's start.
    cluster.manifests.edit("near", |near| near.change_trigger = now()).unwrap();
    let earlier = |near: &mut Service| {
        near.change_trigger = Some("2001-02-03T04:05:06.123456789Z".to_owned());
        near.endpoints.clear();
    };
    cluster.manifests.edit("near", earlier).unwrap();
    let metrics =
        wait_for(&cluster.agents[0], "the last change", |metrics| endpoints_of_near(metrics) == 0.0);
    assert_eq!(count(&metrics), 2.0);
}

/// A Service of two pods of the first node, which are asked at a port of their own.
fn checked(topology: &Topology) -> Service {
    let check = HealthCheck {
        kind: CheckKind::Tcp,
        port: Some(HEALTH_PORT),
        interval_ms: 200,
        timeout_ms: 200,
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    };
    let node = topology.node(NODE_NAMES[0]);
    let service = Service::new("checked", 90).port("tcp", Protocol::Tcp, 90, TCP_PORT);
    let service = node.pods().iter().fold(service, |service, pod| service.backed_by(node, pod));
    let families = lb_tests::manifests::Families::V4;
    Service { health_check: Some(check), load_balancer_ips: vec![LOAD_BALANCER_IPS[0]], families, ..service }
}

#[test]
fn health_is_told_by_state_and_reason() {
    let Some(podway) = podway() else { return };
    let topology = Topology::two_nodes(2).unwrap();
    let start = |pod: &str| Server::start(topology.pod(pod), &[(Protocol::Tcp, HEALTH_PORT)]).unwrap();
    let (one, other) = (start("web-a-1"), start("web-a-2"));
    let service = checked(&topology);
    let cluster = Cluster::on(topology, vec![service], &podway, Options::default()).unwrap();
    let agent = &cluster.agents[0];
    let probes =
        |metrics: &Metrics, result| metrics.value("podway_health_probes_total", &[("result", result)]);
    let metrics = wait_for(agent, "both to pass", |metrics| {
        probes(metrics, "passed").is_some_and(|passed| passed >= 4.0)
    });
    assert_eq!(probes(&metrics, "connect-refused"), Some(0.0));
    let of = |metrics: &Metrics, name: &str| metrics.value(name, &[]).unwrap();
    assert_eq!(of(&metrics, "podway_health_targets"), 2.0);
    assert_eq!(of(&metrics, "podway_health_targets_unhealthy"), 0.0);

    one.kill();
    let labels = [("namespace", "shop"), ("service", "checked"), ("port", "tcp"), ("protocol", "TCP")];
    let in_state = |metrics: &Metrics, state| {
        metrics.value("podway_backend_service_endpoints", &[&labels[..], &[("state", state)]].concat())
    };
    let changes = |metrics: &Metrics, state, reason| {
        metrics.value("podway_health_state_changes_total", &[("state", state), ("reason", reason)])
    };
    let metrics = wait_for(agent, "one to fail", |metrics| {
        changes(metrics, "unhealthy", "probes-failed") == Some(1.0)
            && in_state(metrics, "healthy") == Some(1.0)
    });
    assert_eq!(in_state(&metrics, "unhealthy"), Some(1.0));
    assert_eq!(of(&metrics, "podway_health_targets_unhealthy"), 1.0);
    assert!(probes(&metrics, "connect-refused") >= Some(2.0));
    assert!(of(&metrics, "podway_health_effect_duration_seconds_count") == 1.0);
    assert_eq!(of(&metrics, "podway_backend_services_in_panic"), 0.0);

    other.kill();
    let metrics =
        wait_for(agent, "none to pass", |metrics| of(metrics, "podway_backend_services_in_panic") == 1.0);
    assert_eq!((in_state(&metrics, "healthy"), in_state(&metrics, "unhealthy")), (Some(0.0), Some(2.0)));
    // Both are used all the same, and each flow is noted.
    dial(&cluster, 4, Protocol::Tcp, address(&cluster, "checked", Protocol::Tcp));
    let panic = |metrics: &Metrics| {
        metrics.value("podway_packets_total", &[("outcome", "note"), ("reason", "panic")])
    };
    assert_eq!(panic(&scrape(agent)), Some(4.0));

    let _again = Server::start(cluster.topology.pod("web-a-1"), &[(Protocol::Tcp, HEALTH_PORT)]).unwrap();
    let metrics = wait_for(agent, "one to pass", |metrics| in_state(metrics, "healthy") == Some(1.0));
    assert_eq!(of(&metrics, "podway_backend_services_in_panic"), 0.0);
    wait_for(agent, "the return to be counted", |metrics| {
        changes(metrics, "healthy", "probes-passed") == Some(1.0)
            && changes(metrics, "unhealthy", "probes-failed") == Some(2.0)
    });
}

#[test]
fn empty_address_serves_no_metrics() {
    let Some(podway) = podway() else { return };
    let options = Options { further: &["--metrics-address", ""], ..Options::default() };
    let cluster = Cluster::start(&podway, options).unwrap();
    let error = cluster.agents[0].metrics("/metrics").unwrap_err();
    assert!(format!("{error:#}").starts_with("nobody serves metrics: Connection refused"), "{error:#}");
}
