//! Where a NEG's ring goes. A ring that changes is written aside and switched to. As the arena fills,
//! new rings become shorter, so that no NEG goes without: coarser shares are better than none.
use lb_common::neg::{NegKind, Ring};

use crate::plan::{self, Neg, neg_kind_name};
use crate::ring::{self, Member};

use super::Op;
use super::draft::Draft;

/// Ratio of a wanted length to the shorter one that is tried next.
const SHORTER_STEP: u32 = 4;

/// A length for a ring, and the part of the arena that has to stay free for shorter ones after it.
struct Attempt {
    length: u32,
    reserve_slots: u32,
}

/// The lengths to try, longest first: as wanted while a quarter of the arena stays free, a quarter of
/// that while an eighth does, a sixteenth while a sixteenth does, at last one in which each member has
/// a slot.
fn attempts(wanted: u32, members: u32, capacity: u32) -> Vec<Attempt> {
    let least = ring::length_least(members);
    let mut attempts: Vec<Attempt> = (0..3)
        .map(|step| Attempt {
            length: wanted / SHORTER_STEP.pow(step),
            reserve_slots: capacity >> (2 + step),
        })
        .filter(|attempt| attempt.length > least)
        .collect();
    attempts.push(Attempt { length: least, reserve_slots: 0 });
    attempts
}

/// The members of a NEG that have ids.
struct Members {
    members: Vec<Member>,
    ids: Vec<u32>,
}

impl Members {
    fn new(plan: &plan::BackendService, neg: &Neg, endpoint_ids: &[Option<u32>]) -> Self {
        let with_ids = neg.members.iter().filter_map(|index| {
            let endpoint = &plan.endpoints[*index as usize];
            let member =
                Member { address: endpoint.address.into(), port: endpoint.port, weight: endpoint.weight };
            Some((member, endpoint_ids[*index as usize]?))
        });
        let (members, ids) = with_ids.unzip();
        Self { members, ids }
    }

    /// The slots of a ring of `length`, as endpoint ids.
    fn slots(&self, length: u32) -> Vec<u32> {
        let mut slots = ring::build(&self.members, length);
        for slot in &mut slots {
            *slot = self.ids[*slot as usize];
        }
        slots
    }
}

impl Draft<'_> {
    /// Gives a NEG the ring that its plan wants; no plan or no members, no ring.
    pub(super) fn neg(
        &mut self,
        id: u32,
        service: &plan::BackendService,
        plan: Option<&Neg>,
        endpoint_ids: &[Option<u32>],
    ) {
        let former = self.tables.neg(id);
        let members = plan.map(|neg| Members::new(service, neg, endpoint_ids));
        let Some((members, wanted)) =
            members.filter(|members| !members.ids.is_empty()).zip(plan.map(|neg| neg.ring_length))
        else {
            if former != Ring::EMPTY {
                self.clear_negs.push(Op::SwitchNeg { neg: id, ring: Ring::EMPTY });
            }
            return;
        };
        let usable = Some(former).filter(|ring| *ring != Ring::EMPTY && !self.tables.is_stray(id));
        let attempts = attempts(wanted, members.ids.len() as u32, self.arena.capacity());
        let right = usable.filter(|ring| {
            attempts.iter().any(|attempt| attempt.length == ring.length())
                && self.tables.slots(*ring) == Some(&members.slots(ring.length()))
        });
        let space = attempts.iter().find_map(|attempt| match right {
            None => self.space(attempt.length, attempt.reserve_slots),
            // Twice the reserve, or rings would swap lengths for ever where the arena is nearly full.
            Some(ring) if attempt.length > ring.length() => {
                self.space(attempt.length, attempt.reserve_slots.saturating_mul(2))
            }
            Some(_) => None,
        });
        match (space, right) {
            (Some(ring), _) => {
                let slots = members.slots(ring.length()).into();
                self.write_rings.push(Op::WriteRing { neg: id, ring, slots });
                self.switch_negs.push(Op::SwitchNeg { neg: id, ring });
                self.note_length(id, service, ring.length(), wanted);
            }
            (None, Some(ring)) => self.note_length(id, service, ring.length(), wanted),
            (None, None) => self.without_space(id, service, usable, &members),
        }
    }

    fn space(&mut self, length: u32, reserve_slots: u32) -> Option<Ring> {
        let free = self.arena.free_slots().checked_sub(length)?;
        if free < reserve_slots {
            return None;
        }
        self.arena.allocate(length).map(|position| Ring::new(position, length))
    }

    /// The arena is full: what the former ring names must be right all the same, or it would go on to
    /// name endpoints that are about to go.
    fn without_space(
        &mut self,
        id: u32,
        service: &plan::BackendService,
        former: Option<Ring>,
        members: &Members,
    ) {
        let Some(ring) = former else {
            if self.tables.neg(id) != Ring::EMPTY {
                self.clear_negs.push(Op::SwitchNeg { neg: id, ring: Ring::EMPTY });
            }
            self.no_space(id, service, "it has no ring and refuses new flows");
            return;
        };
        let slots = members.slots(ring.length());
        if self.tables.slots(ring) != Some(&slots) {
            self.write_rings.push(Op::WriteRing { neg: id, ring, slots: slots.into() });
        }
        self.no_space(id, service, "its former ring is written over in place");
    }

    fn no_space(&mut self, id: u32, service: &plan::BackendService, consequence: &str) {
        let capacity = self.arena.capacity();
        let message = format!(
            "cannot place the ring of NEG {} of {}: map RING_SLOTS is full ({capacity} entries), so \
             {consequence}; raise --ring-slots-max",
            neg_kind_name(NegKind::of_id(id).1),
            service.name
        );
        self.bound(&service.name.service, message);
    }

    fn note_length(&mut self, id: u32, service: &plan::BackendService, length: u32, wanted: u32) {
        if length >= wanted {
            return;
        }
        let capacity = self.arena.capacity();
        let message = format!(
            "cannot give NEG {} of {} a ring of {wanted} slots: map RING_SLOTS ({capacity} entries) has little \
             room left, so it has {length} and coarser shares; raise --ring-slots-max",
            neg_kind_name(NegKind::of_id(id).1),
            service.name
        );
        // Former rings whose space rests may be all that is in the way.
        if self.arena.next_expiry_ms().is_some() {
            self.bound(&service.name.service, message);
        } else {
            self.note(&service.name.service, message);
        }
    }
}
