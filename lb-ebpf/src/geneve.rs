//! The encapsulation of direct server return: Geneve (RFC 8926) around the packet as its endpoint is to
//! see it, with one option that carries the VIP and port that the client dialled. The outer packet is
//! addressed to the endpoint itself, so ordinary routes lead it to the endpoint's node.
//!
//! The outer headers, each of a fixed length: IP, UDP, Geneve, the option. The inner packet is IP without
//! Ethernet, of the family of the outer one.
use lb_common::config::Config;
use lb_common::conntrack::Flow;
use lb_common::{Address, Be16, flow_hash};

use crate::checksum::Sum;
use crate::header::{ethernet, ipv4, ipv6, udp};
use crate::packet::Packet;
use crate::parse::{Family, Parsed};

/// Geneve header without options (RFC 8926 §3.4), bytes.
const HEADER_BYTES: usize = 8;
/// Option header (RFC 8926 §3.5), bytes.
const OPTION_HEADER_BYTES: usize = 4;
/// The VIP, the port and two bytes of zero.
const OPTION_V4_BYTES: usize = 8;
const OPTION_V6_BYTES: usize = 20;
/// The header's flag "a critical option is there": who does not know it must drop the packet.
const CRITICAL_OPTIONS: u8 = 0x40;
/// An option class for experimental use (RFC 8926 §7), and our type there with its critical bit.
const OPTION_CLASS_TYPE: [u8; 3] = [0xff, 0xf0, 0x81];
/// TTL and hop limit of the outer packet.
const HOP_LIMIT: u8 = 64;
/// IPv4 flags: don't fragment. Whether it fits is known before.
const DO_NOT_FRAGMENT: [u8; 2] = [0x40, 0];
const PROTOCOL_UDP: u8 = lb_common::protocol::UDP;

/// Bytes that the encapsulation adds to a packet.
#[must_use]
#[inline(always)]
pub const fn overhead_bytes(family: Family) -> usize {
    let (network_bytes, option_bytes) = match family {
        Family::V4 => (ipv4::LENGTH_BYTES, OPTION_V4_BYTES),
        Family::V6 => (ipv6::LENGTH_BYTES, OPTION_V6_BYTES),
    };
    network_bytes + udp::LENGTH_BYTES + HEADER_BYTES + OPTION_HEADER_BYTES + option_bytes
}

/// Puts a packet, rewritten for its endpoint, into an outer one from this node. `parsed` is the packet as
/// it came: its destination is the VIP. `None`: the frame could not be written and must be dropped.
#[inline(always)]
pub fn wrap<P: Packet>(packet: &mut P, config: &Config, parsed: &Parsed, flow: &Flow) -> Option<()> {
    let start = parsed.network_offset();
    let source_port = source_port(parsed);
    match parsed.family {
        Family::V4 => {
            let [_, service, l0, l1] = packet.load::<4>(start)?;
            let inner_bytes = u16::from_be_bytes([l0, l1]);
            packet.open_network(start, overhead_bytes(Family::V4), Family::V4)?;
            wrap_v4(packet, config, parsed, flow, service, inner_bytes)?;
            let at = start + ipv4::LENGTH_BYTES;
            let udp_bytes =
                inner_bytes.wrapping_add((overhead_bytes(Family::V4) - ipv4::LENGTH_BYTES) as u16);
            tunnel(packet, at, [source_port, config.dsr_port], udp_bytes, Family::V4)?;
            let option = at + udp::LENGTH_BYTES + HEADER_BYTES + OPTION_HEADER_BYTES;
            packet.store(option, parsed.key.destination.v4_bytes())?;
            let [p0, p1] = parsed.key.destination_port.bytes();
            packet.store(option + 4, [p0, p1, 0, 0])
        }
        Family::V6 => {
            let [class_high, class, _, _, l0, l1, _, _] = packet.load::<8>(start)?;
            let inner_bytes = u16::from_be_bytes([l0, l1]).wrapping_add(ipv6::LENGTH_BYTES as u16);
            packet.open_network(start, overhead_bytes(Family::V6), Family::V6)?;
            let udp_bytes =
                inner_bytes.wrapping_add((overhead_bytes(Family::V6) - ipv6::LENGTH_BYTES) as u16);
            let [u0, u1] = udp_bytes.to_be_bytes();
            // The class of the inner packet without its ECN bits (RFC 6040 §4.1, compatibility mode).
            let first = [class_high, class & 0xc0, 0, 0, u0, u1, PROTOCOL_UDP, HOP_LIMIT];
            packet.store(start, first)?;
            packet.store(start + ipv6::ADDRESSES, config.node_v6.v6_bytes())?;
            packet.store(start + ipv6::ADDRESSES + 16, flow.new_destination.v6_bytes())?;
            let at = start + ipv6::LENGTH_BYTES;
            tunnel(packet, at, [source_port, config.dsr_port], udp_bytes, Family::V6)?;
            let option = at + udp::LENGTH_BYTES + HEADER_BYTES + OPTION_HEADER_BYTES;
            packet.store(option, parsed.key.destination.v6_bytes())?;
            let [p0, p1] = parsed.key.destination_port.bytes();
            packet.store(option + 16, [p0, p1, 0, 0])
        }
    }
}

/// Spreads flows over equal routes (RFC 8926 §3.3 recommends the dynamic ports).
#[inline(always)]
fn source_port(parsed: &Parsed) -> Be16 {
    Be16::new(0xc000 | (flow_hash::of_flow(&parsed.key) >> 18) as u16)
}

#[inline(always)]
fn wrap_v4<P: Packet>(
    packet: &mut P,
    config: &Config,
    parsed: &Parsed,
    flow: &Flow,
    service: u8,
    inner_bytes: u16,
) -> Option<()> {
    let start = parsed.network_offset();
    let [l0, l1] = inner_bytes.wrapping_add(overhead_bytes(Family::V4) as u16).to_be_bytes();
    // The class of the inner packet without its ECN bits (RFC 6040 §4.1, compatibility mode).
    let first = [0x45, service & 0xfc, l0, l1];
    let third = [HOP_LIMIT, PROTOCOL_UDP];
    let checksum = Sum::default()
        .words(first)
        .word(DO_NOT_FRAGMENT)
        .word(third)
        .address(&config.node_v4, Family::V4)
        .address(&flow.new_destination, Family::V4)
        .finish();
    let [f0, f1] = DO_NOT_FRAGMENT;
    let [hops, protocol] = third;
    let [c0, c1] = checksum.bytes();
    packet.store(start, first)?;
    packet.store(start + 4, [0, 0, f0, f1, hops, protocol, c0, c1])?;
    packet.store(start + ipv4::ADDRESSES, config.node_v4.v4_bytes())?;
    packet.store(start + ipv4::ADDRESSES + 4, flow.new_destination.v4_bytes())
}

/// Writes the UDP, Geneve and option headers. The UDP checksum is zero: the inner packet has its own
/// (RFC 8926 §3.3; RFC 6935 §5 for IPv6).
#[inline(always)]
fn tunnel<P: Packet>(
    packet: &mut P,
    at: usize,
    ports: [Be16; 2],
    udp_bytes: u16,
    family: Family,
) -> Option<()> {
    let [source, destination] = ports;
    let ([s0, s1], [d0, d1], [l0, l1]) = (source.bytes(), destination.bytes(), udp_bytes.to_be_bytes());
    packet.store(at, [s0, s1, d0, d1, l0, l1, 0, 0])?;
    packet.store(at + udp::LENGTH_BYTES, header(family))?;
    packet.store(at + udp::LENGTH_BYTES + HEADER_BYTES, option_header(family))
}

/// Version 0, the length of the options in four-byte words, flags, protocol, network 0.
const fn header(family: Family) -> [u8; HEADER_BYTES] {
    let option_bytes = OPTION_HEADER_BYTES
        + match family {
            Family::V4 => OPTION_V4_BYTES,
            Family::V6 => OPTION_V6_BYTES,
        };
    let [t0, t1] = match family {
        Family::V4 => ethernet::TYPE_IPV4.to_be_bytes(),
        Family::V6 => ethernet::TYPE_IPV6.to_be_bytes(),
    };
    [(option_bytes / 4) as u8, CRITICAL_OPTIONS, t0, t1, 0, 0, 0, 0]
}

const fn option_header(family: Family) -> [u8; OPTION_HEADER_BYTES] {
    let [c0, c1, kind] = OPTION_CLASS_TYPE;
    let words = match family {
        Family::V4 => OPTION_V4_BYTES / 4,
        Family::V6 => OPTION_V6_BYTES / 4,
    };
    [c0, c1, kind, words as u8]
}

/// Whether the outer IP header is as long as those that [`wrap`] writes.
#[must_use]
#[inline(always)]
pub const fn has_own_length(parsed: &Parsed) -> bool {
    let network_bytes = match parsed.family {
        Family::V4 => ipv4::LENGTH_BYTES,
        Family::V6 => ipv6::LENGTH_BYTES,
    };
    parsed.transport_offset() - parsed.network_offset() == network_bytes
}

/// Reads the frontend that an encapsulated packet's client dialled into `flow`'s new source. `false`: it
/// is no encapsulation of ours.
#[inline(always)]
pub fn read_vip<P: Packet>(packet: &P, parsed: &Parsed, flow: &mut Flow) -> bool {
    try_read_vip(packet, parsed, flow).unwrap_or(false)
}

#[inline(always)]
fn try_read_vip<P: Packet>(packet: &P, parsed: &Parsed, flow: &mut Flow) -> Option<bool> {
    let at = parsed.transport_offset() + udp::LENGTH_BYTES;
    let family = parsed.family;
    if packet.load::<HEADER_BYTES>(at)? != header(family)
        || packet.load::<OPTION_HEADER_BYTES>(at + HEADER_BYTES)? != option_header(family)
    {
        return Some(false);
    }
    let option = at + HEADER_BYTES + OPTION_HEADER_BYTES;
    let inner_destination = match family {
        Family::V4 => {
            let [a, b, c, d, p0, p1, _, _] = packet.load::<OPTION_V4_BYTES>(option)?;
            flow.new_source = Address::v4([a, b, c, d]);
            flow.new_source_port = Be16::from_bytes([p0, p1]);
            Address::v4(packet.load::<4>(option + OPTION_V4_BYTES + ipv4::ADDRESSES + 4)?)
        }
        Family::V6 => {
            flow.new_source = Address::v6(packet.load::<16>(option)?);
            flow.new_source_port = Be16::from_bytes(packet.load::<2>(option + 16)?);
            Address::v6(packet.load::<16>(option + OPTION_V6_BYTES + ipv6::ADDRESSES + 16)?)
        }
    };
    // Ours go to the endpoint inside and outside.
    Some(inner_destination == parsed.key.destination)
}

/// Takes the outer headers off. `None`: the frame could not be written and must be dropped.
#[inline(always)]
pub fn unwrap<P: Packet>(packet: &mut P, parsed: &Parsed) -> Option<()> {
    let start = parsed.network_offset();
    match parsed.family {
        Family::V4 => packet.close_network(start, overhead_bytes(Family::V4)),
        Family::V6 => packet.close_network(start, overhead_bytes(Family::V6)),
    }
}
