//! Sums over whole maps, in few calls: what a scrape reads.
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytemuck::Pod;
use lb_common::backend_service::flags;
use lb_common::counters::{Reason, Traffic};
use lb_common::endpoint::Endpoint;
use lb_common::maps;

use super::Maps;
use super::read::{cannot_read, sum};
use super::table::HashTable;
use crate::diff::StoredName;
use crate::plan::BackendServiceName;

/// How much of a map is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Entries in use.
    pub entries: u64,
    /// The bound.
    pub entries_max: u64,
}

impl Occupancy {
    /// Entries in percent of the bound.
    #[must_use]
    pub const fn percent(&self) -> u64 {
        let bound = if self.entries_max == 0 { 1 } else { self.entries_max };
        self.entries * 100 / bound
    }

    fn of<K: Pod, V: Pod>(table: &HashTable<K, V>, name: &'static str) -> Result<(&'static str, Self)> {
        let entries = table.used().with_context(|| cannot_read(name))?.into();
        Ok((name, Self { entries, entries_max: table.entries_max().into() }))
    }
}

impl Maps {
    /// The names of the backend services in use, by id; `None` at ids that are not, or whose name is not readable.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn backend_service_names(&self) -> Result<Vec<Option<Arc<BackendServiceName>>>> {
        let services = self.backend_services.first(self.backend_services.count());
        let services = services.with_context(|| cannot_read(maps::BACKEND_SERVICES))?;
        let is_used = |flags: u32| flags & flags::PRESENT != 0;
        let count = services.iter().rposition(|service| is_used(service.flags)).map_or(0, |last| last + 1);
        let names = self.names.first(count as u32);
        let names = names.with_context(|| cannot_read(maps::BACKEND_SERVICE_NAMES))?;
        let name = |(bytes, service): (_, &lb_common::backend_service::BackendService)| {
            StoredName::of_bytes(bytes).filter(|_| is_used(service.flags)).map(|stored| stored.name)
        };
        Ok(names.iter().zip(&services).map(name).collect())
    }

    /// What went to the backend services below an id, all CPUs together.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn backend_services_traffic(&self, count: u32) -> Result<Vec<Traffic>> {
        let found = self.backend_service_traffic.first(count, sum);
        found.with_context(|| cannot_read(maps::BACKEND_SERVICE_TRAFFIC))
    }

    /// What went to the endpoints below an id, all CPUs together.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn endpoints_traffic(&self, count: u32) -> Result<Vec<Traffic>> {
        let found = self.endpoint_traffic.first(count, sum);
        found.with_context(|| cannot_read(maps::ENDPOINT_TRAFFIC))
    }

    /// How many packets had each reason, all CPUs together.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn all_reasons(&self) -> Result<Vec<(Reason, u64)>> {
        let counts = self.reasons.first(Reason::ALL.len() as u32, |values| values.iter().sum());
        let counts = counts.with_context(|| cannot_read(maps::REASONS))?;
        Ok(Reason::ALL.into_iter().zip(counts).collect())
    }

    /// The endpoint ids that are in use, with what stands there.
    pub fn endpoints_in_use(&self) -> impl Iterator<Item = (u32, Endpoint)> + '_ {
        let all = (0..self.arrays.endpoints.count()).map(|id| (id, self.endpoint(id)));
        all.filter(|(_, endpoint)| endpoint.is_present())
    }

    /// How full the hash maps are that the agent fills and whose entries no plan counts.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn occupancy(&self) -> Result<[(&'static str, Occupancy); 2]> {
        Ok([Occupancy::of(&self.nodes, maps::NODES)?, Occupancy::of(&self.interfaces, maps::INTERFACES)?])
    }

    /// How full the maps are that programs fill, each counted by a walk; of flows the map that they are entered
    /// into. Entries that are over count until they are swept.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn trace_occupancy(&self) -> Result<[(&'static str, Occupancy); 4]> {
        Ok([
            Occupancy::of(self.conntrack.current_table(), maps::CONNTRACK)?,
            Occupancy::of(&self.affinity, maps::AFFINITY)?,
            Occupancy::of(&self.socket_flows, maps::SOCKET_FLOWS)?,
            Occupancy::of(&self.fragments, maps::FRAGMENTS)?,
        ])
    }

    /// How full the maps are that have a bound worth watching, each counted by a walk.
    ///
    /// # Errors
    /// The kernel refuses a read.
    pub fn all_occupancy(&self) -> Result<Vec<(&'static str, Occupancy)>> {
        let of = |entries: usize, entries_max: u32| Occupancy {
            entries: entries as u64,
            entries_max: entries_max.into(),
        };
        let services = self.backend_service_names()?.iter().flatten().count();
        let ranges = self.source_ranges.keys().with_context(|| cannot_read(maps::SOURCE_RANGES))?.len();
        let mut all = vec![
            Occupancy::of(&self.frontends, maps::FRONTENDS)?,
            (maps::BACKEND_SERVICES, of(services, self.backend_services.count())),
            (maps::ENDPOINTS, of(self.endpoints_in_use().count(), self.arrays.endpoints.count())),
            (maps::SOURCE_RANGES, of(ranges, self.source_ranges.entries_max())),
        ];
        all.extend(self.trace_occupancy()?);
        all.extend(self.occupancy()?);
        Ok(all)
    }
}
