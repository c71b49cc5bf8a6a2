//! Writing the maps: one [`Op`] is one or a few stores, in an order at which no packet sees a half.
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::MapError;
use lb_common::Address;
use lb_common::backend_service::{BackendService, BackendServiceName, flags};
use lb_common::config::Config;
use lb_common::endpoint::Endpoint;
use lb_common::frontend::{Frontend, FrontendKey};
use lb_common::interface::Interface;
use lb_common::maps;
use lb_common::neg::Ring;

use super::Maps;
use super::mapped::Mapped;
use super::read::ENDPOINT_WORDS;
use super::table::io_error;
use crate::diff::Op;
use crate::plan::{frontend_key_text, socket_text};

/// The word of an ENDPOINTS value that holds its state: the last one.
const STATE_WORD: usize = ENDPOINT_WORDS - 1;
const _: () = assert!(std::mem::offset_of!(Endpoint, state) == STATE_WORD * size_of::<u32>());
/// The word that holds its generation.
const GENERATION_WORD: usize = std::mem::offset_of!(Endpoint, generation) / size_of::<u32>();

/// The states of the endpoints alone, for a thread beside the one that writes all else.
pub struct EndpointStates(Arc<Mapped>);

impl EndpointStates {
    /// Ends new flows at an endpoint, for all CPUs at once. Nothing happens where the id has been given up, so
    /// that it has another generation. Whoever stores endpoints meanwhile must be kept from it.
    pub fn take_out(&self, id: u32, generation: u32) {
        let Some(words) = self.0.words(id) else { return };
        if words[GENERATION_WORD].load(Ordering::Acquire) == generation {
            words[STATE_WORD].fetch_and(!lb_common::endpoint::state::HEALTHY, Ordering::Release);
        }
    }
}

impl Maps {
    /// The states of the endpoints, for another thread.
    #[must_use]
    pub fn endpoint_states(&self) -> EndpointStates {
        EndpointStates(Arc::clone(&self.arrays.endpoints))
    }

    /// Carries out one operation.
    ///
    /// # Errors
    /// The kernel refused it: the message names operation, datum, cause and remedy. The maps are as they
    /// were, but for a backend service's name, which goes before its value.
    pub fn apply(&mut self, op: &Op) -> Result<()> {
        ensure!(self.is_writable(), "cannot {}: the maps are open for reading", subject(op));
        let done = match op {
            Op::PutEndpoint { id, endpoint } | Op::DeleteEndpoint { id, endpoint } => {
                self.store_endpoint(*id, endpoint)
            }
            Op::WriteRing { ring, slots, .. } => self.store_slots(*ring, slots),
            Op::SwitchNeg { neg, ring } => self.store_neg(*neg, *ring),
            Op::PutBackendService { id, backend_service, name } => self
                .begin_backend_service(*id)
                .and_then(|()| self.names.put(*id, &name.to_bytes()))
                .and_then(|()| self.backend_services.put(*id, backend_service))
                .map_err(|error| refused(&error, maps::BACKEND_SERVICES, self.backend_services.count())),
            Op::DeleteBackendService { id } => {
                let no_name: BackendServiceName = bytemuck::Zeroable::zeroed();
                self.backend_services
                    .put(*id, &BackendService::default())
                    .and_then(|()| self.names.put(*id, &no_name))
                    .map_err(|error| refused(&error, maps::BACKEND_SERVICES, self.backend_services.count()))
            }
            Op::PutSourceRange { key } => {
                let put = self.source_ranges.put(key);
                put.map_err(|error| refused(&error, maps::SOURCE_RANGES, self.source_ranges.entries_max()))
            }
            Op::DeleteSourceRange { key } => {
                let removed = self.source_ranges.remove(key);
                removed
                    .map_err(|error| refused(&error, maps::SOURCE_RANGES, self.source_ranges.entries_max()))
            }
            Op::PutVip { address, vip } => self.store_frontend(&FrontendKey::vip(*address), vip),
            Op::DeleteVip { address } => self.clear_frontend(&FrontendKey::vip(*address)),
            Op::PutFrontend { key, frontend } => self.store_frontend(key, frontend),
            Op::DeleteFrontend { key } => self.clear_frontend(key),
        };
        done.map_err(|cause| anyhow!("cannot {}: {cause}", subject(op)))
    }

    fn store_frontend(&mut self, key: &FrontendKey, frontend: &Frontend) -> Result<(), String> {
        self.vip_filter.put(key);
        let put = self.frontends.put(key, frontend);
        put.map_err(|error| refused(&error, maps::FRONTENDS, self.frontends.entries_max()))
    }

    fn clear_frontend(&mut self, key: &FrontendKey) -> Result<(), String> {
        let removed = self.frontends.remove(key);
        if removed.is_ok() {
            self.vip_filter.remove(key);
        }
        removed.map_err(|error| refused(&error, maps::FRONTENDS, self.frontends.entries_max()))
    }

    /// An id that comes into use counts from zero. Not when it is given up: connections to the one that
    /// had it may last longer, and go on to count.
    fn begin_backend_service(&mut self, id: u32) -> Result<(), MapError> {
        if self.backend_services.get(id)?.flags & flags::PRESENT != 0 {
            return Ok(());
        }
        self.backend_service_traffic.clear(id)
    }

    /// Changes nothing but the state of an endpoint, for all CPUs at once.
    ///
    /// # Errors
    /// No such id.
    pub fn set_endpoint_state(&mut self, id: u32, bits: u32) -> Result<()> {
        let cannot = |why| format!("cannot set the state of endpoint {id}: {why}");
        ensure!(self.is_writable(), cannot("the maps are open for reading"));
        let words =
            self.arrays.endpoints.words(id).with_context(|| cannot("map ENDPOINTS has no such place"))?;
        words[STATE_WORD].store(bits, Ordering::Release);
        Ok(())
    }

    /// A value that is in use changes by one store of its state, after the times of its drain, which mean
    /// nothing before that. Any other is taken out of use first,
    /// then filled, then put into use, so that a state is never read together with another's address.
    /// One that comes into use counts from zero, as a backend service does; the counters of one that never
    /// was in use are zero.
    fn store_endpoint(&mut self, id: u32, endpoint: &Endpoint) -> Result<(), String> {
        let former = self.endpoint(id);
        let words = self
            .arrays
            .endpoints
            .words(id)
            .ok_or_else(|| full(maps::ENDPOINTS, self.arrays.endpoints.count()))?;
        if endpoint.is_present() && !former.is_present() && former.generation > 0 {
            let cleared = self.endpoint_traffic.clear(id);
            cleared
                .map_err(|error| refused(&error, maps::ENDPOINT_TRAFFIC, self.arrays.endpoints.count()))?;
        }
        let value: [u32; ENDPOINT_WORDS] = bytemuck::cast(*endpoint);
        let Endpoint { state, withdrawn_s, drain_until_s, .. } = *endpoint;
        let is_same_place = Endpoint { state, withdrawn_s, drain_until_s, ..former } == *endpoint;
        if !is_same_place || !former.is_present() {
            words[STATE_WORD].store(0, Ordering::Release);
        }
        for (word, value) in words[..STATE_WORD].iter().zip(value) {
            word.store(value, Ordering::Release);
        }
        words[STATE_WORD].store(value[STATE_WORD], Ordering::Release);
        Ok(())
    }

    fn store_slots(&self, ring: Ring, slots: &[u32]) -> Result<(), String> {
        let end = u64::from(ring.position()) + slots.len() as u64;
        if end > u64::from(self.arrays.ring_slots.count()) {
            return Err(full(maps::RING_SLOTS, self.arrays.ring_slots.count()));
        }
        for (slot, id) in (ring.position()..).zip(slots) {
            let words = self.arrays.ring_slots.words(slot);
            let words = words.ok_or_else(|| full(maps::RING_SLOTS, self.arrays.ring_slots.count()))?;
            words[0].store(*id, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One aligned 64-bit store, after all stores to the slots of the ring.
    fn store_neg(&self, neg: u32, ring: Ring) -> Result<(), String> {
        let word = self.arrays.negs.word64(neg).ok_or_else(|| full(maps::NEGS, self.arrays.negs.count()))?;
        word.store(bytemuck::cast(ring), Ordering::Release);
        Ok(())
    }

    /// Says that an address is a node's of the cluster.
    ///
    /// # Errors
    /// The map is full.
    pub fn put_node(&mut self, address: &Address) -> Result<()> {
        let entries_max = self.nodes.entries_max();
        let put = self.nodes.put(address, &1);
        put.map_err(|error| {
            anyhow!("cannot put node address {address}: {}", refused(&error, maps::NODES, entries_max))
        })
    }

    /// Forgets an address of a node.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_node(&mut self, address: &Address) -> Result<()> {
        self.nodes.remove(address).with_context(|| format!("cannot delete node address {address}"))
    }

    /// Says what an interface is.
    ///
    /// # Errors
    /// The map is full.
    pub fn put_interface(&mut self, index: u32, interface: Interface) -> Result<()> {
        let entries_max = self.interfaces.entries_max();
        let put = self.interfaces.put(&index, &interface);
        put.map_err(|error| {
            anyhow!("cannot put interface {index}: {}", refused(&error, maps::INTERFACES, entries_max))
        })
    }

    /// Forgets an interface.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove_interface(&mut self, index: u32) -> Result<()> {
        self.interfaces.remove(&index).with_context(|| format!("cannot delete interface {index}"))
    }

    /// Writes CONFIG.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn put_config(&mut self, config: &Config) -> Result<()> {
        self.config.put(0, config).context("cannot write map CONFIG")
    }
}

/// What an operation does, without the details that are not needed to name it.
fn subject(op: &Op) -> String {
    match op {
        Op::PutEndpoint { id, endpoint } => {
            let place = socket_text(endpoint.address.into(), endpoint.port.get());
            format!("put endpoint {id} ({place})")
        }
        Op::PutBackendService { id, name, .. } => format!("put backend service {id} ({})", name.name),
        Op::PutFrontend { key, .. } => format!("put frontend {}", frontend_key_text(key)),
        Op::PutVip { address, .. } => format!("put VIP {address}"),
        Op::WriteRing { .. }
        | Op::SwitchNeg { .. }
        | Op::PutSourceRange { .. }
        | Op::DeleteSourceRange { .. }
        | Op::DeleteVip { .. }
        | Op::DeleteFrontend { .. }
        | Op::DeleteBackendService { .. }
        | Op::DeleteEndpoint { .. } => op.to_string(),
    }
}

/// Cause and remedy of a refused write.
fn refused(error: &MapError, map: &str, entries_max: u32) -> String {
    match (error, io_error(error)) {
        // A hash map at its bound says E2BIG (`htab_map_update_elem`), an array EINVAL or E2BIG, a trie
        // ENOSPC (`trie_update_elem`).
        (_, Some(cause))
            if matches!(cause.kind(), io::ErrorKind::ArgumentListTooLong | io::ErrorKind::StorageFull) =>
        {
            full(map, entries_max)
        }
        (MapError::OutOfBounds { .. }, _) => full(map, entries_max),
        (_, Some(cause)) if cause.kind() == io::ErrorKind::OutOfMemory => {
            format!("the kernel has no memory for map {map}; free some or lower the sizes of the maps")
        }
        (error, Some(cause)) => format!("map {map}: {error}: {cause}"),
        (error, None) => format!("map {map}: {error}"),
    }
}

fn full(map: &str, entries_max: u32) -> String {
    let flag = match map {
        maps::FRONTENDS => "--frontends-max",
        maps::BACKEND_SERVICES | maps::NEGS => "--backend-services-max",
        maps::ENDPOINTS => "--endpoints-max",
        maps::RING_SLOTS => "--ring-slots-max",
        maps::SOURCE_RANGES => "--source-ranges-max",
        _ => return format!("map {map} is full ({entries_max} entries)"),
    };
    format!("map {map} is full ({entries_max} entries); raise {flag}")
}
