//! Cutting a packet into fragments and joining them again (RFC 791 §3.2, RFC 8200 §4.5), for frames without
//! tags, options and extension headers.
use super::build::{FRAGMENT, internet_checksum};

const LINK_BYTES: usize = 14;
const V4_BYTES: usize = 20;
const V6_BYTES: usize = 40;
const FRAGMENT_BYTES: usize = 8;

/// The fragments of a packet, each with `bytes` of its payload but the last.
///
/// # Panics
/// `bytes` is no multiple of eight.
#[must_use]
pub fn cut(frame: &[u8], bytes: usize, identification: u16) -> Vec<Vec<u8>> {
    assert!(bytes.is_multiple_of(8), "fragments of {bytes} bytes");
    let is_v4 = frame[LINK_BYTES] >> 4 == 4;
    let headers_bytes = LINK_BYTES + if is_v4 { V4_BYTES } else { V6_BYTES };
    let (headers, payload) = frame.split_at(headers_bytes);
    let pieces: Vec<&[u8]> = payload.chunks(bytes).collect();
    let last = pieces.len() - 1;
    let piece = |(index, piece): (usize, &&[u8])| {
        let offset = (index * bytes) as u16;
        let more = u16::from(index != last);
        let mut out = headers.to_vec();
        if is_v4 {
            put(&mut out, LINK_BYTES + 2, (V4_BYTES + piece.len()) as u16);
            put(&mut out, LINK_BYTES + 4, identification);
            put(&mut out, LINK_BYTES + 6, more << 13 | offset / 8);
            finish_v4(&mut out);
        } else {
            put(&mut out, LINK_BYTES + 4, (FRAGMENT_BYTES + piece.len()) as u16);
            let next = std::mem::replace(&mut out[LINK_BYTES + 6], FRAGMENT);
            out.extend([next, 0]);
            out.extend((offset | more).to_be_bytes());
            out.extend([0, 0]);
            out.extend(identification.to_be_bytes());
        }
        out.extend(*piece);
        out
    };
    pieces.iter().enumerate().map(piece).collect()
}

/// The packet that fragments in their order make.
#[must_use]
pub fn join(pieces: &[Vec<u8>]) -> Vec<u8> {
    let is_v4 = pieces[0][LINK_BYTES] >> 4 == 4;
    let (headers_bytes, skipped_bytes) =
        if is_v4 { (LINK_BYTES + V4_BYTES, 0) } else { (LINK_BYTES + V6_BYTES, FRAGMENT_BYTES) };
    let mut out = pieces[0][..headers_bytes].to_vec();
    for piece in pieces {
        out.extend(&piece[headers_bytes + skipped_bytes..]);
    }
    let payload_bytes = (out.len() - headers_bytes) as u16;
    if is_v4 {
        put(&mut out, LINK_BYTES + 2, V4_BYTES as u16 + payload_bytes);
        put(&mut out, LINK_BYTES + 4, 0);
        put(&mut out, LINK_BYTES + 6, 0);
        finish_v4(&mut out);
    } else {
        put(&mut out, LINK_BYTES + 4, payload_bytes);
        out[LINK_BYTES + 6] = pieces[0][headers_bytes];
    }
    out
}

fn put(frame: &mut [u8], at: usize, word: u16) {
    frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

fn finish_v4(frame: &mut [u8]) {
    put(frame, LINK_BYTES + 10, 0);
    let checksum = internet_checksum(&[&frame[LINK_BYTES..LINK_BYTES + V4_BYTES]]);
    put(frame, LINK_BYTES + 10, checksum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::PacketBuilder;

    #[test]
    fn joined_fragments_are_the_packet() {
        for ends in [["192.0.2.1:1", "192.0.2.2:2"], ["[2001:db8::1]:1", "[2001:db8::2]:2"]] {
            let [source, destination] = ends.map(|end| end.parse().unwrap());
            let frame = PacketBuilder::udp(source, destination).payload(&[7; 3_000]).build();
            let pieces = cut(&frame, 1_000, 9);
            assert_eq!(pieces.len(), 4);
            assert_eq!(join(&pieces), frame);
        }
    }
}
