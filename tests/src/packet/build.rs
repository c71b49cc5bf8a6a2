//! Building frames: Ethernet, VLAN tags, IPv4 with options, IPv6 with extension headers, TCP and UDP.
use std::net::{IpAddr, SocketAddr};

/// Source MAC address of built frames.
pub const SOURCE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
/// Destination MAC address of built frames.
pub const DESTINATION_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];

/// `EtherType` of IPv4 (RFC 894).
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// `EtherType` of IPv6 (RFC 2464).
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Tag protocol identifier of a customer VLAN (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// Tag protocol identifier of a service VLAN (IEEE 802.1ad).
pub const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

/// IPv6 hop-by-hop options (RFC 8200 §4.3).
pub const HOP_BY_HOP: u8 = 0;
/// IPv6 routing header (RFC 8200 §4.4).
pub const ROUTING: u8 = 43;
/// IPv6 fragment header (RFC 8200 §4.5).
pub const FRAGMENT: u8 = 44;
/// IPv6 destination options (RFC 8200 §4.6).
pub const DESTINATION_OPTIONS: u8 = 60;

/// Transmission Control Protocol.
pub const TCP: u8 = 6;
/// User Datagram Protocol.
pub const UDP: u8 = 17;
/// Internet Control Message Protocol.
pub const ICMP: u8 = 1;
/// Internet Control Message Protocol for IPv6.
pub const ICMPV6: u8 = 58;
/// Stream Control Transmission Protocol.
pub const SCTP: u8 = 132;

/// SCTP chunk types (RFC 9260 §3.2).
pub mod chunk {
    /// Payload data.
    pub const DATA: u8 = 0;
    /// Opens an association.
    pub const INIT: u8 = 1;
    /// Answers it.
    pub const INIT_ACK: u8 = 2;
    /// Ends an association at once.
    pub const ABORT: u8 = 6;
    /// No more data from the sender.
    pub const SHUTDOWN: u8 = 7;
}

/// TCP flags (RFC 9293 §3.1).
pub mod tcp_flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Resets the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number holds.
    pub const ACK: u8 = 0x10;
}

/// A packet to be built. Checksums are computed in full from the final bytes.
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    source: SocketAddr,
    destination: SocketAddr,
    protocol: u8,
    tcp_flags: u8,
    chunk: Option<u8>,
    icmp: Option<[u8; 8]>,
    tcp_options: Vec<u8>,
    has_udp_checksum: bool,
    vlan_tags: Vec<(u16, u16)>,
    hop_limit: u8,
    identification: u16,
    fragment: Option<(u16, bool)>,
    ipv4_options: Vec<u8>,
    extension_headers: Vec<(u8, Vec<u8>)>,
    payload: Vec<u8>,
    link_padding: usize,
}

impl PacketBuilder {
    /// A TCP segment.
    ///
    /// # Panics
    /// The two addresses are not of one family.
    #[must_use]
    pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        Self { tcp_flags: flags, ..Self::of_protocol(TCP, source, destination) }
    }

    /// A UDP datagram.
    ///
    /// # Panics
    /// The two addresses are not of one family.
    #[must_use]
    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::of_protocol(UDP, source, destination)
    }

    /// An SCTP packet with one chunk, whose value is the payload.
    ///
    /// # Panics
    /// The two addresses are not of one family.
    #[must_use]
    pub fn sctp(source: SocketAddr, destination: SocketAddr, chunk: u8) -> Self {
        Self { chunk: Some(chunk), ..Self::of_protocol(SCTP, source, destination) }
    }

    /// An ICMP or `ICMPv6` message: its type and code, the four bytes behind the checksum, and what follows
    /// as payload.
    ///
    /// # Panics
    /// The two addresses are not of one family.
    #[must_use]
    pub fn icmp(source: IpAddr, destination: IpAddr, type_code: [u8; 2], rest: [u8; 4]) -> Self {
        let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
        let ports = Self::of_protocol(protocol, (source, 0).into(), (destination, 0).into());
        let [kind, code] = type_code;
        Self { icmp: Some([kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]]), ..ports }
    }

    /// A packet of another protocol: the payload follows the IP header, and the ports are not used.
    ///
    /// # Panics
    /// The two addresses are not of one family.
    #[must_use]
    pub fn of_protocol(protocol: u8, source: SocketAddr, destination: SocketAddr) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "addresses of two families");
        Self {
            source,
            destination,
            protocol,
            tcp_flags: 0,
            chunk: None,
            icmp: None,
            tcp_options: Vec::new(),
            has_udp_checksum: true,
            vlan_tags: Vec::new(),
            hop_limit: 64,
            identification: 0,
            fragment: None,
            ipv4_options: Vec::new(),
            extension_headers: Vec::new(),
            payload: Vec::new(),
            link_padding: 0,
        }
    }

    /// Bytes behind the transport header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// One more VLAN tag, inside those given before: its tag protocol identifier and its VLAN.
    #[must_use]
    pub fn vlan(mut self, identifier: u16, vlan: u16) -> Self {
        self.vlan_tags.push((identifier, vlan));
        self
    }

    /// TTL or hop limit; otherwise 64.
    #[must_use]
    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// The IPv4 identification field; otherwise 0.
    #[must_use]
    pub fn identification(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// Makes the packet a fragment: its offset in units of eight bytes, and whether more follow it. The
    /// transport header is written all the same; its checksum is that of the fragment's bytes.
    #[must_use]
    pub fn fragment(mut self, offset_units: u16, place: FragmentPlace) -> Self {
        self.fragment = Some((offset_units, place == FragmentPlace::NotLast));
        self
    }

    /// IPv4 options.
    ///
    /// # Panics
    /// Not a multiple of four bytes, or more than forty (RFC 791 §3.1).
    #[must_use]
    pub fn ipv4_options(mut self, options: &[u8]) -> Self {
        assert!(
            options.len().is_multiple_of(4) && options.len() <= 40,
            "IPv4 options of {} bytes",
            options.len()
        );
        self.ipv4_options = options.to_vec();
        self
    }

    /// One more IPv6 extension header: its number and what follows its first two bytes.
    ///
    /// # Panics
    /// Header and body are not a multiple of eight bytes (RFC 8200 §4).
    #[must_use]
    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        assert!((body.len() + 2).is_multiple_of(8), "an extension header of {} bytes", body.len() + 2);
        self.extension_headers.push((number, body.to_vec()));
        self
    }

    /// TCP options.
    ///
    /// # Panics
    /// Not a multiple of four bytes, or more than forty (RFC 9293 §3.1).
    #[must_use]
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        assert!(
            options.len().is_multiple_of(4) && options.len() <= 40,
            "TCP options of {} bytes",
            options.len()
        );
        self.tcp_options = options.to_vec();
        self
    }

    /// A UDP checksum of zero: the sender computed none (RFC 768; IPv4 only, RFC 8200 §8.1).
    #[must_use]
    pub fn without_udp_checksum(mut self) -> Self {
        self.has_udp_checksum = false;
        self
    }

    /// Zero bytes behind the IP packet, as Ethernet pads short frames.
    #[must_use]
    pub fn link_padding(mut self, count: usize) -> Self {
        self.link_padding = count;
        self
    }

    /// The frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(128);
        frame.extend(DESTINATION_MAC);
        frame.extend(SOURCE_MAC);
        for (identifier, vlan) in &self.vlan_tags {
            frame.extend(identifier.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        let transport = self.transport();
        match self.source {
            SocketAddr::V4(_) => {
                frame.extend(ETHERTYPE_IPV4.to_be_bytes());
                frame.extend(self.ipv4_header(transport.len()));
            }
            SocketAddr::V6(_) => {
                frame.extend(ETHERTYPE_IPV6.to_be_bytes());
                frame.extend(self.ipv6_headers(transport.len()));
            }
        }
        frame.extend(transport);
        frame.resize(frame.len() + self.link_padding, 0);
        frame
    }

    /// RFC 791 §3.1.
    fn ipv4_header(&self, payload_bytes: usize) -> Vec<u8> {
        let header_bytes = 20 + self.ipv4_options.len();
        let mut header = vec![0x40 | (header_bytes / 4) as u8, 0];
        header.extend(((header_bytes + payload_bytes) as u16).to_be_bytes());
        header.extend(self.identification.to_be_bytes());
        let (offset_units, more_follow) = self.fragment.unwrap_or((0, false));
        let fragment = u16::from(more_follow) << 13 | offset_units;
        header.extend(fragment.to_be_bytes());
        header.extend([self.hop_limit, self.protocol, 0, 0]);
        header.extend(octets(self.source.ip()));
        header.extend(octets(self.destination.ip()));
        header.extend(&self.ipv4_options);
        let checksum = internet_checksum(&[&header]);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    /// RFC 8200 §3 and §4.
    fn ipv6_headers(&self, payload_bytes: usize) -> Vec<u8> {
        let mut chain = self.extension_headers.clone();
        if let Some((offset_units, more_follow)) = self.fragment {
            let [high, low] = (offset_units << 3 | u16::from(more_follow)).to_be_bytes();
            chain.push((FRAGMENT, vec![high, low, 0, 0, 0, 1]));
        }
        let next_of = |index: usize| chain.get(index).map_or(self.protocol, |(number, _)| *number);
        let mut extensions = Vec::new();
        for (index, (number, body)) in chain.iter().enumerate() {
            // The fragment header has no length field; its second byte is reserved.
            let length = if *number == FRAGMENT { 0 } else { ((body.len() + 2) / 8 - 1) as u8 };
            extensions.extend([next_of(index + 1), length]);
            extensions.extend(body);
        }
        let mut headers = vec![0x60, 0, 0, 0];
        headers.extend(((extensions.len() + payload_bytes) as u16).to_be_bytes());
        headers.extend([next_of(0), self.hop_limit]);
        headers.extend(octets(self.source.ip()));
        headers.extend(octets(self.destination.ip()));
        headers.extend(extensions);
        headers
    }

    /// The transport header and the payload.
    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let checksum_offset = match self.protocol {
            TCP => {
                bytes.extend(self.source.port().to_be_bytes());
                bytes.extend(self.destination.port().to_be_bytes());
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 1]);
                let header_words = 5 + self.tcp_options.len() / 4;
                bytes.extend([(header_words as u8) << 4, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes.extend(&self.tcp_options);
                16
            }
            UDP => {
                bytes.extend(self.source.port().to_be_bytes());
                bytes.extend(self.destination.port().to_be_bytes());
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                6
            }
            SCTP if self.chunk.is_some() => return self.sctp_packet(),
            _ => match self.icmp {
                Some(header) => {
                    bytes.extend(header);
                    2
                }
                None => return self.payload.clone(),
            },
        };
        bytes.extend(&self.payload);
        if self.protocol != UDP || self.has_udp_checksum {
            let checksum = self.transport_checksum(&bytes);
            bytes[checksum_offset..checksum_offset + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }

    /// RFC 9260 §3: the common header, one chunk and its padding. The checksum is little-endian (appendix A).
    fn sctp_packet(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        bytes.extend([0, 0, 0, 9, 0, 0, 0, 0]);
        bytes.extend([self.chunk.unwrap_or(chunk::DATA), 0]);
        bytes.extend(((4 + self.payload.len()) as u16).to_be_bytes());
        bytes.extend(&self.payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let checksum = crc32c::crc32c(&bytes);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// RFC 9293 §3.1, RFC 768 and RFC 792; the pseudo-header of IPv6 is RFC 8200 §8.1.
    fn transport_checksum(&self, bytes: &[u8]) -> u16 {
        if self.protocol == ICMP {
            return internet_checksum(&[bytes]);
        }
        let length = (bytes.len() as u32).to_be_bytes();
        let (source, destination) = (octets(self.source.ip()), octets(self.destination.ip()));
        let checksum = internet_checksum(&[&source, &destination, &length, &[0, self.protocol], bytes]);
        // A UDP checksum of zero would say that there is none: its other form stands for it.
        if self.protocol == UDP && checksum == 0 { 0xffff } else { checksum }
    }
}

/// Where a fragment stands among those of its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentPlace {
    /// More fragments follow.
    NotLast,
    /// This is the last one.
    Last,
}

/// An address as it stands on the wire.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// RFC 1071 §1 over parts that all but the last have an even length.
pub(crate) fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            sum += u32::from(word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    #[test]
    fn udp_over_ipv4_has_these_bytes() {
        let frame = PacketBuilder::udp(v4(1, 0x1234), v4(2, 53)).payload(b"abc").build();
        #[rustfmt::skip]
        let expected = [
            0x02, 0, 0, 0, 0, 0x0b, 0x02, 0, 0, 0, 0, 0x0a, 0x08, 0x00,
            0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0xf6, 0xca, 192, 0, 2, 1, 192, 0, 2, 2,
            0x12, 0x34, 0, 53, 0, 11, 0xa5, 0x08, b'a', b'b', b'c',
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn extension_headers_are_chained() {
        let source: SocketAddr = "[2001:db8::1]:1000".parse().unwrap();
        let destination: SocketAddr = "[2001:db8::2]:80".parse().unwrap();
        let frame = PacketBuilder::tcp(source, destination, tcp_flags::SYN)
            .vlan(ETHERTYPE_VLAN, 7)
            .extension(HOP_BY_HOP, &[1, 4, 0, 0, 0, 0])
            .extension(DESTINATION_OPTIONS, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .build();
        assert_eq!(frame[12..18], [0x81, 0x00, 0, 7, 0x86, 0xdd]);
        // Payload length: 8 + 16 bytes of extensions and 20 of TCP; hop-by-hop options follow.
        assert_eq!(frame[22..26], [0, 44, 0, 64]);
        assert_eq!(frame[58..60], [60, 0]);
        assert_eq!(frame[66..68], [6, 1]);
        assert_eq!(frame[82..86], [0x03, 0xe8, 0, 80]);
        assert_eq!(frame.len(), 18 + 40 + 24 + 20);
    }
}
