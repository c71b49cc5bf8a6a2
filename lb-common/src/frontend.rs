//! FRONTENDS: what a client dials, and where that leads.
use bytemuck::{Pod, Zeroable};

use crate::{Address, Be16};

/// Key of FRONTENDS: VIP, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct FrontendKey {
    /// The VIP.
    pub address: Address,
    /// The port that the client dials.
    pub port: Be16,
    /// IP protocol number. Whole aligned words, here and in the other keys: a kernel program makes
    /// them on its stack, where the verifier takes no word at another alignment.
    pub protocol: u16,
    /// Zero.
    pub padding: u32,
}

const _: () = assert!(size_of::<FrontendKey>() == 24);

impl FrontendKey {
    /// The key of a VIP, port and IP protocol number.
    #[must_use]
    #[inline(always)]
    pub const fn new(address: Address, port: Be16, protocol: u8) -> Self {
        Self { address, port, protocol: protocol as u16, padding: 0 }
    }

    /// The key under which a VIP itself is known, whatever its ports: port and protocol zero. Its entry
    /// has [`flags::VIP`] set and leads nowhere; it says that the address is ours, for refusals of its
    /// other ports and for echo requests.
    #[must_use]
    #[inline(always)]
    pub const fn vip(address: Address) -> Self {
        Self { address, port: Be16::from_raw(0), protocol: 0, padding: 0 }
    }
}

/// Value of FRONTENDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Frontend {
    /// Index into BACKEND_SERVICES.
    pub backend_service: u32,
    /// Index into NEGS for clients outside the cluster.
    pub neg_external: u32,
    /// Index into NEGS for pods and nodes of the cluster.
    pub neg_internal: u32,
    /// Bits of [`flags`], and the [`Kind`] in [`flags::KIND_MASK`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Frontend>() == 16);

/// Bits of [`Frontend::flags`].
pub mod flags {
    /// The [`super::Kind`] of the frontend.
    pub const KIND_MASK: u32 = 0x7;
    /// An empty external NEG drops instead of refusing: the policy is `Local` and other nodes have
    /// endpoints (kube-proxy: "has no local endpoints").
    pub const EXTERNAL_EMPTY_DROPS: u32 = 1 << 3;
    /// The same for the internal NEG.
    pub const INTERNAL_EMPTY_DROPS: u32 = 1 << 4;
    /// A new flow's source must be in SOURCE_RANGES for the backend service
    /// (`spec.loadBalancerSourceRanges`).
    pub const CHECK_SOURCE: u32 = 1 << 5;
    /// New flows from outside to an endpoint on another node keep the client's address: direct server
    /// return.
    pub const DSR: u32 = 1 << 6;
    /// The entry stands for the VIP alone, under [`super::FrontendKey::vip`].
    pub const VIP: u32 = 1 << 7;
    /// On an entry for a VIP: a packet to a port that is no frontend is refused. Without it, such a
    /// packet passes, since the address may be a host's own.
    pub const REFUSE_OTHER_PORTS: u32 = 1 << 8;
}

/// The field of a Service that a frontend's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    /// `spec.clusterIPs`.
    ClusterIp = 0,
    /// A node address and `spec.ports[].nodePort`.
    NodePort = 1,
    /// `spec.externalIPs`.
    ExternalIp = 2,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer = 3,
}

impl Frontend {
    /// The kind, or `None` where the bits name none.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        match self.flags & flags::KIND_MASK {
            0 => Some(Kind::ClusterIp),
            1 => Some(Kind::NodePort),
            2 => Some(Kind::ExternalIp),
            3 => Some(Kind::LoadBalancer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pinned() {
        let key = FrontendKey::new(Address::v4([192, 0, 2, 1]), Be16::new(80), 6);
        assert_eq!(
            bytemuck::bytes_of(&key),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1, 0, 80, 6, 0, 0, 0, 0, 0]
        );
        let value = Frontend { backend_service: 1, neg_external: 2, neg_internal: 3, flags: 4 };
        assert_eq!(bytemuck::cast::<Frontend, [u32; 4]>(value), [1, 2, 3, 4]);
    }
}
