//! Answers in place of whoever was asked.
//!
//! Refusals: the packet becomes an ICMP or ICMPv6 "destination unreachable, port unreachable" for its
//! sender (RFC 792; RFC 4443 §3.1). That is what kube-proxy's reject rules send, for TCP too; Linux
//! ends a `connect()` on it with "connection refused" (RFC 1122 §4.2.3.9).
use lb_common::Be16;

use crate::checksum::{Delta, Sum};
use crate::header::{self, ethernet, ipv4, ipv6, tcp, udp};
use crate::packet::Packet;
use crate::parse::{Family, Parsed};

/// ICMP header length, bytes.
const ICMP_BYTES: usize = 8;
/// TTL and hop limit of the answer.
const HOP_LIMIT: u8 = 64;
/// ICMP destination unreachable, port unreachable.
const V4_TYPE_CODE: [u8; 2] = [3, 3];
/// `ICMPv6` destination unreachable, port unreachable.
const V6_TYPE_CODE: [u8; 2] = [1, 4];
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
/// Four-byte steps that the longest quote takes: a transport header starts at most
/// [`header::TRANSPORT_OFFSET_MAX`] bytes into the frame.
const QUOTE_STEPS_MAX: usize = (header::TRANSPORT_OFFSET_MAX + tcp::LENGTH_BYTES) / 4;

/// Turns the frame into the answer, from the address that was dialled. `None`: the frame could not be
/// rewritten and must be dropped.
#[inline(never)]
pub fn refuse<P: Packet>(packet: &mut P, parsed: &Parsed) -> Option<()> {
    // At least 8 bytes of the transport header (RFC 792); of TCP the whole one up to its options, since
    // the kernel cuts no skb before a checksum that it has yet to compute.
    let transport_bytes = if parsed.is_tcp() { tcp::LENGTH_BYTES } else { udp::LENGTH_BYTES };
    let quoted_bytes = parsed.transport_offset() - parsed.network_offset() + transport_bytes;
    packet.truncate(parsed.network_offset() + quoted_bytes)?;
    let destination: [u8; 6] = packet.load(ethernet::DESTINATION)?;
    let source: [u8; 6] = packet.load(ethernet::SOURCE)?;
    let added_bytes = ICMP_BYTES
        + match parsed.family {
            Family::V4 => ipv4::LENGTH_BYTES,
            Family::V6 => ipv6::LENGTH_BYTES,
        };
    packet.grow_front(added_bytes)?;
    move_link_header(packet, parsed, added_bytes)?;
    // Back to the sender: the two Ethernet addresses change places.
    packet.store(ethernet::DESTINATION, source)?;
    packet.store(ethernet::SOURCE, destination)?;
    match parsed.family {
        Family::V4 => network_v4(packet, parsed, quoted_bytes)?,
        Family::V6 => network_v6(packet, parsed, quoted_bytes)?,
    }
    let icmp_offset = parsed.network_offset() + added_bytes - ICMP_BYTES;
    icmp(packet, parsed, icmp_offset, quoted_bytes)
}

/// Turns an echo request into its reply (RFC 792; RFC 4443 §4.2). `None`: the frame could not be rewritten
/// and must be dropped.
#[inline(always)]
pub fn answer_echo<P: Packet>(packet: &mut P, parsed: &Parsed) -> Option<()> {
    let destination: [u8; 6] = packet.load(ethernet::DESTINATION)?;
    let source: [u8; 6] = packet.load(ethernet::SOURCE)?;
    packet.store(ethernet::DESTINATION, source)?;
    packet.store(ethernet::SOURCE, destination)?;
    let offset = parsed.network_offset();
    let reply_type = match parsed.family {
        Family::V4 => {
            // Addresses that change places leave a sum as it is.
            let [hops, protocol] = packet.load::<2>(offset + ipv4::TTL)?;
            let delta = Delta::of_words(
                [Be16::from_bytes([hops, protocol]), Be16::new(0)],
                [Be16::from_bytes([HOP_LIMIT, protocol]), Be16::new(0)],
            );
            let checksum = Be16::from_bytes(packet.load(offset + ipv4::CHECKSUM)?);
            packet.store(offset + ipv4::CHECKSUM, delta.apply(checksum).bytes())?;
            packet.store(offset + ipv4::TTL, [HOP_LIMIT, protocol])?;
            packet.store(offset + ipv4::ADDRESSES, parsed.key.destination.v4_bytes())?;
            packet.store(offset + ipv4::ADDRESSES + 4, parsed.key.source.v4_bytes())?;
            header::icmp::V4_ECHO_REPLY
        }
        Family::V6 => {
            let [next_header, _] = packet.load::<2>(offset + ipv6::HOP_LIMIT - 1)?;
            packet.store(offset + ipv6::HOP_LIMIT - 1, [next_header, HOP_LIMIT])?;
            packet.store(offset + ipv6::ADDRESSES, parsed.key.destination.v6_bytes())?;
            packet.store(offset + ipv6::ADDRESSES + 16, parsed.key.source.v6_bytes())?;
            header::icmp::V6_ECHO_REPLY
        }
    };
    let offset = parsed.transport_offset();
    let old: [u8; 2] = packet.load(offset)?;
    let [_, code] = old;
    let new = [reply_type, code];
    let delta = Delta::of_words([Be16::from_bytes(old), Be16::new(0)], [Be16::from_bytes(new), Be16::new(0)]);
    let checksum = Be16::from_bytes(packet.load(offset + header::icmp::CHECKSUM)?);
    packet.store(offset, new)?;
    packet.store(offset + header::icmp::CHECKSUM, delta.apply(checksum).bytes())
}

/// `EtherType` and tags stand before the new IP header as they stood before the old one.
#[inline(always)]
fn move_link_header<P: Packet>(packet: &mut P, parsed: &Parsed, added_bytes: usize) -> Option<()> {
    let tagged = [ethernet::LENGTH_BYTES - 2, ethernet::LENGTH_BYTES + 2, ethernet::LENGTH_BYTES + 6];
    for offset in tagged {
        if offset >= parsed.network_offset() {
            break;
        }
        if offset + 4 <= parsed.network_offset() {
            let bytes: [u8; 4] = packet.load(offset + added_bytes)?;
            packet.store(offset, bytes)?;
        } else {
            let bytes: [u8; 2] = packet.load(offset + added_bytes)?;
            packet.store(offset, bytes)?;
        }
    }
    Some(())
}

#[inline(always)]
fn network_v4<P: Packet>(packet: &mut P, parsed: &Parsed, quoted_bytes: usize) -> Option<()> {
    let [l0, l1] = ((ipv4::LENGTH_BYTES + ICMP_BYTES + quoted_bytes) as u16).to_be_bytes();
    let first = [0x45, 0, l0, l1];
    let third = [HOP_LIMIT, PROTOCOL_ICMP];
    let checksum = Sum::default()
        .words(first)
        .word(third)
        .address(&parsed.key.source, Family::V4)
        .address(&parsed.key.destination, Family::V4)
        .finish();
    let offset = parsed.network_offset();
    packet.store(offset, first)?;
    packet.store(offset + 4, [0u8; 4])?;
    packet.store(offset + ipv4::TTL, third)?;
    packet.store(offset + ipv4::CHECKSUM, checksum.bytes())?;
    packet.store(offset + ipv4::ADDRESSES, parsed.key.destination.v4_bytes())?;
    packet.store(offset + ipv4::ADDRESSES + 4, parsed.key.source.v4_bytes())
}

#[inline(always)]
fn network_v6<P: Packet>(packet: &mut P, parsed: &Parsed, quoted_bytes: usize) -> Option<()> {
    let [l0, l1] = ((ICMP_BYTES + quoted_bytes) as u16).to_be_bytes();
    let offset = parsed.network_offset();
    packet.store(offset, [0x60, 0, 0, 0, l0, l1, PROTOCOL_ICMPV6, HOP_LIMIT])?;
    packet.store(offset + ipv6::ADDRESSES, parsed.key.destination.v6_bytes())?;
    packet.store(offset + ipv6::ADDRESSES + 16, parsed.key.source.v6_bytes())
}

#[inline(always)]
fn icmp<P: Packet>(packet: &mut P, parsed: &Parsed, offset: usize, quoted_bytes: usize) -> Option<()> {
    let mut sum = Sum::default();
    let type_code = match parsed.family {
        Family::V4 => V4_TYPE_CODE,
        Family::V6 => {
            // The pseudo header (RFC 8200 §8.1).
            let length = ((ICMP_BYTES + quoted_bytes) as u16).to_be_bytes();
            sum = sum
                .address(&parsed.key.source, Family::V6)
                .address(&parsed.key.destination, Family::V6)
                .word(length)
                .word([0, PROTOCOL_ICMPV6]);
            V6_TYPE_CODE
        }
    };
    sum = sum.word(type_code);
    let quote_offset = offset + ICMP_BYTES;
    for step in 0..QUOTE_STEPS_MAX {
        // Headers are whole 32-bit words, and so is the quote.
        if step * 4 >= quoted_bytes {
            break;
        }
        sum = sum.words(packet.load(quote_offset + step * 4)?);
    }
    let checksum: Be16 = sum.finish();
    let [t, c] = type_code;
    let [c0, c1] = checksum.bytes();
    packet.store(offset, [t, c, c0, c1, 0, 0, 0, 0])
}
