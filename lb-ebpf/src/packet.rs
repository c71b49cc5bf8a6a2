//! A frame's bytes, whoever holds them.
use lb_common::Be16;
use lb_common::fragment::HELD_FRAME_BYTES_MAX;

use crate::checksum::Delta;
use crate::parse::Family;

/// Where a transport checksum lies and which rule it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportChecksum {
    /// TCP: always there.
    Tcp {
        /// Offset of the checksum field from the start of the frame, bytes.
        offset: usize,
    },
    /// UDP: zero means "none" and stays zero; a computed zero is sent as all ones (RFC 768).
    Udp {
        /// Offset of the checksum field from the start of the frame, bytes.
        offset: usize,
    },
}

/// An Ethernet address in one aligned word, its first byte the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(u64);

impl Mac {
    /// From its bytes on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn from_bytes([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    /// Its bytes on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn bytes(self) -> [u8; 6] {
        let [a, b, c, d, e, f, _, _] = self.0.to_le_bytes();
        [a, b, c, d, e, f]
    }
}

/// A frame from its Ethernet header on. Offsets and lengths are in bytes.
pub trait Packet {
    /// Length of the whole frame.
    fn length_bytes(&self) -> usize;

    /// Makes the first `length` bytes readable and writable where a hook sees only a part of the frame;
    /// `None` where the kernel has no memory for that. A shorter frame is no failure.
    fn reveal(&mut self, length: usize) -> Option<()>;

    /// Forgets which bytes have been read. A verifier that knows keeps ways apart that differ in nothing
    /// else, and walks what follows once for each.
    #[inline(always)]
    fn forget_reads(&mut self) {}

    /// What a change of the first four bytes of an SCTP packet does to its CRC32c; see
    /// [`sctp::effect`](crate::sctp::effect).
    #[inline(always)]
    fn crc_effect(&self, change: u32, length_bytes: u16) -> u32 {
        crate::sctp::effect(change, length_bytes)
    }

    /// The `N` bytes at `offset`; `None` where the frame ends before.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Puts `bytes` at `offset`; `None`, and nothing written, where the frame ends before.
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()>;

    /// Makes a transport checksum follow a change of addresses and ports. The two changes come apart
    /// since the kernel, where it has yet to compute the checksum, wants only the pseudo header's.
    fn patch_checksum(&mut self, field: TransportChecksum, addresses: Delta, ports: Delta) -> Option<()>;

    /// Stores the transport checksum of a packet that was written anew: `whole` over all of it. Where the
    /// kernel has yet to compute it, it wants the sum of the pseudo header there, which is what
    /// `pseudo_header` is the checksum of.
    fn store_checksum(&mut self, offset: usize, whole: Be16, pseudo_header: Be16) -> Option<()>;

    /// Makes `count` bytes of room before the frame; what was at offset 0 is then at `count`.
    fn grow_front(&mut self, count: usize) -> Option<()>;

    /// Makes `count` bytes of room between the link header and the IP header at `network_offset`, for an
    /// outer IP and UDP header of `family`.
    fn open_network(&mut self, network_offset: usize, count: usize, family: Family) -> Option<()>;

    /// Takes `count` bytes behind the link header away, which ends at `network_offset`.
    fn close_network(&mut self, network_offset: usize, count: usize) -> Option<()>;

    /// Copies the whole frame to the start of `room`; its length, or `None` where it is longer, or has a
    /// VLAN tag that is not among its bytes.
    fn copy_to(&self, room: &mut [u8; HELD_FRAME_BYTES_MAX]) -> Option<u32>;

    /// Cuts the frame to `length` bytes; a frame that is no longer stays as it is.
    fn truncate(&mut self, length: usize) -> Option<()>;
}
