//! NEGS and RING_SLOTS: where a NEG's ring lies in the arena.
use bytemuck::{Pod, Zeroable};

/// A backend service has one NEG for each scope and family. Its NEG ids follow from its own id, so
/// nobody allocates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum NegKind {
    /// All usable IPv4 endpoints of the cluster.
    ClusterV4 = 0,
    /// The usable IPv4 endpoints on this node.
    LocalV4 = 1,
    /// All usable IPv6 endpoints of the cluster.
    ClusterV6 = 2,
    /// The usable IPv6 endpoints on this node.
    LocalV6 = 3,
}

/// NEGs of one backend service.
pub const NEGS_PER_BACKEND_SERVICE: u32 = 4;

impl NegKind {
    /// All kinds, in the order of their ids.
    pub const ALL: [Self; NEGS_PER_BACKEND_SERVICE as usize] =
        [Self::ClusterV4, Self::LocalV4, Self::ClusterV6, Self::LocalV6];

    /// The NEG's id: `backend_service` below 2^30.
    #[must_use]
    pub const fn id(self, backend_service: u32) -> u32 {
        backend_service * NEGS_PER_BACKEND_SERVICE + self as u32
    }

    /// The backend service and kind that an id stands for.
    #[must_use]
    pub const fn of_id(id: u32) -> (u32, Self) {
        (id / NEGS_PER_BACKEND_SERVICE, Self::ALL[(id % NEGS_PER_BACKEND_SERVICE) as usize])
    }
}

/// Value of NEGS: the position and length of a ring in RING_SLOTS, in slots. One aligned 64-bit
/// word, so that a switch to a new ring is one store and no reader sees half of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Ring(u64);

const _: () = assert!(size_of::<Ring>() == 8);

impl Ring {
    /// The ring of a NEG without endpoints.
    pub const EMPTY: Self = Self(0);

    /// A ring of `length` slots that starts at slot `position`.
    #[must_use]
    pub const fn new(position: u32, length: u32) -> Self {
        Self((position as u64) << 32 | length as u64)
    }

    /// First slot.
    #[must_use]
    #[inline(always)]
    pub const fn position(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Number of slots; zero where the NEG has no endpoint.
    #[must_use]
    #[inline(always)]
    pub const fn length(self) -> u32 {
        self.0 as u32
    }

    /// The slot in RING_SLOTS that a flow hash falls on: `hash` scaled to the length, which needs no
    /// division. `None` for an empty ring.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self, hash: u32) -> Option<u32> {
        if self.length() == 0 {
            return None;
        }
        let index = ((hash as u64 * self.length() as u64) >> 32) as u32;
        Some(self.position().wrapping_add(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        assert_eq!(NegKind::LocalV6.id(7), 31);
        assert_eq!(NegKind::of_id(31), (7, NegKind::LocalV6));
    }

    #[test]
    fn slots_stay_inside_the_ring() {
        let ring = Ring::new(100, 7);
        assert_eq!(ring.slot(0), Some(100));
        assert_eq!(ring.slot(u32::MAX), Some(106));
        assert_eq!(Ring::EMPTY.slot(5), None);
    }
}
