//! Kernel tier: next hops that the programs keep, while the node's neighbours change.
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use lb_common::maps;
use lb_tests::bench::cpu;
use lb_tests::kernel::{Kernel, Run};
use lb_tests::need;
use lb_tests::packet::PacketBuilder;
use lb_tests::uplink::{now_s, with_both};
use lb_tests::wait::wait_until;
use lb_tests::world::{self, NEXT_HOP_MAC, VIP_V4, VIP_V6};

const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATEWAYS: [&str; 2] = ["192.0.2.1", "2001:db8:0:1::1"];

/// A way through the uplink's programs of a flow whose endpoint is on another node.
struct Way<'a> {
    kernel: &'a mut Kernel,
    uplink: u32,
    program: &'static str,
    client: SocketAddr,
    frontend: SocketAddr,
    gateway: &'static str,
}

impl Way<'_> {
    /// Hands the program a packet of the flow.
    fn send(&self, payload: &[u8]) -> Run {
        let frame = PacketBuilder::udp(self.client, self.frontend).payload(payload).build();
        match self.program {
            "xdp_uplink" => self.kernel.run_xdp(&frame, self.uplink),
            name => self.kernel.run_tc(name, &frame, self.uplink, self.uplink),
        }
        .unwrap()
    }

    /// The Ethernet address to which the program sends the flow's packet.
    fn next_hop(&self) -> [u8; 6] {
        *self.send(b"ask").frame.first_chunk().unwrap()
    }

    fn move_gateway_to(&self, address: [u8; 6]) {
        let address = address.map(|byte| format!("{byte:02x}")).join(":");
        ip(&["neigh", "replace", self.gateway, "lladdr", &address, "dev", "eth0", "nud", "permanent"]);
    }

    fn raise_generation(&mut self, number: u32) {
        self.kernel.put_array::<4>(maps::ROUTE_GENERATION, 0, &number).unwrap();
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "{arguments:?}");
}

/// Runs `work` for each program of an uplink and each family.
fn for_each_way(work: impl Fn(Way<'_>) + Send + Sync) {
    let clients: [SocketAddr; 2] = ["203.0.113.7:40000", "[2001:db8:9::7]:40000"].map(|c| c.parse().unwrap());
    for program in ["xdp_uplink", "tc_uplink_in"] {
        for ((client, vip), gateway) in clients.into_iter().zip([VIP_V4, VIP_V6]).zip(GATEWAYS) {
            with_both(|kernel, _, uplink| {
                // Each processor keeps its own.
                cpu::pin().unwrap();
                let frontend = SocketAddr::new(vip, world::PORT_MIXED);
                let mut way = Way { kernel, uplink, program, client, frontend, gateway };
                let is_sent = (40_000..40_100).any(|port| {
                    way.client.set_port(port);
                    way.next_hop() == NEXT_HOP_MAC
                });
                assert!(is_sent, "{program}, {vip}: no flow got an endpoint of another node");
                work(way);
            });
        }
    }
}

#[test]
fn next_hop_is_asked_for_once_a_second() {
    let Some(_) = need::kernel() else { return };
    for_each_way(|way| {
        let former_within_a_second = || {
            way.move_gateway_to(NEXT_HOP_MAC);
            // The kernel's answer of a second before is no longer used.
            let second = now_s() + 1;
            wait_until(Duration::from_secs(5), "the next second", || now_s() >= second).unwrap();
            assert_eq!(way.next_hop(), NEXT_HOP_MAC);
            way.move_gateway_to(OTHER_MAC);
            let next_hop = way.next_hop();
            (now_s() == second).then_some(next_hop)
        };
        let next_hop = (0..20).find_map(|_| former_within_a_second());
        assert_eq!(next_hop, Some(NEXT_HOP_MAC), "{}, {}", way.program, way.gateway);
        let is_new = || way.next_hop() == OTHER_MAC;
        wait_until(Duration::from_secs(5), "the new next hop", is_new).unwrap();
    });
}

#[test]
fn next_hop_is_asked_for_at_once_in_a_new_generation() {
    let Some(_) = need::kernel() else { return };
    for_each_way(|mut way| {
        for (generation, address) in (1..).zip([OTHER_MAC, NEXT_HOP_MAC, OTHER_MAC]) {
            way.move_gateway_to(address);
            way.raise_generation(generation);
            assert_eq!(way.next_hop(), address, "{}, {}", way.program, way.gateway);
        }
    });
}

#[test]
fn kept_next_hop_takes_no_packet_that_is_too_big_for_it() {
    let Some(_) = need::kernel() else { return };
    for_each_way(|mut way| {
        ip(&["route", "replace", "default", "via", way.gateway, "mtu", "lock", "1300"]);
        way.raise_generation(1);
        assert_eq!(way.next_hop(), NEXT_HOP_MAC);
        let sent = way.send(&[0; 1_400]).frame;
        assert!(sent.len() < 1_400, "{}, {}: not refused", way.program, way.gateway);
    });
}
