//! From a frame to its five-tuple, or to the reason why it is left alone. Nothing is guessed: a frame
//! whose headers contradict each other passes untouched.
use lb_common::conntrack::FlowKey;
use lb_common::counters::Reason;
use lb_common::frontend::FrontendKey;
use lb_common::{Address, Be16, protocol};

use crate::header::{self, ethernet, icmp, ipv4, ipv6, sctp, tcp, udp};
use crate::packet::Packet;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a packet is to the path: plain, or something that takes a turn first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    /// A whole packet with ports.
    Whole = 0,
    /// The first fragment of a datagram: it has the ports.
    FirstFragment,
    /// A later fragment: its ports are zero until they are found.
    LaterFragment,
    /// A whole ICMP or `ICMPv6` message; its ports are zero.
    Icmp,
    /// A whole packet of a protocol whose ports, if it has any, are not known here; they are zero.
    Other,
}

/// The transport header that a packet has, and with it a checksum over addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Transport {
    /// TCP.
    Tcp = 0,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// None: a later fragment, or a protocol that is not looked into.
    None,
}

/// A packet whose headers are all there and agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Parsed {
    /// The five-tuple.
    pub key: FlowKey,
    /// The IP version.
    pub family: Family,
    /// What the packet is to the path.
    pub form: Form,
    /// Its transport header.
    pub transport: Transport,
    /// Offset of the IP header, bytes. A byte, as the next one, so that the type bounds it: the
    /// verifier loses a bound that the compiler tests on a sum.
    network_offset: u8,
    /// Offset of the header behind IP, bytes; at most [`header::TRANSPORT_OFFSET_MAX`].
    transport_offset: u8,
    /// Of a fragment, the offset of the fields that say so: of IPv4 identification and fragment offset, of
    /// IPv6 fragment offset and identification.
    fragment_offset: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TCP flags; of SCTP what stands for them (see [`sctp_flags`]); zero for UDP.
    pub tcp_flags: u8,
}

impl Parsed {
    /// Offset of the IP header from the start of the frame, bytes.
    #[must_use]
    #[inline(always)]
    pub const fn network_offset(&self) -> usize {
        self.network_offset as usize
    }

    /// Offset of what follows the IP headers from the start of the frame, bytes; at most
    /// [`header::TRANSPORT_OFFSET_MAX`].
    #[must_use]
    #[inline(always)]
    pub const fn transport_offset(&self) -> usize {
        self.transport_offset as usize
    }

    /// Of a fragment, the offset from the start of the frame, bytes, of the fields that say so: of IPv4
    /// identification and fragment offset, of IPv6 fragment offset and identification.
    #[must_use]
    #[inline(always)]
    pub const fn fragment_offset(&self) -> usize {
        self.fragment_offset as usize
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

    /// Whether this is TCP.
    #[must_use]
    #[inline(always)]
    pub const fn is_tcp(&self) -> bool {
        self.key.protocol == protocol::TCP as u32
    }

    /// Whether the protocol has connections that open and close: TCP and SCTP do, UDP does not.
    #[must_use]
    #[inline(always)]
    pub const fn has_connection(&self) -> bool {
        self.key.protocol != protocol::UDP as u32
    }

    /// Whether the packet asks to open a connection: SYN and neither ACK, RST nor FIN.
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
    /// [`Form::Whole`] or one of the fragments.
    form: Form,
}

/// What follows the IP headers.
struct Beyond {
    /// The two ports as they stand on the wire.
    ports: [u8; 4],
    tcp_flags: u8,
    form: Form,
    transport: Transport,
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
    let Beyond { ports: [s0, s1, d0, d1], tcp_flags, form, transport } = beyond(packet, &network)?;
    Ok(Parsed {
        key: FlowKey {
            source: network.source,
            destination: network.destination,
            source_port: Be16::from_bytes([s0, s1]),
            destination_port: Be16::from_bytes([d0, d1]),
            protocol: network.protocol as u32,
        },
        family: network.family,
        form,
        transport,
        network_offset: network_offset as u8,
        transport_offset: network.transport_offset as u8,
        fragment_offset: match network.family {
            Family::V4 => (network_offset + ipv4::IDENTIFICATION) as u8,
            // The fragment header stands right before what it is about; two bytes of it come first.
            Family::V6 => network.transport_offset.wrapping_sub(ipv6::FRAGMENT_BYTES - 2) as u8,
        },
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
    let form = match u16::from_be_bytes([f0, f1]) & ipv4::FRAGMENT_MASK {
        0 => Form::Whole,
        ipv4::MORE_FRAGMENTS => Form::FirstFragment,
        _ => Form::LaterFragment,
    };
    Ok(Network {
        source: Address::v4([s0, s1, s2, s3]),
        destination: Address::v4([d0, d1, d2, d3]),
        family: Family::V4,
        protocol,
        hop_limit: ttl,
        transport_offset: offset + header_bytes,
        end_offset: offset + total_bytes,
        form,
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
    let Chain { protocol, transport_offset, form } =
        extensions(packet, next_header, offset + ipv6::LENGTH_BYTES)?;
    Ok(Network {
        source: Address::v6(source),
        destination: Address::v6(destination),
        family: Family::V6,
        protocol,
        hop_limit,
        transport_offset,
        end_offset,
        form,
    })
}

/// Where a chain of extension headers ends.
struct Chain {
    protocol: u8,
    transport_offset: usize,
    form: Form,
}

/// Walks hop-by-hop and destination options, and ends behind a fragment header. A routing header is not
/// walked: while segments are left, the destination that the checksum covers is another one
/// (RFC 8200 §8.1).
#[inline(always)]
fn extensions<P: Packet>(packet: &P, first: u8, start: usize) -> Result<Chain, Reason> {
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
            ipv6::FRAGMENT => break,
            _ => return Ok(Chain { protocol: next, transport_offset: offset, form: Form::Whole }),
        }
    }
    if next == ipv6::FRAGMENT {
        return behind_fragment_header(packet, offset);
    }
    Ok(Chain { protocol: next, transport_offset: offset, form: Form::Whole })
}

/// A fragment header, and what it says of what follows it (RFC 8200 §4.5). An atomic fragment is a whole
/// packet (RFC 6946 §4).
#[inline(always)]
fn behind_fragment_header<P: Packet>(packet: &P, offset: usize) -> Result<Chain, Reason> {
    if offset > header::TRANSPORT_OFFSET_MAX {
        return Err(Reason::PassMalformed);
    }
    let [protocol, _, p0, p1] = packet.load::<4>(offset).ok_or(Reason::PassMalformed)?;
    let form = match u16::from_be_bytes([p0, p1]) & ipv6::FRAGMENT_MASK {
        0 => Form::Whole,
        ipv6::MORE_FRAGMENTS => Form::FirstFragment,
        _ => Form::LaterFragment,
    };
    Ok(Chain { protocol, transport_offset: offset + ipv6::FRAGMENT_BYTES, form })
}

/// Reads what follows the IP headers.
#[inline(always)]
fn beyond<P: Packet>(packet: &P, network: &Network) -> Result<Beyond, Reason> {
    let offset = network.transport_offset;
    if offset > header::TRANSPORT_OFFSET_MAX || offset > network.end_offset {
        return Err(Reason::PassMalformed);
    }
    let available_bytes = network.end_offset - offset;
    match network.protocol {
        protocol::TCP | protocol::UDP if network.form == Form::LaterFragment => {
            // Its flags, if it has any, were on the first one.
            Ok(Beyond { ports: [0; 4], tcp_flags: tcp::ACK, form: network.form, transport: Transport::None })
        }
        protocol::TCP => {
            let bytes: [u8; tcp::LENGTH_BYTES] = packet.load(offset).ok_or(Reason::PassMalformed)?;
            let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, data_offset, flags, ..] = bytes;
            let header_bytes = ((data_offset >> 4) as usize) * 4;
            if header_bytes < tcp::LENGTH_BYTES || header_bytes > available_bytes {
                return Err(Reason::PassMalformed);
            }
            let ports = [s0, s1, d0, d1];
            Ok(Beyond { ports, tcp_flags: flags, form: network.form, transport: Transport::Tcp })
        }
        protocol::UDP => {
            let bytes: [u8; udp::LENGTH_BYTES] = packet.load(offset).ok_or(Reason::PassMalformed)?;
            let [s0, s1, d0, d1, l0, l1, _, _] = bytes;
            let length_bytes = u16::from_be_bytes([l0, l1]) as usize;
            // Of a first fragment, the length is that of the whole datagram.
            let is_cut = length_bytes > available_bytes && network.form == Form::Whole;
            if length_bytes < udp::LENGTH_BYTES || available_bytes < udp::LENGTH_BYTES || is_cut {
                return Err(Reason::PassMalformed);
            }
            let ports = [s0, s1, d0, d1];
            Ok(Beyond { ports, tcp_flags: 0, form: network.form, transport: Transport::Udp })
        }
        protocol::SCTP => sctp(packet, network, available_bytes),
        _ => portless(network, available_bytes),
    }
}

/// The ports of SCTP, and the flags that its first chunk stands for: a packet with a chunk that begins or
/// ends an association carries no other before it (RFC 9260 §6.10). Fragments are left alone: the checksum
/// cannot follow new ports there, and SCTP cuts its messages itself (RFC 9260 §6.9).
#[inline(always)]
fn sctp<P: Packet>(packet: &P, network: &Network, available_bytes: usize) -> Result<Beyond, Reason> {
    if available_bytes < sctp::LENGTH_BYTES + sctp::CHUNK_BYTES {
        return Err(Reason::PassMalformed);
    }
    if network.form != Form::Whole {
        return Err(Reason::PassFragment);
    }
    let bytes: [u8; sctp::LENGTH_BYTES + sctp::CHUNK_BYTES] =
        packet.load(network.transport_offset).ok_or(Reason::PassMalformed)?;
    let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, chunk, ..] = bytes;
    let ports = [s0, s1, d0, d1];
    Ok(Beyond { ports, tcp_flags: sctp_flags(chunk), form: network.form, transport: Transport::Sctp })
}

/// The TCP flags with the meaning of an SCTP chunk (RFC 9260 §3.2), so that flows of both follow the same
/// states.
#[must_use]
#[inline(always)]
pub const fn sctp_flags(chunk: u8) -> u8 {
    match chunk {
        sctp::INIT => tcp::SYN,
        sctp::ABORT => tcp::RST,
        sctp::SHUTDOWN | sctp::SHUTDOWN_ACK | sctp::SHUTDOWN_COMPLETE => tcp::FIN,
        _ => tcp::ACK,
    }
}

/// A packet without ports that are known: at least as much as an ICMP error quotes of it.
#[inline(always)]
fn portless(network: &Network, available_bytes: usize) -> Result<Beyond, Reason> {
    if network.form != Form::Whole {
        return Err(Reason::PassFragment);
    }
    // Nor is what stands behind a header that is not walked known to be without ports.
    let is_chained = matches!(network.protocol, ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION_OPTIONS);
    if available_bytes < icmp::LENGTH_BYTES || (network.family == Family::V6 && is_chained) {
        return Err(Reason::PassOtherProtocol);
    }
    let form = match (network.protocol, network.family) {
        (protocol::ICMP, Family::V4) | (protocol::ICMPV6, Family::V6) => Form::Icmp,
        _ => Form::Other,
    };
    Ok(Beyond { ports: [0; 4], tcp_flags: 0, form, transport: Transport::None })
}
