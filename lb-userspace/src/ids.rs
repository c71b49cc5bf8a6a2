//! Ids of backend services and endpoints: places in arrays, so they are bounded, and they must mean
//! the same after a restart, so they are read back from the maps.
use std::collections::VecDeque;

/// Whether an id is in use, as a dump shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdState {
    /// In use.
    Used,
    /// Was in use and is not.
    Freed,
    /// Never in use.
    Fresh,
}

/// The ids below a bound. Ids that were never in use are given out first, then freed ones, the one
/// that was freed first before the others: an id rests as long as possible before it means something
/// else, so a packet that read it a moment ago does not meet a stranger.
#[derive(Clone, Debug)]
pub struct Pool {
    ids_max: u32,
    fresh_first: u32,
    freed: VecDeque<u32>,
}

impl Pool {
    /// All ids below `ids_max`, none in use.
    #[must_use]
    pub fn new(ids_max: u32) -> Self {
        Self { ids_max, fresh_first: 0, freed: VecDeque::new() }
    }

    /// From the state of the ids 0, 1, 2 …; those after the last one are fresh. What a dump does not
    /// tell, the order in which ids were freed, becomes the order of ids.
    #[must_use]
    pub fn recover(ids_max: u32, states: impl IntoIterator<Item = IdState>) -> Self {
        let mut pool = Self::new(ids_max);
        for (id, state) in (0..ids_max).zip(states) {
            if state != IdState::Fresh {
                pool.skip_to(id);
                pool.fresh_first = id + 1;
            }
            if state == IdState::Freed {
                pool.freed.push_back(id);
            }
        }
        pool
    }

    /// The ids from the first fresh one up to `id` count as freed.
    fn skip_to(&mut self, id: u32) {
        self.freed.extend(self.fresh_first..id);
    }

    /// The id that comes after `given` others when nothing is freed in between; `None` at the bound.
    #[must_use]
    pub fn free_id(&self, given: u32) -> Option<u32> {
        let fresh = self.ids_max - self.fresh_first;
        if given < fresh {
            return Some(self.fresh_first + given);
        }
        self.freed.get((given - fresh) as usize).copied()
    }

    /// Marks a free id as used.
    pub fn take(&mut self, id: u32) {
        if id >= self.fresh_first {
            self.skip_to(id);
            self.fresh_first = id + 1;
        } else if let Some(index) = self.freed.iter().position(|freed| *freed == id) {
            self.freed.remove(index);
        }
    }

    /// Marks a used id as free.
    pub fn release(&mut self, id: u32) {
        self.freed.push_back(id);
    }

    /// How many ids are in use.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.fresh_first - self.freed.len() as u32
    }

    /// The bound.
    #[must_use]
    pub fn ids_max(&self) -> u32 {
        self.ids_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_ids_come_in_order_and_end_at_the_bound() {
        let mut pool = Pool::new(2);
        assert_eq!(pool.free_id(0), Some(0));
        assert_eq!(pool.free_id(1), Some(1));
        assert_eq!(pool.free_id(2), None);
        pool.take(0);
        pool.take(1);
        assert_eq!(pool.free_id(0), None);
        assert_eq!(pool.used(), 2);
    }

    #[test]
    fn freed_ids_rest_until_fresh_ones_are_out_and_come_back_oldest_first() {
        let mut pool = Pool::new(4);
        for id in 0..3 {
            pool.take(id);
        }
        pool.release(2);
        pool.release(0);
        assert_eq!([0, 1, 2, 3].map(|n| pool.free_id(n)), [Some(3), Some(2), Some(0), None]);
        pool.take(0);
        assert_eq!([0, 1, 2].map(|n| pool.free_id(n)), [Some(3), Some(2), None]);
    }

    #[test]
    fn an_id_taken_out_of_turn_leaves_the_skipped_ones_free() {
        let mut pool = Pool::new(4);
        pool.take(2);
        assert_eq!(pool.used(), 1);
        assert_eq!([0, 1, 2, 3].map(|n| pool.free_id(n)), [Some(3), Some(0), Some(1), None]);
    }

    #[test]
    fn recovery_finds_used_freed_and_fresh_ids() {
        use IdState::{Freed, Fresh, Used};
        let pool = Pool::recover(6, [Used, Freed, Fresh, Used, Fresh, Fresh]);
        assert_eq!(pool.used(), 2);
        assert_eq!([0, 1, 2, 3, 4].map(|n| pool.free_id(n)), [Some(4), Some(5), Some(1), Some(2), None]);
    }
}
