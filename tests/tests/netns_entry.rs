//! Who may enter, and clients that are part of the node: a pod that is its own endpoint, processes of the
//! node, loopback.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use lb_tests::agent::{Options, Podway, SocketHooks};
use lb_tests::cluster::{self, Cluster, PROTOCOLS, TCP_PORT, UDP_PORT};
use lb_tests::need;
use lb_tests::topology::Host;
use lb_tests::traffic::{Answered, Dial, Failure, Server, UdpSocketKind, ask, ask_as, dial};
use lb_userspace::model::Protocol;
use serde_json::json;

/// A cluster, or `None` where the machine lacks a need.
fn cluster(socket_hooks: SocketHooks) -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    Some(Cluster::start(&podway, Options { socket_hooks, ..Options::default() }).unwrap())
}

/// The outcome of one request that may be dropped.
fn outcome(client: &Host, protocol: Protocol, to: SocketAddr) -> Result<Answered, Failure> {
    let request = Dial { timeout: Duration::from_millis(500), ..Dial::times(1, protocol, to) };
    dial(client, &request).unwrap().remove(0).outcome
}

#[test]
fn tc_leads_a_pod_to_itself() {
    let Some(mut cluster) = cluster(SocketHooks::Off) else { return };
    let (node, pod) = (cluster.topology.node("node-a"), cluster.topology.pod("web-a-3"));
    cluster.manifests.put(cluster::service("own", 90).backed_by(node, pod)).unwrap();
    cluster.wait_for_frontends().unwrap();
    let pod = cluster.topology.pod("web-a-3");
    let node = cluster.topology.node("node-a").host();
    for protocol in PROTOCOLS {
        for address in cluster.addresses("own", protocol) {
            let Answered { by, seen_source, peer } = ask(pod, protocol, address).unwrap();
            assert_eq!((by.as_str(), peer), ("web-a-3", address), "{address} over {protocol}");
            assert_eq!(seen_source.ip(), node.address_for(address.ip()), "{address} over {protocol}");
        }
    }
}

#[test]
fn tc_serves_processes_of_the_node() {
    let Some(mut cluster) = cluster(SocketHooks::Off) else { return };
    let node = cluster.topology.node("node-a");
    cluster.manifests.put(cluster::service("host", 91).backed_by(node, node.host())).unwrap();
    cluster.wait_for_frontends().unwrap();
    let node = cluster.topology.node("node-a").host();
    let _server = Server::start(node, &[(Protocol::Tcp, TCP_PORT), (Protocol::Udp, UDP_PORT)]).unwrap();
    for protocol in PROTOCOLS {
        for (service, pods) in [("near", "web-a-"), ("far", "web-b-"), ("host", "node-a")] {
            let addresses = cluster.addresses(service, protocol).into_iter();
            // Its own node ports do not leave by an interface.
            for address in
                addresses.filter(|address| ![node.v4().into(), node.v6().into()].contains(&address.ip()))
            {
                let what = format!("{address} of {service} over {protocol}");
                let answered = ask(node, protocol, address).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(answered.by.starts_with(pods), "{what}: {answered:?}");
                assert_eq!(answered.peer, address, "{what}");
                let source = if service == "host" { address.ip() } else { node.address_for(address.ip()) };
                assert_eq!(answered.seen_source.ip(), source, "{what}");
            }
        }
        for address in cluster.cluster_addresses("empty", protocol) {
            let answers = dial(node, &Dial::times(1, protocol, address)).unwrap();
            assert_eq!(answers[0].outcome, Err(Failure::Refused), "{address} over {protocol}");
        }
    }
}

#[test]
fn loopback_reaches_node_ports_from_the_node_only() {
    let Some(cluster) = cluster(SocketHooks::On) else { return };
    let (node, pod) = (cluster.topology.node("node-a").host(), cluster.topology.pod("web-a-3"));
    let loopback: [IpAddr; 3] =
        [Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(127, 1, 2, 3).into(), Ipv6Addr::LOCALHOST.into()];
    for protocol in PROTOCOLS {
        for address in loopback.map(|address| SocketAddr::new(address, 30_082)) {
            for udp_socket in [UdpSocketKind::Connected, UdpSocketKind::Unconnected] {
                let request = Dial { udp_socket, ..Dial::times(1, protocol, address) };
                let answered = ask_as(node, &request).unwrap();
                assert!(answered.by.starts_with("web-b-"), "{answered:?}");
                assert_eq!(answered.peer, address, "{request:?}");
            }
            // Nobody listens on this port in the pod.
            assert_eq!(outcome(pod, protocol, address), Err(Failure::Refused), "{address} over {protocol}");
        }
    }
}

fn assert_source_ranges_hold(socket_hooks: SocketHooks) {
    let Some(mut cluster) = cluster(socket_hooks) else { return };
    let put = |cluster: &mut Cluster, ranges: &[String]| {
        let service = cluster::service("ranged", 90).backed_by_all(&cluster.topology);
        let ranged = service.with_spec("loadBalancerSourceRanges", json!(ranges));
        cluster.manifests.put(ranged).unwrap();
        cluster.wait_for_frontends().unwrap();
    };
    // Each in turn is the only one let in.
    for allowed in ["client", "web-a-3", "node-a"] {
        let hosts = |cluster: &Cluster| {
            let topology = &cluster.topology;
            let node = topology.node("node-a").host();
            [topology.client().clone(), topology.pod("web-a-3").clone(), node.clone()]
        };
        let of_allowed = hosts(&cluster).into_iter().find(|host| host.name() == allowed).unwrap();
        put(&mut cluster, &[format!("{}/32", of_allowed.v4()), format!("{}/128", of_allowed.v6())]);
        for host in hosts(&cluster) {
            for protocol in PROTOCOLS {
                for address in cluster.load_balancer_addresses("ranged", protocol) {
                    let outcome = outcome(&host, protocol, address);
                    let what = format!("{} to {address} over {protocol}, {allowed} is let in", host.name());
                    if host.name() == allowed {
                        assert!(outcome.is_ok(), "{what}: {outcome:?}");
                    } else if host.name() == "node-a" && socket_hooks == SocketHooks::On {
                        assert_eq!(outcome, Err(Failure::NotPermitted), "{what}");
                    } else {
                        assert_eq!(outcome, Err(Failure::TimedOut), "{what}");
                    }
                }
            }
        }
        // Cluster IPs have no ranges.
        for address in cluster.cluster_addresses("ranged", Protocol::Tcp) {
            ask(cluster.topology.pod("web-a-3"), Protocol::Tcp, address).unwrap();
        }
    }
}

#[test]
fn source_ranges_hold_with_socket_hooks() {
    assert_source_ranges_hold(SocketHooks::On);
}

#[test]
fn source_ranges_hold_without_socket_hooks() {
    assert_source_ranges_hold(SocketHooks::Off);
}
