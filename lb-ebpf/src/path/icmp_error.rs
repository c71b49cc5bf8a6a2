//! ICMP errors about packets that were translated: the sender of an error saw the packet as it was behind
//! the rewrite, and whom the error is for must see it as it was before (RFC 5508 §4.2, RFC 7915 §4.2). So
//! path MTU discovery works through a VIP, and "port unreachable" reaches the client's socket.
//!
//! Read backwards, the quoted five-tuple is that of a packet that goes the error's way: the entry of such a
//! packet says how the error is rewritten, inside and outside.
use bytemuck::Zeroable as _;
use lb_common::Be16;
use lb_common::conntrack::{Direction, Flow, FlowKey, flags};
use lb_common::counters::Reason;
use lb_common::protocol;

use crate::checksum::{Delta, apply_to_udp};
use crate::header::{HEADERS_BYTES_MAX, icmp, ipv4, ipv6, tcp, udp};
use crate::packet::Packet;
use crate::parse::{Family, Parsed};
use crate::tables::Tables;
use crate::verdict::Verdict;

use super::Scratch;
use super::unusual::Turn;
use super::way::{Way, leave, way_for};

/// Bytes of the quoted transport header that are always there (RFC 792, RFC 4443 §2.4(c)).
const TRANSPORT_BYTES_MIN: usize = 8;

/// Where the error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Before the node's stack.
    Entering,
    /// Behind it.
    Leaving,
}

/// What an error quotes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Quote {
    /// The quoted five-tuple backwards.
    key: FlowKey,
    /// Offset of the quoted IP header, bytes.
    network_offset: u8,
    /// Offset of the quoted transport header, bytes.
    transport_offset: u8,
}

impl Quote {
    pub(super) fn empty() -> Self {
        Self { key: FlowKey::zeroed(), network_offset: 0, transport_offset: 0 }
    }
}

/// Whether a message of this type is an error with a quoted packet.
#[inline(always)]
pub(super) const fn is_error(family: Family, kind: u8) -> bool {
    match family {
        Family::V4 => {
            matches!(kind, icmp::V4_UNREACHABLE | icmp::V4_TIME_EXCEEDED | icmp::V4_PARAMETER_PROBLEM)
        }
        Family::V6 => matches!(
            kind,
            icmp::V6_UNREACHABLE | icmp::V6_TOO_BIG | icmp::V6_TIME_EXCEEDED | icmp::V6_PARAMETER_PROBLEM
        ),
    }
}

/// Finds the flow of the quoted packet and the error's way; both are then in the scratch for [`send`]. It is
/// no packet of the flow: the flow's state and times stay as they are. One from the endpoint's side leaves a mark that
/// the endpoint is unreachable, for whoever judges endpoints by what becomes of their flows.
#[inline(never)]
pub(super) fn find<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &mut T,
    scratch: &mut Scratch,
    hook: Hook,
) -> Turn {
    let Scratch { parsed, entries, way, quote, .. } = scratch;
    *way = Way::blocked(Reason::PassNotOurs);
    if !read(packet, parsed, quote) || parsed.key.destination != quote.key.destination {
        return Turn::Blocked;
    }
    let Some(known) = tables.flow(&quote.key) else {
        return Turn::Blocked;
    };
    let is_here = match known.direction() {
        Direction::ToBackend => hook == Hook::Entering,
        Direction::ToClient => (hook == Hook::Entering) == known.is_source_nat(),
    };
    if !is_here {
        return Turn::Blocked;
    }
    if known.direction() == Direction::ToClient && is_unreachable(packet, parsed) {
        tables.mark_flow(&known, flags::UNREACHABLE);
    }
    entries.flow = *known;
    *way = way_for(tables, parsed, &entries.flow, packet.length_bytes());
    if way.is_blocked() { Turn::Blocked } else { Turn::IcmpError }
}

/// Whether the error says that its target cannot be reached: all destination-unreachable messages do but that a
/// packet is too big (RFC 1191 §4).
#[inline(always)]
fn is_unreachable<P: Packet>(packet: &P, parsed: &Parsed) -> bool {
    let Some([kind, code]) = packet.load::<2>(parsed.transport_offset()) else {
        return false;
    };
    match parsed.family {
        Family::V4 => kind == icmp::V4_UNREACHABLE && code != icmp::V4_FRAGMENTATION_NEEDED,
        Family::V6 => kind == icmp::V6_UNREACHABLE,
    }
}

/// Rewrites the error and sends it on its way.
#[inline(never)]
pub(super) fn send<P: Packet, T: Tables>(packet: &mut P, tables: &mut T, scratch: &mut Scratch) -> Verdict {
    let Scratch { parsed, entries, way, quote, .. } = scratch;
    match rewrite(packet, parsed, quote, &entries.flow) {
        Some(()) => leave(packet, tables, parsed, &entries.flow, way, Reason::ForwardIcmpError),
        None => Verdict::Drop(Reason::DropRewriteFailed),
    }
}

/// Reads the quoted packet; `false` where it is not one of ours for sure.
#[inline(never)]
fn read<P: Packet>(packet: &mut P, parsed: &Parsed, quote: &mut Quote) -> bool {
    let network_offset = parsed.transport_offset() + icmp::LENGTH_BYTES;
    // The quote begins later than headers usually end.
    if packet.reveal(network_offset + HEADERS_BYTES_MAX).is_none() {
        return false;
    }
    let found = match parsed.family {
        Family::V4 => network_v4(packet, network_offset, quote),
        Family::V6 => network_v6(packet, network_offset, quote),
    };
    let Some(transport_offset) = found else {
        return false;
    };
    let Some([s0, s1, d0, d1, ..]) = packet.load::<TRANSPORT_BYTES_MIN>(transport_offset) else {
        return false;
    };
    quote.key.source_port = Be16::from_bytes([d0, d1]);
    quote.key.destination_port = Be16::from_bytes([s0, s1]);
    quote.network_offset = network_offset as u8;
    quote.transport_offset = transport_offset as u8;
    true
}

/// The quoted addresses and protocol, and the offset of the transport header.
#[inline(always)]
fn network_v4<P: Packet>(packet: &P, offset: usize, quote: &mut Quote) -> Option<usize> {
    let bytes: [u8; ipv4::LENGTH_BYTES] = packet.load(offset)?;
    let [version_ihl, _, _, _, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = bytes;
    let header_bytes = ((version_ihl & 0x0f) as usize) * 4;
    let is_first = u16::from_be_bytes([f0, f1]) & ipv4::FRAGMENT_OFFSET_MASK == 0;
    if version_ihl >> 4 != 4 || header_bytes < ipv4::LENGTH_BYTES || !is_first || !has_ports(protocol) {
        return None;
    }
    quote.key.source = lb_common::Address::v4([d0, d1, d2, d3]);
    quote.key.destination = lb_common::Address::v4([s0, s1, s2, s3]);
    quote.key.protocol = protocol as u32;
    Some(offset + header_bytes)
}

/// As [`network_v4`]; the packet may be a first fragment, whatever other headers stand before are not
/// looked through.
#[inline(always)]
fn network_v6<P: Packet>(packet: &P, offset: usize, quote: &mut Quote) -> Option<usize> {
    let [version, _, _, _, _, _, next_header, _] = packet.load::<8>(offset)?;
    let source: [u8; 16] = packet.load(offset + ipv6::ADDRESSES)?;
    let destination: [u8; 16] = packet.load(offset + ipv6::ADDRESSES + 16)?;
    let mut protocol = next_header;
    let mut transport_offset = offset + ipv6::LENGTH_BYTES;
    if next_header == ipv6::FRAGMENT {
        let [next_header, _, p0, p1] = packet.load::<4>(transport_offset)?;
        if u16::from_be_bytes([p0, p1]) & ipv6::FRAGMENT_OFFSET_MASK != 0 {
            return None;
        }
        protocol = next_header;
        transport_offset += ipv6::FRAGMENT_BYTES;
    }
    if version >> 4 != 6 || !has_ports(protocol) {
        return None;
    }
    quote.key.source = lb_common::Address::v6(destination);
    quote.key.destination = lb_common::Address::v6(source);
    quote.key.protocol = protocol as u32;
    Some(transport_offset)
}

#[inline(always)]
const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
}

/// Writes the quoted packet as it was before the rewrite, the error's own addresses, and every checksum.
/// An error that a router between the two sent keeps the router's address, but where replies must come to
/// this node.
#[inline(never)]
fn rewrite<P: Packet>(packet: &mut P, parsed: &Parsed, quote: &Quote, flow: &Flow) -> Option<()> {
    let comes_from_peer = parsed.key.source == quote.key.source;
    let hides_source = flow.is_source_nat() && matches!(flow.direction(), Direction::ToBackend);
    let source = if comes_from_peer || hides_source { &flow.new_source } else { &parsed.key.source };
    let outside = Delta::of_addresses(
        [&parsed.key.source, &parsed.key.destination],
        [source, &flow.new_destination],
        parsed.family,
    );
    let mut delta = inside(packet, parsed, quote, flow)?;
    let offset = parsed.network_offset();
    match parsed.family {
        Family::V4 => {
            let checksum = Be16::from_bytes(packet.load(offset + ipv4::CHECKSUM)?);
            packet.store(offset + ipv4::CHECKSUM, outside.apply(checksum).bytes())?;
            packet.store(offset + ipv4::ADDRESSES, source.v4_bytes())?;
            packet.store(offset + ipv4::ADDRESSES + 4, flow.new_destination.v4_bytes())?;
        }
        Family::V6 => {
            delta = delta.and(outside);
            packet.store(offset + ipv6::ADDRESSES, source.v6_bytes())?;
            packet.store(offset + ipv6::ADDRESSES + 16, flow.new_destination.v6_bytes())?;
        }
    }
    // The whole message is covered, so the sum that a card has taken of it stays right.
    let offset = parsed.transport_offset() + icmp::CHECKSUM;
    let checksum = Be16::from_bytes(packet.load(offset)?);
    packet.store(offset, delta.apply(checksum).bytes())
}

/// Writes the quoted packet; what that does to the sum of the message.
#[inline(always)]
fn inside<P: Packet>(packet: &mut P, parsed: &Parsed, quote: &Quote, flow: &Flow) -> Option<Delta> {
    let addresses = Delta::of_addresses(
        [&quote.key.destination, &quote.key.source],
        [&flow.new_destination, &flow.new_source],
        parsed.family,
    );
    let ports = Delta::of_words(
        [quote.key.destination_port, quote.key.source_port],
        [flow.new_destination_port, flow.new_source_port],
    );
    let mut delta = addresses.and(ports);
    let offset = quote.network_offset as usize;
    match parsed.family {
        Family::V4 => {
            delta = delta.and(patch(packet, offset + ipv4::CHECKSUM, addresses, false)?);
            packet.store(offset + ipv4::ADDRESSES, flow.new_destination.v4_bytes())?;
            packet.store(offset + ipv4::ADDRESSES + 4, flow.new_source.v4_bytes())?;
        }
        Family::V6 => {
            packet.store(offset + ipv6::ADDRESSES, flow.new_destination.v6_bytes())?;
            packet.store(offset + ipv6::ADDRESSES + 16, flow.new_source.v6_bytes())?;
        }
    }
    let offset = quote.transport_offset as usize;
    packet.store(offset, flow.new_destination_port.bytes())?;
    packet.store(offset + 2, flow.new_source_port.bytes())?;
    if quote.key.protocol == protocol::UDP as u32 {
        return Some(delta.and(patch(packet, offset + udp::CHECKSUM, addresses.and(ports), true)?));
    }
    // TCP's stands behind the least that is quoted; SCTP's covers more than is.
    let checksum_end = offset + tcp::CHECKSUM + 2;
    if quote.key.protocol == protocol::TCP as u32 && checksum_end <= end(packet, parsed)? {
        return Some(delta.and(patch(packet, offset + tcp::CHECKSUM, addresses.and(ports), false)?));
    }
    Some(delta)
}

/// Makes a checksum follow a change; what the new checksum does to a sum that covers it.
#[inline(always)]
fn patch<P: Packet>(packet: &mut P, offset: usize, change: Delta, is_udp: bool) -> Option<Delta> {
    let old = Be16::from_bytes(packet.load(offset)?);
    let new = if is_udp { apply_to_udp(change, old) } else { change.apply(old) };
    packet.store(offset, new.bytes())?;
    Some(Delta::of_words([old, Be16::new(0)], [new, Be16::new(0)]))
}

/// Offset of the end of the IP packet.
#[inline(always)]
fn end<P: Packet>(packet: &P, parsed: &Parsed) -> Option<usize> {
    let offset = parsed.network_offset();
    let bytes = match parsed.family {
        Family::V4 => u16::from_be_bytes(packet.load(offset + ipv4::TOTAL_LENGTH)?) as usize,
        Family::V6 => {
            u16::from_be_bytes(packet.load(offset + ipv6::PAYLOAD_LENGTH)?) as usize + ipv6::LENGTH_BYTES
        }
    };
    Some(offset + bytes)
}
