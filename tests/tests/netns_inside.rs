//! Pods and processes of a node as clients: through socket hooks, and without them through tc at the
//! pod's interface. Pods see the client's own address in either case.
use std::net::IpAddr;

use lb_tests::agent::{Options, Podway, SocketHooks, XdpMode};
use lb_tests::cluster::{self, Cluster, PROTOCOLS};
use lb_tests::need;
use lb_tests::topology::Host;
use lb_tests::traffic::{Answered, Dial, Failure, UdpSocketKind, ask, ask_as, dial};
use lb_userspace::model::Protocol;

/// A cluster, or `None` where the machine lacks a need.
fn cluster(socket_hooks: SocketHooks) -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    Some(Cluster::start(&podway, Options { socket_hooks, ..Options::default() }).unwrap())
}

/// Asserts that pods of both nodes answer `client` at every address of their Services.
fn assert_serves(cluster: &Cluster, client: &Host) {
    for (service, pods) in [("near", ["web-a-1", "web-a-2"]), ("far", ["web-b-1", "web-b-2"])] {
        for protocol in PROTOCOLS {
            for address in cluster.addresses(service, protocol) {
                let Answered { by, seen_source, peer } = ask(client, protocol, address).unwrap();
                let what = format!("{} to {address} over {protocol}", client.name());
                assert!(pods.contains(&by.as_str()), "{what}: {by}");
                assert_eq!(seen_source.ip(), client.address_for(address.ip()), "{what}");
                assert_eq!(peer, address, "{what}");
            }
        }
    }
}

#[test]
fn socket_hooks_serve_pods() {
    let Some(cluster) = cluster(SocketHooks::On) else { return };
    assert_serves(&cluster, cluster.topology.pod("web-a-3"));
}

#[test]
fn socket_hooks_serve_processes_of_the_node() {
    let Some(cluster) = cluster(SocketHooks::On) else { return };
    assert_serves(&cluster, cluster.topology.node("node-a").host());
}

#[test]
fn tc_serves_pods() {
    let Some(cluster) = cluster(SocketHooks::Off) else { return };
    assert_serves(&cluster, cluster.topology.pod("web-a-3"));
}

#[test]
fn unconnected_datagrams_are_answered_from_the_vip() {
    let Some(cluster) = cluster(SocketHooks::On) else { return };
    for address in cluster.cluster_addresses("far", Protocol::Udp) {
        let request =
            Dial { udp_socket: UdpSocketKind::Unconnected, ..Dial::times(1, Protocol::Udp, address) };
        for client in [cluster.topology.pod("web-a-3"), cluster.topology.node("node-a").host()] {
            let answered = ask_as(client, &request).unwrap();
            assert!(answered.by.starts_with("web-b-"), "{answered:?}");
            assert_eq!(answered.peer, address);
        }
    }
}

#[test]
fn local_policy_does_not_bind_pods_of_the_cluster() {
    let Some(cluster) = cluster(SocketHooks::On) else { return };
    for address in cluster.load_balancer_addresses("far-local", Protocol::Tcp) {
        let answered = ask(cluster.topology.pod("web-a-3"), Protocol::Tcp, address).unwrap();
        assert!(answered.by.starts_with("web-b-"), "{answered:?}");
    }
}

#[test]
fn socket_hooks_refuse_a_service_without_pods() {
    let Some(cluster) = cluster(SocketHooks::On) else { return };
    for protocol in PROTOCOLS {
        for address in cluster.cluster_addresses("empty", protocol) {
            for udp_socket in [UdpSocketKind::Connected, UdpSocketKind::Unconnected] {
                let request = Dial { udp_socket, ..Dial::times(1, protocol, address) };
                for client in [cluster.topology.pod("web-a-3"), cluster.topology.node("node-a").host()] {
                    let answers = dial(client, &request).unwrap();
                    assert_eq!(answers[0].outcome, Err(Failure::NotPermitted), "{request:?}");
                }
            }
        }
    }
}

#[test]
fn tc_refuses_a_service_without_pods() {
    let Some(cluster) = cluster(SocketHooks::Off) else { return };
    for protocol in PROTOCOLS {
        for address in cluster.cluster_addresses("empty", protocol) {
            let pod = cluster.topology.pod("web-a-3");
            let answers = dial(pod, &Dial::times(1, protocol, address)).unwrap();
            assert_eq!(answers[0].outcome, Err(Failure::Refused), "{address} over {protocol}");
        }
    }
}

#[test]
fn socket_hooks_lead_a_pod_to_itself() {
    let Some(mut cluster) = cluster(SocketHooks::On) else { return };
    let (node, pod) = (cluster.topology.node("node-a"), cluster.topology.pod("web-a-3"));
    cluster.manifests.put(cluster::service("own", 90).backed_by(node, pod)).unwrap();
    cluster.wait_for_frontends().unwrap();
    let pod = cluster.topology.pod("web-a-3");
    for protocol in PROTOCOLS {
        for address in cluster.cluster_addresses("own", protocol) {
            assert_eq!(ask(pod, protocol, address).unwrap().by, "web-a-3", "{address} over {protocol}");
        }
    }
}

#[test]
fn packet_between_pods_is_looked_at_once() {
    let Some(cluster) = cluster(SocketHooks::Off) else { return };
    let [asks, answers] = ["web-a-1", "web-a-2"].map(|name| cluster.topology.pod(name));
    for address in [IpAddr::from(answers.v4()), answers.v6().into()] {
        let before = cluster.agents[0].count("not-ours").unwrap();
        let answered = ask(asks, Protocol::Udp, (address, cluster::UDP_PORT).into()).unwrap();
        assert_eq!(answered.by, "web-a-2");
        // One for the question, where it enters, and one for the answer.
        assert_eq!(cluster.agents[0].count("not-ours").unwrap() - before, 2, "{address}");
    }
}

/// What netfilter is asked to forward to the pods' ports is lost on both nodes.
fn drop_what_the_stack_forwards(cluster: &Cluster) {
    const RULES: &str = "table inet test { chain forward { type filter hook forward priority 0; \
                         meta l4proto { tcp, udp } th dport { 8080, 5353 } counter drop; }; }";
    for node in cluster.topology.nodes() {
        let status = node.host().command("nft").arg(RULES).status().unwrap();
        assert!(status.success());
    }
}

#[test]
fn pods_are_served_past_the_network_stack_where_that_is_wanted() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    for (further, is_served) in [(&["--local-delivery", "direct"][..], true), (&[], false)] {
        let (socket_hooks, xdp_mode) = (SocketHooks::Off, XdpMode::Off);
        let cluster = Cluster::start(&podway, Options { xdp_mode, socket_hooks, further }).unwrap();
        drop_what_the_stack_forwards(&cluster);
        for client in [cluster.topology.client(), cluster.topology.pod("web-a-3")] {
            for protocol in PROTOCOLS {
                for address in cluster.addresses("near", protocol) {
                    let answered = ask(client, protocol, address);
                    let what = format!("{} to {address} over {protocol}: {answered:?}", client.name());
                    assert_eq!(answered.is_ok(), is_served, "{what}");
                    if let Ok(answered) = answered {
                        assert_eq!(answered.seen_source.ip(), client.address_for(address.ip()), "{what}");
                        assert_eq!(answered.peer, address, "{what}");
                    } else {
                        // One is enough to see that the rules hold.
                        return;
                    }
                }
            }
        }
    }
}
