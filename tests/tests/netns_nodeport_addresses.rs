//! Node ports answer at the chosen addresses of a node alone (`--nodeport-addresses`), in every way of attachment.
use std::net::SocketAddr;

use lb_tests::agent::{Agent, Options, Podway, SocketHooks, XdpMode, frontend};
use lb_tests::cluster::{PROTOCOLS, TCP_PORT, UDP_PORT, service};
use lb_tests::manifests::Manifests;
use lb_tests::need;
use lb_tests::topology::{NODE_NAMES, Topology};
use lb_tests::traffic::{Failure, Server, ask};
use lb_userspace::model::Protocol;
use tempfile::TempDir;

const NODE_PORT: u16 = 30_081;
/// Prefixes, and whether the node's IPv4 address is left: each has no address of the node, and says nothing of the other
/// family, whose addresses all answer then (`pkg/proxy/util`, `NewNodePortAddresses`).
const CHOICES: [(&[&str], bool); 2] = [
    (&["--nodeport-addresses", "203.0.113.0/24"], false),
    (&["--nodeport-addresses", "2001:db8:113::/64"], true),
];

fn assert_chosen_addresses_answer(xdp_mode: XdpMode, socket_hooks: SocketHooks) {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(2).unwrap();
    let (name, node) = (NODE_NAMES[0], topology.node(NODE_NAMES[0]));
    let folder = TempDir::with_prefix("podway-manifests-").unwrap();
    let mut manifests = Manifests::new(folder.path(), &topology).unwrap();
    let mut near = service("near", 81).backed_by(node, topology.pod("web-a-1"));
    (near.external_ips, near.load_balancer_ips) = (Vec::new(), Vec::new());
    manifests.put(near.clone()).unwrap();
    let ports = [(Protocol::Tcp, TCP_PORT), (Protocol::Udp, UDP_PORT)];
    let _server = Server::start(topology.pod("web-a-1"), &ports).unwrap();
    let at_node = |is_v4: bool| {
        let address = if is_v4 { node.host().v4().into() } else { node.host().v6().into() };
        SocketAddr::new(address, NODE_PORT)
    };
    for (further, is_v4) in CHOICES {
        let options = Options { xdp_mode, socket_hooks, further };
        let mut agent = Agent::start(&podway, &topology, name, folder.path(), options).unwrap();
        let vips = near.cluster_ips.map(|vip| SocketAddr::new(vip, 81));
        let chosen = at_node(is_v4);
        let at = |to: SocketAddr| PROTOCOLS.map(|protocol| frontend(protocol, to.ip(), to.port()));
        agent.wait_for(&vips.into_iter().chain([chosen]).flat_map(at).collect()).unwrap();
        for client in [topology.client(), topology.pod("web-a-2")] {
            for protocol in PROTOCOLS {
                let what = format!("{} over {protocol} with {further:?}", client.name());
                let answered =
                    ask(client, protocol, chosen).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(answered.by, "web-a-1", "{what}");
                // The host has no such socket, and says so.
                let refused = ask(client, protocol, at_node(!is_v4)).unwrap_err();
                assert!(
                    refused.to_string().contains(&format!("{:?}", Failure::Refused)),
                    "{what}: {refused}"
                );
            }
        }
        agent.verify_maps().unwrap();
    }
}

#[test]
fn chosen_addresses_alone_answer_with_native_xdp() {
    assert_chosen_addresses_answer(XdpMode::Native, SocketHooks::On);
}

#[test]
fn chosen_addresses_alone_answer_with_generic_xdp() {
    assert_chosen_addresses_answer(XdpMode::Generic, SocketHooks::On);
}

#[test]
fn chosen_addresses_alone_answer_with_tc_alone() {
    assert_chosen_addresses_answer(XdpMode::Off, SocketHooks::On);
}

#[test]
fn chosen_addresses_alone_answer_without_socket_hooks() {
    assert_chosen_addresses_answer(XdpMode::Native, SocketHooks::Off);
}
