//! The content of the maps as bytes: what a snapshot keeps, and how it is read again.
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use bytemuck::Pod;
use lb_common::counters::Traffic;
use lb_common::maps;
use lb_common::source_range::SourceRangeKey;

use super::mapped::Mapped;
use super::read::cannot_read;
use super::table::ArrayTable;
use super::{Maps, Pins};

/// What stands in a map: of a hash, keys and values in turn; of an array, its values up to the last one in use. Of a
/// per-CPU array, the sums over the CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawMap {
    /// Its name.
    pub name: &'static str,
    /// Bytes of a key; zero of an array, whose values stand at their index.
    pub key_bytes: u32,
    /// Bytes of a value.
    pub value_bytes: u32,
    /// The bound on its entries.
    pub entries_max: u32,
    /// How many entries are here.
    pub entries: u32,
    /// Whether there were more.
    pub is_cut: bool,
    /// The entries, in the byte order of the machine.
    pub bytes: Vec<u8>,
}

impl RawMap {
    fn array<V: Pod>(name: &'static str, values: &[V], entries_max: u32) -> Self {
        Self {
            name,
            key_bytes: 0,
            value_bytes: size_of::<V>() as u32,
            entries_max,
            entries: values.len() as u32,
            is_cut: false,
            bytes: bytemuck::cast_slice(values).to_vec(),
        }
    }

    /// Takes the first `wanted` entries of a hash.
    fn hash<K: Pod, V: Pod>(
        name: &'static str,
        entries: impl Iterator<Item = Result<(K, V)>>,
        entries_max: u32,
        wanted: u32,
    ) -> Result<Self> {
        let mut raw = Self {
            name,
            key_bytes: size_of::<K>() as u32,
            value_bytes: size_of::<V>() as u32,
            entries_max,
            entries: 0,
            is_cut: false,
            bytes: Vec::new(),
        };
        for entry in entries {
            let (key, value) = entry?;
            if raw.entries == wanted {
                raw.is_cut = true;
                break;
            }
            raw.bytes.extend_from_slice(bytemuck::bytes_of(&key));
            raw.bytes.extend_from_slice(bytemuck::bytes_of(&value));
            raw.entries += 1;
        }
        Ok(raw)
    }
}

/// The entries of a hash, from its bytes; `None` where these are no whole number of entries.
#[must_use]
pub fn pairs<K: Pod, V: Pod>(bytes: &[u8]) -> Option<Vec<(K, V)>> {
    let entries = bytes.chunks_exact(size_of::<K>() + size_of::<V>());
    let pair = |entry: &[u8]| {
        let (key, value) = entry.split_at(size_of::<K>());
        (bytemuck::pod_read_unaligned(key), bytemuck::pod_read_unaligned(value))
    };
    entries.remainder().is_empty().then(|| entries.map(pair).collect())
}

/// The values of an array, likewise.
#[must_use]
pub fn values<V: Pod>(bytes: &[u8]) -> Option<Vec<V>> {
    let chunks = bytes.chunks_exact(size_of::<V>());
    chunks.remainder().is_empty().then(|| chunks.map(bytemuck::pod_read_unaligned).collect())
}

impl Maps {
    /// The content of all pinned maps but HELD_FRAMES, whose frames whoever reads them takes from the agent. Of the
    /// maps that programs fill, at most `traces_max` entries each.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn raw(&self, pins: &Pins, traces_max: u32) -> Result<Vec<RawMap>> {
        let mut raw = self.raw_tables()?;
        raw.extend(self.raw_traces(traces_max)?);
        raw.extend(self.raw_node(pins)?);
        raw.extend(self.raw_counters()?);
        Ok(raw)
    }

    /// What a plan is written to.
    fn raw_tables(&self) -> Result<Vec<RawMap>> {
        let limits = self.limits();
        let dump = self.dump()?;
        let frontends = dump.frontends.into_iter().map(Ok);
        let ranges = dump.source_ranges.into_iter().map(|key: SourceRangeKey| Ok((key, 1u32)));
        Ok(vec![
            RawMap::hash(maps::FRONTENDS, frontends, limits.frontends_max, limits.frontends_max)?,
            RawMap::array(maps::BACKEND_SERVICES, &dump.backend_services, limits.backend_services_max),
            RawMap::array(maps::BACKEND_SERVICE_NAMES, &dump.names, limits.backend_services_max),
            RawMap::array(maps::NEGS, &dump.negs, self.arrays.negs.count()),
            RawMap::array(maps::RING_SLOTS, &dump.ring_slots, limits.ring_slots_max),
            RawMap::array(maps::ENDPOINTS, &dump.endpoints, limits.endpoints_max),
            RawMap::hash(maps::SOURCE_RANGES, ranges, limits.source_ranges_max, limits.source_ranges_max)?,
        ])
    }

    /// What the programs fill.
    fn raw_traces(&self, traces_max: u32) -> Result<Vec<RawMap>> {
        let flows_max = self.conntrack.current_table().entries_max();
        let fragments =
            self.fragments.entries().map(|found| found.with_context(|| cannot_read(maps::FRAGMENTS)));
        let sockets =
            self.socket_flows.entries().map(|found| found.with_context(|| cannot_read(maps::SOCKET_FLOWS)));
        Ok(vec![
            RawMap::hash(maps::CONNTRACK, self.flows(), flows_max, traces_max)?,
            RawMap::hash(maps::AFFINITY, self.affinities(), self.affinity.entries_max(), traces_max)?,
            RawMap::hash(maps::SOCKET_FLOWS, sockets, self.socket_flows.entries_max(), traces_max)?,
            RawMap::hash(maps::FRAGMENTS, fragments, self.fragments.entries_max(), traces_max)?,
        ])
    }

    /// What the programs know of the node.
    fn raw_node(&self, pins: &Pins) -> Result<Vec<RawMap>> {
        let generation = ArrayTable::<u32>::open(&pins.maps(), maps::ROUTE_GENERATION)?;
        let generation = generation.get(0).with_context(|| cannot_read(maps::ROUTE_GENERATION))?;
        let (nodes_max, interfaces_max) = (self.nodes.entries_max(), self.interfaces.entries_max());
        let nodes = self.nodes()?.into_iter().map(|address| Ok((address, 1u32)));
        let interfaces = self.interfaces()?.into_iter().map(Ok);
        Ok(vec![
            filter(maps::FLOW_FILTER, &self.arrays.flow_filter),
            filter(maps::VIP_FILTER, &self.arrays.vip_filter),
            RawMap::hash(maps::NODES, nodes, nodes_max, nodes_max)?,
            RawMap::hash(maps::INTERFACES, interfaces, interfaces_max, interfaces_max)?,
            RawMap::array(maps::ROUTE_GENERATION, &[generation], 1),
            RawMap::array(maps::CONFIG, &[self.config()?], 1),
        ])
    }

    /// What was counted, up to the last id that anything was counted for.
    fn raw_counters(&self) -> Result<Vec<RawMap>> {
        let limits = self.limits();
        let services = used(self.backend_services_traffic(limits.backend_services_max)?);
        let endpoints = used(self.endpoints_traffic(limits.endpoints_max)?);
        let reasons: Vec<u64> = self.all_reasons()?.into_iter().map(|(_, packets)| packets).collect();
        Ok(vec![
            RawMap::array(maps::BACKEND_SERVICE_TRAFFIC, &services, limits.backend_services_max),
            RawMap::array(maps::ENDPOINT_TRAFFIC, &endpoints, limits.endpoints_max),
            RawMap::array(maps::REASONS, &reasons, reasons.len() as u32),
        ])
    }
}

fn filter(name: &'static str, mapped: &Mapped) -> RawMap {
    let words: Vec<u64> = (0..mapped.count())
        .map(|index| mapped.word64(index).map_or(0, |word| word.load(Ordering::Acquire)))
        .collect();
    RawMap::array(name, &words, mapped.count())
}

fn used(mut traffic: Vec<Traffic>) -> Vec<Traffic> {
    let end = traffic.iter().rposition(|value| *value != Traffic::default()).map_or(0, |last| last + 1);
    traffic.truncate(end);
    traffic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_hash_come_back_and_what_is_beyond_the_bound_is_cut() {
        let entries = [(1u32, 2u64), (3, 4), (5, 6)];
        let raw = RawMap::hash("m", entries.into_iter().map(Ok), 9, 2).unwrap();
        assert_eq!((raw.entries, raw.is_cut, raw.key_bytes, raw.value_bytes), (2, true, 4, 8));
        assert_eq!(pairs::<u32, u64>(&raw.bytes), Some(vec![(1, 2), (3, 4)]));
        assert_eq!(pairs::<u32, u64>(&raw.bytes[1..]), None);
    }

    #[test]
    fn values_of_an_array_come_back() {
        let raw = RawMap::array("m", &[7u32, 0, 9], 100);
        assert_eq!((raw.entries, raw.is_cut, raw.key_bytes), (3, false, 0));
        assert_eq!(values::<u32>(&raw.bytes), Some(vec![7, 0, 9]));
        assert_eq!(values::<u32>(&raw.bytes[..5]), None);
    }
}
