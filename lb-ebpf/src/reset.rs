//! Resets: a TCP packet that nobody serves, or whose connection's endpoint is gone, becomes the answer that a
//! host without that connection gives (RFC 9293 §3.10.7.1), from the address that was dialled.
//!
//! kube-proxy's reject rules send ICMP errors for TCP too. Linux only notes one that comes while `connect()`
//! still holds the socket (`tcp_v6_err`, `sk_err_soft`), as one from the node next to it does, and over IPv6
//! goes on to its next SYN, a second later. A reset waits for the socket (`sk_add_backlog`).
use lb_common::Be16;

use crate::checksum::{Delta, Sum};
use crate::header::{ethernet, ipv4, ipv6, tcp};
use crate::packet::Packet;
use crate::parse::{Family, Parsed};

/// TTL and hop limit of the answer.
const HOP_LIMIT: u8 = 64;
/// Header length of four-byte words, in the high four bits.
const DATA_OFFSET: u8 = ((tcp::LENGTH_BYTES / 4) as u8) << 4;

/// Turns the frame into the answer; the caller has seen that it is TCP and no reset itself. `None`: the
/// frame could not be rewritten and must be dropped.
#[inline(always)]
pub fn answer<P: Packet>(packet: &mut P, parsed: &Parsed) -> Option<()> {
    let segment = numbers(packet, parsed)?;
    packet.truncate(parsed.transport_offset() + tcp::LENGTH_BYTES)?;
    // Back to the sender: the two Ethernet addresses change places.
    let destination: [u8; 6] = packet.load(ethernet::DESTINATION)?;
    let source: [u8; 6] = packet.load(ethernet::SOURCE)?;
    packet.store(ethernet::DESTINATION, source)?;
    packet.store(ethernet::SOURCE, destination)?;
    match parsed.family {
        Family::V4 => network_v4(packet, parsed)?,
        Family::V6 => network_v6(packet, parsed)?,
    }
    transport(packet, parsed, &segment)
}

/// The numbers and flags of the answer.
struct Segment {
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    flags: u8,
}

/// "If the ACK bit is off, sequence number zero is used, `<SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>`; if
/// the ACK bit is on, `<SEQ=SEG.ACK><CTL=RST>`" (RFC 9293 §3.10.7.1).
#[inline(always)]
fn numbers<P: Packet>(packet: &P, parsed: &Parsed) -> Option<Segment> {
    let offset = parsed.transport_offset();
    let [s0, s1, s2, s3, a0, a1, a2, a3]: [u8; 8] = packet.load(offset + tcp::SEQUENCE)?;
    if parsed.tcp_flags & tcp::ACK != 0 {
        return Some(Segment { sequence: [a0, a1, a2, a3], acknowledgement: [0; 4], flags: tcp::RST });
    }
    let [words, _]: [u8; 2] = packet.load(offset + tcp::DATA_OFFSET)?;
    let header_bytes = u32::from(words >> 4) * 4;
    let end = parsed.network_offset() as u32 + network_length(packet, parsed)?;
    let data_bytes = end.saturating_sub(offset as u32 + header_bytes);
    // SYN and FIN take a place in the sequence each (RFC 9293 §3.4).
    let syn = u32::from(parsed.tcp_flags & tcp::SYN != 0);
    let fin = u32::from(parsed.tcp_flags & tcp::FIN != 0);
    let next = u32::from_be_bytes([s0, s1, s2, s3]).wrapping_add(data_bytes + syn + fin);
    Some(Segment { sequence: [0; 4], acknowledgement: next.to_be_bytes(), flags: tcp::RST | tcp::ACK })
}

/// Bytes from the IP header to the end of the packet, which a link may have padded.
#[inline(always)]
fn network_length<P: Packet>(packet: &P, parsed: &Parsed) -> Option<u32> {
    let offset = parsed.network_offset();
    Some(match parsed.family {
        Family::V4 => u32::from(Be16::from_bytes(packet.load(offset + ipv4::TOTAL_LENGTH)?).get()),
        Family::V6 => {
            let payload = Be16::from_bytes(packet.load(offset + ipv6::PAYLOAD_LENGTH)?).get();
            u32::from(payload) + ipv6::LENGTH_BYTES as u32
        }
    })
}

/// Options, if there are any, stay: they ask nothing of the way back that they did not ask of this one.
#[inline(always)]
fn network_v4<P: Packet>(packet: &mut P, parsed: &Parsed) -> Option<()> {
    let offset = parsed.network_offset();
    let length = (parsed.transport_offset() - offset + tcp::LENGTH_BYTES) as u16;
    let old_length = Be16::from_bytes(packet.load(offset + ipv4::TOTAL_LENGTH)?);
    let [ttl, protocol]: [u8; 2] = packet.load(offset + ipv4::TTL)?;
    let new = [Be16::new(length), Be16::from_bytes([HOP_LIMIT, protocol])];
    // Addresses that change places leave a sum as it is.
    let delta = Delta::of_words([old_length, Be16::from_bytes([ttl, protocol])], new);
    let checksum = Be16::from_bytes(packet.load(offset + ipv4::CHECKSUM)?);
    let [length, hops] = new;
    packet.store(offset + ipv4::TOTAL_LENGTH, length.bytes())?;
    packet.store(offset + ipv4::TTL, hops.bytes())?;
    packet.store(offset + ipv4::CHECKSUM, delta.apply(checksum).bytes())?;
    packet.store(offset + ipv4::ADDRESSES, parsed.key.destination.v4_bytes())?;
    packet.store(offset + ipv4::ADDRESSES + 4, parsed.key.source.v4_bytes())
}

#[inline(always)]
fn network_v6<P: Packet>(packet: &mut P, parsed: &Parsed) -> Option<()> {
    let offset = parsed.network_offset();
    let length = parsed.transport_offset() - offset + tcp::LENGTH_BYTES - ipv6::LENGTH_BYTES;
    let [_, _, next_header, _]: [u8; 4] = packet.load(offset + ipv6::PAYLOAD_LENGTH)?;
    let [l0, l1] = (length as u16).to_be_bytes();
    packet.store(offset + ipv6::PAYLOAD_LENGTH, [l0, l1, next_header, HOP_LIMIT])?;
    packet.store(offset + ipv6::ADDRESSES, parsed.key.destination.v6_bytes())?;
    packet.store(offset + ipv6::ADDRESSES + 16, parsed.key.source.v6_bytes())
}

#[inline(always)]
fn transport<P: Packet>(packet: &mut P, parsed: &Parsed, segment: &Segment) -> Option<()> {
    let offset = parsed.transport_offset();
    let ports = [parsed.key.destination_port, parsed.key.source_port];
    let [from, to] = ports.map(Be16::bytes);
    let control = [DATA_OFFSET, segment.flags];
    // Address order does not matter to a sum.
    let pseudo_header = Sum::default()
        .address(&parsed.key.source, parsed.family)
        .address(&parsed.key.destination, parsed.family)
        .word([0, lb_common::protocol::TCP])
        .word((tcp::LENGTH_BYTES as u16).to_be_bytes());
    let whole = pseudo_header
        .word(from)
        .word(to)
        .words(segment.sequence)
        .words(segment.acknowledgement)
        .word(control);
    packet.store(offset, from)?;
    packet.store(offset + 2, to)?;
    packet.store(offset + tcp::SEQUENCE, segment.sequence)?;
    packet.store(offset + tcp::SEQUENCE + 4, segment.acknowledgement)?;
    // Control, then a window of zero; the urgent pointer stands behind the checksum.
    packet.store(offset + tcp::DATA_OFFSET, control)?;
    packet.store(offset + tcp::DATA_OFFSET + 2, [0; 2])?;
    packet.store(offset + tcp::CHECKSUM + 2, [0; 2])?;
    packet.store_checksum(offset + tcp::CHECKSUM, whole.finish(), pseudo_header.finish())
}
