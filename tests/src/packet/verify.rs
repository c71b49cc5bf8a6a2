//! An independent reader of frames: it recomputes every checksum in full and tells the five-tuple.
//! It shares no code with the data path or with the builder, and sums in another way (the words as
//! one number modulo 65535), so that a mistake in one does not hide the same mistake in another.
use std::net::{IpAddr, SocketAddr};

/// Addresses, ports and protocol of a TCP, UDP or SCTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// IP protocol number.
    pub protocol: u8,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
}

impl FiveTuple {
    /// The five-tuple of the packets that answer.
    #[must_use]
    pub fn reply(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }
}

/// What the headers of a frame say, as far as they hold together.
struct View<'a> {
    source: IpAddr,
    destination: IpAddr,
    /// Of the header that `body` begins with.
    protocol: u8,
    /// From the transport header to the end of the IP packet.
    body: &'a [u8],
    is_fragment: bool,
}

/// Checks every checksum that the frame has: the IPv4 header's, and that of TCP, UDP, SCTP, ICMP or
/// `ICMPv6`. A fragment's transport checksum covers more than the frame holds and is not looked at.
///
/// # Errors
/// A sentence: which checksum is wrong, or what keeps the frame from being read.
pub fn verify_checksums(frame: &[u8]) -> Result<(), String> {
    let view = read(frame)?;
    if view.is_fragment {
        return Ok(());
    }
    let name = match view.protocol {
        1 => return expect_zero_sum("ICMP", &[view.body]),
        6 => "TCP",
        17 => {
            let length = usize::from(word(view.body, 4).ok_or("UDP header is cut short")?);
            if length != view.body.len() {
                return Err(format!("UDP length is {length}, the packet has {}", view.body.len()));
            }
            match (word(view.body, 6), view.source) {
                (Some(0), IpAddr::V4(_)) => return Ok(()),
                (Some(0), IpAddr::V6(_)) => return Err("UDP checksum is zero over IPv6".to_owned()),
                _ => "UDP",
            }
        }
        58 => "ICMPv6",
        132 => return expect_crc(view.body),
        other => return Err(format!("protocol {other} has no checksum that is known here")),
    };
    let length = view.body.len() as u64;
    let pseudo = [&bytes_of(view.source)[..], &bytes_of(view.destination)[..]].concat();
    expect_zero_sum(name, &[&pseudo, &length.to_be_bytes(), &[0, view.protocol], view.body])
}

/// The five-tuple of a frame with a whole TCP, UDP or SCTP packet.
///
/// # Errors
/// A sentence: what keeps it from being read.
pub fn five_tuple(frame: &[u8]) -> Result<FiveTuple, String> {
    let view = read(frame)?;
    if view.is_fragment || ![6, 17, 132].contains(&view.protocol) {
        return Err(format!("no ports: protocol {}, fragment: {}", view.protocol, view.is_fragment));
    }
    let (Some(source), Some(destination)) = (word(view.body, 0), word(view.body, 2)) else {
        return Err("ports are cut off".to_owned());
    };
    Ok(FiveTuple {
        protocol: view.protocol,
        source: SocketAddr::new(view.source, source),
        destination: SocketAddr::new(view.destination, destination),
    })
}

fn read(frame: &[u8]) -> Result<View<'_>, String> {
    let mut rest = frame.get(12..).ok_or("Ethernet header is cut short")?;
    loop {
        let ethertype = word(rest, 0).ok_or("EtherType is cut off")?;
        rest = match ethertype {
            0x8100 | 0x88a8 => rest.get(4..).ok_or("VLAN tag is cut short")?,
            0x0800 => return read_v4(&rest[2..]),
            0x86dd => return read_v6(&rest[2..]),
            other => return Err(format!("EtherType {other:#06x} is not IP")),
        };
    }
}

fn read_v4(packet: &[u8]) -> Result<View<'_>, String> {
    let header_bytes = usize::from(packet.first().ok_or("no IPv4 header")? & 0x0f) * 4;
    let total_bytes = usize::from(word(packet, 2).ok_or("IPv4 header is cut short")?);
    if header_bytes < 20 || total_bytes < header_bytes || total_bytes > packet.len() {
        return Err(format!(
            "IPv4 header of {header_bytes} bytes, packet of {total_bytes}, frame has {}",
            packet.len()
        ));
    }
    let (header, body) = packet[..total_bytes].split_at(header_bytes);
    expect_zero_sum("IPv4 header", &[header])?;
    let address = |at: usize| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    Ok(View {
        source: address(12),
        destination: address(16),
        protocol: header[9],
        body,
        is_fragment: word(header, 6).is_some_and(|field| field & 0x3fff != 0),
    })
}

fn read_v6(packet: &[u8]) -> Result<View<'_>, String> {
    let end = 40 + usize::from(word(packet, 4).ok_or("IPv6 header is cut short")?);
    let packet = packet.get(..end).ok_or_else(|| format!("IPv6 packet of {end} bytes is cut short"))?;
    let address = |at: usize| -> IpAddr {
        let bytes: [u8; 16] = std::array::from_fn(|index| packet[at + index]);
        IpAddr::from(bytes)
    };
    let mut view = View {
        source: address(8),
        destination: address(24),
        protocol: packet[6],
        body: &packet[40..],
        is_fragment: false,
    };
    while matches!(view.protocol, 0 | 43 | 44 | 60) {
        let [next, length, segment, left, ..] = *view.body else {
            return Err("IPv6 extension header is cut short".to_owned());
        };
        let header_bytes = if view.protocol == 44 { 8 } else { (usize::from(length) + 1) * 8 };
        if view.protocol == 44 {
            // Offset and the bit that says whether more follow; a packet whole in one fragment has none.
            view.is_fragment |= (segment, left & 0xf9) != (0, 0);
        } else if view.protocol == 43 && left != 0 {
            return Err("IPv6 routing header with segments left".to_owned());
        }
        view.body = view.body.get(header_bytes..).ok_or("IPv6 extension header is cut short")?;
        view.protocol = next;
    }
    Ok(view)
}

/// RFC 9260 §6.8: computed over the packet with zeros in its place, lowest byte first.
fn expect_crc(packet: &[u8]) -> Result<(), String> {
    let (before, rest) = packet.split_at_checked(8).ok_or("SCTP header is cut short")?;
    let (field, after) = rest.split_first_chunk().ok_or("SCTP header is cut short")?;
    let computed = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]), after);
    match u32::from_le_bytes(*field) {
        found if found == computed => Ok(()),
        found => Err(format!("SCTP checksum is {found:#010x}, the packet's is {computed:#010x}")),
    }
}

/// Sound bytes sum to a multiple of 65535 that is not zero (RFC 1071: the sum is all ones). Parts but
/// the last have an even length.
fn expect_zero_sum(what: &str, parts: &[&[u8]]) -> Result<(), String> {
    let sum: u64 = parts
        .iter()
        .flat_map(|part| part.chunks(2))
        .map(|pair| u64::from(pair[0]) * 256 + u64::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    if sum != 0 && sum.is_multiple_of(65_535) {
        Ok(())
    } else {
        Err(format!("{what} checksum is wrong: the words sum to {} modulo 65535", sum % 65_535))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn bytes_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN from 192.0.2.100:40000 to 10.96.0.10:80, written out with sums made by hand.
    #[rustfmt::skip]
    const SYN: [u8; 54] = [
        0x02, 0, 0, 0, 0, 0x0b, 0x02, 0, 0, 0, 0, 0x0a, 0x08, 0x00,
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0xae, 0x02, 192, 0, 2, 100, 10, 96, 0, 10,
        0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x02, 0xff, 0xff, 0x46, 0x82, 0, 0,
    ];

    #[test]
    fn sound_frame_is_accepted() {
        assert_eq!(verify_checksums(&SYN), Ok(()));
    }

    #[test]
    fn one_flipped_bit_is_found_wherever_a_checksum_covers() {
        for byte in 22..SYN.len() {
            for bit in 0..8 {
                let mut frame = SYN;
                frame[byte] ^= 1 << bit;
                let is_fragment_field = (20..22).contains(&byte);
                assert!(verify_checksums(&frame).is_err() || is_fragment_field, "byte {byte} bit {bit}");
            }
        }
    }

    #[test]
    fn five_tuple_is_read_and_turned() {
        let tuple = five_tuple(&SYN).unwrap();
        assert_eq!(tuple.protocol, 6);
        assert_eq!(tuple.source.to_string(), "192.0.2.100:40000");
        assert_eq!(tuple.destination.to_string(), "10.96.0.10:80");
        assert_eq!(tuple.reply().source.to_string(), "10.96.0.10:80");
    }

    #[test]
    fn zero_udp_checksum_is_an_error_over_ipv6_only() {
        let mut frame = vec![0u8; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
        frame.extend([0x20; 32]);
        frame.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        assert_eq!(verify_checksums(&frame), Err("UDP checksum is zero over IPv6".to_owned()));
    }
}
