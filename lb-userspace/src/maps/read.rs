//! Reading the maps.
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use aya::maps::{Map, MapError};
use lb_common::Address;
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::backend_service::flags;
use lb_common::config::Config;
use lb_common::conntrack::{Flow, FlowKey};
use lb_common::counters::{Reason, Traffic};
use lb_common::endpoint::Endpoint;
use lb_common::interface::Interface;
use lb_common::maps;
use lb_common::neg::Ring;

use super::mapped::{Access, Mapped};
use super::{Maps, table};
use crate::diff::{Dump, Tables};

/// Words of an ENDPOINTS value.
pub(super) const ENDPOINT_WORDS: usize = size_of::<Endpoint>() / size_of::<u32>();

/// Maps an array map of the layout into memory.
pub(super) fn mapped(dir: &Path, name: &str, value_bytes: usize, access: Access) -> Result<Mapped> {
    let map = table::open(dir, name)?;
    let count = table::entries_max(&map)?;
    let Map::Array(data) = &map else { anyhow::bail!("map {name} is no array") };
    Mapped::new(data.fd(), count, value_bytes, access)
        .with_context(|| format!("cannot map {name} into memory ({count} values)"))
}

impl Maps {
    /// Everything that a diff looks at, as it is now.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn dump(&self) -> Result<Dump> {
        let frontends: Result<Vec<_>, MapError> = self.frontends.entries().collect();
        let mut frontends = frontends.with_context(|| cannot_read(maps::FRONTENDS))?;
        frontends.sort_by_key(|(key, _)| *key);
        frontends.dedup_by_key(|(key, _)| *key);
        let mut backend_services = Vec::new();
        let mut names = Vec::new();
        let mut used = 0;
        for id in 0..self.backend_services.count() {
            let value = self.backend_services.get(id);
            let value = value.with_context(|| cannot_read(maps::BACKEND_SERVICES))?;
            let is_used = value.flags & flags::PRESENT != 0;
            names.push(if is_used {
                self.names.get(id).with_context(|| cannot_read(maps::BACKEND_SERVICE_NAMES))?
            } else {
                bytemuck::Zeroable::zeroed()
            });
            backend_services.push(value);
            used = if is_used { backend_services.len() } else { used };
        }
        backend_services.truncate(used);
        names.truncate(used);
        let negs = written(self.arrays.negs.count(), |id| self.neg(id), |ring| *ring == Ring::EMPTY);
        let mut source_ranges =
            self.source_ranges.keys().with_context(|| cannot_read(maps::SOURCE_RANGES))?;
        source_ranges.sort_unstable();
        source_ranges.dedup();
        Ok(Dump {
            frontends,
            source_ranges,
            backend_services,
            names,
            ring_slots: self.slots_of(&negs),
            negs,
            endpoints: written(
                self.arrays.endpoints.count(),
                |id| self.endpoint(id),
                |endpoint| *endpoint == Endpoint::default(),
            ),
        })
    }

    /// The arena up to the end of its last ring: a slot of zero names endpoint 0, so zeros do not say
    /// where it ends.
    fn slots_of(&self, rings: &[Ring]) -> Vec<u32> {
        let ends = rings.iter().map(|ring| ring.position().saturating_add(ring.length()));
        let end = ends.max().unwrap_or(0).min(self.arrays.ring_slots.count());
        (0..end).map(|slot| self.ring_slot(slot)).collect()
    }

    /// The mirror that diffs are made from, as the maps are now.
    ///
    /// # Errors
    /// As [`Maps::dump`].
    pub fn tables(&self) -> Result<Tables> {
        Ok(Tables::recover(self.limits(), self.dump()?))
    }

    fn neg(&self, id: u32) -> Ring {
        let word = self.arrays.negs.word64(id).map_or(0, |word| word.load(Ordering::Acquire));
        bytemuck::cast(word)
    }

    fn ring_slot(&self, slot: u32) -> u32 {
        self.arrays.ring_slots.words(slot).map_or(0, |words| words[0].load(Ordering::Relaxed))
    }

    /// The value at an endpoint id.
    #[must_use]
    pub fn endpoint(&self, id: u32) -> Endpoint {
        let mut value = [0u32; ENDPOINT_WORDS];
        if let Some(words) = self.arrays.endpoints.words(id) {
            for (value, word) in value.iter_mut().zip(words) {
                *value = word.load(Ordering::Acquire);
            }
        }
        bytemuck::cast(value)
    }

    /// All entries of CONNTRACK.
    pub fn flows(&self) -> impl Iterator<Item = Result<(FlowKey, Flow)>> + '_ {
        self.conntrack.entries().map(|found| found.with_context(|| cannot_read(maps::CONNTRACK)))
    }

    /// One entry of CONNTRACK.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>> {
        self.conntrack.get(key).with_context(|| cannot_read(maps::CONNTRACK))
    }

    /// All entries of AFFINITY.
    pub fn affinities(&self) -> impl Iterator<Item = Result<(AffinityKey, Affinity)>> + '_ {
        self.affinity.entries().map(|found| found.with_context(|| cannot_read(maps::AFFINITY)))
    }

    /// All entries of INTERFACES.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn interfaces(&self) -> Result<Vec<(u32, Interface)>> {
        let found: Result<Vec<_>, MapError> = self.interfaces.entries().collect();
        found.with_context(|| cannot_read(maps::INTERFACES))
    }

    /// All entries of NODES.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn nodes(&self) -> Result<BTreeSet<Address>> {
        let found: Result<_, MapError> = self.nodes.entries().map(|found| Ok(found?.0)).collect();
        found.with_context(|| cannot_read(maps::NODES))
    }

    /// The value of CONFIG.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn config(&self) -> Result<Config> {
        self.config.get(0).with_context(|| cannot_read(maps::CONFIG))
    }

    /// What went to a backend service, all CPUs together.
    ///
    /// # Errors
    /// No such id, or the kernel refuses a read.
    pub fn backend_service_traffic(&self, id: u32) -> Result<Traffic> {
        let values = self.backend_service_traffic.get(id);
        Ok(sum(&values.with_context(|| cannot_read(maps::BACKEND_SERVICE_TRAFFIC))?))
    }

    /// What went to an endpoint, all CPUs together.
    ///
    /// # Errors
    /// No such id, or the kernel refuses a read.
    pub fn endpoint_traffic(&self, id: u32) -> Result<Traffic> {
        let values = self.endpoint_traffic.get(id);
        Ok(sum(&values.with_context(|| cannot_read(maps::ENDPOINT_TRAFFIC))?))
    }

    /// How many packets had a reason, all CPUs together.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn reason(&self, reason: Reason) -> Result<u64> {
        let values = self.reasons.get(reason as u32).with_context(|| cannot_read(maps::REASONS))?;
        Ok(values.iter().sum())
    }
}

pub(super) fn sum(values: &[Traffic]) -> Traffic {
    values.iter().fold(Traffic::default(), |sum, value| Traffic {
        packets: sum.packets + value.packets,
        bytes: sum.bytes + value.bytes,
        new_flows: sum.new_flows + value.new_flows,
    })
}

/// The values up to the last one that is not empty.
fn written<T>(count: u32, get: impl Fn(u32) -> T, is_empty: impl Fn(&T) -> bool) -> Vec<T> {
    let mut values: Vec<T> = (0..count).map(get).collect();
    let end = values.iter().rposition(|value| !is_empty(value)).map_or(0, |index| index + 1);
    values.truncate(end);
    values
}

pub(super) fn cannot_read(map: &str) -> String {
    format!("cannot read map {map}")
}
