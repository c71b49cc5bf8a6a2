//! The one flow hash: every node and every hook maps a five-tuple to the same point of a ring, so a
//! flow that moves to another node (ECMP, node failure) finds its endpoint again.
use crate::conntrack::FlowKey;

/// Odd constants from the fractional part of the golden ratio and of the square root of two, the
/// usual choice for multiplicative hashing (Knuth, TAOCP vol. 3 §6.4).
const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0x6a09_e667_f3bc_c909;

#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(K0);
    product ^ (product >> 32)
}

/// The last step of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", OOPSLA 2014): every input bit reaches every output bit.
#[inline(always)]
const fn finish(hash: u64) -> u64 {
    let a = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

#[inline(always)]
const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

/// The hash of a five-tuple; all 32 bits are uniform. No secret goes in, since all nodes must agree:
/// a client can choose its endpoint by choosing its port, which it could do by trying anyway.
#[must_use]
#[inline(always)]
pub const fn of_flow(key: &FlowKey) -> u32 {
    let [s0, s1] = key.source.halves();
    let [d0, d1] = key.destination.halves();
    let ports = pair(key.source_port.get() as u32, key.destination_port.get() as u32);
    let mut hash = mix(K1, u64::from_be(s0));
    hash = mix(hash, u64::from_be(s1));
    hash = mix(hash, u64::from_be(d0));
    hash = mix(hash, u64::from_be(d1));
    hash = mix(hash, ports ^ ((key.protocol as u64) << 16));
    (finish(hash) >> 32) as u32
}

/// The hash of one 64-bit number, for a choice that has no five-tuple (a socket's cookie).
#[must_use]
#[inline(always)]
pub const fn of_u64(value: u64) -> u32 {
    (finish(value.wrapping_add(K0)) >> 32) as u32
}

/// A further point for a hash whose point of the ring was of no use; `attempt` counts from 1.
#[must_use]
#[inline(always)]
pub const fn again(hash: u32, attempt: u32) -> u32 {
    of_u64(pair(attempt, hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, Be16};

    fn key(client: u32, port: u16) -> FlowKey {
        FlowKey {
            source: Address::v4(client.to_be_bytes()),
            destination: Address::v4([192, 0, 2, 1]),
            source_port: Be16::new(port),
            destination_port: Be16::new(80),
            protocol: 6,
        }
    }

    #[test]
    fn values_are_pinned_since_nodes_of_two_versions_must_agree() {
        assert_eq!(of_flow(&key(0xcb00_7101, 40_000)), PINNED_FLOW);
        assert_eq!(of_u64(1), PINNED_U64);
    }
    const PINNED_FLOW: u32 = 2_684_072_019;
    // The first output of SplitMix64 with seed 1 is 0x910a2dec89025cc1.
    const PINNED_U64: u32 = 0x910a_2dec;

    #[test]
    fn consecutive_ports_and_clients_spread_evenly() {
        const BUCKETS: usize = 16;
        let mut counts = [0u32; BUCKETS];
        for client in 0..64u32 {
            for port in 0..1_000u16 {
                let hash = of_flow(&key(0xcb00_7100 + client, 32_768 + port));
                counts[((u64::from(hash) * BUCKETS as u64) >> 32) as usize] += 1;
            }
        }
        // 64,000 flows, 4,000 expected per bucket, standard deviation 61: five of them.
        for count in counts {
            assert!((3_695..=4_305).contains(&count), "{counts:?}");
        }
    }
}
