//! Rings: the lookup tables of NEGs, after Maglev (NSDI 2016 §3.4).
//!
//! Each member has a preference list, a permutation of all slots, and members take turns at the first
//! slot of their list that is still free until the ring is full. So every member gets its share to
//! within a slot, and a member that leaves frees slots that the others, by their own lists, mostly
//! leave alone. Members are known by address, port and weight, never by id or order of input: all
//! nodes build the same ring, and a flow that another node takes over keeps its endpoint.
//!
//! Two choices differ from the paper, both after measuring:
//! - **The permutation.** The paper steps through the slots by a constant. Two members whose steps are
//!   in a simple ratio then chase each other: over 8,191 slots, one of three that left moved up to 42 %
//!   of the others' slots. A keyed permutation of the slot's bits has no such pairs: at most 0.7 %.
//! - **The length.** That permutation needs a power of two where stepping needs a prime. The path
//!   scales a hash to the length, so it does not care, and the arena wants powers of two.
//!
//! What moves when one of N leaves, as a part of the others' slots, mean and greatest of 4 to 600 tries:
//!
//! | N | slots | mean | greatest |
//! | --- | --- | --- | --- |
//! | 3 | 1,024; 8,192 | 0.94 %; 0.33 % | 3.2 %; 0.7 % |
//! | 10 | 1,024; 8,192 | 2.80 %; 0.93 % | 4.5 %; 1.3 % |
//! | 64 | 8,192 | 1.61 % | 1.9 % |
//! | 100 | 32,768 | 0.86 % | 0.9 % |
//! | 256 | 32,768 | 1.30 % | 1.4 % |
//! | 1,000 | 131,072 | 0.56 % | 0.6 % |
//!
//! So 128 slots for each member and at least 8,192 keep it below 2 %. A ring of another length is
//! another ring, so lengths are few: [`length()`] has steps of four, and a Service that scales between 2
//! and 64 endpoints stays on one.
use lb_common::Address;

mod arena;

pub use arena::{Arena, QUARANTINE_MS};

/// Slots of the shortest ring that more than one node chooses from.
const EXTERNAL_LENGTH_MIN: u32 = 8_192;
/// Slots for each endpoint (of the least weight) there: 0.8 % is the unit in which shares differ.
const EXTERNAL_SLOTS_PER_SHARE: u64 = 128;
/// Slots of the shortest ring that only this node chooses from. Nobody else has to agree with it and
/// its flows are recorded, so an endpoint that comes or goes may move more of the free choices.
const INTERNAL_LENGTH_MIN: u32 = 1_024;
/// Slots for each endpoint there; shares differ by up to 6 %, and by 1 % up to ten endpoints.
const INTERNAL_SLOTS_PER_SHARE: u64 = 16;
/// Ratio of one length to the next.
const LENGTH_STEP: u32 = 4;
/// Longest ring: 2 MiB, and some tens of milliseconds to build. Beyond 4,096 endpoints shares become
/// coarser instead.
pub const LENGTH_MAX: u32 = 1 << 19;

/// A member of a NEG, as far as its ring depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The endpoint's address.
    pub address: Address,
    /// The endpoint's port.
    pub port: u16,
    /// Share of the slots, relative to the other members'. Zero gives none.
    pub weight: u16,
}

/// Who chooses from a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Clients outside the cluster, through any node.
    External,
    /// Pods and processes of this node alone.
    Internal,
}

/// Number of slots for members of these weights: zero for none, one for a single member (all points
/// of any ring are its own), else a power of two up to [`LENGTH_MAX`], or to the number of members
/// where that is more.
#[must_use]
pub fn length(reach: Reach, weights: impl IntoIterator<Item = u16>) -> u32 {
    let (mut count, mut total, mut least) = (0u32, 0u64, u16::MAX);
    for weight in weights.into_iter().filter(|weight| *weight > 0) {
        count += 1;
        total += u64::from(weight);
        least = least.min(weight);
    }
    if count <= 1 {
        return count;
    }
    let (length_min, slots_per_share) = match reach {
        Reach::External => (EXTERNAL_LENGTH_MIN, EXTERNAL_SLOTS_PER_SHARE),
        Reach::Internal => (INTERNAL_LENGTH_MIN, INTERNAL_SLOTS_PER_SHARE),
    };
    let wanted = total.div_ceil(u64::from(least)) * slots_per_share;
    let mut length = length_min;
    while u64::from(length) < wanted && length < LENGTH_MAX {
        length *= LENGTH_STEP;
    }
    length.min(LENGTH_MAX).max(length_least(count))
}

/// The shortest ring in which every one of `count` members has a slot.
#[must_use]
pub fn length_least(count: u32) -> u32 {
    count.checked_next_power_of_two().unwrap_or(1 << 31)
}

/// Fills a ring of `length` slots, a power of two: each slot holds an index into `members`. Empty
/// where no member has a weight or the length is zero.
#[must_use]
pub fn build(members: &[Member], length: u32) -> Vec<u32> {
    debug_assert!(length == 0 || length.is_power_of_two(), "{length} slots");
    let mut turns: Vec<Turn> = (0u32..)
        .zip(members)
        .filter(|(_, member)| member.weight > 0)
        .map(|(index, member)| Turn::new(index, member, length))
        .collect();
    let Some(weight_max) = turns.iter().map(|turn| turn.weight).max() else { return Vec::new() };
    turns.sort_unstable_by_key(|turn| (turn.order, members[turn.member as usize]));
    for turn in &mut turns {
        turn.credit = weight_max / 2;
    }
    fill(&mut turns, weight_max, length as usize)
}

fn fill(turns: &mut [Turn], weight_max: u32, length: usize) -> Vec<u32> {
    let mut slots = vec![0; length];
    // Most looks find a slot that is taken. Bits stay in the cache where the slots would not.
    let mut taken = vec![0u64; length.div_ceil(64)];
    let mut left = length;
    while left > 0 {
        for turn in &mut *turns {
            turn.credit += turn.weight;
            if turn.credit < weight_max {
                continue;
            }
            turn.credit -= weight_max;
            // The list is a permutation of all slots and one is free, so this ends.
            let slot = loop {
                let slot = turn.preference.next_slot() as usize;
                if taken[slot / 64] >> (slot % 64) & 1 == 0 {
                    break slot;
                }
            };
            taken[slot / 64] |= 1 << (slot % 64);
            slots[slot] = turn.member;
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    slots
}

/// A member while the ring is filled. Of a member with half the greatest weight every second turn
/// counts.
struct Turn {
    member: u32,
    weight: u32,
    credit: u32,
    order: u64,
    preference: Preference,
}

impl Turn {
    fn new(index: u32, member: &Member, length: u32) -> Self {
        let identity = identity(member);
        Self {
            member: index,
            weight: u32::from(member.weight),
            credit: 0,
            order: draw(identity, 0),
            preference: Preference::new(identity, length),
        }
    }
}

/// A member's preference list, made as it is read: a permutation of the numbers below a power of two
/// by odd multiplications and shifts, each of which can be undone and so takes no two numbers to one.
struct Preference {
    read: u32,
    mask: u32,
    shift: u32,
    start: u32,
    factors: [u32; 3],
    middle: u32,
}

impl Preference {
    fn new(identity: u64, length: u32) -> Self {
        let bits = length.checked_ilog2().unwrap_or(0);
        Self {
            read: 0,
            mask: length.wrapping_sub(1),
            shift: bits.div_ceil(2),
            start: draw(identity, 1) as u32,
            factors: [2, 3, 4].map(|number| draw(identity, number) as u32 | 1),
            middle: draw(identity, 5) as u32,
        }
    }

    #[inline]
    fn next_slot(&mut self) -> u32 {
        let [first, second, third] = self.factors;
        let mut slot = (self.read ^ self.start) & self.mask;
        self.read = self.read.wrapping_add(1);
        slot = slot.wrapping_mul(first) & self.mask;
        slot ^= slot >> self.shift;
        slot = slot.wrapping_mul(second).wrapping_add(self.middle) & self.mask;
        slot ^= slot >> self.shift;
        slot = slot.wrapping_mul(third) & self.mask;
        slot ^ slot >> self.shift
    }
}

/// A number that stands for address and port. Nodes of two versions must agree on it.
fn identity(member: &Member) -> u64 {
    let [first, last] = member.address.halves().map(u64::from_be);
    let high = finish(first.wrapping_add(GOLDEN));
    let low = finish(high ^ last);
    finish(low ^ u64::from(member.port).wrapping_mul(GOLDEN))
}

/// The numbers that follow from an identity: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
fn draw(identity: u64, number: u64) -> u64 {
    finish(identity.wrapping_add(GOLDEN.wrapping_mul(number + 1)))
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn finish(value: u64) -> u64 {
    let a = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

#[cfg(test)]
mod tests;
