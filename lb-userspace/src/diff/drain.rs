//! The end of an endpoint's life. One that no slice names any more is withdrawn first: out of every ring,
//! its TCP connections go on until none is left or a deadline passes. Then its id is given up.
//!
//! One that its health check takes out of every ring has the same deadline. Then its generation rises, so that
//! its connections are reset, and it keeps its id, since a slice still names it. While it is in a ring, because no
//! other passes, nothing is drained: what was given up would only open anew at the same endpoint.
use std::collections::BTreeSet;

use lb_common::endpoint::{DRAINED, Endpoint, state};
use lb_common::protocol::UDP;

use crate::model::ObjectName;

use super::Op;
use super::draft::Draft;

/// What a diff does with endpoints that no slice names.
#[derive(Debug)]
pub(super) struct Drain {
    now_s: u32,
    /// Withdrawals and deletions; after everything that could name the endpoints.
    pub(super) ops: Vec<Op>,
    /// Withdrawn ones that a slice names again.
    pub(super) taken_back: BTreeSet<u32>,
    given_up: BTreeSet<u32>,
    /// Ids that new endpoints wait for.
    endpoints_short: usize,
    /// Ids that new backend services wait for.
    services_short: usize,
}

impl Drain {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            now_s: (now_ms / 1_000) as u32,
            ops: Vec::new(),
            taken_back: BTreeSet::new(),
            given_up: BTreeSet::new(),
            endpoints_short: 0,
            services_short: 0,
        }
    }
}

impl Drain {
    /// What becomes of an endpoint that its health check has taken out; `wanted` is what it is otherwise.
    pub(super) fn taken_out(&self, former: &Endpoint, wanted: Endpoint, deadline_s: u32) -> Endpoint {
        let is_new = !former.is_present() || former.withdrawn_s == 0;
        let withdrawn_s = if is_new { self.now_s.max(1) } else { former.withdrawn_s };
        let drained = Endpoint { withdrawn_s, drain_until_s: DRAINED, ..wanted };
        if !former.is_present() || wanted.protocol == UDP || former.drain_until_s == DRAINED {
            return drained;
        }
        match deadline_s {
            0 => Endpoint { generation: former.generation.wrapping_add(1), ..drained },
            _ => Endpoint { drain_until_s: withdrawn_s.saturating_add(deadline_s), ..drained },
        }
    }
}

impl Draft<'_> {
    /// Withdraws an endpoint that no slice names, or gives it up: at once where it has no connections to
    /// lose (UDP) or the contract is to reset them.
    pub(super) fn let_go(&mut self, id: u32, deadline_s: u32) {
        let former = self.tables.endpoint(id);
        if former.protocol == UDP || deadline_s == 0 {
            self.give_up(id);
            return;
        }
        let withdrawn_s = if former.is_withdrawn() { former.withdrawn_s } else { self.drain.now_s };
        let endpoint = Endpoint {
            state: former.state | state::WITHDRAWN,
            withdrawn_s,
            drain_until_s: withdrawn_s.saturating_add(deadline_s),
            ..former
        };
        if endpoint != former {
            self.drain.ops.push(Op::PutEndpoint { id, endpoint });
        }
    }

    /// Clears an id: connections to the endpoint are reset from now.
    pub(super) fn give_up(&mut self, id: u32) {
        if self.drain.given_up.insert(id) {
            let generation = self.tables.endpoint(id).generation.wrapping_add(1);
            let endpoint = Endpoint { generation, ..Endpoint::default() };
            self.drain.ops.push(Op::DeleteEndpoint { id, endpoint });
        }
    }

    /// Lets all endpoints of a backend service go that no Service wants; whether none is left.
    pub(super) fn let_all_go(&mut self, backend_service: u32) -> bool {
        let tables = self.tables;
        let deadline_s = tables.name(backend_service).map_or(0, |stored| stored.drain_deadline_s);
        let ids = tables.endpoints_of(backend_service);
        for id in ids.iter().filter(|id| !self.drain.given_up.contains(id)).copied().collect::<Vec<u32>>() {
            self.let_go(id, deadline_s);
        }
        ids.iter().all(|id| self.drain.given_up.contains(id))
    }

    /// Gives up the withdrawn endpoints whose deadline has passed, and those that `is_idle` says have no
    /// flow left; and the backend services that only they kept. Ends the flows of endpoints whose health check
    /// took them out, at their deadline.
    pub(super) fn end_drains(&mut self, is_idle: &dyn Fn(u32) -> bool) {
        let tables = self.tables;
        for id in tables.withdrawn() {
            if tables.endpoint(id).drain_until_s <= self.drain.now_s || is_idle(id) {
                self.give_up(id);
                self.mark_lingering(tables.endpoint(id).backend_service);
            }
        }
        for id in tables.drained_by_health() {
            let former = tables.endpoint(id);
            if former.drain_until_s <= self.drain.now_s && former.is_drained_by_health() {
                let generation = former.generation.wrapping_add(1);
                let endpoint = Endpoint { generation, drain_until_s: DRAINED, ..former };
                self.drain.ops.push(Op::PutEndpoint { id, endpoint });
            }
        }
    }

    /// A backend service that no Service wants goes with its last endpoint.
    fn mark_lingering(&mut self, backend_service: u32) -> bool {
        let is_lingering = self.is_lingering(backend_service);
        if is_lingering {
            self.unwanted.insert(backend_service);
        }
        is_lingering
    }

    fn is_lingering(&self, id: u32) -> bool {
        let name = self.tables.name(id);
        !self.kept.contains(&id)
            && name.is_some_and(|stored| self.desired.backend_service(&stored.name).is_none())
    }

    /// Whether withdrawn endpoints have the ids that a Service waits for: they are given up, and the next
    /// diff finds their ids free.
    pub(super) fn wait_for_drained_endpoints(&mut self, service: &ObjectName, count: usize) -> bool {
        self.drain.endpoints_short += count;
        self.wait(service, self.tables.withdrawn().count() >= self.drain.endpoints_short)
    }

    /// The same for the id of a backend service.
    pub(super) fn wait_for_a_drained_service(&mut self, service: &ObjectName) -> bool {
        self.drain.services_short += 1;
        let owners = self.tables.withdrawn().map(|id| self.tables.endpoint(id).backend_service);
        let lingering: BTreeSet<u32> = owners.filter(|id| self.is_lingering(*id)).collect();
        self.wait(service, lingering.len() >= self.drain.services_short)
    }

    fn wait(&mut self, service: &ObjectName, is_enough: bool) -> bool {
        if is_enough {
            self.pending.insert(service.clone());
        }
        is_enough
    }

    /// Where ids are short, those that were withdrawn first are given up first.
    pub(super) fn make_room(&mut self) {
        let tables = self.tables;
        for id in tables.withdrawn() {
            let owner = tables.endpoint(id).backend_service;
            if self.drain.taken_back.contains(&id) || self.drain.given_up.contains(&id) {
                continue;
            }
            if self.drain.services_short > 0 && self.mark_lingering(owner) {
                self.drain.services_short -= 1;
                tables.endpoints_of(owner).iter().for_each(|id| self.give_up(*id));
            } else if self.drain.endpoints_short > 0 {
                self.drain.endpoints_short -= 1;
                self.give_up(id);
                self.mark_lingering(owner);
            }
        }
    }
}
