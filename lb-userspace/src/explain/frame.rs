//! The packet that a question stands for: the first one of a flow.
use std::net::IpAddr;

use lb_common::protocol;

use super::Question;
use crate::model::Protocol;

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
