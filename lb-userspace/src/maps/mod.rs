//! The maps in the kernel: the one place that writes them. Values are `lb-common` types; what they
//! mean is decided elsewhere.
use std::sync::Arc;

use anyhow::Result;
use lb_common::Address;
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::backend_service::{BackendService, BackendServiceName};
use lb_common::config::Config;
use lb_common::counters::Traffic;
use lb_common::fragment::{FragmentKey, FragmentPorts};
use lb_common::frontend::{Frontend, FrontendKey};
use lb_common::interface::Interface;
use lb_common::maps;
use lb_common::neg::Ring;
use lb_common::socket_flow::{SocketFlow, SocketFlowKey};

use crate::diff::Limits;

mod conntrack;
mod entries;
mod events;
mod flow_filter;
mod flow_pins;
mod former;
mod held_frames;
mod layout;
mod load;
mod mapped;
mod pins;
mod range_table;
mod raw;
mod read;
mod recovery;
mod repair;
mod route_generation;
mod stored_state;
mod syscall;
mod table;
mod totals;
mod vip_filter;
mod write;

pub use conntrack::new_flow_table;
pub use entries::{Entries, Place, Traces};
pub use events::Events;
pub use held_frames::HeldFrames;
pub use layout::Sizes;
pub use load::{Object, load, missing_capabilities};
pub use pins::{PIN_PATH_DEFAULT, Pins};
pub use raw::{RawMap, pairs, values};
pub use repair::{Fault, Repair, remove as remove_pin, repair};
pub use route_generation::RouteGeneration;
pub use stored_state::StoredState;
pub(crate) use syscall::programs_on_cgroup;
pub use totals::Occupancy;
pub use write::EndpointStates;

use conntrack::Conntrack;
use flow_filter::FlowFilter;
use mapped::{Access, Mapped};
use range_table::RangeTable;
use table::{ArrayTable, HashTable, PerCpuTable};
use vip_filter::VipFilter;

/// The maps in memory.
#[derive(Clone)]
struct Arrays {
    negs: Arc<Mapped>,
    ring_slots: Arc<Mapped>,
    endpoints: Arc<Mapped>,
    vip_filter: Arc<Mapped>,
    flow_filter: Arc<Mapped>,
}

/// The open maps of one node.
pub struct Maps {
    access: Access,
    frontends: HashTable<FrontendKey, Frontend>,
    backend_services: ArrayTable<BackendService>,
    names: ArrayTable<BackendServiceName>,
    arrays: Arrays,
    conntrack: Conntrack,
    flow_filter: FlowFilter,
    affinity: HashTable<AffinityKey, Affinity>,
    socket_flows: HashTable<SocketFlowKey, SocketFlow>,
    fragments: HashTable<FragmentKey, FragmentPorts>,
    vip_filter: VipFilter,
    source_ranges: RangeTable,
    nodes: HashTable<Address, u32>,
    interfaces: HashTable<u32, Interface>,
    config: ArrayTable<Config>,
    backend_service_traffic: PerCpuTable<Traffic>,
    endpoint_traffic: PerCpuTable<Traffic>,
    reasons: PerCpuTable<u64>,
}

impl Maps {
    /// Opens the pinned maps for reading; needs no eBPF object and no agent.
    ///
    /// # Errors
    /// No such pins, or no permission.
    pub fn open(pins: &Pins) -> Result<Self> {
        Self::open_as(pins, Access::Read)
    }

    /// Opens the pinned maps for reading and writing.
    pub(super) fn open_for_writing(pins: &Pins) -> Result<Self> {
        Self::open_as(pins, Access::ReadWrite)
    }

    fn open_as(pins: &Pins, access: Access) -> Result<Self> {
        let mapped = |name, value_bytes| read::mapped(&pins.maps(), name, value_bytes, access).map(Arc::new);
        Self::with_arrays(
            pins,
            access,
            Arrays {
                negs: mapped(maps::NEGS, size_of::<Ring>())?,
                ring_slots: mapped(maps::RING_SLOTS, size_of::<u32>())?,
                endpoints: mapped(maps::ENDPOINTS, size_of::<lb_common::endpoint::Endpoint>())?,
                vip_filter: mapped(maps::VIP_FILTER, size_of::<u64>())?,
                flow_filter: mapped(maps::FLOW_FILTER, size_of::<u64>())?,
            },
        )
    }

    /// The same maps for another thread, for reading. The large ones are mapped once: the kernel counts all
    /// of a mapping as resident from the start.
    ///
    /// # Errors
    /// As [`Maps::open`].
    pub fn reader(&self, pins: &Pins) -> Result<Self> {
        Self::with_arrays(pins, Access::Read, self.arrays.clone())
    }

    fn with_arrays(pins: &Pins, access: Access, arrays: Arrays) -> Result<Self> {
        let dir = pins.maps();
        let frontends = HashTable::open(&dir, maps::FRONTENDS)?;
        Ok(Self {
            access,
            vip_filter: VipFilter::new(Arc::clone(&arrays.vip_filter), &frontends, access)?,
            flow_filter: FlowFilter::new(Arc::clone(&arrays.flow_filter), access),
            arrays,
            frontends,
            backend_services: ArrayTable::open(&dir, maps::BACKEND_SERVICES)?,
            names: ArrayTable::open(&dir, maps::BACKEND_SERVICE_NAMES)?,
            conntrack: Conntrack::open(&dir)?,
            affinity: HashTable::open(&dir, maps::AFFINITY)?,
            socket_flows: HashTable::open(&dir, maps::SOCKET_FLOWS)?,
            fragments: HashTable::open(&dir, maps::FRAGMENTS)?,
            source_ranges: RangeTable::open(&dir)?,
            nodes: HashTable::open(&dir, maps::NODES)?,
            interfaces: HashTable::open(&dir, maps::INTERFACES)?,
            config: ArrayTable::open(&dir, maps::CONFIG)?,
            backend_service_traffic: PerCpuTable::open(&dir, maps::BACKEND_SERVICE_TRAFFIC)?,
            endpoint_traffic: PerCpuTable::open(&dir, maps::ENDPOINT_TRAFFIC)?,
            reasons: PerCpuTable::open(&dir, maps::REASONS)?,
        })
    }

    fn is_writable(&self) -> bool {
        self.access == Access::ReadWrite
    }

    /// The sizes of the maps that a diff must keep within.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            frontends_max: self.frontends.entries_max(),
            backend_services_max: self.backend_services.count(),
            endpoints_max: self.arrays.endpoints.count(),
            ring_slots_max: self.arrays.ring_slots.count(),
            source_ranges_max: self.source_ranges.entries_max(),
        }
    }
}
