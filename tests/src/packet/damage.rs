//! Cutting and damaging frames: what a parser meets when a sender lies or a wire breaks.
use super::random::Random;

/// Shortest frame that the kernel's test-run takes: an Ethernet header.
pub const FRAME_BYTES_MIN: usize = 14;
/// Where damage falls: the headers of every frame that the builder makes lie before it.
const HEADERS_BYTES: usize = 128;

/// One way of damaging a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One to eight bits of the headers are flipped.
    FlipBits,
    /// A byte of the headers takes a value at a boundary (0, 1, 0x7f, 0x80, 0xff).
    BoundaryByte,
    /// The `EtherType` takes a value that parsers know.
    EtherType,
    /// Version and header length of the IP header.
    IpVersionAndLength,
    /// The length field of the IP header: shorter than its headers, longer than the frame, off by one.
    IpLength,
    /// The fields of IPv4 that make a fragment.
    Ipv4Fragment,
    /// The protocol or next-header field takes a value that parsers know.
    NextHeader,
    /// Data offset of TCP, or the length of UDP; of an IPv6 extension header its length.
    TransportLength,
    /// Random bytes follow the frame.
    Tail,
    /// A piece of the headers is written over by random bytes.
    Overwrite,
}

impl Damage {
    /// Every way.
    pub const ALL: [Self; 10] = [
        Self::FlipBits,
        Self::BoundaryByte,
        Self::EtherType,
        Self::IpVersionAndLength,
        Self::IpLength,
        Self::Ipv4Fragment,
        Self::NextHeader,
        Self::TransportLength,
        Self::Tail,
        Self::Overwrite,
    ];

    /// Damages `frame`. Its length changes only by [`Damage::Tail`], and never falls below
    /// [`FRAME_BYTES_MIN`].
    pub fn apply(self, frame: &mut Vec<u8>, random: &mut Random) {
        let ip = ip_offset(frame);
        let is_v6 = frame.get(ip).is_some_and(|byte| byte >> 4 == 6);
        match self {
            Self::FlipBits => {
                for _ in 0..=random.below(8) {
                    let byte = random.below(frame.len().min(HEADERS_BYTES));
                    frame[byte] ^= 1 << random.below(8);
                }
            }
            Self::BoundaryByte => {
                let byte = random.below(frame.len().min(HEADERS_BYTES));
                frame[byte] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]);
            }
            Self::EtherType => {
                let known: [u16; 6] = [0x0800, 0x86dd, 0x8100, 0x88a8, 0x0806, 0x05dc];
                let value = *random.pick(&known);
                put(frame, ip - 2, &value.to_be_bytes());
            }
            Self::IpVersionAndLength => put(frame, ip, &[random.byte()]),
            Self::IpLength => {
                let at = if is_v6 { ip + 4 } else { ip + 2 };
                let true_length = (frame.len() - ip.min(frame.len())) as u16;
                let values =
                    [0, 1, 19, 20, true_length.wrapping_sub(1), true_length + 1, 0xffff, random.word()];
                let value = *random.pick(&values);
                put(frame, at, &value.to_be_bytes());
            }
            Self::Ipv4Fragment => {
                let value = *random.pick(&[0x2000, 0x0001, 0x3fff, 0x4000, 0x8000, 0x1fff]) as u16;
                put(frame, ip + 6, &value.to_be_bytes());
            }
            Self::NextHeader => {
                let known = [0, 1, 4, 6, 17, 41, 43, 44, 50, 51, 58, 59, 60, 132, 135, 255];
                let at = if is_v6 { *random.pick(&[ip + 6, ip + 40, ip + 48]) } else { ip + 9 };
                put(frame, at, &[*random.pick(&known)]);
            }
            Self::TransportLength => {
                let transport = if is_v6 { ip + 40 } else { ip + 20 };
                let at = transport + *random.pick(&[1, 4, 5, 12]);
                put(frame, at, &[random.byte()]);
            }
            Self::Tail => {
                let count = random.below(64);
                frame.extend(random.bytes(count));
            }
            Self::Overwrite => {
                let start = random.below(frame.len().min(HEADERS_BYTES));
                let count = random.below(16);
                put(frame, start, &random.bytes(count));
            }
        }
    }
}

/// Cuts the frame anywhere behind its Ethernet addresses and `EtherType`.
pub fn truncate(frame: &mut Vec<u8>, random: &mut Random) {
    let room = frame.len().saturating_sub(FRAME_BYTES_MIN);
    frame.truncate(FRAME_BYTES_MIN + random.below(room.max(1)));
}

/// Writes as many of `bytes` as the frame has room for.
fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in frame.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

/// Where the IP header begins, behind VLAN tags.
fn ip_offset(frame: &[u8]) -> usize {
    let mut offset = FRAME_BYTES_MIN;
    while matches!(frame.get(offset - 2..offset), Some([0x81, 0x00] | [0x88, 0xa8])) {
        offset += 4;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::PacketBuilder;

    fn frame() -> Vec<u8> {
        let [source, destination] = [([192, 0, 2, 1], 1000).into(), ([192, 0, 2, 2], 80).into()];
        PacketBuilder::tcp(source, destination, 0x02).vlan(0x8100, 1).build()
    }

    #[test]
    fn every_damage_changes_the_frame_sooner_or_later() {
        let mut random = Random::new(3);
        for damage in Damage::ALL {
            let changed = (0..20).any(|_| {
                let mut damaged = frame();
                damage.apply(&mut damaged, &mut random);
                damaged != frame()
            });
            assert!(changed, "{damage:?}");
        }
    }

    #[test]
    fn any_damage_to_any_cut_frame_keeps_the_least_length() {
        let mut random = Random::new(4);
        for round in 0..5_000 {
            let mut cut = frame();
            truncate(&mut cut, &mut random);
            let damage = *random.pick(&Damage::ALL);
            damage.apply(&mut cut, &mut random);
            assert!((FRAME_BYTES_MIN..=frame().len() + 64).contains(&cut.len()), "round {round}");
        }
    }

    #[test]
    fn cut_frames_have_every_length() {
        let mut random = Random::new(5);
        let whole = frame().len();
        let lengths: std::collections::BTreeSet<usize> = (0..5_000)
            .map(|_| {
                let mut cut = frame();
                truncate(&mut cut, &mut random);
                cut.len()
            })
            .collect();
        assert!(lengths.iter().copied().eq(FRAME_BYTES_MIN..whole));
    }
}
