//! Type and size of every map of the layout: what a pinned map is held against.
use aya::maps::MapType;
use lb_common::Address;
use lb_common::affinity::{Affinity, AffinityKey};
use lb_common::backend_service::{BackendService, BackendServiceName};
use lb_common::config::Config;
use lb_common::conntrack;
use lb_common::counters::{Reason, Traffic};
use lb_common::endpoint::Endpoint;
use lb_common::event::Monitor;
use lb_common::flow_filter::FLOW_FILTER_WORDS;
use lb_common::fragment::{FragmentKey, FragmentPorts};
use lb_common::frontend::{Frontend, FrontendKey};
use lb_common::interface::Interface;
use lb_common::maps;
use lb_common::neg::{NEGS_PER_BACKEND_SERVICE, Ring};
use lb_common::socket_flow::{SocketFlow, SocketFlowKey};
use lb_common::source_range::SourceRangeKey;
use lb_common::vip_filter::VIP_FILTER_WORDS;

use crate::diff::Limits;

/// The sizes that the operator may choose (`--frontends-max` and so on). What happens at each bound is
/// said at the bound's default in `lb_common::maps`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frontends, backend services, endpoints, ring slots and source ranges.
    pub limits: Limits,
    /// Entries of CONNTRACK, two per flow.
    pub conntrack_max: u32,
    /// Entries of AFFINITY.
    pub affinity_max: u32,
    /// Entries of SOCKET_FLOWS.
    pub socket_flows_max: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            conntrack_max: maps::CONNTRACK_MAX,
            affinity_max: maps::AFFINITY_MAX,
            socket_flows_max: maps::SOCKET_FLOWS_MAX,
        }
    }
}

/// A map as it shall be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) kind: MapType,
    pub(super) key_bytes: u32,
    pub(super) value_bytes: u32,
    pub(super) entries_max: u32,
    /// The flag that sets the size, where one does.
    pub(super) flag: Option<&'static str>,
}

const fn shape<K, V>(name: &'static str, kind: MapType, entries_max: u32, flag: &'static str) -> Shape {
    let flag = if flag.is_empty() { None } else { Some(flag) };
    Shape {
        name,
        kind,
        key_bytes: size_of::<K>() as u32,
        value_bytes: size_of::<V>() as u32,
        entries_max,
        flag,
    }
}

/// Every map, in the order of `lb_common::maps::ALL`.
pub(super) fn shapes(sizes: &Sizes) -> [Shape; maps::ALL.len()] {
    use MapType::{Array, ArrayOfMaps, Hash, LpmTrie, LruHash, PerCpuArray, RingBuf};
    let Limits { frontends_max, backend_services_max, endpoints_max, ring_slots_max, source_ranges_max } =
        sizes.limits;
    let negs_max = backend_services_max.saturating_mul(NEGS_PER_BACKEND_SERVICE);
    let of_services = "--backend-services-max";
    let of_endpoints = "--endpoints-max";
    [
        shape::<FrontendKey, Frontend>(maps::FRONTENDS, Hash, frontends_max, "--frontends-max"),
        shape::<u32, BackendService>(maps::BACKEND_SERVICES, Array, backend_services_max, of_services),
        shape::<u32, BackendServiceName>(
            maps::BACKEND_SERVICE_NAMES,
            Array,
            backend_services_max,
            of_services,
        ),
        shape::<u32, Ring>(maps::NEGS, Array, negs_max, of_services),
        shape::<u32, u32>(maps::RING_SLOTS, Array, ring_slots_max, "--ring-slots-max"),
        shape::<u32, Endpoint>(maps::ENDPOINTS, Array, endpoints_max, of_endpoints),
        shape::<u32, u32>(maps::CONNTRACK, ArrayOfMaps, conntrack::SLOTS, ""),
        shape::<u32, u64>(maps::FLOW_FILTER, Array, FLOW_FILTER_WORDS, ""),
        shape::<AffinityKey, Affinity>(maps::AFFINITY, LruHash, sizes.affinity_max, "--affinity-max"),
        shape::<SocketFlowKey, SocketFlow>(
            maps::SOCKET_FLOWS,
            LruHash,
            sizes.socket_flows_max,
            "--socket-flows-max",
        ),
        shape::<SourceRangeKey, u32>(maps::SOURCE_RANGES, LpmTrie, source_ranges_max, "--source-ranges-max"),
        shape::<FragmentKey, FragmentPorts>(maps::FRAGMENTS, LruHash, maps::FRAGMENTS_MAX, ""),
        shape::<(), ()>(maps::HELD_FRAMES, RingBuf, maps::HELD_FRAMES_BYTES, ""),
        shape::<u32, u64>(maps::VIP_FILTER, Array, VIP_FILTER_WORDS, ""),
        shape::<Address, u32>(maps::NODES, Hash, maps::NODES_MAX, ""),
        shape::<u32, Interface>(maps::INTERFACES, Hash, maps::INTERFACES_MAX, ""),
        shape::<u32, u32>(maps::ROUTE_GENERATION, Array, 1, ""),
        shape::<u32, Config>(maps::CONFIG, Array, 1, ""),
        shape::<u32, Traffic>(maps::BACKEND_SERVICE_TRAFFIC, PerCpuArray, backend_services_max, of_services),
        shape::<u32, Traffic>(maps::ENDPOINT_TRAFFIC, PerCpuArray, endpoints_max, of_endpoints),
        shape::<u32, u64>(maps::REASONS, PerCpuArray, Reason::ALL.len() as u32, ""),
        shape::<u32, Monitor>(maps::MONITOR, Array, 1, ""),
        shape::<(), ()>(maps::EVENTS, RingBuf, maps::EVENTS_BYTES, ""),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_a_shape_under_its_own_name() {
        let names = shapes(&Sizes::default()).map(|shape| shape.name);
        assert_eq!(names, maps::ALL);
    }
}
