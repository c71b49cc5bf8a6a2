//! CONFIG: what the programs must know of this node.
use bytemuck::{Pod, Zeroable};

use crate::{Address, Be16, Prefix};

/// Most cluster prefixes (pod CIDRs): two of each family.
pub const CLUSTER_PREFIXES_MAX: usize = 4;

/// Most prefixes of cluster IPs (ServiceCIDR objects): two of each family.
pub const SERVICE_PREFIXES_MAX: usize = 4;

/// The one value of CONFIG, an array of length 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Config {
    /// The IPv4 address that source NAT gives to outside clients; read only with [`flags::NODE_V4`].
    pub node_v4: Address,
    /// The IPv6 address that source NAT gives to outside clients; read only with [`flags::NODE_V6`].
    pub node_v6: Address,
    /// Sources that count as pods of the cluster; the first [`Config::cluster_prefixes_count`] hold.
    pub cluster_prefixes: [Prefix; CLUSTER_PREFIXES_MAX],
    /// Prefixes that cluster IPs are taken from; the first [`Config::service_prefixes_count`] hold. A
    /// packet to an address there that no Service has is dropped.
    pub service_prefixes: [Prefix; SERVICE_PREFIXES_MAX],
    /// `SO_NETNS_COOKIE` of the node's own network namespace: its processes reach node ports on
    /// loopback addresses, those of pods do not.
    pub node_namespace_cookie: u64,
    /// How many of [`Config::service_prefixes`] hold.
    pub service_prefixes_count: u32,
    /// How many of [`Config::cluster_prefixes`] hold.
    pub cluster_prefixes_count: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// First port of source NAT, host order.
    pub snat_port_first: u16,
    /// Number of ports of source NAT; zero switches it off.
    pub snat_ports: u16,
    /// UDP port of the encapsulation to other nodes (RFC 8926 §3.3 assigns 6081).
    pub dsr_port: Be16,
    /// Zero.
    pub padding: [u16; 3],
}

const _: () = assert!(size_of::<Config>() == 320);

/// Bits of [`Config::flags`].
pub mod flags {
    /// [`super::Config::node_v4`] holds.
    pub const NODE_V4: u32 = 1 << 0;
    /// [`super::Config::node_v6`] holds.
    pub const NODE_V6: u32 = 1 << 1;
    /// Another proxy serves on this node too: a TCP connection whose beginning was not seen is its.
    pub const BESIDE_PROXY: u32 = 1 << 2;
    /// Packets to a pod of this node are handed to its interface, past the network stack, where a hook can.
    pub const DELIVER_DIRECTLY: u32 = 1 << 3;
}

impl Config {
    /// This node's address in the family of `peer`, where it has one.
    #[must_use]
    #[inline(always)]
    pub fn node_address(&self, peer: &Address) -> Option<Address> {
        if peer.is_v4() {
            (self.flags & flags::NODE_V4 != 0).then_some(self.node_v4)
        } else {
            (self.flags & flags::NODE_V6 != 0).then_some(self.node_v6)
        }
    }

    /// Whether another proxy serves on this node too.
    #[must_use]
    #[inline(always)]
    pub const fn is_beside_proxy(&self) -> bool {
        self.flags & flags::BESIDE_PROXY != 0
    }

    /// Whether packets to a pod of this node are handed to its interface, past the network stack.
    #[must_use]
    #[inline(always)]
    pub const fn delivers_directly(&self) -> bool {
        self.flags & flags::DELIVER_DIRECTLY != 0
    }

    /// Whether `address` is a pod of the cluster.
    #[must_use]
    #[inline(always)]
    pub fn is_in_cluster(&self, address: &Address) -> bool {
        covers(&self.cluster_prefixes, self.cluster_prefixes_count, address)
    }

    /// Whether `address` is in a prefix that cluster IPs are taken from.
    #[must_use]
    #[inline(always)]
    pub fn is_service_address(&self, address: &Address) -> bool {
        covers(&self.service_prefixes, self.service_prefixes_count, address)
    }
}

/// Whether one of the first `count` prefixes covers an address.
#[inline(always)]
fn covers<const N: usize>(prefixes: &[Prefix; N], count: u32, address: &Address) -> bool {
    let mut index = 0;
    while index < N {
        if index as u32 >= count {
            return false;
        }
        if prefixes[index].contains(address) {
            return true;
        }
        index += 1;
    }
    false
}
