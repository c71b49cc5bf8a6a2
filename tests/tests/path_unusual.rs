//! Host tier: packets that are not plain TCP or UDP to a frontend. One packet, one fact.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::conntrack::FlowState;
use lb_common::counters::Reason;
use lb_common::protocol::SCTP;
use lb_ebpf::host::HostTables;
use lb_ebpf::path::Side;
use lb_ebpf::verdict::Verdict;
use lb_tests::host_path::{enter, leave};
use lb_tests::packet::build::chunk::{ABORT, DATA, INIT, SHUTDOWN};
use lb_tests::packet::build::tcp_flags::{ACK, RST, SYN};
use lb_tests::packet::{PacketBuilder, five_tuple, verify_checksums};
use lb_tests::world::{self, NODE_V4, OPEN_VIP_V4, UNALLOCATED_V4, UNALLOCATED_V6, VIP_V4, VIP_V6};

const UPLINK: u32 = 7;
const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fn tables() -> HostTables {
    HostTables { default_route: Some(world::route(UPLINK)), ..world::tables(1_000) }
}

fn client_v6() -> IpAddr {
    "2001:db8:9::7".parse().unwrap()
}

fn sctp(port: u16, to: u16, chunk: u8, payload_bytes: usize) -> Vec<u8> {
    PacketBuilder::sctp((CLIENT_V4, port).into(), (VIP_V4, to).into(), chunk)
        .payload(&vec![0xa5; payload_bytes])
        .build()
}

fn echo(source: IpAddr, destination: IpAddr) -> PacketBuilder {
    let kind = if source.is_ipv4() { 8 } else { 128 };
    PacketBuilder::icmp(source, destination, [kind, 0], [0x12, 0x34, 0, 7]).payload(b"are you there")
}

#[test]
fn sctp_association_gets_an_endpoint_and_its_checksum_follows_the_port() {
    for payload_bytes in [0, 1, 16, 333, 1_440] {
        let mut tables = tables();
        let (verdict, forwarded) = enter(&mut tables, &sctp(40_000, 81, INIT, payload_bytes), Side::Uplink);
        assert_eq!(verdict, Verdict::ToStack(Reason::ForwardNew));
        assert_eq!(five_tuple(&forwarded).unwrap().destination.port(), 8080);
        verify_checksums(&forwarded).unwrap();
    }
}

#[test]
fn sctp_reply_gets_the_vip_back() {
    let mut tables = tables();
    let asked = PacketBuilder::sctp((client_v6(), 40_000).into(), (VIP_V6, 81).into(), INIT).build();
    let (_, forwarded) = enter(&mut tables, &asked, Side::Uplink);
    let tuple = five_tuple(&forwarded).unwrap().reply();
    let reply = PacketBuilder::sctp(tuple.source, tuple.destination, DATA).payload(b"answer").build();
    let (verdict, back) = leave(&mut tables, &reply);
    assert_eq!(verdict, Verdict::ToStack(Reason::ForwardReply));
    assert_eq!(five_tuple(&back).unwrap(), five_tuple(&asked).unwrap().reply());
    verify_checksums(&back).unwrap();
}

#[test]
fn sctp_checksum_that_is_not_computed_yet_stays_zero() {
    let mut asked = sctp(40_000, 81, INIT, 16);
    asked[42..46].copy_from_slice(&[0; 4]);
    let (_, forwarded) = enter(&mut tables(), &asked, Side::Pod);
    assert_eq!(five_tuple(&forwarded).unwrap().destination.port(), 8080);
    assert_eq!(forwarded[42..46], [0; 4]);
}

#[test]
fn sctp_chunks_drive_the_state_of_a_flow() {
    let mut tables = tables();
    let mut state_after = |chunk| {
        let _ = enter(&mut tables, &sctp(40_000, 81, chunk, 16), Side::Uplink);
        let forward = tables
            .flows
            .iter()
            .find(|(key, _)| key.protocol == u32::from(SCTP) && key.source_port.get() == 40_000);
        forward.unwrap().1.state()
    };
    assert_eq!(state_after(INIT), FlowState::Opening);
    assert_eq!(state_after(DATA), FlowState::Established);
    assert_eq!(state_after(SHUTDOWN), FlowState::Closing);
    assert_eq!(state_after(ABORT), FlowState::Reset);
}

#[test]
fn unused_port_of_a_cluster_ip_is_refused() {
    for asked in [
        PacketBuilder::udp((CLIENT_V4, 40_000).into(), (VIP_V4, 999).into()).build(),
        sctp(40_000, 999, INIT, 16),
        PacketBuilder::of_protocol(47, (CLIENT_V4, 0).into(), (VIP_V4, 0).into()).payload(&[0; 24]).build(),
    ] {
        let (verdict, answer) = enter(&mut tables(), &asked, Side::Pod);
        assert_eq!(verdict, Verdict::Answer(Reason::RefuseUnusedPort));
        verify_checksums(&answer).unwrap();
        assert_eq!(answer[34..36], [3, 3], "port unreachable");
        let quoted = &answer[42..];
        assert_eq!(quoted, &asked[14..14 + quoted.len()]);
    }
}

#[test]
fn unused_port_of_a_cluster_ip_is_refused_over_ipv6() {
    let asked = PacketBuilder::udp((client_v6(), 40_000).into(), (VIP_V6, 999).into()).build();
    let (verdict, answer) = enter(&mut tables(), &asked, Side::Uplink);
    assert_eq!(verdict, Verdict::Answer(Reason::RefuseUnusedPort));
    verify_checksums(&answer).unwrap();
    assert_eq!(answer[54..56], [1, 4]);
}

#[test]
fn connection_to_an_unused_port_of_a_cluster_ip_is_reset() {
    for (client, vip) in [(CLIENT_V4, VIP_V4), (client_v6(), VIP_V6)] {
        let asked = PacketBuilder::tcp((client, 40_000).into(), (vip, 999).into(), SYN).build();
        let (verdict, answer) = enter(&mut tables(), &asked, Side::Pod);
        assert_eq!(verdict, Verdict::Answer(Reason::RefuseUnusedPort));
        verify_checksums(&answer).unwrap();
        let flags = answer[answer.len() - 7];
        assert_eq!(flags, RST | ACK);
    }
}

#[test]
fn unused_port_of_a_vip_that_may_be_a_hosts_own_passes() {
    let asked = PacketBuilder::tcp((CLIENT_V4, 40_000).into(), (OPEN_VIP_V4, 999).into(), SYN).build();
    let (verdict, frame) = enter(&mut tables(), &asked, Side::Uplink);
    assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassNotOurs), asked));
}

#[test]
fn service_address_without_service_is_dropped() {
    for asked in [
        PacketBuilder::tcp((CLIENT_V4, 40_000).into(), (UNALLOCATED_V4, 80).into(), SYN).build(),
        PacketBuilder::udp((client_v6(), 40_000).into(), (UNALLOCATED_V6, 80).into()).build(),
        echo(CLIENT_V4, UNALLOCATED_V4).build(),
        PacketBuilder::of_protocol(50, (CLIENT_V4, 0).into(), (UNALLOCATED_V4, 0).into())
            .payload(&[0; 24])
            .build(),
    ] {
        assert_eq!(enter(&mut tables(), &asked, Side::Uplink).0, Verdict::Drop(Reason::DropUnallocated));
    }
}

#[test]
fn echo_to_a_vip_is_answered() {
    for (client, vip) in [(CLIENT_V4, VIP_V4), (client_v6(), VIP_V6), (CLIENT_V4, OPEN_VIP_V4)] {
        for side in [Side::Uplink, Side::Pod] {
            let asked = echo(client, vip).vlan(0x8100, 9).hop_limit(3).build();
            let (verdict, answer) = enter(&mut tables(), &asked, side);
            assert_eq!(verdict, Verdict::Answer(Reason::AnswerEcho));
            verify_checksums(&answer).unwrap();
            let kind = if client.is_ipv4() { 0 } else { 129 };
            let reply = PacketBuilder::icmp(vip, client, [kind, 0], [0x12, 0x34, 0, 7]);
            let expected = reply.payload(b"are you there").vlan(0x8100, 9).build();
            assert_eq!(answer[12..], expected[12..]);
            assert_eq!((&answer[..6], &answer[6..12]), (&asked[6..12], &asked[..6]));
        }
    }
}

#[test]
fn echo_to_a_node_or_to_nobody_passes() {
    for destination in [NODE_V4, "192.0.2.77".parse().unwrap()] {
        let asked = echo(CLIENT_V4, destination).build();
        let (verdict, frame) = enter(&mut tables(), &asked, Side::Uplink);
        assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassOtherProtocol), asked));
    }
}

#[test]
fn vip_that_is_a_nodes_own_address_is_left_to_the_node() {
    let mut tables = tables();
    tables.nodes.insert(OPEN_VIP_V4.into());
    let asked = echo(CLIENT_V4, OPEN_VIP_V4).build();
    let (verdict, frame) = enter(&mut tables, &asked, Side::Uplink);
    assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassNotOurs), asked));
}

#[test]
fn neighbour_discovery_for_a_vip_passes_untouched() {
    for kind in 133..=137 {
        let asked = PacketBuilder::icmp(client_v6(), VIP_V6, [kind, 0], [0; 4]).payload(&[1; 16]).build();
        let (verdict, frame) = enter(&mut tables(), &asked, Side::Uplink);
        assert_eq!((verdict, frame), (Verdict::Pass(Reason::PassOtherProtocol), asked));
    }
}

#[test]
fn atomic_fragment_is_a_whole_packet() {
    let asked = PacketBuilder::udp((client_v6(), 40_000).into(), SocketAddr::new(VIP_V6, 81))
        .extension(44, &[0, 0, 0, 0, 0, 9])
        .build();
    let (verdict, forwarded) = enter(&mut tables(), &asked, Side::Uplink);
    assert_eq!(verdict, Verdict::ToStack(Reason::ForwardNew));
    verify_checksums(&forwarded).unwrap();
}
