//! Datagrams longer than any packet, by way of VIPs: they go in fragments, of which only the first has
//! ports, and come back whole. One node has no socket hooks, so its pods' datagrams meet tc.
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::agent::{Options, Podway, SocketHooks, XdpMode};
use lb_tests::cluster::{self, Cluster};
use lb_tests::need;
use lb_tests::topology::{Host, Topology};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

/// Three fragments and six.
const DATAGRAM_BYTES: [usize; 2] = [4_000, 8_000];
/// Longest answer: the server says who it is before it echoes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// A datagram whose answer takes longer is lost.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take until a client keeps to what fits.
const DEADLINE: Duration = Duration::from_secs(8);

fn cluster(xdp_mode: XdpMode) -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let options = Options { xdp_mode, socket_hooks: SocketHooks::Off, ..Options::default() };
    Some(Cluster::start(&podway, options).unwrap())
}

/// Sends one datagram of `bytes`; whether it came back whole, and from whom.
fn echo(from: &Host, to: SocketAddr, bytes: usize) -> std::io::Result<(String, bool)> {
    let any = if to.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let sent: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
    let ask = || {
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.connect(to)?;
        socket.send(&sent)?;
        let mut answer = vec![0; ANSWER_BYTES_MAX];
        let count = socket.recv(&mut answer)?;
        answer.truncate(count);
        Ok::<_, std::io::Error>(answer)
    };
    let answer = from.run_in_netns(ask).map_err(std::io::Error::other)??;
    let by = answer.split(|byte| *byte == b' ').next().unwrap_or_default();
    Ok((String::from_utf8_lossy(by).into_owned(), answer.ends_with(&sent)))
}

fn assert_echoed(from: &Host, to: &[SocketAddr], pods: &str) {
    assert!(to.iter().any(SocketAddr::is_ipv4) && to.iter().any(SocketAddr::is_ipv6), "{to:?}");
    for address in to {
        for bytes in DATAGRAM_BYTES {
            let what = format!("{bytes} bytes from {} to {address}", from.name());
            let (by, is_whole) =
                echo(from, *address, bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(by.starts_with(pods), "{what}: {by} answered");
            assert!(is_whole, "{what}: the echo differs");
        }
    }
}

fn assert_long_datagrams_pass(xdp_mode: XdpMode) {
    let Some(cluster) = cluster(xdp_mode) else { return };
    let (client, pod) = (cluster.topology.client(), cluster.topology.pod("web-a-3"));
    for (service, pods) in [("near", "web-a-"), ("far", "web-b-")] {
        assert_echoed(client, &cluster.addresses(service, Protocol::Udp), pods);
        assert_echoed(pod, &cluster.cluster_addresses(service, Protocol::Udp), pods);
    }
    for agent in &cluster.agents {
        assert_eq!(agent.count("fragment-lost").unwrap(), 0);
    }
}

#[test]
fn native_xdp_passes_long_datagrams() {
    assert_long_datagrams_pass(XdpMode::Native);
}

#[test]
fn tc_alone_passes_long_datagrams() {
    assert_long_datagrams_pass(XdpMode::Off);
}

/// The overhead of the encapsulation leaves less of each packet, which the client learns from the refusal
/// of its first datagram.
#[test]
fn direct_return_passes_long_datagrams_once_the_client_knows_what_fits() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(1).unwrap();
    let direct = cluster::service("direct", 90).annotated("podway.io/external-mode", "dsr");
    let direct = direct.backed_by(topology.node("node-b"), topology.pod("web-b-1"));
    let cluster = Cluster::on(topology, vec![direct], &podway, Options::default()).unwrap();
    for address in cluster.load_balancer_addresses("direct", Protocol::Udp) {
        let client = cluster.topology.client();
        wait_until(DEADLINE, &format!("a long datagram to {address} that is echoed"), || {
            echo(client, address, 8_000).is_ok_and(|(by, is_whole)| by == "web-b-1" && is_whole)
        })
        .unwrap();
    }
    assert!(cluster.agents[0].count("too-big").unwrap() > 0);
    assert!(cluster.agents[1].count("decapsulated").unwrap() > 0);
}
