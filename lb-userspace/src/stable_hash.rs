//! A hash that is the same in every build of the agent: `std`'s may change from one to the next, and agents of two
//! builds must agree.

/// Of a text: FNV-1a, mixed.
#[must_use]
pub fn of(text: &str) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mixed(text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
#[must_use]
pub const fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
