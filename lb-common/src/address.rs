//! One address type for both families: 16 bytes, IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).
use bytemuck::{Pod, Zeroable};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Be32;

const MAPPED_MARK: Be32 = Be32::new(0xffff);

/// An IPv4 or IPv6 address in network byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Address([Be32; 4]);

impl Address {
    /// The IPv4-mapped form of four wire bytes.
    #[must_use]
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self([Be32::new(0), Be32::new(0), MAPPED_MARK, Be32::from_bytes(bytes)])
    }

    /// From sixteen wire bytes.
    #[must_use]
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self([
            Be32::from_bytes([b[0], b[1], b[2], b[3]]),
            Be32::from_bytes([b[4], b[5], b[6], b[7]]),
            Be32::from_bytes([b[8], b[9], b[10], b[11]]),
            Be32::from_bytes([b[12], b[13], b[14], b[15]]),
        ])
    }

    /// From four words in memory order, as `bpf_sock_addr` gives them.
    #[must_use]
    #[inline(always)]
    pub const fn from_words(words: [Be32; 4]) -> Self {
        Self(words)
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.0;
        a.raw() | b.raw() == 0 && c.raw() == MAPPED_MARK.raw()
    }

    /// The four words in memory order; of an IPv4 address the last one is the address.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> [Be32; 4] {
        self.0
    }

    /// The four wire bytes of an IPv4 address; of an IPv6 address its last four.
    #[must_use]
    #[inline(always)]
    pub const fn v4_bytes(&self) -> [u8; 4] {
        self.0[3].bytes()
    }

    /// The sixteen wire bytes.
    #[must_use]
    #[inline(always)]
    pub const fn v6_bytes(&self) -> [u8; 16] {
        let [a, b, c, d] = [self.0[0].bytes(), self.0[1].bytes(), self.0[2].bytes(), self.0[3].bytes()];
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Self::V4(Ipv4Addr::from(address.v4_bytes()))
        } else {
            Self::V6(Ipv6Addr::from(address.v6_bytes()))
        }
    }
}

impl core::fmt::Display for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// An address prefix; an IPv4 prefix counts its 96 mapped bits too (`10.0.0.0/8` has 104 bits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Prefix {
    /// The network address; bits past `length_bits` are zero.
    pub network: Address,
    /// The bits that must agree, one mask word per address word. All zero matches every address.
    pub mask: [Be32; 4],
}

const _: () = assert!(size_of::<Prefix>() == 32);

impl Prefix {
    /// The prefix of `length_bits` leading bits of `address`, in the bits of `address`'s own family
    /// (at most 32 for IPv4, 128 for IPv6; more is cut to that).
    #[must_use]
    pub fn new(address: IpAddr, length_bits: u8) -> Self {
        let bits = match address {
            IpAddr::V4(_) => 96 + u32::from(length_bits.min(32)),
            IpAddr::V6(_) => u32::from(length_bits.min(128)),
        };
        let mask_bits = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
        let network = u128::from_be_bytes(Address::from(address).v6_bytes()) & mask_bits;
        Self {
            network: Address::v6(network.to_be_bytes()),
            mask: Address::v6(mask_bits.to_be_bytes()).words(),
        }
    }

    /// Whether the prefix covers `address`.
    #[must_use]
    #[inline(always)]
    pub fn contains(&self, address: &Address) -> bool {
        let [n0, n1, n2, n3] = self.network.words();
        let [m0, m1, m2, m3] = self.mask;
        let [a0, a1, a2, a3] = address.words();
        let differs = ((a0.raw() ^ n0.raw()) & m0.raw())
            | ((a1.raw() ^ n1.raw()) & m1.raw())
            | ((a2.raw() ^ n2.raw()) & m2.raw())
            | ((a3.raw() ^ n3.raw()) & m3.raw());
        differs == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_mapped() {
        let address = Address::from(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(address.v6_bytes(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]);
        assert!(address.is_v4());
        assert_eq!(IpAddr::from(address), IpAddr::from([192, 0, 2, 1]));
    }

    #[test]
    fn ipv6_keeps_its_bytes() {
        let ip: IpAddr = "2001:db8::7".parse().unwrap();
        let address = Address::from(ip);
        assert!(!address.is_v4());
        assert_eq!(IpAddr::from(address), ip);
    }

    #[test]
    fn prefix_covers_its_own_family_only() {
        let ten = Prefix::new(IpAddr::from([10, 1, 2, 3]), 8);
        assert!(ten.contains(&IpAddr::from([10, 255, 0, 1]).into()));
        assert!(!ten.contains(&IpAddr::from([11, 0, 0, 1]).into()));
        assert!(!ten.contains(&Address::v6([0; 16])));
        let all_v4 = Prefix::new(IpAddr::from([0, 0, 0, 0]), 0);
        assert!(all_v4.contains(&IpAddr::from([203, 0, 113, 9]).into()));
        assert!(!all_v4.contains(&"2001:db8::1".parse::<IpAddr>().unwrap().into()));
    }
}
