//! Host tier: the path beside another proxy of the node.
use std::net::{IpAddr, Ipv4Addr};

use lb_common::config::flags;
use lb_common::counters::{Outcome, Reason};
use lb_ebpf::host::HostTables;
use lb_ebpf::path::Side;
use lb_ebpf::verdict::Verdict;
use lb_tests::host_path;
use lb_tests::packet::PacketBuilder;
use lb_tests::packet::build::tcp_flags::{ACK, SYN};
use lb_tests::world::{self, VIP_V4};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

fn tables(config_flags: u32) -> HostTables {
    let mut tables = HostTables { default_route: Some(world::route(7)), ..world::tables(1_000) };
    tables.config.as_mut().expect("a CONFIG").flags |= config_flags;
    tables
}

fn enter(tables: &mut HostTables, frame: &[u8]) -> Verdict {
    host_path::enter(tables, frame, Side::Uplink).0
}

fn tcp(port: u16, tcp_flags: u8) -> Vec<u8> {
    PacketBuilder::tcp((CLIENT, port).into(), (VIP_V4, world::PORT_LOCAL).into(), tcp_flags).build()
}

#[test]
fn beside_another_proxy_a_connection_without_its_beginning_passes() {
    let mut tables = tables(flags::BESIDE_PROXY);
    assert_eq!(enter(&mut tables, &tcp(40_000, ACK)), Verdict::Pass(Reason::PassNotOurs));
    assert_eq!(tables.flows.len(), 0);
}

#[test]
fn beside_another_proxy_a_new_connection_is_served_to_its_end() {
    let mut tables = tables(flags::BESIDE_PROXY);
    assert_eq!(enter(&mut tables, &tcp(40_000, SYN)).reason(), Reason::ForwardNew);
    assert_eq!(enter(&mut tables, &tcp(40_000, ACK)).reason(), Reason::ForwardKnown);
}

#[test]
fn beside_another_proxy_a_datagram_is_served() {
    let mut tables = tables(flags::BESIDE_PROXY);
    let to = (VIP_V4, world::PORT_LOCAL).into();
    let frame = PacketBuilder::udp((CLIENT, 40_000).into(), to).payload(b"ask").build();
    assert_eq!(enter(&mut tables, &frame).reason().outcome(), Outcome::Forward);
}

#[test]
fn alone_a_connection_without_its_beginning_is_led_by_the_ring() {
    let mut tables = tables(0);
    assert_eq!(enter(&mut tables, &tcp(40_000, ACK)).reason(), Reason::ForwardNew);
}
