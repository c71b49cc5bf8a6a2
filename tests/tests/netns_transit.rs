//! The node between two cables that benches send through.
use std::net::SocketAddr;

use lb_tests::bench::services::{ENDPOINT_PORT, REMOTE_UDP, endpoint_address};
use lb_tests::bench::transit::Transit;
use lb_tests::bench::ways::{By, Forwarder, Hook, Place};
use lb_tests::need;
use lb_tests::packet::{five_tuple, verify_checksums};

/// Flows of three client addresses, each a frame: as many as there are numbers of flows.
const FRAMES: u32 = 40_000;

fn assert_all_arrive(to: SocketAddr) {
    let Some(_need) = need::netns() else { return };
    let transit = Transit::new().unwrap();
    let generator = transit.generator(to, FRAMES, 0).unwrap();
    let sent = transit.send(&generator, FRAMES).unwrap();
    assert_eq!((sent.arrived, transit.came_back().unwrap()), (40_000, 0));
}

#[test]
fn a_frame_of_every_flow_passes_a_node_that_routes() {
    // The kernel forwards no frame whose IPv4 checksum is wrong.
    assert_all_arrive((endpoint_address(REMOTE_UDP, 0, true), ENDPOINT_PORT).into());
}

#[test]
fn a_frame_of_every_flow_over_ipv6_passes_a_node_that_routes() {
    assert_all_arrive((endpoint_address(REMOTE_UDP, 0, false), ENDPOINT_PORT).into());
}

/// What the generator makes of the flow with a number.
fn assert_whole(to: SocketAddr, flow: u32, client: SocketAddr) {
    let Some(_need) = need::netns() else { return };
    let generator = Transit::new().unwrap().generator(to, u32::MAX, flow).unwrap();
    let frame = generator.frame().unwrap();
    verify_checksums(&frame).unwrap();
    let tuple = five_tuple(&frame).unwrap();
    assert_eq!((tuple.source, tuple.destination), (client, to));
}

#[test]
fn a_made_frame_is_whole() {
    // Flow 32,773 is the sixth of the third address.
    assert_whole("198.51.100.10:86".parse().unwrap(), 32_773, "10.128.0.2:1029".parse().unwrap());
}

#[test]
fn a_made_frame_over_ipv6_is_whole() {
    let client = "[2001:db8:128::2]:1029".parse().unwrap();
    assert_whole("[2001:db8:51::10]:86".parse().unwrap(), 32_773, client);
}

#[test]
fn packets_to_a_local_pod_are_handed_to_its_interface() {
    let Some(_need) = need::netns() else { return };
    let by = By::Podway { hook: Hook::Tc, place: Place::HereHandedOver, services: 1 };
    let forwarder = Forwarder::start(by.v4()).unwrap();
    // The stack forwards none of them.
    let rules = "add table ip f; add chain ip f f { type filter hook forward priority 0; policy drop; }";
    assert!(forwarder.transit.node().host().command("nft").arg(rules).status().unwrap().success());
    let generator = forwarder.transit.generator(by.v4().destination(), 100, 0).unwrap();
    let sent = forwarder.transit.send(&generator, 2_000).unwrap();
    assert_eq!(sent.arrived, 2_000, "counted:{}", forwarder.counts().unwrap());
}
