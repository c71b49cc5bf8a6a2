//! A CNI that carries packets between nodes in a tunnel: what enters by the uplink is another packet than what
//! leaves to the pod, though both are one buffer of the kernel.
use lb_tests::agent::{Options, Podway, SocketHooks, XdpMode};
use lb_tests::cluster::{Cluster, PROTOCOLS};
use lb_tests::need;
use lb_tests::topology::Topology;
use lb_tests::traffic::ask;

/// Leads packets between the nodes' pods through a VXLAN tunnel (RFC 7348), as Flannel does.
fn carry_in_tunnel(topology: &Topology) {
    let [a, b] = ["node-a", "node-b"].map(|name| topology.node(name));
    for (own, other, [number, peer]) in [(a, b, [1, 2]), (b, a, [2, 1])] {
        let [v4, v6] = other.pod_cidrs();
        let (local, remote) = (own.host().v4(), other.host().v4());
        let commands = format!(
            "link add tunnel0 mtu 1450 type vxlan id 7 dstport 4789 local {local} remote {remote}\n\
             addr add 198.18.0.{number}/24 dev tunnel0\n\
             addr add 2001:db8:18::{number}/64 dev tunnel0 nodad\n\
             link set tunnel0 up\n\
             route replace {v4} via 198.18.0.{peer}\n\
             route replace {v6} via 2001:db8:18::{peer}\n"
        );
        own.host().namespace().ip_batch(&commands).unwrap();
    }
}

#[test]
fn replies_that_come_by_a_tunnel_are_translated() {
    let Some(need) = need::netns() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    for xdp_mode in [XdpMode::Native, XdpMode::Off] {
        let options = Options { xdp_mode, socket_hooks: SocketHooks::Off, ..Options::default() };
        let cluster = Cluster::start(&podway, options).unwrap();
        carry_in_tunnel(&cluster.topology);
        for protocol in PROTOCOLS {
            for address in cluster.cluster_addresses("far", protocol) {
                let pod = cluster.topology.pod("web-a-3");
                let answered = ask(pod, protocol, address).unwrap();
                assert!(answered.by.starts_with("web-b-"), "{xdp_mode:?}, {address}: {answered:?}");
                assert_eq!(answered.peer, address, "{xdp_mode:?}");
            }
        }
    }
}
