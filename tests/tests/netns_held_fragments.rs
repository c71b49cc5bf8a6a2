//! Fragments of real datagrams, sent out of order by a raw socket: the datagram arrives whole, in every mode of
//! attachment, at pods of this node and of another one, and so do the answers of those.
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use lb_tests::agent::{Options, Podway, SocketHooks, XdpMode};
use lb_tests::cluster::{Cluster, UDP_PORT};
use lb_tests::need;
use lb_tests::packet::PacketBuilder;
use lb_tests::packet::pieces::cut;
use lb_tests::raw;
use lb_tests::topology::{Host, Topology};
use lb_tests::traffic::ask;
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

/// Of the datagrams; the answers go in one piece.
const PAYLOAD: [u8; 1_200] = [b'x'; 1_200];
/// Of a fragment.
const PIECE_BYTES: usize = 800;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

fn cluster(xdp_mode: XdpMode) -> Option<Cluster> {
    let need = need::netns()?;
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    Some(Cluster::start(&podway, Options { xdp_mode, ..Options::default() }).unwrap())
}

/// The fragments of a datagram.
fn fragments(from: SocketAddr, to: SocketAddr, identification: u16) -> Vec<Vec<u8>> {
    cut(&PacketBuilder::udp(from, to).payload(&PAYLOAD).build(), PIECE_BYTES, identification)
}

/// Sends a datagram in fragments, the last one first, and gives the answer.
fn ask_backwards(client: &Host, to: SocketAddr, identification: u16) -> String {
    let answer = raw::ask_backwards(client, to, &PAYLOAD, PIECE_BYTES, identification);
    let answer = answer.unwrap_or_else(|error| panic!("{to}: {error}"));
    assert!(answer.ends_with(&PAYLOAD), "{to}: {} bytes", answer.len());
    String::from_utf8_lossy(&answer).into_owned()
}

fn assert_arrives_whole(xdp_mode: XdpMode) {
    let Some(cluster) = cluster(xdp_mode) else { return };
    let addresses = |service| cluster.load_balancer_addresses(service, Protocol::Udp);
    let near = addresses("near").into_iter().map(|address| (address, "web-a-"));
    let all = near.chain(addresses("far").into_iter().map(|address| (address, "web-b-")));
    // The Services share their addresses, so each datagram needs an identification of its own.
    for (identification, (address, pods)) in (1..).zip(all) {
        let answer = ask_backwards(cluster.topology.client(), address, identification);
        assert!(answer.starts_with(pods), "{address}: {answer}");
        assert!(cluster.agents[0].count("fragment-early").unwrap() >= identification.into(), "{address}");
    }
}

#[test]
fn datagram_backwards_arrives_whole_with_native_xdp() {
    assert_arrives_whole(XdpMode::Native);
}

#[test]
fn datagram_backwards_arrives_whole_with_generic_xdp() {
    assert_arrives_whole(XdpMode::Generic);
}

#[test]
fn datagram_backwards_arrives_whole_with_tc_alone() {
    assert_arrives_whole(XdpMode::Off);
}

#[test]
fn datagram_backwards_from_a_pod_arrives_whole() {
    let Some(cluster) = cluster(XdpMode::Auto) else { return };
    let pod = cluster.topology.pod("web-a-3");
    for (identification, address) in (1..).zip(cluster.cluster_addresses("near", Protocol::Udp)) {
        let answer = ask_backwards(pod, address, identification);
        assert!(answer.starts_with("web-a-"), "{address}: {answer}");
        assert!(cluster.agents[0].count("fragment-early").unwrap() >= identification.into(), "{address}");
    }
}

/// Asks, and has the pod that answered send a datagram in fragments, the last one first, on the same flow.
fn assert_answered_backwards(topology: &Topology, client: &Host, to: SocketAddr, identification: u16) {
    let ask = || {
        let socket = UdpSocket::bind(SocketAddr::new(client.address_for(to.ip()), 0)).unwrap();
        socket.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        let mut answer = [0; 2_048];
        socket.send_to(b"who", to).unwrap();
        let (count, by) = socket.recv_from(&mut answer).unwrap_or_else(|error| panic!("{to}: {error}"));
        assert_eq!(by, to);
        let text = String::from_utf8_lossy(&answer[..count]).into_owned();
        let pod = topology.pod(text.split(' ').next().unwrap());
        let from = SocketAddr::new(pod.address_for(to.ip()), UDP_PORT);
        let mut pieces = fragments(from, socket.local_addr().unwrap(), identification);
        pieces.reverse();
        pod.run_in_netns(|| raw::send(client.address_for(to.ip()), &pieces)).unwrap().unwrap();
        let (count, by) = socket.recv_from(&mut answer).unwrap_or_else(|error| panic!("{to}, back: {error}"));
        assert_eq!(by, to);
        assert_eq!(answer[..count], PAYLOAD);
    };
    client.run_in_netns(ask).unwrap();
}

#[test]
fn answer_backwards_to_a_client_outside_arrives_whole() {
    let Some(cluster) = cluster(XdpMode::Auto) else { return };
    let client = cluster.topology.client();
    for (identification, to) in (1..).zip(cluster.load_balancer_addresses("near", Protocol::Udp)) {
        assert_answered_backwards(&cluster.topology, client, to, identification);
        assert!(cluster.agents[0].count("fragment-early").unwrap() >= identification.into(), "{to}");
    }
}

#[test]
fn answer_backwards_to_a_pod_arrives_whole() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    // Its replies are undone at its interface.
    let options = Options { socket_hooks: SocketHooks::Off, ..Options::default() };
    let cluster = Cluster::start(&podway, options).unwrap();
    let pod = cluster.topology.pod("web-a-3");
    for (service, identification) in [("near", 1), ("far", 11)] {
        for (identification, to) in (identification..).zip(cluster.cluster_addresses(service, Protocol::Udp))
        {
            assert_answered_backwards(&cluster.topology, pod, to, identification);
        }
    }
}

#[test]
fn flood_of_fragments_without_first_ones_leaves_others_alone() {
    const FLOOD: u16 = 20_000;
    let Some(cluster) = cluster(XdpMode::Native) else { return };
    let client = cluster.topology.client();
    let to = cluster.load_balancer_addresses("near", Protocol::Udp)[0];
    let from = SocketAddr::new(client.address_for(to.ip()), 4_000);
    let flood: Vec<Vec<u8>> =
        (100..100 + FLOOD).map(|identification| fragments(from, to, identification).remove(1)).collect();
    client.run_in_netns(|| raw::send(to.ip(), &flood)).unwrap().unwrap();
    ask(client, Protocol::Udp, to).unwrap();
    // Each was either held or dropped for want of room.
    let count = |reason| cluster.agents[0].count(reason).unwrap();
    let all = || count("fragment-early") + count("fragment-lost") == u64::from(FLOOD);
    wait_until(ANSWER_TIMEOUT, "every fragment is counted", all).unwrap();
    assert!(count("fragment-lost") > 0, "the ring has a bound");
    let answer = ask_backwards(client, to, 9);
    assert!(answer.starts_with("web-a-"), "{answer}");
}
