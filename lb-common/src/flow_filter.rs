//! FLOW_FILTER: bits by hash of an address, set where an entry of CONNTRACK may have it as its destination. It is
//! an array, so a packet to an address that no flow goes to costs no look into a large hash table.
//!
//! A word has two halves of the same 32 places. Whoever enters a flow sets its bit in both, *after* the entry is
//! there; the bit counts where either half has it. So the agent can clear one half, set it again for each
//! entry that a walk through CONNTRACK finds, and then do the same with the other: no live entry is ever
//! without its bit, and that of an address whose flows are over is gone after two walks.
use crate::Address;

/// Places. With flows to 10,000 addresses one foreign address in 105 is looked up in vain.
pub const FLOW_FILTER_PLACES: u32 = 1 << 20;
/// Length of FLOW_FILTER, an array of `u64`.
pub const FLOW_FILTER_WORDS: u32 = FLOW_FILTER_PLACES / u32::BITS;

/// A half of every word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Half {
    /// The lower bits.
    #[default]
    Lower,
    /// The upper bits.
    Upper,
}

impl Half {
    /// The bits of the half in a word.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self {
            Self::Lower => u32::MAX as u64,
            Self::Upper => !(u32::MAX as u64),
        }
    }

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Lower => Self::Upper,
            Self::Upper => Self::Lower,
        }
    }
}

/// The word of an address in FLOW_FILTER, and its bits there, one in each half.
#[must_use]
#[inline(always)]
pub const fn place(address: &Address) -> (u32, u64) {
    let [first, last] = address.halves();
    // Multiplicative hashing (Knuth, TAOCP vol. 3 §6.4); the upper bits are the good ones.
    let mixed = (first ^ last.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ last ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let index = (mixed >> (u64::BITS - FLOW_FILTER_PLACES.ilog2())) as u32;
    (index / u32::BITS, 0x1_0000_0001 << (index % u32::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_bit_in_each_half() {
        for last in 0..=255 {
            let (word, bits) = place(&Address::v4([10, 244, 1, last]));
            assert!(word < FLOW_FILTER_WORDS);
            assert_eq!(bits & Half::Lower.mask(), (bits & Half::Upper.mask()) >> 32);
            assert_eq!(bits.count_ones(), 2);
        }
    }

    #[test]
    fn addresses_of_one_network_spread_over_the_filter() {
        let addresses = (0..10_000_u16).map(|last| {
            let [high, low] = last.to_be_bytes();
            place(&Address::v4([10, 244, high, low]))
        });
        let places: std::collections::BTreeSet<_> = addresses.collect();
        // 10,000 balls in 1,048,576 places: about 48 fall on a place that is taken.
        assert!(places.len() > 9_850, "{} places", places.len());
    }
}
