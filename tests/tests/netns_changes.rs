//! The cluster changes under a running agent: pods get unready, appear and die, Services go.
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::agent::{Options, Podway, SocketHooks};
use lb_tests::cluster::{self, Cluster, TCP_PORT};
use lb_tests::need;
use lb_tests::topology::Host;
use lb_tests::traffic::{self, Dial, Server, ask};
use lb_userspace::model::{CheckKind, HealthCheck, Protocol};

/// How long a change may take from the manifest to the maps.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// So many requests miss none of two pods, but once in 2^39.
const REQUESTS: u32 = 40;

/// A cluster, or `None` where the machine lacks a need.
fn cluster(options: Options) -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    Some(Cluster::start(&podway, options).unwrap())
}

/// Waits until exactly `expected` answer new connections.
fn wait_for_answerers(client: &Host, address: SocketAddr, expected: &[&str]) {
    let requests = Dial::times(REQUESTS, Protocol::Tcp, address);
    traffic::wait_for_answerers(client, &requests, expected, CHANGE_DEADLINE);
}

#[test]
fn new_flows_leave_a_pod_that_is_not_ready_and_come_back() {
    let Some(mut cluster) = cluster(Options::default()) else { return };
    let address = cluster.load_balancer_addresses("near", Protocol::Tcp)[0];
    wait_for_answerers(cluster.topology.client(), address, &["web-a-1", "web-a-2"]);
    cluster.manifests.edit("near", |service| service.endpoint("web-a-1").ready = false).unwrap();
    wait_for_answerers(cluster.topology.client(), address, &["web-a-2"]);
    wait_for_answerers(cluster.topology.pod("web-a-3"), address, &["web-a-2"]);
    cluster.manifests.edit("near", |service| service.endpoint("web-a-1").ready = true).unwrap();
    wait_for_answerers(cluster.topology.client(), address, &["web-a-1", "web-a-2"]);
}

#[test]
fn removing_every_endpoint_refuses() {
    let Some(mut cluster) = cluster(Options::default()) else { return };
    let address = cluster.load_balancer_addresses("far", Protocol::Tcp)[0];
    cluster.manifests.edit("far", |service| service.endpoints.clear()).unwrap();
    wait_for_answerers(cluster.topology.client(), address, &["Refused"]);
    wait_for_answerers(cluster.topology.pod("web-a-3"), address, &["NotPermitted"]);
}

#[test]
fn removed_service_has_no_frontends() {
    let Some(mut cluster) = cluster(Options::default()) else { return };
    cluster.manifests.remove("web").unwrap();
    cluster.wait_for_frontends().unwrap();
    cluster.agents.iter().for_each(|agent| agent.verify().unwrap());
}

#[test]
fn pod_that_appears_later_is_served_and_serves() {
    let options = Options { socket_hooks: SocketHooks::Off, ..Options::default() };
    let Some(mut cluster) = cluster(options) else { return };
    cluster.topology.add_pods(&[("node-a", "late".to_owned())]).unwrap();
    let late = cluster.topology.pod("late");
    let _server = Server::start(late, &[(Protocol::Tcp, TCP_PORT)]).unwrap();
    // As a client: the hooks of its interface must be there.
    let far = cluster.cluster_addresses("far", Protocol::Tcp)[0];
    wait_for_answerers(late, far, &["web-b-1", "web-b-2"]);
    // As a pod of a Service of its own.
    let node = cluster.topology.node("node-a");
    cluster.manifests.put(cluster::service("late", 90).backed_by(node, late)).unwrap();
    cluster.wait_for_frontends().unwrap();
    let address = cluster.load_balancer_addresses("late", Protocol::Tcp)[0];
    wait_for_answerers(cluster.topology.client(), address, &["late"]);
    let client = cluster.topology.client();
    let seen_source = ask(client, Protocol::Tcp, address).unwrap().seen_source;
    assert_eq!(seen_source.ip(), client.v4());
}

#[test]
fn health_check_takes_a_dead_pod_out_and_back_in() {
    let Some(mut cluster) = cluster(Options::default()) else { return };
    let check = HealthCheck {
        kind: CheckKind::Tcp,
        port: None,
        interval_ms: 200,
        timeout_ms: 200,
        healthy_threshold: 1,
        unhealthy_threshold: 2,
    };
    for service in ["near", "far"] {
        cluster.manifests.edit(service, |service| service.health_check = Some(check.clone())).unwrap();
    }
    cluster.kill_server("web-a-1");
    cluster.kill_server("web-b-1");
    let client = cluster.topology.client();
    for (service, dead, alive) in [("near", "web-a-1", "web-a-2"), ("far", "web-b-1", "web-b-2")] {
        let address = cluster.load_balancer_addresses(service, Protocol::Tcp)[0];
        wait_for_answerers(client, address, &[alive]);
        let _server = Server::start(cluster.topology.pod(dead), &[(Protocol::Tcp, TCP_PORT)]).unwrap();
        wait_for_answerers(client, address, &[dead, alive]);
    }
}
