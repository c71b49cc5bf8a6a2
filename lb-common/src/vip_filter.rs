//! VIP_FILTER: one bit per hash of an address, set where some VIP has that hash. It is an array, so a
//! packet to an address that is none of ours costs no hash lookup.
use crate::Address;

/// Bits of the filter. With 10,000 VIPs one foreign address in 27 is looked up in vain.
pub const VIP_FILTER_BITS: u32 = 262_144;
/// Length of VIP_FILTER, an array of `u64`.
pub const VIP_FILTER_WORDS: u32 = VIP_FILTER_BITS / u64::BITS;

/// The word of an address in VIP_FILTER, and its bit there.
#[must_use]
#[inline(always)]
pub const fn place(address: &Address) -> (u32, u64) {
    let [first, last] = address.halves();
    // Multiplicative hashing (Knuth, TAOCP vol. 3 §6.4); the upper bits are the good ones.
    let mixed = (first ^ last.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ last ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let index = (mixed >> 46) as u32;
    (index / u64::BITS, 1 << (index % u64::BITS))
}

const _: () = assert!(1 << (64 - 46) == VIP_FILTER_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_spread_over_the_filter() {
        let mut bits = std::collections::BTreeSet::new();
        for last in 0..10_000_u16 {
            let [high, low] = last.to_be_bytes();
            let (word, bit) = place(&Address::v4([10, 96, high, low]));
            assert!(word < VIP_FILTER_WORDS);
            bits.insert((word, bit));
        }
        // 10,000 balls in 262,144 places: about 190 fall on a place that is taken.
        assert!(bits.len() > 9_600, "{} places", bits.len());
    }
}
