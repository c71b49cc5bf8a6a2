//! From a frame to its five-tuple, or to the reason why it is left alone. Nothing is guessed: a frame
//! whose headers contradict each other passes untouched.
use lb_common::conntrack::FlowKey;
use lb_common::counters::Reason;
use lb_common::frontend::FrontendKey;
use lb_common::{Address, Be16, protocol};

use crate::header::{self, ethernet, ipv4, ipv6, tcp, udp};
use crate::packet::{Packet, TransportChecksum};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A TCP or UDP packet whose headers are all there and agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Parsed {
    /// The five-tuple.
    pub key: FlowKey,
    /// The IP version.
    pub family: Family,
    /// Offset of the IP header, bytes. A byte, as the next one, so that the type bounds it: the
    /// verifier loses a bound that the compiler tests on a sum.
    network_offset: u8,
    /// Offset of the TCP or UDP header, bytes; at most [`header::TRANSPORT_OFFSET_MAX`].
    transport_offset: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TCP flags; zero for UDP.
    pub tcp_flags: u8,
}

impl Parsed {
    /// Offset of the IP header from the start of the frame, bytes.
    #[must_use]
    #[inline(always)]
    pub const fn network_offset(&self) -> usize {
        self.network_offset as usize
    }

    /// Offset of the TCP or UDP header from the start of the frame, bytes; at most
    /// [`header::TRANSPORT_OFFSET_MAX`].
    #[must_use]
    #[inline(always)]
    pub const fn transport_offset(&self) -> usize {
        self.transport_offset as usize
    }

    /// The frontend that the packet is addressed to.
    #[must_use]
    #[inline(always)]
    pub const fn frontend(&self) -> FrontendKey {
        FrontendKey {
            address: self.key.destination,
            port: self.key.destination_port,
            protocol: self.key.protocol as u16,
            padding: 0,
        }
    }

    /// Where the transport checksum lies.
    #[must_use]
    #[inline(always)]
    pub const fn transport_checksum(&self) -> TransportChecksum {
        if self.is_tcp() {
            TransportChecksum::Tcp { offset: self.transport_offset() + tcp::CHECKSUM }
        } else {
            TransportChecksum::Udp { offset: self.transport_offset() + udp::CHECKSUM }
        }
    }

    /// Whether this is TCP; if not, it is UDP.
    #[must_use]
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.key.protocol == protocol::TCP as u32
    }

    /// Whether the packet asks to open a TCP connection: SYN and neither ACK, RST nor FIN.
    #[must_use]
    #[inline(always)]
    pub const fn opens_tcp(&self) -> bool {
        self.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
    }
}

/// An IP header's facts, before the transport header is read.
struct Network {
    source: Address,
    destination: Address,
    family: Family,
    protocol: u8,
    hop_limit: u8,
    /// Offset of the transport header from the start of the frame.
    transport_offset: usize,
    /// Offset of the end of the IP packet from the start of the frame; link padding lies behind it.
    end_offset: usize,
}

/// Reads the headers of a frame.
///
/// # Errors
/// The reason, one of the `Pass…` ones, why the frame is left alone.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P) -> Result<Parsed, Reason> {
    let (ethertype, network_offset) = link(packet)?;
    let network = match ethertype {
        ethernet::TYPE_IPV4 => network_v4(packet, network_offset)?,
        ethernet::TYPE_IPV6 => network_v6(packet, network_offset)?,
        _ => return Err(Reason::PassNotIp),
    };
    let (ports, tcp_flags) = transport(packet, &network)?;
    let [s0, s1, d0, d1] = ports;
    Ok(Parsed {
        key: FlowKey {
            source: network.source,
            destination: network.destination,
            source_port: Be16::from_bytes([s0, s1]),
            destination_port: Be16::from_bytes([d0, d1]),
            protocol: network.protocol as u32,
        },
        family: network.family,
        network_offset: network_offset as u8,
        transport_offset: network.transport_offset as u8,
        hop_limit: network.hop_limit,
        tcp_flags,
    })
}

/// The `EtherType` behind the tags, and the offset of what follows it.
#[inline(always)]
fn link<P: Packet>(packet: &P) -> Result<(u16, usize), Reason> {
    let mut offset = ethernet::LENGTH_BYTES;
    let mut ethertype = u16::from_be_bytes(packet.load(offset - 2).ok_or(Reason::PassNotIp)?);
    for _ in 0..ethernet::VLAN_TAGS_MAX {
        if ethertype != ethernet::TYPE_VLAN && ethertype != ethernet::TYPE_SERVICE_VLAN {
            break;
        }
        offset += ethernet::VLAN_TAG_BYTES;
        ethertype = u16::from_be_bytes(packet.load(offset - 2).ok_or(Reason::PassMalformed)?);
    }
    Ok((ethertype, offset))
}

#[inline(always)]
fn network_v4<P: Packet>(packet: &P, offset: usize) -> Result<Network, Reason> {
    let bytes: [u8; ipv4::LENGTH_BYTES] = packet.load(offset).ok_or(Reason::PassMalformed)?;
    let [version_ihl, _, l0, l1, _, _, f0, f1, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = bytes;
    let header_bytes = ((version_ihl & 0x0f) as usize) * 4;
    let total_bytes = u16::from_be_bytes([l0, l1]) as usize;
    let is_sound = version_ihl >> 4 == 4
        && header_bytes >= ipv4::LENGTH_BYTES
        && total_bytes >= header_bytes
        && offset + total_bytes <= packet.length_bytes();
    if !is_sound {
        return Err(Reason::PassMalformed);
    }
    if u16::from_be_bytes([f0, f1]) & ipv4::FRAGMENT_MASK != 0 {
        return Err(Reason::PassFragment);
    }
    Ok(Network {
        source: Address::v4([s0, s1, s2, s3]),
        destination: Address::v4([d0, d1, d2, d3]),
        family: Family::V4,
        protocol,
        hop_limit: ttl,
        transport_offset: offset + header_bytes,
        end_offset: offset + total_bytes,
    })
}

#[inline(always)]
fn network_v6<P: Packet>(packet: &P, offset: usize) -> Result<Network, Reason> {
    let [version, _, _, _, l0, l1, next_header, hop_limit] =
        packet.load::<8>(offset).ok_or(Reason::PassMalformed)?;
    let source: [u8; 16] = packet.load(offset + ipv6::ADDRESSES).ok_or(Reason::PassMalformed)?;
    let destination: [u8; 16] = packet.load(offset + ipv6::ADDRESSES + 16).ok_or(Reason::PassMalformed)?;
    let end_offset = offset + ipv6::LENGTH_BYTES + u16::from_be_bytes([l0, l1]) as usize;
    // A payload length of zero is a jumbogram (RFC 2675) or no payload: neither is ours.
    if version >> 4 != 6 || end_offset > packet.length_bytes() {
        return Err(Reason::PassMalformed);
    }
    let (protocol, transport_offset) = extensions(packet, next_header, offset + ipv6::LENGTH_BYTES)?;
    Ok(Network {
        source: Address::v6(source),
        destination: Address::v6(destination),
        family: Family::V6,
        protocol,
        hop_limit,
        transport_offset,
        end_offset,
    })
}

/// Walks hop-by-hop and destination options. A routing header is not walked: while segments are left,
/// the destination that the checksum covers is another one (RFC 8200 §8.1).
#[inline(always)]
fn extensions<P: Packet>(packet: &P, first: u8, start: usize) -> Result<(u8, usize), Reason> {
    let mut next = first;
    let mut offset = start;
    for _ in 0..ipv6::EXTENSION_HEADERS_MAX {
        match next {
            ipv6::HOP_BY_HOP | ipv6::DESTINATION_OPTIONS => {
                if offset > header::TRANSPORT_OFFSET_MAX {
                    return Err(Reason::PassMalformed);
                }
                let [following, length] = packet.load::<2>(offset).ok_or(Reason::PassMalformed)?;
                next = following;
                offset += (length as usize + 1) * 8;
            }
            ipv6::FRAGMENT => return Err(Reason::PassFragment),
            _ => return Ok((next, offset)),
        }
    }
    if next == ipv6::FRAGMENT {
        return Err(Reason::PassFragment);
    }
    Ok((next, offset))
}

/// The four bytes of the two ports, and the TCP flags.
#[inline(always)]
fn transport<P: Packet>(packet: &P, network: &Network) -> Result<([u8; 4], u8), Reason> {
    let offset = network.transport_offset;
    if network.protocol != protocol::TCP && network.protocol != protocol::UDP {
        return Err(Reason::PassOtherProtocol);
    }
    if offset > header::TRANSPORT_OFFSET_MAX || offset > network.end_offset {
        return Err(Reason::PassMalformed);
    }
    let available_bytes = network.end_offset - offset;
    if network.protocol == protocol::TCP {
        let bytes: [u8; tcp::LENGTH_BYTES] = packet.load(offset).ok_or(Reason::PassMalformed)?;
        let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, data_offset, flags, ..] = bytes;
        let header_bytes = ((data_offset >> 4) as usize) * 4;
        if header_bytes < tcp::LENGTH_BYTES || header_bytes > available_bytes {
            return Err(Reason::PassMalformed);
        }
        Ok(([s0, s1, d0, d1], flags))
    } else {
        let bytes: [u8; udp::LENGTH_BYTES] = packet.load(offset).ok_or(Reason::PassMalformed)?;
        let [s0, s1, d0, d1, l0, l1, _, _] = bytes;
        let length_bytes = u16::from_be_bytes([l0, l1]) as usize;
        if length_bytes < udp::LENGTH_BYTES || length_bytes > available_bytes {
            return Err(Reason::PassMalformed);
        }
        Ok(([s0, s1, d0, d1], 0))
    }
}
