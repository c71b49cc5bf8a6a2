//! Offsets and values of the headers that are looked at, each from its RFC. Offsets are in bytes from
//! the start of the header.

/// Ethernet II and IEEE 802.1Q.
pub mod ethernet {
    /// Destination address.
    pub const DESTINATION: usize = 0;
    /// Source address.
    pub const SOURCE: usize = 6;
    /// Header length without tags.
    pub const LENGTH_BYTES: usize = 14;
    /// Length of one VLAN tag.
    pub const VLAN_TAG_BYTES: usize = 4;
    /// `EtherType` of IPv4.
    pub const TYPE_IPV4: u16 = 0x0800;
    /// `EtherType` of IPv6.
    pub const TYPE_IPV6: u16 = 0x86dd;
    /// `EtherType` of a customer VLAN tag (802.1Q).
    pub const TYPE_VLAN: u16 = 0x8100;
    /// `EtherType` of a service VLAN tag (802.1ad).
    pub const TYPE_SERVICE_VLAN: u16 = 0x88a8;
    /// VLAN tags that are looked through; a frame with more passes untouched.
    pub const VLAN_TAGS_MAX: usize = 2;
}

/// IPv4 (RFC 791 §3.1).
pub mod ipv4 {
    /// Header length without options.
    pub const LENGTH_BYTES: usize = 20;
    /// Length of the header and what follows.
    pub const TOTAL_LENGTH: usize = 2;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Source address, then destination address.
    pub const ADDRESSES: usize = 12;
    /// Identification, then flags and fragment offset.
    pub const IDENTIFICATION: usize = 4;
    /// More fragments, and the fragment offset.
    pub const FRAGMENT_MASK: u16 = 0x3fff;
    /// More fragments.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// The fragment offset, units of eight bytes.
    pub const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;
}

/// IPv6 (RFC 8200 §3, §4).
pub mod ipv6 {
    /// Header length without extension headers.
    pub const LENGTH_BYTES: usize = 40;
    /// Length of what follows the header; then next header and hop limit.
    pub const PAYLOAD_LENGTH: usize = 4;
    /// Hop limit.
    pub const HOP_LIMIT: usize = 7;
    /// Source address, then destination address.
    pub const ADDRESSES: usize = 8;
    /// Next header: hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Next header: routing.
    pub const ROUTING: u8 = 43;
    /// Next header: fragment.
    pub const FRAGMENT: u8 = 44;
    /// Length of the fragment header; its last four bytes are the identification.
    pub const FRAGMENT_BYTES: usize = 8;
    /// The fragment offset, units of eight bytes and shifted left by three, and whether more follow.
    pub const FRAGMENT_MASK: u16 = 0xfff9;
    /// The fragment offset alone.
    pub const FRAGMENT_OFFSET_MASK: u16 = 0xfff8;
    /// More fragments.
    pub const MORE_FRAGMENTS: u16 = 0x0001;
    /// Next header: destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// Extension headers that are looked through; a packet with more passes untouched.
    pub const EXTENSION_HEADERS_MAX: usize = 4;
}

/// TCP (RFC 9293 §3.1).
pub mod tcp {
    /// Header length without options.
    pub const LENGTH_BYTES: usize = 20;
    /// Sequence number, then acknowledgement number.
    pub const SEQUENCE: usize = 4;
    /// Header length in words of four bytes in the high four bits; the flags are in the next byte.
    pub const DATA_OFFSET: usize = 12;
    /// Checksum.
    pub const CHECKSUM: usize = 16;
    /// Flag: no more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Flag: synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Flag: reset the connection.
    pub const RST: u8 = 0x04;
    /// Flag: the acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// UDP (RFC 768).
pub mod udp {
    /// Header length.
    pub const LENGTH_BYTES: usize = 8;
    /// Checksum.
    pub const CHECKSUM: usize = 6;
}

/// SCTP (RFC 9260 §3).
pub mod sctp {
    /// Length of the common header.
    pub const LENGTH_BYTES: usize = 12;
    /// CRC32c.
    pub const CHECKSUM: usize = 8;
    /// Length of a chunk's header.
    pub const CHUNK_BYTES: usize = 4;
    /// Chunk: opens an association.
    pub const INIT: u8 = 1;
    /// Chunk: ends an association at once.
    pub const ABORT: u8 = 6;
    /// Chunk: no more data from the sender.
    pub const SHUTDOWN: u8 = 7;
    /// Chunk: acknowledges a shutdown.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Chunk: the association is over.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// ICMP (RFC 792) and `ICMPv6` (RFC 4443).
pub mod icmp {
    /// Length of the header before the quoted packet or the echoed data.
    pub const LENGTH_BYTES: usize = 8;
    /// Checksum.
    pub const CHECKSUM: usize = 2;
    /// Type: echo reply.
    pub const V4_ECHO_REPLY: u8 = 0;
    /// Type: destination unreachable.
    pub const V4_UNREACHABLE: u8 = 3;
    /// Code of destination unreachable in IPv4: fragmentation needed (RFC 1191 §4).
    pub const V4_FRAGMENTATION_NEEDED: u8 = 4;
    /// Type: echo request.
    pub const V4_ECHO_REQUEST: u8 = 8;
    /// Type: time exceeded.
    pub const V4_TIME_EXCEEDED: u8 = 11;
    /// Type: parameter problem.
    pub const V4_PARAMETER_PROBLEM: u8 = 12;
    /// Type: destination unreachable.
    pub const V6_UNREACHABLE: u8 = 1;
    /// Type: packet too big.
    pub const V6_TOO_BIG: u8 = 2;
    /// Type: time exceeded.
    pub const V6_TIME_EXCEEDED: u8 = 3;
    /// Type: parameter problem.
    pub const V6_PARAMETER_PROBLEM: u8 = 4;
    /// Type: echo request.
    pub const V6_ECHO_REQUEST: u8 = 128;
    /// Type: echo reply.
    pub const V6_ECHO_REPLY: u8 = 129;
}

/// Largest offset of a transport header that is looked at. A packet whose options reach further
/// passes untouched.
pub const TRANSPORT_OFFSET_MAX: usize = 128;
/// Bytes that the path may look at: a hook that sees only a part of a frame makes this much visible.
pub const HEADERS_BYTES_MAX: usize = TRANSPORT_OFFSET_MAX + tcp::LENGTH_BYTES;
