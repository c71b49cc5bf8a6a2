//! Host tier: who may enter, and what a client of this node itself gets.
use std::net::{IpAddr, SocketAddr};

use lb_common::conntrack::flags;
use lb_common::counters::Reason;
use lb_common::frontend::{FrontendKey, Kind};
use lb_common::neg::{NegKind, Ring};
use lb_common::protocol::TCP;
use lb_common::source_range::SourceRangeKey;
use lb_common::{Address, Be16};
use lb_ebpf::host::HostTables;
use lb_ebpf::path::Side;
use lb_ebpf::socket::{self, Caller, Peer, SocketVerdict};
use lb_ebpf::verdict::Verdict;
use lb_tests::host_path::enter;
use lb_tests::packet::build::tcp_flags::{ACK, SYN};
use lb_tests::packet::{PacketBuilder, five_tuple, verify_checksums};
use lb_tests::world::{self, NODE_V4, NODE_V6, VIP_V4, VIP_V6};

const POD_INTERFACE: u32 = 9;
/// `SO_NETNS_COOKIE` of the node, and of a pod.
const NODE_COOKIE: u64 = 4_026;
const POD_COOKIE: u64 = 4_027;
const NODE_PORT: u16 = 30_080;

fn tables() -> HostTables {
    let mut tables = HostTables { default_route: Some(world::route(POD_INTERFACE)), ..world::tables(1_000) };
    tables.config.as_mut().unwrap().node_namespace_cookie = NODE_COOKIE;
    tables
}

fn syn(from: &str, to: IpAddr, port: u16) -> Vec<u8> {
    PacketBuilder::tcp((from.parse::<IpAddr>().unwrap(), 40_000).into(), (to, port).into(), SYN).build()
}

#[test]
fn source_range_lets_in_what_it_covers_and_drops_the_rest() {
    for (vip, covered, foreign) in
        [(VIP_V4, "203.0.113.7", "203.0.113.8"), (VIP_V6, "2001:db8:9::7", "2001:db8:9::8")]
    {
        for side in [Side::Uplink, Side::Pod] {
            let mut tables = tables();
            let (verdict, _) = enter(&mut tables, &syn(covered, vip, world::PORT_RANGES), side);
            assert_eq!(verdict.reason(), Reason::ForwardNew, "{covered} {side:?}");
            let flows = tables.flows.len();
            let asked = syn(foreign, vip, world::PORT_RANGES);
            let (verdict, frame) = enter(&mut tables, &asked, side);
            assert_eq!((verdict, frame), (Verdict::Drop(Reason::DropSourceRange), asked), "{side:?}");
            assert_eq!(tables.flows.len(), flows, "nothing is entered");
        }
    }
}

#[test]
fn known_flow_outlives_its_source_range() {
    let mut tables = tables();
    let first = syn("203.0.113.7", VIP_V4, world::PORT_RANGES);
    assert_eq!(enter(&mut tables, &first, Side::Uplink).0.reason(), Reason::ForwardNew);
    tables.source_ranges.clear();
    let client: SocketAddr = "203.0.113.7:40000".parse().unwrap();
    let next = PacketBuilder::tcp(client, (VIP_V4, world::PORT_RANGES).into(), ACK).build();
    assert_eq!(enter(&mut tables, &next, Side::Uplink).0.reason(), Reason::ForwardKnown);
}

#[test]
fn ranges_of_one_service_do_not_let_into_another() {
    let mut tables = tables();
    let key = FrontendKey::new(VIP_V4.into(), Be16::new(world::PORT_RANGES), TCP);
    let own = tables.frontends[&key].backend_service;
    let of_own = SourceRangeKey::of_client(own, &Address::v4([0; 4])).backend_service;
    tables.source_ranges.retain(|range| range.backend_service != of_own);
    let (verdict, _) = enter(&mut tables, &syn("203.0.113.7", VIP_V4, world::PORT_RANGES), Side::Uplink);
    assert_eq!(verdict, Verdict::Drop(Reason::DropSourceRange));
}

/// A local endpoint of `PORT_LOCAL` over TCP, alone in its ring.
fn only_endpoint(tables: &mut HostTables, vip: IpAddr) -> SocketAddr {
    let key = FrontendKey::new(vip.into(), Be16::new(world::PORT_LOCAL), TCP);
    let neg = tables.frontends[&key].neg_external;
    let (_, kind) = NegKind::of_id(neg);
    assert!(matches!(kind, NegKind::ClusterV4 | NegKind::ClusterV6));
    let ring = tables.rings[&neg];
    tables.rings.insert(neg, Ring::new(ring.position(), 1));
    let endpoint = tables.endpoints[&tables.ring_slots[&ring.position()]];
    SocketAddr::new(endpoint.address.into(), endpoint.port.get())
}

#[test]
fn pod_reaches_itself_through_its_vip_and_sees_the_node() {
    for (vip, node) in [(VIP_V4, NODE_V4), (VIP_V6, NODE_V6)] {
        let mut tables = tables();
        let endpoint = only_endpoint(&mut tables, vip);
        let client = SocketAddr::new(endpoint.ip(), 40_000);
        let frontend: SocketAddr = (vip, world::PORT_LOCAL).into();
        let asked = PacketBuilder::tcp(client, frontend, SYN).build();
        let (verdict, forward) = enter(&mut tables, &asked, Side::Pod);
        let out = Verdict::ToLink { reason: Reason::ForwardNew, interface: POD_INTERFACE };
        assert_eq!(verdict, out, "back by the interface that it came from");
        verify_checksums(&forward).unwrap();
        let tuple = five_tuple(&forward).unwrap();
        assert_eq!((tuple.source.ip(), tuple.destination), (node, endpoint));

        let answer = PacketBuilder::tcp(tuple.destination, tuple.source, SYN | ACK).build();
        let (verdict, back) = enter(&mut tables, &answer, Side::Pod);
        assert_eq!(verdict, Verdict::ToLink { reason: Reason::ForwardReply, interface: POD_INTERFACE });
        verify_checksums(&back).unwrap();
        let tuple = five_tuple(&back).unwrap();
        assert_eq!((tuple.source, tuple.destination), (frontend, client));
    }
}

#[test]
fn pod_keeps_its_address_with_other_pods_of_the_node() {
    let mut tables = tables();
    only_endpoint(&mut tables, VIP_V4);
    let (verdict, forward) = enter(&mut tables, &syn("10.244.1.77", VIP_V4, world::PORT_LOCAL), Side::Pod);
    assert_eq!(verdict, Verdict::ToStack(Reason::ForwardNew));
    assert_eq!(five_tuple(&forward).unwrap().source, "10.244.1.77:40000".parse().unwrap());
    assert!(tables.flows.values().all(|flow| flow.flags & flags::SOURCE_NAT == 0));
}

#[test]
fn packet_to_a_pod_of_the_node_is_handed_to_its_interface_where_that_is_wanted() {
    let delivered = Verdict::ToLink { reason: Reason::ForwardNew, interface: POD_INTERFACE };
    let by_stack = Verdict::ToStack(Reason::ForwardNew);
    for (is_wanted, can_deliver, expected) in
        [(true, true, delivered), (true, false, by_stack), (false, true, by_stack)]
    {
        for (client, side) in [("203.0.113.7", Side::Uplink), ("10.244.1.77", Side::Pod)] {
            let mut tables = HostTables { can_deliver, ..tables() };
            if is_wanted {
                tables.config.as_mut().unwrap().flags |= lb_common::config::flags::DELIVER_DIRECTLY;
            }
            let endpoint = only_endpoint(&mut tables, VIP_V4);
            let asked = syn(client, VIP_V4, world::PORT_LOCAL);
            let (verdict, frame) = enter(&mut tables, &asked, side);
            assert_eq!(verdict, expected, "{client}, wanted: {is_wanted}, can: {can_deliver}");
            verify_checksums(&frame).unwrap();
            let tuple = five_tuple(&frame).unwrap();
            assert_eq!((tuple.source.ip().to_string(), tuple.destination), (client.to_owned(), endpoint));
            // One router was passed either way; the stack takes the hop itself.
            assert_eq!(frame[22], asked[22] - u8::from(verdict == delivered));
        }
    }
}

#[test]
fn packet_that_a_pods_interface_does_not_take_goes_by_the_stack() {
    let direct = || {
        let mut tables = HostTables { can_deliver: true, ..tables() };
        tables.config.as_mut().unwrap().flags |= lb_common::config::flags::DELIVER_DIRECTLY;
        tables
    };
    let to_pod =
        PacketBuilder::tcp("203.0.113.7:40000".parse().unwrap(), (VIP_V4, world::PORT_LOCAL).into(), SYN);
    let without_route = HostTables { default_route: None, ..direct() };
    let too_big = HostTables { mtu_bytes: Some(1_400), ..direct() };
    for (mut tables, frame) in
        [(without_route, to_pod.clone().build()), (too_big, to_pod.clone().payload(&[7; 1_450]).build())]
    {
        only_endpoint(&mut tables, VIP_V4);
        let (verdict, _) = enter(&mut tables, &frame, Side::Uplink);
        assert_eq!(verdict, Verdict::ToStack(Reason::ForwardNew));
    }
}

/// A flow to an endpoint on another node, under source NAT: its client, its first packet as it was sent.
fn source_natted(tables: &mut HostTables, vip: IpAddr, client: &str) -> (SocketAddr, Vec<u8>) {
    for port in 40_000..40_100 {
        let client = SocketAddr::new(client.parse().unwrap(), port);
        let asked = PacketBuilder::tcp(client, (vip, world::PORT_MIXED).into(), SYN).build();
        let (verdict, sent) = enter(tables, &asked, Side::Uplink);
        if matches!(verdict, Verdict::ToLink { .. }) {
            return (client, sent);
        }
    }
    panic!("no flow got an endpoint on another node");
}

#[test]
fn packet_too_big_for_its_way_is_answered_with_what_fits_in_both_directions() {
    for (vip, client, headers) in [(VIP_V4, "203.0.113.7", 40), (VIP_V6, "2001:db8:9::7", 60)] {
        let mut tables = tables();
        tables.mtu_bytes = Some(1_400);
        let (client, sent) = source_natted(&mut tables, vip, client);
        let forward = five_tuple(&sent).unwrap();
        let ends = [(client, (vip, world::PORT_MIXED).into()), (forward.destination, forward.source)];
        for (source, destination) in ends {
            let of_size = |bytes: usize| {
                PacketBuilder::tcp(source, destination, ACK).payload(&vec![7; bytes - headers]).build()
            };
            let (verdict, _) = enter(&mut tables, &of_size(1_400), Side::Uplink);
            assert!(matches!(verdict, Verdict::ToLink { .. }), "{verdict:?}");
            let asked = of_size(1_401);
            assert!(headers == 60 || asked[20] & 0x40 == 0, "without \"don't fragment\" too");
            let (verdict, answer) = enter(&mut tables, &asked, Side::Uplink);
            assert_eq!(verdict, Verdict::Answer(Reason::RefuseTooBig));
            verify_checksums(&answer).unwrap();
            let (kind, size) = match headers {
                40 => (&answer[34..36], [&[0, 0], &answer[40..42]].concat()),
                _ => (&answer[54..56], answer[58..62].to_vec()),
            };
            assert_eq!(kind, if headers == 40 { [3, 4] } else { [2, 0] });
            assert_eq!(size, 1_400_u32.to_be_bytes());
        }
    }
}

#[test]
fn packet_that_goes_to_the_stack_is_not_measured() {
    let mut tables = tables();
    tables.mtu_bytes = Some(1_400);
    let client: SocketAddr = "203.0.113.7:40000".parse().unwrap();
    let asked = PacketBuilder::tcp(client, (VIP_V4, world::PORT_LOCAL).into(), SYN).payload(&[7; 1_450]);
    let (verdict, _) = enter(&mut tables, &asked.build(), Side::Uplink);
    assert_eq!(verdict, Verdict::ToStack(Reason::ForwardNew));
}

fn connect(tables: &mut HostTables, namespace_cookie: u64, to: &str) -> SocketVerdict {
    let to: SocketAddr = to.parse().unwrap();
    let caller = Caller { protocol: TCP, cookie: 9, namespace_cookie };
    let peer = Peer { address: to.ip().into(), port: Be16::new(to.port()) };
    socket::connect(tables, &caller, &peer)
}

/// Gives the node's address of `vip`'s family a node port with the endpoints of `PORT_LOCAL`.
fn add_node_port(tables: &mut HostTables, vip: IpAddr, node: IpAddr) {
    let key = FrontendKey::new(vip.into(), Be16::new(world::PORT_LOCAL), TCP);
    let mut frontend = tables.frontends[&key];
    frontend.flags = Kind::NodePort as u32;
    tables.frontends.insert(FrontendKey::new(node.into(), Be16::new(NODE_PORT), TCP), frontend);
}

#[test]
fn node_port_on_loopback_serves_processes_of_the_node_only() {
    for (vip, node, loopback) in [
        (VIP_V4, NODE_V4, "127.0.0.1:30080"),
        (VIP_V4, NODE_V4, "127.9.9.9:30080"),
        (VIP_V6, NODE_V6, "[::1]:30080"),
    ] {
        let mut tables = tables();
        add_node_port(&mut tables, vip, node);
        let verdict = connect(&mut tables, NODE_COOKIE, loopback);
        let SocketVerdict::Peer(Reason::ForwardSocket, peer) = verdict else {
            panic!("{loopback}: {verdict:?}")
        };
        let dialled: SocketAddr = loopback.parse().unwrap();
        let named = socket::name(&mut tables, 9, &peer).unwrap();
        assert_eq!((IpAddr::from(named.address), named.port.get()), (dialled.ip(), dialled.port()));
        let pods_own = connect(&mut tables, POD_COOKIE, loopback);
        assert_eq!(pods_own, SocketVerdict::Pass(Reason::PassNotOurs), "{loopback}");
    }
}

#[test]
fn only_node_ports_are_served_on_loopback() {
    let mut tables = tables();
    add_node_port(&mut tables, VIP_V4, NODE_V4);
    let key = FrontendKey::new(NODE_V4.into(), Be16::new(NODE_PORT), TCP);
    tables.frontends.get_mut(&key).unwrap().flags = Kind::ExternalIp as u32;
    let verdict = connect(&mut tables, NODE_COOKIE, "127.0.0.1:30080");
    assert_eq!(verdict, SocketVerdict::Pass(Reason::PassNotOurs));
}

#[test]
fn socket_hooks_judge_the_nodes_own_address_and_leave_pods_to_their_packets() {
    let mut tables = tables();
    let vip = format!("{VIP_V4}:{}", world::PORT_RANGES);
    let refused = connect(&mut tables, NODE_COOKIE, &vip);
    assert_eq!(refused, SocketVerdict::Refuse(Reason::DropSourceRange));
    assert_eq!(connect(&mut tables, POD_COOKIE, &vip), SocketVerdict::Pass(Reason::PassNotOurs));
    let key = FrontendKey::new(VIP_V4.into(), Be16::new(world::PORT_RANGES), TCP);
    let service = tables.frontends[&key].backend_service;
    tables.source_ranges.insert(SourceRangeKey::of_range(service, &NODE_V4.into(), 24));
    let allowed = connect(&mut tables, NODE_COOKIE, &vip);
    assert!(matches!(allowed, SocketVerdict::Peer(Reason::ForwardSocket, _)), "{allowed:?}");
}
