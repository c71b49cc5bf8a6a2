//! Host tier: direct server return. The bytes of the encapsulation are written out by hand here.
use std::net::{IpAddr, SocketAddr};

use lb_common::conntrack::{FlowKey, TCP_ESTABLISHED_TIMEOUT_S, flags};
use lb_common::counters::Reason;
use lb_ebpf::host::HostTables;
use lb_ebpf::path::Side;
use lb_ebpf::verdict::Verdict;
use lb_tests::host_path::{enter, leave};
use lb_tests::packet::build::tcp_flags::{ACK, FIN, SYN};
use lb_tests::packet::{PacketBuilder, five_tuple, verify_checksums};
use lb_tests::world::{self, NODE_V4, NODE_V6, VIP_V4, VIP_V6};

const UPLINK: u32 = 7;
/// Outer IPv4, UDP, Geneve, option header, VIP and port; the same over IPv6.
const OVERHEAD_V4: usize = 20 + 8 + 8 + 4 + 8;
const OVERHEAD_V6: usize = 40 + 8 + 8 + 4 + 20;

/// The VIP, a client outside, this node's address, and the overhead in a family.
type Ends = (IpAddr, SocketAddr, IpAddr, usize);

fn families() -> [Ends; 2] {
    [
        (VIP_V4, "203.0.113.7:40000".parse().unwrap(), NODE_V4, OVERHEAD_V4),
        (VIP_V6, "[2001:db8:9::7]:40000".parse().unwrap(), NODE_V6, OVERHEAD_V6),
    ]
}

fn tables() -> HostTables {
    HostTables { default_route: Some(world::route(UPLINK)), ..world::tables(1_000) }
}

fn tcp(client: SocketAddr, vip: IpAddr, flags: u8) -> Vec<u8> {
    PacketBuilder::tcp(client, (vip, world::PORT_DSR).into(), flags).build()
}

/// A flow whose endpoint is on another node: the client, its first packet and what was sent.
fn encapsulated(tables: &mut HostTables, (vip, client, ..): Ends) -> (SocketAddr, Vec<u8>, Vec<u8>) {
    for port in 40_000..40_100 {
        let client = SocketAddr::new(client.ip(), port);
        let asked = tcp(client, vip, SYN);
        let (verdict, sent) = enter(tables, &asked, Side::Uplink);
        if verdict.reason() == Reason::ForwardEncapsulated {
            assert_eq!(verdict, Verdict::ToLink { reason: Reason::ForwardEncapsulated, interface: UPLINK });
            return (client, asked, sent);
        }
        assert_eq!(verdict, Verdict::ToStack(Reason::ForwardNew), "a local endpoint");
    }
    panic!("no flow got an endpoint on another node");
}

/// The Ethernet header and what is behind the outer headers.
fn inner(frame: &[u8], overhead: usize) -> Vec<u8> {
    [&frame[..14], &frame[14 + overhead..]].concat()
}

#[test]
fn client_keeps_its_address_inside_an_encapsulation_for_the_endpoint() {
    for ends in families() {
        let (_, _, _, overhead) = ends;
        let mut tables = tables();
        let (client, asked, sent) = encapsulated(&mut tables, ends);
        assert_eq!(sent.len(), asked.len() + overhead);
        assert_eq!(sent[..12], [world::NEXT_HOP_MAC, world::UPLINK_MAC].concat());
        let inside = inner(&sent, overhead);
        verify_checksums(&inside).unwrap();
        let tuple = five_tuple(&inside).unwrap();
        assert_eq!(tuple.source, client);
        assert_eq!(tuple.destination.port(), 8080);
        let hops = if client.is_ipv4() { inside[14 + 8] } else { inside[14 + 7] };
        assert_eq!(hops, 63, "one hop is taken off");
        let entries: Vec<_> = tables.flows.values().filter(|flow| flow.flags & flags::DSR != 0).collect();
        assert_eq!(entries.len(), 1, "no reply passes this node");
        assert_eq!(entries[0].flags, flags::DSR);
    }
}

#[test]
fn ipv4_encapsulation_is_geneve_with_the_vip_as_its_option() {
    let mut tables = tables();
    let (_, asked, sent) = encapsulated(&mut tables, families()[0]);
    let endpoint = &inner(&sent, OVERHEAD_V4)[30..34];
    let total = (asked.len() - 14 + OVERHEAD_V4) as u16;
    let outer = &sent[14..];
    assert_eq!(outer[..2], [0x45, 0]);
    assert_eq!(outer[2..4], total.to_be_bytes());
    assert_eq!(outer[6..10], [0x40, 0, 64, 17], "don't fragment, 64 hops, UDP");
    assert_eq!(outer[12..16], [192, 0, 2, 11]);
    assert_eq!(outer[16..20], *endpoint, "routes to the endpoint lead to its node");
    let sum: u32 = outer[..20].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    assert_eq!(sum % 0xffff, 0, "IPv4 header checksum");
    assert!(outer[20] >= 0xc0, "a dynamic port");
    assert_eq!(outer[22..24], 6_081_u16.to_be_bytes());
    assert_eq!(outer[24..26], (total - 20).to_be_bytes());
    assert_eq!(outer[26..28], [0, 0], "no UDP checksum");
    assert_eq!(outer[28..36], [3, 0x40, 0x08, 0x00, 0, 0, 0, 0], "12 bytes of options, IPv4 inside");
    assert_eq!(outer[36..40], [0xff, 0xf0, 0x81, 2]);
    assert_eq!(outer[40..48], [198, 51, 100, 10, 0, 89, 0, 0]);
}

#[test]
fn ipv6_encapsulation_is_geneve_with_the_vip_as_its_option() {
    let mut tables = tables();
    let (_, asked, sent) = encapsulated(&mut tables, families()[1]);
    let payload = (asked.len() - 14 + OVERHEAD_V6 - 40) as u16;
    let outer = &sent[14..];
    assert_eq!(outer[..4], [0x60, 0, 0, 0]);
    assert_eq!(outer[4..6], payload.to_be_bytes());
    assert_eq!(outer[6..8], [17, 64]);
    let IpAddr::V6(node) = NODE_V6 else { panic!("not IPv6") };
    assert_eq!(outer[8..24], node.octets());
    assert_eq!(outer[24..40], inner(&sent, OVERHEAD_V6)[38..54]);
    assert_eq!(outer[44..46], payload.to_be_bytes());
    assert_eq!(outer[48..56], [6, 0x40, 0x86, 0xdd, 0, 0, 0, 0]);
    assert_eq!(outer[56..60], [0xff, 0xf0, 0x81, 5]);
    let IpAddr::V6(vip) = VIP_V6 else { panic!("not IPv6") };
    assert_eq!(outer[60..76], vip.octets());
    assert_eq!(outer[76..80], [0, 89, 0, 0]);
}

#[test]
fn encapsulation_keeps_the_tags_before_it() {
    let mut tables = tables();
    let (client, _, sent) = encapsulated(&mut tables, families()[0]);
    let tagged = PacketBuilder::tcp(client, (VIP_V4, world::PORT_DSR).into(), SYN).vlan(0x8100, 42).build();
    let (_, tagged) = enter(&mut tables, &tagged, Side::Uplink);
    assert_eq!(tagged[12..18], [0x81, 0x00, 0, 42, 0x08, 0x00]);
    assert_eq!(tagged[18..], sent[14..]);
}

#[test]
fn endpoints_node_delivers_the_inner_packet_and_answers_with_the_vip() {
    for ends in families() {
        let (vip, _, _, overhead) = ends;
        let (client, _, sent) = encapsulated(&mut tables(), ends);
        let mut far = tables();
        let (verdict, delivered) = enter(&mut far, &sent, Side::Uplink);
        assert_eq!(verdict, Verdict::ToStack(Reason::ForwardDecapsulated));
        assert_eq!(delivered, inner(&sent, overhead));
        let endpoint = five_tuple(&delivered).unwrap().destination;
        let reply = PacketBuilder::tcp(endpoint, client, SYN | ACK).build();
        let (verdict, back) = leave(&mut far, &reply);
        assert_eq!(verdict, Verdict::ToStack(Reason::ForwardReply));
        verify_checksums(&back).unwrap();
        let tuple = five_tuple(&back).unwrap();
        assert_eq!((tuple.source, tuple.destination), ((vip, world::PORT_DSR).into(), client));
    }
}

#[test]
fn encapsulation_of_others_passes_untouched() {
    let ends = families()[0];
    let (_, _, sent) = encapsulated(&mut tables(), ends);
    let mut strange = tables();
    strange.nodes.clear();
    let (verdict, frame) = enter(&mut strange, &sent, Side::Uplink);
    assert_eq!((verdict, &frame), (Verdict::Pass(Reason::PassNotOurs), &sent), "not from a node");
    // Option length, option class, inner protocol, inner destination.
    for offset in [14 + 28, 14 + 36, 14 + 30, 14 + OVERHEAD_V4 + 19] {
        let mut other = sent.clone();
        other[offset] ^= 1;
        let (verdict, frame) = enter(&mut tables(), &other, Side::Uplink);
        assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassNotOurs), other), "byte {offset}");
    }
    let (verdict, frame) = enter(&mut tables(), &sent, Side::Pod);
    assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassNotOurs), sent), "from a pod");
}

#[test]
fn established_flow_goes_on_encapsulated_without_another_entry() {
    let mut tables = tables();
    let (client, ..) = encapsulated(&mut tables, families()[0]);
    let entries = tables.flows.len();
    for (flags, later_s) in [(ACK, 0), (ACK, 1), (ACK, TCP_ESTABLISHED_TIMEOUT_S), (FIN | ACK, 1)] {
        tables.now_s += later_s;
        let (verdict, _) = enter(&mut tables, &tcp(client, VIP_V4, flags), Side::Uplink);
        assert_eq!(verdict.reason(), Reason::ForwardEncapsulated);
    }
    assert_eq!(tables.flows.len(), entries);
}

#[test]
fn reply_entry_lives_with_its_flow_and_begins_anew_with_a_connection() {
    let ends = families()[0];
    let mut near = tables();
    let (client, _, sent) = encapsulated(&mut near, ends);
    let mut far = tables();
    let (_, delivered) = enter(&mut far, &sent, Side::Uplink);
    let endpoint = five_tuple(&delivered).unwrap().destination;
    let key = FlowKey {
        source: endpoint.ip().into(),
        destination: client.ip().into(),
        source_port: lb_common::Be16::new(endpoint.port()),
        destination_port: lb_common::Be16::new(client.port()),
        protocol: 6,
    };
    let entry = far.flows[&key];
    assert_eq!((entry.created_s, entry.flags), (1_000, flags::TO_CLIENT | flags::DSR));
    let mut send = |far: &mut HostTables, flags| {
        let (_, sent) = enter(&mut near, &tcp(client, VIP_V4, flags), Side::Uplink);
        far.now_s += 5;
        assert_eq!(enter(far, &sent, Side::Uplink).0.reason(), Reason::ForwardDecapsulated);
        far.flows[&key]
    };
    let after_data = send(&mut far, ACK);
    assert_eq!((after_data.created_s, after_data.last_seen_s, after_data.state), (1_000, 1_005, 1));
    assert_eq!(send(&mut far, FIN | ACK).state, 2, "closing");
    let again = send(&mut far, SYN);
    assert_eq!((again.created_s, again.state), (1_015, 0), "a new connection");
}

#[test]
fn udp_flow_moves_with_its_next_datagram_when_its_endpoint_is_gone() {
    let mut tables = tables();
    let udp = |port: u16| {
        PacketBuilder::udp((families()[0].1.ip(), port).into(), (VIP_V4, world::PORT_DSR).into())
            .payload(b"ask")
            .build()
    };
    let is_encapsulated = |tables: &mut HostTables, port: &u16| {
        enter(tables, &udp(*port), Side::Uplink).0.reason() == Reason::ForwardEncapsulated
    };
    let port = (40_000..40_100).find(|port| is_encapsulated(&mut tables, port)).unwrap();
    let flow = *tables.flows.values().find(|flow| flow.flags == flags::DSR).unwrap();
    let endpoint = tables.endpoints.get_mut(&flow.endpoint).unwrap();
    endpoint.state = 0;
    endpoint.generation += 1;
    let (verdict, _) = enter(&mut tables, &udp(port), Side::Uplink);
    assert!(matches!(verdict.reason(), Reason::ForwardNew | Reason::ForwardEncapsulated), "{verdict:?}");
    assert_eq!(tables.reasons[&Reason::NoteEndpointGone], 1);
}

#[test]
fn pods_and_nodes_own_pods_are_no_case_for_direct_server_return() {
    let mut tables = tables();
    for port in 40_000..40_040 {
        for (from, side) in [("10.244.3.3", Side::Uplink), ("10.244.1.77", Side::Pod)] {
            let client = SocketAddr::new(from.parse().unwrap(), port);
            let (verdict, _) = enter(&mut tables, &tcp(client, VIP_V4, SYN), side);
            assert_eq!(verdict.reason(), Reason::ForwardNew, "{client}");
        }
    }
    assert!(tables.flows.values().all(|flow| flow.flags & flags::DSR == 0));
}

#[test]
fn packet_that_the_encapsulation_makes_too_big_is_answered_with_what_fits() {
    for ends in families() {
        let (vip, _, _, overhead) = ends;
        let mut tables = tables();
        tables.mtu_bytes = Some(1_500);
        let (client, ..) = encapsulated(&mut tables, ends);
        let headers = if client.is_ipv4() { 40 } else { 60 };
        let of_size = |bytes: usize| {
            let payload = vec![7; bytes - headers];
            PacketBuilder::tcp(client, (vip, world::PORT_DSR).into(), ACK).payload(&payload).build()
        };
        let (verdict, _) = enter(&mut tables, &of_size(1_500 - overhead), Side::Uplink);
        assert_eq!(verdict.reason(), Reason::ForwardEncapsulated, "just fits");
        let (verdict, answer) = enter(&mut tables, &of_size(1_501 - overhead), Side::Uplink);
        assert_eq!(verdict, Verdict::Answer(Reason::RefuseTooBig));
        verify_checksums(&answer).unwrap();
        let mtu = (1_500 - overhead) as u16;
        if client.is_ipv4() {
            assert_eq!(answer[34..36], [3, 4], "fragmentation needed");
            assert_eq!(answer[38..40], [0, 0]);
            assert_eq!(answer[40..42], mtu.to_be_bytes());
            assert_eq!(answer[26..30], [198, 51, 100, 10], "from the VIP");
        } else {
            assert_eq!(answer[54..56], [2, 0], "packet too big");
            assert_eq!(answer[58..62], u32::from(mtu).to_be_bytes());
        }
    }
}
