//! FRAGMENTS: the ports of a fragmented datagram, which only its first fragment carries; and HELD_FRAMES: the
//! later fragments that came before it.
use bytemuck::{Pod, Zeroable};

use crate::{Address, Be16};

/// Key of FRAGMENTS: what the fragments of one datagram have in common (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct FragmentKey {
    /// Source address, before any rewrite.
    pub source: Address,
    /// Destination address, before any rewrite.
    pub destination: Address,
    /// Identification as it stands on the wire; of IPv4 in the low two bytes.
    pub identification: u32,
    /// IP protocol number.
    pub protocol: u32,
}

const _: () = assert!(size_of::<FragmentKey>() == 40);

/// Value of FRAGMENTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(4))]
pub struct FragmentPorts {
    /// Source port of the datagram.
    pub source_port: Be16,
    /// Destination port of the datagram.
    pub destination_port: Be16,
    /// When the first fragment came, seconds of the monotonic clock.
    pub created_s: u32,
}

const _: () = assert!(size_of::<FragmentPorts>() == 8);

/// Seconds for which an entry counts: a datagram whose fragments take longer is dropped. Linux waits
/// 30 s (`net.ipv4.ipfrag_time`), by which time a fast sender has used the identification again
/// (RFC 4963); a fragment of the later datagram that comes out of order would find the former one's ports.
/// At three seconds that takes more than 21,000 datagrams in fragments a second from one host to another.
pub const FRAGMENT_TIMEOUT_S: u32 = 3;

impl FragmentPorts {
    /// Whether the entry still counts.
    #[must_use]
    #[inline(always)]
    pub const fn is_young(&self, now_s: u32) -> bool {
        now_s.saturating_sub(self.created_s) <= FRAGMENT_TIMEOUT_S
    }
}

/// Longest frame that is held, bytes. A longer one is dropped and counted.
pub const HELD_FRAME_BYTES_MAX: usize = 2_048;

/// Record of HELD_FRAMES: a later fragment that came before its first one, as it came. Of one size, as the
/// kernel wants it (`bpf_ringbuf_reserve` takes a constant).
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct HeldFrame {
    /// How many of the bytes are the frame's.
    pub length_bytes: u32,
    /// Index of the interface at which it was held.
    pub interface: u32,
    /// A [`HeldWay`], as a number.
    pub way: u32,
    /// The frame from its Ethernet header on; what follows it means nothing.
    pub bytes: [u8; HELD_FRAME_BYTES_MAX],
}

const _: () = assert!(size_of::<HeldFrame>() == 12 + HELD_FRAME_BYTES_MAX);

/// Which way a frame went when it was held, and who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum HeldWay {
    /// It entered the node.
    Entering,
    /// It was about to leave; a process of the node sent it.
    LeavingNode,
    /// It was about to leave; the node had received it.
    LeavingForwarded,
}

impl HeldWay {
    /// The way that a record names; `None` for a number that no program writes.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::Entering),
            1 => Some(Self::LeavingNode),
            2 => Some(Self::LeavingForwarded),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned() {
        let key = FragmentKey {
            source: Address::v4([192, 0, 2, 1]),
            destination: Address::v4([198, 51, 100, 1]),
            identification: 0x0102,
            protocol: 17,
        };
        let bytes = bytemuck::bytes_of(&key);
        assert_eq!(bytes[10..16], [0xff, 0xff, 192, 0, 2, 1]);
        assert_eq!(bytes[32..], [2, 1, 0, 0, 17, 0, 0, 0]);
        let ports =
            FragmentPorts { source_port: Be16::new(53), destination_port: Be16::new(4096), created_s: 7 };
        assert_eq!(bytemuck::bytes_of(&ports), [0, 53, 16, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn way_is_read_back_from_its_number() {
        for way in [HeldWay::Entering, HeldWay::LeavingNode, HeldWay::LeavingForwarded] {
            assert_eq!(HeldWay::from_raw(way as u32), Some(way));
        }
        assert_eq!(HeldWay::from_raw(3), None);
    }
}
