//! The names, default sizes and version of the maps.

/// Rises when the layout of any pinned map changes; a part of the pin path.
pub const LAYOUT_VERSION: u32 = 3;

/// {VIP, port, protocol} → [`crate::frontend::Frontend`]. Hash.
pub const FRONTENDS: &str = "FRONTENDS";
/// Backend-service id → [`crate::backend_service::BackendService`]. Array.
pub const BACKEND_SERVICES: &str = "BACKEND_SERVICES";
/// Backend-service id → [`crate::backend_service::BackendServiceName`]. Array, user space only.
pub const BACKEND_SERVICE_NAMES: &str = "SERVICE_NAMES";
/// NEG id → [`crate::neg::Ring`]. Array, memory-mapped.
pub const NEGS: &str = "NEGS";
/// Slot → endpoint id (`u32`). Array, memory-mapped.
pub const RING_SLOTS: &str = "RING_SLOTS";
/// Endpoint id → [`crate::endpoint::Endpoint`]. Array, memory-mapped.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// [`crate::conntrack::CURRENT`] or [`crate::conntrack::PREVIOUS`] → an LRU hash of
/// [`crate::conntrack::FlowKey`] → [`crate::conntrack::Flow`]. Array of maps.
pub const CONNTRACK: &str = "CONNTRACK";
/// Word → `u64`, see [`crate::flow_filter`]. Array, memory-mapped.
pub const FLOW_FILTER: &str = "FLOW_FILTER";
/// [`crate::affinity::AffinityKey`] → [`crate::affinity::Affinity`]. LRU hash.
pub const AFFINITY: &str = "AFFINITY";
/// [`crate::socket_flow::SocketFlowKey`] → [`crate::socket_flow::SocketFlow`]. LRU hash.
pub const SOCKET_FLOWS: &str = "SOCKET_FLOWS";
/// [`crate::source_range::SourceRangeKey`] → `u32` (1). LPM trie.
pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
/// [`crate::fragment::FragmentKey`] → [`crate::fragment::FragmentPorts`]. LRU hash.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Frames of fragments that came before their first one. Ring buffer.
pub const HELD_FRAMES: &str = "HELD_FRAMES";
/// Word → `u64`, see [`crate::vip_filter`]. Array, memory-mapped.
pub const VIP_FILTER: &str = "VIP_FILTER";
/// Address of a node of the cluster ([`crate::Address`]) → `u32` (1). Hash.
pub const NODES: &str = "NODES";
/// Interface index → [`crate::interface::Interface`]. Hash.
pub const INTERFACES: &str = "INTERFACES";
/// 0 → how often the node's routes, neighbours or interfaces have changed (`u32`, wraps). Array.
pub const ROUTE_GENERATION: &str = "ROUTE_GENERATION";
/// 0 → [`crate::config::Config`]. Array.
pub const CONFIG: &str = "CONFIG";
/// Backend-service id → [`crate::counters::Traffic`]. Per-CPU array.
pub const BACKEND_SERVICE_TRAFFIC: &str = "SERVICE_TRAFFIC";
/// Endpoint id → [`crate::counters::Traffic`]. Per-CPU array.
pub const ENDPOINT_TRAFFIC: &str = "ENDPOINT_TRAFFIC";
/// [`crate::counters::Reason`] → packets (`u64`). Per-CPU array.
pub const REASONS: &str = "REASONS";
/// 0 → [`crate::event::Monitor`]. Array.
pub const MONITOR: &str = "MONITOR";
/// [`crate::event::Event`]s. Ring buffer.
pub const EVENTS: &str = "EVENTS";

/// All maps, in the order of the design's table.
pub const ALL: [&str; 23] = [
    FRONTENDS,
    BACKEND_SERVICES,
    BACKEND_SERVICE_NAMES,
    NEGS,
    RING_SLOTS,
    ENDPOINTS,
    CONNTRACK,
    FLOW_FILTER,
    AFFINITY,
    SOCKET_FLOWS,
    SOURCE_RANGES,
    FRAGMENTS,
    HELD_FRAMES,
    VIP_FILTER,
    NODES,
    INTERFACES,
    ROUTE_GENERATION,
    CONFIG,
    BACKEND_SERVICE_TRAFFIC,
    ENDPOINT_TRAFFIC,
    REASONS,
    MONITOR,
    EVENTS,
];

/// Default bound on frontends. At the bound further frontends stay pending and are reported.
pub const FRONTENDS_MAX: u32 = 65_536;
/// Default bound on backend services. At the bound further ones stay pending and are reported.
pub const BACKEND_SERVICES_MAX: u32 = 16_384;
/// Default bound on endpoints. At the bound further ones stay out of their rings and are reported.
pub const ENDPOINTS_MAX: u32 = 131_072;
/// Default size of the ring arena in slots (4 bytes each). At the bound a NEG keeps its old ring.
pub const RING_SLOTS_MAX: u32 = 4_194_304;
/// Default bound on conntrack entries, two per flow. At the bound the least recently used go.
pub const CONNTRACK_MAX: u32 = 524_288;
/// Default size up to which CONNTRACK grows by itself.
pub const CONNTRACK_LIMIT: u32 = 2 * CONNTRACK_MAX;
/// Default bound on client affinities. At the bound the least recently used go.
pub const AFFINITY_MAX: u32 = 65_536;
/// Default bound on sockets with a translated peer. At the bound the least recently used go.
pub const SOCKET_FLOWS_MAX: u32 = 131_072;
/// Default bound on source ranges, of all backend services. At the bound further ranges are not written,
/// so their clients are refused, and that is reported.
pub const SOURCE_RANGES_MAX: u32 = 65_536;
/// Bound on datagrams whose fragments are on their way. At the bound the least recently used go.
pub const FRAGMENTS_MAX: u32 = 16_384;
/// Size of the ring of held frames, bytes. At the bound a frame is dropped and counted.
pub const HELD_FRAMES_BYTES: u32 = 1 << 20;
/// Size of the ring of events, bytes. At the bound further ones are only numbered.
pub const EVENTS_BYTES: u32 = 1 << 20;
/// Bound on node addresses. At the bound packets from further nodes stay encapsulated, and that is reported.
pub const NODES_MAX: u32 = 32_768;
/// Bound on interfaces.
pub const INTERFACES_MAX: u32 = 4_096;

#[cfg(test)]
mod tests {
    #[test]
    fn names_fit_the_kernels_bound_and_differ() {
        // BPF_OBJ_NAME_LEN is 16 with the terminating zero; longer names would be cut and collide.
        for (index, name) in super::ALL.iter().enumerate() {
            assert!(!super::ALL[..index].contains(name));
            assert!(name.len() <= 16, "{name}");
        }
    }
}
