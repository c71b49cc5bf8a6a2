//! Answers in place of whoever was asked.
//!
//! Refusals: the packet becomes an ICMP or ICMPv6 error for its sender, "destination unreachable, port
//! unreachable" (RFC 792; RFC 4443 §3.1). TCP gets a reset instead (`reset`). A packet that is too big is
//! answered with the size that fits (RFC 1191 §4; RFC 4443 §3.2).
use lb_common::Be16;

use crate::checksum::{Delta, Sum};
use crate::header::{self, ipv4, ipv6, tcp, udp};
use crate::packet::Packet;
use crate::parse::{Family, Parsed};
use crate::rewrite;

/// ICMP header length, bytes.
const ICMP_BYTES: usize = 8;
/// TTL and hop limit of the answer.
const HOP_LIMIT: u8 = 64;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
/// Four-byte steps that the longest quote takes: a transport header starts at most
/// [`header::TRANSPORT_OFFSET_MAX`] bytes into the frame.
const QUOTE_STEPS_MAX: usize = (header::TRANSPORT_OFFSET_MAX + tcp::LENGTH_BYTES) / 4;

/// What an error says: type and code in each family, and the size that fits. Every field holds a value,
/// as all that a kernel program keeps on its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    v4: [u8; 2],
    v6: [u8; 2],
    mtu_bytes: u32,
}

impl Message {
    /// Destination unreachable, port unreachable.
    pub const PORT_UNREACHABLE: Self = Self { v4: [3, 3], v6: [1, 4], mtu_bytes: 0 };

    /// Destination unreachable, fragmentation needed; over IPv6 packet too big.
    #[must_use]
    #[inline(always)]
    pub const fn too_big(mtu_bytes: u32) -> Self {
        // The field of IPv4 has 16 bits.
        let mtu_bytes = if mtu_bytes > 0xffff { 0xffff } else { mtu_bytes };
        Self { v4: [3, 4], v6: [2, 0], mtu_bytes }
    }
}

/// Turns the frame into the answer, from the address that was dialled. `None`: the frame could not be
/// rewritten and must be dropped.
#[inline(always)]
pub fn refuse<P: Packet>(packet: &mut P, parsed: &Parsed, message: &Message) -> Option<()> {
    // At least 8 bytes of the transport header (RFC 792); of TCP the whole one up to its options, since
    // the kernel cuts no skb before a checksum that it has yet to compute.
    let transport_bytes = if parsed.is_tcp() { tcp::LENGTH_BYTES } else { udp::LENGTH_BYTES };
    let quoted_bytes = parsed.transport_offset() - parsed.network_offset() + transport_bytes;
    packet.truncate(parsed.network_offset() + quoted_bytes)?;
    let added_bytes = ICMP_BYTES
        + match parsed.family {
            Family::V4 => ipv4::LENGTH_BYTES,
            Family::V6 => ipv6::LENGTH_BYTES,
        };
    packet.grow_front(added_bytes)?;
    rewrite::move_link(packet, parsed.network_offset(), added_bytes, 0)?;
    rewrite::turn_link(packet)?;
    match parsed.family {
        Family::V4 => network_v4(packet, parsed, quoted_bytes)?,
        Family::V6 => network_v6(packet, parsed, quoted_bytes)?,
    }
    let icmp_offset = parsed.network_offset() + added_bytes - ICMP_BYTES;
    icmp(packet, parsed, message, icmp_offset, quoted_bytes)
}

/// Turns an echo request into its reply (RFC 792; RFC 4443 §4.2). `None`: the frame could not be rewritten
/// and must be dropped.
#[inline(always)]
pub fn answer_echo<P: Packet>(packet: &mut P, parsed: &Parsed) -> Option<()> {
    rewrite::turn_link(packet)?;
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
fn icmp<P: Packet>(
    packet: &mut P,
    parsed: &Parsed,
    message: &Message,
    offset: usize,
    quoted_bytes: usize,
) -> Option<()> {
    let mut sum = Sum::default();
    let type_code = match parsed.family {
        Family::V4 => message.v4,
        Family::V6 => {
            // The pseudo header (RFC 8200 §8.1).
            let length = ((ICMP_BYTES + quoted_bytes) as u16).to_be_bytes();
            sum = sum
                .address(&parsed.key.source, Family::V6)
                .address(&parsed.key.destination, Family::V6)
                .word(length)
                .word([0, PROTOCOL_ICMPV6]);
            message.v6
        }
    };
    // Over IPv4 the size is in the last two of these bytes, and the first two are zero.
    let size = message.mtu_bytes.to_be_bytes();
    sum = sum.word(type_code).words(size);
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
    let [s0, s1, s2, s3] = size;
    packet.store(offset, [t, c, c0, c1, s0, s1, s2, s3])
}
