//! Reading the parts of a snapshot as the values that they are.
use anyhow::{Context as _, Result};
use bytemuck::Pod;
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::config::Config;
use lb_common::conntrack::{Flow, FlowKey};
use lb_common::counters::{Reason, Traffic};
use lb_common::maps;
use lb_common::source_range::SourceRangeKey;
use serde::de::DeserializeOwned;

use crate::attach::AttachedProgram;
use crate::diff::{Dump, Limits, Tables};
use crate::health::TargetHealth;
use crate::maps::{Occupancy, pairs, values};

use super::{MapHeader, NodeSnapshot, RecordedFacts, part};

impl NodeSnapshot {
    /// The mirror that diffs are made from, as the maps were.
    ///
    /// # Errors
    /// A map is missing.
    pub fn tables(&self) -> Result<Tables> {
        let bound = |name| Ok::<u32, anyhow::Error>(self.map_header(name)?.entries_max);
        let limits = Limits {
            frontends_max: bound(maps::FRONTENDS)?,
            backend_services_max: bound(maps::BACKEND_SERVICES)?,
            endpoints_max: bound(maps::ENDPOINTS)?,
            ring_slots_max: bound(maps::RING_SLOTS)?,
            source_ranges_max: bound(maps::SOURCE_RANGES)?,
        };
        let ranges: Vec<(SourceRangeKey, u32)> = self.pairs(maps::SOURCE_RANGES)?;
        let dump = Dump {
            frontends: self.pairs(maps::FRONTENDS)?,
            source_ranges: ranges.into_iter().map(|(key, _)| key).collect(),
            backend_services: self.values(maps::BACKEND_SERVICES)?,
            names: self.values(maps::BACKEND_SERVICE_NAMES)?,
            negs: self.values(maps::NEGS)?,
            ring_slots: self.values(maps::RING_SLOTS)?,
            endpoints: self.values(maps::ENDPOINTS)?,
        };
        Ok(Tables::recover(limits, dump))
    }

    /// CONFIG.
    ///
    /// # Errors
    /// The map is missing.
    pub fn config(&self) -> Result<Config> {
        let values: Vec<Config> = self.values(maps::CONFIG)?;
        values.first().copied().context("map CONFIG has no value")
    }

    /// The entries of CONNTRACK that are here.
    ///
    /// # Errors
    /// The map is missing.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        self.pairs(maps::CONNTRACK)
    }

    /// The entries of AFFINITY that are here.
    ///
    /// # Errors
    /// The map is missing.
    pub fn affinities(&self) -> Result<Vec<(AffinityKey, Affinity)>> {
        self.pairs(maps::AFFINITY)
    }

    /// What went to each backend service, by id.
    ///
    /// # Errors
    /// The map is missing.
    pub fn backend_services_traffic(&self) -> Result<Vec<Traffic>> {
        self.values(maps::BACKEND_SERVICE_TRAFFIC)
    }

    /// What went to each endpoint, by id.
    ///
    /// # Errors
    /// The map is missing.
    pub fn endpoints_traffic(&self) -> Result<Vec<Traffic>> {
        self.values(maps::ENDPOINT_TRAFFIC)
    }

    /// How many packets had each reason.
    ///
    /// # Errors
    /// The map is missing.
    pub fn all_reasons(&self) -> Result<Vec<(Reason, u64)>> {
        Ok(Reason::ALL.into_iter().zip(self.values(maps::REASONS)?).collect())
    }

    /// How full the maps were that programs fill. Of a map that was cut, what is here counts.
    ///
    /// # Errors
    /// A map is missing.
    pub fn trace_occupancy(&self) -> Result<[(&'static str, Occupancy); 4]> {
        let of = |name: &'static str| -> Result<(&'static str, Occupancy)> {
            let map = self.map_header(name)?;
            Ok((name, Occupancy { entries: map.entries.into(), entries_max: map.entries_max.into() }))
        };
        Ok([of(maps::CONNTRACK)?, of(maps::AFFINITY)?, of(maps::SOCKET_FLOWS)?, of(maps::FRAGMENTS)?])
    }

    /// Where which program was attached.
    ///
    /// # Errors
    /// The part is missing.
    pub fn programs(&self) -> Result<Vec<AttachedProgram>> {
        self.json(part::PROGRAMS)
    }

    /// What the agent's probes had found, of all targets or of a backend service's.
    ///
    /// # Errors
    /// The agent did not answer.
    pub fn health(&self, backend_service: Option<&str>) -> Result<Vec<TargetHealth>> {
        let mut all: Vec<TargetHealth> = self.json(part::HEALTH)?;
        all.retain(|target| backend_service.is_none_or(|name| target.backend_service == name));
        Ok(all)
    }

    /// The facts that the agent planned from.
    ///
    /// # Errors
    /// The agent did not answer.
    pub fn facts(&self) -> Result<RecordedFacts> {
        self.json(part::FACTS)
    }

    fn map_header(&self, name: &str) -> Result<&MapHeader> {
        let found = self.header.maps.iter().find(|map| map.name == name);
        found.with_context(|| format!("map {name} is not in the snapshot"))
    }

    fn bytes(&self, part: &str) -> Result<&[u8]> {
        let bytes = self.parts.get(part).map(Vec::as_slice);
        bytes.with_context(|| match self.header.left_out.iter().find(|left| left.part == part) {
            Some(left) => format!("{part} is not in the snapshot: {}", left.reason),
            None => format!("{part} is not in the snapshot"),
        })
    }

    fn json<T: DeserializeOwned>(&self, part: &str) -> Result<T> {
        let bytes = self.bytes(part)?;
        serde_json::from_slice(bytes).with_context(|| format!("cannot read {part} of the snapshot"))
    }

    fn pairs<K: Pod, V: Pod>(&self, name: &str) -> Result<Vec<(K, V)>> {
        let map = self.map_header(name)?;
        let is_of_type =
            (map.key_bytes as usize, map.value_bytes as usize) == (size_of::<K>(), size_of::<V>());
        let found = if is_of_type { pairs(self.bytes(&part::map(name))?) } else { None };
        found.with_context(|| format!("map {name} of the snapshot has entries of another size"))
    }

    fn values<V: Pod>(&self, name: &str) -> Result<Vec<V>> {
        let map = self.map_header(name)?;
        let is_of_type = (map.key_bytes, map.value_bytes as usize) == (0, size_of::<V>());
        let found = if is_of_type { values(self.bytes(&part::map(name))?) } else { None };
        found.with_context(|| format!("map {name} of the snapshot has values of another size"))
    }
}
