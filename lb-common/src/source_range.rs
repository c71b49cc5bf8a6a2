//! SOURCE_RANGES: whom a Service lets in (`spec.loadBalancerSourceRanges`).
use bytemuck::{Pod, Zeroable};

use crate::Address;

/// Key of SOURCE_RANGES, an LPM trie: a prefix of {backend service, client address}. The trie compares
/// bits in memory order, so the id is in big-endian order; it is always part of the prefix whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct SourceRangeKey {
    /// Bits that count: [`ID_BITS`] and those of the client's prefix, of an IPv4 prefix with the 96
    /// mapped ones.
    pub prefix_bits: u32,
    /// Backend-service id, with `V6` for IPv6; big-endian.
    pub backend_service: u32,
    /// The client's address or network.
    pub client: [u32; 4],
}

const _: () = assert!(size_of::<SourceRangeKey>() == 24);

/// Bits of the backend-service id.
pub const ID_BITS: u32 = 32;

/// Set in the id of an IPv6 range or client: `::/0` covers the mapped IPv4 addresses (RFC 4291 §2.5.5.2), and
/// must let in none of them. Ids are less (`--backend-services-max`).
const V6: u32 = 1 << 31;

impl SourceRangeKey {
    /// The key that finds the longest range of `client`.
    #[must_use]
    #[inline(always)]
    pub const fn of_client(backend_service: u32, client: &Address) -> Self {
        let [first, last] = client.halves();
        Self {
            prefix_bits: ID_BITS + 128,
            backend_service: (if client.is_v4() { backend_service } else { backend_service | V6 }).to_be(),
            // In memory order whatever the machine's.
            client: if cfg!(target_endian = "little") {
                [first as u32, (first >> 32) as u32, last as u32, (last >> 32) as u32]
            } else {
                [(first >> 32) as u32, first as u32, (last >> 32) as u32, last as u32]
            },
        }
    }

    /// The key of a range: `length_bits` in the bits of the network's own family.
    #[must_use]
    pub const fn of_range(backend_service: u32, network: &Address, length_bits: u8) -> Self {
        let mapped_bits = if network.is_v4() { 96 } else { 0 };
        Self {
            prefix_bits: ID_BITS + mapped_bits + length_bits as u32,
            ..Self::of_client(backend_service, network)
        }
    }

    /// The backend service's id.
    #[must_use]
    pub const fn backend_service_id(&self) -> u32 {
        u32::from_be(self.backend_service) & !V6
    }

    /// The network and its length in bits of its own family.
    #[must_use]
    pub const fn range(&self) -> (Address, u32) {
        let [a, b, c, d] = self.client;
        let (a, b, c, d) = if cfg!(target_endian = "little") { (a, b, c, d) } else { (b, a, d, c) };
        let network = Address::from_halves([a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]);
        let mapped_bits = if network.is_v4() { 96 } else { 0 };
        (network, self.prefix_bits.saturating_sub(ID_BITS + mapped_bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned() {
        let key = SourceRangeKey::of_range(0x0102, &Address::v4([203, 0, 113, 0]), 24);
        assert_eq!(
            bytemuck::bytes_of(&key),
            [152, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 0]
        );
        let client = SourceRangeKey::of_client(0x0102, &Address::v4([203, 0, 113, 9]));
        assert_eq!(client.prefix_bits, 160);
        assert_eq!(client.client[..3], key.client[..3]);
    }

    #[test]
    fn a_range_comes_back_from_its_key() {
        let networks = [(Address::v4([203, 0, 113, 0]), 24), (Address::v6([0x20; 16]), 127)];
        for (network, bits) in networks {
            let key = SourceRangeKey::of_range(9, &network, bits);
            assert_eq!((key.backend_service_id(), key.range()), (9, (network, u32::from(bits))));
        }
    }

    #[test]
    fn no_ipv6_range_is_of_the_id_that_ipv4_clients_look_up() {
        let all = SourceRangeKey::of_range(7, &Address::v6([0; 16]), 0);
        let client = SourceRangeKey::of_client(7, &Address::v4([203, 0, 113, 9]));
        assert_ne!(all.backend_service, client.backend_service);
        assert_eq!((all.backend_service_id(), all.range()), (7, (Address::v6([0; 16]), 0)));
    }

    #[test]
    fn an_ipv6_range_counts_its_own_bits() {
        let network = Address::v6([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(SourceRangeKey::of_range(7, &network, 32).prefix_bits, 64);
    }
}
