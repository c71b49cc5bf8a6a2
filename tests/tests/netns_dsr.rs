//! Direct server return with real sockets, in every mode of attachment: a pod of the other node sees the
//! client's own address, and the client sees the VIP.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use lb_tests::agent::{Options, Podway, XdpMode};
use lb_tests::cluster::{self, Cluster, PROTOCOLS};
use lb_tests::need;
use lb_tests::topology::{Host, Topology};
use lb_tests::traffic::{Answered, ask};
use lb_userspace::model::Protocol;

/// What a client sends and gets back over one connection: several hundred full packets.
const TRANSFER_BYTES: usize = 1_000_000;

/// Two nodes and the Service `direct`, whose pods are on `node-b` alone; the client comes to `node-a`.
fn cluster(xdp_mode: XdpMode) -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(2).unwrap();
    let node = topology.node("node-b");
    let direct = ["web-b-1", "web-b-2"]
        .iter()
        .fold(cluster::service("direct", 90).annotated("podway.io/external-mode", "dsr"), |service, pod| {
            service.backed_by(node, topology.pod(pod))
        });
    Some(Cluster::on(topology, vec![direct], &podway, Options { xdp_mode, ..Options::default() }).unwrap())
}

/// The addresses of `direct` that clients outside are for.
fn addresses(cluster: &Cluster, protocol: Protocol) -> Vec<SocketAddr> {
    let cluster_ips = cluster.cluster_addresses("direct", protocol);
    let all = cluster.addresses("direct", protocol).into_iter();
    all.filter(|address| !cluster_ips.contains(address)).collect()
}

/// Packets that a node counted for a reason.
fn count(cluster: &Cluster, node: usize, outcome: &str, reason: &str) -> u64 {
    let counters = cluster.agents[node].get("counters").unwrap();
    let rows = counters.as_array().unwrap_or_else(|| panic!("no list: {counters}"));
    let row = rows.iter().find(|row| row["outcome"] == outcome && row["reason"] == reason);
    row.and_then(|row| row["packets"].as_u64()).unwrap_or_else(|| panic!("no {reason} in {counters}"))
}

/// Sends [`TRANSFER_BYTES`] through the server's echo and compares.
fn transfer(client: &Host, to: SocketAddr) {
    let work = || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).unwrap();
        }
        let mut reader = stream.try_clone().unwrap();
        let sent: Vec<u8> = (0..TRANSFER_BYTES).map(|index| (index % 251) as u8).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| stream.write_all(&sent).unwrap());
            let mut received = vec![0; TRANSFER_BYTES];
            reader.read_exact(&mut received).unwrap();
            assert!(received == sent, "the echo differs");
        });
    };
    client.run_in_netns(work).unwrap();
}

fn assert_direct_return(xdp_mode: XdpMode) {
    let Some(cluster) = cluster(xdp_mode) else { return };
    let client = cluster.topology.client();
    for protocol in PROTOCOLS {
        for address in addresses(&cluster, protocol) {
            let Answered { by, seen_source, peer } = ask(client, protocol, address).unwrap();
            assert!(by.starts_with("web-b-"), "{by} answered {address} over {protocol}");
            assert_eq!(seen_source.ip(), client.address_for(address.ip()), "{address} over {protocol}");
            assert_eq!(peer, address);
        }
    }
    for address in cluster.load_balancer_addresses("direct", Protocol::Tcp) {
        transfer(client, address);
    }
    assert!(count(&cluster, 0, "forward", "encapsulated") > 100);
    assert!(count(&cluster, 1, "forward", "decapsulated") > 100);
    assert_eq!(count(&cluster, 0, "forward", "reply"), 0, "no reply passes the first node");
    // At tc several packets are one (GRO), which the kernel cuts to what fits beside the overhead.
    if xdp_mode != XdpMode::Off {
        assert!(count(&cluster, 0, "refuse", "too-big") > 0, "full packets do not fit beside the overhead");
    }
    cluster.agents.iter().for_each(|agent| agent.verify().unwrap());
}

#[test]
fn native_xdp_returns_directly() {
    assert_direct_return(XdpMode::Native);
}

#[test]
fn generic_xdp_returns_directly() {
    assert_direct_return(XdpMode::Generic);
}

#[test]
fn tc_alone_returns_directly() {
    assert_direct_return(XdpMode::Off);
}

#[test]
fn pods_reach_a_direct_service_as_any_other() {
    let Some(cluster) = cluster(XdpMode::Auto) else { return };
    let pod = cluster.topology.pod("web-a-1");
    for protocol in PROTOCOLS {
        for address in addresses(&cluster, protocol) {
            let answered = ask(pod, protocol, address).unwrap();
            assert!(answered.by.starts_with("web-b-"), "{answered:?}");
            assert_eq!(answered.seen_source.ip(), pod.address_for(address.ip()));
        }
    }
}
