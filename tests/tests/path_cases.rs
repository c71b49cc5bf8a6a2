//! Host tier: one packet, one fact. What the path does is compared with the kernel elsewhere; here is
//! whether it is right.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lb_common::backend_service::{self, BackendService};
use lb_common::counters::Reason;
use lb_common::endpoint::state;
use lb_common::frontend::FrontendKey;
use lb_common::neg::{NegKind, Ring};
use lb_common::protocol::{TCP, UDP};
use lb_common::{Address, Be16};
use lb_ebpf::host::HostTables;
use lb_ebpf::path::Side;
use lb_ebpf::socket::{self, Caller, Peer, SocketVerdict};
use lb_ebpf::verdict::Verdict;
use lb_tests::host_path::{enter, leave};
use lb_tests::packet::build::tcp_flags::{ACK, FIN, RST, SYN};
use lb_tests::packet::{PacketBuilder, five_tuple, verify_checksums};
use lb_tests::world::{self, VIP_V4, VIP_V6};

const UPLINK: u32 = 7;
const CLIENT_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

fn tables() -> HostTables {
    HostTables { default_route: Some(world::route(UPLINK)), ..world::tables(1_000) }
}

fn tcp(port: u16, to: u16, flags: u8) -> Vec<u8> {
    PacketBuilder::tcp((CLIENT_V4, port).into(), (VIP_V4, to).into(), flags).build()
}

fn udp(port: u16, to: u16) -> Vec<u8> {
    PacketBuilder::udp((CLIENT_V4, port).into(), (VIP_V4, to).into()).payload(b"ask").build()
}

/// The endpoint that a packet went to.
fn chosen(tables: &mut HostTables, frame: &[u8]) -> SocketAddr {
    let (verdict, forwarded) = enter(tables, frame, Side::Uplink);
    assert!(matches!(verdict, Verdict::ToStack(_) | Verdict::ToLink { .. }), "{verdict:?}");
    five_tuple(&forwarded).unwrap().destination
}

fn set_state(tables: &mut HostTables, address: IpAddr, state: u32) {
    let wanted = Address::from(address);
    tables.endpoints.values_mut().find(|endpoint| endpoint.address == wanted).unwrap().state = state;
}

/// What the agent does to an endpoint whose drain is over.
fn give_up(tables: &mut HostTables, address: IpAddr) {
    let wanted = Address::from(address);
    let endpoint = tables.endpoints.values_mut().find(|endpoint| endpoint.address == wanted).unwrap();
    endpoint.state = 0;
    endpoint.generation += 1;
}

#[test]
fn udp_flow_leaves_an_endpoint_that_is_given_up_with_its_next_datagram() {
    let mut tables = tables();
    let first = chosen(&mut tables, &udp(40_000, world::PORT_LOCAL));
    give_up(&mut tables, first.ip());
    assert_ne!(chosen(&mut tables, &udp(40_000, world::PORT_LOCAL)), first);
    assert_eq!(tables.reasons[&Reason::NoteEndpointGone], 1);
}

#[test]
fn repeated_syn_leaves_an_endpoint_that_turned_unhealthy() {
    let mut tables = tables();
    let first = chosen(&mut tables, &tcp(40_000, world::PORT_LOCAL, SYN));
    set_state(&mut tables, first.ip(), state::PRESENT | state::LOCAL);
    assert_ne!(chosen(&mut tables, &tcp(40_000, world::PORT_LOCAL, SYN)), first);
}

#[test]
fn new_flow_to_an_endpoint_that_is_used_in_panic_is_counted() {
    let mut tables = tables();
    for endpoint in tables.endpoints.values_mut() {
        endpoint.state |= state::PANIC;
    }
    let first = chosen(&mut tables, &tcp(40_000, world::PORT_LOCAL, SYN));
    assert_eq!(chosen(&mut tables, &tcp(40_000, world::PORT_LOCAL, ACK)), first);
    assert_eq!(tables.reasons[&Reason::NotePanic], 1);
}

#[test]
fn port_used_again_after_a_close_is_a_new_flow() {
    for closing in [FIN | ACK, RST] {
        let mut tables = tables();
        let first = chosen(&mut tables, &tcp(40_000, world::PORT_LOCAL, SYN));
        chosen(&mut tables, &tcp(40_000, world::PORT_LOCAL, closing));
        set_state(&mut tables, first.ip(), state::PRESENT | state::LOCAL | state::DRAINING);
        assert_ne!(chosen(&mut tables, &tcp(40_000, world::PORT_LOCAL, SYN)), first);
    }
}

#[test]
fn endpoint_that_a_client_dials_itself_from_a_used_port_answers_for_itself() {
    let mut tables = tables();
    let endpoint = chosen(&mut tables, &tcp(40_000, world::PORT_LOCAL, SYN));
    let client = SocketAddr::new(CLIENT_V4, 40_000);
    let answer = |flags| PacketBuilder::tcp(endpoint, client, flags).build();
    assert_eq!(leave(&mut tables, &answer(SYN | ACK)).0, Verdict::ToStack(Reason::ForwardReply));
    assert_eq!(leave(&mut tables, &answer(RST)).0, Verdict::ToStack(Reason::ForwardReply));
    let (verdict, frame) = leave(&mut tables, &answer(SYN | ACK));
    assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassNotOurs), answer(SYN | ACK)));
    for flags in [ACK, FIN | ACK] {
        let (verdict, frame) = leave(&mut tables, &answer(flags));
        assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassNotOurs), answer(flags)));
    }
    // By the frontend again, it is its answer.
    let _ = enter(&mut tables, &tcp(40_000, world::PORT_LOCAL, SYN), Side::Uplink);
    for flags in [SYN | ACK, ACK, FIN | ACK] {
        assert_eq!(leave(&mut tables, &answer(flags)).0, Verdict::ToStack(Reason::ForwardReply));
    }
}

#[test]
fn unhealthy_endpoints_get_no_new_flow_while_one_is_healthy() {
    let mut tables = tables();
    // One healthy endpoint of three; a flow that misses it eight times takes what there is.
    let flows = 500;
    let endpoints: Vec<SocketAddr> =
        (0..flows).map(|port| chosen(&mut tables, &tcp(40_000 + port, world::PORT_AILING, SYN))).collect();
    let panics = tables.reasons.get(&Reason::NotePanic).copied().unwrap_or(0);
    let healthy =
        endpoints.iter().filter(|endpoint| endpoint.ip().to_string().starts_with("10.244.1.")).count();
    assert_eq!(healthy as u64 + panics, u64::from(flows));
    assert!(panics < 40, "{panics} of {flows}: (2/3)^8 is 4 %");
}

#[test]
fn without_a_healthy_endpoint_all_are_used() {
    let mut tables = tables();
    let endpoints: BTreeSet<SocketAddr> =
        (0..50).map(|port| chosen(&mut tables, &tcp(40_000 + port, world::PORT_PANIC, SYN))).collect();
    assert_eq!(endpoints.len(), 2);
    assert_eq!(tables.reasons[&Reason::NotePanic], 50);
}

#[test]
fn known_flow_goes_on_when_its_frontend_is_gone() {
    let mut tables = tables();
    let first = chosen(&mut tables, &tcp(40_000, world::PORT_MIXED, SYN));
    tables.frontends.clear();
    tables.rings.clear();
    assert_eq!(chosen(&mut tables, &tcp(40_000, world::PORT_MIXED, ACK)), first);
}

#[test]
fn idle_udp_flow_is_forgotten() {
    let mut tables = tables();
    chosen(&mut tables, &udp(40_000, world::PORT_LOCAL));
    tables.now_s += lb_common::conntrack::UDP_TIMEOUT_S;
    assert_eq!(
        enter(&mut tables, &udp(40_000, world::PORT_LOCAL), Side::Uplink).0.reason(),
        Reason::ForwardKnown
    );
    tables.now_s += lb_common::conntrack::UDP_TIMEOUT_S + 1;
    assert_eq!(
        enter(&mut tables, &udp(40_000, world::PORT_LOCAL), Side::Uplink).0.reason(),
        Reason::ForwardNew
    );
}

#[test]
fn outside_client_of_a_remote_endpoint_gets_this_nodes_address() {
    let mut tables = tables();
    let mut sources = BTreeSet::new();
    for port in 40_000..40_100 {
        let (verdict, forwarded) = enter(&mut tables, &tcp(port, world::PORT_MIXED, SYN), Side::Uplink);
        let tuple = five_tuple(&forwarded).unwrap();
        if matches!(verdict, Verdict::ToLink { interface: UPLINK, .. }) {
            assert_eq!(tuple.source.ip(), world::NODE_V4);
            assert!(sources.insert((tuple.source.port(), tuple.destination)), "{tuple:?} twice");
            assert_eq!(forwarded[0..6], world::NEXT_HOP_MAC);
            assert_eq!(forwarded[6..12], world::UPLINK_MAC);
            assert_eq!(forwarded[22], 63, "one hop is taken off");
        } else {
            assert_eq!(tuple.source, (CLIENT_V4, port).into());
        }
    }
    assert!(sources.len() > 20, "{}", sources.len());
}

#[test]
fn source_nat_port_of_another_flow_is_not_taken() {
    let mut tables = tables();
    let config = tables.config.as_mut().unwrap();
    config.snat_ports = 3;
    let mut taken = BTreeSet::new();
    let mut refused = 0;
    for port in 40_000..40_200 {
        let (verdict, forwarded) = enter(&mut tables, &udp(port, world::PORT_MIXED), Side::Uplink);
        match verdict {
            Verdict::ToLink { .. } => {
                let tuple = five_tuple(&forwarded).unwrap();
                assert!((61_000..61_003).contains(&tuple.source.port()));
                assert!(taken.insert((tuple.source, tuple.destination)), "{tuple:?} twice");
            }
            Verdict::Answer(reason) => {
                assert_eq!(reason, Reason::RefuseSourceNatExhausted);
                verify_checksums(&forwarded).unwrap();
                assert_eq!(forwarded[34..36], [3, 3], "destination unreachable, port unreachable");
                refused += 1;
            }
            _ => {}
        }
    }
    // Three remote endpoints with three ports each.
    assert_eq!(taken.len(), 9);
    assert!(refused > 20, "{refused}");
}

/// Opens a connection whose source NAT takes the only port there is; returns the endpoint.
fn take_the_only_port(tables: &mut HostTables) -> SocketAddr {
    tables.config.as_mut().unwrap().snat_ports = 1;
    let (verdict, forwarded) = enter(tables, &tcp(REMOTE_PORT, world::PORT_MIXED, SYN), Side::Uplink);
    assert!(matches!(verdict, Verdict::ToLink { .. }));
    let endpoint = five_tuple(&forwarded).unwrap().destination;
    sent_by_endpoint(tables, endpoint, SYN | ACK);
    sent_by_client(tables, ACK);
    endpoint
}

/// The client that has the only port sends a packet.
fn sent_by_client(tables: &mut HostTables, flags: u8) {
    let (verdict, _) = enter(tables, &tcp(REMOTE_PORT, world::PORT_MIXED, flags), Side::Uplink);
    assert_eq!(verdict.reason(), Reason::ForwardKnown);
}

/// Its endpoint does.
fn sent_by_endpoint(tables: &mut HostTables, endpoint: SocketAddr, flags: u8) {
    let frame = PacketBuilder::tcp(endpoint, (world::NODE_V4, 61_000).into(), flags).build();
    assert_eq!(enter(tables, &frame, Side::Uplink).0.reason(), Reason::ForwardReply);
}

/// What becomes of another client's connection to the same endpoint.
fn next_client(tables: &mut HostTables, endpoint: SocketAddr) -> Verdict {
    for port in 41_000..42_000 {
        let mut probe = tables.clone();
        probe.flows.clear();
        let frame = tcp(port, world::PORT_MIXED, SYN);
        let (_, forwarded) = enter(&mut probe, &frame, Side::Uplink);
        if five_tuple(&forwarded).is_ok_and(|tuple| tuple.destination == endpoint) {
            return enter(tables, &frame, Side::Uplink).0;
        }
    }
    panic!("no client of a thousand gets {endpoint}");
}

/// The client of this port gets an endpoint on another node.
const REMOTE_PORT: u16 = 40_001;

#[test]
fn one_port_to_one_endpoint_by_two_frontends_stays_two_flows() {
    let mut tables = tables();
    let vips = [world::PORT_MIXED, world::PORT_LOCAL];
    let pod: SocketAddr = "10.244.1.1:8080".parse().unwrap();
    for endpoint in tables.endpoints.values_mut() {
        endpoint.address = pod.ip().into();
        endpoint.port = Be16::new(pod.port());
        endpoint.state |= state::LOCAL;
    }
    let mut replies = BTreeSet::new();
    for vip_port in vips {
        let (verdict, forwarded) = enter(&mut tables, &tcp(40_000, vip_port, SYN), Side::Uplink);
        assert_eq!(verdict, Verdict::ToStack(Reason::ForwardNew));
        let tuple = five_tuple(&forwarded).unwrap();
        assert_eq!((tuple.source.ip(), tuple.destination), (CLIENT_V4, pod));
        let reply = PacketBuilder::tcp(pod, tuple.source, SYN | ACK).build();
        let (verdict, back) = leave(&mut tables, &reply);
        assert_eq!(verdict, Verdict::ToStack(Reason::ForwardReply));
        let tuple = five_tuple(&back).unwrap();
        assert_eq!((tuple.source, tuple.destination.port()), ((VIP_V4, vip_port).into(), 40_000));
        assert!(replies.insert(five_tuple(&reply).unwrap().destination), "both flows have one port");
    }
}

#[test]
fn source_nat_port_is_free_when_both_ends_have_closed() {
    let mut tables = tables();
    let endpoint = take_the_only_port(&mut tables);
    sent_by_endpoint(&mut tables, endpoint, FIN | ACK);
    let refused = Verdict::Answer(Reason::RefuseSourceNatExhausted);
    assert_eq!(next_client(&mut tables, endpoint), refused, "the client may still send");
    sent_by_client(&mut tables, FIN | ACK);
    assert!(matches!(next_client(&mut tables, endpoint), Verdict::ToLink { .. }));
}

#[test]
fn source_nat_port_is_kept_while_the_endpoint_may_still_send() {
    let mut tables = tables();
    let endpoint = take_the_only_port(&mut tables);
    sent_by_client(&mut tables, FIN | ACK);
    assert_eq!(next_client(&mut tables, endpoint), Verdict::Answer(Reason::RefuseSourceNatExhausted));
}

#[test]
fn source_nat_port_is_free_when_the_endpoint_has_reset() {
    let mut tables = tables();
    let endpoint = take_the_only_port(&mut tables);
    sent_by_endpoint(&mut tables, endpoint, RST);
    assert!(matches!(next_client(&mut tables, endpoint), Verdict::ToLink { .. }));
}

#[test]
fn pod_keeps_its_address_with_a_remote_endpoint() {
    let mut tables = tables();
    let pod: SocketAddr = "10.244.1.77:50000".parse().unwrap();
    let mut remote = 0;
    for port in 0..40 {
        let frame =
            PacketBuilder::tcp((pod.ip(), 50_000 + port).into(), (VIP_V4, world::PORT_MIXED).into(), SYN);
        let (verdict, forwarded) = enter(&mut tables, &frame.build(), Side::Pod);
        assert_eq!(verdict, Verdict::ToStack(Reason::ForwardNew));
        let tuple = five_tuple(&forwarded).unwrap();
        assert_eq!(tuple.source.ip(), pod.ip());
        remote += u32::from(tuple.destination.ip().to_string().starts_with("10.244.2."));
    }
    assert!(remote > 5);
}

#[test]
fn local_policy_without_local_endpoint_drops_outside_clients_and_serves_pods() {
    let mut tables = tables();
    let (verdict, _) = enter(&mut tables, &tcp(40_000, world::PORT_LOCAL_EMPTY, SYN), Side::Uplink);
    assert_eq!(verdict, Verdict::Drop(Reason::DropNoLocalEndpoint));
    let pod: IpAddr = "10.244.3.3".parse().unwrap();
    let frame =
        PacketBuilder::tcp((pod, 40_000).into(), (VIP_V4, world::PORT_LOCAL_EMPTY).into(), SYN).build();
    assert!(matches!(enter(&mut tables, &frame, Side::Uplink).0, Verdict::ToLink { .. }));
}

#[test]
fn no_endpoint_is_answered_with_port_unreachable() {
    let mut tables = tables();
    let asked = PacketBuilder::udp((CLIENT_V4, 40_000).into(), (VIP_V4, world::PORT_EMPTY).into())
        .vlan(0x8100, 42)
        .payload(b"a longer question")
        .build();
    let (verdict, answer) = enter(&mut tables, &asked, Side::Uplink);
    assert_eq!(verdict, Verdict::Answer(Reason::RefuseNoEndpoint));
    verify_checksums(&answer).unwrap();
    assert_eq!(answer[0..6], asked[6..12]);
    assert_eq!(answer[6..12], asked[0..6]);
    assert_eq!(answer[12..18], [0x81, 0x00, 0, 42, 0x08, 0x00], "the tag is kept");
    assert_eq!(answer[18 + 9], 1, "ICMP");
    assert_eq!(answer[18 + 12..18 + 20], [198, 51, 100, 10, 203, 0, 113, 7]);
    assert_eq!(answer[38..40], [3, 3], "destination unreachable, port unreachable");
    assert_eq!(answer[46..], asked[18..46], "quotes both headers");
}

#[test]
fn no_endpoint_is_answered_over_ipv6_too() {
    let mut tables = tables();
    let client: IpAddr = "2001:db8:9::7".parse().unwrap();
    let asked = PacketBuilder::udp((client, 40_000).into(), (VIP_V6, world::PORT_EMPTY).into())
        .payload(b"a longer question")
        .build();
    let (verdict, answer) = enter(&mut tables, &asked, Side::Uplink);
    assert_eq!(verdict, Verdict::Answer(Reason::RefuseNoEndpoint));
    verify_checksums(&answer).unwrap();
    assert_eq!(answer[20], 58, "ICMPv6");
    assert_eq!(answer[54..56], [1, 4], "destination unreachable, port unreachable");
    assert_eq!(answer[62..], asked[14..62]);
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut tables = tables();
    let frame = PacketBuilder::udp((CLIENT_V4, 40_000).into(), (VIP_V4, world::PORT_LOCAL).into())
        .without_udp_checksum()
        .build();
    let (_, forwarded) = enter(&mut tables, &frame, Side::Uplink);
    assert_eq!(forwarded[40..42], [0, 0]);
    verify_checksums(&forwarded).unwrap();
}

#[test]
fn ipv6_routing_header_passes_untouched() {
    let client: IpAddr = "2001:db8:9::7".parse().unwrap();
    let routed = PacketBuilder::udp((client, 40_000).into(), (VIP_V6, world::PORT_LOCAL).into())
        .extension(43, &[0; 6])
        .build();
    let (verdict, frame) = enter(&mut tables(), &routed, Side::Uplink);
    assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassOtherProtocol), routed));
}

#[test]
fn client_with_affinity_keeps_its_endpoint_until_that_is_gone() {
    let mut tables = tables();
    let first = chosen(&mut tables, &tcp(40_000, world::PORT_AFFINITY, SYN));
    for port in 40_001..40_050 {
        assert_eq!(chosen(&mut tables, &tcp(port, world::PORT_AFFINITY, SYN)), first);
    }
    give_up(&mut tables, first.ip());
    let second = chosen(&mut tables, &tcp(40_060, world::PORT_AFFINITY, SYN));
    assert_ne!(second, first);
    assert_eq!(chosen(&mut tables, &tcp(40_061, world::PORT_AFFINITY, SYN)), second);
}

#[test]
fn affinity_ends_after_its_timeout() {
    let mut tables = tables();
    let endpoints: BTreeSet<SocketAddr> = (0..40)
        .map(|port| {
            tables.now_s += world::AFFINITY_TIMEOUT_S + 1;
            chosen(&mut tables, &tcp(40_000 + port, world::PORT_AFFINITY, SYN))
        })
        .collect();
    assert!(endpoints.len() > 1);
}

#[test]
fn full_conntrack_drops_the_new_flow_and_says_so() {
    let mut tables = tables();
    chosen(&mut tables, &tcp(40_000, world::PORT_LOCAL, SYN));
    tables.flows_max = Some(tables.flows.len());
    let (verdict, _) = enter(&mut tables, &tcp(40_001, world::PORT_LOCAL, SYN), Side::Uplink);
    assert_eq!(verdict, Verdict::Drop(Reason::DropConntrackFull));
    assert_eq!(
        enter(&mut tables, &tcp(40_000, world::PORT_LOCAL, ACK), Side::Uplink).0.reason(),
        Reason::ForwardKnown
    );
}

#[test]
fn evicted_reply_entry_is_put_back_by_the_next_second() {
    let mut tables = tables();
    chosen(&mut tables, &udp(40_000, world::PORT_LOCAL));
    let reply = *tables.flows.iter().find(|(_, flow)| flow.flags != 0).unwrap().0;
    let entry = tables.flows.remove(&reply).unwrap();
    tables.now_s += 1;
    chosen(&mut tables, &udp(40_000, world::PORT_LOCAL));
    assert_eq!(tables.flows[&reply].new_source, entry.new_source);
    assert_eq!(tables.flows[&reply].flags, entry.flags);
}

#[test]
fn last_hop_and_missing_route_leave_the_packet_to_the_stack() {
    let mut tables = tables();
    let ring = Ring::new(900, 1);
    let remote = *tables.endpoints.iter().find(|(_, e)| !e.is_local() && e.takes_new_flows()).unwrap().0;
    tables.ring_slots.insert(900, remote);
    tables.rings.insert(NegKind::ClusterV4.id(0), ring);
    let last_hop = PacketBuilder::tcp((CLIENT_V4, 40_000).into(), (VIP_V4, world::PORT_MIXED).into(), SYN)
        .hop_limit(1)
        .build();
    let (verdict, frame) = enter(&mut tables, &last_hop, Side::Uplink);
    assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassHopLimit), last_hop));
    tables.default_route = None;
    let asked = tcp(40_000, world::PORT_MIXED, SYN);
    let (verdict, frame) = enter(&mut tables, &asked, Side::Uplink);
    assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassNoRoute), asked));
    assert!(tables.flows.is_empty(), "nothing is entered for a packet that was left alone");
}

fn caller(protocol: u8, cookie: u64) -> Caller {
    Caller { protocol, cookie, namespace_cookie: 1 }
}

fn vip(port: u16) -> Peer {
    Peer { address: VIP_V4.into(), port: Be16::new(port) }
}

#[test]
fn connect_gets_an_endpoint_and_getpeername_the_vip() {
    let mut tables = tables();
    let verdict = socket::connect(&mut tables, &caller(TCP, 9), &vip(world::PORT_MIXED));
    let SocketVerdict::Peer(Reason::ForwardSocket, peer) = verdict else { panic!("{verdict:?}") };
    assert_eq!(peer.port.get(), 8080);
    assert_eq!(socket::name(&mut tables, 9, &peer), Some(vip(world::PORT_MIXED)));
    assert_eq!(socket::name(&mut tables, 10, &peer), None, "another socket");
}

#[test]
fn connect_without_endpoint_is_refused_and_others_pass() {
    let mut tables = tables();
    let refused = socket::connect(&mut tables, &caller(TCP, 9), &vip(world::PORT_EMPTY));
    assert_eq!(refused, SocketVerdict::Refuse(Reason::RefuseNoEndpoint));
    let other = socket::connect(&mut tables, &caller(TCP, 9), &vip(443));
    assert_eq!(other, SocketVerdict::Pass(Reason::PassNotOurs));
}

#[test]
fn unconnected_socket_keeps_its_endpoint_from_datagram_to_datagram() {
    let mut tables = tables();
    for cookie in 0..20 {
        let peers: BTreeSet<String> = (0..5)
            .map(|_| {
                format!("{:?}", socket::sendmsg(&mut tables, &caller(UDP, cookie), &vip(world::PORT_MIXED)))
            })
            .collect();
        assert_eq!(peers.len(), 1);
    }
    let flows: u64 = tables.endpoint_traffic.values().map(|traffic| traffic.new_flows).sum();
    assert_eq!(flows, 20, "a flow is counted once");
}

#[test]
fn sockets_of_one_namespace_share_an_affinity() {
    let mut tables = tables();
    let policy = BackendService {
        flags: backend_service::flags::PRESENT | backend_service::flags::AFFINITY_CLIENT_IP,
        affinity_timeout_s: 60,
    };
    let key = FrontendKey::new(VIP_V4.into(), Be16::new(world::PORT_LOCAL), TCP);
    let id = tables.frontends[&key].backend_service;
    tables.backend_services.insert(id, policy);
    let peers: BTreeSet<String> = (0..30)
        .map(|cookie| {
            format!("{:?}", socket::connect(&mut tables, &caller(TCP, cookie), &vip(world::PORT_LOCAL)))
        })
        .collect();
    assert_eq!(peers.len(), 1);
}
