//! A diff in the making: what each Service needs, sorted into the order of writing and deleting.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::backend_service::{self, BackendService};
use lb_common::endpoint::Endpoint;
use lb_common::frontend::{self, FrontendKey};
use lb_common::neg::{NegKind, Ring};
use lb_common::{Address, Be16};

use crate::model::{ExternalMode, ObjectName, Problem};
use crate::plan::{self, BackendServiceName, Desired, EmptyAction, Family, ServicePlan, neg_kind};
use crate::ring::Arena;

use super::drain::Drain;
use super::source_ranges::RangeOps;
use super::vips::{VipOps, needs_entry};
use super::{Diff, Op, StoredName, Tables};

/// See the module's text.
pub(super) struct Draft<'a> {
    pub(super) desired: &'a Desired,
    pub(super) tables: &'a Tables,
    /// The arena as it will be after the operations so far.
    pub(super) arena: Arena,
    endpoints_given: u32,
    /// Ids of backend services that have none in the tables.
    given_ids: BTreeMap<Arc<BackendServiceName>, u32>,
    /// Ids of backend services whose names are not in the tables any more.
    adopted: BTreeMap<Arc<BackendServiceName>, u32>,
    frontends_added: u32,
    /// Backend services that are wanted.
    pub(super) kept: BTreeSet<u32>,
    /// Backend services that are not.
    pub(super) unwanted: BTreeSet<u32>,
    pub(super) drain: Drain,
    frontends_wanted: BTreeMap<FrontendKey, frontend::Frontend>,
    /// Addresses that get an entry of their own.
    vips_added: BTreeSet<Address>,
    pub(super) ranges: RangeOps,
    put_endpoints: Vec<Op>,
    pub(super) write_rings: Vec<Op>,
    pub(super) switch_negs: Vec<Op>,
    put_backend_services: Vec<Op>,
    put_frontends: Vec<Op>,
    pub(super) clear_negs: Vec<Op>,
    problems: Vec<Problem>,
    pub(super) pending: BTreeSet<ObjectName>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(desired: &'a Desired, tables: &'a Tables, now_ms: u64) -> Self {
        let mut arena = tables.arena.clone();
        arena.expire(now_ms);
        Self {
            desired,
            tables,
            arena,
            endpoints_given: 0,
            given_ids: BTreeMap::new(),
            adopted: BTreeMap::new(),
            frontends_added: 0,
            kept: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            frontends_wanted: BTreeMap::new(),
            vips_added: BTreeSet::new(),
            ranges: RangeOps::default(),
            drain: Drain::new(now_ms),
            put_endpoints: Vec::new(),
            write_rings: Vec::new(),
            switch_negs: Vec::new(),
            put_backend_services: Vec::new(),
            put_frontends: Vec::new(),
            clear_negs: Vec::new(),
            problems: Vec::new(),
            pending: BTreeSet::new(),
        }
    }

    /// Everything that one Service, which may be gone, needs.
    pub(super) fn service(&mut self, name: &ObjectName) {
        if let Some(plan) = self.desired.service(name) {
            for backend_service in &plan.backend_services {
                self.backend_service(backend_service);
            }
            self.frontends(plan);
        }
        let former = self.tables.backend_services_of(name);
        let unwanted: Vec<u32> = former.filter(|id| !self.kept.contains(id)).collect();
        self.unwanted.extend(unwanted);
    }

    /// Finds backend services whose names were lost by the frontends that lead to them, so that their flows go on.
    pub(super) fn adopt_nameless(&mut self) {
        let tables = self.tables;
        let mut nameless: BTreeSet<u32> =
            tables.backend_service_ids().filter(|id| tables.name(*id).is_none()).collect();
        if nameless.is_empty() {
            return;
        }
        for wanted in self.desired.services().values().flat_map(|plan| self.desired.frontends_of(plan)) {
            let Some(id) = tables.frontends().get(&wanted.key()).map(|found| found.backend_service) else {
                continue;
            };
            if self.kept_id(&wanted.backend_service).is_none() && nameless.remove(&id) {
                self.adopted.insert(Arc::clone(&wanted.backend_service), id);
            }
        }
    }

    /// Marks all backend services for deletion that no Service asked for.
    pub(super) fn delete_unwanted(&mut self) {
        let ids = self.tables.backend_service_ids();
        let unwanted: Vec<u32> = ids.filter(|id| !self.kept.contains(id)).collect();
        self.unwanted.extend(unwanted);
    }

    fn backend_service(&mut self, plan: &plan::BackendService) {
        let Some(id) = self.backend_service_id(plan) else {
            if self.wait_for_a_drained_service(&plan.name.service) {
                return;
            }
            let limit = self.tables.limits().backend_services_max;
            let message = format!(
                "cannot put backend service {}: map BACKEND_SERVICES is full ({limit} entries); raise \
                 --backend-services-max",
                plan.name
            );
            self.bound(&plan.name.service, message);
            return;
        };
        self.kept.insert(id);
        let endpoint_ids = self.endpoints(id, plan);
        for kind in NegKind::ALL {
            let members = plan.neg(kind);
            self.neg(kind.id(id), plan, members, &endpoint_ids);
        }
        self.source_ranges(id, plan);
        let value = backend_service_value(plan);
        let name = StoredName::new(&plan.name, &plan.resource_version).with_drain(plan.drain.deadline_s);
        if self.tables.backend_service(id) != Some(&value) || self.tables.name(id) != Some(&name) {
            self.put_backend_services.push(Op::PutBackendService { id, backend_service: value, name });
        }
    }

    fn backend_service_id(&mut self, plan: &plan::BackendService) -> Option<u32> {
        if let Some(id) = self.kept_id(&plan.name) {
            return Some(id);
        }
        let id = self.tables.backend_service_pool.free_id(self.given_ids.len() as u32)?;
        self.given_ids.insert(Arc::clone(&plan.name), id);
        Some(id)
    }

    /// The ids of the plan's endpoints, in its order; none for those past the bound. Both lists are in
    /// the order of address and port.
    fn endpoints(&mut self, backend_service: u32, plan: &plan::BackendService) -> Vec<Option<u32>> {
        let tables = self.tables;
        let deadline_s = plan.drain.deadline_s;
        let place = |id: &u32| {
            let endpoint = tables.endpoint(*id);
            (endpoint.address, endpoint.port)
        };
        let mut former = tables.endpoints_of(backend_service).iter().copied().peekable();
        let mut ids = Vec::with_capacity(plan.endpoints.len());
        for (index, endpoint) in (0u32..).zip(&plan.endpoints) {
            let wanted = (Address::from(endpoint.address), Be16::new(endpoint.port));
            while let Some(id) = former.next_if(|id| place(id) < wanted) {
                self.let_go(id, deadline_s);
            }
            let id = former.next_if(|id| place(id) == wanted).or_else(|| self.new_endpoint_id());
            while let Some(id) = former.next_if(|id| place(id) == wanted) {
                self.give_up(id);
            }
            if let Some(id) = id {
                self.put_endpoint(id, backend_service, plan, index);
            }
            ids.push(id);
        }
        former.for_each(|id| self.let_go(id, deadline_s));
        self.note_endpoints_without_id(plan, &ids);
        ids
    }

    fn note_endpoints_without_id(&mut self, plan: &plan::BackendService, ids: &[Option<u32>]) {
        let without_id = ids.iter().filter(|id| id.is_none()).count();
        if without_id == 0 || self.wait_for_drained_endpoints(&plan.name.service, without_id) {
            return;
        }
        let (name, limit) = (&plan.name, self.tables.limits().endpoints_max);
        let all = ids.len();
        let full = format!("map ENDPOINTS is full ({limit} entries); raise --endpoints-max");
        let message = format!("cannot put {without_id} of the {all} endpoints of {name}: {full}");
        self.bound(&name.service, message);
    }

    fn new_endpoint_id(&mut self) -> Option<u32> {
        let id = self.tables.endpoint_pool.free_id(self.endpoints_given)?;
        self.endpoints_given += 1;
        Some(id)
    }

    fn put_endpoint(&mut self, id: u32, backend_service: u32, service: &plan::BackendService, index: u32) {
        let plan = &service.endpoints[index as usize];
        let former = self.tables.endpoint(id);
        if former.is_withdrawn() {
            self.drain.taken_back.insert(id);
        }
        let endpoint = Endpoint {
            address: plan.address.into(),
            port: Be16::new(plan.port),
            protocol: service.name.protocol.number(),
            padding: 0,
            backend_service,
            generation: former.generation,
            withdrawn_s: 0,
            drain_until_s: 0,
            state: plan.state_bits(),
        };
        let is_taken_out = plan.fails_health_check && !service.uses(index);
        let endpoint = if is_taken_out {
            self.drain.taken_out(&former, endpoint, service.drain.deadline_s)
        } else {
            endpoint
        };
        if former != endpoint {
            self.put_endpoints.push(Op::PutEndpoint { id, endpoint });
        }
    }

    fn frontends(&mut self, plan: &ServicePlan) {
        let desired = self.desired;
        let mut without_place = 0u32;
        for wanted in desired.frontends_of(plan) {
            let Some(id) = self.kept_id(&wanted.backend_service) else { continue };
            let key = wanted.key();
            let value = frontend_value(wanted, id);
            let former = self.tables.frontends().get(&key);
            if !self.takes_place(&key, &value, former.is_none()) {
                without_place += 1;
                continue;
            }
            self.frontends_wanted.insert(key, value);
            if former != Some(&value) {
                self.put_frontends.push(Op::PutFrontend { key, frontend: value });
            }
        }
        if without_place > 0 {
            let limit = self.tables.limits().frontends_max;
            let full = format!("map FRONTENDS is full ({limit} entries); raise --frontends-max");
            self.bound(&plan.name, format!("cannot put {without_place} frontends of {}: {full}", plan.name));
        }
    }

    /// Whether FRONTENDS has a place for a frontend, if it is new, and for its VIP, if that has no entry.
    fn takes_place(&mut self, key: &FrontendKey, value: &frontend::Frontend, is_new: bool) -> bool {
        let is_new_vip = needs_entry(value)
            && self.tables.vip(&key.address).is_none()
            && !self.vips_added.contains(&key.address);
        let added = self.frontends_added + self.vips_added.len() as u32;
        let wanted = u32::from(is_new) + u32::from(is_new_vip);
        if wanted > 0 && self.tables.frontends_used() + added + wanted > self.tables.limits().frontends_max {
            return false;
        }
        self.frontends_added += u32::from(is_new);
        if is_new_vip {
            self.vips_added.insert(key.address);
        }
        true
    }

    /// The id of a backend service, where it has got one.
    fn kept_id(&self, name: &BackendServiceName) -> Option<u32> {
        let known = self.tables.backend_service_id(name).or_else(|| self.adopted.get(name).copied());
        known.or_else(|| self.given_ids.get(name).copied())
    }

    /// Notes that a Service met a bound.
    pub(super) fn bound(&mut self, service: &ObjectName, message: String) {
        self.note(service, message);
        self.pending.insert(service.clone());
    }

    /// Notes that a Service has less than it wants, though nothing that a retry would mend.
    pub(super) fn note(&mut self, service: &ObjectName, message: String) {
        self.problems.push(Problem { kind: "Service", object: service.clone(), message });
    }

    /// Adds the deletions and puts all in order.
    pub(super) fn finish(mut self) -> Diff {
        self.make_room();
        let leftovers = self.tables.leftovers().iter().filter(|id| !self.kept.contains(id));
        self.unwanted.extend(leftovers);
        let mut deleted = BTreeSet::new();
        for id in self.kept.iter().chain(&self.unwanted) {
            let keys = self.tables.frontends_of(*id).filter(|key| !self.frontends_wanted.contains_key(key));
            deleted.extend(keys.copied());
        }
        let vips = VipOps::new(self.tables, &self.frontends_wanted, &deleted);
        let delete_frontends = deleted.into_iter().map(|key| Op::DeleteFrontend { key }).collect();
        let mut delete_backend_services = Vec::new();
        for id in std::mem::take(&mut self.unwanted) {
            let is_empty = self.let_all_go(id);
            if is_empty && self.tables.backend_service(id).is_some() {
                delete_backend_services.push(Op::DeleteBackendService { id });
            }
            for neg in NegKind::ALL.map(|kind| kind.id(id)) {
                if self.tables.neg(neg) != Ring::EMPTY {
                    self.clear_negs.push(Op::SwitchNeg { neg, ring: Ring::EMPTY });
                }
            }
            self.delete_source_ranges(id);
        }
        let phases = [
            self.put_endpoints,
            self.write_rings,
            self.switch_negs,
            self.put_backend_services,
            self.ranges.put,
            vips.put,
            self.put_frontends,
            vips.refuse,
            vips.relent,
            delete_frontends,
            vips.delete,
            self.ranges.delete,
            delete_backend_services,
            self.clear_negs,
            self.drain.ops,
        ];
        Diff { ops: phases.into_iter().flatten().collect(), problems: self.problems, pending: self.pending }
    }
}

fn backend_service_value(plan: &plan::BackendService) -> BackendService {
    let affinity = match plan.affinity_timeout_s {
        Some(_) => backend_service::flags::AFFINITY_CLIENT_IP,
        None => 0,
    };
    BackendService {
        flags: backend_service::flags::PRESENT | affinity,
        affinity_timeout_s: plan.affinity_timeout_s.unwrap_or(0),
    }
}

fn frontend_value(plan: &plan::Frontend, backend_service: u32) -> frontend::Frontend {
    let family = Family::of(plan.address);
    let drops = |action, flag| match action {
        EmptyAction::Drop => flag,
        EmptyAction::Refuse => 0,
    };
    frontend::Frontend {
        backend_service,
        neg_external: neg_kind(plan.neg_external, family).id(backend_service),
        neg_internal: neg_kind(plan.neg_internal, family).id(backend_service),
        flags: plan.kind as u32
            | if plan.checks_source { frontend::flags::CHECK_SOURCE } else { 0 }
            | if plan.external_mode == ExternalMode::Dsr { frontend::flags::DSR } else { 0 }
            | drops(plan.empty_external, frontend::flags::EXTERNAL_EMPTY_DROPS)
            | drops(plan.empty_internal, frontend::flags::INTERNAL_EMPTY_DROPS),
    }
}
