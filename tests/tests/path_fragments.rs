//! Host tier: fragments go the way of their datagram, and never another one.
use std::net::{IpAddr, Ipv4Addr};

use lb_common::counters::Reason;
use lb_common::fragment::FRAGMENT_TIMEOUT_S;
use lb_ebpf::host::HostTables;
use lb_ebpf::path::Side;
use lb_ebpf::verdict::Verdict;
use lb_tests::host_path::{self, leave};
use lb_tests::packet::build::FragmentPlace;
use lb_tests::packet::build::tcp_flags::SYN;
use lb_tests::packet::pieces::{cut, join};
use lb_tests::packet::{PacketBuilder, five_tuple, verify_checksums};
use lb_tests::world::{self, NODE_V4, VIP_V4, VIP_V6};

const UPLINK: u32 = 7;
const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
/// Of the datagrams' payload.
const BYTES: usize = 4_000;

fn tables() -> HostTables {
    HostTables { default_route: Some(world::route(UPLINK)), ..world::tables(1_000) }
}

fn client_v6() -> IpAddr {
    "2001:db8:9::7".parse().unwrap()
}

fn enter(tables: &mut HostTables, frame: &[u8]) -> (Verdict, Vec<u8>) {
    host_path::enter(tables, frame, Side::Uplink)
}

fn datagram(client: IpAddr, port: u16) -> Vec<u8> {
    let vip = if client.is_ipv4() { VIP_V4 } else { VIP_V6 };
    let payload: Vec<u8> = (0..BYTES).map(|index| index as u8).collect();
    PacketBuilder::udp((client, port).into(), (vip, world::PORT_LOCAL).into()).payload(&payload).build()
}

#[test]
fn datagram_in_fragments_reaches_one_endpoint_whole() {
    for client in [CLIENT_V4, client_v6()] {
        let mut tables = tables();
        let forwarded: Vec<Vec<u8>> = cut(&datagram(client, 40_000), 1_448, 9)
            .iter()
            .map(|piece| {
                let (verdict, frame) = enter(&mut tables, piece);
                assert!(matches!(verdict, Verdict::ToStack(_)), "{verdict:?}");
                frame
            })
            .collect();
        let whole = join(&forwarded);
        verify_checksums(&whole).unwrap();
        assert_eq!(five_tuple(&whole).unwrap().destination.port(), 8080);
        assert_eq!(whole[whole.len() - BYTES..], datagram(client, 40_000)[whole.len() - BYTES..]);
    }
}

#[test]
fn answer_in_fragments_gets_the_vip_back_whole() {
    let mut tables = tables();
    let asked = PacketBuilder::udp((CLIENT_V4, 40_000).into(), (VIP_V4, world::PORT_LOCAL).into()).build();
    let (_, forwarded) = enter(&mut tables, &asked);
    let tuple = five_tuple(&forwarded).unwrap().reply();
    let reply = PacketBuilder::udp(tuple.source, tuple.destination).payload(&[3; BYTES]).build();
    let back: Vec<Vec<u8>> = cut(&reply, 1_448, 9)
        .iter()
        .map(|piece| {
            let (verdict, frame) = leave(&mut tables, piece);
            assert_eq!(verdict, Verdict::ToStack(Reason::ForwardReply));
            frame
        })
        .collect();
    verify_checksums(&join(&back)).unwrap();
    assert_eq!(five_tuple(&join(&back)).unwrap(), five_tuple(&asked).unwrap().reply());
}

#[test]
fn fragments_of_a_source_natted_flow_go_out_and_come_back() {
    let mut tables = tables();
    let payload = [5; BYTES];
    let vip = (VIP_V4, world::PORT_MIXED).into();
    let (asked, forwarded) = (40_000..40_100)
        .find_map(|port| {
            let asked = PacketBuilder::udp((CLIENT_V4, port).into(), vip).payload(&payload).build();
            let results: Vec<(Verdict, Vec<u8>)> =
                cut(&asked, 1_448, port).iter().map(|piece| enter(&mut tables, piece)).collect();
            let is_out = results.iter().all(|(verdict, _)| matches!(verdict, Verdict::ToLink { .. }));
            is_out.then(|| (asked, results.into_iter().map(|(_, frame)| frame).collect::<Vec<_>>()))
        })
        .unwrap();
    verify_checksums(&join(&forwarded)).unwrap();
    let tuple = five_tuple(&join(&forwarded)).unwrap().reply();
    assert_eq!(tuple.destination.ip(), NODE_V4);
    let reply = PacketBuilder::udp(tuple.source, tuple.destination).payload(&payload).build();
    let back: Vec<Vec<u8>> = cut(&reply, 1_448, 9).iter().map(|piece| enter(&mut tables, piece).1).collect();
    verify_checksums(&join(&back)).unwrap();
    assert_eq!(five_tuple(&join(&back)).unwrap(), five_tuple(&asked).unwrap().reply());
}

#[test]
fn later_fragment_of_an_unknown_datagram_to_a_vip_is_held() {
    for client in [CLIENT_V4, client_v6()] {
        let mut tables = tables();
        let pieces = cut(&datagram(client, 40_000), 1_448, 9);
        assert_eq!(enter(&mut tables, &pieces[1]), (Verdict::Hold(Reason::HoldFragment), pieces[1].clone()));
        assert_eq!(tables.held, pieces[1..2]);
    }
}

#[test]
fn held_fragment_goes_the_way_of_its_datagram_behind_the_first_one() {
    let mut tables = tables();
    let pieces = cut(&datagram(CLIENT_V4, 40_000), 1_448, 9);
    let _ = enter(&mut tables, &pieces[1]);
    let (_, first) = enter(&mut tables, &pieces[0]);
    let again = tables.held.remove(0);
    let (verdict, second) = enter(&mut tables, &again);
    assert_eq!(verdict, Verdict::ToStack(Reason::ForwardKnown));
    assert_eq!(first[26..34], second[26..34], "both addresses");
}

#[test]
fn early_fragment_to_a_vip_is_dropped_where_there_is_no_room() {
    let mut tables = HostTables { held_max: Some(0), ..tables() };
    let pieces = cut(&datagram(CLIENT_V4, 40_000), 1_448, 9);
    assert_eq!(enter(&mut tables, &pieces[1]).0, Verdict::Drop(Reason::DropFragment));
}

#[test]
fn early_fragment_that_is_too_long_to_be_held_is_dropped() {
    let mut longer = cut(&datagram(CLIENT_V4, 40_000), 1_448, 9).remove(1);
    longer.resize(2_049, 0);
    assert_eq!(enter(&mut tables(), &longer).0, Verdict::Drop(Reason::DropFragment));
    longer.truncate(2_048);
    assert_eq!(enter(&mut tables(), &longer).0, Verdict::Hold(Reason::HoldFragment));
}

/// A later fragment to the node's own address, which may be of a source-NATed flow or the node's own.
fn early_to_the_node() -> Vec<u8> {
    let reply = PacketBuilder::udp((CLIENT_V4, 53).into(), (NODE_V4, 61_000).into()).payload(&[3; BYTES]);
    cut(&reply.build(), 1_448, 9).remove(1)
}

#[test]
fn early_fragment_to_the_node_is_held() {
    let early = early_to_the_node();
    assert_eq!(enter(&mut tables(), &early).0, Verdict::Hold(Reason::HoldFragment));
}

#[test]
fn early_fragment_to_the_node_passes_where_there_is_no_room() {
    let mut tables = HostTables { held_max: Some(0), ..tables() };
    let early = early_to_the_node();
    assert_eq!(enter(&mut tables, &early), (Verdict::Pass(Reason::PassFragment), early));
}

/// A datagram of 4,000 bytes that an endpoint answers to a client, in fragments.
fn answer(tables: &mut HostTables) -> Vec<Vec<u8>> {
    let asked = PacketBuilder::udp((CLIENT_V4, 40_000).into(), (VIP_V4, world::PORT_LOCAL).into()).build();
    let tuple = five_tuple(&enter(tables, &asked).1).unwrap().reply();
    cut(&PacketBuilder::udp(tuple.source, tuple.destination).payload(&[3; BYTES]).build(), 1_448, 9)
}

#[test]
fn early_fragment_of_an_answer_is_held_and_gets_the_vip_behind_the_first_one() {
    let mut tables = tables();
    let pieces = answer(&mut tables);
    assert_eq!(leave(&mut tables, &pieces[1]), (Verdict::Hold(Reason::HoldFragment), pieces[1].clone()));
    let (_, first) = leave(&mut tables, &pieces[0]);
    let again = tables.held.remove(0);
    let (verdict, second) = leave(&mut tables, &again);
    assert_eq!(verdict, Verdict::ToStack(Reason::ForwardReply));
    assert_eq!(first[26..34], second[26..34], "both addresses");
}

#[test]
fn early_fragment_that_leaves_passes_where_there_is_no_room() {
    let mut tables = HostTables { held_max: Some(0), ..tables() };
    let early = answer(&mut tables).remove(1);
    assert_eq!(leave(&mut tables, &early), (Verdict::Pass(Reason::PassFragment), early));
}

#[test]
fn early_fragment_of_somebody_outside_passes_on_its_way_out() {
    let mut tables = tables();
    let outside = PacketBuilder::udp((CLIENT_V4, 53).into(), (IpAddr::from([192, 0, 2, 77]), 40_000).into());
    let early = cut(&outside.payload(&[3; BYTES]).build(), 1_448, 9).remove(1);
    assert_eq!(leave(&mut tables, &early), (Verdict::Pass(Reason::PassFragment), early));
}

#[test]
fn ports_of_a_datagram_are_forgotten_after_their_timeout() {
    let mut tables = tables();
    let pieces = cut(&datagram(CLIENT_V4, 40_000), 1_448, 9);
    let _ = enter(&mut tables, &pieces[0]);
    tables.now_s += FRAGMENT_TIMEOUT_S;
    assert_eq!(enter(&mut tables, &pieces[1]).0, Verdict::ToStack(Reason::ForwardKnown));
    tables.now_s += 1;
    assert_eq!(enter(&mut tables, &pieces[1]).0, Verdict::Hold(Reason::HoldFragment));
}

#[test]
fn fragment_of_another_datagram_of_the_same_client_is_not_taken_for_it() {
    let mut tables = tables();
    let _ = enter(&mut tables, &cut(&datagram(CLIENT_V4, 40_000), 1_448, 9)[0]);
    let other = cut(&datagram(CLIENT_V4, 40_001), 1_448, 10);
    assert_eq!(enter(&mut tables, &other[1]).0, Verdict::Hold(Reason::HoldFragment));
}

#[test]
fn later_fragment_never_begins_a_flow() {
    let mut tables = tables();
    let pieces = cut(&datagram(CLIENT_V4, 40_000), 1_448, 9);
    let _ = enter(&mut tables, &pieces[0]);
    tables.flows.clear();
    assert_eq!(enter(&mut tables, &pieces[1]), (Verdict::Pass(Reason::PassFragment), pieces[1].clone()));
    assert!(tables.flows.is_empty());
}

#[test]
fn first_fragment_to_an_unused_port_is_refused_and_the_others_dropped() {
    let mut tables = tables();
    let asked = PacketBuilder::udp((CLIENT_V4, 40_000).into(), (VIP_V4, 999).into()).payload(&[1; BYTES]);
    let pieces = cut(&asked.build(), 1_448, 9);
    assert_eq!(enter(&mut tables, &pieces[0]).0, Verdict::Answer(Reason::RefuseUnusedPort));
    assert_eq!(enter(&mut tables, &pieces[1]).0, Verdict::Drop(Reason::DropFragment));
}

#[test]
fn tcp_fragment_over_the_flags_is_dropped() {
    let mut tables = tables();
    let syn = || PacketBuilder::tcp((CLIENT_V4, 40_000).into(), (VIP_V4, world::PORT_LOCAL).into(), SYN);
    let _ = enter(&mut tables, &syn().identification(9).fragment(0, FragmentPlace::NotLast).build());
    let over = syn().identification(9).fragment(1, FragmentPlace::Last).build();
    assert_eq!(enter(&mut tables, &over).0, Verdict::Drop(Reason::DropFragment));
}

#[test]
fn fragments_to_others_pass_untouched_and_leave_no_entry() {
    let mut tables = tables();
    let stranger: IpAddr = "192.0.2.77".parse().unwrap();
    let datagram =
        PacketBuilder::udp((CLIENT_V4, 40_000).into(), (stranger, 53).into()).payload(&[1; BYTES]).build();
    for piece in cut(&datagram, 1_448, 9) {
        let (verdict, frame) = enter(&mut tables, &piece);
        assert!(matches!(verdict, Verdict::Pass(_)));
        assert_eq!(frame, piece);
    }
    assert!(tables.fragments.is_empty());
}
