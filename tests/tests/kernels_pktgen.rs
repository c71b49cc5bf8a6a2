//! The kernel's own packet generator, where its module is: packets of several flows to a VIP, put where a card
//! would put them, all reach a pod.
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::agent::{Options, Podway, XdpMode};
use lb_tests::cluster::{Cluster, service};
use lb_tests::need;
use lb_tests::pktgen::{self, Load, Mode};
use lb_tests::topology::{Host, Topology};
use lb_tests::wait::wait_until;
use lb_userspace::model::Protocol;

const PACKETS: u64 = 2_000;
/// Packets at a time, of which each flow has some; fewer than may wait at any interface.
const PACKETS_AT_ONCE: u64 = 200;
const FLOWS: u16 = 50;
const DEADLINE: Duration = Duration::from_secs(120);

/// The Ethernet address of a host's `eth0`.
fn ethernet_address(host: &Host) -> String {
    let output = host.command("ip").args(["-j", "link", "show", "dev", "eth0"]).output().unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

/// Packets that a pod's interface has received.
fn received(pod: &Host) -> u64 {
    let text = pod.run_in_netns(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap().unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn packets_at_the_uplink_are_forwarded_by_tc() {
    let Some(need) = need::kernels() else { return };
    let podway = Podway { binary: need.podway, ebpf_object: Some(need.ebpf_object) };
    let topology = Topology::two_nodes(1).unwrap();
    let near = service("near", 81).backed_by(topology.node("node-a"), topology.pod("web-a-1"));
    let options = Options { xdp_mode: XdpMode::Off, ..Options::default() };
    let cluster = Cluster::with_agents(1, topology, vec![near], &podway, options).unwrap();
    let (topology, agent) = (&cluster.topology, &cluster.agents[0]);
    let (node, pod) = (topology.node("node-a").host(), topology.pod("web-a-1"));
    let next_hop = ethernet_address(node);
    for to in cluster.load_balancer_addresses("near", Protocol::Udp) {
        let counts = || ["new-flow", "known-flow"].map(|reason| agent.count(reason).unwrap());
        let (before, received_before) = (counts(), received(pod));
        let client: IpAddr = topology.client().address_for(to.ip());
        let load = Load {
            mode: Mode::NetifReceive,
            cpu: 0,
            interface: "eth0",
            packets: PACKETS_AT_ONCE,
            frame_bytes: 100,
            from: SocketAddr::new(client, 20_000),
            flows: FLOWS,
            to,
            next_hop: &next_hop,
        };
        for part in 1..=PACKETS / PACKETS_AT_ONCE {
            let sent = pktgen::send(node.namespace(), &load).unwrap();
            assert_eq!((sent.packets, sent.errors), (PACKETS_AT_ONCE, 0), "{to}");
            let arrived = received_before + part * PACKETS_AT_ONCE;
            wait_until(DEADLINE, "every packet has arrived", || received(pod) >= arrived).unwrap();
        }
        let flows = u64::from(FLOWS);
        let expected = [before[0] + flows, before[1] + PACKETS - flows];
        wait_until(DEADLINE, "every packet is forwarded", || counts() == expected)
            .unwrap_or_else(|error| panic!("{to}: {error}: {:?} of {expected:?}", counts()));
    }
}
