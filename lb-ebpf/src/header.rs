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
    /// More fragments, and the fragment offset.
    pub const FRAGMENT_MASK: u16 = 0x3fff;
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
    /// Next header: fragment.
    pub const FRAGMENT: u8 = 44;
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

/// Largest offset of a transport header that is looked at. A packet whose options reach further
/// passes untouched.
pub const TRANSPORT_OFFSET_MAX: usize = 128;
/// Bytes that the path may look at: a hook that sees only a part of a frame makes this much visible.
pub const HEADERS_BYTES_MAX: usize = TRANSPORT_OFFSET_MAX + tcp::LENGTH_BYTES;
