//! The mirror of the maps, with the indices that a diff needs.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::backend_service::{self, BackendService};
use lb_common::endpoint::Endpoint;
use lb_common::frontend::{Frontend, FrontendKey};
use lb_common::maps;
use lb_common::neg::{NEGS_PER_BACKEND_SERVICE, NegKind, Ring};
use lb_common::source_range::SourceRangeKey;
use lb_common::{Address, Be16};

use crate::ids::{IdState, Pool};
use crate::plan::BackendServiceName;
use crate::ring::Arena;

use super::vips::needs_entry;
use super::{Op, StoredName};

mod read;

/// Sizes of the maps. What a diff does at each bound is said at the bound's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of FRONTENDS.
    pub frontends_max: u32,
    /// Entries of BACKEND_SERVICES; NEGS has four times as many.
    pub backend_services_max: u32,
    /// Entries of ENDPOINTS.
    pub endpoints_max: u32,
    /// Entries of RING_SLOTS.
    pub ring_slots_max: u32,
    /// Entries of SOURCE_RANGES.
    pub source_ranges_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frontends_max: maps::FRONTENDS_MAX,
            backend_services_max: maps::BACKEND_SERVICES_MAX,
            endpoints_max: maps::ENDPOINTS_MAX,
            ring_slots_max: maps::RING_SLOTS_MAX,
            source_ranges_max: maps::SOURCE_RANGES_MAX,
        }
    }
}

/// The maps' values as they are read from the kernel. Arrays may end where only zeros follow.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dump {
    /// FRONTENDS, with the entries of VIPs.
    pub frontends: Vec<(FrontendKey, Frontend)>,
    /// SOURCE_RANGES.
    pub source_ranges: Vec<SourceRangeKey>,
    /// BACKEND_SERVICES by id.
    pub backend_services: Vec<BackendService>,
    /// BACKEND_SERVICE_NAMES by id.
    pub names: Vec<backend_service::BackendServiceName>,
    /// NEGS by id.
    pub negs: Vec<Ring>,
    /// RING_SLOTS.
    pub ring_slots: Vec<u32>,
    /// ENDPOINTS by id.
    pub endpoints: Vec<Endpoint>,
}

/// What stands in the maps.
#[derive(Clone, Debug)]
pub struct Tables {
    limits: Limits,
    frontends: BTreeMap<FrontendKey, Frontend>,
    /// The entries of VIPs, which stand in FRONTENDS too.
    vips: BTreeMap<Address, Frontend>,
    /// By backend-service id; none is empty.
    source_ranges: BTreeMap<u32, BTreeSet<SourceRangeKey>>,
    /// The arrays reach as far as they have been written; zeros follow.
    backend_services: Vec<BackendService>,
    names: Vec<Option<StoredName>>,
    negs: Vec<Ring>,
    ring_slots: Vec<u32>,
    endpoints: Vec<Endpoint>,
    index: Index,
    /// Free and used backend-service ids.
    pub(super) backend_service_pool: Pool,
    /// Free and used endpoint ids.
    pub(super) endpoint_pool: Pool,
    /// Free and resting ring space.
    pub(super) arena: Arena,
}

/// What a diff looks up, kept beside the values.
#[derive(Clone, Debug, Default)]
struct Index {
    ids: BTreeMap<Arc<BackendServiceName>, u32>,
    /// By backend-service id: endpoint ids in the order of address and port.
    endpoints: Vec<Vec<u32>>,
    frontends: BTreeSet<(u32, FrontendKey)>,
    /// NEGs whose ring the arena does not count as used: the maps were damaged.
    stray_negs: BTreeSet<u32>,
    /// Backend-service ids not in use that something still belongs to.
    leftovers: BTreeSet<u32>,
    /// VIPs with an entry and no frontend that needs it.
    idle_vips: BTreeSet<Address>,
    source_ranges_used: u32,
    /// Withdrawn endpoints by the time of it.
    withdrawn: BTreeSet<(u32, u32)>,
    /// Endpoints that a health check has taken out, by the end of their drain.
    drained_by_health: BTreeSet<(u32, u32)>,
}

impl Tables {
    /// Empty maps.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::recover(limits, Dump::default())
    }

    /// From what the pinned maps hold. Entries past the limits are not looked at.
    #[must_use]
    pub fn recover(limits: Limits, dump: Dump) -> Self {
        let mut dump = dump;
        dump.backend_services.truncate(limits.backend_services_max as usize);
        dump.endpoints.truncate(limits.endpoints_max as usize);
        dump.negs.truncate(limits.backend_services_max as usize * NEGS_PER_BACKEND_SERVICE as usize);
        dump.ring_slots.truncate(limits.ring_slots_max as usize);
        let (vips, frontends): (Vec<_>, Vec<_>) =
            dump.frontends.into_iter().partition(|(key, _)| *key == FrontendKey::vip(key.address));
        let used = |flags: u32| flags & backend_service::flags::PRESENT != 0;
        let names = dump.names.iter().zip(&dump.backend_services);
        let names = names.map(|(name, value)| StoredName::of_bytes(name).filter(|_| used(value.flags)));
        let mut tables = Self {
            limits,
            names: names.collect(),
            backend_service_pool: Pool::recover(
                limits.backend_services_max,
                dump.backend_services
                    .iter()
                    .map(|v| if used(v.flags) { IdState::Used } else { IdState::Fresh }),
            ),
            endpoint_pool: Pool::recover(limits.endpoints_max, dump.endpoints.iter().map(endpoint_id_state)),
            arena: Arena::new(limits.ring_slots_max),
            frontends: frontends.into_iter().collect(),
            vips: vips.into_iter().map(|(key, value)| (key.address, value)).collect(),
            source_ranges: BTreeMap::new(),
            backend_services: dump.backend_services,
            negs: dump.negs,
            ring_slots: dump.ring_slots,
            endpoints: dump.endpoints,
            index: Index::default(),
        };
        for key in dump.source_ranges {
            tables.source_ranges.entry(key.backend_service_id()).or_default().insert(key);
        }
        tables.build_index();
        tables
    }

    fn build_index(&mut self) {
        for (id, name) in (0u32..).zip(&self.names) {
            if let Some(name) = name {
                self.index.ids.entry(Arc::clone(&name.name)).or_insert(id);
            }
        }
        for id in 0..self.endpoints.len() as u32 {
            if self.endpoints[id as usize].is_present() {
                self.index_endpoint(id);
                self.note_drain(id, &Endpoint::default());
            }
        }
        self.index.frontends =
            self.frontends.iter().map(|(key, value)| (value.backend_service, *key)).collect();
        for neg in 0..self.negs.len() as u32 {
            let ring = self.negs[neg as usize];
            if ring != Ring::EMPTY && !self.arena.reserve(ring.position(), ring.length()) {
                self.index.stray_negs.insert(neg);
            }
        }
        self.index.source_ranges_used = self.source_ranges.values().map(|keys| keys.len() as u32).sum();
        let vips: Vec<Address> = self.vips.keys().copied().collect();
        vips.into_iter().for_each(|address| self.note_idle_vip(address));
        let owners = self.index.frontends.iter().map(|(id, _)| *id);
        let owners = owners.chain(self.source_ranges.keys().copied());
        let all: BTreeSet<u32> = owners.chain(0..self.ids_end()).collect();
        for id in all {
            self.note_leftover(id);
        }
    }

    /// Changes the mirror as an operation has changed the maps. `now_ms` is the clock of the diff.
    pub fn apply(&mut self, op: &Op, now_ms: u64) {
        match op {
            Op::PutEndpoint { id, endpoint } => self.put_endpoint(*id, *endpoint),
            Op::WriteRing { ring, slots, .. } => {
                let start = ring.position() as usize;
                grow(&mut self.ring_slots, start + slots.len());
                self.ring_slots[start..start + slots.len()].copy_from_slice(slots);
            }
            Op::SwitchNeg { neg, ring } => self.switch_neg(*neg, *ring, now_ms),
            Op::PutBackendService { id, backend_service, name } => {
                self.put_backend_service(*id, *backend_service, name);
            }
            Op::PutFrontend { key, frontend } => {
                self.remove_frontend(key);
                self.frontends.insert(*key, *frontend);
                self.index.frontends.insert((frontend.backend_service, *key));
                self.note_leftover(frontend.backend_service);
                self.note_idle_vip(key.address);
            }
            Op::PutVip { address, vip } => {
                self.vips.insert(*address, *vip);
                self.note_idle_vip(*address);
            }
            Op::DeleteVip { address } => {
                self.vips.remove(address);
                self.note_idle_vip(*address);
            }
            Op::PutSourceRange { key } => self.put_source_range(*key),
            Op::DeleteSourceRange { key } => self.delete_source_range(key),
            Op::DeleteFrontend { key } => self.remove_frontend(key),
            Op::DeleteBackendService { id } => self.delete_backend_service(*id),
            Op::DeleteEndpoint { id, endpoint } => self.delete_endpoint(*id, *endpoint),
        }
    }

    fn put_endpoint(&mut self, id: u32, endpoint: Endpoint) {
        grow(&mut self.endpoints, id as usize + 1);
        let former = std::mem::replace(&mut self.endpoints[id as usize], endpoint);
        self.note_drain(id, &former);
        if !former.is_present() {
            self.endpoint_pool.take(id);
            self.index_endpoint(id);
        }
        self.note_leftover(endpoint.backend_service);
    }

    fn delete_endpoint(&mut self, id: u32, cleared: Endpoint) {
        let Some(value) = self.endpoints.get(id as usize).copied().filter(Endpoint::is_present) else {
            return;
        };
        let backend_service = value.backend_service;
        if let Some(index) = self.indexed_at(id, &value) {
            self.index.endpoints[backend_service as usize].remove(index);
        }
        self.endpoints[id as usize] = cleared;
        self.note_drain(id, &value);
        self.endpoint_pool.release(id);
        self.note_leftover(backend_service);
    }

    fn switch_neg(&mut self, neg: u32, ring: Ring, now_ms: u64) {
        grow(&mut self.negs, neg as usize + 1);
        let former = std::mem::replace(&mut self.negs[neg as usize], ring);
        if former != ring {
            self.arena.expire(now_ms);
            let was_stray = self.index.stray_negs.remove(&neg);
            if former != Ring::EMPTY && !was_stray {
                self.arena.retire(former.position(), former.length(), now_ms);
            }
            if ring != Ring::EMPTY && !self.arena.reserve(ring.position(), ring.length()) {
                self.index.stray_negs.insert(neg);
            }
        }
        self.note_leftover(NegKind::of_id(neg).0);
    }

    fn put_backend_service(&mut self, id: u32, value: BackendService, name: &StoredName) {
        grow(&mut self.backend_services, id as usize + 1);
        if self.names.len() <= id as usize {
            self.names.resize(id as usize + 1, None);
        }
        let former = std::mem::replace(&mut self.backend_services[id as usize], value);
        if former.flags & backend_service::flags::PRESENT == 0 {
            self.backend_service_pool.take(id);
        }
        let former = self.names[id as usize].replace(name.clone());
        if let Some(former) = former.filter(|former| former.name != name.name) {
            self.index.ids.remove(&former.name);
        }
        self.index.ids.insert(Arc::clone(&name.name), id);
        self.note_leftover(id);
    }

    fn delete_backend_service(&mut self, id: u32) {
        let Some(value) = self.backend_services.get_mut(id as usize) else { return };
        if value.flags & backend_service::flags::PRESENT != 0 {
            self.backend_service_pool.release(id);
        }
        *value = BackendService::default();
        if let Some(name) = self.names.get_mut(id as usize).and_then(Option::take)
            && self.index.ids.get(&name.name) == Some(&id)
        {
            self.index.ids.remove(&name.name);
        }
        self.note_leftover(id);
    }

    fn remove_frontend(&mut self, key: &FrontendKey) {
        if let Some(former) = self.frontends.remove(key) {
            self.index.frontends.remove(&(former.backend_service, *key));
            self.note_leftover(former.backend_service);
            self.note_idle_vip(key.address);
        }
    }

    fn put_source_range(&mut self, key: SourceRangeKey) {
        let id = key.backend_service_id();
        if self.source_ranges.entry(id).or_default().insert(key) {
            self.index.source_ranges_used += 1;
        }
        self.note_leftover(id);
    }

    fn delete_source_range(&mut self, key: &SourceRangeKey) {
        let id = key.backend_service_id();
        let Some(keys) = self.source_ranges.get_mut(&id) else { return };
        if keys.remove(key) {
            self.index.source_ranges_used -= 1;
        }
        if keys.is_empty() {
            self.source_ranges.remove(&id);
        }
        self.note_leftover(id);
    }

    fn note_idle_vip(&mut self, address: Address) {
        let is_needed = self.frontends_at(address).any(|(_, value)| needs_entry(value));
        if self.vips.contains_key(&address) && !is_needed {
            self.index.idle_vips.insert(address);
        } else {
            self.index.idle_vips.remove(&address);
        }
    }

    /// Where an endpoint of a backend service stands in the index, or would stand.
    fn endpoint_place(&self, backend_service: u32, address: Address, port: Be16) -> Result<usize, usize> {
        self.endpoints_of(backend_service).binary_search_by(|id| {
            let endpoint = &self.endpoints[*id as usize];
            (endpoint.address, endpoint.port).cmp(&(address, port))
        })
    }

    /// Where an endpoint stands in the index: of damaged maps two may have one place.
    fn indexed_at(&self, id: u32, value: &Endpoint) -> Option<usize> {
        let ids = self.endpoints_of(value.backend_service);
        let first = ids.partition_point(|other| {
            let other = &self.endpoints[*other as usize];
            (other.address, other.port) < (value.address, value.port)
        });
        Some(first + ids[first..].iter().position(|other| *other == id)?)
    }

    /// Moves an endpoint in or out of the indices of those that drain; `former` is what it was.
    fn note_drain(&mut self, id: u32, former: &Endpoint) {
        self.index.withdrawn.remove(&(former.withdrawn_s, id));
        self.index.drained_by_health.remove(&(former.drain_until_s, id));
        let endpoint = &self.endpoints[id as usize];
        if endpoint.is_drained_by_health() {
            self.index.drained_by_health.insert((endpoint.drain_until_s, id));
        }
        if endpoint.is_withdrawn() {
            self.index.withdrawn.insert((endpoint.withdrawn_s, id));
        }
    }

    fn index_endpoint(&mut self, id: u32) {
        let endpoint = self.endpoints[id as usize];
        let place = self.endpoint_place(endpoint.backend_service, endpoint.address, endpoint.port);
        grow(&mut self.index.endpoints, endpoint.backend_service as usize + 1);
        let (Ok(index) | Err(index)) = place;
        self.index.endpoints[endpoint.backend_service as usize].insert(index, id);
    }

    fn note_leftover(&mut self, id: u32) {
        let is_leftover = !self.is_used(id)
            && (!self.endpoints_of(id).is_empty()
                || NegKind::ALL.iter().any(|kind| self.neg(kind.id(id)) != Ring::EMPTY)
                || self.source_ranges.contains_key(&id)
                || self.frontends_of(id).next().is_some());
        if is_leftover {
            self.index.leftovers.insert(id);
        } else {
            self.index.leftovers.remove(&id);
        }
    }
}

fn endpoint_id_state(endpoint: &Endpoint) -> IdState {
    if endpoint.is_present() {
        IdState::Used
    } else if endpoint.generation > 0 {
        IdState::Freed
    } else {
        IdState::Fresh
    }
}

fn grow<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
    if values.len() < len {
        values.resize(len, T::default());
    }
}
