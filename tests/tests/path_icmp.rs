//! Host tier: ICMP errors about packets that were translated. Who gets one must find its own packet quoted,
//! byte for byte.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::counters::Reason;
use lb_ebpf::host::HostTables;
use lb_ebpf::path::Side;
use lb_ebpf::verdict::Verdict;
use lb_tests::host_path::{self, leave};
use lb_tests::packet::build::chunk::INIT;
use lb_tests::packet::build::tcp_flags::{ACK, SYN};
use lb_tests::packet::{PacketBuilder, five_tuple, verify_checksums};
use lb_tests::world::{self, NODE_V4, VIP_V4, VIP_V6};

const UPLINK: u32 = 7;
const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
const ROUTER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));

fn tables() -> HostTables {
    HostTables { default_route: Some(world::route(UPLINK)), ..world::tables(1_000) }
}

fn client_v6() -> IpAddr {
    "2001:db8:9::7".parse().unwrap()
}

fn enter(tables: &mut HostTables, frame: &[u8]) -> (Verdict, Vec<u8>) {
    host_path::enter(tables, frame, Side::Uplink)
}

/// Offset of the message behind an ICMP header.
fn quote_offset(frame: &[u8]) -> usize {
    if frame[12..14] == [8, 0] { 14 + 20 + 8 } else { 14 + 40 + 8 }
}

/// A "fragmentation needed" or "packet too big" about `frame`, of which `bytes` are quoted.
fn too_big(from: IpAddr, frame: &[u8], bytes: usize) -> Vec<u8> {
    let to = five_tuple(frame).unwrap().source.ip();
    let (type_code, rest) = match from {
        IpAddr::V4(_) => ([3, 4], [0, 0, 0x05, 0x14]),
        IpAddr::V6(_) => ([2, 0], [0, 0, 0x05, 0x14]),
    };
    let quoted = &frame[14..frame.len().min(14 + bytes)];
    PacketBuilder::icmp(from, to, type_code, rest).payload(quoted).build()
}

/// Packets of clients to the frontends with local endpoints only.
fn questions() -> Vec<Vec<u8>> {
    let port = world::PORT_LOCAL;
    let (v4, v6) = (SocketAddr::new(VIP_V4, port), SocketAddr::new(VIP_V6, port));
    let (client4, client6) = (SocketAddr::new(CLIENT_V4, 40_000), SocketAddr::new(client_v6(), 40_000));
    vec![
        PacketBuilder::tcp(client4, v4, SYN).tcp_options(&[1; 12]).build(),
        PacketBuilder::tcp(client6, v6, SYN).payload(b"early data").build(),
        PacketBuilder::udp(client4, v4).payload(b"question").build(),
        PacketBuilder::udp(client4, v4).without_udp_checksum().payload(b"question").build(),
        PacketBuilder::udp(client6, v6).payload(b"question").build(),
        PacketBuilder::udp(client4, v4).ipv4_options(&[1; 8]).payload(b"question").build(),
    ]
}

#[test]
fn error_of_an_endpoint_quotes_the_clients_own_packet() {
    for asked in questions() {
        for bytes in [28 + 20, 1_000] {
            let mut tables = tables();
            let (_, forwarded) = enter(&mut tables, &asked);
            let endpoint = five_tuple(&forwarded).unwrap().destination.ip();
            let bytes = if endpoint.is_ipv6() { bytes + 20 } else { bytes };
            let (verdict, error) = leave(&mut tables, &too_big(endpoint, &forwarded, bytes));
            assert_eq!(verdict, Verdict::ToStack(Reason::ForwardIcmpError));
            let tuple = five_tuple(&asked).unwrap();
            let expected = too_big(tuple.destination.ip(), &asked, bytes);
            assert_eq!(error[12..], expected[12..]);
        }
    }
}

#[test]
fn error_about_a_reply_quotes_the_endpoints_own_packet() {
    for asked in questions() {
        let mut tables = tables();
        let (_, forwarded) = enter(&mut tables, &asked);
        let tuple = five_tuple(&forwarded).unwrap().reply();
        let reply = match tuple.protocol {
            6 => PacketBuilder::tcp(tuple.source, tuple.destination, ACK).payload(&[7; 40]).build(),
            _ => PacketBuilder::udp(tuple.source, tuple.destination).payload(&[7; 40]).build(),
        };
        let (_, back) = leave(&mut tables, &reply);
        let client = tuple.destination.ip();
        let (verdict, error) = enter(&mut tables, &too_big(client, &back, 1_000));
        assert_eq!(verdict, Verdict::ToStack(Reason::ForwardIcmpError));
        assert_eq!(error[12..], too_big(client, &reply, 1_000)[12..]);
    }
}

#[test]
fn quote_of_sctp_is_translated_but_for_its_checksum() {
    let mut tables = tables();
    let asked =
        PacketBuilder::sctp((CLIENT_V4, 40_000).into(), (VIP_V4, world::PORT_LOCAL).into(), INIT).build();
    let (_, forwarded) = enter(&mut tables, &asked);
    let endpoint = five_tuple(&forwarded).unwrap().destination.ip();
    let (verdict, error) = leave(&mut tables, &too_big(endpoint, &forwarded, 28));
    assert_eq!(verdict, Verdict::ToStack(Reason::ForwardIcmpError));
    assert_eq!(error[12..], too_big(VIP_V4, &asked, 28)[12..]);
}

#[test]
fn router_keeps_its_address_in_its_error() {
    let mut tables = tables();
    let asked = PacketBuilder::udp((CLIENT_V4, 40_000).into(), (VIP_V4, world::PORT_LOCAL).into()).build();
    let (_, forwarded) = enter(&mut tables, &asked);
    let (_, error) = leave(&mut tables, &too_big(ROUTER_V4, &forwarded, 28));
    assert_eq!(error[12..], too_big(ROUTER_V4, &asked, 28)[12..]);
}

/// A flow to a remote endpoint, which gets this node's address.
fn source_nat(tables: &mut HostTables) -> (Vec<u8>, Vec<u8>) {
    (40_000..40_100)
        .find_map(|port| {
            let source = (CLIENT_V4, port).into();
            let asked = PacketBuilder::tcp(source, (VIP_V4, world::PORT_MIXED).into(), SYN).build();
            let (verdict, forwarded) = enter(tables, &asked);
            matches!(verdict, Verdict::ToLink { .. }).then_some((asked, forwarded))
        })
        .unwrap()
}

#[test]
fn error_about_a_source_natted_packet_goes_straight_to_the_client() {
    let mut tables = tables();
    let (asked, mut forwarded) = source_nat(&mut tables);
    // The hop that this node took off.
    forwarded[22] += 1;
    let checksum = u16::from_be_bytes([forwarded[24], forwarded[25]]) - 0x100;
    forwarded[24..26].copy_from_slice(&checksum.to_be_bytes());
    let (verdict, error) = enter(&mut tables, &too_big(ROUTER_V4, &forwarded, 1_000));
    assert_eq!(verdict, Verdict::ToLink { reason: Reason::ForwardIcmpError, interface: UPLINK });
    verify_checksums(&error).unwrap();
    assert_eq!(error[quote_offset(&error)..], asked[14..]);
    assert_eq!(error[30..34], [203, 0, 113, 7]);
    assert_eq!(error[0..6], world::NEXT_HOP_MAC);
}

#[test]
fn error_of_a_router_about_a_source_natted_reply_comes_from_this_node() {
    let mut tables = tables();
    let (_, forwarded) = source_nat(&mut tables);
    let tuple = five_tuple(&forwarded).unwrap().reply();
    let reply = PacketBuilder::tcp(tuple.source, tuple.destination, SYN | ACK).build();
    let (_, back) = enter(&mut tables, &reply);
    let (verdict, error) = enter(&mut tables, &too_big("203.0.113.1".parse().unwrap(), &back, 28));
    assert_eq!(verdict, Verdict::ToLink { reason: Reason::ForwardIcmpError, interface: UPLINK });
    verify_checksums(&error).unwrap();
    let IpAddr::V4(node) = NODE_V4 else { panic!() };
    assert_eq!(error[26..30], node.octets());
    assert_eq!(
        SocketAddr::new(tuple.source.ip(), 0).to_string(),
        format!("{}.{}.{}.{}:0", error[30], error[31], error[32], error[33])
    );
    let quoted = &error[quote_offset(&error)..];
    assert_eq!(quoted[12..24], reply[26..38], "addresses and ports of the endpoint's packet");
}

#[test]
fn error_does_not_touch_the_flow() {
    let mut tables = tables();
    let asked = PacketBuilder::udp((CLIENT_V4, 40_000).into(), (VIP_V4, world::PORT_LOCAL).into()).build();
    let (_, forwarded) = enter(&mut tables, &asked);
    let before = tables.flows.clone();
    tables.now_s += 9;
    let endpoint = five_tuple(&forwarded).unwrap().destination.ip();
    let _ = leave(&mut tables, &too_big(endpoint, &forwarded, 28));
    assert_eq!(tables.flows, before);
}

#[test]
fn error_about_a_strangers_packet_passes_untouched() {
    let mut tables = tables();
    let stranger = PacketBuilder::udp((CLIENT_V4, 40_000).into(), (ROUTER_V4, 53).into()).build();
    let error = too_big(ROUTER_V4, &stranger, 28);
    assert_eq!(enter(&mut tables, &error), (Verdict::Pass(Reason::PassNotOurs), error.clone()));
    assert_eq!(leave(&mut tables, &error), (Verdict::Pass(Reason::PassNotOurs), error));
}

#[test]
fn error_that_is_not_for_the_quoted_sender_passes_untouched() {
    let mut tables = tables();
    let asked = PacketBuilder::udp((CLIENT_V4, 40_000).into(), (VIP_V4, world::PORT_LOCAL).into()).build();
    let (_, forwarded) = enter(&mut tables, &asked);
    let error = PacketBuilder::icmp(ROUTER_V4, "203.0.113.66".parse().unwrap(), [3, 3], [0; 4])
        .payload(&forwarded[14..])
        .build();
    assert_eq!(leave(&mut tables, &error), (Verdict::Pass(Reason::PassNotOurs), error));
}
