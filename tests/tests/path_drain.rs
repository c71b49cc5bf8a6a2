//! Host tier: what becomes of flows whose endpoint no slice names any more, or whose drain is over.
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::Address;
use lb_common::conntrack::{FlowState, TCP_TRANSIENT_TIMEOUT_S};
use lb_common::counters::Reason;
use lb_common::endpoint::state;
use lb_ebpf::host::HostTables;
use lb_ebpf::path::Side;
use lb_ebpf::verdict::Verdict;
use lb_tests::host_path::enter;
use lb_tests::packet::build::tcp_flags::{ACK, FIN, RST, SYN};
use lb_tests::packet::{PacketBuilder, five_tuple, verify_checksums};
use lb_tests::world::{self, VIP_V4, VIP_V6};

const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 7));
const FAMILIES: [(IpAddr, IpAddr); 2] = [(CLIENT_V4, VIP_V4), (CLIENT_V6, VIP_V6)];
const WITHDRAWN: u32 = state::PRESENT | state::HEALTHY | state::WITHDRAWN;

fn tables() -> HostTables {
    HostTables { default_route: Some(world::route(7)), ..world::tables(1_000) }
}

fn tcp((client, vip): (IpAddr, IpAddr), port: u16, flags: u8) -> PacketBuilder {
    PacketBuilder::tcp((client, 40_000).into(), (vip, port).into(), flags)
}

fn destination(tables: &mut HostTables, frame: &[u8]) -> SocketAddr {
    let (verdict, forwarded) = enter(tables, frame, Side::Uplink);
    assert!(matches!(verdict, Verdict::ToStack(_) | Verdict::ToLink { .. }), "{verdict:?}");
    five_tuple(&forwarded).unwrap().destination
}

fn change(tables: &mut HostTables, address: IpAddr, with: impl Fn(&mut lb_common::endpoint::Endpoint)) {
    let wanted = Address::from(address);
    with(tables.endpoints.values_mut().find(|endpoint| endpoint.address == wanted).unwrap());
}

fn give_up(tables: &mut HostTables, address: IpAddr) {
    change(tables, address, |endpoint| {
        endpoint.state = 0;
        endpoint.generation += 1;
    });
}

/// A connection to an endpoint that is then given up.
fn cut_off(ends: (IpAddr, IpAddr), port: u16) -> HostTables {
    let mut tables = tables();
    let first = destination(&mut tables, &tcp(ends, port, SYN).build());
    give_up(&mut tables, first.ip());
    tables
}

/// Sequence number, acknowledgement number and flags.
fn numbers(frame: &[u8]) -> (u32, u32, u8) {
    let tcp = if frame[12..14] == [0x08, 0x00] { 34 } else { 54 };
    let word = |at: usize| u32::from_be_bytes(frame[tcp + at..tcp + at + 4].try_into().unwrap());
    (word(4), word(8), frame[tcp + 13])
}

#[test]
fn tcp_flow_stays_with_an_endpoint_that_is_withdrawn() {
    for ends in FAMILIES {
        let mut tables = tables();
        let first = destination(&mut tables, &tcp(ends, world::PORT_LOCAL, SYN).build());
        change(&mut tables, first.ip(), |endpoint| endpoint.state = WITHDRAWN);
        assert_eq!(destination(&mut tables, &tcp(ends, world::PORT_LOCAL, ACK).build()), first);
    }
}

#[test]
fn withdrawn_endpoint_gets_no_new_flow() {
    let mut tables = tables();
    let first = destination(&mut tables, &tcp(FAMILIES[0], world::PORT_LOCAL, SYN).build());
    change(&mut tables, first.ip(), |endpoint| endpoint.state = WITHDRAWN);
    for port in 41_000..41_200 {
        let syn = PacketBuilder::tcp((CLIENT_V4, port).into(), (VIP_V4, world::PORT_LOCAL).into(), SYN);
        assert_ne!(destination(&mut tables, &syn.build()), first);
    }
}

#[test]
fn withdrawn_endpoint_is_not_what_a_panic_falls_back_to() {
    let mut tables = tables();
    for endpoint in tables.endpoints.values_mut() {
        endpoint.state = WITHDRAWN;
    }
    let (verdict, _) = enter(&mut tables, &tcp(FAMILIES[0], world::PORT_LOCAL, SYN).build(), Side::Uplink);
    assert_eq!(verdict, Verdict::Answer(Reason::RefuseNoEndpoint));
}

#[test]
fn tcp_packet_of_a_gone_endpoint_is_answered_by_a_reset() {
    for (ends, side) in FAMILIES.into_iter().flat_map(|ends| [(ends, Side::Uplink), (ends, Side::Pod)]) {
        let mut tables = cut_off(ends, world::PORT_LOCAL);
        let asked = tcp(ends, world::PORT_LOCAL, ACK).payload(b"GET / HTTP/1.1").build();
        let (verdict, answer) = enter(&mut tables, &asked, side);
        assert_eq!(verdict, Verdict::Answer(Reason::RefuseEndpointGone));
        verify_checksums(&answer).unwrap();
        let tuple = five_tuple(&answer).unwrap();
        assert_eq!((tuple.source, tuple.destination), {
            ((ends.1, world::PORT_LOCAL).into(), (ends.0, 40_000).into())
        });
        assert_eq!((&answer[0..6], &answer[6..12]), (&asked[6..12], &asked[0..6]));
        let (_, acknowledged, _) = numbers(&asked);
        assert_eq!(numbers(&answer), (acknowledged, 0, RST), "<SEQ=SEG.ACK><CTL=RST>");
    }
}

#[test]
fn connection_to_a_service_without_endpoints_is_reset() {
    for ends in FAMILIES {
        let asked = tcp(ends, world::PORT_EMPTY, SYN).build();
        let (verdict, answer) = enter(&mut tables(), &asked, Side::Uplink);
        assert_eq!(verdict, Verdict::Answer(Reason::RefuseNoEndpoint));
        verify_checksums(&answer).unwrap();
        let tuple = five_tuple(&answer).unwrap();
        assert_eq!((tuple.source, tuple.destination), {
            ((ends.1, world::PORT_EMPTY).into(), (ends.0, 40_000).into())
        });
        let (sequence, _, _) = numbers(&asked);
        let acknowledged = sequence.wrapping_add(1);
        assert_eq!(numbers(&answer), (0, acknowledged, RST | ACK), "<SEQ=0><ACK=SEG.SEQ+1><CTL=RST,ACK>");
    }
}

#[test]
fn reset_to_a_service_without_endpoints_is_answered_by_none() {
    let asked = tcp(FAMILIES[0], world::PORT_EMPTY, RST).build();
    let (verdict, answer) = enter(&mut tables(), &asked, Side::Uplink);
    assert_eq!(verdict, Verdict::Answer(Reason::RefuseNoEndpoint));
    assert_eq!(answer[34..36], [3, 3], "ICMP port unreachable");
}

#[test]
fn reset_of_a_source_nated_flow_goes_back_to_the_client_itself() {
    let mut tables = tables();
    let remote: Vec<u32> =
        tables.endpoints.iter().filter(|(_, endpoint)| !endpoint.is_local()).map(|(id, _)| *id).collect();
    let is_remote = |tables: &HostTables, address: IpAddr| {
        remote.iter().any(|id| tables.endpoints[id].address == Address::from(address))
    };
    let port = (40_000..40_100u16)
        .find(|port| {
            let syn = PacketBuilder::tcp((CLIENT_V4, *port).into(), (VIP_V4, world::PORT_MIXED).into(), SYN);
            let endpoint = destination(&mut tables, &syn.build()).ip();
            is_remote(&tables, endpoint).then(|| give_up(&mut tables, endpoint)).is_some()
        })
        .unwrap();
    let ack = PacketBuilder::tcp((CLIENT_V4, port).into(), (VIP_V4, world::PORT_MIXED).into(), ACK).build();
    let (verdict, answer) = enter(&mut tables, &ack, Side::Uplink);
    assert_eq!(verdict, Verdict::Answer(Reason::RefuseEndpointGone));
    assert_eq!(five_tuple(&answer).unwrap().destination, (CLIENT_V4, port).into());
}

#[test]
fn segment_without_acknowledgement_is_acknowledged_with_its_length() {
    for ends in FAMILIES {
        let mut tables = cut_off(ends, world::PORT_LOCAL);
        let asked = tcp(ends, world::PORT_LOCAL, FIN).tcp_options(&[1; 4]).payload(b"12345").build();
        let (sequence, _, _) = numbers(&asked);
        let (_, answer) = enter(&mut tables, &asked, Side::Uplink);
        verify_checksums(&answer).unwrap();
        let next = sequence.wrapping_add(5 + 1);
        assert_eq!(numbers(&answer), (0, next, RST | ACK), "<SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>");
    }
}

#[test]
fn reset_keeps_what_stands_before_the_tcp_header() {
    let mut tables = cut_off(FAMILIES[0], world::PORT_LOCAL);
    let asked = tcp(FAMILIES[0], world::PORT_LOCAL, ACK)
        .vlan(0x8100, 42)
        .ipv4_options(&[1, 1, 1, 1])
        .link_padding(6)
        .payload(b"x")
        .build();
    let (_, answer) = enter(&mut tables, &asked, Side::Uplink);
    verify_checksums(&answer).unwrap();
    assert_eq!(answer[12..18], [0x81, 0x00, 0, 42, 0x08, 0x00]);
    assert_eq!(answer.len(), 18 + 24 + 20);
}

#[test]
fn reset_is_not_answered_but_led_to_where_the_connection_was() {
    let mut tables = tables();
    let first = destination(&mut tables, &tcp(FAMILIES[0], world::PORT_LOCAL, SYN).build());
    give_up(&mut tables, first.ip());
    assert_eq!(destination(&mut tables, &tcp(FAMILIES[0], world::PORT_LOCAL, RST).build()), first);
}

#[test]
fn both_entries_of_a_reset_flow_are_over_soon() {
    let mut tables = cut_off(FAMILIES[0], world::PORT_LOCAL);
    let _ = enter(&mut tables, &tcp(FAMILIES[0], world::PORT_LOCAL, ACK).build(), Side::Uplink);
    assert_eq!(tables.flows.len(), 2);
    for (key, flow) in &tables.flows {
        assert_eq!(flow.state(), FlowState::Reset);
        assert_eq!(flow.idle_timeout_s(key.protocol), TCP_TRANSIENT_TIMEOUT_S);
    }
}

#[test]
fn opening_anew_after_a_reset_gets_another_endpoint() {
    let mut tables = tables();
    let first = destination(&mut tables, &tcp(FAMILIES[0], world::PORT_LOCAL, SYN).build());
    give_up(&mut tables, first.ip());
    let _ = enter(&mut tables, &tcp(FAMILIES[0], world::PORT_LOCAL, ACK).build(), Side::Uplink);
    assert_ne!(destination(&mut tables, &tcp(FAMILIES[0], world::PORT_LOCAL, SYN).build()), first);
}

#[test]
fn client_with_affinity_leaves_an_endpoint_that_is_withdrawn_or_unhealthy() {
    for (ends, state) in FAMILIES.into_iter().flat_map(|ends| [(ends, WITHDRAWN), (ends, state::PRESENT)]) {
        for side in [Side::Uplink, Side::Pod] {
            let mut tables = tables();
            let syn = |port: u16| {
                PacketBuilder::tcp((ends.0, port).into(), (ends.1, world::PORT_AFFINITY).into(), SYN).build()
            };
            let to = |tables: &mut HostTables, port| {
                let (_, forwarded) = enter(tables, &syn(port), side);
                five_tuple(&forwarded).unwrap().destination
            };
            let first = to(&mut tables, 50_000);
            change(&mut tables, first.ip(), |endpoint| endpoint.state = state);
            let later: BTreeSet<SocketAddr> = (50_001..50_020).map(|port| to(&mut tables, port)).collect();
            assert_eq!(later.len(), 1, "one new endpoint, kept");
            assert!(!later.contains(&first));
        }
    }
}
