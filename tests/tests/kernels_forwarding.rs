//! Ways of the bench `forwarding` under the kernel's own packet generator: what it sends, arrives. How fast means
//! nothing in an emulated kernel.
use lb_tests::bench::ways::{By, Forwarder, Hook, Place, Way};
use lb_tests::need;
use lb_tests::pktgen::Mode;

const PACKETS: u32 = 2_000;
/// Packets at a time, fewer than the 256 that may wait at an interface of `veth` with XDP: while its soft interrupt is left
/// to a thread of its own, the generator goes on, and what the ring has no room for is lost.
const PACKETS_AT_ONCE: u32 = 200;
/// Ports of the client.
const FLOWS: u16 = 100;

fn assert_all_arrive(mode: Mode, way: Way) {
    let Some(_need) = need::kernels() else { return };
    let forwarder = Forwarder::start(way).unwrap();
    for _ in 0..PACKETS / PACKETS_AT_ONCE {
        let transit = &forwarder.transit;
        let sent = transit.send_by_pktgen(mode, way.destination(), 0, FLOWS, PACKETS_AT_ONCE).unwrap();
        assert_eq!((sent.sent, sent.arrived), (200, 200), "counted:{}", forwarder.counts().unwrap());
        assert!(sent.cpu_ns > 0);
    }
}

const fn podway(hook: Hook, place: Place) -> By {
    By::Podway { hook, place, services: 1 }
}

#[test]
fn the_kernel_routes_what_comes_in_by_its_uplink() {
    assert_all_arrive(Mode::NetifReceive, By::Routing.v4());
}

#[test]
fn the_kernel_routes_what_a_client_sends_over_ipv6() {
    assert_all_arrive(Mode::Xmit, By::Routing.v6());
}

#[test]
fn native_xdp_forwards_what_a_client_sends() {
    assert_all_arrive(Mode::Xmit, podway(Hook::Native, Place::Elsewhere).v4());
}

#[test]
fn tc_forwards_what_comes_in_by_its_uplink_over_ipv6() {
    assert_all_arrive(Mode::NetifReceive, podway(Hook::Tc, Place::Elsewhere).v6());
}

#[test]
fn tc_encapsulates_what_a_client_sends() {
    assert_all_arrive(Mode::Xmit, podway(Hook::Tc, Place::ElsewhereDirect).v4());
}
