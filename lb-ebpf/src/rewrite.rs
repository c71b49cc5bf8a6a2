//! Writes a new five-tuple into a frame and keeps its checksums right.
use lb_common::Be16;
use lb_common::conntrack::Flow;

use crate::checksum::Delta;
use crate::header::{ethernet, ipv4, ipv6, tcp, udp};
use crate::packet::{Mac, Packet, TransportChecksum};
use crate::parse::{Family, Parsed, Transport};
use crate::sctp;

/// Gives a packet the addresses and ports of its flow's entry. `None`: the frame could not be written and must be dropped.
#[inline(always)]
pub fn translate<P: Packet>(packet: &mut P, parsed: &Parsed, flow: &Flow) -> Option<()> {
    let old = &parsed.key;
    let addresses = Delta::of_addresses(
        [&old.source, &old.destination],
        [&flow.new_source, &flow.new_destination],
        parsed.family,
    );
    let ports = Delta::of_words(
        [old.source_port, old.destination_port],
        [flow.new_source_port, flow.new_destination_port],
    );
    match parsed.family {
        Family::V4 => {
            let offset = parsed.network_offset();
            let checksum = Be16::from_bytes(packet.load(offset + ipv4::CHECKSUM)?);
            packet.store(offset + ipv4::CHECKSUM, addresses.apply(checksum).bytes())?;
            packet.store(offset + ipv4::ADDRESSES, flow.new_source.v4_bytes())?;
            packet.store(offset + ipv4::ADDRESSES + 4, flow.new_destination.v4_bytes())?;
        }
        Family::V6 => {
            let offset = parsed.network_offset() + ipv6::ADDRESSES;
            packet.store(offset, flow.new_source.v6_bytes())?;
            packet.store(offset + 16, flow.new_destination.v6_bytes())?;
        }
    }
    let offset = parsed.transport_offset();
    let field = match parsed.transport {
        Transport::Tcp => TransportChecksum::Tcp { offset: offset + tcp::CHECKSUM },
        Transport::Udp => TransportChecksum::Udp { offset: offset + udp::CHECKSUM },
        Transport::Sctp => {
            let [s0, s1] = flow.new_source_port.bytes();
            let [d0, d1] = flow.new_destination_port.bytes();
            return sctp::write_ports(packet, parsed, [s0, s1, d0, d1]);
        }
        Transport::None => return Some(()),
    };
    packet.store(offset, flow.new_source_port.bytes())?;
    packet.store(offset + 2, flow.new_destination_port.bytes())?;
    packet.patch_checksum(field, addresses, ports)
}

/// Takes one hop off a packet that this node sends on without its network stack; the caller has seen
/// that more than one is left.
#[inline(always)]
pub fn take_hop<P: Packet>(packet: &mut P, parsed: &Parsed) -> Option<()> {
    let hops = parsed.hop_limit.saturating_sub(1);
    match parsed.family {
        Family::V4 => {
            let offset = parsed.network_offset();
            let [_, protocol] = packet.load::<2>(offset + ipv4::TTL)?;
            let old = Be16::from_bytes([parsed.hop_limit, protocol]);
            let new = Be16::from_bytes([hops, protocol]);
            let delta = Delta::of_words([old, Be16::new(0)], [new, Be16::new(0)]);
            let checksum = Be16::from_bytes(packet.load(offset + ipv4::CHECKSUM)?);
            packet.store(offset + ipv4::CHECKSUM, delta.apply(checksum).bytes())?;
            packet.store(offset + ipv4::TTL, new.bytes())
        }
        Family::V6 => {
            // With its neighbour: from a bound of one byte the verifier (6.18) concludes nothing.
            let offset = parsed.network_offset() + ipv6::HOP_LIMIT - 1;
            let [next_header, _] = packet.load::<2>(offset)?;
            packet.store(offset, [next_header, hops])
        }
    }
}

/// Writes the Ethernet addresses.
#[inline(always)]
pub fn address_link<P: Packet>(packet: &mut P, source: Mac, destination: Mac) -> Option<()> {
    packet.store(ethernet::DESTINATION, destination.bytes())?;
    packet.store(ethernet::SOURCE, source.bytes())
}

/// Lets the Ethernet addresses change places: back to where the frame came from.
#[inline(always)]
pub fn turn_link<P: Packet>(packet: &mut P) -> Option<()> {
    let destination: [u8; 6] = packet.load(ethernet::DESTINATION)?;
    let source: [u8; 6] = packet.load(ethernet::SOURCE)?;
    packet.store(ethernet::DESTINATION, source)?;
    packet.store(ethernet::SOURCE, destination)
}

/// Moves a link header of `length_bytes` (tags included) from one offset to another one; the two places
/// do not overlap.
#[inline(always)]
pub fn move_link<P: Packet>(packet: &mut P, length_bytes: usize, from: usize, to: usize) -> Option<()> {
    let addresses: [u8; ethernet::LENGTH_BYTES] = packet.load(from)?;
    packet.store(to, addresses)?;
    let tags = [ethernet::LENGTH_BYTES, ethernet::LENGTH_BYTES + ethernet::VLAN_TAG_BYTES];
    for tag in tags {
        if tag >= length_bytes {
            break;
        }
        let bytes: [u8; ethernet::VLAN_TAG_BYTES] = packet.load(from + tag)?;
        packet.store(to + tag, bytes)?;
    }
    Some(())
}
