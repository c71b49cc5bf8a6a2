//! A client outside the cluster and the frontends of `node-a`, in every mode of attachment: who
//! answers, and which source the pod sees. A pod of this node sees the client; a pod of the other node
//! sees this node, at a port of its source NAT.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use lb_tests::agent::{Options, Podway, XdpMode};
use lb_tests::cluster::{self, Cluster, PROTOCOLS};
use lb_tests::need;
use lb_tests::topology::Host;
use lb_tests::traffic::{Answered, Dial, Failure, ask, dial};
use lb_userspace::model::Protocol;

/// The default ports of source NAT.
const SOURCE_NAT_PORTS: std::ops::RangeInclusive<u16> = 11_000..=29_999;

/// A cluster, or `None` where the machine lacks a need.
fn cluster(xdp_mode: XdpMode) -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    Some(Cluster::start(&podway, Options { xdp_mode, ..Options::default() }).unwrap())
}

/// Asserts that pods of `service` answer the client at all of its addresses, and see `source`.
fn assert_serves(cluster: &Cluster, service: &str, pods: [&str; 2], source: &Host) {
    let client = cluster.topology.client();
    for protocol in PROTOCOLS {
        for address in cluster.addresses(service, protocol) {
            let Answered { by, seen_source, peer } = ask(client, protocol, address).unwrap();
            assert!(pods.contains(&by.as_str()), "{by} answered {address} over {protocol}");
            assert_eq!(peer, address);
            assert_eq!(seen_source.ip(), source.address_for(address.ip()), "{address} over {protocol}");
            let is_translated = source.name() != client.name();
            assert_eq!(
                SOURCE_NAT_PORTS.contains(&seen_source.port()),
                is_translated,
                "{seen_source} for {address} over {protocol}"
            );
        }
    }
}

fn assert_serves_near_and_far(xdp_mode: XdpMode) {
    let Some(cluster) = cluster(xdp_mode) else { return };
    let (client, node_a) = (cluster.topology.client(), cluster.topology.node("node-a").host());
    assert_serves(&cluster, "near", ["web-a-1", "web-a-2"], client);
    assert_serves(&cluster, "far", ["web-b-1", "web-b-2"], node_a);
    cluster.agents.iter().for_each(|agent| agent.verify().unwrap());
}

#[test]
fn native_xdp_serves_an_outside_client() {
    assert_serves_near_and_far(XdpMode::Native);
}

#[test]
fn generic_xdp_serves_an_outside_client() {
    assert_serves_near_and_far(XdpMode::Generic);
}

#[test]
fn tc_alone_serves_an_outside_client() {
    assert_serves_near_and_far(XdpMode::Off);
}

#[test]
fn other_node_serves_the_same_addresses() {
    let Some(cluster) = cluster(XdpMode::Auto) else { return };
    cluster.topology.route_services_via("node-b").unwrap();
    let client = cluster.topology.client();
    for address in cluster.load_balancer_addresses("far", Protocol::Tcp) {
        let answered = ask(client, Protocol::Tcp, address).unwrap();
        assert_eq!(answered.seen_source.ip(), client.address_for(address.ip()));
    }
    for address in cluster.load_balancer_addresses("near", Protocol::Tcp) {
        let answered = ask(client, Protocol::Tcp, address).unwrap();
        let node_b = cluster.topology.node("node-b").host();
        assert_eq!(answered.seen_source.ip(), node_b.address_for(address.ip()));
    }
}

#[test]
fn local_policy_keeps_to_pods_of_the_node_and_shows_them_the_client() {
    let Some(cluster) = cluster(XdpMode::Auto) else { return };
    let client = cluster.topology.client();
    for protocol in PROTOCOLS {
        for address in cluster.load_balancer_addresses("local", protocol) {
            for answer in dial(client, &Dial::times(10, protocol, address)).unwrap() {
                let Answered { by, seen_source, .. } = answer.outcome.unwrap();
                assert!(by.starts_with("web-a-"), "{by} answered {address} over {protocol}");
                assert_eq!(seen_source.ip(), client.address_for(address.ip()));
            }
        }
    }
}

#[test]
fn local_policy_without_pods_of_the_node_drops() {
    let Some(cluster) = cluster(XdpMode::Auto) else { return };
    for protocol in PROTOCOLS {
        for address in cluster.load_balancer_addresses("far-local", protocol) {
            let request = Dial { timeout: Duration::from_millis(300), ..Dial::times(1, protocol, address) };
            let answers = dial(cluster.topology.client(), &request).unwrap();
            assert_eq!(answers[0].outcome, Err(Failure::TimedOut), "{address} over {protocol}");
        }
    }
}

#[test]
fn service_without_pods_refuses() {
    let Some(cluster) = cluster(XdpMode::Auto) else { return };
    for protocol in PROTOCOLS {
        for address in cluster.addresses("empty", protocol) {
            let answers = dial(cluster.topology.client(), &Dial::times(1, protocol, address)).unwrap();
            assert_eq!(answers[0].outcome, Err(Failure::Refused), "{address} over {protocol}");
        }
    }
}

#[test]
fn requests_spread_evenly_over_pods() {
    let Some(cluster) = cluster(XdpMode::Auto) else { return };
    for address in cluster.load_balancer_addresses("web", Protocol::Tcp) {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let requests =
            Dial { timeout: Duration::from_millis(200), ..Dial::times(600, Protocol::Tcp, address) };
        for answer in dial(cluster.topology.client(), &requests).unwrap() {
            *counts.entry(answer.outcome.unwrap().by).or_default() += 1;
        }
        // 100 each on average, with a standard deviation of 9.1: five of them to each side.
        assert_eq!(counts.len(), 6, "{address}: {counts:?}");
        assert!(counts.values().all(|count| (55..=145).contains(count)), "{address}: {counts:?}");
    }
}

#[test]
fn client_affinity_keeps_the_pod_over_frontends() {
    let Some(mut cluster) = cluster(XdpMode::Auto) else { return };
    let mut sticky = cluster::service("sticky", 90).backed_by_all(&cluster.topology);
    sticky.affinity_timeout_s = Some(10_800);
    cluster.manifests.put(sticky).unwrap();
    cluster.wait_for_frontends().unwrap();
    let client = cluster.topology.client();
    for protocol in PROTOCOLS {
        let addresses = cluster.addresses("sticky", protocol).into_iter();
        let pods: BTreeSet<String> = addresses
            .filter(SocketAddr::is_ipv4)
            .flat_map(|address| dial(client, &Dial::times(10, protocol, address)).unwrap())
            .map(|answer| answer.outcome.unwrap().by)
            .collect();
        assert_eq!(pods.len(), 1, "{protocol}: {pods:?}");
    }
}
