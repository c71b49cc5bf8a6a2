//! Reading the mirror.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::backend_service::{self, BackendService};
use lb_common::endpoint::Endpoint;
use lb_common::frontend::{Frontend, FrontendKey};
use lb_common::neg::{NEGS_PER_BACKEND_SERVICE, Ring};
use lb_common::source_range::SourceRangeKey;
use lb_common::{Address, Be16};

use crate::diff::StoredName;
use crate::model::{ObjectName, Protocol};
use crate::plan::BackendServiceName;
use crate::ring::Arena;

use super::{Dump, Limits, Tables};

impl Tables {
    /// The bounds.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// All frontends.
    #[must_use]
    pub fn frontends(&self) -> &BTreeMap<FrontendKey, Frontend> {
        &self.frontends
    }

    /// A backend service, where the id is in use.
    #[must_use]
    pub fn backend_service(&self, id: u32) -> Option<&BackendService> {
        self.backend_services.get(id as usize).filter(|v| v.flags & backend_service::flags::PRESENT != 0)
    }

    /// The name of a backend service, where the id is in use and its name was readable.
    #[must_use]
    pub fn name(&self, id: u32) -> Option<&StoredName> {
        self.names.get(id as usize)?.as_ref()
    }

    /// The ring of a NEG.
    #[must_use]
    pub fn neg(&self, id: u32) -> Ring {
        self.negs.get(id as usize).copied().unwrap_or(Ring::EMPTY)
    }

    /// The slots of a ring; `None` where it lies outside of what is written of the arena.
    #[must_use]
    pub fn slots(&self, ring: Ring) -> Option<&[u32]> {
        let start = ring.position() as usize;
        self.ring_slots.get(start..start.checked_add(ring.length() as usize)?)
    }

    /// The value at an endpoint id, in use or not.
    #[must_use]
    pub fn endpoint(&self, id: u32) -> Endpoint {
        self.endpoints.get(id as usize).copied().unwrap_or_default()
    }

    /// The id of a backend service.
    #[must_use]
    pub fn backend_service_id(&self, name: &BackendServiceName) -> Option<u32> {
        self.index.ids.get(name).copied()
    }

    /// The id of an endpoint of a backend service.
    #[must_use]
    pub fn endpoint_id(&self, backend_service: u32, address: Address, port: u16) -> Option<u32> {
        let index = self.endpoint_place(backend_service, address, Be16::new(port)).ok()?;
        Some(self.endpoints_of(backend_service)[index])
    }

    /// The endpoint ids of a backend service, in the order of address and port.
    #[must_use]
    pub fn endpoints_of(&self, backend_service: u32) -> &[u32] {
        self.index.endpoints.get(backend_service as usize).map_or(&[], Vec::as_slice)
    }

    /// The frontends on an address, of all ports.
    pub fn frontends_at(&self, address: Address) -> impl Iterator<Item = (&FrontendKey, &Frontend)> {
        let all = self.frontends.range(FrontendKey::vip(address)..);
        all.take_while(move |(key, _)| key.address == address)
    }

    /// The entries of VIPs.
    #[must_use]
    pub fn vips(&self) -> &BTreeMap<Address, Frontend> {
        &self.vips
    }

    /// The entry of a VIP.
    #[must_use]
    pub fn vip(&self, address: &Address) -> Option<&Frontend> {
        self.vips.get(address)
    }

    /// VIPs with an entry that no frontend needs: an apply was cut short. The next diff clears them.
    pub(in crate::diff) fn idle_vips(&self) -> impl Iterator<Item = Address> + '_ {
        self.index.idle_vips.iter().copied()
    }

    /// How many entries of FRONTENDS are in use.
    #[must_use]
    pub fn frontends_used(&self) -> u32 {
        (self.frontends.len() + self.vips.len()) as u32
    }

    /// The source ranges of a backend service.
    #[must_use]
    pub fn source_ranges_of(&self, backend_service: u32) -> &BTreeSet<SourceRangeKey> {
        static NONE: BTreeSet<SourceRangeKey> = BTreeSet::new();
        self.source_ranges.get(&backend_service).unwrap_or(&NONE)
    }

    /// The source ranges of all backend services, by id.
    #[must_use]
    pub fn source_ranges(&self) -> &BTreeMap<u32, BTreeSet<SourceRangeKey>> {
        &self.source_ranges
    }

    /// How many entries of SOURCE_RANGES are in use.
    #[must_use]
    pub fn source_ranges_used(&self) -> u32 {
        self.index.source_ranges_used
    }

    /// The keys of the frontends that lead to a backend service.
    pub fn frontends_of(&self, backend_service: u32) -> impl Iterator<Item = &FrontendKey> {
        let least = FrontendKey::new(Address::v6([0; 16]), Be16::new(0), 0);
        self.index
            .frontends
            .range((backend_service, least)..)
            .take_while(move |(id, _)| *id == backend_service)
            .map(|(_, key)| key)
    }

    /// The backend services of one Service, by id.
    pub fn backend_services_of<'a>(&'a self, service: &'a ObjectName) -> impl Iterator<Item = u32> + 'a {
        let least = BackendServiceName {
            service: service.clone(),
            port_name: "".into(),
            port: 0,
            protocol: Protocol::Tcp,
        };
        self.index
            .ids
            .range(Arc::new(least)..)
            .take_while(move |(name, _)| name.service == *service)
            .map(|(_, id)| *id)
    }

    /// The ids in use of all backend services.
    pub fn backend_service_ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.backend_services.len() as u32).filter(|id| self.is_used(*id))
    }

    /// Backend-service ids that are not in use although endpoints, a ring or a frontend belong to them:
    /// an apply was cut short. The next diff clears them.
    #[must_use]
    pub fn leftovers(&self) -> &BTreeSet<u32> {
        &self.index.leftovers
    }

    /// All NEG ids with a ring.
    pub fn rings(&self) -> impl Iterator<Item = (u32, Ring)> + '_ {
        (0u32..).zip(self.negs.iter().copied()).filter(|(_, ring)| *ring != Ring::EMPTY)
    }

    /// All endpoint ids in use.
    pub fn endpoint_ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.endpoints.len() as u32).filter(|id| self.endpoint(*id).is_present())
    }

    /// The endpoints that a health check has taken out and whose flows are still to be ended, in the order of
    /// their deadlines.
    pub fn drained_by_health(&self) -> impl Iterator<Item = u32> + '_ {
        self.index.drained_by_health.iter().map(|(_, id)| *id)
    }

    /// The endpoints that no slice names any more and whose flows go on, those withdrawn first before the
    /// others.
    pub fn withdrawn(&self) -> impl Iterator<Item = u32> + '_ {
        self.index.withdrawn.iter().map(|(_, id)| *id)
    }

    /// Free ring space, and what of it rests.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// How many endpoint ids are in use.
    #[must_use]
    pub fn endpoints_used(&self) -> u32 {
        self.endpoint_pool.used()
    }

    /// How many backend-service ids are in use.
    #[must_use]
    pub fn backend_services_used(&self) -> u32 {
        self.backend_service_pool.used()
    }

    /// The values, as a restart would read them.
    #[must_use]
    pub fn dump(&self) -> Dump {
        let no_name: backend_service::BackendServiceName = bytemuck::Zeroable::zeroed();
        let names = self.names.iter().map(|name| name.as_ref().map_or(no_name, StoredName::to_bytes));
        let vips = self.vips.iter().map(|(address, value)| (FrontendKey::vip(*address), *value));
        let mut frontends: Vec<_> =
            self.frontends.iter().map(|(key, value)| (*key, *value)).chain(vips).collect();
        frontends.sort_by_key(|(key, _)| *key);
        Dump {
            frontends,
            source_ranges: self.source_ranges.values().flatten().copied().collect(),
            backend_services: self.backend_services.clone(),
            names: names.collect(),
            negs: self.negs.clone(),
            ring_slots: self.ring_slots.clone(),
            endpoints: self.endpoints.clone(),
        }
    }

    pub(in crate::diff) fn is_stray(&self, neg: u32) -> bool {
        self.index.stray_negs.contains(&neg)
    }

    pub(super) fn is_used(&self, id: u32) -> bool {
        self.backend_service(id).is_some()
    }

    /// One past the greatest backend-service id that an array mentions.
    pub(super) fn ids_end(&self) -> u32 {
        let negs = self.negs.len().div_ceil(NEGS_PER_BACKEND_SERVICE as usize);
        negs.max(self.backend_services.len()).max(self.index.endpoints.len()) as u32
    }
}
