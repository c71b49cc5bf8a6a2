//! The space in RING_SLOTS: which of it is free for a new ring.
//!
//! Rings have lengths of a power of two and lie at a multiple of their length, so free space is kept
//! as a buddy system (Knowlton 1965): a block splits in halves and joins its other half again when
//! both are free. Nothing is lost to rounding, and space that was given back is whole again.
use std::collections::{BTreeSet, VecDeque};

/// How long the space of a former ring stays as it is, milliseconds: longer than any packet's run
/// through a program, since a packet may have read the former position just before the switch.
pub const QUARANTINE_MS: u64 = 1_000;

/// Lengths are below 2^31.
const ORDERS: usize = 31;

/// Space of a former ring.
#[derive(Clone, Copy, Debug)]
struct Resting {
    position: u32,
    length: u32,
    until_ms: u64,
}

/// The free and the resting space of the ring arena.
#[derive(Clone, Debug)]
pub struct Arena {
    capacity: u32,
    free_slots: u32,
    /// Positions of free blocks of 2^index slots.
    free: [BTreeSet<u32>; ORDERS],
    resting: VecDeque<Resting>,
}

impl Arena {
    /// An arena of `capacity` slots, at most 2^31, all free.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let capacity = capacity.min(1 << ORDERS);
        let mut arena = Self {
            capacity,
            free_slots: 0,
            free: std::array::from_fn(|_| BTreeSet::new()),
            resting: VecDeque::new(),
        };
        let mut position = 0;
        while position < capacity {
            // The largest block that is aligned here and fits.
            let fits = (capacity - position).ilog2();
            let order = fits.min(position.trailing_zeros()).min(ORDERS as u32 - 1);
            arena.add(position, order as usize);
            position += 1 << order;
        }
        arena
    }

    /// Slots in all.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Slots that a new ring may use at once, in whatever blocks.
    #[must_use]
    pub fn free_slots(&self) -> u32 {
        self.free_slots
    }

    /// Takes space for a ring of `length` slots, a power of two: the tightest block, then the lowest.
    /// `None` where no block is large enough.
    pub fn allocate(&mut self, length: u32) -> Option<u32> {
        let wanted = order_of(length)?;
        let order = (wanted..ORDERS).find(|order| !self.free[*order].is_empty())?;
        let position = *self.free[order].first()?;
        self.remove(position, order);
        self.split(position, order, position, wanted);
        Some(position)
    }

    /// Takes the space of a ring that is there. Says whether it lay free as one aligned block; else
    /// nothing is taken.
    pub fn reserve(&mut self, position: u32, length: u32) -> bool {
        let Some(wanted) = order_of(length) else { return false };
        let block_at = |order: usize| position & !((1u32 << order) - 1);
        let holder = (wanted..ORDERS).find(|order| self.free[*order].contains(&block_at(*order)));
        let Some(order) = holder.filter(|_| position.is_multiple_of(length)) else { return false };
        self.remove(block_at(order), order);
        self.split(block_at(order), order, position, wanted);
        true
    }

    /// Gives the space of a former ring back; it is free again after [`QUARANTINE_MS`].
    pub fn retire(&mut self, position: u32, length: u32, now_ms: u64) {
        self.resting.push_back(Resting { position, length, until_ms: now_ms + QUARANTINE_MS });
    }

    /// Frees what has rested long enough.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some(resting) = self.resting.front().copied().filter(|r| r.until_ms <= now_ms) {
            self.resting.pop_front();
            self.release(resting.position, resting.length);
        }
    }

    /// When the next resting space becomes free, milliseconds of the caller's clock.
    #[must_use]
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.resting.front().map(|resting| resting.until_ms)
    }

    fn release(&mut self, mut position: u32, length: u32) {
        let Some(mut order) = order_of(length) else { return };
        while order + 1 < ORDERS && self.free[order].contains(&(position ^ (1 << order))) {
            self.remove(position ^ (1 << order), order);
            position &= !(1 << order);
            order += 1;
        }
        self.add(position, order);
    }

    /// Cuts the block at `position` down to the one of `wanted` order at `target`, and frees the rest.
    fn split(&mut self, mut position: u32, mut order: usize, target: u32, wanted: usize) {
        while order > wanted {
            order -= 1;
            let upper = position + (1 << order);
            if target < upper {
                self.add(upper, order);
            } else {
                self.add(position, order);
                position = upper;
            }
        }
    }

    fn add(&mut self, position: u32, order: usize) {
        self.free[order].insert(position);
        self.free_slots += 1 << order;
    }

    fn remove(&mut self, position: u32, order: usize) {
        self.free[order].remove(&position);
        self.free_slots -= 1 << order;
    }
}

fn order_of(length: u32) -> Option<usize> {
    let order = length.is_power_of_two().then(|| length.ilog2() as usize)?;
    (order < ORDERS).then_some(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_is_handed_out_without_overlap_until_none_is_left() {
        let mut arena = Arena::new(16);
        assert_eq!(arena.allocate(4), Some(0));
        assert_eq!(arena.allocate(1), Some(4));
        assert_eq!(arena.allocate(8), Some(8));
        assert_eq!(arena.allocate(4), None);
        assert_eq!(arena.allocate(2), Some(6));
        assert_eq!(arena.free_slots(), 1);
    }

    #[test]
    fn a_capacity_that_is_no_power_of_two_is_used_whole() {
        let mut arena = Arena::new(7);
        assert_eq!(arena.free_slots(), 7);
        assert_eq!(arena.allocate(4), Some(0));
        assert_eq!(arena.allocate(2), Some(4));
        assert_eq!(arena.allocate(1), Some(6));
        assert_eq!(arena.allocate(1), None);
    }

    #[test]
    fn a_former_ring_rests_before_its_space_is_used_again() {
        let mut arena = Arena::new(4);
        assert_eq!(arena.allocate(4), Some(0));
        arena.retire(0, 4, 5_000);
        arena.expire(5_999);
        assert_eq!(arena.allocate(4), None);
        assert_eq!(arena.next_expiry_ms(), Some(6_000));
        arena.expire(6_000);
        assert_eq!(arena.allocate(4), Some(0));
    }

    #[test]
    fn freed_blocks_join_again() {
        let mut arena = Arena::new(64);
        let positions: Vec<u32> = (0..64).filter_map(|_| arena.allocate(1)).collect();
        assert_eq!(positions.len(), 64);
        for position in positions {
            arena.retire(position, 1, 0);
        }
        arena.expire(QUARANTINE_MS);
        assert_eq!(arena.allocate(64), Some(0));
    }

    #[test]
    fn recovery_carves_out_rings_and_refuses_what_no_ring_can_be() {
        let mut arena = Arena::new(16);
        assert!(arena.reserve(8, 4));
        assert!(!arena.reserve(8, 4), "taken twice");
        assert!(!arena.reserve(8, 8), "overlaps");
        assert!(!arena.reserve(2, 4), "not aligned");
        assert!(!arena.reserve(0, 3), "no power of two");
        assert!(!arena.reserve(16, 4), "outside");
        assert_eq!(arena.free_slots(), 12);
        assert_eq!(arena.allocate(8), Some(0));
        assert_eq!(arena.allocate(4), Some(12));
    }
}
