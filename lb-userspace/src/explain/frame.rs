//! The packet that a question stands for: the first one of a flow.
use std::net::IpAddr;

use lb_common::protocol;

use super::Question;
use crate::model::Protocol;

/// Bytes of the Ethernet header.
pub const ETHERNET_BYTES: usize = 14;

const TTL: u8 = 64;
const SYN: u8 = 0x02;

/// The Ethernet frame, with right checksums.
///
/// # Panics
/// Never: the two addresses are of one family, which the command line checks.
#[must_use]
pub fn first_packet(question: &Question) -> Vec<u8> {
    let transport = transport(question);
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    match (question.from.ip(), question.to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00]);
            let mut header = vec![0x45, 0];
            header.extend((20 + transport.len() as u16).to_be_bytes());
            header.extend([0, 0, 0x40, 0, TTL, question.protocol.number(), 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            let checksum = checksum(&[&header]);
            header[10..12].copy_from_slice(&checksum);
            frame.extend(header);
        }
        (source, destination) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((transport.len() as u16).to_be_bytes());
            frame.extend([question.protocol.number(), TTL]);
            frame.extend(octets(source));
            frame.extend(octets(destination));
        }
    }
    frame.extend(transport);
    frame
}

fn transport(question: &Question) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(question.from.port().to_be_bytes());
    bytes.extend(question.to.port().to_be_bytes());
    let checksum_offset = match question.protocol {
        Protocol::Tcp => {
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
            16
        }
        Protocol::Udp => {
            bytes.extend([0, 8, 0, 0]);
            6
        }
        Protocol::Sctp => return sctp(bytes),
    };
    let mut pseudo = octets(question.from.ip());
    pseudo.extend(octets(question.to.ip()));
    pseudo.extend((bytes.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, question.protocol.number()]);
    let mut checksum = checksum(&[&pseudo, &bytes]);
    if question.protocol.number() == protocol::UDP && checksum == [0, 0] {
        checksum = [0xff, 0xff];
    }
    bytes[checksum_offset..checksum_offset + 2].copy_from_slice(&checksum);
    bytes
}

/// An INIT chunk after the two ports (RFC 9260 §3.3.2): its initiate tag may not be zero, the packet's
/// verification tag is (§8.5.1).
fn sctp(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// RFC 9260 appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 })
    })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// RFC 1071 over parts of even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u64 = words.map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    (!(((sum - 1) % 0xffff) as u16 + 1)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_that_of_rfc_3720() {
        // RFC 3720 appendix B.4: 32 bytes of zero, and those from 0 to 31.
        assert_eq!(crc32c(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising).to_le_bytes(), [0x4e, 0x79, 0xdd, 0x46]);
    }
}
