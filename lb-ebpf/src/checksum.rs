//! Incremental checksums (RFC 1624): what a change of some words does to a ones' complement sum.
//! Words are added as memory holds them; the sum of swapped words is the swapped sum (RFC 1071 §2(B)).
use lb_common::{Address, Be16};

use crate::parse::Family;

/// The sum of `~old + new` over some 16-bit words, folded to at most 17 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u32);

#[inline(always)]
const fn fold(sum: u64) -> u32 {
    // Twice: the first addition may carry out of 32 bits into the 33rd.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u32
}

/// The two 32-bit words of half an address.
#[inline(always)]
const fn sum_of_half(half: u64) -> u64 {
    (half & 0xffff_ffff) + (half >> 32)
}

#[inline(always)]
const fn replaced(old: &Address, new: &Address, family: Family) -> u64 {
    let [o0, o1] = old.halves();
    let [n0, n1] = new.halves();
    // The mapped half-word of an IPv4 address is in both and adds nothing.
    let last = sum_of_half(!o1) + sum_of_half(n1);
    match family {
        Family::V4 => last,
        Family::V6 => last + sum_of_half(!o0) + sum_of_half(n0),
    }
}

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// A change of source and destination address.
    #[must_use]
    #[inline(always)]
    pub const fn of_addresses(old: [&Address; 2], new: [&Address; 2], family: Family) -> Self {
        let [old_source, old_destination] = old;
        let [new_source, new_destination] = new;
        Self(fold(
            replaced(old_source, new_source, family) + replaced(old_destination, new_destination, family),
        ))
    }

    /// A change of two 16-bit words.
    #[must_use]
    #[inline(always)]
    pub const fn of_words(old: [Be16; 2], new: [Be16; 2]) -> Self {
        let [a, b] = old;
        let [c, d] = new;
        Self(fold((!a.raw()) as u64 + (!b.raw()) as u64 + c.raw() as u64 + d.raw() as u64))
    }

    /// Both changes.
    #[must_use]
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// As the kernel's `__wsum`, for `bpf_l4_csum_replace` with size zero.
    #[must_use]
    #[inline(always)]
    pub const fn wsum(self) -> u32 {
        self.0
    }

    /// The checksum field after the change: `HC' = ~(~HC + ~m + m')` (RFC 1624 §3, equation 3).
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, checksum: Be16) -> Be16 {
        Be16::from_raw(!fold((!checksum.raw()) as u64 + self.0 as u64) as u16)
    }
}

/// A UDP checksum field after the change (RFC 768).
#[must_use]
#[inline(always)]
pub const fn apply_to_udp(delta: Delta, checksum: Be16) -> Be16 {
    if checksum.raw() == 0 {
        return checksum;
    }
    let patched = delta.apply(checksum);
    if patched.raw() == 0 { Be16::from_raw(0xffff) } else { patched }
}

/// A sum over whole 16-bit words, for a header that is written anew.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds one word as it stands on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn word(self, bytes: [u8; 2]) -> Self {
        Self(self.0 + u16::from_ne_bytes(bytes) as u64)
    }

    /// Adds two words as they stand on the wire.
    #[must_use]
    #[inline(always)]
    pub const fn words(self, bytes: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(bytes) as u64)
    }

    /// Adds an address: its last four bytes for IPv4.
    #[must_use]
    #[inline(always)]
    pub const fn address(self, address: &Address, family: Family) -> Self {
        let [first, last] = address.halves();
        match family {
            Family::V4 => self.words(address.v4_bytes()),
            Family::V6 => Self(self.0 + sum_of_half(first) + sum_of_half(last)),
        }
    }

    /// The checksum (RFC 1071 §1).
    #[must_use]
    #[inline(always)]
    pub const fn finish(self) -> Be16 {
        Be16::from_raw(!fold(self.0) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_rfc_1624() {
        // §4: HC = 0xdd2f, m = 0x5555, m' = 0x3285; the sum of equation 3 gives 0x0000.
        let delta = Delta::of_words([Be16::new(0x5555), Be16::new(0)], [Be16::new(0x3285), Be16::new(0)]);
        assert_eq!(delta.apply(Be16::new(0xdd2f)), Be16::new(0x0000));
    }

    #[test]
    fn udp_without_checksum_stays_without() {
        let delta = Delta::of_words([Be16::new(1), Be16::new(2)], [Be16::new(3), Be16::new(4)]);
        assert_eq!(apply_to_udp(delta, Be16::new(0)), Be16::new(0));
    }

    #[test]
    fn udp_checksum_that_becomes_zero_is_sent_as_ones() {
        let delta = Delta::of_words([Be16::new(0x5555), Be16::new(0)], [Be16::new(0x3285), Be16::new(0)]);
        assert_eq!(apply_to_udp(delta, Be16::new(0xdd2f)), Be16::new(0xffff));
    }
}
