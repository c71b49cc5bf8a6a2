//! INTERFACES: what an interface is to Podway, by its index.
use bytemuck::{Pod, Zeroable};

/// Value of INTERFACES, a hash by `ifindex` (u32, host order).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Interface {
    /// Bits of [`flags`].
    pub flags: u32,
}

const _: () = assert!(size_of::<Interface>() == 4);

/// Bits of [`Interface::flags`].
pub mod flags {
    /// Leads out of the node.
    pub const UPLINK: u32 = 1 << 0;
    /// Leads to a pod of this node.
    pub const POD: u32 = 1 << 1;
    /// Takes frames that an XDP program on another interface redirects to it.
    pub const XDP_TRANSMIT: u32 = 1 << 2;
}
