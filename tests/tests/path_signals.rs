//! Host tier: what a reply's entry tells of the endpoint's answer, for whoever judges endpoints by it.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::conntrack::{Flow, FlowState, flags};
use lb_ebpf::host::HostTables;
use lb_ebpf::path::Side;
use lb_tests::host_path::{enter, leave};
use lb_tests::packet::build::tcp_flags::{ACK, RST, SYN};
use lb_tests::packet::{PacketBuilder, five_tuple};
use lb_tests::world::{self, VIP_V4, VIP_V6};

const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
const SIGNALS: u32 = flags::ANSWERED | flags::UNREACHABLE;

fn tables() -> HostTables {
    HostTables { default_route: Some(world::route(7)), ..world::tables(1_000) }
}

fn client(to: IpAddr) -> SocketAddr {
    let v6 = "2001:db8:9::7".parse().unwrap();
    SocketAddr::new(if to.is_ipv4() { CLIENT_V4 } else { v6 }, 40_000)
}

/// A client's SYN as the endpoint gets it.
fn opened(tables: &mut HostTables, vip: IpAddr) -> Vec<u8> {
    let syn = PacketBuilder::tcp(client(vip), SocketAddr::new(vip, world::PORT_LOCAL), SYN).build();
    enter(tables, &syn, Side::Uplink).1
}

fn answer(forwarded: &[u8], tcp_flags: u8) -> Vec<u8> {
    let tuple = five_tuple(forwarded).unwrap();
    PacketBuilder::tcp(tuple.destination, tuple.source, tcp_flags).build()
}

/// Of the entry to the client: the marks, and the state.
fn seen(tables: &HostTables) -> (u32, FlowState) {
    let replies: Vec<&Flow> =
        tables.flows.values().filter(|flow| flow.flags & flags::TO_CLIENT != 0).collect();
    let [reply] = replies[..] else { panic!("{replies:?}") };
    (reply.flags & SIGNALS, reply.state())
}

#[test]
fn connection_is_answered_once_the_endpoint_accepts_it() {
    let mut tables = tables();
    let forwarded = opened(&mut tables, VIP_V4);
    assert_eq!(seen(&tables), (0, FlowState::Opening));
    let _ = leave(&mut tables, &answer(&forwarded, SYN | ACK));
    assert_eq!(seen(&tables), (flags::ANSWERED, FlowState::Opening));
}

#[test]
fn reset_is_no_answer() {
    let mut tables = tables();
    let forwarded = opened(&mut tables, VIP_V4);
    let _ = leave(&mut tables, &answer(&forwarded, RST | ACK));
    assert_eq!(seen(&tables), (0, FlowState::Reset));
}

#[test]
fn reset_of_an_accepted_connection_leaves_it_answered() {
    let mut tables = tables();
    let forwarded = opened(&mut tables, VIP_V4);
    let _ = leave(&mut tables, &answer(&forwarded, SYN | ACK));
    let _ = leave(&mut tables, &answer(&forwarded, RST));
    assert_eq!(seen(&tables), (flags::ANSWERED, FlowState::Reset));
}

#[test]
fn datagram_is_answered_by_any_other() {
    let mut tables = tables();
    let to = SocketAddr::new(VIP_V4, world::PORT_LOCAL);
    let ask = PacketBuilder::udp(client(VIP_V4), to).payload(b"ask").build();
    let forwarded = enter(&mut tables, &ask, Side::Uplink).1;
    assert_eq!(seen(&tables).0, 0);
    let tuple = five_tuple(&forwarded).unwrap();
    let _ =
        leave(&mut tables, &PacketBuilder::udp(tuple.destination, tuple.source).payload(b"answer").build());
    assert_eq!(seen(&tables).0, flags::ANSWERED);
}

/// An ICMP message from the endpoint about the forwarded packet leaves the node.
fn complain(tables: &mut HostTables, forwarded: &[u8], type_code: [u8; 2]) {
    let tuple = five_tuple(forwarded).unwrap();
    let (from, to) = (tuple.destination.ip(), tuple.source.ip());
    let error = PacketBuilder::icmp(from, to, type_code, [0; 4]).payload(&forwarded[14..]).build();
    let _ = leave(tables, &error);
}

#[test]
fn icmp_unreachable_from_the_endpoint_marks_the_reply() {
    for (vip, type_code) in [(VIP_V4, [3, 3]), (VIP_V4, [3, 1]), (VIP_V6, [1, 4])] {
        let mut tables = tables();
        let forwarded = opened(&mut tables, vip);
        complain(&mut tables, &forwarded, type_code);
        assert_eq!(seen(&tables), (flags::UNREACHABLE, FlowState::Opening), "{vip} {type_code:?}");
    }
}

#[test]
fn other_icmp_errors_say_nothing_of_the_endpoint() {
    for (vip, type_code) in [(VIP_V4, [3, 4]), (VIP_V4, [11, 0]), (VIP_V6, [2, 0]), (VIP_V6, [3, 0])] {
        let mut tables = tables();
        let forwarded = opened(&mut tables, vip);
        complain(&mut tables, &forwarded, type_code);
        assert_eq!(seen(&tables).0, 0, "{vip} {type_code:?}");
    }
}

#[test]
fn icmp_unreachable_about_a_reply_says_nothing_of_the_endpoint() {
    let mut tables = tables();
    let forwarded = opened(&mut tables, VIP_V4);
    let reply = leave(&mut tables, &answer(&forwarded, SYN | ACK)).1;
    let tuple = five_tuple(&reply).unwrap();
    let (from, to) = (tuple.destination.ip(), tuple.source.ip());
    let error = PacketBuilder::icmp(from, to, [3, 3], [0; 4]).payload(&reply[14..]).build();
    let _ = enter(&mut tables, &error, Side::Uplink);
    assert_eq!(seen(&tables).0, flags::ANSWERED);
    assert!(tables.flows.values().all(|flow| flow.flags & flags::UNREACHABLE == 0));
}
