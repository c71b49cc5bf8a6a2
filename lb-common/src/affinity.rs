//! AFFINITY: the endpoint that a client of a backend service keeps (`sessionAffinity: ClientIP`).
use bytemuck::{Pod, Zeroable};

use crate::Address;

/// Key of AFFINITY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(C)]
pub struct AffinityKey {
    /// The client's address.
    pub client: Address,
    /// The backend service's id.
    pub backend_service: u32,
    /// Zero.
    pub padding: u32,
}

const _: () = assert!(size_of::<AffinityKey>() == 24);

/// Value of AFFINITY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(8))]
pub struct Affinity {
    /// The endpoint's id.
    pub endpoint: u32,
    /// The endpoint's generation when it was chosen.
    pub endpoint_generation: u32,
    /// The client's last new flow, seconds of the monotonic clock.
    pub last_used_s: u32,
    /// Zero.
    pub padding: u32,
}

const _: () = assert!(size_of::<Affinity>() == 16);
