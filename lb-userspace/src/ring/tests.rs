use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn v4(last: u8) -> Member {
    Member { address: Address::v4([192, 0, 2, last]), port: 8080, weight: 1 }
}

/// Members with addresses of their own for each `seed`.
fn members(count: usize, seed: u64) -> Vec<Member> {
    (0..count as u64)
        .map(|index| {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
            bytes[8..].copy_from_slice(&(seed << 32 | index).to_be_bytes());
            Member { address: Address::v6(bytes), port: 8080, weight: 1 }
        })
        .collect()
}

fn external_length(members: &[Member]) -> u32 {
    length(Reach::External, members.iter().map(|member| member.weight))
}

fn ring_of(members: &[Member], length: u32) -> Vec<Member> {
    build(members, length).into_iter().map(|index| members[index as usize]).collect()
}

fn counts(ring: &[Member]) -> BTreeMap<Member, usize> {
    let mut counts = BTreeMap::new();
    for member in ring {
        *counts.entry(*member).or_default() += 1;
    }
    counts
}

#[test]
fn rings_are_pinned_since_nodes_of_two_versions_must_agree() {
    assert_eq!(build(&[v4(1), v4(2), v4(3)], 16), PINNED);
}
const PINNED: [u32; 16] = [1, 0, 0, 1, 2, 1, 0, 2, 2, 1, 2, 1, 2, 0, 0, 2];

#[test]
fn the_order_of_members_changes_nothing() {
    let forward = members(30, 1);
    let backward: Vec<Member> = forward.iter().rev().copied().collect();
    assert!(ring_of(&forward, 8_192) == ring_of(&backward, 8_192));
}

#[test]
fn a_preference_list_has_each_slot_once() {
    for length in [1, 2, 4, 8, 128, 1_024] {
        let mut preference = Preference::new(0x5eed, length);
        let mut slots: Vec<u32> = (0..length).map(|_| preference.next_slot()).collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..length).collect::<Vec<u32>>());
    }
}

#[test]
fn no_members_or_no_weight_give_no_ring() {
    assert_eq!(build(&[], 8), [0u32; 0]);
    assert_eq!(build(&[Member { weight: 0, ..v4(1) }], 8), [0u32; 0]);
    assert_eq!(length(Reach::External, [0, 0]), 0);
}

#[test]
fn equal_weights_give_equal_shares_to_within_a_slot() {
    for count in [2, 3, 10, 64] {
        let members = members(count, 2);
        let ring = ring_of(&members, 8_192);
        let counts = counts(&ring);
        assert_eq!(counts.len(), count);
        let (least, most) = (8_192 / count, 8_192usize.div_ceil(count));
        for slots in counts.values() {
            assert!((least..=most).contains(slots), "{slots} of 8192 slots for one of {count}");
        }
    }
}

#[test]
fn weights_hold_within_one_percent() {
    let mut members = members(20, 3);
    for (index, member) in members.iter_mut().enumerate() {
        member.weight = [1, 2, 3, 5, 10][index % 5];
    }
    let total: f64 = members.iter().map(|member| f64::from(member.weight)).sum();
    let length = external_length(&members);
    for (member, slots) in counts(&ring_of(&members, length)) {
        let wanted = f64::from(length) * f64::from(member.weight) / total;
        let error = (slots as f64 / wanted - 1.0).abs();
        assert!(error <= 0.01, "{slots} slots of {length} for weight {}, wanted {wanted}", member.weight);
    }
}

/// The share of the other members' slots that change hands when one of `members` leaves.
fn moved(members: &[Member], ring: &[Member], leaver: usize) -> f64 {
    let others: Vec<Member> =
        members.iter().enumerate().filter(|(index, _)| *index != leaver).map(|(_, member)| *member).collect();
    assert_eq!(external_length(&others) as usize, ring.len(), "the length moves too");
    let after = ring_of(&others, ring.len() as u32);
    let kept = ring.iter().zip(&after).filter(|(before, _)| **before != members[leaver]);
    let (total, moved) = kept.fold((0usize, 0usize), |(total, moved), (before, after)| {
        (total + 1, moved + usize::from(before != after))
    });
    moved as f64 / total as f64
}

#[test]
fn a_member_that_leaves_moves_at_most_two_percent_of_the_others_slots() {
    // Number of members, address sets, leavers of each.
    for (count, seeds, leavers) in [(3, 40, 3), (10, 10, 10), (100, 2, 3), (1_000, 1, 2)] {
        for seed in 0..seeds {
            let members = members(count, seed);
            let ring = ring_of(&members, external_length(&members));
            for leaver in 0..leavers {
                let moved = moved(&members, &ring, leaver * (count / leavers));
                assert!(moved <= 0.02, "{count} members, set {seed}, leaver {leaver}: {moved}");
            }
        }
    }
}

#[test]
fn lengths_are_few_and_grow_with_the_members() {
    let of = |reach, count: usize| length(reach, std::iter::repeat_n(1, count));
    let external = [0, 1, 2, 64, 65, 256, 1_000, 1_024, 4_096, 10_000, 2_000_000];
    assert_eq!(
        external.map(|count| of(Reach::External, count)),
        [0, 1, 8_192, 8_192, 32_768, 32_768, 131_072, 131_072, 524_288, 524_288, 2_097_152]
    );
    let internal = [0, 1, 2, 64, 65, 1_000, 10_000];
    assert_eq!(
        internal.map(|count| of(Reach::Internal, count)),
        [0, 1, 1_024, 1_024, 4_096, 16_384, 262_144]
    );
    // One member with a tenth of the others' weight asks for as much as 41 equal ones.
    assert_eq!(length(Reach::External, [10, 10, 10, 10, 1]), 8_192);
    assert_eq!(length(Reach::External, [100, 1]), 32_768);
}

#[test]
fn more_members_than_slots_fill_every_slot_with_another_one() {
    let members = members(10, 4);
    let ring = build(&members, 4);
    assert_eq!(ring.len(), 4);
    assert_eq!(counts(&ring.iter().map(|index| members[*index as usize]).collect::<Vec<_>>()).len(), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_slot_names_a_member_with_a_weight(
        weights in proptest::collection::vec(0u16..50, 1..40),
        bits in 0u32..11,
    ) {
        let mut members = members(weights.len(), 5);
        for (member, weight) in members.iter_mut().zip(&weights) {
            member.weight = *weight;
        }
        let ring = build(&members, 1 << bits);
        let expected = if weights.iter().all(|weight| *weight == 0) { 0 } else { 1 << bits };
        prop_assert_eq!(ring.len(), expected);
        prop_assert!(ring.iter().all(|index| weights[*index as usize] > 0));
    }
}
