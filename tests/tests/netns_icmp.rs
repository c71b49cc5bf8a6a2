//! Echo requests to VIPs, from the sockets that `ping` has. What ICMP errors do through a VIP is told by
//! the stories of `netns_matrix`.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use lb_tests::agent::{Options, Podway, SocketHooks, XdpMode};
use lb_tests::cluster::Cluster;
use lb_tests::need;
use lb_tests::raw::{echo_request, ping};
use lb_tests::topology::{Host, Node};
use lb_userspace::model::Protocol;

/// Type, code, checksum, identifier, sequence number.
const HEADER_BYTES: usize = 8;
/// What `ping` sends by itself, and what just fits in a packet of either family.
const PAYLOAD_BYTES: [usize; 2] = [56, 1_440];
/// An answer takes well below a millisecond.
const TIMEOUT: Duration = Duration::from_secs(2);
/// When an address counts as silent.
const SILENCE: Duration = Duration::from_millis(300);

fn cluster(xdp_mode: XdpMode, socket_hooks: SocketHooks) -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let further = &["--service-cidr", "10.96.0.0/16,2001:db8:96::/112"];
    Some(Cluster::start(&podway, Options { xdp_mode, socket_hooks, further }).unwrap())
}

/// The addresses of a Service that are no node's.
fn vips(cluster: &Cluster, service: &str) -> Vec<IpAddr> {
    let nodes = cluster.topology.nodes().iter().map(Node::host);
    let nodes: Vec<IpAddr> = nodes.flat_map(|node| [node.v4().into(), node.v6().into()]).collect();
    let addresses = cluster.addresses(service, Protocol::Tcp).into_iter().map(|address| address.ip());
    addresses.filter(|vip| !nodes.contains(vip)).collect()
}

/// Every VIP of a Service answers, and `node-a` counts each answer.
fn assert_answered(cluster: &Cluster, from: &Host) {
    let before = cluster.agents[0].count("echo").unwrap();
    let mut pings = 0;
    for vip in vips(cluster, "far") {
        for payload_bytes in PAYLOAD_BYTES {
            let what = format!("{} pings {vip} with {payload_bytes} bytes", from.name());
            let (request, kind) = echo_request(vip, payload_bytes);
            let reply = ping(from, vip, &request, TIMEOUT).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!((reply[0], reply[1]), (kind, 0), "{what}");
            // The sequence number and the payload; before them are the kernel's checksum and identifier.
            assert!(reply[HEADER_BYTES - 2..] == request[HEADER_BYTES - 2..], "{what}: the echo differs");
            pings += 1;
        }
    }
    assert_eq!(cluster.agents[0].count("echo").unwrap() - before, pings, "pings of {}", from.name());
}

fn assert_vips_answer(xdp_mode: XdpMode, socket_hooks: SocketHooks) {
    let Some(cluster) = cluster(xdp_mode, socket_hooks) else { return };
    for from in [cluster.topology.client(), cluster.topology.pod("web-a-3")] {
        assert_answered(&cluster, from);
    }
}

#[test]
fn native_xdp_answers_pings() {
    assert_vips_answer(XdpMode::Native, SocketHooks::On);
}

#[test]
fn tc_alone_answers_pings() {
    assert_vips_answer(XdpMode::Off, SocketHooks::Off);
}

#[test]
fn pings_of_an_unallocated_address_are_silent() {
    let Some(cluster) = cluster(XdpMode::Native, SocketHooks::On) else { return };
    let unallocated: [IpAddr; 2] =
        [Ipv4Addr::new(10, 96, 255, 1).into(), Ipv6Addr::new(0x2001, 0xdb8, 0x96, 0, 0, 0, 0, 0xff01).into()];
    for address in unallocated {
        let before = cluster.agents[0].count("unallocated").unwrap();
        let error =
            ping(cluster.topology.client(), address, &echo_request(address, 56).0, SILENCE).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{address}: {error}");
        assert_eq!(cluster.agents[0].count("unallocated").unwrap() - before, 1, "{address}");
    }
}
