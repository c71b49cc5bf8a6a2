//! One address type for both families: 16 bytes, IPv4 as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).
use bytemuck::{Pod, Zeroable};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The bytes of the second half that mark an IPv4 address, and the mask that selects them.
const MAPPED_MARK: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
const MAPPED_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);

/// An IPv4 or IPv6 address: its sixteen wire bytes, held as two words in memory order. Words of eight
/// bytes, since a kernel program copies and compares it as such, and the verifier takes no word of
/// the stack that is not aligned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Address([u64; 2]);

impl Address {
    /// The IPv4-mapped form of four wire bytes.
    #[must_use]
    #[inline(always)]
    pub const fn v4([a, b, c, d]: [u8; 4]) -> Self {
        Self([0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])])
    }

    /// From sixteen wire bytes.
    #[must_use]
    #[inline(always)]
    pub const fn v6(b: [u8; 16]) -> Self {
        Self([
            u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        ])
    }

    /// From the two halves in memory order.
    #[must_use]
    #[inline(always)]
    pub const fn from_halves(halves: [u64; 2]) -> Self {
        Self(halves)
    }

    /// Whether this is an IPv4 address.
    #[must_use]
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] & MAPPED_MASK == MAPPED_MARK
    }

    /// Whether the address is a host's loopback: 127.0.0.0/8 (RFC 1122 §3.2.1.3) or `::1` (RFC 4291
    /// §2.5.3).
    #[must_use]
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let [first, ..] = self.v4_bytes();
        (self.is_v4() && first == 127)
            || (self.0[0] == 0 && self.0[1] == u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]))
    }

    /// The two halves in memory order.
    #[must_use]
    #[inline(always)]
    pub const fn halves(&self) -> [u64; 2] {
        self.0
    }

    /// The four wire bytes of an IPv4 address; of an IPv6 address its last four.
    #[must_use]
    #[inline(always)]
    pub const fn v4_bytes(&self) -> [u8; 4] {
        let [_, _, _, _, a, b, c, d] = self.0[1].to_ne_bytes();
        [a, b, c, d]
    }

    /// The sixteen wire bytes.
    #[must_use]
    #[inline(always)]
    pub const fn v6_bytes(&self) -> [u8; 16] {
        let a = self.0[0].to_ne_bytes();
        let b = self.0[1].to_ne_bytes();
        [a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]
    }
}

/// Ordered as its wire bytes are.
impl Ord for Address {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.v6_bytes().cmp(&other.v6_bytes())
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
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
    /// The bits that must agree, as an address. All zero matches every IPv6 address.
    pub mask: Address,
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
        Self { network: Address::v6(network.to_be_bytes()), mask: Address::v6(mask_bits.to_be_bytes()) }
    }

    /// Whether the prefix is of the family of `address` and covers it: mapped addresses lie inside `::/0`.
    #[must_use]
    #[inline(always)]
    pub fn contains(&self, address: &Address) -> bool {
        let [n0, n1] = self.network.halves();
        let [m0, m1] = self.mask.halves();
        let [a0, a1] = address.halves();
        let differs = ((a0 ^ n0) & m0) | ((a1 ^ n1) & m1);
        // The network of an IPv6 prefix that covers mapped addresses has a zero among the bits that map them.
        differs == 0 && self.network.is_v4() == address.is_v4()
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
    fn loopback_is_told_in_both_families() {
        let is_loopback = |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).is_loopback();
        assert!(["127.0.0.1", "127.255.0.9", "::1"].into_iter().all(is_loopback));
        assert!(!["128.0.0.1", "126.0.0.1", "::", "::7f00:1", "2001:db8::1"].into_iter().any(is_loopback));
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

    #[test]
    fn prefix_of_all_ipv6_covers_no_ipv4() {
        let v4 = IpAddr::from([203, 0, 113, 9]).into();
        for bits in [0, 64, 80, 95] {
            let prefix = Prefix::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), bits);
            assert!(!prefix.contains(&v4), "::/{bits}");
            assert!(prefix.contains(&IpAddr::V6(Ipv6Addr::LOCALHOST).into()), "::/{bits}");
        }
    }
}
