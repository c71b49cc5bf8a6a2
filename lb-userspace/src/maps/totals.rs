//! Sums over whole maps, in few calls: what a scrape reads.
use std::sync::Arc;

use anyhow::{Context as _, Result};
use lb_common::backend_service::flags;
use lb_common::counters::{Reason, Traffic};
use lb_common::endpoint::Endpoint;
use lb_common::maps;

use super::Maps;
use super::read::{cannot_read, sum};
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
        let nodes = self.nodes.used().with_context(|| cannot_read(maps::NODES))?;
        let interfaces = self.interfaces.used().with_context(|| cannot_read(maps::INTERFACES))?;
        let of = |entries: u32, entries_max: u32| Occupancy {
            entries: entries.into(),
            entries_max: entries_max.into(),
        };
        Ok([
            (maps::NODES, of(nodes, self.nodes.entries_max())),
            (maps::INTERFACES, of(interfaces, self.interfaces.entries_max())),
        ])
    }
}
